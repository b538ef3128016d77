"""Exact rewrites: composite operations written out in the operations that integer kernels exist for.

Every rewrite is a decomposition for torch.export, so that the float program, the simulator and the converter all
see the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from qtools.core.types import OpKind

aten = torch.ops.aten


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _global_average(x: torch.Tensor, output_size: list[int]) -> Any:
    if tuple(output_size) != (1, 1):
        return NotImplemented
    return x.mean((2, 3), keepdim=True)


_EXPANSIONS: Mapping[OpKind, Mapping[Any, Callable[..., Any]]] = {
    OpKind.SILU: {aten.silu.default: _silu},
    OpKind.AVG_POOL: {aten.adaptive_avg_pool2d.default: _global_average},
}


def expansions(kinds: frozenset[OpKind]) -> dict[Any, Callable[..., Any]]:
    """Returns the decomposition table that writes out the given kinds.

    SiLU becomes x * sigmoid(x), global average pooling a mean over height and width; both are the definitions.
    """
    return {target: rule for kind in sorted(kinds) for target, rule in _EXPANSIONS.get(kind, {}).items()}
