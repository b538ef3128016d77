"""An .mlpackage from anywhere, as a folder or zipped: coremltools' own quantizers, and archives made to do harm."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters._coreml import archive, package, tensors
from exporters._coreml.inspect import inspect
from exporters._coreml.sdk import coremltools
from exporters._quiet import quiet
from qtools.core.errors import InputError
from reports import compare
from reports.inspection import describe

ct = coremltools()
with quiet():
    from coremltools import optimize
    from coremltools.converters.mil import Builder as Mil

PARAMETERS = 16 * 3 * 9 + 32 * 16 * 9


def network(target: Any, pair: bool = False) -> Any:
    """conv, relu, conv, softmax, mean; with quantize and dequantize around the second conv on request."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(16, 3, 3, 3)), rng.normal(size=(32, 16, 3, 3))

    @Mil.program(input_specs=[Mil.TensorSpec(shape=(1, 3, 8, 8))], opset_version=target)
    def program(image: Any) -> Any:
        def through_codes(x: Any) -> Any:
            grid = {"scale": np.float32(0.1), "zero_point": np.int8(0)}
            codes = Mil.quantize(input=x, output_dtype="int8", **grid)
            return Mil.dequantize(input=codes, **grid)

        x = Mil.relu(x=Mil.conv(x=image, weight=first.astype(np.float32), pad_type="same"))
        x = through_codes(x) if pair else x
        x = Mil.conv(x=x, weight=second.astype(np.float32), pad_type="same")
        x = through_codes(x) if pair else x
        return Mil.reduce_mean(x=Mil.softmax(x=x, axis=1), axes=[2, 3])

    return ct.convert(program, skip_model_load=True, minimum_deployment_target=target)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in float16 and as coremltools compresses it."""
    folder, tool = tmp_path_factory.mktemp("coreml"), optimize.coreml
    linear = tool.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=1)
    with quiet():
        old, new = network(ct.target.iOS17), network(ct.target.iOS18)
        models = {
            "float": old,
            "pair": network(ct.target.iOS17, pair=True),
            "linear": tool.linear_quantize_weights(old, tool.OptimizationConfig(linear)),
            "palette4": tool.palettize_weights(old, tool.OptimizationConfig(_palette(4))),
            "palette6": tool.palettize_weights(new, tool.OptimizationConfig(_palette(6))),
        }
        for name, model in models.items():
            model.save(str(folder / f"{name}.mlpackage"))
    return folder


def _palette(bits: int) -> Any:
    return optimize.coreml.OpPalettizerConfig(nbits=bits, mode="uniform", weight_threshold=1)


def test_a_float_package(made: Path) -> None:
    found = describe(inspect(made / "float.mlpackage"))
    facts = found.inspection
    assert {row.arithmetic for row in found.table} == {"float"} and found.islands == ()
    assert [(row.dtype, row.elements, row.size_bytes) for row in facts.stored] == [
        ("float16", PARAMETERS, 2 * PARAMETERS)
    ]
    assert facts.inputs[0].name == "image" and facts.inputs[0].shape == (1, 3, 8, 8)
    assert facts.outputs[0].shape == (1, 32) and facts.outputs[0].dtype == "float32"
    assert facts.placement.note.startswith("not run") and not facts.placement.kernels
    assert facts.metadata is None and facts.producer == f"coremltools {ct.__version__}"
    files = [f for f in (made / "float.mlpackage").rglob("*") if f.is_file()]
    assert facts.size_bytes == sum(f.stat().st_size for f in files)


def test_pairs_around_an_operation_make_it_integer(made: Path) -> None:
    found = describe(inspect(made / "pair.mlpackage"))
    rows = {(row.kind, row.arithmetic): row for row in found.table}
    assert rows["conv", "QDQ"].count == 1 and rows["conv", "QDQ"].source == "int8"
    assert found.arithmetic["Q/DQ"] == 4
    first, second = found.islands
    assert {"conv", "relu"} <= set(first.ops) and [b.kind for b in first.left] == ["quantize"]
    assert {"softmax", "reduce_mean"} <= set(second.ops) and [b.kind for b in second.entered] == ["dequantize"]


@pytest.mark.parametrize(
    ("name", "weight", "stored"),
    [
        ("linear", "int8", ("int8", PARAMETERS, PARAMETERS)),
        ("palette4", "uint4 palette", ("uint4", PARAMETERS, PARAMETERS // 2)),
        ("palette6", "uint6 palette", ("uint6", PARAMETERS, PARAMETERS * 6 // 8)),
    ],
)
def test_compressed_weights(made: Path, name: str, weight: str, stored: Any) -> None:
    found = describe(inspect(made / f"{name}.mlpackage"))
    convolutions = [row for row in found.table if row.kind == "conv"]
    assert [(row.source, row.weight, row.count) for row in convolutions] == [("float16", weight, 2)]
    assert found.arithmetic["unpack"] == 2
    rows = [(r.dtype, r.elements, r.size_bytes) for r in found.inspection.stored if r.purpose == "parameters"]
    assert rows == [stored]


def packed(folder: Path, path: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for file in sorted(folder.rglob("*")):
            made.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize(("name", "prefix"), [("a.zip", "linear.mlpackage/"), ("a.mlpackage", ""), ("b.zip", "")])
def test_an_archive_is_what_it_holds(made: Path, tmp_path: Path, name: str, prefix: str) -> None:
    folder = made / "linear.mlpackage"
    archived, plain = inspect(packed(folder, tmp_path / name, prefix)), inspect(folder)
    assert (archived.ops, archived.stored, archived.size_bytes) == (plain.ops, plain.stored, plain.size_bytes)
    assert archived.file == name


@pytest.mark.parametrize(
    "member",
    ["../outside", "a/../../outside", "/etc/outside", "..\\outside", "C:/outside", "x.mlpackage/../../outside"],
)
def test_a_member_outside_is_refused(made: Path, tmp_path: Path, member: str) -> None:
    path = packed(made / "float.mlpackage", tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archived:
        archived.writestr(member, b"harm")
    with pytest.raises(InputError, match="outside itself"):
        inspect(path)
    assert not list(tmp_path.parent.rglob("outside"))


def test_a_link_is_refused(made: Path, tmp_path: Path) -> None:
    path = packed(made / "float.mlpackage", tmp_path / "a.zip")
    link = zipfile.ZipInfo("Data/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archived:
        archived.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="a link or a device"):
        inspect(path)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archived, archived.open("Data/zeros", "w") as member:
        for _ in range(80):
            member.write(bytes(1 << 20))
    with pytest.raises(InputError, match="unpacks from .* to 83,886,080"):
        inspect(path)


def test_a_bomb_that_hides_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory says ten bytes where a megabyte comes out: the reader stops, and the rest is never written."""
    monkeypatch.setattr(archive, "SMALL", 1000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archived:
        archived.writestr("Data/zeros", bytes(1 << 20))
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, directory + 24, 10)
    struct.pack_into("<I", data, 22, 10)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"broken archive|unpacks from"):
        inspect(path)


