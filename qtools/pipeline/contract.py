"""What an app has to do around a network, as one JSON file: a run writes it, bundles are made of it, `--contract` takes
it. Two lines by hand describe how pictures become the input of a file from elsewhere; what qtools writes says it all.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from qtools.core import files
from qtools.core.artifact import Runtime
from qtools.core.boxes import Anchors, Decoding
from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.core.exits import Exits

FILE = "contract.json"
SCHEMA_FILE = "contract.schema.json"
CONTRACT_SCHEMA = 2
LEVELS = 256
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
NEXT = (
    'write e.g. {"schema_version": 2, "preparation": {"resize": "bilinear", "crop": "squash", "range": [-1, 1]}, '
    '"labels_offset": 1}'
)
ENTRY = re.compile(r"^(\w+): (.*?)(?=^\w+: |\Z)", re.MULTILINE | re.DOTALL)
"""An entry of the Attributes in a docstring, and what is said of it."""
MOVED = "labels_offset"
"""The one entry of version 1 that is not about the preparation."""
Triple = tuple[float, float, float]
Bytes3 = tuple[int, int, int]
Row = tuple[float, ...]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Preparation:
    """How an upright picture, 8 bits per channel, becomes the numbers of the input tensor.

    1. Resize. The goal is floor(size / keep), per side. "squash": both sides become the goal's. "center": the short
    side becomes the goal's, the long one floor(goal x long / short), where both goals are equal; else both sides are
    divided by min(height / goal height, width / goal width) and rounded half to even. "border": by the max of these.
    2. Crop. The middle of `size` is cut out, at (have - size) / 2 rounded half to even; where there is less than that,
    `fill` goes around first, (size - have) / 2 rounded down of it above and left.
    3. Numbers come in one of three ways: `mean` and `std` (byte / 255, less mean, over std, each step in float32), or
    `range`, or neither, and then the pixels 0 to 255 go in as they are (into an integer tensor as its codes).
    4. Quantize, where the input has a scale. `input.table` holds what steps 3 and 4 make of every byte.

    Attributes:
        size: (height, width) in pixels; None takes the tensor's.
        layout: Order of the tensor's dimensions; None reads it from the shape.
        colours: Order of the channels.
        resize: Name of a filter.
        rule: How a filter is computed. "pillow-8bit": the filter is widened by the factor of reduction, so that it also
            smooths; a pixel x of the result lies at c = (x + 0.5) x scale of the source and reads from floor(c -
            support + 0.5) to floor(c + support + 0.5), cut to the picture; weights are computed in double precision,
            divided by their sum and rounded to 1 / 2^22, half away from zero; the sum of byte x weight + 2^21, shifted
            right by 22, is clipped to 0 to 255. First the width, then the height; the height first where it loses more
            than 0 and more than twice the pixels that the width loses (Pillow 13). "nearest" takes the pixel at
            floor(scale / 2 + x scales added one after the other).
        crop: "squash" (both sides resized), "center" (the short side, then the middle) or "border".
        keep: Share of the resized short side that the crop keeps, above 0, at most 1.
        fill: Bytes around a picture that is too small after resizing; None makes them of the mean for "border", else
            zero.
        mean: Subtracted from the channels on the scale 0 to 1, in the order of `colours`.
        std: Divisor behind it.
        range: What 0 and 255 become.
        applied: Who normalises: "app", or "model", and then the app feeds bytes and the numbers are for information.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    size: tuple[int, int] | None = None
    layout: Literal["NHWC", "NCHW"] | None = None
    colours: Literal["RGB", "BGR"] = "RGB"
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    rule: Literal["pillow-8bit"] = "pillow-8bit"
    crop: Literal["squash", "center", "border"] = "squash"
    keep: float = 1.0
    fill: Bytes3 | None = None
    mean: Triple | None = None
    std: Triple | None = None
    range: tuple[float, float] | None = None
    applied: Literal["app", "model"] = "app"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None) or (self.mean is not None and self.range is not None):
            raise ValueError("give mean and std, or range, or none of them")
        numbers = (*(self.mean or ()), *(self.std or ()), *(self.range or ()))
        if not all(map(math.isfinite, numbers)) or not all(self.std or (1,)):
            raise ValueError("mean, std and range are finite numbers, and std is not 0")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range rises from what 0 becomes to what 255 becomes")
        if not 0 < self.keep <= 1 or any(side < 1 for side in self.size or ()):
            raise ValueError("keep is above 0 and at most 1, and sizes are above 0")
        if any(not 0 <= byte < LEVELS for byte in self.fill or ()):
            raise ValueError("fill is made of bytes, 0 to 255")

    @property
    def scaling(self) -> tuple[Triple, Triple] | None:
        """Mean and divisor on the scale 0 to 1 that the app applies; None where pixels go in as they are."""
        if self.applied == "model":
            return None
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        if self.range is None:
            return None
        lo, hi = self.range
        return (-lo / (hi - lo),) * 3, (1 / (hi - lo),) * 3


