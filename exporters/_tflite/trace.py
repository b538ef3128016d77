"""What each operation of a .tflite of our own takes: the profiler's kernels brought together with the file.

LiteRT names an operation by its position. XNNPACK numbers kernels within each part of the graph that it was given, in
the order of the operations; it leaves some out and makes several of others, so that the two rows are laid beside each
other by what a kernel can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from exporters import _apart
from exporters._leads import Leads, Step
from exporters._tflite import inspect, profile
from exporters._tflite.flatbuffer import CONVERSIONS
from exporters._tflite.profile import Event
from qtools.core import files
from qtools.core.errors import MissingPlatform
from qtools.core.inspection import ArtifactOp
from qtools.core.timing import OpTime, Trace

ANY = ("Clamp", "Copy", "Transpose", "Static Reshape")
"""Kernels that may come with every operation: an activation, and moves into the layout that the next one wants."""
KERNELS: Mapping[str, tuple[str, ...]] = {
    "CONV_2D": ("Convolution", "Fully Connected", "Constant Pad"),
    "DEPTHWISE_CONV_2D": ("Convolution", "Constant Pad"),
    "TRANSPOSE_CONV": ("Deconvolution", "Fully Connected"),
    "FULLY_CONNECTED": ("Fully Connected", "Dynamic Fully Connected", "Batch Matrix Multiply", "Convert"),
    "BATCH_MATMUL": ("Batch Matrix Multiply", "Fully Connected", "Convert"),
    "QUANTIZE": ("Convert",),
    "DEQUANTIZE": ("Convert",),
    "SUB": ("Subtract",),
    "MUL": ("Multiply", "Square"),
    "DIV": ("Divide",),
    "LOGISTIC": ("Sigmoid", "Invalid Unary Op"),  # so XNNPACK calls the table that it makes of SiLU on codes
    "RSQRT": ("Reciprocal Square Root",),
    "SQRT": ("Square Root",),
    "MEAN": ("Mean", "Global Average Pooling"),
    "SUM": ("Sum", "Global Sum Pooling"),
    "AVERAGE_POOL_2D": ("Average Pooling",),
    "MAX_POOL_2D": ("Max Pooling",),
    "RELU": ("Clamp",),
    "RELU6": ("Clamp",),
    "HARD_SWISH": ("HardSwish", "Hardswish", "Hard Swish"),
    "RESHAPE": ("Static Reshape", "Reshape"),
    "SQUEEZE": ("Static Reshape", "Reshape"),
    "EXPAND_DIMS": ("Static Expand Dims", "Static Reshape", "Reshape"),
    "PAD": ("Constant Pad",),
    "PADV2": ("Constant Pad",),
    "SLICE": ("Static Slice", "Slice"),
    "STRIDED_SLICE": ("Static Slice", "Slice"),
    "CONCATENATION": ("Concatenate",),
    "SPLIT": ("Split", "Even Split"),
}
"""Operation -> how the names of its kernels begin, where it is not its own name."""
MATCHED, ALSO = 1.0, 0.5
"""What it is worth that a kernel is the first of an operation, or a further one."""


def trace(path: Path, value_of: Mapping[str, str], threads: int, runs: int) -> Trace:
    """Times the artifact's operations, in processes apart.

    Args:
        path: The .tflite.
        value_of: Name of a tensor -> the value of the program that it is.
        threads: Threads of the runtime.
        runs: Inferences, behind a warm-up.

    Raises:
        MissingPlatform: If the installed LiteRT has no profiler, or it does not work with this file.
        InputError: If LiteRT refuses the file.
    """
    model = inspect.checked(files.read_bytes(path), path.name)
    ops = list(inspect.graph_ops(model, 0))
    named = {name: value for op in ops for name in op.writes if (value := value_of.get(name.rpartition(" #")[0]))}
    steps = [Step(op.reads, op.writes, op.kind in CONVERSIONS and not _makes_a_value(op, named)) for op in ops]
    opened = _apart.ask("exporters._tflite.opened", path, "LiteRT")
    parts = inspect.partitions(opened["plain"], opened["delegated"])
    spent, loose = spread([op.kind for op in ops], parts, profile.events(path, threads, runs))
    leads = Leads(steps, named)
    timed: tuple[OpTime, ...] = tuple(leads.timed(at, ms) for at, ms in enumerate(spent))
    return Trace(profile.source(), threads, runs, timed, loose)


def _makes_a_value(op: ArtifactOp, named: Mapping[str, str]) -> bool:
    """Whether a change of grids is an operation of the program, such as a ReLU: one of its values becomes another."""
    read, made = named.get(op.reads[0]), named.get(op.writes[0])
    return read is not None and made is not None and read != made


def spread(kinds: Sequence[str], parts: Sequence[Sequence[int]], seen: Sequence[Event]) -> tuple[list[float], float]:
    """Milliseconds of each operation, and of kernels that are none of theirs.

    Args:
        kinds: Operations of the graph, in their order.
        parts: Positions of those that each part of the delegate stands for, in the order in which the parts run.
        seen: Kernels as they ran.

    Raises:
        MissingPlatform: If the profiler saw other parts.
    """
    spent, loose = [0.0] * len(kinds), 0.0
    inside: list[list[Event]] = []
    for event in seen:
        if not event.inside:
            spent[event.index] += event.ms
        elif event.index == 0:
            inside.append([event])
        elif inside:
            inside[-1].append(event)
    if len(inside) != len(parts):
        raise MissingPlatform(f"LiteRT's profiler saw {len(inside)} parts of {len(parts)} in XNNPACK")
    for part, kernels in zip(parts, inside, strict=True):
        places = laid_beside([kinds[at] for at in part], [event.kind for event in kernels])
        for place, event in zip(places, kernels, strict=True):
            if place is None:
                loose += event.ms
            else:
                spent[part[place]] += event.ms
    return spent, loose


def laid_beside(kinds: Sequence[str], kernels: Sequence[str]) -> list[int | None]:
    """Position of the operation that each kernel belongs to; None where it can be none that lies in its place.

    Both are in the same order: the most kernels get an operation, one of their own before a shared one (a longest
    common subsequence in which an operation may be met again).
    """
    fits = np.array([[_fits(kind, kernel) for kind in kinds] for kernel in kernels]).reshape(len(kernels), len(kinds))
    # best[k, i]: of the kernels before k on the operations before i; joined[k, i]: kernel k - 1 on operation i - 1
    best = np.zeros((len(kernels) + 1, len(kinds) + 1))
    joined = np.full_like(best, -np.inf)
    for k in range(1, len(kernels) + 1):
        for i in range(1, len(kinds) + 1):
            if fits[k - 1, i - 1]:
                joined[k, i] = max(best[k - 1, i - 1] + MATCHED, joined[k - 1, i] + ALSO)
            best[k, i] = max(best[k - 1, i], best[k, i - 1], joined[k, i])
    found: list[int | None] = [None] * len(kernels)
    k, i = len(kernels), len(kinds)
    while k and i:
        if best[k, i] == joined[k, i]:
            found[k - 1] = i - 1
            again = joined[k, i] == joined[k - 1, i] + ALSO
            k -= 1
            while again:
                found[k - 1] = i - 1
                again = joined[k, i] == joined[k - 1, i] + ALSO
                k -= 1
            i -= 1
        elif best[k, i] == best[k, i - 1]:
            i -= 1
        else:
            k -= 1
    return found


def _fits(kind: str, kernel: str) -> bool:
    own = KERNELS.get(kind, (kind.replace("_", " "),))
    return kernel.lower().startswith(tuple(name.lower() for name in (*own, *ANY)))
