"""Pictures that stand in for photographs where a network comes without any.

No network is asked what it would like to see. What photographs have in common is drawn instead. Every other picture is
of textured shapes of all sizes one in front of the other (the dead leaves model: Lee, Mumford and Huang 2001, IJCV 41),
with light and texture whose amplitudes fall with the frequency (Field 1987, JOSA A 4) and colours that differ mostly in
brightness, less between yellow and blue and least between green and red (Ruderman, Cronin and Chiao 1998, JOSA A 15).
The others are scenes of the reference set, one object on quiet ground: some networks answer that with their largest
activations. Both get the brightness and contrast that photographs have, of which the reference set has a third.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qtools.reference.images import REFERENCE_TROUBLE, SPLITS
from qtools.reference.scene import Canvas, compose, draw_clutter
from qtools.reference.shapes import Array, clamp
from qtools.reference.silhouettes import CLASSES
from qtools.reference.surface import Draw

STAND_INS_VERSION = 1
"""Raised by every change that alters a single byte."""

COLOURS = np.array([[0.5774, 0.7192, 0.4009], [0.5774, -0.0045, -0.8140], [0.5774, -0.6948, 0.4203]], np.float32)
"""Columns: directions in RGB along which pixels of photographs vary by themselves: brightness, blue to yellow, green to
red (principal components over ImageNet: Krizhevsky et al. 2012, section 4.1, the first made exactly gray)."""
SPREAD = np.array([97.0, 19.0, 9.0], np.float32)
"""Standard deviation along each within a picture, 0 to 255, as in the middle one of 125 photographs of ImageNet."""
BRIGHTNESS, CONTRAST = (70.0, 160.0), (35.0, 80.0)
"""Mean and standard deviation of a picture's gray values, 0 to 255: what nine of ten of these lie between."""
SHARPNESS = (0.5, 1.0)
"""Side of what is drawn, in sides of the picture that it is enlarged to."""
SMALLEST, LARGEST = 0.04, 1.0
"""Reach of the shapes, in half sides of the picture."""


def stand_in(index: int, *, split: str, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draws one picture.

    Args:
        index: Number of the picture, from 0; there is no upper end.
        split: "train", "calibration" or "test"; their random streams are disjoint.
        size: Side in pixels, at least 16.
        seed: Any whole number; another one draws other pictures.

    Returns:
        RGB, shape (size, size, 3).
    """
    key = (STAND_INS_VERSION, SPLITS[split], seed % 2**64, index)
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    side = max(16, round(size * draw.uniform(*SHARPNESS)))
    if index % 2:
        planes, _ = compose(int(draw.integers(len(CLASSES))), side, draw, REFERENCE_TROUBLE)
    else:
        planes = leaves(draw, side)
    pixels = _exposed(planes, draw)
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def leaves(draw: Draw, side: int) -> Array:
    """Textured shapes one in front of the other, before clouds.

    Returns:
        RGB planes, 0 to 255 but for a constant, shape (3, side, side).
    """
    canvas = Canvas(side, softness=0.0, trouble=1.0)
    canvas.planes = clouds(draw, side, draw.uniform(1.0, 2.0))
    texture = np.tile(clouds(draw, side, draw.uniform(0.5, 1.2)), (1, 2, 2))  # without a seam: clouds are periodic
    rough = draw.uniform(0.0, 0.5)
    for _ in range(round(math.exp(draw.uniform(math.log(40.0), math.log(400.0))))):
        _paint_leaf(canvas, texture, rough * draw.uniform(0.0, 1.5), draw)
    spread = SPREAD * draw.uniform(0.5, 1.5, 3).astype(np.float32)
    return np.tensordot(COLOURS, spread[:, None, None] * canvas.planes, 1)


def clouds(draw: Draw, side: int, slope: float) -> Array:
    """Noise whose amplitude falls with the frequency f as f^-slope, without a seam at the edges.

    Returns:
        Three independent planes, shape (3, side, side), each of mean 0 and standard deviation 1.
    """
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf  # no mean
    parts = draw.standard_normal((2, 3, *frequency.shape))
    planes = np.fft.irfft2((parts[0] + 1j * parts[1]) * frequency**-slope, (side, side))
    return (planes / planes.std((1, 2), keepdims=True)).astype(np.float32)


class StandIns:
    """An indexable set of pictures without labels; draws on access and keeps nothing.

    Attributes:
        digest: Names the content: version, split, count, size and seed.
    """

    def __init__(self, split: str, count: int, size: int = 224, seed: int = 0) -> None:
        self.split, self.count, self.size, self.seed = split, count, size, seed

    @property
    def digest(self) -> str:
        """Text that differs whenever the pictures do."""
        return f"stand-ins-v{STAND_INS_VERSION}-{self.split}-{self.count}-{self.size}-{self.seed}"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], None]]:
        return (self[index] for index in range(self.count))

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], None]:
        """Picture (size, size, 3) uint8, and no label.

        Raises:
            IndexError: the index lies outside 0..count-1.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        return stand_in(index, split=self.split, size=self.size, seed=self.seed), None


def reach_of(chance: float) -> float:
    """Reach of a shape: how often a size occurs falls with its third power, so that no distance is a special one.

    Args:
        chance: 0 to 1, uniform.
    """
    return SMALLEST / math.sqrt(1.0 - chance * (1.0 - (SMALLEST / LARGEST) ** 2))


def _paint_leaf(canvas: Canvas, texture: Array, rough: float, draw: Draw) -> None:
    """One shape over what is there: a colour of its own, and some of the texture."""
    reach = reach_of(draw.random())
    x, y, turn = draw.uniform(-1.0, 1.0), draw.uniform(-1.0, 1.0), draw.uniform(0.0, 2.0 * math.pi)
    rows, columns = canvas.window((x, y), reach)
    across = (canvas.columns[columns] - x)[None, :] / reach
    up = (canvas.rows[rows] - y)[:, None] / reach
    c, s = math.cos(turn), math.sin(turn)
    distance = draw_clutter(draw)(across * c + up * s, up * c - across * s, draw) * reach
    cover = clamp(0.5 - distance / canvas.pixel, 0.0, 1.0)
    planes = canvas.planes[:, rows, columns]
    down, right = draw.integers(0, len(canvas.rows), 2)
    grain = texture[:, down : down + planes.shape[1], right : right + planes.shape[2]]
    planes += cover * (draw.standard_normal((3, 1, 1)).astype(np.float32) + np.float32(rough) * grain - planes)


def _exposed(planes: Array, draw: Draw) -> NDArray[np.uint8]:
    """Pixels (side, side, 3) of a photograph's brightness and contrast; what is colour about them stays as it is."""
    gray = planes.mean(0)
    gain = np.float32(draw.uniform(*CONTRAST)) / np.maximum(gray.std(), np.float32(1.0))
    exposed = planes + (gray * (gain - 1) + np.float32(draw.uniform(*BRIGHTNESS)) - gray.mean() * gain)
    return np.clip(exposed, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0)
