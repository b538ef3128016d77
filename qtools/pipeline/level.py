"""Channels of a captured program centered and levelled, and the proof that it still computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.hybrid import center, center_heads, equalize, heads
from calibration.hybrid.channels import Channels, observe_channels
from calibration.hybrid.layers import Weights
from calibration.method import Method
from calibration.sampling import Subset
from calibration.widths import WIDEST, Widths, keeps_its_width, operands
from qtools.core.errors import CheckFailed
from qtools.core.types import GraphView, Op
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.graph.execute import observer
from qtools.pipeline.data import RunImages
from qtools.pipeline.progress import Stopwatch
from reports.steps import Step

PIXELS = 32 * 224 * 224
"""Pixels of all images whose channels set the factors: small images have few positions to know extremes from."""
EQUALS = 1e-4
"""Largest change of a float logit, as a share of the largest: float32 rounding of other weights, and no more."""


def level(
    program: Program, images: RunImages, how: tuple[Method, Widths], batch: int, watch: Stopwatch
) -> tuple[Program, tuple[Step, ...]]:
    """Centers values between layers and equalizes linear paths, channel by channel, where the method says so.

    Raises:
        CheckFailed: If the float results differ by more than float rounding afterwards.
    """
    chosen, widths = how
    view = program.view
    paths = equalize.linear_paths(view) if chosen.equalize else ()
    between = center.shiftable(view) if chosen.equalize else ()
    inside = heads.find(program) if chosen.equalize else ()
    if not paths and not between and not inside:
        return program, ()
    with watch.stage("equalize"):
        names = {name for path in paths for name in path.values} | {each.value for each in between}
        names |= {writer.outputs[0] for each in inside for writer in each.writers}
        seen = channels(program, images, names, batch)
        weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
        shifts = [(each, taken) for each in between if (taken := center.shift(seen[each.value])).any()]
        centered = center.fold(shifts, weights)
        weights, seen = {**weights, **centered}, center.moved(seen, shifts)
        bits = bits_of(view, widths)
        found = [(path, *equalize.level(path, seen, weights, bits)) for path in paths]
        folded = centered | equalize.fold([(path, scale) for path, scale, _ in found], weights)
        of_heads, steps = _level_heads(inside, seen, {**weights, **folded}, (widths.activations, bits[1]))
        folded |= of_heads
        levelled = program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})
        if (off := moved_by(program, levelled, images)) > EQUALS:
            raise CheckFailed(f"the levelled network is off by {off:.1e} in float", "report the model")
    plain = sum(equalize.noise(path, np.ones(path.channels), seen, weights, bits) for path in paths)
    changed = [path for path, scale, _ in found if (scale != 1).any()]
    note = (
        f"{len(changed)} of {len(paths)} linear paths levelled: rounding noise behind them, as predicted, falls to "
        f"{sum(noise for *_, noise in found) / (plain or 1.0):.0%}; the float result moves by {off:.0e}"
    )
    moved = f"{len(shifts)} of {len(between)} values between layers moved around zero"
    return levelled, (
        Step("center channels", bool(shifts), None, None, moved),
        Step("equalize channels", bool(changed), None, None, note),
        *steps,
    )


def _level_heads(
    inside: Sequence[heads.Heads],
    seen: Mapping[str, Channels],
    weights: Weights,
    bits: tuple[int, Callable[[Op], int]],
) -> tuple[dict[str, NDArray[np.float32]], tuple[Step, ...]]:
    """The constants that change when keys, values and queries are centered and levelled, and what to report."""
    if not inside:
        return {}, ()
    shifts = [(each, center_heads.shift(each, seen)) for each in inside]
    centered = center_heads.fold(shifts, weights)
    weights, seen = {**weights, **centered}, center_heads.moved(seen, shifts)
    behind = [bits[1](each.out) if each.out is not None else WIDEST for each in inside]
    found = [(each, *heads.level(each, seen, weights, (bits[0], w))) for each, w in zip(inside, behind, strict=True)]
    around = sum(any(taken.any() for taken in each) for _, each in shifts)
    better = sum(after < before for *_, after, before in found)
    share = sum(after for *_, after, _ in found) / (sum(before for *_, before in found) or 1.0)
    note = (
        f"{better} of {len(inside)} attentions levelled: rounding noise in their scores and behind them, as predicted, "
        f"falls to {share:.0%}"
    )
    moved = (
        f"keys, and values where a layer reads the result, of {around} of {len(inside)} attentions moved around zero"
    )
    return centered | heads.fold([(each, factors) for each, factors, *_ in found], weights), (
        Step("center heads", around > 0, None, None, moved),
        Step("equalize heads", better > 0, None, None, note),
    )


def channels(program: Program, images: RunImages, names: Iterable[str], batch: int) -> dict[str, Channels]:
    """What the channels of these values carry on as many images as have enough pixels among them."""
    count = min(math.ceil(PIXELS / math.prod(images.input.size)), len(images.calibration))
    few, axes = Subset(images.calibration, range(count)), {n: program.view.values[n].channel_axis or 0 for n in names}
    whole = (pixels for pixels in images.batches(few, batch) if len(pixels) == batch or len(few) < batch)
    return observe_channels(whole, observer(program, axes.keys()), axes)


def moved_by(program: Program, levelled: Program, images: RunImages) -> float:
    """Largest change of a float logit, as a share of the largest."""
    example = torch.from_numpy(next(iter(images.batches(images.calibration, 1))))
    before, after = execute.run(program, example), execute.run(levelled, example)
    return float((after - before).abs().max() / before.abs().max())


def bits_of(view: GraphView, widths: Widths) -> equalize.Bits:
    """How wide values and the weights of layers will be."""
    narrow = operands(view)

    def of_value(name: str) -> int:
        return widths.activations if name in narrow else max(widths.activations, WIDEST)

    def of_weights(op: Op) -> int:
        return WIDEST if keeps_its_width(op, view, widths.weights) else widths.weights

    return of_value, of_weights
