"""COCO's files as they are written and as they are damaged; boxes where a picture's own resize and crop leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration.boxes import FILE, boxes_of, fitted_boxes, open_boxed
from calibration.images import fitted_mask
from calibration.sampling import select
from qtools.core.boxes import NOTHING
from qtools.core.errors import InputError
from qtools.core.types import InputSpec

SPEC = InputSpec((32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")


def told() -> dict[str, Any]:
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 4, "file_name": "a.png", "width": 40, "height": 20, "licence": 1},
            {"id": 2, "file_name": "b.png", "width": 20, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 8, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 4, "category_id": 5, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
        "categories": [{"id": 8, "name": "cup"}, {"id": 5, "name": "box"}],
    }


def folder(root: Path, content: Any) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name, size in (("a.png", (40, 20)), ("b.png", (20, 20))):
        Image.new("RGB", size).save(root / "images" / name)
    (root / FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def test_a_file_is_read_as_coco_means_it(tmp_path: Path) -> None:
    source = open_boxed(folder(tmp_path, told()), 2)
    assert source.names == ("images/a.png", "images/b.png") and source.classes == ("box", "cup")
    table = boxes_of(source, SPEC)
    assert table is not None and table.shape == (2, 2, 6)
    assert table[0].tolist() == [[1, 0.25, 0.25, 0.75, 0.75, 0], [0, 0, 0, 1, 1, 1]]
    assert (table[1, :, 0] == NOTHING).all(), "an image without objects is one too"
    chosen = select(source, 1, seed=3)
    alone = boxes_of(chosen, SPEC)
    assert alone is not None and (alone[0, 0, 0] == NOTHING) == (chosen.indices[0] == 1)


def test_the_digest_follows_the_boxes(tmp_path: Path) -> None:
    before = open_boxed(folder(tmp_path / "a", told()), 2).digest
    moved = told()
    moved["annotations"][0]["bbox"][0] = 11
    assert open_boxed(folder(tmp_path / "b", moved), 2).digest != before
    assert open_boxed(folder(tmp_path / "c", told()), 2).digest == before


def _without(key: str) -> Any:
    return {name: value for name, value in told().items() if name != key}


def _with(key: str, place: int, **changes: Any) -> Any:
    content = told()
    content[key][place].update(changes)
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no COCO file, at its top"),
        (_without("categories"), "no COCO file, at categories: Field required"),
        (_with("annotations", 0, bbox=[1, 2, 3]), r"no COCO file, at annotations.0.bbox"),
        (_with("annotations", 0, bbox=[1, 2, 0, 3]), r"annotation 0 has the box \(1.0, 2.0, 0.0, 3.0\)"),
        (_with("annotations", 1, image_id=5), "annotation 1 is of an image that the file does not list"),
        (_with("annotations", 1, category_id=6), "annotation 1 is of a category that the file does not list"),
        (_with("images", 0, file_name="c.png"), "names c.png, which is not in"),
        (_with("images", 0, file_name="../annotations.json"), "which is not in"),
        (_with("images", 0, id=2), "names no image, or one twice"),
        (_with("categories", 0, id=5), "has 2 categories, the network 2"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_boxed(folder(tmp_path, content), 2)


def test_what_does_not_fit_the_network_or_the_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 categories, the network 16"):
        open_boxed(folder(tmp_path, told()), 16)
    source = open_boxed(folder(tmp_path, _with("images", 0, width=39)), 2)
    with pytest.raises(InputError, match="image 0 has 40 x 20 pixels, annotations.json says 39 x 20"):
        boxes_of(source, SPEC)
    (tmp_path / FILE).unlink()
    plain = open_boxed(tmp_path, 2)
    assert len(plain) == 2 and boxes_of(plain, SPEC) is None
    with pytest.raises(InputError, match="there is no folder"):
        open_boxed(tmp_path / "none", 2)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(24, 60), st.integers(24, 60), st.sampled_from(["squash", "center", "border"]),
    st.sampled_from([1.0, 0.875, 0.6]), st.integers(0, 10_000),
)  # fmt: skip
def test_boxes_go_where_the_pixels_go(height: int, width: int, mode: str, keep: float, seed: int) -> None:
    """A mask of the box, through the picture's own resize and crop, has the box to within a pixel of rounding."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, width - 8), rng.integers(0, height - 8)
    right, bottom = rng.integers(x + 6, width), rng.integers(y + 6, height)
    spec = InputSpec((40, 48) if mode == "squash" else (40, 40), (0.5,) * 3, (0.5,) * 3, "bilinear", keep, mode)
    mask = np.zeros((height, width), np.uint8)
    mask[y:bottom, x:right] = 1
    shown = fitted_mask(mask, spec) == 1
    rows = fitted_boxes(np.array([[3.0, x, y, right, bottom, 0.0]]), (height, width), spec)
    if not shown.any():
        assert not len(rows) or (rows[0, 3:5] - rows[0, 1:3]).min() * 48 < 2
        return
    down, across = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    seen = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / np.array(spec.size[::-1] * 2)
    np.testing.assert_allclose(rows[0, 1:5], seen, atol=1.01 / 40)
