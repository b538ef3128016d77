"""Packages from strangers: confined to their folder, checked before use, refused in words."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exporters._coreml import blob, package
from exporters._coreml import edit as editing
from exporters._coreml.evaluator import Evaluator
from exporters._coreml.sdk import coremltools
from exporters._quiet import quiet
from qtools.core import files
from qtools.core.errors import InputError, MissingPlatform, QtoolsError

ct = coremltools()
with quiet():
    from coremltools.converters.mil import Builder as Mil

SETTINGS = {"compute_precision": ct.precision.FLOAT32, "minimum_deployment_target": ct.target.iOS17}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weight = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)

    @Mil.program(input_specs=[Mil.TensorSpec(shape=(1, 8))], opset_version=ct.target.iOS17)
    def program(image: Any) -> Any:
        return Mil.relu(x=Mil.linear(x=image, weight=weight))

    path = tmp_path_factory.mktemp("coreml") / "good.mlpackage"
    with quiet():
        ct.convert(program, skip_model_load=True, **SETTINGS).save(str(path))
    return path


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy.mlpackage"))


def manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / "Manifest.json").read_text())
    change(content)
    (path / "Manifest.json").write_text(json.dumps(content))


def point_at(where: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = where

    return change


def model_file(path: Path) -> Path:
    return path / "Data" / package.MODEL


def weight_file(path: Path) -> Path:
    return path / "Data" / package.WEIGHTS_FOLDER / "weight.bin"


def test_good_package_opens(good: Path) -> None:
    (result,) = Evaluator(good).run({"image": np.ones((1, 8), np.float32)}).values()
    assert result.shape == (1, 16)


@pytest.mark.parametrize("where", ["../../model.mlmodel", "/etc/passwd", "a\\b", "x\x00y", 7, None, ["a"]])
def test_manifest_stays_inside(copy: Path, where: Any) -> None:
    manifest(copy, point_at(where))
    with pytest.raises(InputError):
        Evaluator(copy)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"itemInfoEntries": [], "rootModelIdentifier": "x"}', "[" * 100000]
)
def test_broken_manifest(copy: Path, text: str) -> None:
    (copy / "Manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest"):
        Evaluator(copy)


@pytest.mark.parametrize("part", ["Manifest.json", "Data", f"Data/{package.MODEL}"])
def test_links_are_refused(copy: Path, part: str) -> None:
    real = copy.parent / "real"
    (copy / part).rename(real)
    (copy / part).symlink_to(real)
    with pytest.raises(InputError, match="link"):
        Evaluator(copy)


def test_missing_weights(copy: Path) -> None:
    weight_file(copy).unlink()
    with pytest.raises(InputError, match="has no file"):
        Evaluator(copy)


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "b.mlpackage").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "c.mlpackage").write_bytes(b"anything")
    for name, words in (("a.zip", "archive"), ("b.mlpackage", "archive"), ("c.mlpackage", "is a file"), ("d", "exist")):
        with pytest.raises(InputError, match=words):
            Evaluator(tmp_path / name)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_truncated_model(copy: Path, keep: float) -> None:
    data = model_file(copy).read_bytes()
    model_file(copy).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(QtoolsError):
        Evaluator(copy).run({"image": np.ones((1, 8), np.float32)})


def test_empty_model(copy: Path) -> None:
    model_file(copy).write_bytes(b"")
    with pytest.raises(InputError, match="ML Program"):
        Evaluator(copy)


@pytest.mark.parametrize("length", [0, 10, 64, 100, 128, 300])
def test_truncated_weights(copy: Path, length: int) -> None:
    weight_file(copy).write_bytes(weight_file(copy).read_bytes()[:length])
    with pytest.raises(InputError, match="weight file"):
        Evaluator(copy)


@pytest.mark.parametrize(
    ("field", "value"), [(0, 1), (2, 2**40), (2, 2**64 - 1), (3, 2**63), (3, 2**20), (2, 8)], ids=str
)
def test_corrupt_weight_metadata(copy: Path, field: int, value: int) -> None:
    data = bytearray(weight_file(copy).read_bytes())
    content = list(struct.unpack_from("<IIQQ", data, 64))
    content[field] = value
    struct.pack_into("<IIQQ", data, 64, *content)
    weight_file(copy).write_bytes(bytes(data))
    with pytest.raises(InputError, match="weight file"):
        Evaluator(copy)


def test_unknown_blob_type(copy: Path) -> None:
    data = bytearray(weight_file(copy).read_bytes())
    struct.pack_into("<I", data, 68, 16)
    weight_file(copy).write_bytes(bytes(data))
    with pytest.raises(MissingPlatform, match="data type 16"):
        Evaluator(copy)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    spec = package.Package(path).spec
    change(next(iter(spec.mlProgram.functions["main"].block_specializations.values())))
    model_file(path).write_bytes(spec.SerializeToString())


def test_unknown_argument_is_named(copy: Path) -> None:
    def change(block: Any) -> None:
        relu = next(o for o in block.operations if o.type == "relu")
        relu.inputs["slope"].CopyFrom(relu.inputs["x"])

    edit(copy, change)
    with pytest.raises(MissingPlatform, match="'slope' of 'relu"):
        Evaluator(copy).run({"image": np.ones((1, 8), np.float32)})


def test_wrong_declared_shape(copy: Path) -> None:
    def change(block: Any) -> None:
        relu = next(o for o in block.operations if o.type == "relu")
        relu.outputs[0].type.tensorType.dimensions[1].constant.size = 15

    edit(copy, change)
    with pytest.raises(InputError, match="declared is"):
        Evaluator(copy).run({"image": np.ones((1, 8), np.float32)})


def test_flexible_shape_is_refused(copy: Path) -> None:
    spec = package.Package(copy).spec
    dimension = spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[0]
    dimension.unknown.variadic = False
    model_file(copy).write_bytes(spec.SerializeToString())
    with pytest.raises(MissingPlatform, match="static shapes"):
        Evaluator(copy)


def test_huge_shape_is_refused(copy: Path) -> None:
    def change(block: Any) -> None:
        const = next(o for o in block.operations if o.type == "const" and "val" in o.attributes)
        for dimension in const.outputs[0].type.tensorType.dimensions:
            dimension.constant.size = 2**40
        kind = next(o for o in block.operations if o.attributes["val"].WhichOneof("value") == "blobFileValue")
        for dimension in kind.attributes["val"].type.tensorType.dimensions:
            dimension.constant.size = 2**40

    edit(copy, change)
    with pytest.raises(InputError, match="no model of this kind"):
        Evaluator(copy)


def test_weights_outside_are_refused(copy: Path) -> None:
    def change(block: Any) -> None:
        for operation in block.operations:
            value = operation.attributes["val"]
            if value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.fileName = "@model_path/../../../../etc/passwd"

    edit(copy, change)
    with pytest.raises(InputError, match="outside"):
        Evaluator(copy)


@pytest.mark.parametrize("image", [np.ones((1, 9), np.float32), np.ones(8, np.float32)])
def test_input_of_another_shape(good: Path, image: Any) -> None:
    with pytest.raises(InputError, match="shape"):
        Evaluator(good).run({"image": image})
    with pytest.raises(InputError, match="wants an input"):
        Evaluator(good).run({})


def test_written_package_reads_back_with_equal_bytes(good: Path, tmp_path: Path) -> None:
    opened = package.Package(good)
    for name in ("a", "b"):
        package.write(tmp_path / f"{name}.mlpackage", opened.spec, weight_file(good).read_bytes())
    assert files.digest(tmp_path / "a.mlpackage") == files.digest(tmp_path / "b.mlpackage")
    image = {"image": np.ones((1, 8), np.float32)}
    (theirs,), (ours,) = (Evaluator(p).run(image).values() for p in (good, tmp_path / "a.mlpackage"))
    assert np.array_equal(theirs, ours)


@given(st.data())
def test_blob_round_trip(data: st.DataObject) -> None:
    writer, stored = blob.BlobWriter(), []
    for _ in range(data.draw(st.integers(1, 4))):
        dtype = data.draw(st.sampled_from(sorted(blob.DTYPES.values())))
        count = data.draw(st.integers(1, 40))
        if dtype in blob.SUBBYTE:
            bits = blob.SUBBYTE[dtype]
            low = 0 if dtype.startswith("u") else -(2 ** (bits - 1))
            array = data.draw(arrays(np.int16, count, elements=st.integers(low, low + 2**bits - 1)))
        else:
            array = np.frombuffer(data.draw(st.binary(min_size=count * 4, max_size=count * 4)), np.uint8)
            array = array[: count * np.dtype(dtype).itemsize].copy().view(dtype)
        stored.append((writer.add(array, dtype), array, dtype))
    reader = blob.BlobReader(writer.getvalue(), "test")
    for offset, array, dtype in stored:
        again, kind = reader.read(offset, array.size)
        assert kind == dtype
        assert again.astype(array.dtype).tobytes() == array.tobytes()


def test_as_many_bytes_may_hold_fewer_codes() -> None:
    writer = blob.BlobWriter()
    one, two = (writer.add(np.zeros(count, np.int16), "int4") for count in (1, 2))
    reader = blob.BlobReader(writer.getvalue(), "test")
    assert one != two and [len(reader.read(*entry)[0]) for entry in ((one, 1), (two, 2))] == [1, 2]


@pytest.mark.parametrize(("dtype", "bits"), [("uint6", 6), ("uint4", 4), ("uint3", 3), ("int4", 4)])
def test_packing_equals_coremltools(dtype: str, bits: int, tmp_path: Path) -> None:
    """Bytes that Apple's own writer (libmilstoragepython) puts into a file."""
    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageWriter
    low = 0 if dtype.startswith("u") else -(2 ** (bits - 1))
    codes = np.random.default_rng(1).integers(low, low + 2**bits, 77).astype(np.int8 if low else np.uint8)
    theirs = _BlobStorageWriter(str(tmp_path / "w.bin"))
    offset = getattr(theirs, f"write_{dtype}_data")(codes)
    del theirs
    data = (tmp_path / "w.bin").read_bytes()
    again, kind = blob.BlobReader(data, "theirs").read(offset, codes.size)
    assert kind == dtype
    assert np.array_equal(again, codes)
    ours = blob.BlobWriter()
    assert ours.add(codes, dtype) == offset
    written = ours.getvalue()
    size = -(-codes.size * bits // 8)
    assert written[64:96] == data[64:96], "metadata: Apple's writer leaves the reserved bytes behind it as they were"
    assert written[128 : 128 + size] == data[128 : 128 + size]


def test_a_weight_file_does_not_follow_the_order_of_a_protobuf_map() -> None:
    """Attributes lie in a hash map, whose order is another in every process, and for every way it was filled."""
    parts = {f"part_{at}": (np.full(16, at, np.int8), "int8") for at in range(6)}
    found = set()
    for turn in range(24):
        order = np.random.default_rng(turn).permutation(len(parts))
        writer = blob.BlobWriter()
        shuffled = {name: parts[name] for name in (f"part_{at}" for at in order)}
        made = editing.constexpr("constexpr_affine_dequantize", "w", ((16,), "float16"), shuffled, writer)
        found.add(editing.compact([made], writer))
    assert len(found) == 1
