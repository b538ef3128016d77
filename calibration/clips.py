"""The user's videos as folders of frames: class/clip/frame.jpg, or clip/frame.jpg without labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from calibration.data import FolderSource, image_names, open_folder
from calibration.images import fitted, read_rgb
from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.core.files import digest_file
from qtools.core.types import InputSpec

LAYOUT = "put frames into class/clip/frame.jpg, or clip/frame.jpg without labels; their names say their order"
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class ClipSource(FolderSource):
    """Clips of a folder, read when asked for. A name is that of a clip's folder.

    Attributes:
        frames: Files of each clip, relative to `root`, in their order.
        clip: Which of them are taken.
        whole: Preprocessing of the whole clip.
    """

    frames: tuple[tuple[str, ...], ...] = ()
    clip: Clip | None = None
    whole: InputSpec | None = None

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        """A clip as one tall picture, prepared frame by frame, shape (frames * height, width, 3), and its label.

        Raises:
            InputError: If a frame cannot be decoded.
        """
        taken = [self.root / name for name in self._taken(index)]
        assert self.clip is not None and self.whole is not None  # `open_clips` gives both
        how = self.clip.of_frame(self.whole)
        laid = np.concatenate([fitted(read_rgb(path), how).transpose(1, 2, 0) for path in taken])
        return np.ascontiguousarray(laid), None if self.labels is None else int(self.labels[index])

    def fingerprint(self, index: int) -> str:
        """Name and label of a clip, and the sha256 of every frame that is taken of it.

        Raises:
            InputError: If a file cannot be read.
        """
        if index not in self._fingerprints:
            label = "" if self.labels is None else int(self.labels[index])
            words = [self.names[index], str(label)]
            for name in self._taken(index):
                try:
                    words.append(digest_file(self.root / name))
                except OSError as error:
                    what = f"frame {self.root / name} cannot be read: {error.strerror}"
                    raise InputError(what, "check the folder") from error
            self._fingerprints[index] = "\0".join(words)
        return self._fingerprints[index]

    def _taken(self, index: int) -> list[str]:
        assert self.clip is not None
        names = self.frames[index]
        return [names[number] for number in self.clip.numbers(len(names))]


def open_clips(path: Path | str, classes: int, clip: Clip, whole: InputSpec) -> ClipSource:
    """Finds clips and their labels.

    Args:
        path: Folder of class folders of clips, each a folder of frames; or of clips, which then have no labels.
        classes: Number of the model's classes.
        clip: Which frames are taken.
        whole: Preprocessing of the whole clip.

    Raises:
        InputError: If there is nothing to read, frames lie elsewhere, or the labels do not fit the model's classes.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}", LAYOUT)
    names = sorted(image_names(root), key=_order)
    depths = {len(PurePosixPath(name).parts) for name in names}
    if depths not in ({2}, {3}):
        raise InputError(f"{root} holds no clips: its frames lie {sorted(depths) or 'nowhere'} folders deep", LAYOUT)
    grouped = [(str(folder), tuple(files)) for folder, files in groupby(names, lambda n: PurePosixPath(n).parent)]
    clips, frames = zip(*grouped, strict=True)
    if depths == {2}:
        return ClipSource(
            root, clips, None, "none: clips lie in no class folders", frames=frames, clip=clip, whole=whole
        )
    known = open_folder(root, classes)
    assert known.labels is not None  # class folders
    label_of = dict(zip((PurePosixPath(name).parts[0] for name in known.names), known.labels, strict=True))
    labels = np.array([label_of[PurePosixPath(each).parts[0]] for each in clips], np.int64)
    facts = known.labelling, known.classes
    return ClipSource(root, clips, labels, *facts, frames=frames, clip=clip, whole=whole)


def _order(name: str) -> tuple[tuple[str | int, ...], ...]:
    """Numbers in names by their size, so that frame_10 is behind frame_9."""
    return tuple(
        tuple(int(word) if word.isdigit() else word for word in _DIGITS.split(part))
        for part in PurePosixPath(name).parts
    )
