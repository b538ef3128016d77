"""A bundle or a run as the doctor needs it, and the files that come back from a device."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qtools.core import files
from qtools.core.errors import CheckFailed, InputError, did_you_mean
from qtools.core.protocols import Session, Target
from qtools.pipeline import contract, picture_vectors
from qtools.pipeline.compare import by_suffix
from qtools.pipeline.contract_of_run import open_run
from qtools.pipeline.doctor import diagnose
from qtools.pipeline.picture_vectors import Content, PictureVector
from qtools.pipeline.verify import REPORT
from reports.doctor import Diagnosis, Explanation

WORDS = re.compile(r"[\s,;\[\]]+")
MAKE = "give a run folder or a bundle: qtools bundle RUN --platform android"
NUMBERS = "give the tensor's bytes, a .npy, or a .json or .txt of numbers"


@dataclass(frozen=True)
class Subject:
    """What a device should compute.

    Attributes:
        content: Contract, vectors and tolerance.
        artifact: The file that runs.
        target: What runs it here.
    """

    content: Content
    artifact: Path
    target: Target

    def session(self) -> Session:
        """The artifact, opened in the kernels that ship."""
        return self.target.session(self.artifact, self.target.kernels[0], 1)


@dataclass(frozen=True)
class Asked:
    """What came back from a device.

    Attributes:
        folder: A run or a bundle.
        vector: Name of the picture that was shown.
        output: File with what came out, or None.
        input: File with the tensor that went in, or None.
        boxes: File with a detector's other output, or None.
    """

    folder: Path
    vector: str
    output: Path | None = None
    input: Path | None = None
    boxes: Path | None = None


def run(asked: Asked) -> tuple[Diagnosis, ...]:
    """Says of every file whether it is right, and if not, why.

    Raises:
        InputError: If a file or the vector does not exist, or the folder is neither run nor bundle.
    """
    subject = open_subject(asked.folder)
    vector = _vector(subject.content, asked.vector)
    whole, found = subject.content.whole, []
    if asked.boxes is not None and whole.contract.boxes is None:
        raise InputError(f"{asked.folder} holds no detector: nothing gives boxes", "leave --device-boxes out")
    if asked.input is not None:
        numbers = read_numbers(asked.input)
        data = numbers if numbers.dtype == np.uint8 else _as_input(numbers, np.dtype(whole.input.dtype))
        said = _shown_instead(subject.content, vector, data.tobytes(), "input")
        found.append(said or diagnose.of_input(whole, vector, data.tobytes()))
    if asked.output is not None:
        found.append(_of_output(subject, subject.content, asked.vector, asked.output))
    if asked.boxes is not None:
        said = _of_output(subject, picture_vectors.of_boxes(subject.content), asked.vector, asked.boxes)
        found.append(dataclasses.replace(said, side="boxes"))
    return tuple(found)


def _of_output(subject: Subject, content: Content, name: str, path: Path) -> Diagnosis:
    """Says of the file with the content's output whether it is right."""
    vector, numbers = _vector(content, name), read_numbers(path)
    if numbers.nbytes == len(vector.memory) != vector.output.nbytes:
        raise InputError(f"{path} is as long as the input", "give it with --device-input")
    if vector.boxes is not None and numbers.nbytes == vector.boxes.nbytes != vector.output.nbytes:
        raise InputError(f"{path} is as long as the boxes", "give it with --device-boxes")
    said = _shown_instead(content, vector, numbers.tobytes(), "output")
    return said or diagnose.of_output((content.whole, content.tolerance), vector, numbers, subject.session())


def _shown_instead(
    content: Content, vector: PictureVector, data: bytes, side: Literal["input", "output"]
) -> Diagnosis | None:
    """Says so where the bytes are those of another vector."""
    for other in content.vectors:
        right, theirs = (each.memory if side == "input" else each.output.tobytes() for each in (vector, other))
        if data == theirs != right:
            shown = (f"vector {other.name} was shown, not {vector.name}",)
            step = (f"give --vector {other.name}, or show the other picture",)
            return diagnose.mistake(side, vector, Explanation(shown, step, 0.0))
    return None


def open_subject(folder: Path) -> Subject:
    """Reads a run or a bundle; a run shows the pictures that a bundle without --data has.

    Raises:
        InputError: If it is neither, or something of it is missing.
        CheckFailed: If the artifact is another one than was audited.
    """
    if (folder / REPORT).is_file():
        made = open_run(folder)
        return Subject(picture_vectors.make(made, picture_vectors.Wanted()), made.artifact, made.target)
    said, index = _only(folder, contract.FILE), _only(folder, picture_vectors.FILE)
    whole = contract.whole(contract.read(said, called=""), str(said))
    artifact, readers = said.parent / whole.artifact.name, by_suffix()
    if artifact.suffix not in readers:
        raise InputError(f"{said} is about {artifact.name}, which nothing here runs", MAKE)
    if not artifact.exists():
        raise InputError(f"{folder} has no {whole.artifact.name} beside its contract", MAKE)
    if files.digest(artifact) != whole.artifact.sha256:
        raise CheckFailed(f"{artifact} is not the file that its contract is about", "make the bundle again of the run")
    return Subject(picture_vectors.read(index.parent, whole), artifact, readers[artifact.suffix])


def read_numbers(path: Path) -> NDArray[Any]:
    """A device's file, flat: uint8 where it holds bytes of a type that only the contract knows.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        if path.suffix == ".npy":
            with files.regular(path).open("rb") as file:
                found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False).reshape(-1)
            if found.dtype.kind not in "iubf":
                raise ValueError(f"its elements are of type {found.dtype}")
            return np.frombuffer(found.tobytes(), np.uint8) if found.dtype.kind in "iub" else found
        if path.suffix in (".json", ".txt", ".csv"):
            return _of_text(files.read_text(path))
        return np.frombuffer(files.read_bytes(path), np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", NUMBERS) from error
    except (ValueError, OverflowError, MemoryError, SyntaxError) as error:  # a header is a Python literal
        raise InputError(f"{path} holds no numbers: {error}", NUMBERS) from error


def _of_text(text: str) -> NDArray[Any]:
    numbers = [json.loads(word) for word in WORDS.split(text) if word]
    if odd := [each for each in numbers if isinstance(each, bool) or not isinstance(each, (int, float))]:
        raise ValueError(f"{odd[0]!r} is none")
    return np.array(numbers, np.int64 if all(isinstance(each, int) for each in numbers) else np.float64)


def _as_input(numbers: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """Numbers as the input's type, or as floats where they do not fit it."""
    cast = numbers.astype(kind)
    return cast if kind.kind == "f" or np.array_equal(cast, numbers) else numbers.astype(np.float32)


def _vector(content: Content, name: str) -> PictureVector:
    names = [vector.name for vector in content.vectors]
    if name not in names:
        raise InputError(
            f"there is no vector '{name}'.{did_you_mean(name, names)}", f"choose one of: {', '.join(names)}"
        )
    return content.vectors[names.index(name)]


def _only(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name)) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder} is neither a run nor a bundle: there is no {name} in it", MAKE)
    if len(found) > 1:
        raise InputError(f"{folder} holds {len(found)} bundles: {found[0]}, {found[1]}", "give one of their folders")
    return found[0]
