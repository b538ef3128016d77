"""What GELU costs in LiteRT, whose XNNPACK delegate has no int8 form of it: `make test ARGS='-m bench -n 0 -k gelu'`.

The artifact beside three others that differ in its GELUs only: computed by a table inside the delegate (LOGISTIC, the
same 256-entry lookup on the same elements, so that the difference is what cutting the graph costs), left out (what the
GELUs cost in all), and written as the two operations that come nearest to it, x * LOGISTIC(x).
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from exporters._tflite import flatbuffer
from reports.latency import Latency, measure

pytestmark = pytest.mark.bench
AS_IT_IS = ("GELU",)
FORMS = {"left out": (), "one table": ("LOGISTIC",), "table and product": ("LOGISTIC", "MUL"), "GELU": AS_IT_IS}
ROUNDS = 100


def rewritten(data: bytes, kinds: tuple[str, ...]) -> bytes:
    """The artifact with every GELU replaced; for timing, the numbers are no longer the network's."""
    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    codes = {kind: _code(model, kind) for kind in kinds if kinds != AS_IT_IS}
    now: dict[int, int] = {}
    operators = []
    for operator in graph.operators:
        operator.inputs = np.array([now.get(int(i), int(i)) for i in operator.inputs], np.int32)
        if flatbuffer.op_name(model, operator) == "GELU" and kinds != AS_IT_IS:
            made, source = int(operator.outputs[0]), int(operator.inputs[0])
            if not kinds:
                now[made] = source
                continue
            operators += _replacement(model, codes, source, made)
            continue
        if flatbuffer.op_name(model, operator) == "PAD":  # it passes codes on, so its result has its source's grid
            _take_grid(graph, int(operator.outputs[0]), int(operator.inputs[0]))
        operators.append(operator)
    graph.operators = operators
    return flatbuffer.write(model)


def _code(model: Any, kind: str) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = 2
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _replacement(model: Any, codes: dict[str, int], source: int, made: int) -> list[Any]:
    graph = model.subgraphs[0]
    gate = made
    if "MUL" in codes:
        graph.tensors.append(schema.TensorT())
        gate, old = len(graph.tensors) - 1, graph.tensors[made]
        new = graph.tensors[gate]
        new.shape, new.type, new.buffer, new.name = old.shape, old.type, 0, f"gate {gate}".encode()
        new.quantization = schema.QuantizationParametersT()
    grid = graph.tensors[gate].quantization
    grid.scale, grid.zeroPoint = np.array([1 / 256], np.float32), np.array([-128], np.int64)
    found = [_operator(codes["LOGISTIC"], [source], gate)]
    if "MUL" in codes:
        product = _operator(codes["MUL"], [source, gate], made)
        product.builtinOptionsType, product.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
        found.append(product)
    return found


def _operator(code: int, inputs: list[int], output: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    return operator


def _take_grid(graph: Any, target: int, source: int) -> None:
    grid, other = graph.tensors[target].quantization, graph.tensors[source].quantization
    grid.scale, grid.zeroPoint = other.scale, other.zeroPoint


def opened(data: bytes) -> tuple[Interpreter, int]:
    """An interpreter with noise in its input, and the number of its delegate's parts."""
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    noise = np.random.default_rng(0).integers(-128, 128, entry["shape"])
    interpreter.set_tensor(entry["index"], noise.astype(entry["dtype"]))
    return interpreter, sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


def test_gelu_against_other_forms(bench: Any) -> None:
    """No limit is set: the forms are there to be read. Their partitions are what the comparison rests on."""
    forms = {name: opened(rewritten(bench.quantized._data, kinds)) for name, kinds in FORMS.items()}
    assert {name: parts for name, (_, parts) in forms.items()} == {
        "left out": 1,
        "one table": 1,
        "table and product": 1,
        "GELU": 26,
    }
    calls = {name: interpreter.invoke for name, (interpreter, _) in forms.items()}
    sys.stdout.write(_told(measure(calls, host="", threads=1, runs=ROUNDS, warmup=10)))


def _told(found: Latency) -> str:
    lines = [f"{r.name} / {r.against}: {r.median:.3f} [{r.lo:.3f}, {r.hi:.3f}]" for r in found.ratios]
    return "\n".join(["", *lines, ""])


def test_no_product_of_tables_is_gelu() -> None:
    """x * Phi(x) with Phi in steps of 1/256, the best that LOGISTIC's grid could hold, is another function on codes."""
    codes = np.arange(-128, 128)
    differing = [_differing(codes, peak) for peak in (2.0, 4.0, 8.0, 16.0)]
    assert all(differing)  # at every width of the input's grid
    sys.stdout.write(f"\ncodes of 256 that differ: {differing}\n")


def _differing(codes: NDArray[Any], peak: float) -> int:
    step = peak / 128
    x = codes * step
    phi = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    exact = x * phi
    scale = (exact.max() - exact.min()) / 255
    gate = np.clip(np.rint(phi * 256), 0, 255) / 256
    return int((np.rint(exact / scale) != np.rint(x * gate / scale)).sum())
