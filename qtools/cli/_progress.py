"""Progress on stderr: bars on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from qtools.core import stop


class Bars:
    """Shows a run's stages; use as a context."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self._live,
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str) -> None:
        """A stage begins: a line that stays."""
        stop.check()
        for task in list(self._bars.task_ids):
            self._bars.remove_task(task)
        self._tasks.clear()
        self.console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {name}", highlight=False)

    def warn(self, text: str) -> None:
        """A warning that stays, before the work that it is about."""
        self.console.print(Text.assemble(("! ", "bold yellow"), (text, "yellow")), highlight=False)

    def __call__(self, label: str, done: int, total: int) -> None:
        """Moves the bar of `label`."""
        stop.check()
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total)
        self._bars.update(self._tasks[label], completed=done)  # type: ignore[arg-type]
