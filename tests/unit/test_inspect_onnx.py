"""An .onnx from anywhere: onnxruntime's own quantizers, broken files, and files that reach outside."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters._onnx.inspect import inspect
from exporters._quiet import quiet
from qtools.core.errors import InputError
from qtools.core.inspection import Grid
from reports.inspection import Description, describe

PARAMETERS = 8 * 3 * 9 + 8 + 8 * 8 + 5 * 8 + 5


def network() -> onnx.ModelProto:
    """Conv, Relu, Erf, Conv, pool, Gemm; the batch is dynamic."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Erf", ["r1"], ["e1"]),
            helper.make_node("Conv", ["e1", "w2"], ["c2"]),
            helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [weight("w1", 8, 3, 3, 3), weight("b1", 8), weight("w2", 8, 8, 1, 1), weight("w3", 5, 8), weight("b3", 5)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in float, and as onnxruntime's own tools quantize it."""
    from onnxruntime import quantization as tool

    folder = tmp_path_factory.mktemp("onnx")
    onnx.save(network(), folder / "float.onnx")

    class Images(tool.CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self._left: Iterator[Any] = iter([{"image": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}] * 2)

        def get_next(self) -> Any:
            return next(self._left, None)

    with quiet():
        for name, form in (("qdq", tool.QuantFormat.QDQ), ("qoperator", tool.QuantFormat.QOperator)):
            kinds = {"activation_type": tool.QuantType.QUInt8, "weight_type": tool.QuantType.QInt8}
            tool.quantize_static(folder / "float.onnx", folder / f"{name}.onnx", Images(), quant_format=form, **kinds)
    return folder


def arithmetic(found: Description) -> dict[str, str]:
    return {row.kind: row.arithmetic for row in found.table}


def test_a_float_file(made: Path) -> None:
    found = describe(inspect(made / "float.onnx"))
    assert set(arithmetic(found).values()) == {"float"} and found.islands == ()
    facts = found.inspection
    assert facts.inputs[0].shape == ("batch", 3, 8, 8) and facts.inputs[0].grid is None
    assert [(row.dtype, row.elements, row.size_bytes) for row in facts.stored] == [
        ("float32", PARAMETERS, 4 * PARAMETERS)
    ]
    assert facts.metadata is None and facts.size_bytes == (made / "float.onnx").stat().st_size


def test_pairs_around_an_operation_make_it_integer(made: Path) -> None:
    found = describe(inspect(made / "qdq.onnx"))
    kinds = arithmetic(found)
    assert {kinds[k] for k in ("Conv", "Erf", "GlobalAveragePool", "Flatten", "Gemm")} == {"QDQ"}
    assert found.islands == ()
    rows = {row.kind: row for row in found.table if row.arithmetic == "QDQ"}
    assert (rows["Conv"].source, rows["Conv"].weight, rows["Conv"].result) == ("uint8", "int8", "uint8")
    assert rows["Conv"].runs == "QLinearConv" and not rows["Conv"].fallback
    assert rows["Erf"].runs == "Erf" and rows["Erf"].fallback, "onnxruntime has no integer Erf on a CPU"
    weights = {row.dtype: row.elements for row in found.inspection.stored if row.purpose == "parameters"}
    assert weights == {"int8": PARAMETERS - 13, "int32": 13}


def test_the_kernels_are_those_of_a_session(made: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "rewritten.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(made / "qdq.onnx"), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "rewritten.onnx").graph.node]
    assert inspect(made / "qdq.onnx").placement.kernels == {kind: nodes.count(kind) for kind in set(nodes)}


def test_operators_of_their_own_leave_float_islands(made: Path) -> None:
    found = describe(inspect(made / "qoperator.onnx"))
    kinds = arithmetic(found)
    assert kinds["QLinearConv"] == kinds["QGemm"] == kinds["Flatten"] == "integer"
    (island,) = found.islands
    assert island.ops == {"Erf": 1}
    assert [b.kind for b in (*island.entered, *island.left)] == ["DequantizeLinear", "QuantizeLinear"]


def test_integer_ends_have_their_grid(tmp_path: Path) -> None:
    constants = [numpy_helper.from_array(np.float32(0.25), "s"), numpy_helper.from_array(np.uint8(7), "z")]
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["image", "s", "z"], ["x"]),
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("QuantizeLinear", ["y", "s", "z"], ["codes"]),
        ],
        "ends",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, [1, 4])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="qtools", value='{"model": "tiny"}')
    model.metadata_props.add(key="note", value="hello")
    onnx.save(model, tmp_path / "ends.onnx")
    facts = inspect(tmp_path / "ends.onnx")
    assert facts.inputs[0].grid == facts.outputs[0].grid == Grid((0.25,), (7,))
    assert facts.metadata == {"model": "tiny"} and facts.foreign == {"note": 5}
    assert {row.purpose for row in facts.stored} == {"grids"}


