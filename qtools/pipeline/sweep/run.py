"""A sweep from its file to its table: what is finished is kept, what failed is a row, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtools import __version__
from qtools.core import files, plugins, stop
from qtools.core.claim import claim
from qtools.core.errors import InputError, QtoolsError
from qtools.pipeline.progress import Listener
from qtools.pipeline.sweep import here
from qtools.pipeline.sweep.cell import FILE as CELL_FILE
from qtools.pipeline.sweep.cell import Inputs, Work, finished, rows
from qtools.pipeline.sweep.cluster import Cluster
from qtools.pipeline.sweep.cluster import run as run_on_cluster
from qtools.pipeline.sweep.grid import Cell, read
from qtools.pipeline.sweep.here import Ended
from qtools.pipeline.sweep.pace import Pace
from reports.environment import portable_command
from reports.sweep import SWEEP_FILE, Row, Sweep

FILE = "sweep.json"
FORMS = {"markdown": "sweep.md", "html": "sweep.html"}


@dataclass(frozen=True)
class SweepConfig:
    """One sweep.

    Attributes:
        grid: The file that lists the cells.
        out: Its folder; None makes runs/sweep-<name of the file>.
        cluster: Where cells run; None: here, one after the other.
        cache: Whether results of other runs are used, and kept for later ones.
    """

    grid: Path
    out: Path | None = None
    cluster: Cluster | None = None
    cache: bool = True

    @property
    def folder(self) -> Path:
        """Where cells and tables go."""
        return self.out or Path("runs") / f"sweep-{self.grid.stem}"

    def command(self, *, asked: bool) -> str:
        """The command line that asks for this, as the tables show it; `asked`: whether a cluster made any cell."""
        words = ["qtools", "sweep", str(self.grid)]
        words += ["--out", str(self.out)] if self.out else []
        words += ["--no-cache"] if not self.cache else []
        words += self.cluster.words if self.cluster and asked else ()
        return portable_command(words)


@dataclass(frozen=True)
class Planned:
    """A cell, and whether it is there already."""

    work: Work
    done: bool


def plan(config: SweepConfig) -> tuple[Planned, ...]:
    """Every cell, in the order of the grid.

    Raises:
        InputError: If the grid cannot be used.
    """
    inputs = Inputs()
    found = []
    for name, cell in read(config.grid).items():
        key = inputs.key(cell)
        found.append(Planned(Work(name, cell, key, config.cache), finished(config.folder / name, key)))
    return tuple(found)


def run(config: SweepConfig, listener: Listener) -> Sweep:
    """Makes every cell that is not finished, and the tables of them all.

    Raises:
        InputError: If the grid cannot be used, the folder cannot be written, or another sweep writes there.
        MissingPlatform: If there is no cluster where one was asked for.
    """
    with claim(config.folder):
        return _run(config, listener)


def _run(config: SweepConfig, listener: Listener) -> Sweep:
    listener.stage("read what is there")
    planned = plan(config)
    left = [each.work for each in planned if not each.done]
    listener.stage(f"{len(planned)} cells, {len(planned) - len(left)} of them finished before")
    pace, errors = Pace(len(left)), dict[str, str]()

    def kept() -> str:
        there = len(planned) - len(left) + pace.done - len(errors)
        return f"{there} of {len(planned)} cells are finished and stay; the same command makes the others"

    with stop.leaving(kept):
        for ended in _ended(left, config, listener):
            pace.add(ended.seconds)
            if ended.error:
                errors[ended.name] = ended.error
                listener.warn(f"{ended.name}: {ended.error}")
            listener.stage(f"{pace.done} of {len(left)}: {ended.name}{' failed' * bool(ended.error)}; {pace.left}")
            listener("cells", pace.done, len(left))
    found = [row for each in planned for row in _rows(each.work, config.folder, errors)]
    cells = {each.work.name: each.work.cell for each in planned}
    sweep = Sweep(
        __version__,
        config.command(asked=bool(left)),
        files.digest_json({name: cell.shown for name, cell in cells.items()}),
        tuple(found),
        max(_at_once(config.cluster, pace), _at_once_before(config.folder / FILE)),
        tuple(_notes(config.folder, cells)),
    )
    _write(sweep, config.folder)
    return sweep


def _ended(left: Sequence[Work], config: SweepConfig, listener: Listener) -> Iterator[Ended]:
    if not left:
        return iter(())
    if config.cluster is None:
        return here.run(left, config.folder, listener)
    return run_on_cluster(left, config.folder, config.cluster, listener)


def _rows(work: Work, folder: Path, errors: Mapping[str, str]) -> Iterator[Row]:
    if error := errors.get(work.name):
        yield Row(work.name, work.cell.shown, "error", error)
        return
    try:
        yield from rows(work.name, work.cell, folder / work.name)
    except QtoolsError as error:  # somebody took it away meanwhile
        yield Row(work.name, work.cell.shown, "error", str(error).replace("\n", ";"))


def _at_once(cluster: Cluster | None, pace: Pace) -> int:
    return 1 if cluster is None else max(1, round(pace.at_once))


def _at_once_before(path: Path) -> int:
    """What the table of an earlier call says: its cells, and their latencies, are in this one too."""
    try:
        return SWEEP_FILE.parse(files.read_text(path), path.name).side_by_side
    except (OSError, UnicodeDecodeError, InputError):  # the first call, or one that was not seen to its end
        return 1


def _notes(folder: Path, cells: Mapping[str, Cell]) -> Iterator[str]:
    others = sorted(path.parent.name for path in folder.glob(f"*/{CELL_FILE}") if path.parent.name not in cells)
    if others:
        shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        yield f"{len(others)} folders are of cells that the grid has no more, and were left alone: {shown}"


def _write(sweep: Sweep, folder: Path) -> None:
    files.write_text(folder / FILE, SWEEP_FILE.text(sweep))
    for form, name in FORMS.items():
        files.write_text(folder / name, plugins.find("reports.render", "sweep", "FORMS")[form](sweep))
