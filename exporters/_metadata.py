"""What a file says about itself beside the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

OURS = "qtools"
"""The entry that every exporter writes."""


def ours(entries: Mapping[str, bytes | memoryview]) -> tuple[Mapping[str, Any] | None, dict[str, int]]:
    """qtools' own entry as an object, or None; and the sizes of all others.

    Args:
        entries: Name -> content. An entry with our name that is no JSON object is somebody else's.
    """
    sizes = {name: len(content) for name, content in sorted(entries.items())}
    try:
        found = json.loads(bytes(entries[OURS]))
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()  # NaN and half characters are no JSON
    except (KeyError, ValueError, RecursionError):
        return None, sizes
    if not isinstance(found, dict):
        return None, sizes
    del sizes[OURS]
    return found, sizes
