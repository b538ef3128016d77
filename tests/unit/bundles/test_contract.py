"""Contracts: what is written is read back, version 1 means what it meant, and the table says what the numbers say."""

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
from qtools.core import files, numerics
from qtools.core.errors import InputError
from qtools.core.inspection import End, Grid, Inspection, Placement
from qtools.core.types import InputSpec
from qtools.pipeline import contract, contract_of_run, feeding, picture_vectors


@pytest.fixture(scope="module")
def written(made_up, tmp_path_factory: pytest.TempPathFactory) -> tuple[contract.Contract, Path]:
    made = made_up().content.contract
    return made, files.write_text(tmp_path_factory.mktemp("contract") / "contract.json", files.to_json(made))


def test_what_is_written_is_read_back(written: Any) -> None:
    made, path = written
    assert contract.read(path) == made
    assert contract.whole(made, "it").size == (24, 24)


def test_version_1_is_read_as_what_it_says(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    said = {"resize": "bicubic", "crop": "squash", "range": [-1, 1], "layout": "NCHW"}
    for version in ({}, {"schema_version": 1}):
        old.write_text(json.dumps(said | version | {"labels_offset": 1}))
        new.write_text(json.dumps({"schema_version": 2, "preparation": said, "labels_offset": 1}))
        assert contract.read(old) == contract.read(new)
    old.write_text(json.dumps({"schema_version": 3, "preparation": said}))
    with pytest.raises(InputError, match="schema_version 3"):
        contract.read(old)


def test_a_contract_by_hand_is_not_enough_for_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing of the artifact"):
        contract.whole(contract.Contract(contract.Preparation(range=(-1.0, 1.0))), "it")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "a"},
        {"preparation": {"rule": "opencv"}},
        {"preparation": {"fill": [0, 0, 256]}},
        {"input": {"table": [[0] * 255] * 3}},
        {"input": {"dtype": "int4"}},
        {"input": {"table": [[0.5] * 256] * 3}},
        {"input": {"table": [[128] * 256] * 3}},
        {"input": {"scale": None}},
        {"output": {"scale": 0}},
        {"artifact": {"name": "../other.tflite"}},
        {"output": {"meaning": "guesses"}},
        {"answer": 3},
    ],
)
def test_damage_is_refused(written: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    entries = json.loads(written[1].read_text())
    for name, value in change.items():
        entries[name] = entries[name] | value if isinstance(value, dict) else value
    (tmp_path / "c.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="no contract"):
        contract.read(tmp_path / "c.json")


def test_the_schema_describes_every_entry() -> None:
    found = contract.schema()
    for part in (found, *found["$defs"].values()):
        assert part["description"]
        assert not [name for name, entry in part["properties"].items() if part["title"] not in ("Model", "Weights")
                    and "description" not in entry]  # fmt: skip


triples = st.tuples(*[st.floats(0.05, 0.95)] * 3)


@given(triples, triples, st.floats(0.005, 0.2), st.integers(-128, 127))
def test_the_table_is_the_arithmetic_of_the_run(mean: Any, std: Any, scale: float, zero: int) -> None:
    """Read from the table or computed, a picture with every byte in every channel becomes the same tensor."""
    spec = InputSpec((16, 16), mean, std, "bilinear", 1.0, "squash")
    end = End("image", (1, 16, 16, 3), "int8", Grid((scale,), (zero,)))
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    computed = feeding.Reading(end, spec, channels_last=True)
    target: Any = type("Target", (), {"codes": staticmethod(numerics.quantize_float32)})
    table = contract_of_run.table_of(end, spec, target, pixels=False)
    read = dataclasses.replace(computed, table=table)
    np.testing.assert_array_equal(read.tensor(pixels), computed.tensor(pixels))
    assert read.tensor(pixels).dtype == np.int8


def test_a_whole_contract_feeds_what_the_vectors_hold(made_up) -> None:
    content = made_up(crop="border", keep=1.0, size=(20, 31)).content
    taken = content.whole.input
    end = End(taken.name, taken.shape, taken.dtype, Grid((taken.scale,), (taken.zero_point,)))
    inspection = Inspection("x.tflite", "", 1, "", (end,), (End("out", (1, 5), "float32"),), (), (), Placement(""))
    reading = feeding.reading(inspection, content.contract)
    assert reading.labels == content.contract.labels and not reading.assumed
    for vector in content.vectors:
        assert reading.tensor(vector.picture).tobytes() == vector.memory


def test_a_border_can_be_given_by_hand() -> None:
    pixels = np.full((4, 8, 3), 200, np.uint8)
    spec = InputSpec((8, 8), (0.5, 0.5, 0.5), (1.0,) * 3, "bilinear", 1.0, "border")
    assert fitted(pixels, spec)[:, 0, 0].tolist() == [128, 128, 128]
    assert fitted(pixels, spec, (1, 2, 3))[:, 0, 0].tolist() == [1, 2, 3]


def test_vectors_come_back_from_their_folder(made_up, tmp_path: Path) -> None:
    content = made_up().content
    picture_vectors.write(content, tmp_path)
    back = picture_vectors.read(tmp_path, content.whole)
    assert back.tolerance == content.tolerance and len(back.vectors) == len(content.vectors)
    for was, now in zip(content.vectors, back.vectors, strict=True):
        assert (was.memory, was.top) == (now.memory, now.top)
        np.testing.assert_array_equal(was.picture, now.picture)
        np.testing.assert_array_equal(was.output, now.output)
        np.testing.assert_array_equal(was.tensor, now.tensor)
    other = dataclasses.replace(content.whole.artifact, sha256="another")
    with pytest.raises(InputError, match="another artifact"):
        picture_vectors.read(tmp_path, dataclasses.replace(content.whole, artifact=other))
    (tmp_path / "0.rgb").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        picture_vectors.read(tmp_path, content.whole)
