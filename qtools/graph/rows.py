"""A network of several inputs and outputs as one of rows (see `qtools.core.ports`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qtools.core.ports import Ports


class Rows(nn.Module):
    """Takes rows apart, runs the network, and joins what it gives.

    Args:
        network: Takes a tensor for each name of `takes`, in this order, and gives a tuple in the order of `gives`.
        takes: Its inputs.
        gives: Its outputs.
    """

    def __init__(self, network: nn.Module, takes: Ports, gives: Ports) -> None:
        super().__init__()
        self.network, self.takes, self.gives = network, takes, gives
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (n, numbers of all inputs) to rows (n, numbers of all outputs)."""
        return joined(self.network(*self.takes.split(rows)))


def joined(parts: Sequence[Tensor] | Tensor) -> Tensor:
    """Tensors as they travel; one alone keeps its shape."""
    if isinstance(parts, Tensor):
        return parts
    return parts[0] if len(parts) == 1 else torch.cat([part.reshape(len(part), -1) for part in parts], 1)
