"""A .tflite from anywhere: its facts against what was built, and every way of breaking it."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from exporters._confined import ConfinedSession, packed, unpacked
from exporters._quiet import quiet
from exporters._tflite import flatbuffer
from exporters._tflite.inspect import checked, inspect
from qtools.core import plugins
from qtools.core.errors import InputError
from qtools.core.inspection import Grid
from reports.inspection import Border, describe

TYPES, OPS = schema.TensorType, schema.BuiltinOperator
SIDE = 8


class Builder:
    """A graph written through the schema, in no tool's way but the format's own."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.model.description = b"made by hand"

    def tensor(self, name: str, kind: int, shape: list[int], grid: Any = None, data: Any = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.shape, tensor.buffer = name.encode(), kind, shape, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if grid is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [grid[0]], [grid[1]]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, code: int, inputs: list[int], output: int, custom: str = "") -> None:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
        entry.version = 4 if code == OPS.FULLY_CONNECTED else 1
        if custom:
            entry.customCode = custom.encode()
        self.model.operatorCodes.append(entry)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.graph.operators), inputs, [output]
        if code == OPS.FULLY_CONNECTED:
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = schema.FullyConnectedOptionsT()
        self.graph.operators.append(operator)

    def linear(self, name: str, source: int, codes: bool = True) -> int:
        rng = np.random.default_rng(len(name))
        weight = rng.integers(-127, 128, (SIDE, SIDE)).astype(np.int8 if codes else np.float32)
        bias = np.zeros(SIDE, np.int32 if codes else np.float32)
        kind, grid = (TYPES.INT8, (0.01, 0)) if codes else (TYPES.FLOAT32, None)
        w = self.tensor(f"{name}/w", kind, [SIDE, SIDE], grid, weight)
        numbers, step = (TYPES.INT32, (0.0005, 0)) if codes else (TYPES.FLOAT32, None)
        b = self.tensor(f"{name}/b", numbers, [SIDE], step, bias)
        out = self.tensor(name, kind, [1, SIDE], (0.1, 3) if codes else None)
        self.op(OPS.FULLY_CONNECTED, [source, w, b], out)
        return out

    def data(self, source: int, result: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [source], [result]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def island(custom: str = "") -> bytes:
    """linear (int8), DEQUANTIZE, TANH or a custom operation, QUANTIZE, linear (int8)."""
    b = Builder()
    entry = b.tensor("image", TYPES.INT8, [1, SIDE], (0.05, -1))
    codes = b.linear("first", entry)
    real = b.tensor("real", TYPES.FLOAT32, [1, SIDE])
    b.op(OPS.DEQUANTIZE, [codes], real)
    curved = b.tensor("curved", TYPES.FLOAT32, [1, SIDE])
    b.op(OPS.CUSTOM if custom else OPS.TANH, [real], curved, custom)
    again = b.tensor("again", TYPES.INT8, [1, SIDE], (0.05, -1))
    b.op(OPS.QUANTIZE, [curved], again)
    return b.data(entry, b.linear("second", again))


GOOD = island()


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def write(data: bytes, name: str = "foreign.tflite") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def test_the_facts_of_a_foreign_file(save: Any) -> None:
    path = save(GOOD)
    found = describe(inspect(path))
    facts = found.inspection
    assert facts.producer == "made by hand" and facts.metadata is None and facts.size_bytes == len(GOOD)
    (entry,), (result,) = facts.inputs, facts.outputs
    assert (entry.name, entry.shape, entry.dtype) == ("image", (1, SIDE), "int8")
    assert entry.grid == Grid((float(np.float32(0.05)),), (-1,)) and result.grid == Grid(
        (float(np.float32(0.1)),), (3,)
    )
    assert found.arithmetic == {"Q/DQ": 2, "float": 1, "integer": 2}
    (only,) = found.islands
    assert only.ops == {"TANH": 1}
    assert [b.kind for b in (*only.entered, *only.left)] == ["DEQUANTIZE", "QUANTIZE"]
    assert isinstance(only.entered[0], Border) and only.entered[0].tensor.startswith("real")
    sizes = {row.dtype: (row.tensors, row.elements, row.size_bytes) for row in facts.stored}
    assert sizes == {"int8": (2, 2 * SIDE**2, 2 * SIDE**2), "int32": (2, 2 * SIDE, 8 * SIDE)}


def test_what_xnnpack_takes_is_what_the_interpreter_shows(save: Any) -> None:
    path = save(GOOD)
    placement = inspect(path).placement
    with quiet():
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    delegates = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    assert len(placement.partitions) == len(delegates) > 0
    taken = sum(sum(part.values()) for part in placement.partitions)
    assert taken + sum(placement.left.values()) == 5 and taken >= 2


def test_a_file_of_another_quantizer(save: Any) -> None:
    """ai-edge-quantizer's own recipe for float activations on integer weights."""
    from ai_edge_quantizer import quantizer

    b = Builder()
    entry = b.tensor("image", TYPES.FLOAT32, [1, SIDE])
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.inputs, signature.outputs = b"serving_default", [], []
    result = b.linear("first", entry, codes=False)
    for end, names in ((entry, signature.inputs), (result, signature.outputs)):
        named = schema.TensorMapT()
        named.name, named.tensorIndex = b.graph.tensors[end].name, end
        names.append(named)
    b.model.signatureDefs = [signature]
    path = save(b.data(entry, result), "float.tflite")
    with quiet():
        tool = quantizer.Quantizer(str(path))
        tool.update_quantization_recipe(
            regex=".*",
            operation_name="FULLY_CONNECTED",
            op_config=_weights_only_integer(),
            algorithm_key="min_max_uniform_quantize",
        )
        made = save(bytes(tool.quantize().quantized_model), "dynamic.tflite")
    assert [row.arithmetic for row in describe(inspect(path)).table] == ["float"]
    (row,) = describe(inspect(made)).table
    assert (row.source, row.weight, row.arithmetic) == ("float32", "int8", "dynamic")


def _weights_only_integer() -> Any:
    from ai_edge_quantizer import qtyping

    channels = qtyping.QuantGranularity.CHANNELWISE
    weights = qtyping.TensorQuantizationConfig(num_bits=8, symmetric=True, granularity=channels)
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
        min_weight_elements=0,
    )


