"""Procedural clips: one scene of the reference set, and a window that moves over it or comes nearer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qtools.core.clips import Clip
from qtools.reference.images import RENDER_VERSION, _stream, render

MOTIONS = ("down", "farther", "left", "nearer", "right", "still", "up")
"""What the object does in a clip: the classes, by their numbers."""
ROOM = 1.5
"""Side of the scene, in sides of a frame."""
_WAYS = {"left": (1.0, 0.0), "right": (-1.0, 0.0), "up": (0.0, 1.0), "down": (0.0, -1.0)}
"""Where the window goes, across and down: the object goes the other way."""


def render_clip(index: int, *, split: str, frames: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
    """One clip.

    Args:
        index: Number of the scene, from 0.
        split: "train", "calibration" or "test".
        frames: How many there are.
        size: (height, width) of a frame.

    Returns:
        RGB, shape (frames, height, width, 3) uint8, and its motion, an index into MOTIONS.
    """
    label = index % len(MOTIONS)
    motion, (height, width) = MOTIONS[label], size
    wide = round(ROOM * max(size))
    scene = Image.fromarray(render(index, split=split, size=wide)[0])
    middle, room = wide / 2, (wide - max(size)) / 2
    shown = []
    for at in range(frames):
        passed = at / max(frames - 1, 1)  # 0 to 1
        way = _WAYS.get(motion, (0.0, 0.0))
        x, y = (middle + room * (2 * passed - 1) * each for each in way)
        share = {"nearer": 1 - passed, "farther": passed}.get(motion, 0.0)
        grown = 1 + share * (ROOM - 1)
        half_w, half_h = width * grown / 2, height * grown / 2
        box = (x - half_w, y - half_h, x + half_w, y + half_h)
        shown.append(np.asarray(scene.resize((width, height), Image.Resampling.BILINEAR, box=box)))
    return np.stack(shown), label


class ReferenceClips:
    """An indexable set of clips, each as one tall picture; renders on access and keeps nothing.

    Args:
        split: "calibration" or "test".
        count: Number of clips.
        clip: Frames and their size; the stride is that of the motion, 1.

    Attributes:
        classes: Names of the motions.
        digest: Names the content.
    """

    classes: tuple[str, ...] = MOTIONS

    def __init__(self, split: str, count: int, clip: Clip) -> None:
        _stream(split, 0)
        self.split, self.count, self.clip = split, count, clip

    @property
    def digest(self) -> str:
        """Text that differs whenever the clips do."""
        height, width = self.clip.size
        return f"clips-v{RENDER_VERSION}-{self.split}-{self.count}-{self.clip.frames}x{height}x{width}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """A clip, shape (frames * height, width, 3) uint8, and its motion.

        Raises:
            IndexError: The index lies outside 0..count-1.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        shown, label = render_clip(index, split=self.split, frames=self.clip.frames, size=self.clip.size)
        return shown.reshape(-1, *shown.shape[2:]), label


def write_clips(root: Path, split: str, count: int, clip: Clip) -> Path:
    """Writes clips as ``root/<motion>/<split>-<index>/<frame>.png``, the layout that `--data` takes.

    Returns:
        The folder.
    """
    for index in range(count):
        shown, label = render_clip(index, split=split, frames=clip.frames, size=clip.size)
        place = root / MOTIONS[label] / f"{split}-{index:06d}"
        place.mkdir(parents=True, exist_ok=True)
        for at, frame in enumerate(shown):
            Image.fromarray(frame).save(place / f"{at:03d}.png")
    return root
