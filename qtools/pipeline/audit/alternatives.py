"""Other ways to feed a network: where one is right clearly more often than the present way, the app feeds it wrongly.

Each alternative changes one thing. It is run on the first labelled images and held against the present way by
McNemar's exact test, corrected for all alternatives (`reports.classes.adjust`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qtools.core.protocols import ImageSource
from qtools.pipeline.audit.pieces import Labels, Logits
from qtools.pipeline.audit.sections import right_answers
from qtools.pipeline.feeding import IMAGENET, Reading, contract_of, is_integer, params_of
from qtools.pipeline.progress import Listener
from reports.accuracy import drop_interval, mcnemar_p
from reports.audit import WRONG, Alternative, Finding
from reports.classes import adjust

IMAGES = 96
"""Images that alternatives are tried on."""
CHANCE = 0.01
"""Largest corrected probability, over all alternatives, that the better one is better by luck."""
KEPT = 0.875
"""Share of the short side that most ImageNet networks keep."""
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
Ask = Callable[[Sequence[NDArray[np.generic]]], Sequence[NDArray[np.floating]]]
"""One picture fed in several ways -> the logits of each, shape (classes,)."""


@dataclass(frozen=True)
class Variant:
    """One thing done otherwise.

    Attributes:
        name: What it is, in words.
        reading: How pictures go in.
        shift: Added to the labels.
    """

    name: str
    reading: Reading
    shift: int = 0

    @property
    def contract(self) -> str:
        """How pictures go in, as a contract file says it."""
        said = contract_of(replace(self.reading, offset=self.reading.offset + self.shift))
        inside = {f.name: v for f in fields(said.preparation) if (v := getattr(said.preparation, f.name)) is not None}
        entries = {"schema_version": said.schema_version, "preparation": inside, "labels_offset": said.labels_offset}
        return json.dumps(entries)


def variants(present: Reading) -> Iterator[Variant]:
    """Every other way that is worth a try."""
    present = replace(present, table=None)  # a table is of the present numbers
    spec = present.spec
    other: Literal["RGB", "BGR"] = "RGB" if present.colours == "BGR" else "BGR"
    # the numbers stay with their places in the tensor: what is exchanged is the picture
    yield Variant("red and blue exchanged", replace(present, colours=other))
    yield from _scalings(present)
    for name in FILTERS:
        if name != spec.interpolation:
            yield Variant(f"resized by {name}", _with(present, interpolation=name))
    if spec.crop_mode == "squash":
        yield Variant("middle cut out", _with(present, crop_mode="center"))
        yield Variant(f"{KEPT:.1%} of the middle", _with(present, crop_mode="center", crop_pct=KEPT))
    else:
        yield Variant("squashed", _with(present, crop_mode="squash", crop_pct=1.0))
    for shift in (1, -1):
        yield Variant(f"labels moved by {shift:+d}", present, shift)


def _with(present: Reading, **changes: object) -> Reading:
    return replace(present, spec=replace(present.spec, **changes))  # type: ignore[arg-type]


def _scalings(present: Reading) -> Iterator[Variant]:
    """Other numbers in the tensor; an integer tensor has them only where its grid says what its codes mean."""
    if is_integer(present.end) and params_of(present.end) is None:
        return
    for name, mean, std in (
        ("scaled to 0..1 and not normalised", (0.0,) * 3, (1.0,) * 3),
        ("scaled to -1..1", (0.5,) * 3, (0.5,) * 3),
        ("normalised by ImageNet's mean and deviation", *IMAGENET),
    ):
        if present.pixels or not np.allclose((present.spec.mean, present.spec.std), (mean, std), atol=1e-3):
            yield Variant(name, replace(_with(present, mean=mean, std=std), pixels=False))
    if present.pixels:
        return
    yield Variant("pixels 0..255 as they are", replace(present, pixels=True))
    centre, spread = np.asarray(present.spec.mean), np.asarray(present.spec.std)
    # ((x - m) / s - m) / s = (x - (m + m s)) / s^2
    twice = _with(present, mean=tuple((centre + centre * spread).tolist()), std=tuple((spread**2).tolist()))
    yield Variant("normalised twice", twice)


def try_all(
    ask: Ask, present: tuple[Reading, Logits], seen: tuple[ImageSource, Labels], listener: Listener
) -> tuple[tuple[Alternative, ...], tuple[Variant, ...]]:
    """Runs every alternative, each image decoded once.

    Args:
        ask: Runs the network on one picture, fed in several ways.
        present: How pictures go in now, and the logits of the first images, as far as there are any.
        seen: The images, and the output that stands for each one's class.
        listener: Told after each image.

    Returns:
        What each came to, and the same number of variants.
    """
    (reading, logits), (source, labels) = present, seen
    count = min(IMAGES, len(source))
    tried = tuple(variants(reading))
    right = np.empty(count, bool)
    hits = np.empty((len(tried), count), bool)
    for index in range(count):
        picture, label = source[index][0], labels[index : index + 1]
        now = logits[index] if index < len(logits) else ask([reading.tensor(picture)])[0]
        right[index] = right_answers(now[None], label)[0]
        fed = iter(ask([each.reading.tensor(picture) for each in tried if not each.shift]))
        for place, each in enumerate(tried):
            row = now if each.shift else next(fed)
            hits[place, index] = right_answers(row[None], label + each.shift)[0]
        listener("alternatives", index + 1, count)
    pairs = [(int((right & ~other).sum()), int((other & ~right).sum())) for other in hits]
    rows = [
        Alternative(each.name, count, 100 * float(right.mean()), 100 * float(other.mean()), *pair, p)
        for each, other, pair, p in zip(tried, hits, pairs, adjust(pairs), strict=True)
    ]
    return tuple(rows), tried


def hopeless(present: Logits, labels: Labels, count: int) -> str:
    """Why no alternative could be proven, even if it were right wherever the present way is wrong; "" if one could.

    Args:
        present: Logits of the first images as pictures go in now.
        labels: The output that stands for each one's class.
        count: Number of alternatives.
    """
    seen = min(IMAGES, len(present))
    wrong = seen - int(right_answers(present[:seen], labels[:seen]).sum())
    if mcnemar_p(0, wrong) * count <= CHANCE:
        return ""
    return f"Other preprocessing was not tried: only {wrong} of {seen} images are wrong, too few to prove one."


def finding(rows: tuple[Alternative, ...], tried: tuple[Variant, ...], remedy: str) -> Finding | None:
    """The alternative that is better beyond doubt, the best where there are several; None where there is none.

    Args:
        rows: What each came to.
        tried: The alternatives.
        remedy: What to do; "{}" stands for the contract that says it.
    """
    better = [i for i, row in enumerate(rows) if row.gained > row.lost and row.p_adjusted <= CHANCE]
    if not better:
        return None
    best = max(better, key=lambda i: (rows[i].gained - rows[i].lost, -i))
    row, also = rows[best], [rows[i].name for i in better if i != best]
    others = f"; better than the present one too: {', '.join(also)}" if also else ""
    return Finding(
        cause=f"preprocessing: {row.name}",
        values=(),
        module=tried[best].reading.end.name,
        evidence=f"top-1 {row.top1_present:.1f} % as pictures are fed now, {row.top1:.1f} % with {row.name}: "
        f"{row.gained} gained and {row.lost} lost, McNemar p {row.p_adjusted:.1g}, corrected for {len(rows)} "
        f"alternatives{others}",
        proof=f"pictures fed with {row.name}, nothing else changed",
        before=100 - row.top1_present,
        after=100 - row.top1,
        gain_interval=drop_interval(row.gained, row.lost, row.n),
        images=row.n,
        remedy=remedy.replace("{}", tried[best].contract),
        measure=WRONG,
    )
