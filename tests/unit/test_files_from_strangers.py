"""Files made to crash, to fill memory, to hang or to reach outside: each ends in an InputError that names it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from calibration import images
from calibration.collect import read_stats
from calibration.data import open_folder
from calibration.images import preprocess, read_rgb
from exporters._coreml import values
from exporters._coreml.sdk import coremltools
from exporters._onnx import model, storage
from exporters._tflite import inspect, metadata
from qtools.core import arrays, bounds
from qtools.core.errors import ExitStatus, InputError
from qtools.core.op_table import kernel_times
from qtools.core.types import InputSpec
from qtools.models import _checkpoint, _metadata, _timm, resolve
from qtools.pipeline import contract, kept, run_facts, vectors
from qtools.pipeline.audit import sweep
from qtools.pipeline.devices import android

DEEP = "[" * 100_000
SPEC = InputSpec((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0)


def refused(read: Callable[[], Any], *words: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError) as error:
        read()
    assert error.value.exit_status == ExitStatus.BAD_INPUT and time.process_time() - began < 5
    assert all(word in str(error.value) for word in words), str(error.value)


# checkpoints


class Asks:
    """A pickle of one call, which torch's list of harmless ones allows."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Asks(bytearray, 1 << 45), "far more memory"),
        (torch.zeros(1).expand(1 << 20, 1 << 20), "no plain array"),
        (torch.zeros(2, 2, device="meta"), "no plain array"),
        (torch.zeros(2, 2).to_sparse(), "no plain array"),
    ],
    ids=["bytearray", "expanded", "meta", "sparse"],
)
def test_a_checkpoint_cannot_ask_for_more_than_it_holds(tmp_path: Path, entry: Any, words: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a.weight": entry}, path)
    assert path.stat().st_size < 10_000
    refused(lambda: _checkpoint.read(path), "w.pth", words)


def test_memory_is_bounded_inside_and_free_again_behind() -> None:
    most = 256 << 20
    with pytest.raises(MemoryError), bounds.memory_bounded(most // 4):
        np.empty(most, np.uint8)
    assert np.empty(most, np.uint8).nbytes == most


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ({"num_classes": "²"}, "classes"),
        ({"num_classes": "9" * 5000}, "classes"),
        ({"input": "3x99999999x8"}, "input_spec"),
        ({"input": "9" * 5000}, "input_spec"),
        ({"std": "0,1,1"}, "input_spec"),
        ({"mean": "nan,0,0"}, "input_spec"),
        ({"kwargs": DEEP}, "arguments"),
        ({"kwargs": '{"a": ' + "[" * 2000}, "arguments"),
        ({"kwargs": '{"depths": [1000000000]}'}, "arguments"),
        ({"kwargs": '{"drop_rate": NaN}'}, "arguments"),
        ({"kwargs": json.dumps({"depths": [1] * 100})}, "arguments"),
    ],
    ids=str,
)
def test_words_of_a_header_are_of_a_size_that_a_network_has(words: dict[str, str], read: str) -> None:
    call: dict[str, Callable[[], Any]] = {
        "classes": lambda: _metadata.classes({}, words, (), "w.safetensors"),
        "input_spec": lambda: _metadata.input_spec(SPEC, words, "w.safetensors"),
        "arguments": lambda: _metadata.arguments(words, "w.safetensors"),
    }
    refused(call[read], "w.safetensors", next(iter(words)))


def test_a_constructor_cannot_be_made_to_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timm, "MOST_BYTES", 256 << 20)
    huge = dataclasses.replace(resolve("vit_tiny_patch16_224"), arguments={"embed_dim": 3072, "depth": 64})
    refused(lambda: _timm.create(huge), "timm cannot build", "constructor arguments")


