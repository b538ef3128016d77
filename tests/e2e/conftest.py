"""Running the command line inside the test's process, the small network, and folders of made-up pictures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES = 5
TINTS = np.array([(200, 60, 60), (70, 190, 80), (60, 80, 210), (200, 190, 60), (120, 120, 130)])
SIZES = ((40, 60), (75, 33), (32, 32), (24, 50), (90, 90), (36, 41))
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code and everything it wrote, down to the file descriptors."""

    code: int
    out: str
    err: str
    cwd: Path

    def folder(self) -> Path:
        """The only run folder below runs/."""
        (found,) = (self.cwd / "runs").iterdir()
        return found

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder() / "report.json").read_text())


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    from qtools.graph import side_by_side

    with side_by_side.one_thread():
        yield


@pytest.fixture(scope="module", autouse=True)
def tensorflow_where_the_network_is_smallest(request: pytest.FixtureRequest) -> Iterator[None]:
    """Importing TensorFlow takes as long as such a run: the user's own network is shown to it, the others are not."""
    from exporters._tflite import second

    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith("test_own_module"):
            patch.setattr(second, "find_spec", lambda name: None)
        yield


def run(cwd: Path, *words: str | Path) -> Ended:
    """`qtools WORDS` in the folder `cwd`, without a process of its own: importing the SDKs takes ten seconds."""
    from qtools.cli import main

    code = 0
    with contextlib.chdir(cwd), _captured() as streams:
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, *streams, cwd)


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Catches what is written to both streams, also by C++; the list is filled at the end."""
    found: list[str] = []
    saved = (os.dup(1), os.dup(2), sys.stdout, sys.stderr)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
                yield found
        finally:
            sys.stdout, sys.stderr = saved[2:]
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
            for file in (out, err):
                file.seek(0)
                found.append(file.read().decode())


def picture(label: int, number: int) -> Image.Image:
    """A tinted picture with a gradient, stripes and noise, in one of several sizes and shapes."""
    draw = np.random.default_rng([label, number])
    height, width = SIZES[(label + number) % len(SIZES)]
    y, x = np.mgrid[:height, :width]
    stripes = 40 * np.sin(x / (2 + label) + y * 0.2 * draw.random())
    slope = 80 * (x / width - 0.5) * draw.choice([-1, 1])
    pixels = TINTS[label % CLASSES] + (stripes + slope)[..., None] + draw.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, kind: int) -> None:
    """One of the forms that pictures come in: PNG, JPEG, JPEG lying on its side, gray, CMYK, PNG with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind % 6 == 1:
        image.save(path.with_suffix(".jpg"), quality=90)
    elif kind % 6 == 2:
        tags = Image.Exif()
        tags[_ORIENTATION] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".JPG"), exif=tags, quality=90)
    elif kind % 6 == 3:
        image.convert("L").save(path.with_suffix(".png"))
    elif kind % 6 == 4:
        image.convert("CMYK").save(path.with_suffix(".jpeg"), quality=90)
    elif kind % 6 == 5:
        image.convert("P").save(path.with_suffix(".png"))
    else:
        image.save(path.with_suffix(".png"))


def class_folders(root: Path, per_class: int, first: int = 0, names: Sequence[str] = "abcde") -> Path:
    """Class folders of pictures `first` and following."""
    for label, name in enumerate(names):
        for number in range(first, first + per_class):
            save(picture(label, number), root / name / f"{number:03d}", number + label)
    return root


def labels_csv(root: Path, count: int, classes: int, first: int = 0) -> Path:
    """A flat folder with a labels.csv."""
    for number in range(first, first + count):
        save(picture(number % classes, number), root / f"{number:03d}", number)
    rows = [f"{path.name},{int(path.stem) % classes}" for path in sorted(root.iterdir())]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows, ""]))
    return root


def furnish(folder: Path) -> Path:
    """Puts the user's network and pictures of two kinds, to calibrate on and to judge by, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("user_network.py"), folder)
    class_folders(folder / "calibration", 4)
    class_folders(folder / "held_out", 12, first=100)
    return folder


@pytest.fixture(scope="session")
def qtools() -> Callable[..., Ended]:
    """`qtools(folder, *words)` runs the command in that folder."""
    return run


@pytest.fixture(scope="session")
def album() -> SimpleNamespace:
    """Makers of pictures and folders."""
    return SimpleNamespace(
        picture=picture, save=save, class_folders=class_folders, labels_csv=labels_csv, furnish=furnish
    )


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """`contents(folder)`: every file below a folder, hidden ones too, by its name."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
