"""qtools doctor: what is wrong with a device's bytes, or what this machine can do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtools.core.errors import ExitStatus, InputError

Option = typer.Option

Folder = Annotated[
    Path | None, typer.Argument(help="The run or the bundle that the device runs; default: this folder.")
]
Output = Annotated[
    Path | None,
    Option("--device-output", help="What came out of the network on the device: bytes, .npy, or numbers as text."),
]
Boxes = Annotated[
    Path | None,
    Option("--device-boxes", help="Of a detector, the boxes that came out; --device-output is the classes'."),
]
Input = Annotated[Path | None, Option("--device-input", help="The tensor that went in: names a mistake exactly.")]
Vector = Annotated[str, Option("--vector", help="Name of the vector that was shown: 0, 1, ...")]
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]


def doctor(
    folder: Folder = None,
    device_output: Output = None,
    device_boxes: Boxes = None,
    device_input: Input = None,
    vector: Vector = "",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which mistake explains what a device produced; alone, say what this machine can do.

    Example: qtools doctor app/vision --device-output phone.bin --vector 0
    """
    asked = any(given is not None for given in (device_output, device_boxes, device_input))
    if asked != bool(vector) or (folder is not None and not asked):
        raise InputError(
            "a diagnosis needs the vector that was shown and what the device gave",
            "qtools doctor BUNDLE --device-output FILE --vector 0; alone: qtools doctor",
        )
    if not asked:
        _host(as_json=json)
        return
    from qtools.core.files import to_json
    from qtools.pipeline.doctor.subject import Asked, run

    found = run(Asked(folder or Path(), vector, device_output, device_input, device_boxes))
    if json:
        sys.stdout.write(to_json(found))
    else:
        from rich.console import Console

        from reports.render import doctor as words

        for each in found:
            words.show(each, Console())
    if not all(each.passed for each in found):
        raise typer.Exit(ExitStatus.CHECK_FAILED)


def _host(*, as_json: bool) -> None:
    from qtools.pipeline.doctor.host import look

    host = look()
    if as_json:
        from qtools.core.files import to_json

        sys.stdout.write(to_json(host))
    else:
        from rich.console import Console

        from reports.render import doctor as words

        words.show_host(host, Console())
    if host.missing:
        raise typer.Exit(ExitStatus.MISSING_PLATFORM)


COMMAND = doctor
