"""What a console would show, as text."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

from rich.console import Console


def plain_text(show: Callable[[Console], None], width: int) -> str:
    """Everything `show` prints, without colours, `width` columns wide, no blanks at the ends of lines."""
    written = StringIO()
    show(Console(file=written, width=width, color_system=None, force_terminal=False, legacy_windows=False))
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"
