"""A class for every pixel: the object where it shows, else the background.

Networks answer at a fraction of the picture's size. Both the loss and the score take their logits enlarged linearly to
the picture's own, as `qtools.pipeline.tasks.segmentation` does.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qtools.reference.exercise import Exercise
from qtools.reference.images import MASK_CLASSES, mask_of

SIZE = 128
"""Pictures are small, so that minutes on two cores are enough; the architectures take any multiple of 32."""


def _answer(label: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return mask_of(label, mask).astype(np.int64)


def _enlarged(logits: Tensor, answers: Tensor) -> Tensor:
    return functional.interpolate(logits.float(), answers.shape[-2:], mode="bilinear", align_corners=False)


def loss_of(logits: Tensor, answers: Tensor, smoothing: float) -> tuple[Tensor, float]:
    """Cross-entropy over all pixels, and the intersection over union of the batch's objects, their class right."""
    large = _enlarged(logits, answers)
    named = large.detach().argmax(1)
    shown = (named > 0) | (answers > 0)
    right = ((named == answers) & (answers > 0)).sum() / shown.sum().clamp_min(1)
    return functional.cross_entropy(large, answers, label_smoothing=smoothing), float(right)


def _tally(logits: Tensor, answers: Tensor) -> Tensor:
    """Pixels of intersection and union."""
    count = len(MASK_CLASSES)
    named = _enlarged(logits, answers).argmax(1)
    pairs = torch.bincount((answers * count + named).flatten(), minlength=count * count).reshape(count, count).double()
    both = pairs.diagonal()
    return torch.stack([both, pairs.sum(0) + pairs.sum(1) - both])


EXERCISE = Exercise("miou", MASK_CLASSES, SIZE, 0.6, _answer, loss_of, _tally)
