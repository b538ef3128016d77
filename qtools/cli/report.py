"""qtools report: a run's report in another form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtools.core.errors import InputError

Run = Annotated[Path | None, typer.Argument(help="The run folder, or its report.json.")]
Form = Annotated[
    str,
    typer.Option(
        "--format", help="terminal, markdown, html, json; junit for CI, model_card for the hub, model_explorer."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")]
Schema = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json instead.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the Python trace of an internal error.")]


def report(
    run: Run = None, form: Form = "terminal", out: Out = None, schema: Schema = False, debug: Debug = False
) -> None:
    """Render a run's report again: for a terminal, a pull request, CI, a model hub or a graph viewer.

    Example: qtools report runs/m1_1-reference-w8a8-tflite --format junit -o qtools.xml
    """
    from qtools.core import files

    if schema == (run is not None):
        raise InputError("give a run folder or --schema, one of the two", "qtools report runs/NAME --format markdown")
    if run is None:
        from reports.build import report_schema

        text = files.to_json(report_schema())
    else:
        from qtools.pipeline.report import render

        text = render(run, form)
    if out is None:
        sys.stdout.write(text)
    else:
        files.write_text(out, text)


COMMAND = report
