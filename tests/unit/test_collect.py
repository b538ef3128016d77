"""Streaming statistics against numpy on the whole data, whatever the batches; nothing kept; files read back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.collect import collect, read_stats, write_stats
from calibration.histogram import BINS
from qtools.core.errors import CheckFailed, InputError
from qtools.core.types import TensorStats


class Cut:
    """An array of images, cut into batches."""

    def __init__(self, images: NDArray[np.float32], batch: int) -> None:
        self.images, self.batch = images, batch

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self.images), self.batch):
            yield self.images[start : start + self.batch]


AXES = {"conv": 1, "tokens": 2, "last": -1, "pooled": 1, "plain": None}


def observe(images: NDArray[np.float32]) -> Iterator[tuple[str, Any]]:
    x = torch.from_numpy(images)
    yield "conv", torch.relu(x * torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1))
    yield "tokens", x.flatten(2).transpose(1, 2)
    yield "last", x.permute(0, 2, 3, 1)
    yield "pooled", x.mean((2, 3))
    yield "plain", images[:, 0] * 5
    yield "unnamed", x[:, 0, 0, 0]


def _images(count: int = 23) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0.2, 1, (count, 3, 9, 7)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 4, 23])
def test_statistics_are_those_of_the_whole(batch: int) -> None:
    images = _images()
    found = collect(Cut(images, batch), observe, AXES)
    assert list(found) == ["conv", "tokens", "last", "pooled", "plain", "unnamed"]
    for name, tensor in observe(images):
        x, stats, axis = np.asarray(tensor), found[name], AXES.get(name)
        assert stats.count == x.size and stats.counts.sum() == x.size and len(stats.counts) == BINS
        assert (stats.lo, stats.hi) == (float(x.min()), float(x.max()))
        rows = np.abs(x.reshape(len(x), -1)).max(1)
        np.testing.assert_array_equal(stats.reach, rows)
        assert stats.mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-6)
        expected = np.histogram(x.astype(np.float64), BINS, (stats.lo, stats.hi))[0]
        assert np.abs(np.cumsum(stats.counts) - np.cumsum(expected)).sum() <= 1 + x.size * 1e-3
        if axis is None:
            assert len(stats.channel_lo) == len(stats.channel_hi) == len(stats.channel_mean) == 0
            continue
        rest = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        np.testing.assert_array_equal(stats.channel_lo, x.min(rest))
        np.testing.assert_array_equal(stats.channel_hi, x.max(rest))
        np.testing.assert_allclose(stats.channel_mean, x.mean(rest, dtype=np.float64), rtol=1e-6)
        assert stats.channel_lo.dtype == stats.channel_hi.dtype == stats.channel_mean.dtype == np.float32


def test_bytes_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    files = [write_stats(tmp_path / f"{b}.npz", collect(Cut(_images(), b), observe, AXES)) for b in (1, 5, 23)]
    assert len({file.read_bytes() for file in files}) == 1


def test_sums_are_in_double_precision() -> None:
    rng = np.random.default_rng(0)
    large = rng.uniform(1e6, 1e7, (8, 1, 64, 32)).astype(np.float32)
    images = np.concatenate([large, -large, np.full_like(large, 0.5)], axis=3)
    images = rng.permuted(images, axis=3)
    stats = collect(Cut(images, 3), lambda x: iter([("x", torch.from_numpy(x))]), {"x": 1})["x"]
    assert stats.mean == pytest.approx(0.5 / 3, rel=1e-5), "the large ones cancel exactly"
    assert stats.channel_mean[0] == pytest.approx(0.5 / 3, rel=1e-5)


def test_a_constant_value() -> None:
    stats = collect(Cut(_images(), 4), lambda x: iter([("c", torch.full((len(x), 2), 1.5))]), {"c": 1})["c"]
    assert (stats.lo, stats.hi, stats.mean, stats.counts[-1]) == (1.5, 1.5, 1.5, 46)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_image(bad: float) -> None:
    images = _images()
    images[13, 1, 2, 3] = bad
    with pytest.raises(CheckFailed, match="'plain2'.*image 13") as caught:
        collect(Cut(images, 5), lambda x: iter([("fine", x[:, 0]), ("plain2", x[:, 1])]), {})
    assert caught.value.next_step


def test_a_network_that_changes_between_the_passes_is_caught() -> None:
    calls = iter(range(100))
    with pytest.raises(CheckFailed, match="'x'.*one pass"):
        collect(Cut(_images(4), 4), lambda x: iter([("x", x[: 4 - next(calls)])]), {})


def test_faulty_calls() -> None:
    with pytest.raises(InputError, match="no image"):
        collect(Cut(_images()[:0], 4), observe, AXES)
    with pytest.raises(ValueError, match="batch"):
        collect(Cut(_images(), 4), observe, {"conv": 0})
    with pytest.raises(CheckFailed, match="'empty' without elements"):
        collect(Cut(_images(), 4), lambda x: iter([("empty", x[:, :0])]), {"empty": 1})


def test_progress_counts_images_in_both_passes() -> None:
    told: list[tuple[str, int, int]] = []
    collect(Cut(_images(), 10), observe, AXES, lambda *words: told.append(words))
    assert told == [(label, done, 23) for label in ("ranges", "histograms") for done in (10, 20, 23)]


def test_one_value_at_a_time() -> None:
    alive: list[int] = []

    def watched(images: NDArray[np.float32]) -> Iterator[tuple[str, torch.Tensor]]:
        import weakref

        kept: list[weakref.ref[torch.Tensor]] = []
        for number in range(5):
            made = torch.from_numpy(images) + number
            kept.append(weakref.ref(made))
            yield f"v{number}", made
            del made
            alive.append(sum(ref() is not None for ref in kept))

    collect(Cut(_images(), 8), watched, {})
    assert max(alive) <= 1


def _same(a: TensorStats, b: TensorStats) -> bool:
    arrays = ("channel_lo", "channel_hi", "channel_mean", "counts", "reach")
    return (a.count, a.lo, a.hi, a.mean) == (b.count, b.lo, b.hi, b.mean) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) and getattr(a, n).dtype == getattr(b, n).dtype for n in arrays
    )


def test_files_read_back(tmp_path: Path) -> None:
    stats = collect(Cut(_images(), 4), observe, AXES) | {}
    stats["a/odd name.é"] = stats["conv"]
    back = read_stats(write_stats(tmp_path / "stats.npz", stats))
    assert list(back) == list(stats) and all(_same(back[name], stats[name]) for name in stats)
    assert read_stats(write_stats(tmp_path / "none.npz", {})) == {}
    with np.load(tmp_path / "stats.npz") as held:
        np.savez(tmp_path / "old.npz", **{name: held[name] for name in held.files if name not in ("rows", "reach")})
    assert all(len(old.reach) == 0 and old.lo == stats[n].lo for n, old in read_stats(tmp_path / "old.npz").items())


def test_damaged_files(tmp_path: Path) -> None:
    path = write_stats(tmp_path / "stats.npz", collect(Cut(_images(), 4), observe, AXES))
    whole = path.read_bytes()
    for name, content in {
        "half.npz": whole[: len(whole) // 2],
        "empty.npz": b"",
        "text.npz": b"text",
        "bent.npz": whole[:300] + bytes(60) + whole[360:],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_stats(tmp_path / name)
    with pytest.raises(InputError, match="missing"):
        read_stats(tmp_path / "missing.npz")
    np.savez(tmp_path / "pickle.npz", schema=np.array([{"a": 1}], object))
    with pytest.raises(InputError, match="pickle"):
        read_stats(tmp_path / "pickle.npz")


MEMORY = """
import sys
import numpy as np, torch
from calibration.batches import ImageBatches
from calibration.collect import collect
from qtools.core.types import InputSpec

class Noise:
    digest, labels = "noise", None
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index):
        return np.random.default_rng(index).integers(0, 256, (48, 48, 3), dtype=np.uint8), None

torch.set_num_threads(1)
weight, hoard = torch.randn(16, 3, 3, 3), []
def observe(images):
    x = torch.nn.functional.conv2d(torch.from_numpy(images), weight)
    yield "conv", x
    yield "relu", torch.relu(x)
    if "leak" in sys.argv: hoard.append(x[:4].clone())

def peak(count):
    spec = InputSpec((32, 32), (0.5,) * 3, (0.2,) * 3, "bilinear", 0.9)
    collect(ImageBatches(Noise(count), spec, 8), observe, {"conv": 1, "relu": 1})
    # Not getrusage: its high-water mark is inherited from the process that started this one.
    line = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

peak(64)
print(peak(64), peak(1024))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own high-water mark")
@pytest.mark.parametrize(("word", "least", "most"), [("", -1, 8), ("leak", 30, 500)])
def test_memory_does_not_grow_with_the_images(root: Path, word: str, least: float, most: float) -> None:
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, word], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    grown = float(out[1]) - float(out[0])
    assert least <= grown <= most, f"{grown:.1f} MiB more for 1,024 images than for 64"
