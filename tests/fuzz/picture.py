"""A picture: decoded, turned upright, and fitted to a model's input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from calibration import images
from qtools.core.types import InputSpec

images.MAX_PIXELS = 1 << 20
"""The same limit, where it can be reached a thousand times a second."""
SPEC = InputSpec((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9)


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Every format, CMYK, 16 bits, a palette, transparency, EXIF rotation, two frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    colour, frames = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    return [
        _saved(colour, "BMP"),
        _saved(colour, "PNG"),
        _saved(colour.quantize(8), "PNG", transparency=0),
        _saved(colour.convert("RGBA"), "PNG"),
        _saved(wide, "PNG"),
        _saved(colour, "JPEG", exif=turned),
        _saved(colour, "JPEG", progressive=True),
        _saved(colour.convert("CMYK"), "JPEG"),
        _saved(colour, "WEBP"),
        _saved(colour, "WEBP", save_all=True, append_images=[colour]),
        _saved(frames, "GIF", save_all=True, append_images=[frames]),
    ]


def read(data: bytes, folder: Path) -> None:
    """As images of --data are read."""
    path = folder / "picture.png"
    path.write_bytes(data)
    assert images.preprocess(images.read_rgb(path), SPEC).shape == (3, 16, 16)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
