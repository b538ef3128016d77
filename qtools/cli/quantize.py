"""qtools quantize: weights and images in, one verified artifact out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtools.core.errors import ExitStatus, InputError
from qtools.pipeline.config import ALL, DEFAULT_METHOD, Images, RunConfig

if TYPE_CHECKING:
    from qtools.cli._progress import Bars
    from qtools.pipeline.leg import RunResult
    from reports.cross import CrossCheck
    from reports.joined import Joined

    Last = CrossCheck | list[Joined] | None

Option = typer.Option

Model = Annotated[str, typer.Argument(help="m1_1, repvit_m1_1, or any timm classifier; leave out with --builder.")]
Bits = Annotated[int, Option(help="Width of weights and activations; Core ML has activations of 8 bits only.")]
WeightBits = Annotated[int | None, Option(help="Width of the weights, where it differs from --bits.")]
ActBits = Annotated[
    int | None,
    Option(help="Width of the activations, where it differs from --bits; 16 on TFLite: int16, on Core ML: float16."),
]
Int16 = Annotated[
    list[str] | None,
    Option(help="TFLite: hold values at 16 bits whose id or module path fits, e.g. 'add*'; may be given again."),
]
Dynamic = Annotated[
    list[str] | None,
    Option(
        help="TFLite: keep layers on float activations over int8 weights whose id or module path fits, '*': all of "
        "them; may be given again."
    ),
]
Clamp = Annotated[
    bool,
    Option("--clamp", help="TFLite, below 8 bits: cut activations where their grid ends, as papers do; costs time."),
]
StrictWeights = Annotated[
    bool,
    Option(
        "--strict-weights",
        help="TFLite and ONNX, weights below 8 bits: no outliers, all keep to their narrow grid; costs accuracy.",
    ),
]
StrictActivations = Annotated[
    bool,
    Option(
        "--strict-activations",
        help="Below 8 bits: what no layer and no product of matrices reads is narrow as well; costs accuracy.",
    ),
]
MaxDrop = Annotated[
    float | None,
    Option(
        help="Points of top-1 that may be lost (of agreement with float, without labels; of overlap with float's "
        "masks): raises the precision of the fewest values that meet it on calibration images, and fails where the "
        "artifact loses more. Networks for prompts are made for 2.5 without it."
    ),
]
MaxIslands = Annotated[
    int | None, Option(help="Hold up to so many values more precisely, where that pays; 0: all in 8 bits.")
]
MaxSlower = Annotated[
    float | None,
    Option(
        help="Percent of the predicted time to give for nearness to float, by float operations and layers that read "
        "floats over int8 weights (TFLite). By default 25 for networks with attention on TFLite; for others on ONNX "
        "what spares twice its share of rounding noise, up to 15 % of what codes save; else 0. "
        "On Core ML 0 keeps sums on codes that else may be in float16.",
        show_default=False,
    ),
]
SizeBudget = Annotated[
    str | None,
    Option(
        help="Most that the artifact may take, e.g. 6MB, or 0.22 of the float artifact: layers with the least to lose "
        "get narrower weights. Core ML: 6, 4, 3 and 2 bits; ONNX: 4; TFLite: 4, in linear and pointwise layers."
    ),
]
TargetName = Annotated[str, Option(help="tflite, onnx, onnx_qnn, coreml; all: TFLite, ONNX and Core ML at once.")]
Weights = Annotated[
    str,
    Option(
        help="auto (published weights; where the hub does not answer, the reference checkpoint, and it is said), "
        "imagenet, reference, or a .safetensors or .pth file."
    ),
]
Builder = Annotated[str, Option(help="package.module:function that returns your own nn.Module.")]
Data = Annotated[
    Path | None,
    Option(
        help="Your images: class folders, a flat folder, a CSV (file,label); images/ and masks/ to segment; "
        "class/clip/frame.jpg for videos."
    ),
]
Eval = Annotated[Path | None, Option("--eval", help="Images to evaluate on; default: what is left of --data.")]
Calibration = Annotated[int | None, Option(help="Calibration images; default 256, fewer for a small folder.")]
Evaluation = Annotated[int | None, Option(help="Evaluation images; default 512, fewer for a small folder.")]
Method = Annotated[
    str,
    Option(
        help="auto; fast (no rounding of weights); or ranges and nothing else: minmax, percentile, mse, entropy, "
        "easyquant."
    ),
]
Ends = Annotated[
    str,
    Option(
        help="The artifact's input and output: int8, float32, or pixels (a camera's bytes in, normalised inside; "
        "float32 out)."
    ),
]
Labels = Annotated[
    Path | None,
    Option(help="Names of the classes, one per line, for the artifact; default: the names of the class folders."),
]
Cascade = Annotated[
    bool, Option("--cascade", help="Of a network with early exits: one artifact per exit, and one contract.")
]
OnnxActivations = Annotated[
    str, Option(help="Type of the activations in ONNX: uint8 (default, for x86 and NPUs) or int8 (for Arm).")
]
Out = Annotated[
    Path | None, Option("--out", "-o", help="Run folder; default runs/<model>-<weights>-<scheme>-<target>.")
]
Force = Annotated[bool, Option("--force", help="Replace the folder given with --out.")]
Caching = Annotated[
    bool, Option("--no-cache", help="Neither use nor keep results of other runs (statistics, float artifacts).")
]
InputSize = Annotated[int | None, Option(help="Input side in pixels, for a module that does not say.")]
Seed = Annotated[int, Option(help="Seed of the choice of images.")]
DryRun = Annotated[
    bool, Option("--dry-run", help="Predict where each operation will run, from a few images; export nothing.")
]
Json = Annotated[bool, Option("--json", help="Print the report as JSON on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]


def quantize(
    context: typer.Context,
    model: Model = "",
    bits: Bits = 8,
    weight_bits: WeightBits = None,
    act_bits: ActBits = None,
    int16: Int16 = None,
    dynamic: Dynamic = None,
    clamp: Clamp = False,
    strict_weights: StrictWeights = False,
    strict_activations: StrictActivations = False,
    max_drop: MaxDrop = None,
    max_islands: MaxIslands = None,
    max_slower: MaxSlower = None,
    size_budget: SizeBudget = None,
    target: TargetName = "tflite",
    weights: Weights = "auto",
    builder: Builder = "",
    data: Data = None,
    eval_data: Eval = None,
    calibration: Calibration = None,
    evaluation: Evaluation = None,
    method: Method = DEFAULT_METHOD,
    io: Ends = "int8",
    labels: Labels = None,
    cascade: Cascade = False,
    onnx_activations: OnnxActivations = "",
    out: Out = None,
    force: Force = False,
    no_cache: Caching = False,
    input_size: InputSize = None,
    seed: Seed = 0,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantize a model, run the artifact, and report what was lost.

    Example: qtools quantize m0_9 --weights trained.safetensors --data images/ --bits 8 --target tflite
    """
    _check_source(model, builder)
    config = RunConfig(
        model, weights, builder, target,
        bits=bits, weight_bits=weight_bits, act_bits=act_bits,
        int16=int16 or (), dynamic=dynamic or (), clamp=clamp,
        strict_weights=strict_weights, strict_activations=strict_activations,
        max_drop=max_drop, max_islands=max_islands, max_slower=max_slower, size_budget=size_budget,
        method=method, images=Images(data, eval_data, calibration, evaluation, seed),
        io=io, labels=labels, out=out, force=force, cache=not no_cache, input_size=input_size,
        command=_command(context),
        target_options={"activations": onnx_activations} if onnx_activations else {},
    )  # fmt: skip
    (_foresee if dry_run else _export)(config, cascade=cascade, as_json=json)


