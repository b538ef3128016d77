"""A file becomes an RGB picture, and a picture becomes the model's input. Pillow and numpy only."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qtools.core.errors import InputError
from qtools.core.files import read_bytes, regular
from qtools.core.types import InputSpec

MAX_PIXELS = 89_478_485
"""A file that claims more is refused before a pixel is decoded (a quarter gigabyte as RGB, Pillow's own limit)."""

MAX_SCANS = 16
"""Passes of a JPEG over a picture of `MAX_PIXELS`, in proportion more over a smaller one; Pillow itself writes 10."""

MAX_ASPECT = 100
"""A longer strip is refused: enlarging its short side to the model's input would not fit into memory."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""Decoders tried, whatever the file is called; Pillow's others (EPS starts a program) stay shut. JPEG includes the
several-picture files of phones (MPO)."""

_SCAN = b"\xff\xda"
"""Start of a scan; inside coded pixels a zero follows each 0xff."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error)
"""What Pillow's decoders raise on a damaged file."""

_INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decodes the first frame of a picture, upright.

    Transparent pixels are laid over white, 16-bit gray keeps its upper 8 bits.

    Returns:
        RGB, shape (height, width, 3).

    Raises:
        InputError: If the file cannot be decoded, claims more than `MAX_PIXELS` or is longer than `MAX_ASPECT`.
    """
    try:
        with Image.open(regular(path), formats=FORMATS) as image:
            _check_size(path, *image.size)
            _check_scans(path, image)
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            return np.array(_to_rgb(image if turn is None else image.transpose(turn)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"image {path} is too large: {error}", "take it out of the folder") from error
    except _BROKEN as error:
        reason = str(error).replace(str(path), "").replace(" ''", "") or type(error).__name__
        raise InputError(f"image {path} cannot be read: {reason}", "replace it or take it out of the folder") from error


def preprocess(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Makes the model's input of a picture, bit-equal to timm's evaluation transform.

    Source: timm.data.transforms_factory.transforms_imagenet_eval over Pillow, with its rounding of sizes
    (floor of size / crop_pct, truncated long side, half-to-even crop offsets).

    Args:
        image: RGB, shape (height, width, 3).
        spec: The model's preprocessing.

    Returns:
        Normalised float32, shape (3, spec.size[0], spec.size[1]).

    Raises:
        InputError: If the spec names an interpolation or a crop mode that does not exist.
    """
    return normalise(fitted(image, spec), spec)


def fitted(image: NDArray[np.uint8], spec: InputSpec, fill: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    """Resizes and crops a picture to the model's size; the result is rounded to bytes, as Pillow does it.

    Args:
        image: RGB, shape (height, width, 3).
        spec: The model's preprocessing.
        fill: Bytes around a picture that is too small; None takes `fill_of`.

    Returns:
        RGB, channels first, shape (3, spec.size[0], spec.size[1]).

    Raises:
        InputError: If the spec names an interpolation or a crop mode that does not exist, or enlarges beyond
            `MAX_PIXELS`.
    """
    mode = _INTERPOLATIONS.get(spec.interpolation)
    if mode is None:
        raise InputError(
            f"unknown interpolation '{spec.interpolation}'", f"choose one of: {', '.join(sorted(_INTERPOLATIONS))}"
        )
    height, width = goal_size(image.shape[:2], spec)
    if max(height * width, math.prod(spec.size)) > MAX_PIXELS:
        raise InputError(
            f"an input of {spec.size[0]} x {spec.size[1]}, crop {spec.crop_pct:g}, means enlarging a picture to "
            f"{height} x {width} pixels, more than {MAX_PIXELS // 10**6} million",
            "correct the size or the crop in the file that says so",
        )
    picture = Image.fromarray(image)
    picture = _scaled(picture, (width, height), mode)
    cut = centre(np.asarray(picture), spec.size, fill_of(spec) if fill is None else fill)
    return np.ascontiguousarray(cut.transpose(2, 0, 1))


def fill_of(spec: InputSpec) -> tuple[int, int, int]:
    """Bytes that go around a picture which is too small after resizing."""
    red, green, blue = (round(255 * m) if spec.crop_mode == "border" else 0 for m in spec.mean)
    return red, green, blue


def normalise(pixels: NDArray[Any], spec: InputSpec) -> NDArray[np.float32]:
    """Brings pixels to the scale that the model was trained on.

    Args:
        pixels: Whole numbers 0 to 255 of any type, shape (..., 3, height, width).
        spec: The model's preprocessing.
    """
    # The three steps in float32 and in this order: any regrouping differs from torchvision in the last bit.
    scaled = pixels.astype(np.float32) / np.float32(255)
    scaled -= np.asarray(spec.mean, np.float32)[:, None, None]
    scaled /= np.asarray(spec.std, np.float32)[:, None, None]
    return scaled


def _scaled(picture: Image.Image, size: tuple[int, int], mode: Image.Resampling) -> Image.Image:
    """A picture resized to (width, height), one side after the other.

    Bytes lie between the two passes, so that their order shows. Pillow 13 takes the height first where it loses more
    than twice the pixels that the width does (src/libImaging/Resample.c, ImagingResampleInner); older ones never do.
    Here the order is the newer one whatever Pillow is installed, and contracts promise it to apps.
    """
    width, height = size
    lost = picture.height - height
    height_first = lost > 0 and lost > 2 * (picture.width - width)
    between = (picture.width, height) if height_first else (width, picture.height)
    for step in (between, size) if mode is not Image.Resampling.NEAREST else (size,):
        if picture.size != step:
            picture = picture.resize(step, mode)
    return picture


def goal_size(shape: tuple[int, ...], spec: InputSpec) -> tuple[int, int]:
    """Height and width of the picture before the crop."""
    height, width = shape
    goal_h, goal_w = (math.floor(side / spec.crop_pct) for side in spec.size)
    if spec.crop_mode == "squash":
        return goal_h, goal_w
    if spec.crop_mode == "border":
        ratio = max(height / goal_h, width / goal_w)
    elif spec.crop_mode == "center":
        if goal_h == goal_w:  # torchvision truncates the long side; timm's own resize below rounds it
            short, long = min(height, width), max(height, width)
            grown = int(goal_h * long / short)
            return (goal_h, grown) if height <= width else (grown, goal_h)
        ratio = min(height / goal_h, width / goal_w)
    else:
        raise InputError(f"unknown crop mode '{spec.crop_mode}'", "choose one of: center, squash, border")
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def centre(pixels: NDArray[np.uint8], size: tuple[int, int], fill: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The middle of `pixels`, shape (*size, 3), filled around where it is smaller."""
    short = [max(goal - have, 0) for goal, have in zip(size, pixels.shape, strict=False)]
    if any(short):
        framed = np.empty((pixels.shape[0] + short[0], pixels.shape[1] + short[1], 3), np.uint8)
        framed[:] = fill
        top, left = short[0] // 2, short[1] // 2
        framed[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = framed
    top, left = (round((have - goal) / 2) for goal, have in zip(size, pixels.shape, strict=False))
    return pixels[top : top + size[0], left : left + size[1]]


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = f"more than {MAX_PIXELS // 10**6} million"
        raise InputError(f"image {path} has {width} x {height} pixels, {limit}", "make it smaller or take it out")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"image {path} is a strip of {width} x {height} pixels", "crop it or take it out")


def _check_scans(path: Path, image: Image.Image) -> None:
    """Refuses a JPEG that says everything hundreds of times: 31 bytes more are another pass over all pixels."""
    if image.format not in ("JPEG", "MPO"):
        return
    scans = read_bytes(path).count(_SCAN)
    if scans * image.width * image.height > MAX_SCANS * MAX_PIXELS:
        raise InputError(f"image {path} takes {scans} passes over its pixels", "save it again, or take it out")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none. A damaged EXIF block says nothing about the pixels."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any colour mode as RGB, over white where it is transparent."""
    if image.mode.startswith("I"):  # Pillow's own conversion would cut everything above 255 to white
        gray = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(gray, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


INDEXED = ("L", "P", "1")
"""Pillow's modes of one number per pixel: gray, and an index into a palette."""


def read_indexed(path: Path) -> NDArray[np.uint8]:
    """Decodes a PNG of one number per pixel, each as it is stored.

    Returns:
        Shape (height, width).

    Raises:
        InputError: If the file cannot be decoded, holds colours, or claims more than `MAX_PIXELS`.
    """
    try:
        with Image.open(regular(path), formats=("PNG",)) as image:
            _check_size(path, *image.size)
            if image.mode not in INDEXED:
                raise InputError(
                    f"mask {path} holds colours ({image.mode}), not class numbers",
                    "save it as 8-bit gray, or with a palette whose places are the classes",
                )
            return np.array(image).astype(np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"mask {path} is too large: {error}", "take it and its image out") from error
    except _BROKEN as error:
        reason = str(error).replace(str(path), "").replace(" ''", "") or type(error).__name__
        raise InputError(f"mask {path} cannot be read: {reason}", "replace it, or take it and its image out") from error


def fitted_mask(mask: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resizes and crops a mask as `fitted` does its picture; no class is mixed with another.

    Args:
        mask: Class of every pixel, shape (height, width).
        spec: The model's preprocessing.

    Returns:
        Shape spec.size, 255 where there is no picture.
    """
    own = replace(spec, interpolation="nearest", mean=(1.0, 1.0, 1.0))  # the mean is what lies around a small picture
    return fitted(np.repeat(mask[..., None], 3, 2), own)[0]
