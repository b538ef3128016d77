"""Candidates for precision islands, what they cost by cheap evidence, the gate, and the words of the report."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.apart import Apart
from calibration.choice import Offer
from calibration.float_ops import ISLAND
from calibration.islands import Candidate, candidates, explained, with_islands
from calibration.plan import Recipe, plan
from calibration.widths import Widths
from exporters._coreml.rules import SPEC as COREML
from exporters._onnx.rules import QNN
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core import numerics
from qtools.core.errors import InputError
from qtools.core.types import WEIGHTED, OpKind, QuantPlan, QuantScheme, TensorStats
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.pipeline import islands, prompted
from qtools.pipeline.config import RunConfig
from qtools.pipeline.gate import drop_check, overlap_check
from qtools.pipeline.islands import shortlist
from qtools.pipeline.parts import of_part
from qtools.pipeline.sensitivity import costs, roundings, weight_costs
from reports.accuracy import PairedAccuracy, mean_root_kl, paired_accuracy
from reports.scores import PairedScore

NONE = np.empty(0, np.float32)
SEEN = TensorStats(10, -4.0, 4.0, 0.0, NONE, NONE, NONE, np.ones(4, np.int64))


class Block(nn.Module):
    """A sum that a convolution and a later sum read, a gate, a reshape, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 1) for i in (3, 3, 8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x) + self.b(x)
        y = y + self.c(F.gelu(y))
        y = y * torch.sigmoid(self.d(y))
        return self.head(y.flatten(2).mean(2))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(1)
    return capture(Block().eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)


def recipe(**wishes: Any) -> Recipe:
    return Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi), **wishes)


def planned(program: Program, spec: Any, **wishes: Any) -> QuantPlan:
    view = program.view
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    return plan(view, spec, dict.fromkeys(view.activations, SEEN), weights, recipe(**wishes), {})


def of(program: Program, spec: Any, *, float_ends: bool = False) -> tuple[Candidate, ...]:
    return candidates(program.view, spec, planned(program, spec), float_ends=float_ends)


def names(program: Program, kind: OpKind) -> list[str]:
    return [op.id for op in program.view.ops if op.kind is kind]


def test_a_value_is_held_by_its_maker_and_its_readers(program: Program) -> None:
    first, second = names(program, OpKind.ADD)
    (gelu,) = names(program, OpKind.GELU)
    ways = {each.name: each for each in of(program, TFLITE) if each.value == first}
    assert ways[f"{first} in float"].floats == {first, second, gelu}
    assert ways[f"{first} in 16 bits"].wide == {first, second, gelu}
    sums = ways[f"{first} in float, for its sums and products only"]
    assert sums.floats == {first, second} and sums.readers == {second} and sums.sums_only
    assert sums.price < ways[f"{first} in float"].price < ways[f"{first} in 16 bits"].price


def test_ends_stay_unless_the_app_reads_floats(program: Program) -> None:
    view = program.view
    inside = of(program, TFLITE)
    (mean,) = names(program, OpKind.MEAN)
    assert not {each.value for each in inside} & {*view.inputs, *view.outputs, mean}
    assert mean in {each.value for each in of(program, TFLITE, float_ends=True)}


@pytest.mark.parametrize("spec", [TFLITE, ONNX, COREML], ids=lambda spec: spec.name)
def test_what_a_candidate_says_is_what_the_planner_makes(program: Program, spec: Any) -> None:
    """Its values leave the 8-bit grids for the readers it names, and no others leave them."""
    before = planned(program, spec)
    found = of(program, spec)
    assert found
    for each in found:
        wishes = with_islands(recipe(), [each])
        after = planned(program, spec, wide=wishes.wide, dynamic=wishes.dynamic, floats=wishes.floats)
        for name in each.made:
            for reader in each.readers & {op.id for op in program.view.ops}:
                grid = after.read(name, reader)
                in_float = reader in after.float_ops
                assert in_float or (grid is not None and grid.scheme.wide), (each.name, reader)
        floats = after.float_ops.keys() - before.float_ops.keys()
        assert floats >= (each.floats | each.dynamic) and bool(each.wide) != bool(floats)


def test_targets_of_whole_graphs_have_none(program: Program) -> None:
    assert of(program, QNN) == ()
    with pytest.raises(InputError, match="whole graphs") as refused:
        Apart(max_islands=1).check(QNN, Widths(8, 8), lambda: [QNN, TFLITE])
    assert "tflite" in refused.value.next_step
    with pytest.raises(InputError, match="16 bits already"):
        Apart(max_drop=1.0).check(TFLITE, Widths(8, 16), lambda: [TFLITE])
    with pytest.raises(InputError, match="do not go together"):
        Apart(max_drop=1.0, clamp=True).check(TFLITE, Widths(6, 6), lambda: [TFLITE])


