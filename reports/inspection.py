"""An inspected artifact in the reader's terms: which operations are integer, and where the float islands are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from qtools.core import files
from qtools.core.inspection import Arithmetic, ArtifactOp, Inspection

SCHEMA = 1
FOLLOWERS = frozenset({"relu", "relu6", "clip", "leakyrelu", "leaky_relu"})
"""Activations, in lower case, that every integer kernel of a QDQ runtime takes into the operation before them."""
ON_CODES = ("integer", "QDQ")
IN_FLOAT = ("float", "dynamic")


@dataclass(frozen=True)
class OpRow:
    """Alike operations, counted.

    Attributes:
        kind: Their type.
        count: How many.
        source: Element type of the activations they read.
        weight: Element type of their weights as stored.
        result: Element type of what they make.
        arithmetic: What the file has them compute in.
        runs: Where the runtime runs them.
        fallback: True where the file says integer and the runtime computes in float.
    """

    kind: str
    count: int
    source: str
    weight: str
    result: str
    arithmetic: Arithmetic
    runs: str
    fallback: bool


@dataclass(frozen=True)
class Border:
    """A conversion at the edge of an island: its operation, and the tensor on the island's side."""

    kind: str
    tensor: str


@dataclass(frozen=True)
class Island:
    """A maximal connected run of float operations inside an integer graph.

    Attributes:
        ops: Type -> how many, in the order of their first.
        entered: The conversions whose results it reads.
        left: The conversions that read its results.
        from_inputs: Inputs of the graph it reads without a conversion.
        to_outputs: Results it gives to nobody, which are outputs of the graph.
    """

    ops: Mapping[str, int]
    entered: tuple[Border, ...]
    left: tuple[Border, ...]
    from_inputs: tuple[str, ...]
    to_outputs: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """An inspection, and what follows from it.

    Attributes:
        inspection: The file's own facts; operations with their arithmetic settled.
        table: Alike operations, counted.
        arithmetic: Operations per arithmetic.
        islands: Float inside an integer graph; empty where no operation is integer.
    """

    inspection: Inspection
    table: tuple[OpRow, ...]
    arithmetic: Mapping[str, int]
    islands: tuple[Island, ...]


def describe(inspection: Inspection) -> Description:
    """Everything that follows from an inspection."""
    ops = settle(inspection.ops) if inspection.pairs else inspection.ops
    counts = Counter(op.arithmetic for op in ops)
    return Description(replace(inspection, ops=ops), table(ops), dict(sorted(counts.items())), islands(ops))


def to_json(description: Description) -> str:
    """One object: the file's facts with the table and the islands beside them; single operations are left out."""
    inspection = description.inspection
    facts: dict[str, Any] = {f.name: getattr(inspection, f.name) for f in fields(inspection) if f.name != "ops"}
    facts |= {f.name: getattr(description, f.name) for f in fields(description) if f.name != "inspection"}
    facts["ops"] = facts.pop("table")
    return files.to_json({"schema": SCHEMA, **facts})


def table(ops: Iterable[ArtifactOp]) -> tuple[OpRow, ...]:
    """Alike operations counted, in the order of their first."""
    rows = (OpRow(op.kind, 0, op.source, op.weight, op.result, op.arithmetic, op.runs, _falls_back(op)) for op in ops)
    return tuple(replace(row, count=count) for row, count in Counter(rows).items())


def _falls_back(op: ArtifactOp) -> bool:
    return op.arithmetic == "QDQ" and op.dequantized


def settle(ops: Sequence[ArtifactOp]) -> tuple[ArtifactOp, ...]:
    """Operations of a QDQ format with "QDQ" where a float one, alone or with its activation, stands between DQ and Q.

    Such an operation gets the element types of the codes around it. Whether a runtime then computes it on codes is
    the runtime's choice, and said in its `runs`.
    """
    makers, readers = _makers(ops), _readers(ops)
    settled = list(ops)
    for group in _runs(ops, makers):
        codes = _codes_around(group, ops, makers, readers)
        if codes is not None:
            for index in group:
                settled[index] = replace(ops[index], source=codes[0], result=codes[1], arithmetic="QDQ")
    return tuple(settled)


def _codes_around(
    group: Sequence[int], ops: Sequence[ArtifactOp], makers: Mapping[str, int], readers: Mapping[str, list[int]]
) -> tuple[str, str] | None:
    """Element types of the codes before and behind a run of float operations, or None where it is an island."""
    if len(group) > 2 or any(ops[i].kind.lower() not in FOLLOWERS for i in group[1:]):
        return None
    read = {name for i in group for name in ops[i].reads}
    made = {name for i in group for name in ops[i].writes}
    if (read | made) - made - set(makers) or made - set(readers):
        return None  # the graph's own float ends
    before = [ops[makers[name]] for name in sorted(read - made)]
    before = [op for op in before if op.arithmetic != "index"]
    behind = [ops[i] for name in sorted(made) for i in readers[name] if i not in group]
    if not before or not behind or not all(map(_converts, [*before, *behind])):
        return None
    return before[0].source, behind[0].result


def islands(ops: Sequence[ArtifactOp]) -> tuple[Island, ...]:
    """Maximal runs of float operations, each connected by tensors that one of them makes and another reads.

    Args:
        ops: Settled operations of a graph, in its order.
    """
    if not any(op.arithmetic in ON_CODES for op in ops):
        return ()
    makers, readers = _makers(ops), _readers(ops)
    found = []
    for group in _runs(ops, makers):
        members = [ops[i] for i in group]
        kinds = Counter(op.kind for op in members)
        read = dict.fromkeys(n for op in members for n in op.reads)
        made = [n for op in members for n in op.writes]
        entered = [Border(ops[makers[n]].kind, n) for n in read if n in makers and _converts(ops[makers[n]])]
        left = [Border(ops[i].kind, n) for n in made for i in readers.get(n, ()) if _converts(ops[i])]
        inputs = tuple(n for n in read if n not in makers)
        outputs = tuple(n for n in made if n not in readers)
        found.append(Island(dict(kinds), tuple(entered), tuple(left), inputs, outputs))
    return tuple(found)


def _converts(op: ArtifactOp) -> bool:
    return op.arithmetic == "Q/DQ"


def _makers(ops: Sequence[ArtifactOp]) -> dict[str, int]:
    return {name: index for index, op in enumerate(ops) for name in op.writes}


def _readers(ops: Sequence[ArtifactOp]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, op in enumerate(ops):
        for name in dict.fromkeys(op.reads):
            found.setdefault(name, []).append(index)
    return found


def _runs(ops: Sequence[ArtifactOp], makers: Mapping[str, int]) -> list[list[int]]:
    """Positions of float operations, grouped into connected runs, in the order of the graph."""
    parent = {i: i for i, op in enumerate(ops) if op.arithmetic in IN_FLOAT}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index in parent:
        for name in ops[index].reads:
            maker = makers.get(name, -1)
            if maker in parent:
                low, high = sorted((root(maker), root(index)))
                parent[high] = low
    groups: dict[int, list[int]] = {}
    for index in parent:
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())