def _check_source(model: str, builder: str) -> None:
    if bool(model) == bool(builder):
        raise InputError("give a model's name or --builder, one of the two", "qtools quantize m1_1")


def _export(config: RunConfig, *, cascade: bool, as_json: bool) -> None:
    """The run, its report on stdout, and the exit code that its checks deserve."""
    from qtools.cli._progress import Bars

    with Bars() as bars:
        bars.stage("start")
        from qtools.pipeline.quantize import has_halves

        several = _run_cascade if cascade else _run_halves if has_halves(config) else None
        results, last = (several or _run)(config, bars)
    _show(results, last, as_json=as_json)
    from reports.verdict import verdict

    failed = any(verdict(result.report).word == "failed" for result in results)
    if failed or (isinstance(last, list) and any(c.status == "failed" for each in last for c in each.checks)):
        raise typer.Exit(ExitStatus.CHECK_FAILED)


def _foresee(config: RunConfig, *, cascade: bool, as_json: bool) -> None:
    """The prediction on stdout."""
    if cascade:
        raise InputError(
            "--dry-run looks at a whole network", "leave --cascade out: its pieces have the same operations"
        )
    from qtools.cli._progress import Bars

    with Bars() as bars:
        bars.stage("start")
        from qtools.pipeline.foresee import foresee
        from reports.render import places

        found = foresee(config, bars)
    if as_json:
        sys.stdout.write(places.to_json(found))
        return
    from rich.console import Console

    places.show(found, Console())


def _run(config: RunConfig, bars: Bars) -> tuple[list[RunResult], Last]:
    from qtools.pipeline import quantize as pipeline

    found: tuple[list[RunResult], Last]
    if config.target == ALL:
        everything = pipeline.run_all(config, bars)
        found = list(everything.results.values()), everything.cross
    else:
        found = [pipeline.run(config, bars)], None
    bars.stage("done")
    return found


def _run_halves(config: RunConfig, bars: Bars) -> tuple[list[RunResult], Last]:
    """Both programs of a promptable network, for each target."""
    from qtools.pipeline import prompted

    made = prompted.run(config, bars)
    bars.stage("done")
    return [*made.encoder.values(), *made.decoder.values()], list(made.joined.values())


def _run_cascade(config: RunConfig, bars: Bars) -> tuple[list[RunResult], Last]:
    """Every piece of a network with early exits, for each target."""
    from qtools.pipeline import cascade

    made = cascade.run(config, bars)
    bars.stage("done")
    return [result for piece in made.pieces for result in piece.values()], list(made.joined.values())


def _show(results: Sequence[RunResult], last: Last, *, as_json: bool) -> None:
    """The report on stdout; for several targets or programs all of them, and how they agree or work together."""
    from reports.build import report_text
    from reports.render import cross, joined, terminal

    if as_json:
        texts = [report_text(result.report) for result in results]
        if isinstance(last, list):
            sys.stdout.write(joined.to_json(texts, last))
        else:
            sys.stdout.write(texts[0] if last is None else cross.to_json(texts, last))
        return
    from rich.console import Console

    console = Console()
    for result in results:
        terminal.show(result.report, console)
        typer.echo(f"artifact  {result.path}\nreport    {result.folder / 'report.html'}")
    for both in last if isinstance(last, list) else ():
        joined.show(both, console)
    if last is not None and not isinstance(last, list):
        cross.show(last, console)


def _command(context: typer.Context) -> str:
    """How the run was called: the words that `main` was given."""
    from reports.environment import portable_command

    return portable_command(["qtools", *context.obj])


COMMAND = quantize
