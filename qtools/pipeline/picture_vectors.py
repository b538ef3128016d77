"""Pictures with their tensors and answers: what an app replays to prove that it computes what was audited.

The pictures have the shapes that go wrong: wide, tall, smaller than the input, odd, and of the input's own size. They
lie there as PNG and as plain bytes, so that a decoder can be told from a wrong resize.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calibration.data import open_folder
from calibration.sampling import select
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Session
from qtools.pipeline import feeding
from qtools.pipeline.contract import Contract, Output, Whole
from qtools.pipeline.contract_of_run import Run
from qtools.pipeline.feeding import Raw
from qtools.pipeline.found import Found, about_boxes
from qtools.pipeline.found import found as found_in
from qtools.pipeline.inspect import run as inspect
from qtools.reference.images import render

FILE = "vectors.json"
SCHEMA = 1
TOP = 5
AGAIN = "make the bundle again: qtools bundle RUN --platform NAME"
FLOAT_PART = 1e-4
"""Share of the largest answer that sums of floats may differ by from host to host, as `qtools verify` allows."""
TRAVELLED = 4
"""Steps that an answer may be off by where floats lie between codes: other hosts sum them in another order, which turns
a code now and then, and that travels. With torch's sums and functions in place of onnxruntime's, 7 % of 600 answers of
MobileViT-XXS were others, by 4 steps at most."""
ROUNDED = 1 + 1e-5
"""Codes that differ by a step are worth a step, but for the rounding of their real numbers to 32 bits."""
SHAPES = (("wide", 2.13, 1.29), ("tall", 1.21, 1.77), ("smaller", 0.61, 0.73), ("as the input", 1.0, 1.0))
"""What a rendered picture is there for, its width and its height in sizes of the input."""
LEAST = 16


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
        top: The largest answers, at most five; of a detector none.
        boxes: Of a detector, the other output.
        found: Of a detector, what both outputs say.
    """

    name: str
    what: str
    picture: NDArray[np.uint8]
    tensor: NDArray[Any]
    memory: bytes
    output: NDArray[Any]
    top: tuple[Top, ...]
    boxes: NDArray[Any] | None = None
    found: tuple[Found, ...] = ()


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
        boxes: Of a detector, how exact its boxes have to be.
    """

    whole: Whole
    vectors: Sequence[PictureVector]
    tolerance: Tolerance
    boxes: Tolerance | None = None

    @property
    def contract(self) -> Contract:
        """All of the contract."""
        return self.whole.contract


@dataclass(frozen=True)
class Wanted:
    """Which pictures.

    Attributes:
        data: Folder or CSV of the user's own; None renders some.
        count: How many.
        seed: Of the choice.
    """

    data: Path | None = None
    count: int = 5
    seed: int = 0


def make(run: Run, wanted: Wanted) -> Content:
    """Prepares pictures as the contract says, and asks the artifact.

    Raises:
        InputError: If the folder cannot be used.
    """
    inspection = inspect(run.artifact).inspection
    reading = feeding.reading(inspection, run.whole.contract)
    steps = TRAVELLED if any(op.arithmetic == "float" for op in inspection.ops) else 1
    session = run.target.session(run.artifact, run.target.kernels[0], 1)
    found = []
    for number, (what, picture) in enumerate(_pictures(run.whole.size, wanted)):
        tensor = reading.tensor(picture)
        outputs = session({run.whole.input.name: tensor})
        memory = memory_of(run.whole, tensor)
        answer = answered(run.whole, outputs)
        found.append(PictureVector(str(number), what, picture, tensor, memory, *answer))
    boxes = None
    if run.whole.contract.decoding is not None:
        of_them = dataclasses.replace(run, whole=about_boxes(run.whole))
        boxes = _tolerance(of_them, list(map(_about_boxes, found)), steps)
    return Content(run.whole, tuple(found), _tolerance(run, found, steps), boxes)


def answered(
    whole: Whole, outputs: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], tuple[Top, ...], NDArray[Any] | None, tuple[Found, ...]]:
    """Output, largest answers, boxes and what they say, of what an artifact gave."""
    output = outputs[whole.output.name]
    numbers = values(whole, output)
    if whole.contract.boxes is None:
        return output, top(whole, numbers), None, ()
    boxes = outputs[whole.contract.boxes.name]
    return output, (), boxes, found_in(whole, numbers, values(about_boxes(whole), boxes))


def of_boxes(content: Content) -> Content:
    """A detector's content with its boxes for the output."""
    assert content.boxes is not None  # asked of detectors only
    return Content(about_boxes(content.whole), tuple(map(_about_boxes, content.vectors)), content.boxes)


