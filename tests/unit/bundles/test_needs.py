"""What a file needs to run, as far as it says so itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import onnx as target
from exporters import tflite
from exporters._tflite import flatbuffer


@pytest.mark.parametrize(
    ("opset", "ir", "oldest"), [(20, 10, "1.18"), (20, 8, "1.17"), (18, 8, "1.14"), (99, 8, ""), (18, 99, "")]
)
def test_an_onnx_file_needs_what_knows_operators_and_format(tmp_path: Path, opset: int, ir: int, oldest: str) -> None:
    import onnx

    end = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1,))
    graph = onnx.helper.make_graph([], "nothing", [end], [end])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert target.needs(tmp_path / "m.onnx").minimum == oldest


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (b"2.9.0" + b"\0" * 11, "TensorFlow Lite 2.9.0, any LiteRT"),
        (b"2.19.0", "TensorFlow Lite 2.19.0"),
        (b"", ""),
        (None, ""),
        (b"UNKNOWN", "TensorFlow Lite UNKNOWN"),
    ],
)
def test_a_tflite_file_says_it(monkeypatch, tmp_path: Path, entry: bytes | None, words: str) -> None:
    (tmp_path / "m.tflite").write_bytes(b"")
    monkeypatch.setattr(flatbuffer, "read", lambda _data: None)
    monkeypatch.setattr(flatbuffer, "metadata", lambda _model, _name: entry)
    assert tflite.needs(tmp_path / "m.tflite").minimum == words
