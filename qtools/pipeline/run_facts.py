"""How a run was set up, as far as its other files do not say it. Read without the weights that lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from qtools.core import files
from qtools.core.boxes import Decoding
from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.core.exits import Exits
from qtools.core.types import InputSpec

FOLDER, FILE = "audit", "run.json"
RUN_SCHEMA = 1
AGAIN = "run qtools quantize again"


@dataclass(frozen=True)
class RunFacts:
    """How a run was set up.

    Attributes:
        io: "int8", "float32" or "pixels".
        input: Preprocessing of its images.
        target_options: Choices that only its target has.
        classes: Names of the classes; () where nothing named them.
        decoding: How boxes are made of the answers; None where there are none.
        exits: When an app takes which answer; None where there is one.
        clip: Which frames of a video an app takes; None where pictures go in.
        schema_version: At most RUN_SCHEMA.
    """

    io: str
    input: InputSpec
    target_options: Mapping[str, str]
    classes: tuple[str, ...] = ()
    decoding: Decoding | None = None
    exits: Exits | None = None
    clip: Clip | None = None
    schema_version: int = RUN_SCHEMA

    def __post_init__(self) -> None:
        if not 1 <= self.schema_version <= RUN_SCHEMA:
            raise ValueError(
                f"schema {self.schema_version} of {FILE} is not one of 1 to {RUN_SCHEMA}: take a newer qtools"
            )


def read(folder: Path) -> RunFacts:
    """Those of a run folder.

    Raises:
        InputError: If they are missing or damaged.
    """
    inside = folder / FOLDER
    if not inside.is_dir():
        raise InputError(f"{folder} keeps nothing to audit: it has no {FOLDER}/", AGAIN)
    try:
        return _adapter().validate_json(files.read_bytes(inside / FILE, files.TEXT_BYTES))
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(f"{inside} cannot be read: {str(error).splitlines()[0]}", AGAIN) from error


@cache
def _adapter() -> TypeAdapter[RunFacts]:
    return TypeAdapter(RunFacts)
