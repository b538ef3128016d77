"""qtools bench: what artifacts take in time and memory, on this host or on a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtools.core.errors import InputError, MissingPlatform, did_you_mean

if TYPE_CHECKING:
    from qtools.pipeline.bench import BenchResult
    from reports.bench import Mode as BenchMode

Option = typer.Option

Artifacts = Annotated[
    list[Path] | None,
    typer.Argument(help="A .tflite or .onnx from any tool, an .mlpackage, or a run folder of qtools."),
]
Against = Annotated[str, Option(help="The artifact the others are held against; default: the first.")]
Threads = Annotated[str, Option(help="Threads of the runtime; several, '1,2,4', one after the other.")]
Runs = Annotated[int, Option(help="Timed rounds; in each, every artifact has its turn: A B A B.", min=2)]
Warmup = Annotated[int, Option(help="Untimed inferences before.", min=0)]
Starts = Annotated[int, Option(help="Fresh processes whose opening and first inference are timed.", min=1)]
Mode = Annotated[
    str, Option(help="interleaved, or single-stream: one query behind the other, 90th percentile, as MLPerf has it.")
]
MinDuration = Annotated[float, Option(help="Seconds that a single stream lasts at least; MLPerf asks for 60.", min=0)]
MinQueries = Annotated[int, Option(help="Queries that it has at least; MLPerf asks for 1024.", min=1)]
Profile = Annotated[bool, Option("--profile", help="Also the time per kind of operation, from the runtime's profiler.")]
Device = Annotated[str, Option(help="host, android (adb), macos or ios (Core ML).")]
Delegate = Annotated[
    str, Option(help="android: xnnpack, gpu, nnapi, none. Core ML: all, cpu, cpu-gpu, cpu-ane. Default: the first.")
]
BenchmarkModel = Annotated[Path | None, Option(help="android: TFLite's benchmark_model, pushed to the device.")]
ScriptDir = Annotated[
    Path | None,
    Option(help="Where a script for a colleague goes if the device is not here; default runs/bench-DEVICE."),
]
Parse = Annotated[Path | None, Option(help="Read what such a script, or benchmark_model, printed; or a file of --out.")]
Out = Annotated[Path | None, Option(help="Also keep the JSON object in this file.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, Option("--debug", help="Show the Python trace of an internal error.")]

_MODES: tuple[BenchMode, ...] = ("interleaved", "single-stream")


def bench(
    context: typer.Context,
    artifacts: Artifacts = None,
    against: Against = "",
    threads: Threads = "1",
    runs: Runs = 50,
    warmup: Warmup = 10,
    starts: Starts = 3,
    mode: Mode = "interleaved",
    min_duration: MinDuration = 60.0,
    min_queries: MinQueries = 1024,
    profile: Profile = False,
    device: Device = "host",
    delegate: Delegate = "",
    benchmark_model: BenchmarkModel = None,
    script_dir: ScriptDir = None,
    parse: Parse = None,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time artifacts: init, first inference, spread, peak memory, and how they compare.

    Inputs are made up, random within their type's range. A number belongs to the machine it names.

    Example: qtools bench int8.tflite float.tflite --against float.tflite --threads 1,2 --profile
    """
    from qtools.cli._progress import Bars
    from qtools.pipeline import bench as pipeline
    from qtools.pipeline.devices._device import Asked
    from reports.environment import portable_command

    command = portable_command(["qtools", *context.obj])
    if parse is not None:
        if artifacts:
            raise InputError("--parse reads a log and times nothing", "leave the artifacts out, or --parse")
        _finish(pipeline.BenchResult(pipeline.read(parse, command)), out, as_json=json)
        return
    asked = Asked(
        threads=_numbers(threads),
        runs=runs,
        warmup=warmup,
        starts=starts,
        mode=_mode(mode),
        seconds=min_duration,
        queries=min_queries,
        profile=profile,
        where=delegate,
        tool=benchmark_model,
    )
    config = pipeline.BenchConfig(tuple(artifacts or ()), asked, device, against, script_dir, command)
    with Bars() as bars:
        result = pipeline.run(config, bars)
        bars.stage("done")
    _finish(result, out, as_json=json)


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers of threads, without repetitions, in the order given."""
    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise InputError(f"--threads '{text}' is no list of numbers", "give one like 1,2,4") from error
    return found


def _mode(text: str) -> BenchMode:
    for mode in _MODES:
        if text == mode:
            return mode
    raise InputError(f"unknown mode '{text}'.{did_you_mean(text, _MODES)}", f"choose one of: {', '.join(_MODES)}")


def _finish(result: BenchResult, out: Path | None, *, as_json: bool) -> None:
    """The bench on stdout and in a file; ends in 3 where nothing was measured."""
    from qtools.core import files
    from reports.bench import BENCH_FILE

    text = BENCH_FILE.text(result.bench)
    if out is not None:
        files.write_text(out, text)
    if as_json:
        sys.stdout.write(text)
    else:
        from rich.console import Console

        from reports.render import bench as table

        table.show(result.bench, Console())
    if not result.bench.ran:
        reasons = dict.fromkeys(timing.reason for timing in result.bench.timings)
        raise MissingPlatform(f"nothing was measured: {'; '.join(reasons)}", _next_step(result))


def _next_step(result: BenchResult) -> str:
    if result.folder is not None:
        return (
            f"hand {result.folder} to someone who has the device: {result.how}; then: qtools bench --parse output.txt"
        )
    return result.how


COMMAND = bench
