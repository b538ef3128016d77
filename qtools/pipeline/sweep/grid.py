"""The file of a sweep: which options every cell has, which vary, and the cells that come out of it.

YAML without the parts that surprise: no tags, no aliases (a page of them unfolds to gigabytes), no key twice.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    create_model,
)

from qtools.core import files
from qtools.core.errors import InputError, did_you_mean
from qtools.pipeline.config import DEFAULT_METHOD, Images, RunConfig
from reports.environment import portable

GRID_SCHEMA = 1
LONGEST = 1 << 20
"""Bytes of a file."""
WORD = 2000
"""Letters of one value: Python writes no whole number of more than 4,300 digits, and reads longer hexadecimal ones."""
MOST = 10_000
"""Cells of a grid."""
NAME = 96
"""Letters of a cell's name; file systems take 255, and the run's own files come on top."""
NEXT = "qtools sweep --schema prints what a grid may hold"
ALWAYS = ("model", "builder", "weights", "bits", "weight_bits", "act_bits", "target", "method")
"""Options that a cell's name says first, in this order."""
_OF_IMAGES = {field.name for field in fields(Images)}
_FROZEN = ConfigDict(frozen=True, extra="forbid")


class Cell(BaseModel):
    """Options of one `qtools quantize`, by the names that `qtools.quantize` has for them."""

    model_config = _FROZEN

    model: str = Field(default="", description="Name of a model, such as m1_1; or builder.")
    builder: str = Field(default="", description="package.module:function that returns an nn.Module; or model.")
    weights: str = Field(default="auto", description="auto, imagenet, reference, or a file.")
    target: str = Field(default="tflite", description="Name of a target, or all.")
    bits: StrictInt = Field(default=8, description="Width of weights and activations.")
    weight_bits: StrictInt | None = Field(default=None, description="Width of the weights, where it differs.")
    act_bits: StrictInt | None = Field(default=None, description="Width of the activations, where it differs.")
    method: str = Field(default=DEFAULT_METHOD, description="Calibration method.")
    data: str | None = Field(default=None, description="Images to calibrate on.")
    eval_data: str | None = Field(default=None, description="Images to evaluate on.")
    calibration: StrictInt | None = Field(default=None, description="Number of calibration images.")
    evaluation: StrictInt | None = Field(default=None, description="Number of evaluation images.")
    seed: StrictInt = Field(default=0, description="Seed of the choice of images.")
    io: str = Field(default="int8", description="int8, float32 or pixels.")
    labels: str | None = Field(default=None, description="File with the names of the classes.")
    int16: tuple[str, ...] = Field(default=(), description="Patterns of values to hold at 16 bits.")
    dynamic: tuple[str, ...] = Field(default=(), description="Patterns of layers on float activations.")
    clamp: StrictBool = Field(default=False, description="Whether narrow activations are cut where their grid ends.")
    strict_weights: StrictBool = Field(default=False, description="Whether every weight keeps to its narrow grid.")
    strict_activations: StrictBool = Field(
        default=False, description="Whether activations that no layer reads are narrow too."
    )
    max_drop: StrictInt | StrictFloat | None = Field(default=None, description="Points of the score that may be lost.")
    max_islands: StrictInt | None = Field(default=None, description="Most values to hold more precisely.")
    max_slower: StrictInt | StrictFloat | None = Field(
        default=None, description="Percent of the time to give for nearness."
    )
    size_budget: str | StrictFloat | None = Field(default=None, description="Largest artifact: 6MB, or 0.22 of float.")
    input_size: StrictInt | None = Field(default=None, description="Side in pixels, for a module that does not say.")
    target_options: dict[str, str] = Field(default={}, description="Choices that one target alone has.")

    @property
    def given(self) -> dict[str, Any]:
        """The options that were said, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @property
    def told(self) -> dict[str, Any]:
        """The options that differ from the defaults, by name."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {name: value for name, default in defaults.items() if (value := getattr(self, name)) != default}

    @property
    def shown(self) -> dict[str, Any]:
        """`told` as it may be printed: without the folders of this machine."""
        return {name: portable(value) if isinstance(value, str) else value for name, value in self.told.items()}

    def config(self, command: str = "") -> RunConfig:
        """What a run is asked for.

        Raises:
            InputError: If no run could have it.
        """
        if bool(self.model) == bool(self.builder):
            raise InputError("a cell needs model or builder, one of the two", NEXT)
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in _OF_IMAGES}
        images = Images(
            data=_path(self.data),
            eval_data=_path(self.eval_data),
            calibration=self.calibration,
            evaluation=self.evaluation,
            seed=self.seed,
        )
        return RunConfig(**own | {"labels": _path(self.labels), "images": images, "command": command})


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _axes() -> type[BaseModel]:
    """One list per option: its values, or several options that change together."""
    lists: dict[str, Any] = {}
    kinds = get_type_hints(Cell, include_extras=True)
    for name, field in Cell.model_fields.items():
        values = tuple[kinds[name] | Cell, ...]  # type: ignore[valid-type]
        lists[name] = (
            values,
            Field((), description=f"{field.description} In turn; an entry may set several options."),
        )
    return create_model("Axes", __config__=_FROZEN, __doc__="Options that vary: every combination is a cell.", **lists)


Axes = _axes()


class Grid(BaseModel):
    """A sweep: every combination of `axes` over `base`, less `exclude`, and `cells` over `base`."""

    model_config = _FROZEN

    base: Cell = Field(default=Cell(), description="Options of every cell.")
    axes: Axes = Field(default=Axes(), description="Options that vary.")  # type: ignore[valid-type]
    exclude: tuple[Cell, ...] = Field(
        default=(), description="Combinations that have all of an entry's options are left out."
    )
    cells: tuple[Cell, ...] = Field(default=(), description="Single cells more, or alone.")
    schema_version: StrictInt = Field(default=GRID_SCHEMA, description="Version of this schema.", ge=1, le=GRID_SCHEMA)


