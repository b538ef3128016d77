"""An Android device over adb, with TFLite's own `benchmark_model`; and the script for a colleague who has one.

Driven from here or by the script, the output is the same text and goes through the same parser, which also reads any
log of `benchmark_model` by itself. Formats: tensorflow/lite/tools/benchmark and tensorflow/core/util/stats_calculator.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qtools.core.errors import InputError, MissingPlatform
from qtools.core.op_table import kernel_times
from qtools.core.timing import Profile
from qtools.pipeline.devices import _marks
from qtools.pipeline.devices._device import Asked, Device, Found, Item
from qtools.pipeline.progress import Listener
from reports.bench import Machine, Memory, Opening, Spread, Timing

FOLDER = "/".join(("", "data", "local", "tmp", "qtools-bench"))
"""On the device: where adb may write and programs may run."""
TOOL = "benchmark_model"
PLACES = {
    "xnnpack": "--use_xnnpack=true",
    "gpu": "--use_gpu=true",
    "nnapi": "--use_nnapi=true",
    "none": "--use_xnnpack=false",
}
FORMAT, RUNTIME, FAST_PATH = "TFLite", "TFLite benchmark_model", "delegate"
SCRIPT = Path(__file__).with_name("android.sh")
SECONDS, RUN_SECONDS = 120, 1800
"""Longest that one call of adb may take, and one run; benchmark_model itself stops after its --max_secs, 150."""
LARGEST_US = 1e12
STATISTICS = re.compile(r"(?P<lead>.*?)\bcount=(?P<count>\d+)(?P<rest>(?:\s+\w+=[\d.eE+-]+)+)")
NUMBER = re.compile(r"(\w+)=([\d.eE+-]+)")
TIMINGS = re.compile(
    r"Inference timings in us: Init: ([\d.eE+-]+), First inference: ([\d.eE+-]+), Warmup \(avg\): ([\d.eE+-]+), "
    r"Inference \(avg\): ([\d.eE+-]+)"
)
FOOTPRINT = re.compile(
    r"Memory footprint delta from the start of the tool \(MB\): init=([\d.eE+-]+) overall=([\d.eE+-]+)"
)
PEAK = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: ([\d.eE+-]+)")
GRAPH = re.compile(r"Graph: \[(?:.*/)?([^\]/]+)\]")
THREADS = re.compile(r"Num threads: \[(-?\d+)\]")
DELEGATED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node, yielding (\d+) partitions"
)
FAILED = re.compile(r"^.*?\bERROR:\s*(.+)$|^.*(Benchmarking failed.*)$", re.MULTILINE)
STRANGE = re.compile(r"[^A-Za-z0-9._-]")
UNKNOWN = Machine("android", "unknown device", "unknown system")
ALONE = "each artifact ran alone, so that no ratios are formed"
DELTA = "memory is what benchmark_model added to its own start; its percentiles, where it prints any, are p5, p50, p95"


def absent() -> str:
    """Why no device can be reached; "" where one can."""
    if shutil.which("adb") is None:
        return "adb is not installed here"
    found = _devices()
    return "" if found else "adb sees no device that is ready"


def measure(items: Sequence[Item], asked: Asked, against: str, listener: Listener) -> Found:
    """Pushes and runs everything, one after the other.

    Raises:
        MissingPlatform: If `benchmark_model` is neither on the device nor brought along.
        InputError: If adb fails.
    """
    listener.stage("push")
    _adb("shell", f"mkdir -p {FOLDER}")
    if asked.tool is not None:
        if not asked.tool.is_file():
            raise InputError(f"{asked.tool} does not exist", "give the benchmark_model built for the device")
        _adb("push", str(asked.tool), f"{FOLDER}/{TOOL}")
        _adb("shell", f"chmod 755 {FOLDER}/{TOOL}")
    if "yes" not in _adb("shell", f"test -x {FOLDER}/{TOOL} && echo yes || echo no"):
        raise MissingPlatform(
            f"{TOOL} is not on the device", "give TensorFlow's build for its processor with --benchmark-model"
        )
    for item, name in zip(items, _names(items), strict=True):
        _adb("push", str(item.path), f"{FOLDER}/{name}")
    listener.stage("time")
    texts = [_marks.line(_machine())]
    calls = _calls(items, asked)
    for done, (name, mark, flags) in enumerate(calls, 1):
        command = shlex.join([f"{FOLDER}/{TOOL}", f"--graph={FOLDER}/{name}", *flags])
        texts += [mark, _adb("shell", f"{command} 2>&1", run=True)]
        listener("runs", done, len(calls))
    _adb("shell", _clean_up(items))
    found = read("\n".join(texts), "the device's output")
    assert found is not None
    return replace(found, subjects=tuple(replace(item.subject, runtime=RUNTIME) for item in items))


def files(items: Sequence[Item], asked: Asked) -> dict[str, str]:
    """The script: its fixed part, then a line per file to push and per run."""
    pushes = [
        f'adb push {shlex.quote(f"artifacts/{item.subject.name}")} "$FOLDER/{name}" >&2 </dev/null || exit 3'
        for item, name in zip(items, _names(items), strict=True)
    ]
    runs = [
        shlex.join(["timed", name, mark.removeprefix(_marks.WORD).strip(), " ".join(flags)])
        for name, mark, flags in _calls(items, asked)
    ]
    end = f"adb shell {shlex.quote(_clean_up(items))} </dev/null"
    return {"run.sh": SCRIPT.read_text() + "\n".join([*pushes, *runs, end]) + "\n"}


def read(text: str, name: str) -> Found | None:
    """What the device, the script or `benchmark_model` printed; None where there is nothing of them in it.

    Args:
        text: The output, with other lines around or in front.
        name: Name of the file it is from, for messages.

    Raises:
        InputError: If a line of it is damaged.
    """
    machine, runs = UNKNOWN, list[tuple[_marks.RunMark, str]]()
    for mark, log in _marks.sections(text):
        if not mark:
            if TIMINGS.search(log) or _series(log):
                runs.append((_own_mark(log, name), log))
        elif '"device"' in mark:
            seen = _marks.validated(_marks.MACHINE, mark, name)
            if seen.device != UNKNOWN.kind:
                return None
            machine = _marks.machine(seen)
        else:
            runs.append((_marks.validated(_marks.RUN, mark, name), log))
    if not runs:
        return None
    timings = _timings(runs)
    subjects = {mark.artifact: mark.subject(FORMAT, RUNTIME) for mark, _ in runs}
    return Found(machine, timings, subjects=tuple(subjects.values()), notes=(ALONE, DELTA))


def _calls(items: Sequence[Item], asked: Asked) -> list[tuple[str, str, list[str]]]:
    """(name on the device, mark, flags) of each run; operations get runs of their own: timing them takes time."""
    where = asked.where or next(iter(PLACES))
    found = []
    for threads in asked.threads:
        for item, name in zip(items, _names(items), strict=True):
            flags = [f"--num_threads={threads}", f"--num_runs={asked.runs}", f"--warmup_runs={asked.warmup}"]
            flags += ["--report_peak_memory_footprint=true", PLACES[where]]
            mark = {"artifact": item.subject.name, "sha256": item.subject.sha256, "threads": threads, "where": where}
            mark |= {"size_bytes": item.subject.size_bytes}
            for profile in (False, True) if asked.profile else (False,):
                extra = ["--enable_op_profiling=true"] if profile else []
                found.append((name, _marks.line({**mark, "profile": profile}), flags + extra))
    return found


def _names(items: Sequence[Item]) -> list[str]:
    """Names on the device, of letters that its shell reads as they are."""
    return [f"{number}-{STRANGE.sub('_', item.subject.name)}" for number, item in enumerate(items)]


def _clean_up(items: Sequence[Item]) -> str:
    """The device's command that removes what was pushed; its own program stays."""
    return f"rm -f {' '.join(f'{FOLDER}/{name}' for name in _names(items))}"


