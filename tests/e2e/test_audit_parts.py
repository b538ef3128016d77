"""An audit of a run whose artifact was tampered with, and a sweep over the parts of the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporters._tflite import flatbuffer

pytestmark = pytest.mark.e2e

WORDS = ("--builder", "user_network:build", "--data", "held_out", "--limit", "40", "--json")
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, qtools: Call, album: SimpleNamespace) -> Path:
    """The small network's run, in a folder of its own."""
    found: Path = album.furnish(tmp_path_factory.mktemp("parts"))
    asked = ("--data", "calibration", "--eval", "held_out", "--evaluation", "8", "--out", "run")
    ended = qtools(found, "quantize", "--builder", "user_network:build", *asked)
    assert ended.code in (0, 1), ended.err
    return found


def test_parts_quantized_alone(folder: Path, qtools: Call) -> None:
    ended = qtools(folder, "audit", "run", *WORDS, "--no-causes", "--sensitivity", "sweep.json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert "float weights without a reason" not in {check["name"] for check in report["checks"]}  # nobody looked
    rows = report["audit"]["sweep"]["rows"]
    plan = json.loads((folder / "run" / "plan.json").read_text())["values"]
    measured = [row["name"] for row in rows if row["part"] == "activation"]
    weights = [row["name"] for row in rows if row["part"] == "weight"]
    gridded = {name for name, entry in plan.items() if entry["params"] and entry["origin"] != "derived"}
    assert {*measured, *weights} == gridded - {"x"}
    assert all(row["numbers"] > 0 for row in rows if row["part"] == "weight")
    before = (folder / "sweep.json").read_bytes()
    again = qtools(folder, "audit", "run", *WORDS, "--no-causes", "--sensitivity", "sweep.json", "--out", "audits")
    assert (folder / "sweep.json").read_bytes() == before
    assert json.loads(again.out)["audit"]["sweep"]["rows"] == rows
    text = qtools(folder, "report", "audits").out
    assert "Quantized alone: what costs most" in text and "block.widen" in text


def test_a_file_of_another_origin_has_nothing_to_sweep_over(folder: Path, qtools: Call) -> None:
    shutil.copy(folder / "run" / "model.tflite", folder / "bare.tflite")
    ended = qtools(folder, "audit", "bare.tflite", "--data", "held_out", "--sensitivity", "sweep.json")
    assert ended.code == 2 and "keeps no float network" in ended.err


def test_an_operation_that_is_not_the_planned_one_is_named(folder: Path, qtools: Call) -> None:
    """The weights of one layer negated in the file, as an operation of another meaning would be."""
    shutil.copytree(folder / "run", folder / "tampered")
    path = folder / "tampered" / "model.tflite"
    model = flatbuffer.read(path.read_bytes())
    codes = {i: flatbuffer.constant(model, i) for i in range(len(model.subgraphs[0].tensors))}
    narrow = next(i for i, data in codes.items() if data is not None and data.shape == (16, 1, 1, 32))
    turned = (-codes[narrow]).view(np.uint8).reshape(-1)
    model.buffers[model.subgraphs[0].tensors[narrow].buffer].data = turned
    path.write_bytes(flatbuffer.write(model))
    ended = qtools(folder, "audit", "tampered", *WORDS)
    report = json.loads(ended.out)
    first = report["audit"]["findings"][0]
    assert (first["cause"], first["module"]) == ("operation changed in the artifact", "block.narrow")
    assert any("not the one that the run's report was written of" in text for text in report["warnings"])