def test_an_operation_litert_lacks_is_named_and_the_rest_is_shown(save: Any) -> None:
    found = inspect(save(island("Nobody'sOp")))
    assert "Nobody'sOp" in found.placement.unknown and found.placement.note.startswith("not run")
    assert [op.kind for op in found.ops][2] == "Nobody'sOp" and found.ops[0].runs == ""


@pytest.mark.parametrize("keep", [0, 3, 7, 8, 40, 0.25, 0.5, 0.75, 0.95])
def test_a_truncated_file_is_refused(save: Any, keep: float) -> None:
    length = keep if keep >= 1 or keep == 0 else int(len(GOOD) * keep)
    with pytest.raises(InputError, match="TFL3|truncated or corrupt"):
        inspect(save(GOOD[: int(length)]))


@pytest.mark.parametrize("data", [b"\0\0\0\0TFL3", b"\x10\0\0\0TFL3" + bytes(64), b"\xff" * 4 + b"TFL3" + b"\xff" * 64])
def test_an_empty_shell_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="truncated or corrupt|no graph"):
        checked(data, "shell.tflite")


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for content in (data, data[:4] + b"TFL3" + data[8:]):
        with pytest.raises(InputError):
            checked(content, "random.tflite")


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_corrupt_file_is_refused_or_read_but_never_crashes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    try:
        model = checked(bytes(data), "corrupt.tflite")
    except InputError:
        return
    assert model["graphs"]


