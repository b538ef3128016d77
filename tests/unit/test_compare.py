"""What `reports.compare` calls a difference, on values built by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exporters._tflite.tensors import _codes
from qtools.core.inspection import Grid, Tensor
from qtools.core.numerics import params_from_range
from qtools.core.types import QuantPlan, QuantScheme, ValuePlan
from reports import compare
from reports.compare import Comparison, Section, Side, Timing
from reports.render import compare as table

PARAMS = params_from_range(-1.0, 3.0, QuantScheme.activation())


def plan(**values: ValuePlan) -> QuantPlan:
    return QuantPlan("tiny", "tflite", "w8a8", values, {}, {})


@given(arrays.arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32)), st.data())
def test_every_changed_number_is_counted(before: np.ndarray, data: st.DataObject) -> None:
    """NaN equals itself, and -0 is not 0: what is stored is compared, not what it means."""
    places = data.draw(st.sets(st.integers(0, len(before) - 1)))
    after = before.copy()
    view = after.view(np.uint32)
    for place in places:
        view[place] ^= 1 << data.draw(st.integers(0, 31))
    tensors = ({"w": Tensor("float32", (len(before),), each)} for each in (before, after))
    found = compare.tensors(*tensors)
    assert found.compared == 1 and len(found.changes) == bool(places)
    if places:
        assert found.changes[0].field.startswith(f"{len(places)} of {len(before)} numbers")


def test_a_tensor_changes_its_type_its_grid_or_goes() -> None:
    codes = np.arange(4, dtype=np.int8)
    grid = Grid((0.5, 0.25), (0, 0), 0)
    before = {"w": Tensor("int8", (2, 2), codes, grid), "x": Tensor("int8", (1, 4)), "gone": Tensor("int8", (1,))}
    after = {
        "w": Tensor("int8", (2, 2), codes, dataclasses.replace(grid, scales=(0.5, 0.125))),
        "x": Tensor("int16", (1, 4)),
        "new": Tensor("int8", (1,)),
    }
    rows = [(c.name, c.field, c.before, c.after) for c in compare.tensors(before, after).changes]
    assert rows == [
        ("w", "scale, 1 of 2, most at 1", "0.25", "0.125"),
        ("x", "type and shape", "int8 1 x 4", "int16 1 x 4"),
        ("gone", "tensor", "there", "not there"),
        ("new", "tensor", "not there", "there"),
    ]
    assert compare.tensors(before, {"other": Tensor("int8", (1,))}).note


def test_plans() -> None:
    other = dataclasses.replace(PARAMS, scale=(2 * PARAMS.scale[0],))
    narrow = params_from_range(-1.0, 3.0, QuantScheme.activation(6))
    before = plan(
        a=ValuePlan(PARAMS, "explicit", ""),
        b=ValuePlan(PARAMS, "explicit", "", reads={"op": PARAMS}),
        c=ValuePlan(None, "float", "no kernel"),
        d=ValuePlan(PARAMS, "explicit", "", made=PARAMS),
    )
    after = plan(
        a=ValuePlan(other, "explicit", ""),
        b=ValuePlan(PARAMS, "shared", "tied", reads={"op": other}),
        c=ValuePlan(narrow, "explicit", ""),
        e=ValuePlan(PARAMS, "explicit", ""),
    )
    after = dataclasses.replace(after, float_ops={"op": "island"})
    found = compare.plans(before, after)
    assert [(c.name, c.field) for c in found.changes] == [
        ("a", "scale"), ("b", "read by op scale"), ("b", "origin"), ("b", "reason"), ("c", "grid"), ("c", "origin"),
        ("c", "reason"), ("d", "value"), ("e", "value"), ("op", "computes in float"),
    ]  # fmt: skip
    assert found.compared == 3 and found.changes[-1].before == "in integers"
    assert compare.plans(before, before).changes == ()


def test_predictions_are_paired() -> None:
    a = np.eye(4)[[0, 1, 2, 3]] * 3.0
    b = a.copy()
    b[3] = a[0]
    found = compare.predictions("four images", (a, b), np.array([0, 1, 2, 3]))
    assert (found.n, found.equal, found.largest_gap) == (4, 3, 3.0)
    assert found.accuracy is not None and (found.accuracy.lost, found.accuracy.drop) == (1, 25)
    assert compare.predictions("", (a, b[:, :3]), None).note == "the outputs have 4 and 3 numbers"
    b[0, 0] = np.nan
    assert compare.predictions("", (a, b), None).accuracy is None


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_are_compared_in_silence() -> None:
    """Infinities of one sign, and a NaN that signals."""
    a = np.array([np.inf, -np.inf, 1.0], np.float32)
    b = np.array([np.inf, 0.0, 0.0], np.float32)
    b.view(np.uint32)[2] = 0x7F800001
    (change,) = compare.tensors({"w": Tensor("float32", (3,), a)}, {"w": Tensor("float32", (3,), b)}).changes
    assert change.field.startswith("2 of 3 numbers")


def test_times_are_said_with_their_interval_or_not_at_all() -> None:
    side, quiet, nothing = (
        Side("a", "a.onnx", "ONNX", "0" * 64, 10),
        compare.Predictions("", 0, note="n"),
        Timing("", None),
    )
    for timed, said in (
        (
            compare.Timed("a CPU", 1, 50, (2.0, 3.0), 1.5, (1.4, 1.6)),
            "2.00 → 3.00 ms, after / before = 1.500 × [1.400, 1.600]",
        ),
        (compare.Timed("a CPU", note="a.mlpackage: no runtime"), "not run: a.mlpackage: no runtime"),
    ):
        text = table.render(Comparison(side, side, (), quiet, (nothing, nothing), timed))
        assert said in " ".join(text.split())


def test_names_are_text_on_the_terminal() -> None:
    side = Side("[red]a\x1b[31m", "a.onnx", "ONNX", "0" * 64, 10)
    changed = Section("tensors", 50, tuple(compare.Change(f"[b]w{i}", "x", "1", "2") for i in range(45)))
    quiet = compare.Predictions("", 0, note="none")
    nothing = Timing("", None)
    text = table.render(Comparison(side, side, (changed,), quiet, (nothing, nothing)))
    assert "[red]a" in text and "\x1b" not in text and "[b]w39" in text and "[b]w40" not in text
    assert "5 more; --json has them all" in text and "predictions: not run: none" in text


@pytest.mark.parametrize(("dtype", "codes"), [("int4", [1, -8, -1, 7]), ("uint4", [1, 8, 15, 7])])
def test_halves_of_a_byte(dtype: str, codes: list[int]) -> None:
    """The schema stores the first of two 4-bit numbers in the lower half."""
    packed = np.array([(codes[i] & 15) | (codes[i + 1] & 15) << 4 for i in (0, 2)], np.uint8)
    assert _codes(packed, dtype).tolist() == codes
