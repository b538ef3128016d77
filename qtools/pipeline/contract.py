"""What an app does to a picture before a network sees it, as a small JSON file that `--contract` takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from qtools.core.errors import InputError

CONTRACT_SCHEMA = 1
NEXT = 'write e.g. {"schema_version": 1, "resize": "bilinear", "crop": "squash", "range": [-1, 1], "labels_offset": 1}'
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Contract:
    """How a picture becomes a tensor, and which output stands for the first label.

    Numbers come in one of three ways: `mean` and `std`, or `range`, or neither, and then the pixels 0 to 255 go in as
    they are (into an integer tensor as its codes).

    Attributes:
        size: (height, width) in pixels; None takes the tensor's.
        layout: Order of the tensor's dimensions; None reads it from the shape.
        colours: Order of the channels.
        resize: Name of a filter.
        crop: "squash" (both sides resized), "center" (the short side, then the middle) or "border".
        keep: Share of the resized short side that the crop keeps, above 0, at most 1.
        mean: Subtracted from the channels on the scale 0 to 1, in the order of `colours`.
        std: Divisor behind it.
        range: What 0 and 255 become.
        labels_offset: Output that stands for label 0; 1 where the background comes first.
        schema_version: CONTRACT_SCHEMA.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    size: tuple[int, int] | None = None
    layout: Literal["NHWC", "NCHW"] | None = None
    colours: Literal["RGB", "BGR"] = "RGB"
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    crop: Literal["squash", "center", "border"] = "squash"
    keep: float = 1.0
    mean: Triple | None = None
    std: Triple | None = None
    range: tuple[float, float] | None = None
    labels_offset: int = 0
    schema_version: int = CONTRACT_SCHEMA

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
        if self.schema_version != CONTRACT_SCHEMA:
            raise ValueError(f"schema_version {self.schema_version} is not {CONTRACT_SCHEMA}, which this qtools reads")

    @property
    def scaling(self) -> tuple[Triple, Triple] | None:
        """Mean and divisor on the scale 0 to 1; None where pixels go in as they are."""
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        if self.range is None:
            return None
        lo, hi = self.range
        return (-lo / (hi - lo),) * 3, (1 / (hi - lo),) * 3


def read(path: Path) -> Contract:
    """A contract from its file.

    Raises:
        InputError: If it cannot be read, or says something that no contract says.
    """
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        raise InputError(f"--contract {path} cannot be read: {error.strerror}", NEXT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--contract {path} is no JSON: {error}", NEXT) from error
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its top"
        raise InputError(f"--contract {path} is no contract, at {where}: {first['msg']}", NEXT) from error


@cache
def _adapter() -> TypeAdapter[Contract]:
    return TypeAdapter(Contract)
