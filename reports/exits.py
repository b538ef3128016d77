"""Paired scores of networks with early exits: top-1 of the exit that answers, how often each does, and what it costs.

Which exit answers an image hangs on the probabilities, so that quantization can move an image to another exit without
changing its class: two networks agree on an image where both the exit and the class are the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qtools.core.exits import Exits, answered
from reports.accuracy import INTERVAL_METHOD, divergence, paired_accuracy, wilson_interval
from reports.pairing import check_pair
from reports.scores import PairedScore, Part, with_accuracy, without_labels

METRIC, AGREED = "top-1 at the exits", "images, by exit and class,"
COST = "mean cost in % of all multiply-accumulates"
Answers = NDArray[np.floating]


def same(reference: Answers, other: Answers, exits: Exits) -> NDArray[np.bool_]:
    """Whether both answer an image at the same exit with the same class, shape (n,)."""
    taken = [exits.taken(each) for each in (reference, other)]
    named = [answered(each, at).argmax(1) for each, at in zip((reference, other), taken, strict=True)]
    found: NDArray[np.bool_] = (taken[0] == taken[1]) & (named[0] == named[1])
    return found


def agreement(reference: Answers, other: Answers, exits: Exits) -> float:
    """Share of images, 0 to 1, on which both agree."""
    return float(same(reference, other, exits).mean())


def paired_exits(labels: NDArray[np.integer] | None, reference: Answers, other: Answers, exits: Exits) -> PairedScore:
    """Compares `other` with `reference` on the same images.

    Args:
        labels: Class per image, shape (n,); None where the images carry no labels.
        reference: Answers of the float network at all exits, shape (n, classes, exits, 1).
        other: Answers to judge, same shape, same images in the same order.
        exits: When an exit is taken, and what it costs.

    Returns:
        Top-1 of the exits that answer; beside it the mean cost and how often each exit answers; its parts are the
        exits, each with its own top-1 on all images.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If logits are not finite.
        InputError: If there is no image, or a label names a class that the network does not have.
    """
    check_pair("answers", reference, other)
    both, taken = (reference, other), [exits.taken(each) for each in (reference, other)]
    alike = same(reference, other, exits).astype(np.float64)
    found = without_labels(METRIC, AGREED, alike, divergence(reference, other), INTERVAL_METHOD)
    found = replace(
        found,
        agreement_interval=wilson_interval(float(alike.sum()), len(alike)),
        beside=((COST, _cost(taken[0], exits), _cost(taken[1], exits)), *_rates(taken, exits)),
        parts_of="exit",
        classes=tuple(f"{_name(at)} alone" for at in range(exits.count)),
    )
    if labels is None:
        return found
    score = paired_accuracy(labels, *(answered(each, at) for each, at in zip(both, taken, strict=True)))
    right = [100 * (each[..., 0].argmax(1) == np.asarray(labels)[:, None]).mean(0) for each in both]
    parts = tuple(Part(at, float(right[0][at]), float(right[1][at])) for at in range(exits.count))
    return replace(with_accuracy(found, score), parts=parts)


def _name(exit_: int) -> str:
    return f"exit {exit_ + 1}"


def _cost(taken: NDArray[np.integer], exits: Exits) -> float:
    """Mean over images, in percent of what the whole network costs."""
    return float(100 * np.asarray(exits.costs)[taken].mean())


def _rates(taken: list[NDArray[np.int64]], exits: Exits) -> list[tuple[str, float, float]]:
    """How many images each exit answers, in percent."""
    shares = [100 * np.bincount(at, minlength=exits.count) / len(at) for at in taken]
    return [(f"{_name(at)} answers", float(shares[0][at]), float(shares[1][at])) for at in range(exits.count)]
