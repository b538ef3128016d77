"""qtools verify: is this still the artifact that was audited?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtools.core.errors import ExitStatus

Artifact = Annotated[Path, typer.Argument(help="The artifact inside its run folder, or the run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the Python trace of an internal error.")]


def verify(artifact: Artifact, json: Json = False, debug: Debug = False) -> None:
    """Re-hash an artifact, replay the golden vectors stored at export, and compare with its report.

    Example: qtools verify runs/m1_1-reference-w8a8-tflite/model.tflite
    """
    from qtools.pipeline.verify import run

    found = run(artifact)
    if json:
        from qtools.core.files import to_json

        sys.stdout.write(to_json(found))
    else:
        from rich.console import Console

        from reports.render.terminal import checks_table

        console = Console()
        console.print(f"{found.artifact}: {found.model} for {found.target}", markup=False, highlight=False)
        console.print(checks_table(found.checks))
    if not found.passed:
        raise typer.Exit(ExitStatus.CHECK_FAILED)


COMMAND = verify
