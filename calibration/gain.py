"""How many output codes one step of an accumulator is worth, and the limit that integer kernels put on it.

Values that calibration saw as zeros only (a dead branch, a zero-initialized residual) get the smallest scale there
is. The kernel that makes them would then have to multiply by 1e30: XNNPACK refuses such an artifact, and LiteRT's own
ADD ends the process. Raising the output scale to one code per step of the accumulator costs nothing: there is nothing
between two steps, and beyond the limit a single step jumps over the whole output grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qtools.core.types import WEIGHTED, Op, OpKind, QuantParams

GAIN_LIMIT = 2.0**8
"""XNNPACK's own: scale_in * scale_weight / scale_out and its kin must be smaller."""

Lookup = Callable[[str], QuantParams | None]

_PRODUCTS = (*WEIGHTED, OpKind.MUL, OpKind.MATMUL)
_SUMS = (OpKind.ADD, OpKind.SUB, OpKind.MEAN, OpKind.RELU, OpKind.RELU6)


def gain(op: Op, params: Lookup, swallowed: Mapping[str, str]) -> float:
    """Largest factor from accumulator steps to output codes; 0 for kernels that look up or move their codes.

    Args:
        op: An operation that runs in integers.
        params: Value id -> parameters.
        swallowed: Value between a kernel and the activation fused into it -> the value that leaves the kernel.
    """
    if op.kind not in _PRODUCTS + _SUMS or op.inputs[0] in swallowed:
        return 0.0
    out = params(swallowed.get(op.outputs[0], op.outputs[0]))
    # of several operands the bias is no operand of its own: it is counted in accumulator steps
    steps = [float(p.scale_array.max()) for name in op.inputs[:2] if (p := params(name)) is not None]
    if out is None or not steps:
        return 0.0
    step = float(np.prod(steps)) if op.kind in _PRODUCTS else max(steps)
    return step / float(out.scale_array[0])
