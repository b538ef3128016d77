"""Layers that take and give floats over int8 weights: what LiteRT calls dynamic range, XNNPACK qd8.

Each row of the input gets a grid of its own at run time: the 8-bit one from its smallest to its largest number, zero
included (XNNPACK src/operators/, xnn_f32_qd8_asymmetric_quantization_params). A row is a token of a fully connected
layer, a pixel of a 1x1 convolution (XNNPACK runs it as a fully connected layer), the whole image for other
convolutions. XNNPACK leaves depthwise ones to LiteRT, which does the same per image.

The integers in between are exact, and the few float32 operations behind them are those of the kernels, in their order.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from qtools.core.types import Op, OpKind
from qtools.simulate._accumulate import EXACT_FLOAT32
from qtools.simulate._operand import Operand

LOWEST, HIGHEST = -128.0, 127.0


def run(op: Op, x: torch.Tensor, weight: Operand, bias: torch.Tensor | None) -> torch.Tensor:
    """Output floats in the program's layout.

    Args:
        op: A convolution or a linear operation.
        x: float32 input.
        weight: Its integers, per output channel.
        bias: float32, shape (channels,), or None.
    """
    codes, inverse, step = _quantized(x, _rows(op, x, weight.codes))
    scale = step if op.kind is OpKind.DEPTHWISE_CONV else 1 / inverse
    exact = float(weight.codes.abs().flatten(1).sum(1).max()) * (HIGHEST - LOWEST) < EXACT_FLOAT32
    dtype = torch.float32 if exact else torch.float64
    operands = codes.to(dtype), weight.codes.to(dtype)
    per_channel = torch.from_numpy(weight.params.scale_array)
    if op.kind is OpKind.LINEAR:
        total = functional.linear(*operands)
    else:
        total = functional.conv2d(*operands, None, *(op.attrs[a] for a in ("stride", "padding", "dilation", "groups")))
        per_channel = per_channel.reshape(1, -1, 1, 1)
        bias = None if bias is None else bias.reshape(1, -1, 1, 1)
    if op.kind is OpKind.DEPTHWISE_CONV:
        result = (total.float() * per_channel) * scale
        return result if bias is None else result + bias
    # a fused multiply-add: the product of two float32 is exact in float64
    result = (total.float() * scale).double() * per_channel
    return (result if bias is None else result + bias).float()


def _rows(op: Op, x: torch.Tensor, weight: torch.Tensor) -> tuple[int, ...]:
    """Dimensions over which one grid is laid."""
    if op.kind is OpKind.LINEAR:
        return (x.ndim - 1,)
    plain = all(n == 1 for n in (*weight.shape[2:], *op.attrs["stride"], op.attrs["groups"]))
    return (1,) if plain and not any(op.attrs["padding"]) else (1, 2, 3)


def _quantized(x: torch.Tensor, dims: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes less their zero point; what they were multiplied by; its inverse, rounded on its own: all in float32."""
    lo, hi = x.amin(dims, keepdim=True).clamp(max=0), x.amax(dims, keepdim=True).clamp(min=0)
    span, levels = torch.where(lo == hi, torch.ones_like(lo), hi - lo), torch.tensor(HIGHEST - LOWEST)
    inverse = torch.where(
        lo == hi, torch.ones_like(lo), levels / span
    )  # of two tensors: a number would be rounded twice
    bottom, top = lo * inverse, hi * inverse
    nearer_top = (LOWEST + bottom) + (HIGHEST + top) > 0  # the end whose rounding costs less sets the zero point
    zero = torch.where(nearer_top, LOWEST - bottom, HIGHEST - top).clamp(LOWEST, HIGHEST).round()
    return ((x * inverse).round() + zero).clamp(LOWEST, HIGHEST) - zero, inverse, span / levels
