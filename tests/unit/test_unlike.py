"""What an artifact computes otherwise than planned, told from codes and logits made up here."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from qtools.core.types import GraphView, Op, OpKind, Value
from qtools.pipeline.audit.prove import GLANCE, WORTH, is_hopeless, is_proven
from qtools.pipeline.audit.unlike import unlike
from reports.fidelity import Fidelity

IMAGES, CLASSES, CODES = 40, 6, 1000


@pytest.fixture(scope="module")
def view() -> GraphView:
    """image -> conv -> gelu -> linear."""
    names = ("image", "conv", "gelu", "linear")
    kinds = (OpKind.CONV, OpKind.GELU, OpKind.LINEAR)
    ops = tuple(Op(b, kind, (a,), (b,), {}, f"block.{b}") for (a, b), kind in zip(pairwise(names), kinds, strict=True))
    return GraphView({name: Value(name, (1, 4), "float32") for name in names}, ops, ("image",), ("linear",))


def _row(order: int, value: str, differing: int, most: int) -> Fidelity:
    return Fidelity(value, order, value, f"block.{value}", (1, 4), 30.0, 30.0, CODES, differing, most)


def _outputs(artifact: float) -> dict[str, np.ndarray]:
    """Logits: the simulation near float, the artifact as far off as asked."""
    draw = np.random.default_rng(0)
    exact = draw.normal(0, 2, (IMAGES, CLASSES))
    near = exact + draw.normal(0, 0.02, exact.shape)
    off = near + draw.normal(0, artifact, exact.shape)
    return {name: array.astype(np.float32) for name, array in (("float", exact), ("simulated", near), ("xnnpack", off))}


def test_nothing_where_the_artifact_is_the_simulation(view: GraphView) -> None:
    rows = [_row(1, "conv", 0, 0), _row(2, "gelu", 0, 0)]
    assert unlike(view, rows, _outputs(0.0), "xnnpack") == ()


def test_the_first_operation_that_differs_from_equal_operands(view: GraphView) -> None:
    rows = [_row(3, "linear", 900, 80), _row(2, "gelu", 400, 60), _row(1, "conv", 0, 0)]
    (found,) = unlike(view, rows, _outputs(0.5), "xnnpack")
    assert (found.cause, found.values) == ("operation changed in the artifact", ("gelu",))
    assert found.after < 0.2 * found.before
    assert found.gain_interval[0] > 0


def test_a_code_here_and_there_is_rounding(view: GraphView) -> None:
    rows = [_row(1, "conv", 4, 1), _row(2, "gelu", 20, 1), _row(3, "linear", 300, 9)]
    (found,) = unlike(view, rows, _outputs(0.1), "xnnpack")
    assert found.cause == "kernel rounding"
    assert found.values == ("conv", "gelu", "linear")


def test_differences_that_move_no_logit_are_no_finding(view: GraphView) -> None:
    rows = [_row(1, "conv", 400, 9)]
    assert unlike(view, rows, _outputs(0.001), "xnnpack") == ()


@pytest.mark.parametrize(("gain", "noise"), [(WORTH, 0.05), (WORTH, 0.2), (1.5 * WORTH, 0.2), (0.0, 0.05)])
def test_what_is_given_up_early_would_hardly_be_proven(gain: float, noise: float) -> None:
    """Distances as skewed as those of images are; the share of proofs that a look at the first few takes away."""
    draw, audits = np.random.default_rng(0), 200
    given_up = proven = lost = 0
    for _ in range(audits):
        before = draw.lognormal(0, 0.7, 48)
        behind = before * (1 - gain - noise * draw.standard_normal(48))
        first, looks = float(before.mean()), range(GLANCE, 48, GLANCE)
        hopeless = any(is_hopeless(before[:n] - behind[:n], first) for n in looks)
        shown = is_proven(before, behind, first)
        given_up, proven, lost = given_up + hopeless, proven + shown, lost + (hopeless and shown)
    if gain:
        assert proven > 0.4 * audits and lost <= 0.1 * proven
        assert gain == WORTH or lost <= 0.01 * proven
    else:
        assert proven == 0 and given_up > 0.85 * audits