def test_an_operator_the_runtime_lacks_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    model = network()
    model.graph.node[2].op_type, model.graph.node[2].domain = "NobodysOp", "nobody"
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    onnx.save(model, tmp_path / "custom.onnx")
    found = inspect(tmp_path / "custom.onnx")
    assert "NobodysOp" in found.placement.unknown
    assert [op.kind for op in found.ops][2] == "NobodysOp" and len(found.ops) == 7


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(made: Path, tmp_path: Path, keep: float) -> None:
    data = (made / "qdq.onnx").read_bytes()
    (tmp_path / "part.onnx").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError):
        inspect(tmp_path / "part.onnx")


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "random.onnx").write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(InputError, match="no ONNX model"):
        inspect(tmp_path / "random.onnx")


def test_changed_bytes_are_refused_or_read_but_never_crash(made: Path, tmp_path: Path) -> None:
    data = (made / "qdq.onnx").read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(6):
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 8):
            changed[position] = int(rng.integers(256))
        (tmp_path / "changed.onnx").write_bytes(bytes(changed))
        with contextlib.suppress(InputError):
            assert inspect(tmp_path / "changed.onnx").ops


@pytest.mark.parametrize("name", [b"image", b"Conv", b"w1"])
def test_a_name_that_is_no_text_is_refused(made: Path, tmp_path: Path, name: bytes) -> None:
    data = (made / "float.onnx").read_bytes().replace(name, b"\xff" + name[1:], 1)
    (tmp_path / "name.onnx").write_bytes(data)
    with pytest.raises(InputError, match="no text"):
        inspect(tmp_path / "name.onnx")


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(tmp_path: Path, scale: float) -> None:
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["image", "s"], ["real"])],
        "ends",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("real", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.float32(scale), "s")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    with pytest.raises(InputError, match="holds no numbers"):
        inspect(tmp_path / "s.onnx")


def broken(change: Callable[[onnx.TensorProto], None], path: Path) -> Path:
    model = network()
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.dims.__setitem__(0, 2**40), "declares the shape"),
        (lambda t: t.dims.__setitem__(0, -8), "declares the shape"),
        (lambda t: t.dims.__setitem__(0, 9), "declares 972 bytes and holds 864"),
        (lambda t: t.ClearField("raw_data"), "holds 0"),
    ],
)
def test_sizes_that_are_not_there_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        inspect(broken(change, tmp_path / "sizes.onnx"))


def outside(location: str, **fields: int) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **fields}.items():
            tensor.external_data.add(key=key, value=str(value))

    return change


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../secret.bin", "outside its folder"),
        ("/etc/hostname", "outside its folder"),
        ("sub/../../secret.bin", "outside its folder"),
        ("..\\secret.bin", "outside its folder"),
        ("C:\\secret.bin", "outside its folder"),
        ("", "outside its folder"),
        ("link.bin", "behind a link"),
        ("absent.bin", "not there"),
    ],
)
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str, said: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(864))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputError, match=said):
        inspect(broken(outside(location), folder / "model.onnx"))


@pytest.mark.parametrize("fields", [{"length": 2**50}, {"offset": -1}, {"offset": 1}, {"length": 100}])
def test_data_beside_the_file_is_as_long_as_declared(tmp_path: Path, fields: dict[str, int]) -> None:
    (tmp_path / "beside.bin").write_bytes(bytes(864))
    with pytest.raises(InputError, match=r"ends outside|declares 864 bytes"):
        inspect(broken(outside("beside.bin", **fields), tmp_path / "model.onnx"))


def test_data_beside_the_file_is_counted(tmp_path: Path, made: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx", save_as_external_data=True, location="beside.bin", size_threshold=0)
    facts, whole = inspect(tmp_path / "model.onnx"), inspect(made / "float.onnx")
    assert facts.stored == whole.stored and facts.placement.kernels == whole.placement.kernels
    assert facts.size_bytes == sum(f.stat().st_size for f in tmp_path.iterdir())
    shutil.move(tmp_path / "beside.bin", tmp_path / "moved.bin")
    with pytest.raises(InputError, match="not there"):
        inspect(tmp_path / "model.onnx")