def change(edit: Any) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(GOOD, 0))
    edit(model, model.subgraphs[0])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m, g: setattr(g.tensors[0], "shape", [2**30, 2**30]), "which no model of this kind has"),
        (lambda m, g: setattr(g.tensors[0], "shape", [-7]), "which no model of this kind has"),
        (lambda m, g: setattr(g.tensors[1], "shape", [SIDE, SIDE + 1]), "bytes are stored"),
        (lambda m, g: setattr(g.tensors[1], "buffer", 99), "names no buffer"),
        (lambda m, g: setattr(g.tensors[1], "type", 77), "unknown type 77"),
        (lambda m, g: setattr(g.operators[0], "opcodeIndex", 99), "no code"),
        (lambda m, g: setattr(g.operators[0], "inputs", [0, 1, 2**30]), "no tensor"),
        (lambda m, g: setattr(g, "outputs", [2**30]), "no tensor"),
        (lambda m, g: setattr(g, "operators", []), "no graph"),
        (lambda m, g: setattr(g.tensors[1].quantization, "scale", [1.0, 2.0]), "2 scales"),
        (lambda m, g: setattr(g.tensors[0].quantization, "scale", [float("nan")]), "a scale that is no number"),
        (lambda m, g: vars(m.buffers[0]).update(offset=2**40, size=2**40), "outside the file"),
    ],
)
def test_a_lie_inside_is_named(edit: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked(change(edit), "lie.tflite")


def test_tables_named_many_times_do_not_multiply_the_work() -> None:
    """A vector of 20 000 graphs that are one table with a name of 20 000 letters: 400 MB from 100 kB."""
    count = 20_000
    head = struct.pack("<I4s", 24, b"TFL3")
    fields = struct.pack("<HHHHHHHH", 10, 8, 0, 0, 4, 0, 0, 0)  # graphs at 4
    model = struct.pack("<iI", 16, 4)  # the vector follows
    graphs_at = 32
    graph_at = graphs_at + 4 + 4 * count + 16
    vector = struct.pack("<I", count) + b"".join(
        struct.pack("<I", graph_at - (graphs_at + 4 + 4 * i)) for i in range(count)
    )
    graph_fields = struct.pack("<HHHHHHHH", 14, 8, 0, 0, 0, 0, 4, 0)  # name at 4
    graph = struct.pack("<iII", 16, 4, count) + b"a" * count
    with pytest.raises(InputError, match="its tables overlap"):
        checked(head + fields + model + vector + graph_fields + graph, "many.tflite")


def test_a_file_that_only_litert_can_refuse(save: Any) -> None:
    def wrong_types(model: Any, graph: Any) -> None:
        graph.operators[0].outputs = graph.operators[1].outputs

    with pytest.raises(InputError, match="LiteRT"):
        inspect(save(change(wrong_types)))


def test_a_session_apart_answers_as_one_here(save: Any) -> None:
    target = plugins.find("exporters", "tflite", "TARGET")
    path, given = save(GOOD), {"image": np.arange(-4, 4, dtype=np.int8)[None]}
    apart, here = (opened(path, "xnnpack", 1) for opened in (target.foreign, target.session))
    assert isinstance(apart, ConfinedSession)
    for _ in range(2):
        assert {n: a.tolist() for n, a in apart(given).items()} == {n: a.tolist() for n, a in here(given).items()}
    with pytest.raises(InputError, match="other inputs"):
        apart({"image": np.zeros((1, 3), np.int8)})


def test_a_runtime_that_dies_on_an_input_takes_nothing_along(save: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "killer.py").write_text(
        "import os, signal\nclass Session:\n    def __init__(self, *_): pass\n"
        "    def __call__(self, inputs): os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    session = ConfinedSession(("killer", "Session"), "LiteRT", save(GOOD), "xnnpack", 1)
    with pytest.raises(InputError, match=r"LiteRT crashed on foreign.tflite \(signal 11\)"):
        session({"image": np.zeros((1, SIDE), np.int8)})


def test_what_another_process_answers_is_numbers_of_the_declared_size() -> None:
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    assert unpacked(packed(array)).tolist() == array.tolist()
    for change in ({"dtype": "<f8"}, {"shape": [1 << 60]}, {"dtype": "|O"}, {"dtype": "<U1"}):
        with pytest.raises((InputError, TypeError, ValueError)):
            unpacked(packed(array) | change)


def test_no_option_of_an_operation_leads_the_generated_code_astray() -> None:
    """tables.py leaves options out; whatever the generated code finds there ends in an InputError."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(GOOD)
        data[int(rng.integers(8, len(data)))] = int(rng.integers(256))
        with contextlib.suppress(InputError):
            flatbuffer.read(bytes(data))
