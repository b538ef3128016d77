"""Numbers that compare tensors and predictions. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qtools.core.answers import of_classes


def sqnr_db(reference: ArrayLike, other: ArrayLike) -> float:
    """Signal-to-quantization-noise ratio in dB: 10 log10(sum ref^2 / sum (ref - other)^2); inf where equal."""
    ref = np.asarray(reference, np.float64)
    return sqnr_from_sums(float((ref**2).sum()), float(((ref - np.asarray(other, np.float64)) ** 2).sum()))


def sqnr_from_sums(signal: float, noise: float) -> float:
    """SQNR in dB from sums of squares gathered elsewhere; inf without noise, -inf for noise on no signal."""
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def top_k_hits(logits: NDArray[np.floating], labels: NDArray[np.integer], k: int = 1) -> NDArray[np.bool_]:
    """Whether each row's label is among its k largest logits; ties go to the lower index. Shape (rows,)."""
    order = np.argsort(-np.asarray(logits, np.float64), axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (order == np.asarray(labels)[:, None]).any(axis=1)
    return hits


def agreement(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Share of rows, 0 to 1, on which two sets of answers name the same class."""
    return float((np.argmax(of_classes(a), 1) == np.argmax(of_classes(b), 1)).mean())
