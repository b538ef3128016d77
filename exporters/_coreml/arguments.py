"""What an operation of the ML Program is called with. Arguments that nobody reads are found: they have a meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from qtools.core.errors import InputError, MissingPlatform

_UNSET: Any = object()


class Arguments:
    """The bound arguments of one operation, by parameter name.

    Attributes:
        op: Type of the operation, for messages.
    """

    def __init__(self, op: str, bound: Mapping[str, Sequence[Any]]) -> None:
        self.op = op
        self._bound = bound
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    def tensor(self, name: str) -> torch.Tensor:
        """A required tensor."""
        value = self._one(name)
        if not isinstance(value, torch.Tensor):
            raise InputError(f"'{name}' of a {self.op} is no tensor")
        return value

    def optional(self, name: str) -> torch.Tensor | None:
        """A tensor, or None where the argument is left out."""
        self._read.add(name)
        return self.tensor(name) if name in self._bound else None

    def tensors(self, name: str) -> list[torch.Tensor]:
        """A variadic argument."""
        self._read.add(name)
        values = list(self._bound.get(name, ()))
        if not values or not all(isinstance(v, torch.Tensor) for v in values):
            raise InputError(f"'{name}' of a {self.op} is no list of tensors")
        return values

    def ints(self, name: str, default: Sequence[int] = _UNSET) -> list[int]:
        """A vector of integers (a scalar counts as one element)."""
        if name not in self._bound and default is not _UNSET:
            self._read.add(name)
            return list(default)
        return [int(v) for v in self.tensor(name).reshape(-1).tolist()]

    def whole(self, name: str, default: int = _UNSET) -> int:
        """One integer."""
        values = self.ints(name) if default is _UNSET else self.ints(name, [default])
        if len(values) != 1:
            raise InputError(f"'{name}' of a {self.op} is no single number")
        return values[0]

    def number(self, name: str, default: float = _UNSET) -> float:
        """One number."""
        if name not in self._bound and default is not _UNSET:
            self._read.add(name)
            return default
        if self.tensor(name).numel() != 1:
            raise InputError(f"'{name}' of a {self.op} is no single number")
        return float(self.tensor(name).reshape(-1)[0])

    def flag(self, name: str, default: bool) -> bool:
        """One boolean."""
        return bool(self.whole(name, int(default)))

    def text(self, name: str, default: str = _UNSET) -> str:
        """One string."""
        if name not in self._bound and default is not _UNSET:
            self._read.add(name)
            return default
        value = self._one(name)
        if not isinstance(value, str):
            raise InputError(f"'{name}' of a {self.op} is no text")
        return value

    def any(self, name: str) -> Any:
        """Whatever is bound."""
        return self._one(name)

    def unread(self) -> list[str]:
        """Names of arguments that the implementation did not look at."""
        return sorted(set(self._bound) - self._read - {"name"})

    def _one(self, name: str) -> Any:
        self._read.add(name)
        values = self._bound.get(name, ())
        if len(values) != 1:
            raise InputError(f"a {self.op} has {len(values)} arguments '{name}', not one")
        return values[0]


Result = Any
"""A tensor, or a tuple of what the operation returns."""
Implementation = Callable[[Arguments], Result]


def lacks(a: Arguments, what: str) -> MissingPlatform:
    """The refusal to compute a variant of an operation that is not implemented."""
    return MissingPlatform(f"qtools' Core ML evaluator has no {what} of '{a.op}'", "please report this model")