# arrays


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(descr: str, shape: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


ARRAYS = {
    "declares a terabyte": npy("<f4", "(274877906944,)"),
    "declares less than it holds": npy("<f4", "(1,)", bytes(8)),
    "has a million dimensions": npy("<f4", "(" + "1," * 4000 + ")", bytes(4)),
    "holds objects": npy("|O", "(1,)", b"cos\nsystem\n(S'true'\ntR."),
    "letters beyond Unicode": npy("<U1", "(1,)", b"\xff\xff\xff\x7f"),
    "negative": npy("<f4", "(-1,)"),
    "header is no literal": npy("<f4", "__import__('os')"),
    "no array": b"text",
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_are_what_they_declare(tmp_path: Path, case: str) -> None:
    path = archive(tmp_path / "vectors.npz", names=ARRAYS[case])
    refused(lambda: vectors.read(path), "vectors.npz")
    refused(lambda: read_stats(archive(tmp_path / "stats.npz", schema=ARRAYS[case])), "stats.npz")


def test_arrays_do_not_unpack_into_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_BYTES", 1 << 20)
    path = archive(tmp_path / "v.npz", names=npy("|u1", "(2097152,)", bytes(1 << 21)))
    assert path.stat().st_size < 10_000
    refused(lambda: vectors.read(path), "more than 1 MiB")


def test_names_of_vectors_are_no_maze(tmp_path: Path) -> None:
    text = io.BytesIO()
    np.save(text, np.array(DEEP))
    refused(lambda: vectors.read(archive(tmp_path / "v.npz", names=text.getvalue())), "v.npz")


# pictures and tables


@pytest.mark.parametrize("changes", [{"crop_pct": 1e-7}, {"size": (60_000, 60_000)}, {"size": (1, 1 << 40)}], ids=str)
def test_no_spec_enlarges_a_picture_beyond_memory(changes: dict[str, Any]) -> None:
    refused(lambda: preprocess(np.zeros((4, 4, 3), np.uint8), dataclasses.replace(SPEC, **changes)), "million")


def test_a_picture_that_claims_too_much_is_not_decoded(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (1, 1)).save(png, "PNG")
    data = bytearray(png.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    refused(lambda: read_rgb(tmp_path / "bomb.png"), "bomb.png")


def test_a_jpeg_cannot_be_made_to_take_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last scan, which says nothing, three hundred times: half a second each at a picture of full size."""
    monkeypatch.setattr(images, "MAX_PIXELS", 1 << 16)
    jpeg = io.BytesIO()
    Image.new("RGB", (250, 250)).save(jpeg, "JPEG", progressive=True)
    honest = jpeg.getvalue()
    (tmp_path / "honest.jpg").write_bytes(honest)
    assert read_rgb(tmp_path / "honest.jpg").shape == (250, 250, 3)
    last = honest[honest.rindex(b"\xff\xda") : -2]
    (tmp_path / "slow.jpg").write_bytes(honest[:-2] + last * 300 + honest[-2:])
    refused(lambda: read_rgb(tmp_path / "slow.jpg"), "slow.jpg", "310 passes")


def test_a_table_may_name_what_cannot_be_a_file(tmp_path: Path) -> None:
    for name in ("a" * 5000, "\x01", "../" * 2000 + "etc/passwd"):
        (tmp_path / "labels.csv").write_text(f"file,label\n{name}.jpg,1\n")
        refused(lambda: open_folder(tmp_path), "labels.csv line 2")


# JSON


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 50_000, "1" * 5000, '{"of": 1, "distances": {"a": NaN}}'], ids=len)
def test_json_is_no_maze(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    refused(lambda: contract.read(path), "file.json")
    refused(lambda: sweep._read(path, {}), "file.json")


def test_run_facts_are_no_maze(tmp_path: Path) -> None:
    inside = tmp_path / kept.FOLDER
    inside.mkdir()
    save_file({"float.w": torch.ones(1)}, inside / kept.WEIGHTS)
    (inside / run_facts.FILE).write_text(DEEP)
    refused(lambda: kept.read(tmp_path), kept.FOLDER)


# artifacts


def tflite(shape: list[int]) -> dict[str, Any]:
    none = {"scale": np.empty(0), "zero_point": np.empty(0), "axis": 0}
    shaped = np.array(shape, np.int32)
    tensor = {"shape": shaped, "type": 0, "buffer": 0, "name": "t", "grid": none, "signature": shaped}
    return {"buffers": [{"data": b"", "offset": 0, "size": 0}], "tensor": tensor}


def test_the_product_of_a_million_dimensions_is_not_computed() -> None:
    message = coremltools().proto.MIL_pb2.TensorType()
    began = time.process_time()
    made = tflite([1 << 30] * 1_000_000)
    assert inspect._tensor_fault(made, made["tensor"]) == "has 1,000,000 dimensions"
    for _ in range(1000):
        message.dimensions.add().constant.size = 1 << 62
    refused(lambda: values.shape_of(message), "1,000 dimensions")
    assert time.process_time() - began < 5


def test_a_label_file_that_is_encrypted_or_damaged_is_none() -> None:
    ends = ("image", "logits")
    good = metadata.with_labels(metadata.encode(metadata.Description(labels=("a", "b")), ends), ("a", "b"))
    seen = metadata.read(good, good)
    assert seen is not None and seen.labels == ("a", "b")
    at = good.rindex(b"PK\x01\x02")
    for place, change in ((at + 8, 1), (at + 10, 8), (at + 10, 14), (at + 10, 99)):  # encrypted; deflated, LZMA, ?
        bad = bytearray(good)
        bad[place] = change
        local = bad.index(b"PK\x03\x04")
        bad[local + place - at - 2] = change
        found = metadata.read(good, bytes(bad))
        assert found is not None and found.labels == ()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """An .onnx whose weight is changed, or put somewhere else."""

    def write(change: Callable[[onnx.TensorProto, onnx.ModelProto], None]) -> Path:
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            [numpy_helper.from_array(np.ones(2, np.float32), "w")],
        )
        made = helper.make_model(graph)
        change(made.graph.initializer[0], made)
        (tmp_path / "w.bin").write_bytes(bytes(8))
        (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
        return tmp_path / "m.onnx"

    return write


def outside(tensor: onnx.TensorProto, *entries: tuple[str, str]) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries:
        tensor.external_data.add(key=key, value=text)


def twice(tensor: onnx.TensorProto, made: onnx.ModelProto) -> None:
    """Whoever checks the first and reads the last is fooled; onnx reads the last."""
    outside(tensor, ("location", "w.bin"), ("location", "../../../etc/passwd"))


def lengths(tensor: onnx.TensorProto, made: onnx.ModelProto) -> None:
    outside(tensor, ("location", "w.bin"), ("length", "none"), ("length", "8"))


def in_function(tensor: onnx.TensorProto, made: onnx.ModelProto) -> None:
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[2])
    outside(hidden, ("location", "../secret"))
    node = helper.make_node("Constant", [], ["c"], value=hidden)
    made.functions.append(helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 17)]))


def in_sparse(tensor: onnx.TensorProto, made: onnx.ModelProto) -> None:
    part = onnx.TensorProto(name="part", data_type=1, dims=[2])
    outside(part, ("location", "/etc/passwd"))
    made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=part, dims=[4]))


def long_name(tensor: onnx.TensorProto, made: onnx.ModelProto) -> None:
    outside(tensor, ("location", "a" * 5000))


def many_dimensions(tensor: onnx.TensorProto, made: onnx.ModelProto) -> None:
    tensor.dims.extend([1 << 62] * 100_000)


@pytest.mark.parametrize("change", [twice, lengths, in_function, in_sparse, long_name, many_dimensions])
def test_no_part_of_an_onnx_reaches_outside(save: Callable[..., Path], change: Any) -> None:
    path = save(change)
    refused(lambda: storage.check(model.read(path), path), "m.onnx")


def test_an_honest_external_tensor_passes(save: Callable[..., Path]) -> None:
    path = save(lambda tensor, _: outside(tensor, ("location", "w.bin"), ("offset", "0"), ("length", "8")))
    storage.check(model.read(path), path)


# logs


def test_long_lines_of_a_log_take_no_time() -> None:
    began = time.process_time()
    head = "=== Run Order ===\n[node type]\t[avg ms]\t[times called]\t[Name]\n"
    for line in ("a " * 20_000 + "1 1", "x" + " " * 40_000, "1 " * 20_000 + "b"):
        with contextlib.suppress(InputError):
            kernel_times(head + line + "\n\n", 1)
    for line in ("Graph: [" * 10_000, "count=1 " * 10_000, "ERROR:" + " " * 100_000):
        android.read(f"count=1 avg=1 min=1 max=1\n{line}\n", "log.txt")
    assert time.process_time() - began < 5
