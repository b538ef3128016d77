"""qtools models: what can be quantized by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qtools.models import Family, ModelCard

LICENCES_FROM = 110
"""Columns of a terminal that has room for licences; --json has them always."""


def models(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the models qtools knows by name. Any other timm classifier works too, by timm's name.

    verified: qtools' tests cover fusion and graph; converted: seen through every target at 8 bits; listed: no more
    than known by name. The top-1 is the published one.

    Example: qtools models repvit --json
    """
    from qtools.core.files import to_json
    from qtools.models import families

    word = pattern.lower()
    known = [(family, card) for family in families() for card in family.cards]
    rows = [
        (family, card)
        for family, card in known
        if any(word in name for name in (family.name, card.name, *card.aliases))
    ]
    if json:
        sys.stdout.write(to_json([_described(*row) for row in rows]))
    elif rows:
        _print_table(rows)
    else:
        sys.stderr.write(f"qtools: no model's name contains '{pattern}'; `qtools models` lists them all\n")


def _described(family: Family, card: ModelCard) -> dict[str, Any]:
    """One object of the JSON list. The input is timm's own, so that only this form pays for loading it."""
    from qtools.models import resolve

    spec = resolve(card.name)
    return {
        "name": spec.name,
        "family": spec.family,
        "params": round(card.params_millions * 1e6),
        "macs": round(card.macs_billions * 1e9),
        "input": spec.input,
        "task": spec.task,
        "weights": spec.pretrained,
        "level": family.level,
        "paper": family.paper,
        "note": family.note,
    }


def _print_table(rows: list[tuple[Family, ModelCard]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("model", "M params", "G MACs", "top-1", "level"):
        table.add_column(title, no_wrap=True)  # a cut name cannot be typed
    table.add_column("also")
    licences = console.width >= LICENCES_FROM
    if licences:
        table.add_column("weights licence")
    for family, card in rows:
        best = card.pretrained[0] if card.pretrained else None
        cells = [
            card.name,
            f"{card.params_millions}",
            f"{card.macs_billions}",
            "" if best is None or best.top1 is None else f"{best.top1}",
            family.level,
            ", ".join(alias for alias in card.aliases if alias != card.name),
        ]
        table.add_row(*cells, *([best.licence if best else ""] if licences else []))
    console.print(table)
    for family in dict.fromkeys(family for family, _ in rows if family.note):
        console.print(f"{family.name}: {family.note}", highlight=False)


COMMAND = models
