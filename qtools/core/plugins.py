"""Extensions found by file name: one new file in a folder is all an addition takes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from qtools.core.errors import InputError, did_you_mean


def names(package: str) -> tuple[str, ...]:
    """Names of the public modules directly inside `package`, sorted, without importing them."""
    paths = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_") and not m.ispkg))


def having(package: str, constant: str) -> tuple[str, ...]:
    """`names` of the modules that expose `constant`; imports them all."""
    return tuple(n for n in names(package) if hasattr(importlib.import_module(f"{package}.{n}"), constant))


def check(package: str, name: str, what: str, known: tuple[str, ...] | None = None) -> None:
    """Refuses a name that no module of `package` has, without importing any of them.

    Args:
        package: Dotted name of the folder.
        name: What the user typed.
        what: What the folder holds, in the user's words: "target", "method".
        known: The names allowed, where not all of them are.

    Raises:
        InputError: With what was probably meant, and the list of what there is.
    """
    known = names(package) if known is None else known
    if name not in known:
        raise InputError(f"unknown {what} '{name}'.{did_you_mean(name, known)}", f"choose one of: {', '.join(known)}")


def find(package: str, name: str, constant: str) -> Any:
    """Imports `package.name` and returns its `constant`.

    Raises:
        InputError: If there is no such module; the message lists what there is.
    """
    check(package, name, package.rpartition(".")[2])
    return getattr(importlib.import_module(f"{package}.{name}"), constant)