def _timings(runs: Sequence[tuple[_marks.RunMark, str]]) -> tuple[Timing, ...]:
    profiles = {(m.artifact, m.threads, m.where): _profile(log) for m, log in runs if m.profile}
    rows = []
    for mark, log in runs:
        if not mark.profile:
            own = _profile(log)
            profile, note = profiles.get((mark.artifact, mark.threads, mark.where), own)
            rows.append(_timing(mark, log, (profile, note)))
    return tuple(rows)


def _timing(mark: _marks.RunMark, log: str, profile: tuple[Profile | None, str]) -> Timing:
    series = _series(log)
    if not series:
        reasons = [first or second for first, second in FAILED.findall(log)]
        reason = reasons[0].strip() if reasons else "its log ends before a result"
        return Timing(mark.artifact, mark.threads, "not run", reason, mark.where)
    opening = Opening(None, None)
    if found := TIMINGS.search(log):
        init, first, _, _ = (_milliseconds(number) for number in found.groups())
        opening = Opening(init, first, (init,), (first,))
    delegated = [f"{d}: {n} of {m} nodes in {p} parts" for n, m, d, p in DELEGATED.findall(log)]
    return Timing(
        mark.artifact,
        mark.threads,
        "measured",
        where=mark.where,
        opening=opening,
        memory=_memory(log),
        spread=_spread(series[-1]),
        profile=profile[0],
        profile_note=profile[1],
        note="; ".join(delegated),
    )


