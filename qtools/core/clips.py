"""Videos as a network takes them: which frames of a video there are, and how they lie in one picture.

Frames lie below each other, the first on top, as one tall picture. With channels last that is byte for byte the tensor
(frames, height, width, 3), with channels first (3, frames, height, width): the two ways in which apps hold a clip. All
that is known about pictures, their normalisation and their tensors, thereby holds for clips.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from qtools.core.types import InputSpec


@dataclass(frozen=True)
class Clip:
    """What becomes of a video.

    From its middle `frames` frames are taken, `stride` apart: of n frames those numbered first + k * stride, from 0,
    with first = (n - (frames - 1) * stride - 1) / 2 rounded down, and 0 where that is less. Behind the last frame of a
    video that is too short, its last frame stands again. Each is resized and cropped by itself, then all are laid
    below each other.

    Attributes:
        frames: Of a clip.
        stride: Frames of the video from one to the next.
        size: (height, width) of a frame in pixels.
        keep: Share of a resized frame's short side that the crop keeps, above 0, at most 1.
        crop: As a picture's: "squash", "center" or "border".
    """

    frames: int
    stride: int
    size: tuple[int, int]
    keep: float = 0.875
    crop: str = "center"

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1 or min(self.size) < 1 or not 0 < self.keep <= 1:
            raise ValueError("frames, stride and sides are at least 1, and keep is above 0 and at most 1")

    def numbers(self, count: int) -> tuple[int, ...]:
        """Which frames are taken of a video of `count` frames, at least 1."""
        first = max(0, (count - (self.frames - 1) * self.stride - 1) // 2)
        return tuple(min(first + at * self.stride, count - 1) for at in range(self.frames))

    def of_frame(self, whole: InputSpec) -> InputSpec:
        """How one frame is prepared, from how the whole clip is."""
        return dataclasses.replace(whole, size=self.size, crop_pct=self.keep, crop_mode=self.crop)
