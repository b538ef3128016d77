"""qtools models: what can be quantized by name."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def models(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the models qtools knows by name. Any other timm classifier works too, marked unverified.

    Example: qtools models repvit --json
    """
    from qtools.core.files import to_json
    from qtools.models import cards

    rows = [card for card in cards() if pattern in card.name or any(pattern in alias for alias in card.aliases)]
    if json:
        sys.stdout.write(to_json(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "also", "M params", "G MACs", "published top-1", "weights licence")
    for card in rows:
        best = card.pretrained[0] if card.pretrained else None
        table.add_row(
            card.name,
            ", ".join(card.aliases),
            f"{card.params_millions}",
            f"{card.macs_billions}",
            f"{best.top1}" if best else "",
            best.licence if best else "",
        )
    Console().print(table)


COMMAND = models
