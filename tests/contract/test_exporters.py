"""Every target, held against what the pipeline expects of it."""

from __future__ import annotations

import importlib
import re

import pytest

from qtools.core import plugins
from qtools.core.protocols import Target
from qtools.core.types import WEIGHTED, OpKind, QuantScheme
from qtools.graph.rewrite import expansions
from qtools.simulate.run import MOVES

NAMES = plugins.names("exporters")


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest) -> Target:
    found = plugins.find("exporters", request.param, "TARGET")
    assert isinstance(found, Target)
    return found


def test_there_is_a_target() -> None:
    assert "tflite" in NAMES


def test_it_has_its_parts(target: Target) -> None:
    assert all(callable(part) for part in (target.lower, target.apply, target.open))
    assert target.kernels and len(set(target.kernels)) == len(target.kernels)
    assert re.fullmatch(r"\.[a-z]+", target.spec.suffix)
    assert re.fullmatch(r"[a-z_]+", target.spec.name) and target.spec.version


def test_its_name_is_its_file(target: Target) -> None:
    assert target.spec.name in NAMES


def test_every_rule_says_where_it_is_from(target: Target) -> None:
    for kind, rule in target.spec.rules.items():
        assert isinstance(kind, OpKind)
        assert re.match(r"https://[^/ ]+/\S+$", rule.source), kind


def test_the_simulator_knows_every_kernel(target: Target) -> None:
    module = importlib.import_module(f"qtools.simulate.{target.simulator}")
    if not hasattr(module, "SIMULATOR"):  # an executor of its own runs the program's operations as they are
        rules = target.spec.rules
        needed = {kind for kind, rule in rules.items() if kind not in MOVES and not getattr(rule, "fused_only", False)}
        assert needed <= set(module.KERNELS)
    for kind in MOVES:
        if kind in target.spec.rules:
            assert target.spec.rules[kind].tied, f"{kind} moves codes"


def test_rules_make_sense(target: Target) -> None:
    for kind, rule in target.spec.rules.items():
        assert (rule.weight_axis is None) or kind in WEIGHTED
        if rule.fixed_output is not None:
            scale, zero_point = rule.fixed_output
            scheme = target.spec.activation
            assert scale > 0 and scheme.qmin <= zero_point <= scheme.qmax
            assert not rule.tied


def test_fused_pairs_and_expansions_are_known(target: Target) -> None:
    spec = target.spec
    for producer, activation in spec.fused:
        assert producer in spec.rules and activation in spec.rules
        assert (activation, producer) not in spec.fused
    for kind in spec.expand:
        assert expansions(frozenset({kind})) != expansions(frozenset()), kind


def test_activations_are_eight_bits_per_tensor(target: Target) -> None:
    scheme = target.spec.activation
    assert isinstance(scheme, QuantScheme)
    assert scheme.bits == 8 and scheme.axis is None
