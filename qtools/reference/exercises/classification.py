"""One label for a picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qtools.reference.exercise import Exercise
from qtools.reference.images import CLASSES


def _answer(label: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.asarray(label, np.int64)


def loss_of(outputs: Tensor | tuple[Tensor, ...], labels: Tensor, smoothing: float) -> tuple[Tensor, float]:
    """Mean cross-entropy over the heads, and the top-1 of their mean logits; a single tensor is one head."""
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    losses = [functional.cross_entropy(head.float(), labels, label_smoothing=smoothing) for head in heads]
    logits = torch.stack([head.detach().float() for head in heads]).mean(0)
    return torch.stack(losses).mean(), (logits.argmax(1) == labels).float().mean().item()


def _tally(logits: Tensor, labels: Tensor) -> Tensor:
    hits = (logits.argmax(1) == labels).double()
    sums = torch.zeros(2, len(CLASSES), dtype=torch.float64)
    sums[0].index_add_(0, labels, hits)
    sums[1].index_add_(0, labels, torch.ones_like(hits))
    return sums


EXERCISE = Exercise("top1", CLASSES, None, 0.8, _answer, loss_of, _tally)
