"""Clips: which frames are taken, how folders of them are read, and what the procedural ones show."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from calibration.clips import open_clips
from calibration.images import preprocess
from calibration.sampling import select
from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.core.types import InputSpec
from qtools.reference.clips import MOTIONS, ReferenceClips, render_clip, write_clips

CLIP = Clip(3, 2, (4, 6), 1.0, "squash")
WHOLE = InputSpec((12, 6), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")


def _frames(place: Path, count: int, shade: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    place.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (shade, number, 0)).save(place / f"f{number}.png")  # f10 is behind f9


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 60))
def test_frames_are_taken_from_the_middle(frames: int, stride: int, count: int) -> None:
    taken = Clip(frames, stride, (1, 1)).numbers(count)
    assert len(taken) == frames and all(0 <= number < count for number in taken)
    span = (frames - 1) * stride + 1
    if count >= span:
        assert {b - a for a, b in pairwise(taken)} <= {stride}
        before, behind = taken[0], count - 1 - taken[-1]
        assert behind - before in (0, 1)
    else:
        assert taken == tuple(min(at * stride, count - 1) for at in range(frames))


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"stride": 0}, {"size": (0, 4)}, {"keep": 0.0}, {"keep": 1.1}])
def test_what_no_clip_is_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(CLIP, **wrong)  # type: ignore[arg-type]


def test_frames_lie_below_each_other_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for shade, name in enumerate(("cat", "dog")):
        _frames(tmp_path / name / "one", 12, shade)
    source = open_clips(tmp_path, 2, CLIP, WHOLE)
    assert source.names == ("cat/one", "dog/one") and source.classes == ("cat", "dog")
    assert source.labels is not None and source.labels.tolist() == [0, 1]
    laid, label = source[1]
    assert label == 1 and laid.shape == (12, 6, 3)
    assert [tuple(laid[row, 0]) for row in (0, 3, 4, 8, 11)] == [(1, 3, 0), (1, 3, 0), (1, 5, 0), (1, 7, 0), (1, 7, 0)]
    assert select(source, 1).labels is not None


def test_each_frame_is_prepared_by_itself(tmp_path: Path) -> None:
    """A frame cropped and normalised alone is the part of the clip that it becomes."""
    draw = np.random.default_rng(0)
    clip, place = dataclasses.replace(CLIP, stride=1, keep=0.8, crop="center"), tmp_path / "a" / "b"
    place.mkdir(parents=True)
    pixels = [draw.integers(0, 256, (9, 11, 3), dtype=np.uint8) for _ in range(3)]
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(place / f"{number}.png")
    laid = preprocess(open_clips(tmp_path, 1, clip, WHOLE)[0][0], WHOLE)
    alone = [preprocess(each, clip.of_frame(WHOLE)) for each in pixels]
    assert (laid == np.concatenate(alone, 1)).all()


def test_clips_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    _frames(tmp_path / "one", 2)
    source = open_clips(tmp_path, 7, CLIP, WHOLE)
    assert source.labels is None and source.labelling.startswith("none") and source[0][1] is None


@pytest.mark.parametrize("places", [(), ("",), ("a/b/c",), ("a", "b/c")])
def test_frames_elsewhere_are_refused(tmp_path: Path, places: tuple[str, ...]) -> None:
    for place in places:
        _frames(tmp_path / "root" / place / "x" if place else tmp_path / "root", 1)
    (tmp_path / "root").mkdir(exist_ok=True)
    with pytest.raises(InputError, match="holds no clips"):
        open_clips(tmp_path / "root", 2, CLIP, WHOLE)
    with pytest.raises(InputError, match="no folder"):
        open_clips(tmp_path / "none", 2, CLIP, WHOLE)


def test_the_digest_is_that_of_the_frames_taken(tmp_path: Path) -> None:
    _frames(tmp_path / "a" / "one", 7)
    before = open_clips(tmp_path, 1, CLIP, WHOLE).digest
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "a" / "one" / "f0.png")  # frames 1, 3 and 5 are taken
    assert open_clips(tmp_path, 1, CLIP, WHOLE).digest == before
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "a" / "one" / "f3.png")
    assert open_clips(tmp_path, 1, CLIP, WHOLE).digest != before


def test_what_is_written_is_what_is_rendered(tmp_path: Path) -> None:
    clip = Clip(3, 1, (16, 16), 1.0, "squash")
    whole = dataclasses.replace(WHOLE, size=(48, 16))
    shown = ReferenceClips("calibration", len(MOTIONS), clip)
    source = open_clips(write_clips(tmp_path, "calibration", len(MOTIONS), clip), len(MOTIONS), clip, whole)
    assert source.classes == MOTIONS == shown.classes and len(source) == len(shown)
    by_label = {label: laid for laid, label in (source[at] for at in range(len(source)))}
    for at in range(len(shown)):
        laid, label = shown[at]
        assert (by_label[label] == laid).all()
    with pytest.raises(IndexError):
        shown[len(shown)]


@pytest.mark.parametrize(
    ("motion", "across", "down"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1)]
)
def test_an_object_goes_where_its_label_says(motion: str, across: int, down: int) -> None:
    """The shift of the last frame against the first, by the best of all whole shifts."""
    side, room = 32, 12
    frames, label = render_clip(MOTIONS.index(motion), split="train", frames=3, size=(side, side))
    assert MOTIONS[label] == motion
    first, last = (frames[at].mean(2) for at in (0, 1))

    def error(x: int, y: int) -> float:
        a = first[max(0, -y) : side - max(0, y), max(0, -x) : side - max(0, x)]
        b = last[max(0, y) : side - max(0, -y), max(0, x) : side - max(0, -x)]
        return float(np.abs(a - b).mean())

    found = min(((x, y) for x in range(-room, room + 1) for y in range(-room, room + 1)), key=lambda at: error(*at))
    assert (np.sign(found[0]), np.sign(found[1])) == (across, down) and 6 <= max(map(abs, found)) <= 10