@dataclass(frozen=True)
class Input:
    """The tensor that goes in.

    Attributes:
        name: As the file has it.
        shape: Whole, batch included.
        dtype: Type of an element; bytes in memory are little-endian.
        kind: "tensor", or "image": the runtime takes a picture (Core ML's image type) and lays it out itself. The
            bytes in the vectors are then its rows of interleaved channels, whatever `shape` says.
        scale: Real number of a step; None for floats and for plain bytes.
        zero_point: Code of the number 0.
        table: What every byte becomes, per channel in the order of the tensor: three rows of 256 numbers. Exact:
            whoever reads from it needs no arithmetic of their own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    shape: tuple[int, ...]
    dtype: Literal["int8", "uint8", "int16", "float32"]
    kind: Literal["tensor", "image"]
    table: tuple[Row, Row, Row]
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        if any(len(row) != LEVELS for row in self.table):
            raise ValueError(f"each row of the table holds {LEVELS} numbers")
        lo, hi = LIMITS.get(self.dtype, (-math.inf, math.inf))
        numbers = [number for row in self.table for number in row]
        if not all(math.isfinite(number) and lo <= number <= hi for number in numbers):
            raise ValueError(f"the table holds numbers that are no {self.dtype}")
        if self.dtype in LIMITS and not all(float(number).is_integer() for number in numbers):
            raise ValueError(f"the table of {self.dtype} holds fractions")
        _check_grid(self.scale, self.zero_point)


@dataclass(frozen=True)
class Output:
    """What comes out.

    Attributes:
        name: As the file has it.
        shape: Whole, batch included.
        dtype: Type of an element; bytes in memory are little-endian.
        meaning: "logits" (softmax makes probabilities of them), "probabilities", "boxes", or "features" for another
            program.
        scale: A code is worth (code - zero_point) x scale, in float32; None for floats.
        zero_point: Code of the number 0.
        by_label: Whether the runtime gives a dictionary from label to number instead of a tensor (Core ML's
            classifiers); the vectors have the numbers in the order of `labels`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    shape: tuple[int, ...]
    dtype: Literal["int8", "uint8", "int16", "float32"]
    meaning: Literal["logits", "probabilities", "boxes", "features"]
    scale: float | None = None
    zero_point: int | None = None
    by_label: bool = False

    def __post_init__(self) -> None:
        _check_grid(self.scale, self.zero_point)


@dataclass(frozen=True)
class Weights:
    """Where the weights came from: see `reports.build.Weights`, whose words these are."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: str
    source: str
    licence: str


@dataclass(frozen=True)
class File:
    """The artifact that all of this is about.

    Attributes:
        name: Of the file beside the contract.
        format: Its suffix without the dot.
        size_bytes: Of the file, or of all files of a package.
        sha256: Of the file; of a package over the names and digests of its files.
        plan_sha256: Of the decisions it carries.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    format: str
    size_bytes: int
    sha256: str
    plan_sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise ValueError("the artifact lies beside its contract")


