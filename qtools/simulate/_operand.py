"""What kernels take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qtools.core.types import Op, OpKind, QuantParams, QuantScheme

FLOATS = QuantParams(QuantScheme(32, True, None, -(2**31), 2**31 - 1), (1.0,), (0,))
"""Where a kernel gives floats: on a grid of step 1, multipliers are scales and nothing is rounded."""


@dataclass(frozen=True)
class Operand:
    """A quantized tensor.

    Attributes:
        codes: Integer-valued float32 tensor in the program's layout.
        params: Its grid.
    """

    codes: torch.Tensor
    params: QuantParams


@dataclass(frozen=True)
class Output:
    """Where a kernel's result goes.

    Attributes:
        params: Grid of the value that leaves the kernel.
        ends: Smallest and largest code that may leave it: the grid's own, or those of 0 and 6 where a ReLU or ReLU6 is
            the last thing the kernel does.
        prepared: What `prepare` made of the operation's constants, once per plan.
        size: Shape of the operation's result at batch 1.
        factor: What the first operand's step is multiplied by, in place of the result, where a kernel gives floats.
    """

    params: QuantParams
    ends: tuple[int, int]
    prepared: object = None
    size: tuple[int, ...] = ()
    factor: float = 1.0


@dataclass(frozen=True)
class Kernel:
    """One operation of a kernel library.

    Attributes:
        run: (op, data operands, output) -> integer-valued float32 tensor of codes.
        prepare: (op, constant operands by position, first operand's params, output params) -> anything `run` wants.
    """

    run: Callable[[Op, tuple[Operand, ...], Output], torch.Tensor]
    prepare: Callable[[Op, Mapping[int, Operand], QuantParams, QuantParams], object] | None = None


Kernels = Mapping[OpKind, Kernel]
Quantize = Callable[[torch.Tensor, QuantParams], torch.Tensor]
"""How a library turns floats into codes at run time."""


def weight_and_bias(op: Op, affine: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """A norm's weight and bias, out of those that `op.attrs["affine"]` says are there."""
    parts = iter(affine)
    weight, bias = (next(parts) if there else None for there in op.attrs["affine"])
    return weight, bias