def _about_boxes(vector: PictureVector) -> PictureVector:
    assert vector.boxes is not None  # of a detector
    return dataclasses.replace(vector, output=vector.boxes, boxes=None, found=())


def write(content: Content, folder: Path) -> None:
    """`vectors.json` and four files per vector."""
    rows = []
    for vector in content.vectors:
        png = io.BytesIO()
        Image.fromarray(vector.picture).save(png, "PNG")
        parts = {
            "png": (f"{vector.name}.png", png.getvalue()),
            "rgb": (f"{vector.name}.rgb", vector.picture.tobytes()),
            "input": (f"{vector.name}.input.bin", vector.memory),
            "output": (f"{vector.name}.output.bin", _little(vector.output).tobytes()),
        }
        said: dict[str, Any] = {"name": vector.name, "what": vector.what, "top": vector.top}
        if vector.boxes is not None:
            parts["boxes"] = (f"{vector.name}.boxes.bin", _little(vector.boxes).tobytes())
            said["found"] = vector.found
        for name, data in parts.values():
            files.write_bytes(folder / name, data)
        rows.append(
            {key: name for key, (name, _) in parts.items()}
            | said
            | dict(zip(("height", "width"), vector.picture.shape[:2], strict=True))
            | {"input_sha256": hashlib.sha256(vector.memory).hexdigest()}
        )
    index = {"schema_version": SCHEMA, "artifact_sha256": content.whole.artifact.sha256}
    exact = {"tolerance": content.tolerance} | ({} if content.boxes is None else {"boxes_tolerance": content.boxes})
    files.write_text(folder / FILE, files.to_json(index | exact | {"vectors": rows}))


