"""Evaluation piece by piece, until the rule of --max-drop has decided or no image is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qtools.core.errors import InputError
from qtools.core.metrics import top_k_hits
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.progress import Listener
from reports.audit import Stopping
from reports.sequential import Look, StoppingRule, images_needed, stopping_rule

Labels = NDArray[np.int64]
Logits = NDArray[Any]
Outputs = Mapping[str, Logits]
Evaluate = Callable[[int, int], Outputs]
"""(first image, image behind the last) -> stage -> logits; a slow stage may have fewer rows, or be left out."""


@dataclass(frozen=True)
class Limit:
    """A limit of the drop on a number of images.

    Attributes:
        rule: When to look, and what to decide.
        warnings: What can be said before the first image is seen.
    """

    rule: StoppingRule
    warnings: tuple[str, ...]


def limit(config: AuditConfig, images: int, labels: Labels | None, flips: float | None) -> Limit | None:
    """The rule of --max-drop, before the first image is seen.

    Args:
        config: What was asked for.
        images: All images there are.
        labels: Their classes, shape (images,), or None.
        flips: Share of images on which exactly one network was right before, in percent, where that is known.

    Raises:
        InputError: If there is a limit and no label.
    """
    if config.max_drop is None:
        return None
    if labels is None:
        raise InputError(
            "--max-drop is about accuracy, and these images carry no labels",
            "give --data class folders or a labels.csv; without --max-drop, agreement and KL are measured",
        )
    rule = stopping_rule(images, config.max_drop, config.confidence)
    asked = f"a drop of at most {config.max_drop:g} points at {config.confidence:.0%}"
    if not rule.can_pass:
        fewest = fewest_images(config.max_drop, config.confidence)
        text = f"with these {images:,} images {asked} cannot pass, whatever they show: it takes {fewest:,} at least"
        return Limit(rule, (text,))
    if not flips:
        return Limit(rule, ())
    needed = images_needed(config.max_drop, flips, config.confidence)
    if needed <= images:
        return Limit(rule, ())
    text = (
        f"{images:,} images will probably not decide {asked}: with as many flips as in the run's own report "
        f"({flips:.1f} % of the images) it takes some {needed:,}"
    )
    return Limit(rule, (text,))


def fewest_images(max_drop: float, confidence: float) -> int:
    """Images with which a network that flips none of them passes."""
    below, enough = 0, 1
    while not stopping_rule(enough, max_drop, confidence).can_pass:
        below, enough = enough, 2 * enough
    while enough - below > 1:
        middle = (below + enough) // 2
        if stopping_rule(middle, max_drop, confidence).can_pass:
            enough = middle
        else:
            below = middle
    return enough


def evaluated(
    run: Evaluate, images: int, judged: tuple[str, str], how: tuple[Limit | None, Labels | None], listener: Listener
) -> tuple[dict[str, Logits], Stopping | None]:
    """Every stage on the images, piece by piece where there is a rule to stop by.

    Args:
        run: Evaluates a piece.
        images: All images there are.
        judged: Stages that the rule compares: the reference and the artifact.
        how: The rule, and the images' classes.
        listener: Told of each look.

    Returns:
        Stage -> logits of the images that were seen, and what the rule came to.
    """
    chosen, labels = how
    pieces: dict[str, list[Logits]] = {}
    lost = gained = first = 0
    look: Look | None = None
    for end in chosen.rule.looks if chosen else (images,):
        for name, rows in run(first, end).items():
            pieces.setdefault(name, []).append(rows)
        if chosen is not None and labels is not None:
            right, now = (top_k_hits(pieces[name][-1], labels[first:end]) for name in judged)
            lost, gained = lost + int((right & ~now).sum()), gained + int((now & ~right).sum())
            look = chosen.rule.judge(end, lost, gained)
            if look.decision != "go on":
                break
        first = end
    outputs = {name: np.concatenate(rows) for name, rows in pieces.items()}
    stopped = None if look is None or chosen is None else _stopping(chosen.rule, look)
    if stopped is not None and stopped.n < images:
        listener.stage(f"stopped after {stopped.n:,} of {images:,} images: {stopped.decision}")
    return outputs, stopped


def _stopping(rule: StoppingRule, look: Look) -> Stopping:
    decision: Literal["pass", "fail", "undecided"] = "undecided"
    if look.decision in ("pass", "fail"):
        decision = "pass" if look.decision == "pass" else "fail"
    needed = None
    if decision == "undecided":
        flips = 100 * (look.lost + look.gained) / look.n
        fewest = fewest_images(rule.max_drop, rule.confidence)
        needed = max(fewest, images_needed(rule.max_drop, flips, rule.confidence) if flips else 0)
    return Stopping(rule.max_drop, rule.confidence, rule.looks[-1], look.n, decision, look.interval, needed)
