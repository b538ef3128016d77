"""One cell of a sweep: what it is made from, its run, its seal, and the rows that its reports come to.

A cell's folder is a run folder with one file more, which says what was asked for and the digest of everything that
the run was made from. The folder appears whole, SHA256SUMS last; it is taken for finished only where that list holds
and the digest is today's, so that a changed image, weight, option or program makes the cell again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calibration.data import open_folder
from qtools.core import files
from qtools.core.errors import InputError, QtoolsError
from qtools.models import importable_here
from qtools.pipeline import reuse, seal
from qtools.pipeline.config import ALL, ALL_TARGETS, RunConfig
from qtools.pipeline.progress import Listener
from qtools.pipeline.report import FILE as REPORT
from qtools.pipeline.sweep.grid import Cell
from reports.build import read_report
from reports.environment import portable_command
from reports.sweep import Row, row_of

FILE = "cell.json"
CELL_SCHEMA = 1
_INSIDE = "run"
_SPELLED = {"eval_data": "eval"}
"""Options that the command line calls otherwise."""


@dataclass(frozen=True)
class Work:
    """A cell that is to be made.

    Attributes:
        name: Of the cell, and of its folder.
        cell: Its options.
        key: Digest of everything that it is made from, see `Inputs`.
        cache: Whether results of other runs are used and kept.
    """

    name: str
    cell: Cell
    key: str
    cache: bool = True


class Inputs:
    """Digests of what cells are made from; a file that many cells share is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def key(self, cell: Cell) -> str:
        """Digest of a cell's options, of this program and the SDKs, and of every file that the options name.

        Of a builder that is the file of its module: what that imports is not followed. Published weights stand for
        themselves by their name.
        """
        named = {"weights": cell.weights, "labels": cell.labels or "", "builder": cell.builder.partition(":")[0]}
        named |= {"data": cell.data or "", "eval_data": cell.eval_data or ""}
        found = {option: self._digest(option, name) for option, name in named.items() if name}
        return files.digest_json({"options": cell.shown, "inputs": found, "code": reuse.code()})

    def _digest(self, option: str, name: str) -> str:
        known = self._known.get((option, name))
        if known is None:
            known = self._known[option, name] = _digest(option, name)
        return known


def _digest(option: str, name: str) -> str:
    """sha256 of a file, of a module's file, or of all images; words where there is none, and the run will say why."""
    try:
        if option.endswith("data"):
            return open_folder(name).digest
        path = _module(name) if option == "builder" else Path(name)
        return files.digest_file(path) if path is not None and path.is_file() else f"{name} is no file"
    except (OSError, InputError) as error:
        return f"{name}: {error}"


def _module(name: str) -> Path | None:
    """File of a module; no package around it is imported, so that a list of cells runs nothing that a grid names."""
    top, *below = name.split(".")
    with importable_here():
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            return None
    if spec is None or not below:
        return Path(spec.origin) if spec and spec.origin else None
    places = [Path(place, *below) for place in spec.submodule_search_locations or ()]
    files_of = (file for place in places for file in (place / "__init__.py", place.with_suffix(".py")))
    return next(filter(Path.is_file, files_of), None)


def finished(folder: Path, key: str) -> bool:
    """Whether a folder holds this very cell, every byte as it was sealed."""
    try:
        said = json.loads(files.read_text(folder / FILE))
        return isinstance(said, dict) and said.get("key") == key and seal.check(folder).status == "passed"
    except (OSError, ValueError, RecursionError, QtoolsError):
        return False


def make(work: Work, folder: Path, listener: Listener) -> None:
    """Runs a cell. Its folder appears when everything in it is complete, or not at all; an older one goes then.

    Raises:
        qtools.core.errors.QtoolsError: As a run does.
    """
    from qtools.pipeline import quantize

    config = dataclasses.replace(work.cell.config(command(work.cell)), cache=work.cache)
    with files.whole_folder(folder, replace=True) as place:
        inside = dataclasses.replace(config, out=place / _INSIDE)
        (quantize.run_all if _for_all(config) else quantize.run)(inside, listener)
        for member in (place / _INSIDE).iterdir():
            member.rename(place / member.name)
        (place / _INSIDE).rmdir()
        said = {"schema_version": CELL_SCHEMA, "name": work.name, "options": work.cell.shown, "key": work.key}
        files.write_text(place / FILE, files.to_json(said))
        seal.sums(place)


def rows(name: str, cell: Cell, folder: Path) -> Iterator[Row]:
    """What the reports of a finished cell say, one row per target."""
    parts = ALL_TARGETS if _for_all(cell.config()) else ("",)
    for part in parts:
        report = read_report(folder / part / REPORT)
        yield row_of(report, cell="/".join(filter(None, (name, part))), options=cell.shown)


def command(cell: Cell) -> str:
    """The command line that makes the same run."""
    words = ["qtools", "quantize", *([cell.model] if cell.model else [])]
    for name, value in cell.told.items():
        option = "--" + _SPELLED.get(name, name).replace("_", "-")
        if name != "model":
            words += _words(option, value)
    return portable_command(words)


def _words(option: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):  # only onnx has such options today, and they are spelled like this
        for name, choice in value.items():
            yield from (f"--onnx-{name}", str(choice))
    elif isinstance(value, tuple):
        for each in value:
            yield from (option, str(each))
    elif value is True:
        yield option
    else:
        yield from (option, str(value))


def _for_all(config: RunConfig) -> bool:
    return config.target == ALL
