"""What a file in this folder exposes, and what is handed to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.pipeline.contract import Contract, Whole

VECTORS = "vectors"


@dataclass(frozen=True)
class Top:
    """One of the largest answers: the index of the output, its label ("" where there is none), its real value."""

    index: int
    label: str
    value: float


@dataclass(frozen=True)
class PictureVector:
    """A picture, what has to go into the artifact for it, and what comes out.

    Attributes:
        name: Of its files.
        what: What it is there for, in words.
        picture: RGB, shape (height, width, 3).
        tensor: As the runtime here takes it.
        memory: The same as an app holds it: the bytes of the input, row after row, little-endian.
        output: As the artifact gave it.
        top: The largest answers, at most five.
    """

    name: str
    what: str
    picture: NDArray[np.uint8]
    tensor: NDArray[Any]
    memory: bytes
    output: NDArray[Any]
    top: tuple[Top, ...]


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may lie from the recorded one.

    Attributes:
        value: Largest difference of any number, in the output's real units.
        measured: Other kernels on this machine -> the largest difference seen on the vectors.
        why: Where the value comes from.
    """

    value: float
    measured: Mapping[str, float]
    why: str


@dataclass(frozen=True)
class Content:
    """What every bundle is made of.

    Attributes:
        whole: What the app has to do.
        vectors: Pictures with their answers.
        tolerance: How exact an answer has to be.
    """

    whole: Whole
    vectors: Sequence[PictureVector]
    tolerance: Tolerance

    @property
    def contract(self) -> Contract:
        """All of the contract."""
        return self.whole.contract


@dataclass(frozen=True)
class Bundle:
    """One kind of package.

    Attributes:
        title: What messages call it.
        formats: Suffixes that it runs, without the dot, its own choice first.
        place: (content, the bundle's folder) -> None; writes everything but contract, artifact and vectors.
        how: How to build it and prove it, in a sentence.
        assets: Where contract, its schema and the artifact lie inside the bundle.
        vectors: Where the vectors lie inside the bundle.
        systems: Operating system -> its oldest version that the package's own code takes.
        tools: Program -> what it does with the package; `qtools doctor` looks for them.
    """

    title: str
    formats: tuple[str, ...]
    place: Callable[[Content, Path], None]
    how: str
    assets: str = "."
    vectors: str = VECTORS
    systems: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
