"""qtools cache: results that runs keep for each other, and how to be rid of them."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

Clear = Annotated[bool, typer.Option("--clear", help="Remove all of them.")]
Json = Annotated[bool, typer.Option("--json", help="Print the list as JSON on stdout.")]


def cache(clear: Clear = False, json: Json = False) -> None:
    """List what runs keep for each other (statistics, float artifacts), or remove it.

    The folder is qtools/results where your caches lie, or the one that QTOOLS_CACHE names. Removing it costs time and
    never a result.

    Example: qtools cache --clear
    """
    from qtools.core import files
    from qtools.core.cache import default

    held = default()
    entries = held.entries()
    freed = held.clear() if clear else 0
    if json:
        facts = {
            "folder": held.folder,
            "limit_bytes": held.limit_bytes,
            "freed_bytes": freed,
            "entries": () if clear else entries,
        }
        sys.stdout.write(files.to_json(facts))
        return
    if clear:
        typer.echo(f"{len(entries)} results removed from {held.folder}, {freed / 1e6:.1f} MB")
        return
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        typer.echo(f"{used}  {entry.size_bytes / 1e6:8.2f} MB  {entry.kind:14}  {entry.key[:16]}")
    total = sum(entry.size_bytes for entry in entries)
    typer.echo(f"{len(entries)} results in {held.folder}, {total / 1e6:.1f} of {held.limit_bytes / 1e6:.0f} MB")


COMMAND = cache