def read(folder: Path, whole: Whole) -> Content:
    """Reads what `write` wrote.

    Raises:
        InputError: If something is missing or damaged, or belongs to another artifact.
    """
    try:
        index = json.loads(files.read_text(folder / FILE))
        if index["artifact_sha256"] != whole.artifact.sha256:
            raise InputError(f"the vectors in {folder} are of another artifact than the contract", AGAIN)
        vectors = tuple(_read(folder, whole, row) for row in index["vectors"])
        boxes = None if whole.contract.boxes is None else _said(index["boxes_tolerance"])
        return Content(whole, vectors, _said(index["tolerance"]), boxes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the vectors in {folder} cannot be read: {error!r}", AGAIN) from error


def _read(folder: Path, whole: Whole, row: Any) -> PictureVector:
    rgb, memory, answer = (files.read_bytes(folder / Path(row[part]).name) for part in ("rgb", "input", "output"))
    pixels = np.frombuffer(rgb, np.uint8).reshape(row["height"], row["width"], 3)
    outputs = {whole.output.name: _shaped(answer, whole.output)}
    if whole.contract.boxes is not None:
        data = files.read_bytes(folder / Path(row["boxes"]).name)
        outputs[whole.contract.boxes.name] = _shaped(data, whole.contract.boxes)
    known = row["name"], row["what"], pixels, tensor_of(whole, memory), memory
    return PictureVector(*known, *answered(whole, outputs))


def _shaped(data: bytes, said: Output) -> NDArray[Any]:
    return np.frombuffer(data, np.dtype(said.dtype).newbyteorder("<")).reshape(said.shape)


def _said(said: Any) -> Tolerance:
    return Tolerance(float(said["value"]), dict(said["measured"]), str(said["why"]))


def memory_of(whole: Whole, tensor: NDArray[Any]) -> bytes:
    """A tensor as an app holds it: an image's bytes in rows of interleaved channels, anything else as it is."""
    if whole.input.kind == "image":
        return np.rint(tensor[0].transpose(1, 2, 0)).astype(np.uint8).tobytes()
    return _little(tensor).tobytes()


def tensor_of(whole: Whole, memory: bytes) -> NDArray[Any]:
    """What `memory_of` was made of, as the runtime here takes it."""
    if whole.input.kind == "image":
        rows = np.frombuffer(memory, np.uint8).reshape(*whole.size, 3)
        return rows.transpose(2, 0, 1)[None].astype(np.float32)
    return np.frombuffer(memory, np.dtype(whole.input.dtype).newbyteorder("<")).reshape(whole.input.shape)


def values(whole: Whole, output: NDArray[Any]) -> NDArray[np.float32]:
    """The real numbers of an output, flat."""
    flat = output.reshape(-1)
    if whole.output.scale is None:
        return flat.astype(np.float32)
    codes = flat.astype(np.int32) - np.int32(whole.output.zero_point or 0)
    return codes.astype(np.float32) * np.float32(whole.output.scale)


def top(whole: Whole, numbers: NDArray[np.float32]) -> tuple[Top, ...]:
    """The largest numbers; of equal ones the first comes first."""
    labels = whole.contract.labels
    order = np.argsort(-numbers, kind="stable")[:TOP]
    return tuple(Top(int(i), labels[i] if i < len(labels) else "", float(numbers[i])) for i in order)


def _tolerance(run: Run, found: Sequence[PictureVector], steps: int) -> Tolerance:
    """So many steps of the output, or what other kernels on this machine give, whichever is more."""
    target, whole = run.target, run.whole
    measured = {}
    for kernels in (*target.kernels[1:], *target.rough):
        session = target.session(run.artifact, kernels, 1)
        measured[target.labels.get(kernels, kernels)] = max(_gap(whole, session, vector) for vector in found)
    largest = max(float(np.abs(values(whole, vector.output)).max()) for vector in found)
    least = steps * (whole.output.scale or 0.0) or FLOAT_PART * max(1.0, largest)
    said = f"{steps} step(s) of the output" if whole.output.scale else f"{FLOAT_PART:g} of the largest answer"
    why = f"the larger of {said} and of what other kernels differ by on these vectors"
    return Tolerance(max(least, *measured.values(), 0.0) * ROUNDED, measured, why)


def _gap(whole: Whole, session: Session, vector: PictureVector) -> float:
    now = values(whole, session({whole.input.name: vector.tensor})[whole.output.name])
    return float(np.abs(now - values(whole, vector.output)).max())


def _pictures(size: tuple[int, int], wanted: Wanted) -> list[tuple[str, Raw]]:
    if wanted.data is not None:
        folder = open_folder(wanted.data)
        chosen = select(folder, min(wanted.count, len(folder)), wanted.seed)
        return [("an image of the user's", chosen[index][0]) for index in range(len(chosen))]
    shapes = [
        (what, max(LEAST, round(size[0] * tall)), max(LEAST, round(size[1] * wide))) for what, wide, tall in SHAPES
    ]
    found = [(what, _rendered(number, *shape)) for number, (what, *shape) in enumerate(shapes)]
    noise = np.random.default_rng(wanted.seed).integers(0, 256, (2 * size[0] + 1, 2 * size[1] - 3, 3), np.uint8)
    found.append(("noise: every byte, every slope", noise))
    return found[: wanted.count]


def _rendered(number: int, height: int, width: int) -> Raw:
    """The middle of a rendered square."""
    square, _ = render(number, split="test", size=max(height, width))
    top_row, left = (len(square) - height) // 2, (len(square) - width) // 2
    return np.ascontiguousarray(square[top_row : top_row + height, left : left + width])


def _little(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
