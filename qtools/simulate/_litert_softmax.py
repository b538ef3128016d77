"""Rounding rules of LiteRT's own 8-bit softmax, which XNNPACK does not take.

Source: tensorflow/lite/kernels/internal/optimized/optimized_ops.h, x86's code: on Arm exponentials are integers.
"""

from __future__ import annotations

import numpy as np
import torch

from qtools.core.types import Op
from qtools.simulate._operand import Operand, Output

CODES = 256


def run(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """SOFTMAX: exponentials from a table of the distances to a row's highest code, their sum one by one in float32."""
    x = data[0]
    step = np.float32(-x.params.scale_array[0])
    table = torch.from_numpy(np.exp(step * np.arange(CODES, dtype=np.float32)))
    codes = x.codes.movedim(op.attrs["dim"], -1)
    below = (codes.amax(-1, keepdim=True) - codes).int()
    powers = torch.index_select(table, 0, below.flatten()).reshape(below.shape)
    total = torch.zeros(powers.shape[:-1])
    for place in powers.movedim(-1, 0).contiguous():  # each place's rows side by side
        total += place
    share = powers.mul_((1 / (total * float(out.params.scale_array[0])))[..., None])
    made = share.add_(0.5).floor_().add_(out.params.zero_point[0])
    return made.clamp_(*out.ends).movedim(-1, op.attrs["dim"])
