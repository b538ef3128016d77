"""onnxruntime's CPU provider on a file made for an NPU: Q/DQ also stand around operators that run in float there.

Those dequantize, compute in float32 and quantize again. What the NPU itself rounds is not simulated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from qtools.core import numerics
from qtools.core.types import Op, OpKind
from qtools.simulate import onnxruntime
from qtools.simulate._operand import Kernel, Kernels, Operand, Output, Quantize

QUANTIZE: Quantize = onnxruntime.QUANTIZE


def _through_float(compute: Callable[..., torch.Tensor]) -> Kernel:
    """DequantizeLinear on each operand, `compute(op, *operands)`, QuantizeLinear."""

    def run(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
        real = compute(op, *(numerics.dequantize(x.codes, x.params) for x in data))
        return QUANTIZE(real, out.params).clamp(*out.ends)

    return Kernel(run)


def _mean(op: Op, x: torch.Tensor) -> torch.Tensor:
    return x.mean(op.attrs["dims"], keepdim=op.attrs["keepdim"])


def _any_mean(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Pooling over height and width has an integer kernel, other means have none."""
    rank = data[0].codes.ndim
    spatial = rank == 4 and sorted(dim % rank for dim in op.attrs["dims"]) == [2, 3]
    return (onnxruntime.KERNELS[OpKind.MEAN] if spatial else _through_float(_mean)).run(op, data, out)


FUNCTIONS = (OpKind.GELU, OpKind.HARD_SWISH, OpKind.TANH, OpKind.SOFTMAX)

KERNELS: Kernels = {
    **onnxruntime.KERNELS,
    OpKind.MEAN: Kernel(_any_mean),
    OpKind.SUB: _through_float(lambda op, a, b: a - b),
    OpKind.DIV: _through_float(lambda op, a, b: a / b),
    **{kind: _through_float(onnxruntime.FLOATS[kind]) for kind in FUNCTIONS},
}
