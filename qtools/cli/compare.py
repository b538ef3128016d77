"""qtools compare: what changed between two runs or artifacts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtools.core.errors import ExitStatus, InputError

Before = Annotated[Path, typer.Argument(help="A run folder, or a .tflite, .onnx or .mlpackage from any tool.")]
After = Annotated[Path, typer.Argument(help="What it is held against.")]
Data = Annotated[
    Path | None, typer.Option(help="Images to ask both; default: the golden vectors of a run, where both take them.")
]
Evaluation = Annotated[int, typer.Option(help="Most images of --data to take.")]
Time = Annotated[bool, typer.Option("--time", help="Time both here in turns: the ratio, with its interval.")]
Strict = Annotated[bool, typer.Option("--strict", help="End with exit code 1 where anything differs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the Python trace of an internal error.")]


def compare(
    before: Before,
    after: After,
    data: Data = None,
    evaluation: Evaluation = 512,
    time: Time = False,
    strict: Strict = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two runs or artifacts: plan, operations, stored numbers, predictions, size, and time where asked.

    Example: qtools compare runs/m1_1-reference-w8a8-tflite runs/m1_1-reference-w6a8-tflite --data images/
    """
    if evaluation < 1:
        raise InputError(f"--evaluation {evaluation}: at least one image is needed", "give a number above 0")
    from qtools.cli._progress import Bars
    from qtools.pipeline.compare import run
    from reports.render import compare as table

    with Bars() as bars:
        found = run(before, after, data, evaluation, bars if time else None)
    if json:
        sys.stdout.write(table.to_json(found))
    else:
        from rich.console import Console

        table.show(found, Console())
    if strict and found.differs:
        raise typer.Exit(ExitStatus.CHECK_FAILED)


COMMAND = compare
