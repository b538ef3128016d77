"""qtools inspect: what is inside an artifact, and where it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtools.core.errors import MissingPlatform

Artifact = Annotated[Path, typer.Argument(help="A .tflite, .onnx or .mlpackage (or a .zip of one), from any tool.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the Python trace of an internal error.")]


def inspect(artifact: Artifact, json: Json = False, debug: Debug = False) -> None:
    """Show an artifact's ends, operations, float islands, constants, and where the runtime places them.

    Example: qtools inspect model.tflite --json
    """
    from qtools.pipeline.inspect import run
    from reports.inspection import to_json

    description = run(artifact)
    if json:
        sys.stdout.write(to_json(description))
    else:
        from rich.console import Console

        from reports.render import inspection

        inspection.show(description, Console())
    placement = description.inspection.placement
    if placement.unknown:
        raise MissingPlatform(
            f"{artifact.name} was read, but this runtime cannot open it: {placement.unknown}",
            "run it where the operation is registered",
        )


COMMAND = inspect
