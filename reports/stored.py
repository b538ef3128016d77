"""What report files share: a version that is looked at first, validation by type, and finite numbers only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from qtools.core.errors import InputError

T = TypeVar("T")


def parse(text: str, adapter: TypeAdapter[T], newest: int, words: tuple[str, str, str]) -> T:
    """A value from its JSON text.

    Args:
        text: The file's content.
        adapter: Of the value's type.
        newest: Newest version of its schema that this qtools knows.
        words: What messages call the file, what it should be, and where to get one.

    Raises:
        InputError: If it is something else, damaged, or was written by a newer qtools.
    """
    name, kind, next_step = words
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{name} is not a qtools {kind}", next_step) from error
    if not isinstance(version, int) or not 1 <= version <= newest:
        raise InputError(f"{name} has {kind} schema {version}; this qtools reads 1 to {newest}", "take a newer qtools")
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{name} is damaged at {where}: {first['msg']}", "run the command again") from error


def refuse_not_finite(value: object, where: str) -> None:
    """Looks through a value.

    Raises:
        ValueError: If a number in it is not finite; the message names the field.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; a report holds finite numbers only")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            refuse_not_finite(item, f"{where}.{key}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            refuse_not_finite(item, f"{where}[{i}]")
    elif is_dataclass(value):
        for each in fields(value):
            refuse_not_finite(getattr(value, each.name), f"{where}.{each.name}")
