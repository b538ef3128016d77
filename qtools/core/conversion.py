"""When a ReLU is nothing but a change of grids.

Codes that move onto a grid whose lowest code stands for zero are cut there, because codes end. A runtime whose fast
path has no integer ReLU, but a kernel that moves codes between grids, so has one all the same.
"""

from __future__ import annotations

import numpy as np

from qtools.core.types import Op, OpKind, QuantParams, QuantPlan

RATIOS = (2.0**-8, 2.0**7)
"""[lowest, highest) of the source's step over the result's that XNNPACK's conversion takes (VisitQuantizeNode)."""
CAP = 6.0


def is_conversion(kind: OpKind, source: QuantParams, made: QuantParams) -> bool:
    """Whether a ReLU or ReLU6 from one 8-bit grid to another does what moving the codes does.

    Args:
        kind: RELU or RELU6.
        source: Grid of what it reads, per tensor.
        made: Grid of its result, per tensor; both its ends have to be the function's own for RELU6.
    """
    if source.scheme.wide or made.scheme.wide or made.zero_point[0] != made.scheme.qmin:
        return False
    step = made.scale_array[0]
    if kind is OpKind.RELU6 and np.rint(np.float32(CAP) / step) + made.zero_point[0] < made.scheme.qmax:
        return False
    return bool(RATIOS[0] <= source.scale_array[0] / step < RATIOS[1])


def is_converted(op: Op, plan: QuantPlan) -> bool:
    """Whether an operation is a ReLU or ReLU6 by itself, in integers, that comes to moving codes."""
    before, after = plan.values.get(op.inputs[0]), plan.values.get(op.outputs[0])
    if op.kind not in (OpKind.RELU, OpKind.RELU6) or op.id in plan.float_ops or before is None or after is None:
        return False
    source, made = before.read(op.id), after.params if after.made is None else None  # a second move lies behind it else
    return source is not None and made is not None and is_conversion(op.kind, source, made)
