"""`qtools inspect` from the outside: one table or one object, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qtools.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`run(*words)` gives (exit code, stdout, stderr), the process's own streams included."""

    def call(*words: Any) -> tuple[int, str, str]:
        code = 0
        try:
            main(["inspect", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    def write(kind: str) -> Path:
        graph = helper.make_graph(
            [helper.make_node(kind, ["image"], ["result"])],
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 4])],
        )
        opset = helper.make_opsetid("", 17)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "tiny.onnx")
        return tmp_path / "tiny.onnx"

    return write


def test_a_table_on_stdout(run: Run, model: Callable[[str], Path]) -> None:
    code, out, err = run(model("Relu"))
    assert (code, err) == (0, "")
    assert "tiny.onnx" in out and "Relu" in out and "the whole graph computes in float" in out


def test_one_object_on_stdout(run: Run, model: Callable[[str], Path]) -> None:
    code, out, err = run(model("Relu"), "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["file"] == "tiny.onnx" and found["inputs"][0]["shape"] == [1, 4]
    assert [(row["kind"], row["count"]) for row in found["ops"]] == [("Relu", 1)]
    assert {"islands", "placement", "stored", "metadata", "foreign", "size_bytes", "format"} <= set(found)


def test_an_unknown_operation_ends_in_three_behind_what_could_be_read(run: Run, model: Callable[[str], Path]) -> None:
    code, out, err = run(model("Convoluted"), "--json")
    assert code == 3 and "Convoluted" in err
    assert json.loads(out)["ops"][0]["kind"] == "Convoluted"


@pytest.mark.parametrize("name", ["absent.tflite", "absent.onnx", "absent.mlpackage", "absent.zip"])
def test_a_missing_file_ends_in_two(run: Run, tmp_path: Path, name: str) -> None:
    code, out, err = run(tmp_path / name)
    assert (code, out) == (2, "") and "does not exist" in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["model.pth", "model", "model.onn", "model.tflite.bak"])
def test_another_suffix_ends_in_two(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    code, out, err = run(tmp_path / name)
    assert (code, out) == (2, "") and ".mlpackage, .onnx, .tflite, .zip" in err
    assert ("Did you mean .onnx?" in err) == (name == "model.onn")


@pytest.mark.parametrize("name", ["random.tflite", "random.onnx", "random.mlpackage", "random.zip"])
@pytest.mark.parametrize("length", [0, 7, 4096])
def test_random_bytes_end_in_two(run: Run, tmp_path: Path, name: str, length: int) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(3).bytes(length))
    code, out, err = run(tmp_path / name)
    assert (code, out) == (2, "") and name in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["folder.tflite", "folder.onnx", "folder.mlpackage", "folder.zip"])
def test_an_empty_folder_ends_in_two(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    code, out, err = run(tmp_path / name)
    assert (code, out) == (2, "") and "error" in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["long.tflite", "long.onnx"])
def test_a_file_of_impossible_length_is_not_read(run: Run, tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(5 << 30)  # a hole: no byte of it lies on the disk
    code, out, err = run(tmp_path / name)
    assert (code, out) == (2, "") and "is longer than" in err


def test_a_name_in_a_file_cannot_move_the_cursor(run: Run, model: Callable[[str], Path]) -> None:
    code, out, err = run(model("Con\x1b[2Jvoluted"))
    assert code == 3 and "\x1b" not in out + err and "Con\N{REPLACEMENT CHARACTER}[2Jvoluted" in err
