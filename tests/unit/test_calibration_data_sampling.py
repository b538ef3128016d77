"""Seeded, balanced and disjoint choices, and batches that are decoded ahead."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration import batches
from calibration.batches import ImageBatches
from calibration.sampling import select, split
from qtools.core.errors import InputError
from qtools.core.types import InputSpec

SPEC = InputSpec((4, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", 1.0)


class Shades:
    """Image i is all of shade i; labelled or not."""

    def __init__(self, count: int, labels: list[int] | None = None, broken: int = -1) -> None:
        self.count = count
        self.labels = labels
        self.broken = broken
        self.decoded = 0
        self.digest = "shades"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        self.decoded += 1
        if index == self.broken:
            raise InputError(f"image {index} cannot be read", "replace it")
        return np.full((4, 4, 3), index, np.uint8), self.labels[index] if self.labels else None


labelled = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(labels=labelled, seed=st.integers(0, 5), data=st.data())
def test_selection_is_as_even_as_the_classes_allow(labels: list[int], seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels)))
    chosen = select(Shades(len(labels), labels), count, seed)
    assert len(set(chosen.indices)) == count == len(chosen)
    have, held = Counter(labels), Counter(labels[i] for i in chosen.indices)
    fullest = max(held.values())
    for label, available in have.items():
        assert held[label] >= min(available, fullest - 1)
    assert chosen.indices == select(Shades(len(labels), labels), len(labels), seed).indices[:count]
    assert chosen.labels is not None and chosen.labels.tolist() == [labels[i] for i in chosen.indices]


@settings(max_examples=40, deadline=None)
@given(labels=st.none() | labelled.filter(lambda x: len(x) > 1), seed=st.integers(0, 5), data=st.data())
def test_split_never_shares_an_image(labels: list[int] | None, seed: int, data: st.DataObject) -> None:
    source = Shades(len(labels) if labels else 30, labels)
    calibration = data.draw(st.integers(1, len(source) - 1))
    evaluation = data.draw(st.integers(1, len(source) - calibration))
    first, second = split(source, calibration=calibration, evaluation=evaluation, seed=seed)
    assert (len(first), len(second)) == (calibration, evaluation)
    assert not set(first.indices) & set(second.indices)
    _, same = split(source, calibration=1, evaluation=evaluation, seed=seed)
    assert same.indices == second.indices, "the judged images do not depend on the number of calibration images"


def test_seeds_differ_and_repeat() -> None:
    source = Shades(200)
    assert select(source, 20, 1).indices == select(source, 20, 1).indices
    assert set(select(source, 20, 1).indices) != set(select(source, 20, 2).indices)
    assert select(source, 5, 0).indices == (61, 111, 126, 164, 92), "pinned: the choice is part of a plan's digest"


def test_a_choice_looks_random() -> None:
    drawn = [i for seed in range(200) for i in select(Shades(100), 10, seed).indices]
    counts = np.bincount(drawn, minlength=100)
    assert counts.min() >= 7 and counts.max() <= 40  # 20 expected, 4.2 standard deviation
    assert abs(float(np.mean(drawn)) - 49.5) < 3


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="11 images were asked for and there are 10") as caught:
        select(Shades(10), 11)
    assert "10" in caught.value.next_step
    with pytest.raises(InputError, match="6 images to calibrate and 5 others.*there are 10.*both"):
        split(Shades(10), calibration=6, evaluation=5)
    for count in (0, -1):
        with pytest.raises(InputError):
            select(Shades(10), count)
        with pytest.raises(InputError):
            split(Shades(10), calibration=count, evaluation=1)


def test_subsets_of_subsets_and_digests_without_fingerprints() -> None:
    source = Shades(20, [i % 2 for i in range(20)])
    inner = select(select(source, 10), 4)
    assert [int(image[0, 0, 0]) for image, _ in (inner[i] for i in range(4))] == [
        inner.source.indices[i]
        for i in inner.indices  # type: ignore[attr-defined]
    ]
    assert inner.digest == select(select(source, 10), 4).digest != select(source, 5).digest


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batches_hold_every_image_once_in_order(batch_size: int) -> None:
    held = ImageBatches(Shades(10, list(range(10))), SPEC, batch_size)
    for _ in range(2):
        shapes = [len(batch) for batch in held]
        assert sum(shapes) == 10 == len(held) and all(n == batch_size for n in shapes[:-1])
        seen = np.concatenate(list(held))
        assert seen.dtype == np.float32 and seen.shape == (10, 3, 4, 4)
        np.testing.assert_array_equal(np.rint(seen[:, 0, 0, 0] * 255), np.arange(10))
    labels = held.labels()
    assert labels is not None and labels.tolist() == list(range(10))
    assert ImageBatches(Shades(3), SPEC).labels() is None
    (pixels,) = ImageBatches(Shades(10), SPEC, 10, pixels=True)
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], np.arange(10, dtype=np.float32))
    assert pixels.dtype == np.float32


def _decoders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_an_error_comes_out_in_its_place_and_no_thread_stays() -> None:
    seen = []
    with pytest.raises(InputError, match="image 5"):
        seen.extend(len(batch) for batch in ImageBatches(Shades(10, broken=5), SPEC, 2))
    assert seen == [2, 2] and not _decoders()


def test_a_reader_that_stops_early_leaves_no_thread_and_little_decoded() -> None:
    source = Shades(1000)
    walk: Iterator[NDArray[np.float32]] = iter(ImageBatches(source, SPEC, 2))
    assert len(list(islice(walk, 3))) == 3 and _decoders()
    walk.close()  # type: ignore[attr-defined]
    assert not _decoders()
    assert source.decoded <= 2 * (3 + batches.AHEAD)


def test_decoding_runs_ahead_of_the_reader() -> None:
    source = Shades(100)
    walk = iter(ImageBatches(source, SPEC, 1))
    next(walk)
    for _ in range(200):
        if source.decoded == 1 + batches.AHEAD:
            break
        threading.Event().wait(0.01)
    assert source.decoded == 1 + batches.AHEAD, "that many and no more: memory is bounded"
    walk.close()  # type: ignore[attr-defined]


def test_a_batch_needs_an_image() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        ImageBatches(Shades(3), SPEC, 0)
