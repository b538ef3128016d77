"""How much time may be given for nearness to float where nobody says, and that it is given only for its worth."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration.apart import Apart
from calibration.time_given import WORTH, Given, time_given
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.target import LayerTime
from qtools.core.types import OpKind
from qtools.graph.capture import capture
from tests.unit.block import PROGRAM, SIZE, SPEC, TIMES, costs, sides, whole


class Attending(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)


class Softmaxed(nn.Module):
    """Probabilities for an answer are no attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.mean((2, 3)), 1)


@pytest.mark.parametrize(
    ("module", "said", "given"),
    [
        (Attending(), None, TIMES.given / 100),
        (Attending(), 0.0, 0.0),
        (Attending(), 12.0, 0.12),
        (Softmaxed(), None, 0.0),
        (Softmaxed(), 12.0, 0.12),
    ],
)
def test_networks_with_attention_give_time_where_nobody_says(
    module: nn.Module, said: float | None, given: float
) -> None:
    made = capture(module.eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)
    assert time_given(made.view, SPEC, Apart(max_slower=said)) == Given(
        given, WORTH if said is None and not given else 0.0
    )


def test_any_other_network_gives_back_a_share_of_what_codes_save() -> None:
    """Both times by hand: layers, the depthwise one, GELU, the sum, the ReLU, and a mean that is in float on both."""
    returning = dataclasses.replace(SPEC, between=dataclasses.replace(TIMES, returned=20.0))
    layers = sum((3.0 * i * 8 + 4 * 8) * 36 for i in (3, 8, 8, 8)) + 3.0 * 8 * 5 + 4 * 5
    in_float = layers + SIZE * (50 + 18 + 9 * 12 + 5) + 30 * 8
    most = pytest.approx(0.2 * (in_float / whole(PROGRAM) - 1))
    assert in_float > whole(PROGRAM)
    assert dataclasses.astuple(time_given(PROGRAM.view, returning, Apart())) == (most, WORTH)
    assert time_given(PROGRAM.view, returning, Apart(max_slower=12.0)) == Given(0.12)
    slow = dataclasses.replace(TIMES, returned=20.0, plain=LayerTime(0.0, 0.0))
    assert time_given(PROGRAM.view, dataclasses.replace(SPEC, between=slow), Apart()).most == 0


def test_a_network_that_takes_no_time_gives_none() -> None:
    made = capture(nn.Flatten().eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)
    returning = dataclasses.replace(SPEC, between=dataclasses.replace(TIMES, returned=20.0))
    assert time_given(made.view, returning, Apart()).most == 0


@given(st.integers(0, 999), st.floats(0, 1), st.floats(0.01, 3))
def test_time_that_nobody_said_is_given_only_for_its_worth(seed: int, most: float, worth: float) -> None:
    """Every choice at a price spares that much for each share of its time, beyond what is fastest.

    Functions apart: one that is a table between codes has a third way, which choices count only afterwards.
    """
    plain = {kind: times for kind, times in TIMES.times.items() if kind is not OpKind.GELU}
    of = sides(PROGRAM, layers=True, spec=dataclasses.replace(SPEC, between=dataclasses.replace(TIMES, times=plain)))
    each = costs(PROGRAM, seed)
    found, free = of.nearest(each, Given(most, worth)), of.nearest(each, Given(0.0))
    assert of.time(found) <= max(most, of.time(of.fastest()))
    assert of.rounded(found, each) <= of.rounded(free, each) + 1e-6 * sum(each.values())
    if of.time(found) > 0:
        fastest = of.fastest()
        spared = (of.rounded(fastest, each) - of.rounded(found, each)) / sum(each.values())
        assert spared >= (worth - 1e-6) * (of.time(found) - of.time(fastest))


def test_time_that_is_not_worth_it_is_kept() -> None:
    of, each = sides(PROGRAM, layers=True), costs(PROGRAM, 0)
    asked, unasked = (of.nearest(each, Given(1.0, worth)) for worth in (0.0, 1e3))
    assert of.time(asked) > 0 and of.time(unasked) <= 0
