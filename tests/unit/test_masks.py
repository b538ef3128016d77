"""Masks: of a folder, through the preprocessing of their images, and of the rendered scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.images import fitted, fitted_mask
from calibration.masks import masks_of, open_masked
from calibration.sampling import Subset, select
from qtools.core.errors import InputError
from qtools.core.types import InputSpec
from qtools.reference import scene
from qtools.reference.images import MASK_CLASSES, ReferenceImages, mask_of, render, render_masked

SPEC = InputSpec((8, 8), (0.0,) * 3, (1.0,) * 3, "nearest", 1.0, "squash")


def folder(root: Path, count: int, side: tuple[int, int] = (10, 14)) -> Path:
    """Pictures whose red is ten times their mask."""
    for number in range(count):
        mask = np.random.default_rng(number).integers(0, 5, side).astype(np.uint8)
        pixels = np.stack([10 * mask, mask, mask], -1)
        for place, content in (("images", pixels), ("masks", mask)):
            (root / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / place / f"{number:02d}.png")
    return root


@pytest.mark.parametrize("mode", ["squash", "center", "border"])
@pytest.mark.parametrize("side", [(10, 14), (14, 10), (5, 6)])
def test_a_mask_goes_the_way_of_its_image(mode: str, side: tuple[int, int], tmp_path: Path) -> None:
    spec = InputSpec((8, 8), (0.0,) * 3, (1.0,) * 3, "nearest", 0.9 if mode == "center" else 1.0, mode)
    source = open_masked(folder(tmp_path, 3, side))
    found = masks_of(source, spec)
    assert found is not None and found.shape == (3, 8, 8)
    for index in range(3):
        red = fitted(source[index][0], spec)[0]
        inside = found[index] != 255
        assert inside.any() and (red[inside] == 10 * found[index][inside]).all()
        assert (red[~inside] == 0).all()  # what lies around a small picture has no class


def test_no_two_classes_are_mixed() -> None:
    mask = np.zeros((31, 31), np.uint8)
    mask[:, 15:] = 7
    assert set(np.unique(fitted_mask(mask, SPEC))) == {0, 7}


def test_chosen_images_keep_their_masks(tmp_path: Path) -> None:
    source = open_masked(folder(tmp_path, 8))
    some = select(source, 4, 3)
    found = masks_of(some, SPEC)
    assert found is not None
    for index in range(4):
        np.testing.assert_array_equal(found[index], fitted_mask(some[index][0][..., 1], SPEC))
    assert masks_of(Subset(some, [2]), SPEC).tolist() == found[2:3].tolist()


def test_the_digest_hangs_on_the_masks(tmp_path: Path) -> None:
    before = open_masked(folder(tmp_path, 2))
    digest, chosen = before.digest, Subset(before, [0]).digest
    Image.fromarray(np.ones((10, 14), np.uint8)).save(tmp_path / "masks" / "00.png")
    after = open_masked(tmp_path)
    assert after.digest != digest and Subset(after, [0]).digest != chosen
    assert Subset(after, [1]).digest == Subset(before, [1]).digest


def test_images_without_masks_are_images_without_labels(tmp_path: Path) -> None:
    (folder(tmp_path / "a", 2) / "masks").rename(tmp_path / "elsewhere")
    assert masks_of(open_masked(tmp_path / "a"), SPEC) is None
    flat = open_masked(tmp_path / "a" / "images")
    assert len(flat) == 2 and "none" in flat.labelling and masks_of(Subset(flat, [0]), SPEC) is None


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, 2)
    Image.fromarray(np.zeros((10, 14, 3), np.uint8)).save(root / "masks" / "01.png")
    with pytest.raises(InputError, match="holds colours"):
        masks_of(open_masked(root), SPEC)
    (root / "masks" / "01.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="cannot be read"):
        masks_of(open_masked(root), SPEC)
    Image.fromarray(np.zeros((14, 10), np.uint8)).save(root / "masks" / "01.png")
    with pytest.raises(InputError, match="10 x 14 pixels, its image 14 x 10"):
        masks_of(open_masked(root), SPEC)
    (root / "masks" / "01.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images have no mask, the first masks/01\.png"):
        open_masked(root)
    with pytest.raises(InputError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        open_masked(tmp_path / "empty")


def test_rendered_masks_show_the_same_object_at_every_size() -> None:
    overlap = []
    for index in range(8):
        pixels, label, small = render_masked(index, split="test", size=48)
        again, same = render(index, split="test", size=48)
        assert same == label and (again == pixels).all()
        large = render_masked(index, split="test", size=144)[2].reshape(48, 3, 48, 3).mean((1, 3)) >= 0.5
        overlap.append((small & large).sum() / (small | large).sum())
        assert 0.01 < small.mean() < 0.7
        values = mask_of(label, small)
        assert set(np.unique(values)) == {0, label + 1} and MASK_CLASSES[label + 1] == ReferenceImages.classes[label]
    assert np.mean(overlap) > 0.85


def test_the_mask_is_what_was_painted_and_not_painted_over() -> None:
    for seed in range(6):
        draw = np.random.default_rng(seed)
        canvas = scene.Canvas(64, softness=0.0, trouble=0.6)
        light = scene.Light(1.0, 0.0, 0.3, 0.0)  # without a shadow, which changes what is no object
        ground = scene.paint_background(canvas, draw)
        scene.paint_clutter(canvas, ground, light, draw)
        assert not canvas.mask.any()
        before = canvas.planes.copy()
        pose = scene.paint_object(canvas, ground, light, seed, draw)
        shown, painted = canvas.mask.copy(), (canvas.planes != before).any(0)
        assert shown.any() and (painted[shown]).all()
        assert painted.sum() < 2.2 * shown.sum() + 100  # the others are the soft edge, less than half covered
        before = canvas.planes.copy()
        scene.paint_occluders(canvas, ground, light, pose, draw)
        hidden, changed = shown & ~canvas.mask, (canvas.planes != before).any(0)
        assert not (canvas.mask & ~shown).any() and changed[hidden].all()