@dataclass(frozen=True)
class Model:
    """What the artifact is: the model's name, its scheme ("w8a8"), its weights, and what made it."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    scheme: str
    weights: Weights
    made_by: str


@dataclass(frozen=True)
class Contract:
    """What an app has to do.

    Attributes:
        preparation: How a picture becomes numbers.
        labels_offset: Output that stands for label 0; 1 where the background comes first.
        labels: Names of the outputs, or ().
        input: The tensor that goes in. This and what follows is there where qtools wrote the contract.
        output: What comes out; of a detector the logits, one row per place, of all classes; of early exits the last.
        boxes: Of a detector, what comes out beside them: the four numbers of each place's box.
        decoding: Of a detector, how an app makes boxes of both.
        anchors_sha256: Over its anchors as little-endian float32, four each, in the order of the places.
        earlier: Of a network with early exits, what comes out at those before the last, in the order of `exits`.
        exits: Of such a network, which exit answers.
        clip: Of a network that takes videos, which frames go in; `preparation` is then that of one frame.
        artifact: The file.
        runtime: What it needs.
        model: What it is.
        schema_version: CONTRACT_SCHEMA.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    preparation: Preparation
    labels_offset: int = 0
    labels: tuple[str, ...] = ()
    input: Input | None = None
    output: Output | None = None
    boxes: Output | None = None
    decoding: Decoding | None = None
    anchors_sha256: str = ""
    earlier: tuple[Output, ...] = ()
    exits: Exits | None = None
    clip: Clip | None = None
    artifact: File | None = None
    runtime: Runtime | None = None
    model: Model | None = None
    schema_version: int = CONTRACT_SCHEMA

    def __post_init__(self) -> None:
        if self.schema_version != CONTRACT_SCHEMA:
            raise ValueError(f"schema_version {self.schema_version} is not {CONTRACT_SCHEMA}, which this qtools reads")


@dataclass(frozen=True)
class Whole:
    """The parts of a contract that an app needs, all there.

    Attributes:
        contract: All of it.
        input: The tensor that goes in.
        output: What comes out.
        artifact: The file.
        size: (height, width) of the picture that goes in.
        layout: Order of the input's dimensions.
    """

    contract: Contract
    input: Input
    output: Output
    artifact: File
    size: tuple[int, int]
    layout: Literal["NHWC", "NCHW"] = field(default="NHWC")

    @property
    def preparation(self) -> Preparation:
        """How a picture becomes numbers."""
        return self.contract.preparation


def whole(contract: Contract, where: str) -> Whole:
    """A contract with nothing missing.

    Raises:
        InputError: If it is one of those that people write by hand.
    """
    size, layout = contract.preparation.size, contract.preparation.layout
    if not (contract.input and contract.output and contract.artifact and size and layout):
        raise InputError(
            f"{where} says how pictures are prepared and nothing of the artifact", "give the one of a run or a bundle"
        )
    return Whole(contract, contract.input, contract.output, contract.artifact, size, layout)


def read(path: Path, called: str = "--contract ") -> Contract:
    """A contract from its file; one of version 1 as what it says today.

    Args:
        path: The file.
        called: What a message says before its name.

    Raises:
        InputError: If it cannot be read, or says something that no contract says.
    """
    try:
        entries = json.loads(files.read_text(path))
    except OSError as error:
        raise InputError(f"{called}{path} cannot be read: {error.strerror}", NEXT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{called}{path} is no JSON: {error}", NEXT) from error
    try:
        return _adapter().validate_json(json.dumps(_of_today(entries)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its top"
        raise InputError(f"{called}{path} is no contract, at {where}: {first['msg']}", NEXT) from error


def schema() -> dict[str, Any]:
    """JSON Schema of a contract; what the docstrings above say of each entry is in it."""
    found = _adapter().json_schema()
    for part in (Preparation, Input, Output, Anchors, Decoding, Exits, Clip, Weights, File, Model, Contract, Runtime):
        place = found["$defs"].get(part.__name__, found if part is Contract else {})
        text, _, attributes = inspect.cleandoc(part.__doc__ or "").partition("\n\nAttributes:\n")
        place["description"] = " ".join(text.split())
        for name, words in ENTRY.findall(inspect.cleandoc(attributes)):
            place["properties"][name]["description"] = " ".join(words.split())
    return found


def _check_grid(scale: float | None, zero_point: int | None) -> None:
    if (scale is None) != (zero_point is None):
        raise ValueError("a scale and a zero point come together")
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError("a scale is above 0")


def _of_today(entries: Any) -> Any:
    """Version 1 was the preparation alone, with `labels_offset` among it."""
    if not isinstance(entries, Mapping) or entries.get("schema_version", 1) != 1 or "preparation" in entries:
        return entries
    inside = {name: value for name, value in entries.items() if name not in ("schema_version", MOVED)}
    outside = {MOVED: entries[MOVED]} if MOVED in entries else {}
    return {"schema_version": CONTRACT_SCHEMA, "preparation": inside, **outside}


@cache
def _adapter() -> TypeAdapter[Contract]:
    return TypeAdapter(Contract)
