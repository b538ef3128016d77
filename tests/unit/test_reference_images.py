"""The procedural reference set: repeatable, balanced, the same scene at every size, and not solvable by colour."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qtools.reference import CLASSES, RENDER_VERSION, ReferenceImages, render, write_folder
from qtools.reference.images import SPLITS, label_of
from qtools.reference.shapes import box, capsule, circle, convex
from qtools.reference.silhouettes import silhouette

SMALL = 48

_DIGEST = """
import hashlib
from qtools.reference import render
print(hashlib.sha256(b"".join(render(i, split="test", size=48)[0].tobytes() for i in range(6))).hexdigest())
"""


def _stack(split: str, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    scenes = [render(index, split=split, size=size) for index in range(count)]
    return np.stack([pixels for pixels, _ in scenes]), np.array([label for _, label in scenes])


def test_pixels_are_uint8_rgb_that_use_the_range() -> None:
    pixels, labels = _stack("train", 64, SMALL)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (64, SMALL, SMALL, 3)
    assert set(labels.tolist()) <= set(range(len(CLASSES)))
    assert pixels.min() < 10 and pixels.max() > 245
    # Clipping may touch single lamps and shadows, never a large part of the set.
    assert np.mean((pixels == 0) | (pixels == 255)) < 0.2


def test_no_picture_is_nearly_constant() -> None:
    pixels, _ = _stack("calibration", 64, SMALL)
    assert pixels.reshape(64, -1, 3).astype(np.float64).std(axis=1).max(axis=1).min() > 3.0


def test_the_same_index_gives_the_same_bytes() -> None:
    first, label = render(5, split="train", size=SMALL)
    render(6, split="train", size=SMALL)
    again, label_again = render(5, split="train", size=SMALL)
    assert label == label_again
    np.testing.assert_array_equal(first, again)


def test_another_process_gives_the_same_bytes() -> None:
    here = hashlib.sha256(b"".join(render(i, split="test", size=48)[0].tobytes() for i in range(6))).hexdigest()
    done = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == here


def test_splits_and_neighbours_share_no_scene() -> None:
    digests = [
        hashlib.sha256(render(index, split=split, size=SMALL)[0].tobytes()).hexdigest()
        for split in SPLITS
        for index in range(20)
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_every_block_holds_each_class_once(split: str) -> None:
    count = len(CLASSES)
    orders = [tuple(label_of(block * count + place, split=split) for place in range(count)) for block in range(6)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len(set(orders)) > 1, "the order of the classes must not repeat: an index would give the label away"


def test_render_and_label_of_agree() -> None:
    assert [render(i, split="test", size=16)[1] for i in range(20)] == [label_of(i, split="test") for i in range(20)]


def test_sizes_show_the_same_scene() -> None:
    matches = []
    for index in range(8):
        large = render(index, split="test", size=192)[0].astype(np.float64).reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
        rows = [large - large.mean()]
        rows += [render(other, split="test", size=64)[0].astype(np.float64) for other in (index, index + 1)]
        same, other = (np.corrcoef(rows[0].ravel(), row.ravel())[0, 1] for row in rows[1:])
        matches.append(same)
        assert same > other
    assert np.mean(matches) > 0.9


def test_mean_colour_does_not_give_the_label_away() -> None:
    pixels, labels = _stack("train", 640, 24)
    colours = pixels.reshape(640, -1, 3).astype(np.float64).mean(axis=1)
    fit, held = slice(0, 320), slice(320, 640)
    centres = np.stack([colours[fit][labels[fit] == label].mean(axis=0) for label in range(len(CLASSES))])
    guesses = np.linalg.norm(colours[held][:, None] - centres[None], axis=2).argmin(axis=1)
    # Chance is 1/16; four standard errors of 320 guesses above it is 0.117.
    assert np.mean(guesses == labels[held]) < 0.117


def test_less_trouble_shows_the_same_label_on_a_calmer_picture() -> None:
    hard, easy = (np.stack([render(i, split="train", size=64, trouble=t)[0] for i in range(12)]) for t in (1.0, 0.0))

    def roughness(pixels: np.ndarray) -> float:
        return float(np.abs(np.diff(pixels.astype(np.float64), axis=2)).mean())

    assert roughness(easy) < 0.6 * roughness(hard)
    assert [render(i, split="train", size=16, trouble=0.0)[1] for i in range(16)] == [
        label_of(i, split="train") for i in range(16)
    ]


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=CLASSES)
def test_silhouettes_vary_and_fill_the_unit_disc(label: int) -> None:
    axis = np.linspace(-1.5, 1.5, 60, dtype=np.float32)
    x, y = np.meshgrid(axis, -axis)
    masks = []
    for seed in range(6):
        distance = silhouette(label, x, y, np.random.default_rng(seed))
        assert np.isfinite(distance).all()
        masks.append(distance < 0.0)
        assert 0.04 < masks[-1].mean() * 9.0 / np.pi < 1.0
        assert not masks[-1][np.hypot(x, y) > 1.25].any()
    assert any((mask != masks[0]).any() for mask in masks[1:])


def test_primitives_measure_distance() -> None:
    x, y = np.array([[3.0, 0.0]], dtype=np.float32), np.array([[4.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(circle(x, y, (0.0, 0.0), 2.0), [[3.0, -2.0]], atol=1e-6)
    np.testing.assert_allclose(box(x, y, (0.0, 0.0), (3.0, 1.0)), [[3.0, -1.0]], atol=1e-6)
    np.testing.assert_allclose(capsule(x, y, (0.0, 0.0), (3.0, 0.0), 0.5), [[3.5, -0.5]], atol=1e-6)
    square = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    np.testing.assert_allclose(convex(x, y, square), [[3.0, -1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"index": 0, "split": "validation"}, ValueError),
        ({"index": -1, "split": "train"}, IndexError),
        ({"index": 0, "split": "train", "size": 8}, ValueError),
        ({"index": 0, "split": "train", "trouble": 1.5}, ValueError),
    ],
)
def test_bad_requests_are_refused(arguments: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        render(**arguments)


def test_the_source_is_a_sequence_of_renders() -> None:
    images = ReferenceImages("calibration", 5, size=32)
    assert len(images) == 5 and len(list(images)) == 5
    assert images.classes == CLASSES and len(CLASSES) == 16
    np.testing.assert_array_equal(images[3][0], render(3, split="calibration", size=32)[0])
    with pytest.raises(IndexError):
        images[5]
    others = [("test", 5, 32), ("calibration", 6, 32), ("calibration", 5, 33)]
    assert len({images.digest, *(ReferenceImages(*other).digest for other in others)}) == 4
    assert f"v{RENDER_VERSION}" in images.digest


def test_folders_hold_what_was_rendered(tmp_path: Path) -> None:
    from PIL import Image

    write_folder(tmp_path, "test", 3, size=32)
    for index in range(3):
        pixels, label = render(index, split="test", size=32)
        with Image.open(tmp_path / CLASSES[label] / f"test-{index:06d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), pixels)
    assert len(list(tmp_path.glob("*/*.png"))) == 3
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(CLASSES)


def test_importing_the_package_loads_no_framework() -> None:
    code = """
import sys
import qtools.reference as reference
reference.checkpoint("none")
assert not {"torch", "numpy", "timm"} & set(sys.modules)
reference.render(0, split="test", size=16)
assert not {"torch", "timm", "PIL"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
