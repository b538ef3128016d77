"""What can be said about an artifact of any origin: the values that every exporter reads a file into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

Arithmetic = Literal["integer", "QDQ", "float", "dynamic", "Q/DQ", "unpack", "index"]
"""integer: on codes. QDQ: written as float between Q and DQ. dynamic: float ends, integer weights. Q/DQ: quantizes or
dequantizes an activation. unpack: makes weights from what is stored. index: shapes and positions."""


@dataclass(frozen=True)
class Grid:
    """Quantization of an input or output: one scale, or one per channel of `axis`."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor that an artifact names.

    Attributes:
        dtype: Element type as stored.
        shape: As the file has it; empty where it does not say.
        codes: What is stored, narrow types one element per byte; None for an activation.
        grid: How its codes are meant, where the file ties that to the tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    codes: NDArray[Any] | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class End:
    """An input or output; a dimension that is not fixed is a text."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    grid: Grid | None = None


@dataclass(frozen=True)
class ArtifactOp:
    """One operation, without what it reads of the file's constants.

    Attributes:
        kind: Its type in the format's own words: CONV_2D, Conv, conv.
        reads: Activations it reads, by name.
        writes: Activations it makes, by name.
        source: Element type of the first activation it reads.
        weight: Element type of its weight as stored; empty without one.
        result: Element type of the first activation it makes.
        arithmetic: What it computes in.
        runs: Where the runtime of this machine runs it; empty where that is not known.
        dequantized: Whether that kernel reads what was dequantized for it, and so computes in float.
    """

    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    source: str
    weight: str
    result: str
    arithmetic: Arithmetic
    runs: str = ""
    dequantized: bool = False


@dataclass(frozen=True)
class Stored:
    """Constants of one element type.

    Attributes:
        purpose: "parameters", or "grids" for scales and zero points that the format keeps as tensors.
        dtype: Element type.
        tensors: How many.
        elements: Numbers in all of them.
        size_bytes: Bytes they take in the file.
    """

    purpose: Literal["parameters", "grids"]
    dtype: str
    tensors: int
    elements: int
    size_bytes: int


@dataclass(frozen=True)
class Placement:
    """What this machine's runtime made of the graph.

    Attributes:
        runtime: Its name and version.
        note: Why there is nothing below, or what to know about it.
        partitions: Operation -> how many, for each part that a delegate took over.
        left: Operation -> how many no delegate took.
        kernels: Kernel -> how often it runs, after all rewriting.
        unknown: Operations that the runtime does not have, in its own words; empty where it opened the file.
    """

    runtime: str
    note: str = ""
    partitions: tuple[Mapping[str, int], ...] = ()
    left: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[str, int] = field(default_factory=dict)
    unknown: str = ""


@dataclass(frozen=True)
class Picture:
    """What the format's own metadata say about the picture that goes in, and about what comes out.

    Attributes:
        mean: On the scale 0 to 255, subtracted from each channel, one number or three; () where nothing says it.
        std: On the same scale, the divisor.
        labels: Names of the classes in the order of the output; () where there are none.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """An artifact as its exporter reads it.

    Attributes:
        file: Its name, without the folder.
        format: The format and its version.
        size_bytes: Size of the file, or of every file in the package.
        producer: What made it, as far as the file says.
        inputs: In order.
        outputs: In order.
        ops: In the order of the file, inner graphs included.
        stored: Constants by element type.
        placement: Where the operations run.
        pairs: Whether the format writes integer arithmetic as float operations between Q and DQ.
        metadata: What qtools wrote into it; None in a file of another origin.
        foreign: Other metadata: name -> bytes.
        picture: What the format's own metadata say about the picture; None where the file has none of these.
    """

    file: str
    format: str
    size_bytes: int
    producer: str
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    ops: tuple[ArtifactOp, ...]
    stored: tuple[Stored, ...]
    placement: Placement
    pairs: bool = False
    metadata: Mapping[str, Any] | None = None
    foreign: Mapping[str, int] = field(default_factory=dict)
    picture: Picture | None = None


def stored(rows: list[tuple[Literal["parameters", "grids"], str, int, int]]) -> tuple[Stored, ...]:
    """Constants added up by purpose and element type, the largest first.

    Args:
        rows: (purpose, element type, elements, bytes) of each constant.
    """
    sums: dict[tuple[Literal["parameters", "grids"], str], list[int]] = {}
    for purpose, dtype, elements, size in rows:
        total = sums.setdefault((purpose, dtype), [0, 0, 0])
        for position, amount in enumerate((1, elements, size)):
            total[position] += amount
    found = [Stored(purpose, dtype, *total) for (purpose, dtype), total in sums.items()]
    return tuple(sorted(found, key=lambda row: (row.purpose != "parameters", -row.size_bytes, row.dtype)))
