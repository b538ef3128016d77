"""Zeros around a tensor of codes."""

from __future__ import annotations

import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._operand import Operand, Output


def pad(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Zero is a code of every grid, its zero point; the codes inside stay as they are."""
    (source,) = data
    return functional.pad(source.codes, op.attrs["pads"], value=source.params.zero_point[0])
