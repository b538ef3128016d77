"""Other pixels than the right ones: resized, cut, turned or coloured otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from calibration.images import centre, fill_of, fitted, goal_size
from qtools.core.types import InputSpec
from qtools.pipeline.contract import Whole
from qtools.pipeline.doctor import _sampled
from qtools.pipeline.doctor._way import RIGHT, Pixels, Way
from qtools.pipeline.feeding import Raw

KEPT = 0.875
"""Share of the short side that most ImageNet networks keep."""
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROPS = (
    ("squashed, nothing cut off", "squash", 1.0),
    ("the middle cut out, nothing of the short side lost", "center", 1.0),
    (f"the middle cut out, {KEPT:.1%} of the short side kept", "center", KEPT),
    ("shrunk to fit, with a border", "border", 1.0),
)
SAMPLED: dict[str, Callable[..., Raw]] = {
    "resized bilinearly without smoothing (createScaledBitmap, INTER_LINEAR, a GPU's sampler)": _sampled.linear,
    "resized bilinearly with aligned corners": partial(_sampled.linear, corners=True),
    "resized bicubically without smoothing (INTER_CUBIC)": _sampled.cubic,
    "resized to the nearest pixel from the corner (INTER_NEAREST)": _sampled.floored,
}


def geometries(whole: Whole) -> list[Way]:
    """Which pixels of the picture the input sees."""
    said = whole.preparation
    spec = InputSpec(whole.size, said.mean or (0.0,) * 3, (1.0,) * 3, said.resize, said.keep, said.crop)

    def way(name: str, remedy: str, pixels: Pixels) -> Way:
        return Way("geometry", name, remedy, pixels)

    def fit(picture: Raw, **changes: Any) -> Raw:
        changed = replace(spec, **changes)
        fill = said.fill if changed.crop_mode == spec.crop_mode else fill_of(changed)
        return fitted(picture, changed, fill).transpose(1, 2, 0)

    def cut(picture: Raw) -> Raw:
        return centre(picture, spec.size, said.fill or fill_of(spec))

    def sampled(scale: Callable[..., Raw], picture: Raw) -> Raw:
        return cut(scale(picture, goal_size(picture.shape[:2], spec)))

    def turned(quarters: int, picture: Raw) -> Raw:
        return fit(np.ascontiguousarray(np.rot90(picture, quarters)))

    found = [way(RIGHT, "", fit)]
    resize = f"resize with the bundle's own code: '{said.resize}' as preparation.rule of the contract describes it"
    found += [
        way(f"resized by {name}", resize, partial(fit, interpolation=name)) for name in FILTERS if name != said.resize
    ]
    found += [way(name, resize, partial(sampled, scale)) for name, scale in SAMPLED.items()]
    crop = f"crop as the contract says: '{said.crop}', keep {said.keep:g}"
    found += [
        way(name, crop, partial(fit, crop_mode=mode, crop_pct=keep))
        for name, mode, keep in CROPS
        if (mode, keep) != (said.crop, said.keep)
    ]
    found.append(way("cut out without resizing", crop, cut))
    upright = "turn the picture upright first: apply the EXIF orientation, or the camera's rotation"
    for quarter in (1, 2, 3):
        found.append(way(f"turned by {90 * quarter} degrees", upright, partial(turned, quarter)))
    mirrored = "do not mirror: a front camera's preview is mirrored, its picture is not"
    found.append(way("mirrored", mirrored, lambda p: fit(np.ascontiguousarray(p[:, ::-1]))))
    return found


def colours(whole: Whole) -> list[Way]:
    """What is in the pixels."""
    order = whole.preparation.colours
    flip = order == "BGR"
    exchange = f"feed the channels as {order}"
    full = "convert with the full range: Y 16 to 235 has to become 0 to 255"

    def way(name: str, remedy: str, change: Pixels) -> Way:
        return Way("colours", name, remedy, lambda p: change(p[..., ::-1] if flip else p))

    gray = "keep the colours: the network was not trained on gray pictures"
    return [
        way(RIGHT, "", lambda p: p),
        way("red and blue exchanged", exchange, lambda p: p[..., ::-1]),
        way("video levels, 16 to 235, taken for full ones", full, _video),
        way("gray", gray, _gray),
    ]


def _video(pixels: Raw) -> Raw:
    return np.floor(pixels * (219 / 255) + 16.5).astype(np.uint8)


def _gray(pixels: Raw) -> Raw:
    luma = np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return luma[..., None].repeat(3, 2)
