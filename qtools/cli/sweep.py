"""qtools sweep: many runs from one file, here or on a Ray cluster, and one table of what they came to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtools.core.errors import ExitStatus, InputError

if TYPE_CHECKING:
    from qtools.pipeline.sweep.run import Planned, SweepConfig

Option = typer.Option

GridFile = Annotated[Path | None, typer.Argument(help="YAML: base, axes, exclude, cells; see --schema.")]
Ray = Annotated[
    str,
    Option("--ray", metavar="ADDRESS", help="HOST:PORT of a Ray cluster, auto, or local:N to start N workers here."),
]
Cpus = Annotated[int, Option(help="With --ray: cores that a cell asks for.")]
Out = Annotated[
    Path | None, Option("--out", "-o", help="Folder of the sweep; default runs/sweep-<name of the file>. It goes on.")
]
Caching = Annotated[bool, Option("--no-cache", help="Neither use nor keep results of other runs.")]
DryRun = Annotated[bool, Option("--dry-run", help="List the cells and whether they are finished; run nothing.")]
Schema = Annotated[bool, Option("--schema", help="Print the JSON Schema of a grid instead.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]


def sweep(
    grid: GridFile = None,
    ray: Ray = "",
    cpus: Cpus = 1,
    out: Out = None,
    no_cache: Caching = False,
    dry_run: DryRun = False,
    schema: Schema = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantize every cell of a grid, one folder each; a second call makes what is missing or changed.

    Example: qtools sweep grid.yaml -o runs/night
    """
    if schema == (grid is not None):
        raise InputError("give a grid or --schema, one of the two", "qtools sweep grid.yaml")
    if grid is None:
        from qtools.core import files
        from qtools.pipeline.sweep.grid import schema as grid_schema

        sys.stdout.write(files.to_json(grid_schema()))
        return
    from qtools.pipeline.sweep.cluster import Cluster
    from qtools.pipeline.sweep.run import SweepConfig

    config = SweepConfig(grid, out, Cluster(ray, cpus) if ray else None, not no_cache)
    (_list if dry_run else _run)(config, as_json=json)


def _run(config: SweepConfig, *, as_json: bool) -> None:
    """The table on stdout; ends in 1 where a cell has no artifact, or one that failed."""
    from qtools.cli._progress import Bars

    with Bars() as bars:
        bars.stage("start")
        from qtools.pipeline.sweep.run import FORMS, run
        from reports.sweep import SWEEP_FILE

        found = run(config, bars)
        bars.stage("done")
    if as_json:
        sys.stdout.write(SWEEP_FILE.text(found))
    else:
        from rich.console import Console

        from reports.render import sweep as table

        table.show(found, Console())
        typer.echo(f"fronts    {config.folder / FORMS['html']}")
    if found.failed:
        raise typer.Exit(ExitStatus.CHECK_FAILED)


def _list(config: SweepConfig, *, as_json: bool) -> None:
    """Every cell on stdout."""
    from qtools.core import files
    from qtools.pipeline.sweep.cell import command
    from qtools.pipeline.sweep.run import plan

    planned = plan(config)
    if as_json:
        cells = [
            {"cell": each.work.name, "finished": each.done, "command": command(each.work.cell)} for each in planned
        ]
        sys.stdout.write(files.to_json({"cells": cells}))
        return
    for each in planned:
        typer.echo(f"{_sign(each)} {each.work.name}\n    {command(each.work.cell)}")
    typer.echo(f"{len(planned)} cells, {sum(each.done for each in planned)} finished, in {config.folder}")


def _sign(planned: Planned) -> str:
    return "finished" if planned.done else "to run  "


COMMAND = sweep
