"""A float artifact as it is kept, for a run's audits and for later runs: without the weights, which both have anyway.

An audit compares with it, and converting again takes the converter's whole import and ten seconds more. What is kept
is the artifact with every large constant cut out: each is found by its bytes, in the layouts that converters use, and
named by its value id. Filled in again it is the same file bit for bit, whatever its format.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Lowered, Target

FACTS, REST = "float.json", "float.z"
FLOAT_SCHEMA = 2
LEAST = 256
"""Bytes of a constant below which cutting it out costs more than it saves."""
LAYOUTS: Mapping[int, tuple[tuple[int, ...], ...]] = {
    2: ((0, 1), (1, 0)),
    4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0), (2, 3, 1, 0)),
}
"""Rank -> orders of the axes that converters write weights in, the program's own first."""
Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Hole:
    """Where a constant was cut out: first byte, value id, order of its axes."""

    at: int
    value: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Member:
    """A file of the artifact, by its path inside it ("" where the artifact is one file), and what was cut out."""

    path: str
    size: int
    holes: tuple[Hole, ...]


@dataclass(frozen=True)
class Facts:
    """Everything of a `Lowered` but its bytes; pairs, as the order of values is part of it."""

    name: str
    members: tuple[Member, ...]
    binding: tuple[tuple[str, Mapping[str, Any]], ...]
    unbound: tuple[tuple[str, str], ...]
    max_error: float
    sha256: str
    schema_version: int = FLOAT_SCHEMA

    def __post_init__(self) -> None:
        if self.schema_version != FLOAT_SCHEMA:
            raise ValueError(f"schema {self.schema_version} of {FACTS} is not one of 1 to {FLOAT_SCHEMA}")


def write(folder: Path, lowered: Lowered, constants: Constants) -> None:
    """Stores a float artifact in a folder.

    Args:
        folder: Where FACTS and REST go.
        lowered: The artifact, still in its place.
        constants: Value id -> what it was converted with; kept by the caller.
    """
    left = zlib.compressobj(6)
    members, rest = [], bytearray()
    for path in _files(lowered.path):
        data = files.regular(path).read_bytes()
        holes = _holes(data, constants)
        members.append(Member(_inside(path, lowered.path), len(data), tuple(hole for hole, _ in holes)))
        first = 0
        for hole, size in holes:
            rest += left.compress(data[first : hole.at])
            first = hole.at + size
        rest += left.compress(data[first:])
    rest += left.flush()
    binding = tuple((name, {**vars(bound)}) for name, bound in lowered.binding.items())
    unbound = tuple(lowered.unbound.items())
    facts = lowered.path.name, tuple(members), binding, unbound, lowered.max_error, lowered.sha256
    files.write_bytes(folder / REST, bytes(rest))
    files.write_text(folder / FACTS, files.to_json(Facts(*facts)))


def read(folder: Path, constants: Constants, target: Target, work: Path) -> Lowered | None:
    """Puts the float artifact together again; None where the folder keeps none.

    Args:
        folder: What `write` was given.
        constants: The same.
        target: What the artifact is for.
        work: Where it goes.

    Raises:
        InputError: If a file is damaged, or the constants are others.
    """
    if target.bound is None or not (folder / FACTS).is_file():
        return None
    try:
        entries = json.loads(files.read_text(folder / FACTS))
        facts = TypeAdapter(Facts).validate_python(_of_today(entries))
        rest = _unpacked(files.read_bytes(folder / REST), sum(member.size for member in facts.members))
        path = _filled(facts, rest, constants, work)
        binding = {name: target.bound(entry) for name, entry in facts.binding}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError, zlib.error) as error:
        raise _damaged(folder, str(error).splitlines()[0]) from error
    if files.digest(path) != facts.sha256:
        raise _damaged(folder, "the float artifact is not the one that was converted")
    return Lowered(target.spec.name, path, binding, dict(facts.unbound), facts.max_error, facts.sha256)


def _of_today(entries: Any) -> Any:
    """Version 1 had maps for the pairs."""
    if not isinstance(entries, Mapping) or entries.get("schema_version") != 1:
        return entries
    pairs = {name: tuple(entries[name].items()) for name in ("binding", "unbound")}
    return {**entries, **pairs, "schema_version": FLOAT_SCHEMA}


def _unpacked(data: bytes, most: int) -> bytes:
    """What a file decompresses to, and no more than the artifact can have of it."""
    opened = zlib.decompressobj()
    rest = opened.decompress(data, most + 1)
    if len(rest) > most or not opened.eof:
        raise ValueError(f"{REST} holds another number of bytes than {FACTS} says")
    return rest


def _damaged(folder: Path, why: str) -> InputError:
    return InputError(f"{folder} cannot be read: {why}", "run qtools quantize again")


def _files(artifact: Path) -> list[Path]:
    return sorted(path for path in artifact.rglob("*") if path.is_file()) if artifact.is_dir() else [artifact]


def _inside(path: Path, artifact: Path) -> str:
    return "" if path == artifact else path.relative_to(artifact).as_posix()


def _holes(data: bytes, constants: Constants) -> list[tuple[Hole, int]]:
    """Every place of every constant, in order and apart, each with its length."""
    found: list[tuple[Hole, int]] = []
    for name, tensor in constants.items():
        array = tensor.numpy()
        if array.nbytes < LEAST:
            continue
        for axes, image in _layouts(array):
            places = [*_places(data, image)]
            found += [(Hole(at, name, axes), len(image)) for at in places]
            if places:
                break
    found.sort(key=lambda pair: (pair[0].at, -pair[1]))
    apart, end = [], 0
    for hole, size in found:  # equal constants lie in the same places
        if hole.at >= end:
            apart.append((hole, size))
            end = hole.at + size
    return apart


def _layouts(array: NDArray[Any]) -> Iterator[tuple[tuple[int, ...], bytes]]:
    for axes in LAYOUTS.get(array.ndim, (tuple(range(array.ndim)),)):
        yield axes, array.transpose(axes).tobytes()


def _places(data: bytes, image: bytes) -> Iterator[int]:
    at = data.find(image)
    while at >= 0:
        yield at
        at = data.find(image, at + len(image))


def _filled(facts: Facts, rest: bytes, constants: Constants, work: Path) -> Path:
    """The artifact, written member by member."""
    artifact, first = work / facts.name, 0
    for member in facts.members:
        if not (artifact / member.path).resolve().is_relative_to(work.resolve()) or Path(facts.name).is_absolute():
            raise ValueError(f"{facts.name}/{member.path} lies outside the artifact")
        data, pieces = 0, []
        for hole in (*member.holes, None):
            end = member.size if hole is None else hole.at
            pieces.append(rest[first : first + end - data])
            first, data = first + end - data, end
            if hole is not None:
                pieces.append(constants[hole.value].numpy().transpose(hole.axes).tobytes())
                data += len(pieces[-1])
        files.write_bytes(artifact / member.path if member.path else artifact, b"".join(pieces))
    return artifact
