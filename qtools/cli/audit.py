"""qtools audit: where accuracy went between the float network and the artifact, why, and how sure that is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtools.core.errors import ExitStatus

if TYPE_CHECKING:
    from reports.build import Report

Option = typer.Option

Subject = Annotated[
    Path, typer.Argument(help="A run folder, the artifact in it, or a .tflite, .onnx or .mlpackage from any tool.")
]
Data = Annotated[
    Path | None,
    Option(
        help="Images: class folders, a flat folder, a CSV, images/ and masks/; a run on the reference set needs none."
    ),
]
Against = Annotated[Path | None, Option(help="The float artifact that one from another tool was made from.")]
ContractFile = Annotated[
    Path | None,
    Option(
        "--contract", help="JSON: how an app feeds pictures to an artifact from another tool; default: its metadata."
    ),
]
Weights = Annotated[str, Option(help="The float weights, where the run was made from a file.")]
Builder = Annotated[str, Option(help="package.module:function, where the run was made from a module of your own.")]
Limit = Annotated[int | None, Option(help="Images at most; default 1000.")]
MaxDrop = Annotated[float | None, Option(help="Largest drop of top-1 allowed, in points: the audit passes or fails.")]
Confidence = Annotated[float, Option(help="Confidence of that verdict.")]
Causes = Annotated[bool, Option("--causes/--no-causes", help="Whether causes are looked for.")]
Sensitivity = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Quantize every value, weight and block alone too; FILE keeps what is measured, a second call goes on.",
    ),
]
Seed = Annotated[int, Option(help="Seed of the choice of images.")]
Out = Annotated[Path | None, Option("--out", "-o", help="Folder for report.json and report.html.")]
Force = Annotated[bool, Option("--force", help="Replace the folder given with --out.")]
Json = Annotated[bool, Option("--json", help="Print the report as JSON on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]


def audit(
    context: typer.Context,
    subject: Subject,
    data: Data = None,
    against: Against = None,
    contract: ContractFile = None,
    weights: Weights = "",
    builder: Builder = "",
    limit: Limit = None,
    max_drop: MaxDrop = None,
    confidence: Confidence = 0.95,
    causes: Causes = True,
    sensitivity: Sensitivity = None,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Split a drop in accuracy into its steps, and name the causes that can be proven.

    Example: qtools audit runs/repvit_m1_1-reference-w8a8-tflite --max-drop 1 -o audits/repvit
    """
    from qtools.cli._progress import Bars
    from qtools.pipeline.audit.config import AuditConfig
    from reports.environment import portable_command

    config = AuditConfig(
        subject,
        data,
        against,
        contract,
        weights,
        builder,
        limit=limit,
        seed=seed,
        max_drop=max_drop,
        confidence=confidence,
        causes=causes,
        sensitivity=sensitivity,
        out=out,
        force=force,
        command=portable_command(["qtools", *context.obj]),
    )
    with Bars() as bars:
        bars.stage("start")
        from qtools.pipeline.audit.run import audit as run

        report = run(config, bars)
        bars.stage("done")
    _show(report, out, as_json=json)
    from reports.verdict import verdict

    if verdict(report).word == "failed":
        raise typer.Exit(ExitStatus.CHECK_FAILED)


def _show(report: Report, out: Path | None, *, as_json: bool) -> None:
    """The report on stdout."""
    if as_json:
        from reports.build import report_text

        sys.stdout.write(report_text(report))
        return
    from rich.console import Console

    from reports.render import terminal

    terminal.show(report, Console())
    if out is not None:
        typer.echo(f"report    {out / 'report.html'}")


COMMAND = audit
