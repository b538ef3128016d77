"""What stands in for photographs: repeatable, others for other seeds, and like photographs in what was measured."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.reference.stand_ins import (
    BRIGHTNESS,
    CONTRAST,
    LARGEST,
    SMALLEST,
    StandIns,
    clouds,
    reach_of,
    stand_in,
)

SIZE = 48

_DIGEST = f"""
import hashlib
from qtools.reference.stand_ins import StandIns
print(hashlib.sha256(b"".join(pixels.tobytes() for pixels, _ in StandIns("test", 4, {SIZE}, seed=3))).hexdigest())
"""


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([pixels for pixels, _ in StandIns("calibration", 96, SIZE)])


def test_another_process_gives_the_same_bytes() -> None:
    here = b"".join(pixels.tobytes() for pixels, _ in StandIns("test", 4, SIZE, seed=3))
    done = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_splits_seeds_and_neighbours_share_no_picture(pictures: np.ndarray) -> None:
    others = [
        StandIns(split, 8, SIZE, seed)[i][0] for split, seed in (("test", 0), ("calibration", -1)) for i in range(8)
    ]
    digests = {hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in (*pictures, *others)}
    assert len(digests) == len(pictures) + len(others)
    named = [("calibration", 8, SIZE, 0), ("test", 8, SIZE, 0), ("calibration", 9, SIZE, 0), ("calibration", 8, 64, 0)]
    assert len({StandIns(*key).digest for key in (*named, ("calibration", 8, SIZE, 1))}) == 5


@given(st.integers(16, 70))
@settings(max_examples=8)
def test_pixels_are_uint8_rgb_at_every_size(size: int) -> None:
    pixels = stand_in(0, split="calibration", size=size)
    assert pixels.dtype == np.uint8 and pixels.shape == (size, size, 3)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match="outside 0..2"):
        StandIns("calibration", 3, SIZE)[index]


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_amplitudes_of_clouds_fall_as_asked(slope: float) -> None:
    """A straight line through the logarithms of a spectrum taken ring by ring."""
    side = 64
    planes = clouds(np.random.default_rng(0), side, slope)
    power = (np.abs(np.fft.fft2(planes)) ** 2).mean(0)
    ring = np.rint(np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) * side).astype(int)
    radii = np.arange(3, side // 2)
    amplitude = [np.sqrt(power[ring == radius].mean()) for radius in radii]
    fitted = np.polyfit(np.log(radii), np.log(amplitude), 1)[0]
    assert fitted == pytest.approx(-slope, abs=0.1)
    np.testing.assert_allclose(planes.std((1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(planes.mean((1, 2)), 0, atol=1e-4)


def test_sizes_fall_with_the_third_power() -> None:
    """Share of shapes above r, counted, against the integral of r^-3 in closed form."""
    reaches = np.array([reach_of(u) for u in np.linspace(0, 1, 20001)])
    assert reaches.min() == pytest.approx(SMALLEST) and reaches.max() == pytest.approx(LARGEST)
    for r in (0.05, 0.1, 0.3):
        wanted = (r**-2 - LARGEST**-2) / (SMALLEST**-2 - LARGEST**-2)
        assert np.mean(reaches > r) == pytest.approx(wanted, abs=1e-3)


def test_brightness_varies_most_then_blue_to_yellow(pictures: np.ndarray) -> None:
    """Principal components of what varies within a picture, as they were found on photographs."""
    inside = pictures[::2].reshape(len(pictures) // 2, -1, 3) / 255.0  # without the scenes, whose colours are their own
    pixels = (inside - inside.mean(1, keepdims=True)).reshape(-1, 3)
    spread, axes = np.linalg.eigh(np.cov(pixels.T))
    assert abs(axes[:, 2] @ np.full(3, 3**-0.5)) > 0.98
    assert abs(axes[:, 1] @ np.array([1.0, 0.0, -1.0]) / 2**0.5) > 0.9
    assert spread[2] > 5 * spread[1] > 10 * spread[0]


def test_contrasts_are_those_of_photographs(pictures: np.ndarray) -> None:
    gray = pictures.astype(np.float64).mean(3)
    contrast, brightness = gray.std((1, 2)), gray.mean((1, 2))
    assert CONTRAST[0] * 0.7 < np.percentile(contrast, 5) and np.percentile(contrast, 95) < CONTRAST[1] * 1.1
    assert BRIGHTNESS[0] * 0.9 < np.percentile(brightness, 5) and np.percentile(brightness, 95) < BRIGHTNESS[1] * 1.1


def test_neighbours_differ_by_nothing_or_by_much(pictures: np.ndarray) -> None:
    """Kurtosis of the differences: 3 for noise of any spectrum, 14 in the middle of photographs, for their edges."""
    steps = np.diff(pictures.astype(np.float64).mean(3), axis=2)
    tails = (steps**4).mean((1, 2)) / (steps**2).mean((1, 2)) ** 2
    noise = np.diff(clouds(np.random.default_rng(0), SIZE, 1.0), axis=2)
    assert (noise**4).mean() / (noise**2).mean() ** 2 < 3.5 < 5 < np.median(tails)
