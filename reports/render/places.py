"""What a dry run foresees, as tables on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.text import Text

from qtools.core import files
from reports.places import Foreseen
from reports.render import _wording as words
from reports.render._plain import plain_text
from reports.render.terminal import WIDTH, places_table

CAPTION = "Predicted: nothing was converted or written. What each takes is measured by a run, on its artifact."


def render(found: Sequence[Foreseen]) -> str:
    """Plain text, WIDTH columns wide."""
    return plain_text(partial(show, found), WIDTH)


def show(found: Sequence[Foreseen], console: Console) -> None:
    """Prints to the caller's console."""
    for each in words.cleaned(tuple(found)):
        console.print(Text(f"\n{each.model} → {each.target}, {each.scheme}", style="bold"))
        console.print(places_table(each.places), Text(f"{each.places.summary}.\n"), highlight=False)
    console.print(Text(CAPTION))


def to_json(found: Sequence[Foreseen]) -> str:
    """One object: "predictions", in the order of the targets."""
    return files.to_json({"predictions": tuple(found)})
