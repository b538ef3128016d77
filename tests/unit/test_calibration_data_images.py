"""Decoding of every colour mode and orientation, and preprocessing against timm's own transform."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from calibration.images import fitted, normalise, preprocess, read_rgb
from qtools.core.errors import InputError
from qtools.core.types import InputSpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = _noise(5, 8)
    # Stored pixels for each tag, from the EXIF table: where row 0 and column 0 of the file lie in the scene.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    assert (read_rgb(tmp_path / "x.png") == upright).all()


def test_gray_palette_and_single_bit(tmp_path: Path) -> None:
    gray = _noise(4, 6)[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert (read_rgb(tmp_path / "gray.png") == gray[..., None]).all()
    palette = Image.frombytes("P", (6, 4), (gray % 4).tobytes())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    palette.save(tmp_path / "palette.png")
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)
    assert (read_rgb(tmp_path / "palette.png") == colours[gray % 4]).all()
    Image.fromarray(gray > 127).save(tmp_path / "bit.png")
    assert (read_rgb(tmp_path / "bit.png") == np.where(gray > 127, 255, 0)[..., None]).all()


def test_sixteen_bit_gray_keeps_its_upper_bits(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 32768], [65535, 300, 5000, 60000]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (read_rgb(tmp_path / "deep.png")[..., 0] == deep >> 8).all()


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    assert read_rgb(tmp_path / "alpha.png")[0].tolist() == [[10, 20, 30], [255, 255, 255], [204, 204, 204]]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    keyed.save(tmp_path / "keyed.png", transparency=(1, 2, 3))
    assert read_rgb(tmp_path / "keyed.png")[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "press.jpg", quality=95)
    red = read_rgb(tmp_path / "press.jpg")[8, 8].astype(int)
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    first = Image.new("RGB", (4, 4), "red")
    first.save(tmp_path / "x.webp", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")], lossless=True)
    assert read_rgb(tmp_path / "x.webp")[0, 0].tolist() == [255, 0, 0]


def test_first_picture_of_a_phone_file(tmp_path: Path) -> None:
    more = [Image.new("RGB", (32, 32), "blue")]
    Image.new("RGB", (32, 32), "white").save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=more)
    assert read_rgb(tmp_path / "x.jpg").min() > 250


def test_truncated_foreign_and_missing_files(tmp_path: Path) -> None:
    Image.fromarray(_noise(64, 64)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.fromarray(_noise(64, 64)).save(tmp_path / "x.png")
    png = (tmp_path / "x.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(png[:200] + bytes(50) + png[250:])
    for name in ("half.jpg", "text.png", "empty.png", "program.jpg", "bad.png", "missing.png"):
        with pytest.raises(InputError, match=name) as caught:
            read_rgb(tmp_path / name)
        assert caught.value.next_step and caught.value.what.count(name) == 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_000, 10_000), (20_000, 10)])
def test_bombs_and_strips_are_refused_before_decoding(tmp_path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(InputError, match=r"bomb\.png (has|is)"):
        read_rgb(tmp_path / "bomb.png")


SPECS = [
    InputSpec((224, 224), *IMAGENET, "bicubic", 0.95),
    InputSpec((224, 224), *IMAGENET, "bilinear", 0.875),
    InputSpec((64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0),
    InputSpec((96, 96), *IMAGENET, "lanczos", 0.9),
    InputSpec((96, 96), *IMAGENET, "nearest", 0.9),
    InputSpec((96, 64), *IMAGENET, "bicubic", 0.9),
    InputSpec((64, 96), *IMAGENET, "bilinear", 1.0),
    InputSpec((96, 96), *IMAGENET, "bicubic", 0.9, "squash"),
    InputSpec((64, 96), *IMAGENET, "bicubic", 1.0, "squash"),
    InputSpec((96, 96), *IMAGENET, "bicubic", 0.9, "border"),
    InputSpec((96, 64), *IMAGENET, "bilinear", 1.0, "border"),
    InputSpec((64, 64), *IMAGENET, "bilinear", 1.1),
]
SIZES = [(32, 32), (224, 224), (236, 236), (300, 201), (201, 301), (97, 500), (333, 64), (1, 1), (7, 63), (257, 255)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.size}-{s.interpolation}-{s.crop_pct}-{s.crop_mode}")
def test_preprocess_is_timm_bit_for_bit(spec: InputSpec) -> None:
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, *spec.size),
        mean=spec.mean,
        std=spec.std,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        is_training=False,
    )
    for seed, (height, width) in enumerate(SIZES):
        image = _noise(height, width, seed)
        expected = transform(Image.fromarray(image)).numpy()
        found = preprocess(image, spec)
        assert found.dtype == np.float32 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected, err_msg=f"{height} x {width}")


def test_preprocess_of_a_real_model_config() -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(timm.create_model("repvit_m0_9", pretrained=False))
    spec = InputSpec(
        config["input_size"][1:],
        config["mean"],
        config["std"],
        config["interpolation"],
        config["crop_pct"],
        config["crop_mode"],
    )
    image = _noise(375, 500)
    expected = create_transform(**config, is_training=False)(Image.fromarray(image)).numpy()
    np.testing.assert_array_equal(preprocess(image, spec), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_pixels_are_bytes_before_the_normalisation(interpolation: str, mode: str) -> None:
    """Resizing rounds to whole pixels, so that a model of pixels and one of normalised pictures see the same."""
    spec = InputSpec((24, 24), *IMAGENET, interpolation, 0.9, mode)
    image = _noise(37, 61)
    pixels = fitted(image, spec)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 24, 24) and pixels.flags.c_contiguous
    expected = preprocess(image, spec)
    np.testing.assert_array_equal(normalise(pixels, spec), expected)
    np.testing.assert_array_equal(normalise(pixels[None].astype(np.float32), spec), expected[None])


def test_unknown_words_of_a_spec() -> None:
    for spec in (
        InputSpec((8, 8), *IMAGENET, "random", 1.0),
        InputSpec((8, 8), *IMAGENET, "bilinear", 1.0, "middle"),
    ):
        with pytest.raises(InputError, match="random|middle"):
            preprocess(_noise(9, 9), spec)
