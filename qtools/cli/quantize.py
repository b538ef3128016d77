"""qtools quantize: weights and images in, one verified artifact out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Text = typer.Option


def quantize(
    model: Annotated[
        str, typer.Argument(help="m1_1, repvit_m1_1, or any timm classifier. Not needed with --builder.")
    ] = "",
    bits: Annotated[int, Text(help="Width of weights and activations.")] = 8,
    target: Annotated[str, Text(help="What the artifact is for.")] = "tflite",
    weights: Annotated[
        str,
        Text(
            help="auto (published weights; where the hub does not answer, the reference checkpoint, and it is said), "
            "imagenet, reference, or a .safetensors or .pth file."
        ),
    ] = "auto",
    builder: Annotated[str, Text(help="package.module:function that returns your own nn.Module.")] = "",
    data: Annotated[Path | None, Text(help="Your images: class folders, a flat folder, or a CSV (file,label).")] = None,
    eval_data: Annotated[
        Path | None, Text("--eval", help="Images to evaluate on; default: what is left of --data.")
    ] = None,
    calibration: Annotated[int | None, Text(help="Calibration images; default 256, fewer for a small folder.")] = None,
    evaluation: Annotated[int | None, Text(help="Evaluation images; default 512, fewer for a small folder.")] = None,
    method: Annotated[str, Text(help="Activation ranges: minmax, percentile, mse, entropy.")] = "minmax",
    io: Annotated[str, Text(help="Type of the artifact's input and output: int8 or float32.")] = "int8",
    out: Annotated[
        Path | None, Text("--out", "-o", help="Run folder; default runs/<model>-<weights>-<scheme>-<target>.")
    ] = None,
    force: Annotated[bool, Text(help="Replace the folder given with --out.")] = False,
    input_size: Annotated[int | None, Text(help="Input side in pixels, for a module that does not say.")] = None,
    seed: Annotated[int, Text(help="Seed of the choice of images.")] = 0,
    json: Annotated[bool, Text("--json", help="Print the report as JSON on stdout.")] = False,
    debug: Annotated[bool, Text(help="Show the Python trace of an internal error.")] = False,
) -> None:
    """Quantize a model, run the artifact, and report what was lost.

    Example: qtools quantize m0_9 --weights trained.safetensors --data images/ --bits 8 --target tflite
    """
    from qtools.core.errors import ExitStatus, InputError
    from qtools.pipeline.config import Images, RunConfig

    if bool(model) == bool(builder):
        raise InputError("give a model's name or --builder, one of the two", "qtools quantize m1_1")
    config = RunConfig(
        model=model,
        weights=weights,
        builder=builder,
        target=target,
        bits=bits,
        method=method,
        images=Images(data, eval_data, calibration, evaluation, seed),
        io=io,
        out=out,
        force=force,
        input_size=input_size,
        command=_command(),
    )
    from qtools.cli._progress import Bars

    with Bars() as bars:
        bars.stage("start (importing torch)")
        from qtools.pipeline.quantize import run

        result = run(config, bars)
    from reports.build import report_text
    from reports.render import terminal
    from reports.verdict import verdict

    if json:
        sys.stdout.write(report_text(result.report))
    else:
        from rich.console import Console

        terminal.show(result.report, Console())
        typer.echo(f"artifact  {result.path}\nreport    {result.folder / 'report.html'}")
    if verdict(result.report).word == "failed":
        raise typer.Exit(ExitStatus.CHECK_FAILED)


def _command() -> str:
    from reports.environment import portable_command

    return portable_command(["qtools", *sys.argv[1:]])


COMMAND = quantize
