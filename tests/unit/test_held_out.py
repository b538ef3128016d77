"""The views in which a light network's judge sees a picture."""

from __future__ import annotations

import numpy as np
import pytest

from qtools.pipeline.held_out import MOVED, views


def test_the_first_view_is_the_picture_and_none_comes_twice() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(2, 3, 9, 7)).astype(np.float32)
    found = views(pictures, 8)
    assert len(found) == 8 and np.array_equal(found[0], pictures)
    assert all(seen.shape == pictures.shape and seen.flags.c_contiguous for seen in found)
    assert len({seen.tobytes() for seen in found}) == 8
    assert np.array_equal(found[1], pictures[..., ::-1])
    assert len(views(pictures, 3)) == 3 and len(views(pictures, 1)) == 1


@pytest.mark.parametrize("at", range(len(MOVED)))
def test_a_view_is_moved_and_its_edges_repeat(at: int) -> None:
    """Against the definition: the pixel that came from (y - down, x - right), held inside the picture."""
    rng = np.random.default_rng(1)
    picture = rng.normal(size=(1, 1, 6, 5)).astype(np.float32)
    (down, right), seen = MOVED[at], views(picture, 8)[2 * at]
    for y in range(6):
        for x in range(5):
            assert seen[0, 0, y, x] == picture[0, 0, min(max(y - down, 0), 5), min(max(x - right, 0), 4)]