def _series(log: str) -> list[dict[str, float]]:
    """Statistics of inferences in the order they are printed, warm-up first; microseconds.

    A tool that prints none of its own still has those of its profiler, over the sums of its operations.
    """
    own, summed = list[dict[str, float]](), list[dict[str, float]]()
    for line in log.splitlines():
        found = STATISTICS.match(line)
        if found is None or "Memory (bytes)" in line:
            continue
        numbers = {"count": _number(found["count"])} | {k: _number(v) for k, v in NUMBER.findall(found["rest"])}
        if {"avg", "min", "max"} <= numbers.keys() or "curr" in numbers:
            (summed if "Timings (microseconds)" in found["lead"] else own).append(numbers)
    return own or summed


def _spread(numbers: Mapping[str, float]) -> Spread:
    def ms(key: str) -> float | None:
        return numbers[key] / 1e3 if key in numbers else None

    mean = numbers.get("avg", numbers.get("curr", 0.0)) / 1e3  # one inference, or equal ones: only "curr" is printed
    lowest, highest = ms("min"), ms("max")
    return Spread(
        int(numbers["count"]),
        mean,
        mean if lowest is None else lowest,
        mean if highest is None else highest,
        std_ms=ms("std"),
        median_ms=ms("median"),
        p95_ms=ms("p95"),
    )


def _memory(log: str) -> Memory | None:
    """The larger of what it added at the end and at its peak."""
    found = [float(_number(overall)) for _, overall in FOOTPRINT.findall(log)]
    found += [_number(peak) for peak in PEAK.findall(log)]
    known = [megabytes for megabytes in found if megabytes > 0]  # -1: it was not watched
    return Memory(round(max(known) * 2**20)) if known else None


def _profile(log: str) -> tuple[Profile | None, str]:
    kernels = kernel_times(log, 1)
    series = _series(log)
    if not kernels or not series:
        return None, ""
    return Profile(
        f"{RUNTIME} --enable_op_profiling", int(series[-1]["count"]), _spread(series[-1]).mean_ms, kernels, FAST_PATH
    ), ""


def _own_mark(log: str, name: str) -> _marks.RunMark:
    """What a bare log says about itself."""
    graph, threads = GRAPH.search(log), THREADS.search(log)
    return _marks.RunMark(graph[1] if graph else name, threads=max(0, int(threads[1])) if threads else 0)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"'{text}' in the log of {TOOL} is no number", "give its whole output") from error
    if not math.isfinite(value) or abs(value) > LARGEST_US:
        raise InputError(f"'{text}' in the log of {TOOL} is no time", "give its whole output")
    return value


def _milliseconds(text: str) -> float:
    return _number(text) / 1e3


def _devices() -> list[str]:
    rows = [line.split() for line in _adb("devices").splitlines()[1:]]
    return [row[0] for row in rows if row[1:2] == ["device"]]


def _machine() -> dict[str, str]:
    def property_of(name: str) -> str:
        return _adb("shell", f"getprop {name}").strip()

    return {
        "device": UNKNOWN.kind,
        "name": f"{property_of('ro.product.manufacturer')} {property_of('ro.product.model')}",
        "system": f"Android {property_of('ro.build.version.release')}",
        "chip": property_of("ro.soc.model"),
    }


def _adb(*words: str, run: bool = False) -> str:
    """Output of adb; its own or the device's failure is an error, except of a `run`, whose log says what happened."""
    try:
        done = subprocess.run(
            ["adb", *words],
            capture_output=True,
            timeout=RUN_SECONDS if run else SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"adb {words[0]} did not end: {error}", "is the device still connected?") from error
    text = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    if done.returncode and not run:
        said = (done.stderr.decode(errors="replace").strip() or text.strip() or "no reason given").splitlines()[-1]
        raise InputError(f"adb {words[0]} failed: {said}", "several devices? ANDROID_SERIAL says which")
    return text


DEVICE = Device(
    title="an Android device",
    suffixes=frozenset({".tflite"}),
    places=tuple(PLACES),
    modes=("interleaved",),
    absent=absent,
    measure=measure,
    files=files,
    how="sh run.sh path/to/benchmark_model > output.txt",
    read=read,
)
