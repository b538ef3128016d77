"""Pictures into tensors of any origin, and the contract that says how, against numpy by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.images import fitted
from exporters._tflite import metadata
from qtools.core.errors import InputError
from qtools.core.inspection import End, Grid, Inspection, Picture, Placement
from qtools.core.types import InputSpec
from qtools.pipeline import contract, feeding

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
SPEC = InputSpec((8, 8), (0.1, 0.2, 0.3), (0.5, 0.4, 0.25), "bilinear", 1.0, "squash")


def inspection(
    dtype: str = "float32", shape: tuple[int | str, ...] = (1, 8, 8, 3), grid: Grid | None = None, **more: Any
) -> Inspection:
    outputs = (End("out", (1, more.pop("outputs", 5)), "float32"),)
    return Inspection("x.tflite", "", 1, "", (End("in", shape, dtype, grid),), outputs, (), (), Placement(""), **more)


def test_floats_are_normalised_and_laid_out() -> None:
    by_hand = (PICTURE / 255 - SPEC.mean) / SPEC.std
    last = feeding.Reading(End("in", (1, 8, 8, 3), "float32"), SPEC, channels_last=True)
    np.testing.assert_allclose(last.tensor(PICTURE), by_hand[None], atol=1e-6)
    first = dataclasses.replace(last, channels_last=False)
    np.testing.assert_array_equal(first.tensor(PICTURE), last.tensor(PICTURE).transpose(0, 3, 1, 2))
    swapped = dataclasses.replace(last, colours="BGR").tensor(PICTURE)
    np.testing.assert_allclose(swapped, ((PICTURE[..., ::-1] / 255 - SPEC.mean) / SPEC.std)[None], atol=1e-6)


def test_real_numbers_go_through_the_grid() -> None:
    end = End("in", (1, 8, 8, 3), "int8", Grid((0.02,), (-7,)))
    codes = np.clip(np.rint((PICTURE / 255 - SPEC.mean) / SPEC.std / 0.02) - 7, -128, 127)
    got = feeding.Reading(end, SPEC, channels_last=True).tensor(PICTURE)
    assert got.dtype == np.int8
    ties = np.abs((PICTURE / 255 - SPEC.mean) / SPEC.std / 0.02 % 1 - 0.5) < 1e-4
    np.testing.assert_array_equal(got[0][~ties], codes[~ties])


@pytest.mark.parametrize(("dtype", "shift"), [("uint8", 0), ("int8", -128), ("float32", 0)])
def test_pixels_go_in_as_they_are_whatever_the_grid(dtype: str, shift: int) -> None:
    grid = None if dtype == "float32" else Grid((0.0078,), (3,))
    found = feeding.Reading(End("in", (1, 8, 8, 3), dtype, grid), SPEC, channels_last=True, pixels=True)
    np.testing.assert_array_equal(found.tensor(PICTURE)[0], PICTURE.astype(np.int32) + shift)


def test_who_says_how_a_picture_goes_in() -> None:
    facts = {"input": dataclasses.asdict(SPEC), "io": "int8"}
    ours = feeding.reading(inspection(metadata=facts))
    assert ours.spec == SPEC and not ours.assumed and not ours.pixels
    theirs = feeding.reading(inspection(picture=Picture((127.5,), (63.75,), ("background", "a", "b", "c", "d"))))
    assert theirs.spec.mean == (0.5,) * 3 and theirs.spec.std == (0.25,) * 3 and theirs.offset == 1
    given = feeding.reading(inspection(metadata=facts), contract.Contract(contract.Preparation(range=(-1.0, 1.0)), 2))
    assert given.spec.mean == given.spec.std == (0.5,) * 3 and given.offset == 2 and not given.assumed
    usual = feeding.reading(inspection("uint8", grid=Grid((0.0078,), (128,)), outputs=1001))
    assert usual.pixels and usual.assumed and usual.offset == 1 and "assumed" in usual.source
    torch = feeding.reading(inspection(shape=(1, 3, 8, 8)))
    assert torch.spec.mean == feeding.IMAGENET[0] and not torch.channels_last and torch.assumed


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (inspection(shape=(1, 10)), "no RGB picture"),
        (inspection(shape=(1, "h", "w", 3)), "size"),
        (dataclasses.replace(inspection(), inputs=()), "0 inputs"),
    ],
)
def test_what_takes_no_picture_is_refused(found: Inspection, said: str) -> None:
    with pytest.raises(InputError, match=said):
        feeding.reading(found)
    if "size" in said:
        assert feeding.reading(found, contract.Contract(contract.Preparation(size=(4, 6)))).spec.size == (4, 6)


def test_a_contract_has_to_fit_the_tensor() -> None:
    with pytest.raises(InputError, match="not of"):
        feeding.reading(inspection(), contract.Contract(contract.Preparation(size=(9, 9))))


@pytest.mark.parametrize(
    "entries",
    [
        {"mean": [0, 0, 0]},
        {"mean": [0, 0, 0], "std": [1, 1, 0]},
        {"mean": [0, 0, 0], "std": [1, 1, 1], "range": [0, 1]},
        {"range": [1, -1]},
        {"keep": 0},
        {"size": [0, 4]},
        {"colour": "BGR"},
        {"colours": "GBR"},
        {"schema_version": 2},
        [],
    ],
)
def test_what_is_no_contract_is_refused(tmp_path: Path, entries: Any) -> None:
    file = tmp_path / "contract.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(InputError, match="no contract"):
        contract.read(file)
    file.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        contract.read(file)
    with pytest.raises(InputError, match="cannot be read"):
        contract.read(tmp_path)


numbers = st.floats(-2, 2)


@given(st.tuples(*[numbers] * 3), st.tuples(*[st.floats(0.05, 2)] * 3), st.sampled_from(["RGB", "BGR"]), st.booleans())
def test_a_reading_survives_its_contract(mean: Any, std: Any, colours: Any, pixels: bool) -> None:
    """What an alternative tells the user to write feeds what the alternative fed."""
    spec = dataclasses.replace(SPEC, mean=mean, std=std)
    found = feeding.Reading(End("in", (1, 8, 8, 3), "float32"), spec, colours, True, pixels, 1)
    back = feeding.reading(inspection(), feeding.contract_of(found))
    np.testing.assert_array_equal(back.tensor(PICTURE), found.tensor(PICTURE))
    assert back.offset == 1


@pytest.mark.parametrize("range_", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-3.0, 5.0)])
def test_a_range_is_what_black_and_white_become(range_: tuple[float, float]) -> None:
    found = feeding.reading(inspection(), contract.Contract(contract.Preparation(range=range_)))
    ends = np.array([[[0] * 3, [255] * 3]] * 8, np.uint8).repeat(4, 1)
    assert np.unique(np.round(found.tensor(ends), 4)).tolist() == pytest.approx(list(range_), abs=1e-3)
    assert fitted(ends, found.spec).shape == (3, 8, 8)


def test_probabilities_become_logarithms() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (20, 7))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    floats = End("out", (1, 7), "float32")
    assert feeding.are_probabilities(chances, floats) and not feeding.are_probabilities(logits, floats)
    assert not feeding.are_probabilities(np.abs(logits), floats)
    back = feeding.as_logits(chances, floats)
    np.testing.assert_allclose(back - back[:, :1], logits - logits[:, :1], atol=1e-9)
    rough = np.rint(chances * 256).clip(0, 255) / 256
    end = End("out", (1, 1001), "uint8", Grid((1 / 256,), (0,)))
    many = np.zeros((1, 1001))  # what a classifier of Google's gives: a handful of codes, and zeros
    many[0, :4] = np.array([100, 40, 20, 10]) / 256  # rounding took a third away: the sum alone would deny it
    assert feeding.are_probabilities(many, end)
    assert not feeding.are_probabilities(many, End("out", (1, 1001), "uint8", Grid((0.1,), (0,))))
    softmax = np.exp(feeding.as_logits(many, end))
    softmax /= softmax.sum()
    assert softmax[0, :4] == pytest.approx(many[0, :4], abs=1 / 512)
    assert softmax[0, 5] == pytest.approx((1 - many.sum()) / 997, rel=0.01)
    over = np.full((1, 1001), 0.0)
    over[0, :3] = np.array([200, 40, 20]) / 256  # rounding may sum to more than 1
    assert np.exp(feeding.as_logits(over, end)[0, 3:]).sum() == pytest.approx(1 / 512, rel=0.01)
    assert (feeding.as_logits(rough, end).argmax(1) == rough.argmax(1)).all()


def test_standard_metadata_are_read_back() -> None:
    options = {"picture": SPEC, "labels": ("background", "cat", "dog")}
    entry = metadata.encode(metadata.describe(options, [None], pixels=False), ("image", "logits"))
    file = metadata.with_labels(b"a model", options["labels"])  # type: ignore[arg-type]
    found = metadata.read(entry, file)
    assert found is not None and found.labels == options["labels"]
    assert found.mean == pytest.approx([255 * m for m in SPEC.mean])
    assert found.std == pytest.approx([255 * s for s in SPEC.std])
    assert metadata.read(entry, b"no archive") == dataclasses.replace(found, labels=())
    assert metadata.read(b"something else", file) is None


@given(st.data())
def test_damaged_metadata_are_none_or_a_picture(data: st.DataObject) -> None:
    options = {"picture": SPEC, "labels": ("a", "b")}
    entry = bytearray(metadata.encode(metadata.describe(options, [None], pixels=False), ("image", "logits")))
    for _ in range(data.draw(st.integers(1, 6))):
        entry[data.draw(st.integers(8, len(entry) - 1))] = data.draw(st.integers(0, 255))
    found = metadata.read(bytes(entry[: data.draw(st.integers(0, len(entry)))]), b"")
    assert found is None or (np.isfinite([*found.mean, *found.std]).all() and all(found.std))
