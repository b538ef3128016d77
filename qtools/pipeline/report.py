"""A run's report in any form that reports/render has."""

from __future__ import annotations

from pathlib import Path

from qtools.core import plugins
from qtools.core.errors import InputError
from reports.build import read_report

FORMS = "reports.render"
FILE = "report.json"


def render(run: Path, form: str) -> str:
    """The report as text.

    Args:
        run: A run folder, or its report.json.
        form: Name of a file in reports/render that exposes RENDER.

    Raises:
        InputError: If there is no such form or no report.
    """
    plugins.check(FORMS, form, "format", forms())
    path = run / FILE if run.is_dir() else run
    if run.is_dir() and not path.is_file():
        inside = sorted(each.parent.name for each in run.glob(f"*/{FILE}"))
        step = f"give one of its runs: {', '.join(inside)}" if inside else "give the folder of a run"
        raise InputError(f"{run} holds no {FILE}", step)
    text: str = plugins.find(FORMS, form, "RENDER")(read_report(path))
    return text


def forms() -> tuple[str, ...]:
    """Names of the files in reports/render that turn a report into text; others show other things."""
    return plugins.having(FORMS, "RENDER")
