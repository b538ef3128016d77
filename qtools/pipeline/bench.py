"""What artifacts of any origin take in time and memory: finds them, checks them, and has a machine time them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import qtools
from qtools.core import files, plugins
from qtools.core.claim import claim
from qtools.core.errors import InputError, did_you_mean
from qtools.core.protocols import Target, Timer
from qtools.pipeline import inspect, verify
from qtools.pipeline.devices._device import Asked, Device, Found, Item
from qtools.pipeline.progress import Listener
from reports import environment
from reports.bench import BENCH_FILE, Bench, Machine, Subject, Timing

DEVICES = "qtools.pipeline.devices"
HOST = "host"
MARK = "qtools-bench.json"
"""In a folder for a colleague: what was asked for, and the sign that the folder is ours to replace."""
LONGEST_LOG = 64 << 20


@dataclass(frozen=True)
class BenchConfig:
    """What was asked for.

    Attributes:
        artifacts: Files, packages or run folders.
        asked: What is to be measured.
        device: Name of a file in qtools/pipeline/devices.
        against: The artifact that the others are held against, by its path or name; "" for the first.
        script_dir: Where a script goes if the device is not here; None for its usual place.
        command: How the run was called, without machine paths.
    """

    artifacts: tuple[Path, ...]
    asked: Asked = field(default_factory=Asked)
    device: str = HOST
    against: str = ""
    script_dir: Path | None = None
    command: str = "qtools bench"


@dataclass(frozen=True)
class BenchResult:
    """A bench; where the device was not here, also the folder to run elsewhere and how."""

    bench: Bench
    folder: Path | None = None
    how: str = ""


def run(config: BenchConfig, listener: Listener) -> BenchResult:
    """Checks every artifact, then times all of them.

    Raises:
        InputError: If an artifact or an option cannot be used.
        MissingPlatform: If a program of the device's is missing.
    """
    device = find_device(config.device)
    _check(config, device)
    listener.stage("check")
    items = _items(config, listener)
    base = _base(config, items)
    why = device.absent()
    if why:
        return _elsewhere(config, device, items, why)
    fit = [item for item in items if _fits(device, item)]
    if not fit:
        return _elsewhere(config, device, items, "")
    found = device.measure(fit, config.asked, base, listener)
    others = [item for item in items if item not in fit]
    found = dataclasses.replace(
        found,
        timings=(*found.timings, *_not_run(config, device, others, "")),
        subjects=(*(found.subjects or (item.subject for item in fit)), *(item.subject for item in others)),
    )
    bench = _bench(config, found)
    return BenchResult(bench, how="" if bench.ran else _others(items))


def read(path: Path, command: str) -> Bench:
    """What a device's script printed, or what `qtools bench --out` wrote.

    Raises:
        InputError: If the file is neither, or damaged.
    """
    try:
        text = files.read_text(path, LONGEST_LOG, errors="replace")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error
    if text.lstrip().startswith("{"):
        return BENCH_FILE.parse(text, path.name)
    for name in plugins.names(DEVICES):
        found = find_device(name).read(text, path.name)
        if found is not None:
            config = BenchConfig((), device=name, command=command)
            return dataclasses.replace(_bench(config, found), environment=None, settings={})
    raise InputError(
        f"{path.name} is no output of a bench that qtools knows",
        "give what the script of --script-dir or benchmark_model printed, or a file of --out",
    )


def find_device(name: str) -> Device:
    """The device of this name.

    Raises:
        InputError: If there is none.
    """
    plugins.check(DEVICES, name, "device")
    device: Device = plugins.find(DEVICES, name, "DEVICE")
    return device


def _check(config: BenchConfig, device: Device) -> None:
    """Refuses what the device cannot do before anything is opened."""
    asked = config.asked
    if not config.artifacts:
        raise InputError("there is nothing to time", "name artifacts, or a log with --parse")
    if asked.mode not in device.modes:
        raise InputError(
            f"{device.title} has no mode '{asked.mode}': its tool does not give every latency",
            f"choose: {', '.join(device.modes)}",
        )
    if asked.where and asked.where not in device.places:
        choices = f"choose one of: {', '.join(device.places)}" if device.places else "leave --delegate out"
        raise InputError(f"{device.title} has no '{asked.where}'.{did_you_mean(asked.where, device.places)}", choices)
    if min(asked.threads) < 1 or asked.runs < 2 or asked.starts < 1 or asked.warmup < 0:
        raise InputError("threads and starts begin at 1, rounds at 2, warm-ups at 0", "give larger numbers")


def _items(config: BenchConfig, listener: Listener) -> list[Item]:
    """Every artifact, inspected as `qtools inspect` does it: in processes apart, before anything else opens it."""
    paths = [path for given in config.artifacts for path in artifacts_of(given)]
    timers = _timers()
    found = []
    for done, (path, name) in enumerate(zip(paths, names(paths), strict=True), 1):
        seen = inspect.run(path).inspection
        timer = timers.get(path.suffix.lower())
        made_by = f"qtools {seen.metadata.get('qtools', '')}".strip() if seen.metadata else seen.producer
        subject = Subject(name, path.name, seen.format, seen.size_bytes, files.digest(path), made_by)
        found.append(Item(path, subject, timer, seen.placement.unknown))
        listener("checked", done, len(paths))
    return found


def artifacts_of(path: Path) -> list[Path]:
    """The artifact of a run folder, all of those of a run for several targets; any other path is one itself."""
    runs = sorted(report.parent for report in path.glob(f"*/{verify.REPORT}")) if path.is_dir() else []
    return [verify.artifact_of(run) for run in runs] or [verify.artifact_of(path)]


def _timers() -> dict[str, Timer]:
    targets: list[Target] = [plugins.find("exporters", name, "TARGET") for name in plugins.names("exporters")]
    return {target.spec.suffix: target.timer for target in targets if target.timer is not None}


def names(paths: Sequence[Path]) -> list[str]:
    """Short unlike names: the file's, or its run folder's, since every run calls its artifact alike.

    Two files of one name get their folders' in front. The same file twice, which tells how far two equal things come
    out apart, gets a number.
    """
    short = [f"{_run_name(path)}{path.suffix}" if path.stem == "model" else path.name for path in paths]
    files_of: dict[str, set[Path]] = {}
    for name, path in zip(short, paths, strict=True):
        files_of.setdefault(name, set()).add(path.resolve())
    found = [
        f"{path.resolve().parent.name}-{name}" if len(files_of[name]) > 1 else name
        for name, path in zip(short, paths, strict=True)
    ]
    seen: Counter[str] = Counter()
    for place, name in enumerate(found):
        seen[name] += 1
        if seen[name] > 1:
            found[place] = f"{Path(name).stem}-{seen[name]}{Path(name).suffix}"
    return found


def _run_name(artifact: Path) -> str:
    """Name of the folder around an artifact; that of a run for several targets is one further out."""
    folder = artifact.resolve().parent
    return f"{folder.parent.name}-{folder.name}" if (folder.parent / "cross.json").is_file() else folder.name


def _base(config: BenchConfig, items: Sequence[Item]) -> str:
    """Name of the artifact that the others are held against."""
    if not config.against:
        return items[0].subject.name
    for item in items:
        path = item.path
        if config.against in (item.subject.name, path.name, str(path), str(path.parent), path.parent.name):
            return item.subject.name
    known = [item.subject.name for item in items]
    raise InputError(
        f"--against '{config.against}' is none of the artifacts.{did_you_mean(config.against, known)}",
        f"name one of: {', '.join(known)}",
    )


def _bench(config: BenchConfig, found: Found) -> Bench:
    packages = sorted({name for timer in _timers().values() for name in timer.packages} | {"numpy"})
    return Bench(
        tool_version=qtools.__version__,
        command=config.command,
        mode=found.mode,
        machine=found.machine,
        environment=environment.describe(packages),
        settings={key: value for key, value in vars(config.asked).items() if key != "tool"},
        artifacts=found.subjects,
        timings=found.timings,
        comparisons=found.comparisons,
        notes=found.notes,
        warnings=found.warnings,
    )


def _elsewhere(config: BenchConfig, device: Device, items: Sequence[Item], why: str) -> BenchResult:
    """Nothing runs here: rows that say so, and a folder to run where the device is."""
    fit = [item for item in items if _fits(device, item)]
    subjects = tuple(item.subject for item in items)
    found = Found(
        Machine(config.device, "none was reached", ""), _not_run(config, device, items, why), subjects=subjects
    )
    bench = _bench(config, found)
    if device.files is None or not fit:
        return BenchResult(bench, how=_others(items))
    folder = config.script_dir or Path("runs") / f"bench-{config.device}"
    ours = (folder / MARK).is_file()
    with claim(folder, replace=ours), files.whole_folder(folder, replace=ours) as work:
        for item in fit:
            _copy(item.path, work / "artifacts" / item.subject.name)
        for name, text in device.files(fit, config.asked).items():
            files.write_text(work / name, text)
        files.write_text(work / MARK, files.to_json({"device": config.device, "settings": bench.settings}))
    return BenchResult(bench, folder, device.how)


def _fits(device: Device, item: Item) -> bool:
    """Whether the device runs files of this kind; one that names no formats looks at each itself."""
    return not device.suffixes or item.path.suffix.lower() in device.suffixes


def _not_run(config: BenchConfig, device: Device, items: Sequence[Item], why: str) -> tuple[Timing, ...]:
    """Rows without numbers: for `why`, or because the device does not run such files."""
    return tuple(
        Timing(
            item.subject.name,
            threads,
            "not run",
            why if _fits(device, item) else f"{device.title} does not run {item.path.suffix}",
        )
        for item in items
        for threads in config.asked.threads
    )


def _others(items: Sequence[Item]) -> str:
    """Which devices run what this one does not."""
    suffixes = {item.path.suffix.lower() for item in items}
    fit = [name for name in plugins.names(DEVICES) if suffixes & find_device(name).suffixes]
    offers = " or ".join(f"--device {name}" for name in fit)
    return f"give {offers}: where the device is not here, that leaves a script for it" if fit else ""


def _copy(source: Path, place: Path) -> None:
    """An artifact, or every file of one that is a folder."""
    for path in sorted(source.rglob("*")) if source.is_dir() else (source,):
        if path.is_file():
            files.write_bytes(place / path.relative_to(source), files.regular(path).read_bytes())
