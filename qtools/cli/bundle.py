"""qtools bundle: a package for an app, made of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qtools.core import plugins
from qtools.core.errors import InputError

Option = typer.Option

RunFolder = Annotated[Path | None, typer.Argument(help="The run folder.")]
Platform = Annotated[
    str, Option("--platform", "-p", help=f"One of: {', '.join(plugins.names('qtools.pipeline.bundles'))}.")
]
Data = Annotated[
    Path | None, Option("--data", help="Folder or CSV of pictures for the vectors; default: rendered ones.")
]
Count = Annotated[int, Option("--vectors", help="Pictures that an app replays.", min=1)]
Seed = Annotated[int, Option(help="Seed of the choice of pictures.")]
Out = Annotated[Path | None, Option("--out", "-o", help="The bundle's folder; default: RUN/bundles/PLATFORM.")]
Force = Annotated[bool, Option("--force", help="Replace a folder given with --out.")]
Schema = Annotated[bool, Option("--schema", help="Print the JSON Schema of contract.json instead.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]


def bundle(
    run: RunFolder = None,
    platform: Platform = "",
    data: Data = None,
    vectors: Count = 5,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    schema: Schema = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Hand a run to an app: artifact, contract, test vectors, and sources that cannot prepare a picture otherwise.

    Example: qtools bundle runs/m1_1-reference-w8a8-tflite --platform android -o app/vision
    """
    from qtools.core.files import to_json

    if schema == (run is not None):
        raise InputError("give a run folder or --schema, one of the two", "qtools bundle runs/NAME --platform android")
    if run is None:
        from qtools.pipeline import contract

        sys.stdout.write(to_json(contract.schema()))
        return
    from qtools.cli._progress import Bars
    from qtools.pipeline.bundle import BundleConfig, make
    from qtools.pipeline.picture_vectors import Wanted

    with Bars() as bars:
        made = make(BundleConfig(run, platform, Wanted(data, vectors, seed), out, force), bars)
        bars.stage("done")
    if json:
        sys.stdout.write(to_json(made))
        return
    rows = (
        ("bundle", made.folder),
        ("artifact", made.artifact),
        ("contract", made.contract),
        ("vectors", made.vectors),
        ("next", made.how),
    )
    sys.stdout.write("".join(f"{name:10}{value}\n" for name, value in rows))


COMMAND = bundle
