"""What report files share: a version that is looked at first, validation by type, and finite numbers only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from qtools.core.errors import InputError
from qtools.core.files import to_json

T = TypeVar("T")


@dataclass(frozen=True)
class Document(Generic[T]):
    """A kind of file: a value as JSON with sorted keys, its version in it, and back.

    Attributes:
        kind: Type of the value.
        word: What messages call it.
        newest: Newest version of its schema that this qtools knows.
        source: Where to get one, for messages.
    """

    kind: type[T]
    word: str
    newest: int
    source: str

    def text(self, value: T) -> str:
        """The file of a value.

        Raises:
            ValueError: If a number is not finite; the message names the field.
        """
        refuse_not_finite(value, self.word)
        return to_json(value)

    def parse(self, text: str, name: str = "") -> T:
        """A value from its file, validated.

        Args:
            text: What the file holds.
            name: What messages call the file.

        Raises:
            InputError: If it is something else, damaged, or was written by a newer qtools.
        """
        name = name or self.word
        try:
            version = json.loads(text).get("schema_version")
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{name} is not a qtools {self.word}", self.source) from error
        if not isinstance(version, int) or not 1 <= version <= self.newest:
            known = f"this qtools reads 1 to {self.newest}"
            raise InputError(f"{name} has {self.word} schema {version}; {known}", "take a newer qtools")
        try:
            return self._adapter.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{name} is damaged at {where}: {first['msg']}", "run the command again") from error

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the file."""
        return self._adapter.json_schema()

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.kind)


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
