"""Real runtimes timed: what they are run on, what they take, and that a slower artifact comes out slower."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from exporters import _apart
from exporters import onnx as onnx_target
from exporters import tflite as tflite_target
from exporters._onnx import timed as onnx_timed
from exporters._quiet import quiet
from exporters._timed import filled
from qtools.cli import main
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.protocols import TimedFile
from reports.bench import BENCH_FILE

TYPES, OPS = schema.TensorType, schema.BuiltinOperator
WIDE = 256
FAST, SLOW = 2, 40
"""Layers of the same network: twenty times the work is not lost in any noise."""
TIMERS = {"tflite": tflite_target.TARGET.timer, "onnx": onnx_target.TARGET.timer}


def tflite(layers: int) -> bytes:
    """Float FULLY_CONNECTED layers with a TANH behind them, which are no business of XNNPACK's in int8 only."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    for code in (OPS.FULLY_CONNECTED, OPS.TANH, OPS.FLOOR_MOD):
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, code, 1
        model.operatorCodes.append(entry)
    graph.tensors, graph.operators = [], []

    def tensor(name: str, shape: list[int], data: Any = None) -> int:
        made = schema.TensorT()
        made.name, made.type, made.shape, made.buffer = name.encode(), TYPES.FLOAT32, shape, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.astype(np.float32).tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operation(code: int, reads: list[int]) -> int:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs = code, reads
        made.outputs = [tensor(f"t{len(graph.tensors)}", [1, WIDE])]
        if code == 0:
            made.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            made.builtinOptions = schema.FullyConnectedOptionsT()
        graph.operators.append(made)
        return int(made.outputs[0])

    rng = np.random.default_rng(0)
    weight = tensor("weight", [WIDE, WIDE], rng.normal(0, 0.05, (WIDE, WIDE)))
    one = tensor("one", [1, WIDE], np.full((1, WIDE), 3.0))
    bias = tensor("bias", [WIDE], np.zeros(WIDE))
    graph.inputs = [tensor("image", [1, WIDE])]
    value = graph.inputs[0]
    for _ in range(layers):
        value = operation(0, [value, weight, bias])
    value = operation(1, [value])
    graph.outputs = [operation(2, [value, one])]  # FLOOR_MOD has a kernel of LiteRT's only
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def onnx_model(layers: int, batch: Any = "batch") -> onnx.ModelProto:
    """The same in ONNX, with an open dimension and an integer product at its end."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 0.05, (WIDE, WIDE)).astype(np.float32), "weight")
    codes = numpy_helper.from_array(rng.integers(-127, 128, (WIDE, 8)).astype(np.int8), "codes")
    nodes = [helper.make_node("MatMul", [f"v{i}", "weight"], [f"v{i + 1}"]) for i in range(layers)]
    nodes += [
        helper.make_node("DynamicQuantizeLinear", [f"v{layers}"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "codes", "zero"], ["result"]),
    ]
    ends = (
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [batch, WIDE])],
        [helper.make_tensor_value_info("result", TensorProto.INT32, [batch, 8])],
    )
    graph = helper.make_graph(nodes, "tiny", *ends, [weight, codes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fast and slow, in both formats."""
    folder = tmp_path_factory.mktemp("timing")
    for name, layers in (("fast", FAST), ("slow", SLOW)):
        (folder / f"{name}.tflite").write_bytes(tflite(layers))
        onnx.save(onnx_model(layers), folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def benched(made: Path) -> Any:
    """One bench of all four, as JSON and read back."""
    out = made / "bench.json"
    words = [str(made / f"{name}.{kind}") for kind in TIMERS for name in ("fast", "slow")]
    run(["bench", *words, "--runs", "25", "--starts", "1", "--profile", "--out", str(out), "--json"])
    return BENCH_FILE.parse(out.read_text())


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0


@contextlib.contextmanager
def opened(kind: str, path: Path) -> Iterator[TimedFile]:
    timer = TIMERS[kind]
    assert timer is not None
    file = timer.open(path, 1)
    try:
        yield file
    finally:
        file.close()


def test_what_is_slower_comes_out_slower(benched: Any) -> None:
    (comparison,) = benched.comparisons
    ratios = {ratio.name: ratio for ratio in comparison.ratios}
    assert set(ratios) == {"slow.tflite", "fast.onnx", "slow.onnx"}
    assert {ratio.against for ratio in comparison.ratios} == {"fast.tflite"}
    assert ratios["slow.tflite"].lo > 2
    medians = {timing.artifact: timing.spread.median_ms for timing in benched.timings}
    assert medians["slow.onnx"] > 2 * medians["fast.onnx"]


def test_every_number_is_there(benched: Any) -> None:
    assert benched.machine.kind == "host" and benched.machine.name == benched.environment.cpu
    for timing in benched.timings:
        assert timing.status == "measured" and timing.spread.runs == len(timing.spread.samples_ms) == 25
        assert timing.opening.init_ms > 0 and timing.opening.first_ms > 0
        assert timing.memory.peak_bytes > timing.memory.added_bytes > WIDE * WIDE
    fed = {subject.name: subject.inputs[0] for subject in benched.artifacts}
    assert fed["fast.onnx"].opened == (0,) and fed["fast.onnx"].shape == (1, WIDE)
    assert fed["fast.tflite"].opened == () and "uniform in [-1, 1)" in fed["fast.tflite"].values


def test_the_profile_is_the_files_own_operations(benched: Any) -> None:
    profiles = {timing.artifact: timing.profile for timing in benched.timings}
    counts = {(k.kind, k.fast): k.count for k in profiles["slow.tflite"].kernels}
    fast = {kind: count for (kind, inside), count in counts.items() if inside}
    assert sum(count for kind, count in fast.items() if "Fully Connected" in kind) == SLOW
    assert counts["FLOOR_MOD", False] == 1 and not any("FLOOR_MOD" in kind for kind in fast)
    counts = {(k.kind, k.fast): round(k.count, 6) for k in profiles["slow.onnx"].kernels}
    assert counts["MatMul", False] == SLOW and counts["MatMulInteger", True] == 1
    for profile in profiles.values():
        assert 0 < sum(kernel.ms for kernel in profile.kernels) <= profile.wall_ms


def test_the_numbers_are_those_of_the_runtime_by_hand(made: Path) -> None:
    """In turns with the runtimes of this process, so that both have the same weather."""
    with quiet():
        interpreter = Interpreter(str(made / "slow.tflite"), num_threads=1)
        interpreter.allocate_tensors()
    session = onnxruntime.InferenceSession(str(made / "slow.onnx"), _one_thread(), providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).uniform(-1, 1, (1, WIDE)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise)
    calls: dict[str, Callable[[], Any]] = {
        "tflite": interpreter.invoke, "onnx": lambda: session.run(None, {"v0": noise}),
    }  # fmt: skip
    for kind, call in calls.items():
        by_hand, benched = [], []
        with opened(kind, made / f"slow.{kind}") as file:
            file.warm(5)
            for _ in range(100):
                call()
                start = time.perf_counter()
                call()
                by_hand.append(1e3 * (time.perf_counter() - start))
                benched.append(file.turn())
        # the best of each: what else runs on this machine can only add to a time
        assert 0.8 < min(benched) / min(by_hand) < 1.25, kind


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def test_a_stream_lasts_as_long_and_as_many_as_asked(made: Path) -> None:
    told: list[int] = []
    with opened("tflite", made / "fast.tflite") as file:
        assert len(file.stream(0.0, 37, lambda *_: None)) == 37
        start = time.perf_counter()
        found = file.stream(1.2, 3, lambda _label, done, _total: told.append(done))
    assert time.perf_counter() - start >= 1.2 and len(found) > 3 and sum(found) <= 1e3 * (time.perf_counter() - start)
    assert told, "a long stream reports itself"


def test_memory_is_what_the_file_takes(made: Path, tmp_path: Path) -> None:
    """A network with 32 MB more of weights takes that much more."""
    large = onnx_model(1)
    rng = np.random.default_rng(1)
    large.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(8 << 20,)).astype(np.float32), "more"))
    large.graph.node.append(helper.make_node("ReduceSum", ["more"], ["sum"], keepdims=0))
    large.graph.node.append(helper.make_node("Add", ["v0", "sum"], ["both"]))
    large.graph.output.append(helper.make_tensor_value_info("both", TensorProto.FLOAT, ["batch", WIDE]))
    onnx.save(large, tmp_path / "large.onnx")
    added = {}
    for name, path in (("fast", made / "fast.onnx"), ("large", tmp_path / "large.onnx")):
        with opened("onnx", path) as file:
            assert file.start.before_bytes is not None
            added[name] = (file.peak_bytes() or 0) - file.start.before_bytes
    assert added["large"] - added["fast"] > 30e6


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float32", "float16", "bool", "int32", "int64"])
def test_inputs_are_within_their_type(dtype: str) -> None:
    data, words = filled((1, 30, 30, 3), np.dtype(dtype), "image")
    assert (data.dtype, data.shape) == (np.dtype(dtype), (1, 30, 30, 3)) and words
    again, _ = filled((1, 30, 30, 3), np.dtype(dtype), "image")
    assert np.array_equal(data, again)
    if data.dtype.itemsize == 1 and dtype != "bool":
        assert (int(data.min()), int(data.max())) == (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if dtype in ("int32", "int64"):
        assert not data.any() and words == "zeros", "an index may point nowhere else"


@pytest.mark.parametrize(("shape", "dtype"), [((1 << 16, 1 << 16), "uint8"), ((3,), "str"), ((3,), "complex64")])
def test_what_cannot_be_fed_is_named(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(InputError, match="its input 'image'"):
        filled(shape, np.dtype(dtype), "image")


def test_a_file_that_runs_for_no_input_is_refused(tmp_path: Path) -> None:
    """Opens, and then wants more rows than an open dimension of 1 gives."""
    rows = numpy_helper.from_array(np.array([5, 3], np.int64), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [rows])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="onnxruntime cannot run m.onnx"), opened("onnx", tmp_path / "m.onnx"):
        pass


def test_inner_graphs_do_not_count_twice() -> None:
    events = [
        {"ts": 0, "dur": 100, "args": {"op_name": "Loop"}},
        {"ts": 10, "dur": 30, "args": {"op_name": "Conv"}},
        {"ts": 50, "dur": 20, "args": {"op_name": "If"}},
        {"ts": 55, "dur": 10, "args": {"op_name": "QLinearConv"}},
        {"ts": 100, "dur": 50, "args": {"op_name": "Conv"}},
    ]
    found = {k.kind: (k.count, round(1e3 * k.ms, 6), k.fast) for k in onnx_timed.kernel_times(events, 1)}
    assert found == {
        "Loop": (1, 50, False), "Conv": (2, 80, False), "If": (1, 10, False), "QLinearConv": (1, 10, True),
    }  # fmt: skip


def test_a_profiler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    timer = TIMERS["tflite"]
    assert timer is not None
    monkeypatch.setattr(_apart, "ask", lambda *_: {"refused": "no such function"})
    with pytest.raises(MissingPlatform, match="no such function"):
        timer.profile(made / "fast.tflite", 1, 3)


def test_two_threads_and_the_same_file_twice(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(made / "fast.tflite")
    run(["bench", path, path, "--threads", "1,2", "--runs", "8", "--starts", "1", "--json"])
    found = BENCH_FILE.parse(capfd.readouterr().out)
    assert [(t.artifact, t.threads) for t in found.timings] == [
        ("fast.tflite", 1), ("fast.tflite", 2), ("fast-2.tflite", 1), ("fast-2.tflite", 2),
    ]  # fmt: skip
    assert [(c.threads, c.ratios[0].name) for c in found.comparisons] == [(1, "fast-2.tflite"), (2, "fast-2.tflite")]


def test_a_single_stream(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--mode", "single-stream", "--min-duration", "0.2", "--min-queries", "100", "--starts", "1", "--json"]
    run(["bench", str(made / "fast.tflite"), *words])
    out = json.loads(capfd.readouterr().out)
    spread = out["timings"][0]["spread"]
    assert out["mode"] == "single-stream" and spread["runs"] >= 100 and out["comparisons"] == []
    ordered = sorted(spread["samples_ms"])
    assert spread["p90_ms"] == ordered[-(-len(ordered) * 9 // 10) - 1]
