"""onnxruntime sessions: optimizing or not, with extra outputs, and what became of the graph inside."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime

from qtools.core.errors import InputError

LEVELS = onnxruntime.GraphOptimizationLevel
INT8_ALLOWED = "session.qdqisint8allowed"
"""Without it, onnxruntime on x86 rewrites some int8 pairs to uint8 and then misses kernels whose ends no longer match;
on Arm it is the default. It changes nothing for uint8."""
EXACT_SUMS = "session.x64quantprecision"
"""Without it, onnxruntime on x86 without VNNI adds pairs of products of uint8 and int8 in 16 bits, which overflow; with
it, weights are made uint8 there. It changes nothing for other processors; files on int8 activations it breaks."""
FATAL = 4
"""onnxruntime's log severity: what it warns about (nodes it removed, files it wrote) is nothing a user can act on."""


def computes_on_codes(kind: str) -> bool:
    """Whether an operator, in the standard or of onnxruntime's own, is an integer kernel."""
    return kind.startswith(("QLinear", "QGemm", "QAttention")) or kind.endswith(("Integer", "IntegerToFloat"))


def start(
    model: onnx.ModelProto | Path,
    *,
    threads: int,
    optimize: bool,
    written_to: Path | None = None,
    profile_to: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Opens a model on the CPU provider.

    Args:
        model: The model, complete in itself; or a file, which may keep tensors in others.
        threads: Threads inside one operator.
        optimize: All of onnxruntime's graph rewriting, or none of it.
        written_to: Where the rewritten graph is saved.
        profile_to: Beginning of the path of a trace of every node that runs; None = no trace.

    Raises:
        InputError: If onnxruntime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    options.add_session_config_entry(INT8_ALLOWED, "1")
    options.graph_optimization_level = LEVELS.ORT_ENABLE_ALL if optimize else LEVELS.ORT_DISABLE_ALL
    if written_to is not None:
        options.optimized_model_filepath = str(written_to)
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        for name, value in needed(model).items():
            options.add_session_config_entry(name, value)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # broad: onnxruntime's exception classes have no common root of their own
        raise InputError(
            f"onnxruntime cannot run this artifact: {str(error).strip()}", "check it with onnx.checker"
        ) from error


def needed(model: onnx.ModelProto | Path) -> dict[str, str]:
    """Session options that a file has to be opened with: exact sums, where QuantizeLinear gives uint8."""
    graph = (onnx.load(str(model), load_external_data=False) if isinstance(model, Path) else model).graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    uint8 = any(each.name in zeros and each.data_type == onnx.TensorProto.UINT8 for each in graph.initializer)
    return {EXACT_SUMS: "1"} if uint8 else {}


def expose(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy with more outputs; their types are left to onnxruntime's own inference."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {out.name for out in copy.graph.output} | {i.name for i in copy.graph.input}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
    return copy


def operators(model: onnx.ModelProto) -> Counter[str]:
    """Operators that onnxruntime runs after all its rewriting, by how often."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rewritten.onnx"
        start(model, threads=1, optimize=True, written_to=path)
        return Counter(node.op_type for node in onnx.load(path).graph.node)