def read(path: Path) -> dict[str, Cell]:
    """The cells of a grid, by name.

    Raises:
        InputError: If the file cannot be read, is no grid, or holds a cell that no run could have.
    """
    try:
        data = files.read_bytes(path, LONGEST)
    except OSError as error:
        raise InputError(f"cannot read the grid {path}: {error.strerror}", NEXT) from error
    return named(parse(data, path.name), path.name)


def parse(data: bytes, name: str = "grid") -> Grid:
    """A grid from its YAML (or JSON, which is YAML too); `name` is what messages call it."""
    if len(data) > LONGEST:
        raise InputError(f"{name} is longer than {LONGEST:,} bytes", NEXT)
    try:
        held = _Plain(data).get_single_data()
        return _adapter().validate_python({} if held is None else held)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise _misfit(error, name) from error
        raise InputError(f"{name} cannot be read as YAML: {' '.join(str(error).split())}", NEXT) from error


def schema() -> dict[str, Any]:
    """JSON Schema of a grid."""
    return _adapter().json_schema()


def named(grid: Grid, source: str = "grid") -> dict[str, Cell]:
    """Every cell by its name; a name says what differs from the base, so that it outlives a change of the base.

    Raises:
        InputError: If a cell is there twice or can be no run, an exclusion fits none, or there are none or too many.
    """
    found = [*_cells(grid, source)]
    if not found:
        raise InputError(f"{source} has no cells", NEXT)
    short = [_name(cell, grid.base) for cell in found]
    count = Counter(short)
    names: dict[str, Cell] = {}
    for cell, name in zip(found, short, strict=True):
        if count[name] > 1 or len(name) > NAME:
            name = f"{name[:NAME]}-{files.digest_json(cell.told)[:8]}"
        if names.setdefault(name, cell) is not cell:
            raise InputError(f"{source}: the cell {name} is there twice", "leave one of them out")
        try:
            cell.config()
        except InputError as error:
            raise InputError(f"{source}, cell {name}: {error.what}", error.next_step) from error
    return names


def _cells(grid: Grid, source: str) -> Iterator[Cell]:
    axes = [
        [{name: value} if not isinstance(value, Cell) else value.given for value in getattr(grid.axes, name)]
        for name in sorted(grid.axes.model_fields_set, key=[*Cell.model_fields].index)  # type: ignore[attr-defined]
    ]
    count = math.prod(map(len, axes)) + len(grid.cells)
    if count > MOST:
        raise InputError(f"{source} has {count:,} cells; {MOST:,} are the most", "split it")
    base, idle = grid.base.given, {*range(len(grid.exclude))}
    for picks in itertools.product(*axes) if axes or not grid.cells else ():
        said = [name for pick in picks for name in pick]
        if twice := next((name for name in said if said.count(name) > 1), ""):
            raise InputError(f"{source}: two axes set '{twice}' at once", "let one of them say it")
        cell = Cell(**base | dict(itertools.chain.from_iterable(pick.items() for pick in picks)))
        out = {at for at, entry in enumerate(grid.exclude) if _fits(cell, entry.given)}
        idle -= out
        if not out:
            yield cell
    if idle:
        raise InputError(f"{source}: exclude.{min(idle)} leaves out no cell", "correct it or take it out")
    for entry in grid.cells:
        yield Cell(**base | entry.given)


def _fits(cell: Cell, wanted: Mapping[str, Any]) -> bool:
    return all(getattr(cell, name) == value for name, value in wanted.items())


def _name(cell: Cell, base: Cell) -> str:
    """Letters that are safe in every file system, in an order that does not depend on the grid."""
    width = f"w{cell.weight_bits or cell.bits}a{cell.act_bits or cell.bits}"
    weights = [Path(cell.weights).stem] if "weights" in cell.told else []
    words = [cell.model or cell.builder.partition(":")[0], *weights, width, cell.target, cell.method]
    for name, value in sorted(cell.shown.items()):
        if name not in ALWAYS and getattr(cell, name) != getattr(base, name):
            items = value.items() if isinstance(value, dict) else [(name, value)]
            words += [f"{key}={item if not isinstance(item, tuple) else '+'.join(item)}" for key, item in items]
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(words)).lstrip("._-")


def _misfit(error: ValidationError, name: str) -> InputError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] != "extra_forbidden":
        return InputError(f"{name} is no grid: {where}: {first['msg']}", NEXT)
    known = Grid.model_fields if len(first["loc"]) == 1 else Cell.model_fields
    return InputError(f"{name}: '{where}' is unknown.{did_you_mean(str(first['loc'][-1]), known)}", NEXT)


class _Plain(yaml.SafeLoader):
    """Maps, lists and scalars."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As above, no alias, and no number that Python would refuse to write down again."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read: write the value out")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and len(node.value) > WORD:
            raise yaml.YAMLError(f"a word is longer than {WORD:,} letters, near line {node.start_mark.line + 1}")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As above, and no key twice: YAML lets the last one win."""
        found = super().construct_mapping(node, deep)
        if len(found) != len(node.value):
            raise yaml.YAMLError(f"a key is there twice, or is merged in, near line {node.start_mark.line + 1}")
        return found


@cache
def _adapter() -> TypeAdapter[Grid]:
    return TypeAdapter(Grid)
