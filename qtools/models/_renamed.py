"""Keys of weights under other names: a file's layout told as patterns, applied one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Renaming = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
"""What is looked for, and what stands there afterwards, as `re.sub` takes it."""


def renamed(key: str, patterns: Sequence[Renaming]) -> str:
    """A key after every pattern, each of which sees what those before it left."""
    for old, new in patterns:
        key = old.sub(new, key)
    return key