@pytest.mark.parametrize("wishes", [{"max_islands": -1}, {"max_drop": -0.5}, {"max_drop": 100.0}])
def test_wishes_without_meaning_are_refused_at_once(wishes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--max-"):
        RunConfig("m1_1", **wishes)


def test_reasons_reach_values_and_operations(program: Program) -> None:
    chosen = next(each for each in of(program, TFLITE) if each.floats)
    made = explained(planned(program, TFLITE, floats=chosen.floats), [(chosen, "because")])
    text = f"{ISLAND}: {chosen.name}: because"
    assert all(made.float_ops[op] == text for op in chosen.floats)
    assert all(made.values[name].reason.endswith(text) for name in chosen.made)


def test_evidence_is_what_rounding_one_value_does(program: Program) -> None:
    """Against the float program run again with that value rounded for all its readers, nothing else."""
    view, made = program.view, planned(program, TFLITE)
    every = [each for each in of(program, TFLITE, float_ends=True) if each.held == "float" and len(each.made) == 1]
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 6, 6, generator=rng) for _ in range(48)]
    found = np.sqrt(costs(program, made, every, [image.numpy() for image in images]))
    exact = np.concatenate([execute.run(program, image).numpy() for image in images])
    for candidate, cost in zip(every, found, strict=True):
        (name,) = candidate.made
        params = made.params(name)

        def compute(node: Any, alive: Any, name: str = name, params: Any = params) -> Any:
            result = execute.evaluate(node, alive)
            return numerics.dequantize(numerics.quantize(result, params), params) if node.name == name else result

        rounded = []
        for image in images:
            walked = {node.name: value for node, value in execute.walk(program, image, compute)}
            rounded.append(walked[view.outputs[0]].numpy())
        assert cost == pytest.approx(mean_root_kl(exact, np.concatenate(rounded)), rel=0.25), candidate.name


def test_what_a_value_costs_is_shared_by_its_readers(program: Program) -> None:
    """Of one reader all of it; of several what they cost together, which can be less than each by itself."""
    view, made = program.view, planned(program, TFLITE)
    every = [each for each in of(program, TFLITE, float_ends=True) if each.held == "float" and len(each.made) == 1]
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 6, 6, generator=rng).numpy() for _ in range(16)]
    edges = roundings(program, made, images)
    assert {name for name, _ in edges} <= {name for name in view.activations if made.params(name)}
    counts = set()
    for candidate, cost in zip(every, costs(program, made, every, images), strict=True):
        (name,) = candidate.made
        own = {reader: each for (value, reader), each in edges.items() if value == name}
        assert own.keys() == candidate.readers
        assert sum(own.values()) == pytest.approx(cost, rel=1e-5 if len(own) == 1 else 0.1), candidate.name
        counts.add(len(own))
    assert counts >= {1, 2}


def test_evidence_on_weights_is_what_narrowing_each_alone_costs(program: Program) -> None:
    """Against the network with that weight narrowed, in full."""
    layers = [op for op in program.view.ops if op.kind in WEIGHTED]
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 6, 6, generator=rng) for _ in range(48)]
    exact = np.concatenate([execute.run(program, image).numpy() for image in images])
    errors = []
    for op in layers:
        weight = program.constants[op.inputs[1]]
        params = numerics.weight_params(weight.numpy(), QuantScheme.weight(6))
        errors.append((op.inputs[1], numerics.dequantize(numerics.quantize(weight, params), params) - weight))
    found = np.sqrt(weight_costs(program, errors, [image.numpy() for image in images]))
    for (name, error), cost in zip(errors, found, strict=True):
        narrowed = program.with_constants({name: program.constants[name] + error})
        other = np.concatenate([execute.run(narrowed, image).numpy() for image in images])
        assert cost == pytest.approx(mean_root_kl(exact, other), rel=0.25), name


def test_the_shortlist_takes_sums_alone_where_they_take_most() -> None:
    def way(value: str, price: float, *, sums: bool = False) -> Candidate:
        return Candidate(value, "float", (value,), frozenset(), sums, price=price)

    every = [way("a", 1, sums=True), way("a", 2), way("b", 1, sums=True), way("b", 2), way("b", 9), way("c", 1)]
    found = shortlist(every, [5.0, 6.0, 1.0, 9.0, 9.0, 0.1], floor=0.5)
    assert found == ((every[2], 1.0), (every[3], 9.0), (every[0], 5.0)), "the best value first, each in cheapest ways"


