"""A network's inputs and outputs as one array (see `qtools.core.ports`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qtools.core.answers import EXIT, NAMES
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
        return joined(self.gives, self.network(*self.takes.split(rows)))


def joined(gives: Ports, outputs: Any) -> Tensor:
    """What a network returned, one tensor or several, as it travels."""
    laid = gives.laid(outputs_of(outputs))
    return laid[0] if len(laid) == 1 else torch.cat(laid, gives.along)


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    """What a module returned, one tensor or several."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def gives_of(outputs: Sequence[Tensor]) -> Ports:
    """Outputs of a network that is not in `Rows`: logits, a detector's logits and boxes, or the logits of its exits."""
    exits = len(outputs) > 1 and all(each.ndim == 2 for each in outputs)
    names = tuple(f"{EXIT}{at}" for at, _ in enumerate(outputs, 1)) if exits else NAMES[: len(outputs)]
    return Ports(names, tuple((1, *each.shape[1:]) for each in outputs))
