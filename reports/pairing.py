"""Whether two sets of answers can be held against each other: on the same images, of one shape, all numbers finite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtools.core.errors import CheckFailed, InputError


def check_pair(
    what: str, reference: NDArray[np.floating], other: NDArray[np.floating], dimensions: int | None = None
) -> None:
    """Refuses two sets of answers that are no pair.

    Args:
        what: What they are, for the messages: "logits".
        reference: Answers of the reference, images first.
        other: Those to judge.
        dimensions: How many they have; None where any number will do.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If a number is not finite.
        InputError: If there is no image.
    """
    if reference.shape != other.shape or reference.ndim != (dimensions or reference.ndim):
        raise ValueError(f"{what} of shape {reference.shape} and {other.shape} are no pair")
    if not len(reference):
        raise InputError("there is no image to compare on", "give a folder with images, or raise the number evaluated")
    for name, answers in (("reference", reference), ("compared", other)):
        if not np.isfinite(answers).all():
            raise CheckFailed(f"the {name} {what} hold NaN or infinity", "look for NaN in the weights or the input")