def _scores(lost: int, n: int, *, labelled: bool = True) -> PairedAccuracy:
    """Images of two classes, of which `lost` turn wrong."""
    exact = np.tile([1.0, 0.0], (n, 1))
    other = exact.copy()
    other[:lost] = [0.0, 1.0]
    return paired_accuracy(np.zeros(n, np.int64) if labelled else None, exact, other)


@pytest.mark.parametrize(
    ("lost", "n", "limit", "status", "words"),
    [
        (0, 2000, 0.5, "passed", "within the limit for all such images at 97.5 % confidence"),
        (1, 400, 0.5, "passed", "holds on these images; for all such images neither is shown"),
        (4, 400, 0.5, "failed", "fails on these images; for all such images neither is shown"),
        (40, 400, 0.5, "failed", "above the limit for all such images at 97.5 % confidence"),
    ],
)
def test_the_gate_says_what_is_known_and_how_surely(lost: int, n: int, limit: float, status: str, words: str) -> None:
    (check,) = drop_check(Apart(max_drop=limit), _scores(lost, n), None, TFLITE)
    assert check.status == status and words in check.note
    assert check.value == pytest.approx(100 * lost / n) and check.limit == limit
    assert ("next: give --act-bits 16" in check.note) == (status == "failed")


def test_without_labels_the_gate_is_about_agreement() -> None:
    (check,) = drop_check(Apart(max_drop=1.0), _scores(3, 200, labelled=False), None, ONNX)
    assert check.status == "failed" and check.value == pytest.approx(1.5)
    assert "no labels" in check.note and "--act-bits" not in check.note
    assert drop_check(Apart(max_islands=2), _scores(3, 200), None, ONNX) == ()


class Unlucky(islands._Search):
    """A search in which no try can be told from chance, over eight values of equal promise."""

    def __init__(self) -> None:
        self._apart, self._asked, self._kept, self.tried = Apart(max_drop=1.0), 1.0, [], list[int]()

    def _offers(self) -> islands.Choice:
        some = [Candidate(f"v{at}", "float", (f"v{at}",), frozenset()) for at in range(8)]
        return [(Offer(each.value, 1.0, 0.1), each) for each in some]

    def _need(self) -> float:
        return self._asked * 0.9

    def is_met(self) -> bool:
        return False

    def _as_meant(self, candidate: Candidate) -> bool:
        return True

    def _try(self, more: islands.Choice) -> bool:
        self.tried.append(len(more))
        return False


def test_a_choice_that_chance_hides_is_followed_by_a_larger_one() -> None:
    search = Unlucky()
    search.run()
    assert search.tried == [1, 2, 4, 8]


def test_masks_are_held_to_floats_whatever_was_asked_for() -> None:
    score = PairedScore("mask IoU", "mask area", 40, 96.5, (95.0, 98.0), 0.01, "", 70.0, 71.0, -1.0, (-2.0, 0.5))
    (check,) = overlap_check(Apart(max_drop=3.0), score, None, ONNX)
    assert check.status == "failed" and check.value == pytest.approx(3.5), "the score itself even rose by a point"
    assert "[2.00, 5.00]" in check.note and "does not overlap with float's" in check.note
    assert overlap_check(Apart(max_drop=4.0), score, None, ONNX)[0].status == "passed"
    assert overlap_check(Apart(), score, None, ONNX) == ()


def test_no_island_is_a_number_of_islands() -> None:
    assert not Apart(max_islands=0).raises and Apart(max_islands=0, max_drop=1.0).raises


def test_an_encoder_is_raised_by_default_where_nobody_said_how_it_is_made() -> None:
    def limit(**said: Any) -> float | None:
        return prompted._of_encoder(RunConfig("efficientvit_sam_b0", **said)).max_drop

    assert limit() == limit(method="fast") == limit(bits=8, act_bits=8) == prompted.OF_ENCODER * prompted.LOST
    assert limit(max_drop=5.0) == limit(max_drop=5.0, bits=6) == prompted.OF_ENCODER * 5
    for plain in ({"bits": 6}, {"act_bits": 16}, {"method": "minmax"}, {"max_islands": 3}, {"max_islands": 0}):
        assert limit(**plain) is None, plain
    assert of_part(RunConfig("efficientvit_sam_b0", max_drop=5.0), "decoder").max_drop is None


def test_every_kind_of_island_has_a_source_and_a_price() -> None:
    for spec in (TFLITE, ONNX, COREML):
        for island in spec.islands:
            assert island.source and island.mac >= 1 and island.element >= 0
            assert island.kind != "wide" or spec.wide is not None
            assert island.kind != "dynamic" or spec.dynamic
    assert {dataclasses.replace(island, source="").kind for island in TFLITE.islands} == {"float", "dynamic", "wide"}