def test_absolute_size_and_count_have_limits(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(made / "float.mlpackage", tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    monkeypatch.setattr(archive, "MAX_BYTES", 5000)
    with pytest.raises(InputError, match="unpacks from"):
        inspect(path)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    with pytest.raises(InputError, match="members"):
        inspect(path)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_refused(made: Path, tmp_path: Path, keep: float) -> None:
    path = packed(made / "float.mlpackage", tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match="broken archive"):
        inspect(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archived:
        archived.writestr("readme.txt", b"hello")
    with pytest.raises(InputError, match="no Core ML packages"):
        inspect(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(InputError, match="broken archive"):
        inspect(tmp_path / "b.zip")


@pytest.mark.parametrize(
    "file", [f"Data/{package.MODEL}", f"Data/{package.WEIGHTS_FOLDER}/weight.bin", "Manifest.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "random"])
def test_a_broken_package_is_refused(made: Path, tmp_path: Path, file: str, damage: str) -> None:
    copy = Path(shutil.copytree(made / "linear.mlpackage", tmp_path / "copy.mlpackage"))
    data = (copy / file).read_bytes()
    broken = data[: len(data) // 3] if damage == "truncated" else np.random.default_rng(0).bytes(len(data))
    (copy / file).write_bytes(broken)
    with pytest.raises(InputError):
        inspect(copy)


def test_a_huge_declared_shape_is_refused(made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made / "float.mlpackage", tmp_path / "copy.mlpackage"))
    spec = package.Package(copy).spec
    _, block = package.main_block(spec)
    for operation in block.operations:
        if "val" in operation.attributes and operation.attributes["val"].WhichOneof("value") == "blobFileValue":
            value = operation.attributes["val"]
            value.type.tensorType.dimensions[0].constant.size = 2**40
    (copy / "Data" / package.MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(InputError, match="no model of this kind"):
        inspect(copy)


def test_tensors_are_what_was_stored(made: Path, tmp_path: Path) -> None:
    """Codes times their scales are the float weights; one byte changed in the weight file is one number changed."""
    floats = [t for t in tensors.read(made / "float.mlpackage").values() if t.codes is not None and t.codes.size > 99]
    found = tensors.read(made / "linear.mlpackage")
    codes = {name: t for name, t in found.items() if t.dtype == "int8" and t.codes is not None and t.codes.size > 99}
    assert len(codes) == len(floats) == 2
    for (name, tensor), exact in zip(codes.items(), floats, strict=True):
        scale = found[name.rpartition(".")[0] + ".scale"].codes
        assert (
            tensor.shape == exact.shape and scale is not None and tensor.codes is not None and exact.codes is not None
        )
        real = tensor.codes.reshape(len(scale), -1) * scale[:, None].astype(np.float64)
        # half a step, and the rounding of the weight and of the scale to float16
        allowed = float(scale.max()) / 2 + 2 * 2.0**-11 * float(np.abs(exact.codes).max())
        assert np.abs(real.reshape(-1) - exact.codes).max() <= allowed
    shutil.copytree(made / "linear.mlpackage", tmp_path / "changed.mlpackage")
    file = next((tmp_path / "changed.mlpackage").rglob("weight.bin"))
    name, tensor = next(iter(codes.items()))
    assert tensor.codes is not None
    data = bytearray(file.read_bytes())
    data[data.find(tensor.codes.tobytes()) + 20] ^= 1
    file.write_bytes(data)
    (change,) = compare.tensors(found, tensors.read(tmp_path / "changed.mlpackage")).changes
    assert (change.name, change.field) == (name, f"1 of {tensor.codes.size:,} numbers, most at 20")
    palette = tensors.read(made / "palette6.mlpackage")
    assert sum(t.codes.size for t in palette.values() if t.dtype == "uint6" and t.codes is not None) == PARAMETERS
