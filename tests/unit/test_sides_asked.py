"""Who is asked whether operations may be in float, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from calibration.apart import Apart
from calibration.budget import SizeBudget
from calibration.method import method
from calibration.sides import wanted
from calibration.widths import Widths
from exporters._coreml.rules import SPEC as COREML
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.errors import InputError
from qtools.pipeline.config import RunConfig
from qtools.pipeline.parts import of_part


@pytest.mark.parametrize(
    ("wishes", "free"),
    [
        ({}, True),
        ({"max_slower": 20.0}, True),
        ({"max_islands": 2}, True),
        ({"max_islands": 0}, False),
        ({"clamp": True}, False),
        ({"strict_activations": True}, False),
        ({"int16": ("add",)}, False),
        ({"dynamic": ("conv*",)}, False),
        ({"size_budget": SizeBudget(share=0.3)}, False),
    ],
)
def test_who_says_what_each_value_is_has_it_so(wishes: dict[str, Any], free: bool) -> None:
    assert Apart(**wishes).free is free


@pytest.mark.parametrize("percent", [-1.0, 100.5, float("nan")])
def test_time_is_a_share(percent: float) -> None:
    with pytest.raises(InputError, match="--max-slower"):
        RunConfig("m1_1", max_slower=percent)


@pytest.mark.parametrize(
    "wishes", [{"max_islands": 0}, {"clamp": True, "bits": 6}, {"int16": ("add",)}, {"method": "minmax"}]
)
def test_an_option_that_would_do_nothing_is_refused(wishes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--max-slower"):
        RunConfig("m1_1", max_slower=10.0, **wishes)


def test_a_target_without_times_names_those_that_have_them() -> None:
    Apart(max_slower=10.0).check(TFLITE, Widths(8, 8), lambda: [TFLITE, COREML])
    with pytest.raises(InputError, match="coreml") as refused:
        Apart(max_slower=10.0).check(COREML, Widths(8, 8), lambda: [TFLITE, COREML])
    assert refused.value.next_step == "--max-slower is for: tflite"


@pytest.mark.parametrize(("scheme", "free"), [(Widths(8, 8), True), (Widths(6, 6), True), (Widths(8, 16), False)])
def test_grids_of_16_bits_keep_their_kernels(scheme: Widths, free: bool) -> None:
    assert wanted((method("auto"), scheme, Apart()), TFLITE) is free
    assert not wanted((method("minmax"), scheme, Apart()), TFLITE)


@pytest.mark.parametrize(("asked", "left"), [(None, None), (3, None), (0, 0)])
def test_all_in_8_bits_holds_for_both_halves(asked: int | None, left: int | None) -> None:
    assert of_part(RunConfig("efficientvit_sam_b0", max_islands=asked), "decoder").max_islands == left
    assert of_part(RunConfig("efficientvit_sam_b0", max_slower=10.0), "decoder").max_slower == 10.0
