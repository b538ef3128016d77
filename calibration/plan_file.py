"""A plan back from its JSON file, validated."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from qtools.core.errors import InputError
from qtools.core.files import TEXT_BYTES, read_bytes
from qtools.core.types import QuantPlan


def read_plan(path: Path) -> QuantPlan:
    """Reads a plan.json; every grid is checked as it is built.

    Raises:
        InputError: If the file cannot be read or is no plan.
    """
    try:
        return _adapter().validate_json(read_bytes(path, TEXT_BYTES))
    except OSError as error:
        raise InputError(f"cannot read the plan {path.name}: {error.strerror}", "give a run folder") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise InputError(f"{path.name} is no plan: {where}", "run qtools quantize again") from error


@cache
def _adapter() -> TypeAdapter[QuantPlan]:
    return TypeAdapter(QuantPlan)
