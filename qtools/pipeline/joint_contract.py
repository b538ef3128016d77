"""What an app has to know of two artifacts that work one behind the other.

Their tensors, how those of the one go into the other, what a prompt is, and what becomes of a mask. How a picture is
prepared stands in the contract of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtools.core.inspection import End
from qtools.pipeline import inspect
from qtools.pipeline.halves import DECODER, EMBEDDING, ENCODER, LABELS, MASKS, POINTS, SCORES, Halves
from qtools.pipeline.leg import Leg
from qtools.reference import prompts

JOINT_SCHEMA = 1
KINDS = {
    int(prompts.NOTHING): "nothing: the place of a point that is not needed",
    int(prompts.BACKGROUND): "a click on what is not meant",
    int(prompts.FOREGROUND): "a click on what is meant",
    int(prompts.TOP_LEFT): "the top left corner of a box",
    int(prompts.BOTTOM_RIGHT): "the bottom right corner of a box",
}
HOW = (
    "to floats by the one's scale and zero point, (code - zero_point) * scale, where it holds codes; from floats to "
    "codes by the other's, round(x / scale) + zero_point, where that does; both have the same order of dimensions"
)


@dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: As the file has it.
        shape: Whole, batch included.
        dtype: Type of an element.
        scale: Real number of a step; None for floats.
        zero_point: Code of the number 0; None for floats.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Program:
    """One of the two files.

    Attributes:
        folder: Where it lies, with its own report, below the contract.
        file: Its name there.
        sha256: Its digest.
        inputs: What goes in.
        outputs: What comes out.
    """

    folder: str
    file: str
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Join:
    """A tensor of the first program that goes into the second.

    Attributes:
        source: Output of the encoder.
        target: Input of the decoder.
        how: What to do in between.
    """

    source: str
    target: str
    how: str = HOW


@dataclass(frozen=True)
class Prompts:
    """What is asked.

    Attributes:
        points: Name of the decoder's input for places: x before y, in units of the frame.
        labels: Name of its input for what each place is.
        count: Points of every call.
        frame: Side of the prepared picture in these units, whatever its side in pixels.
        kinds: Label -> what it says of its point.
    """

    points: str
    labels: str
    count: int
    frame: int
    kinds: Mapping[int, str]


@dataclass(frozen=True)
class Masks:
    """What comes back.

    Attributes:
        masks: Name of the output with the masks; above `threshold` a pixel belongs to one.
        scores: Name of the output with the overlap that each mask states of itself; show the one with the largest.
        threshold: Of the numbers once they are enlarged.
        enlarge: How they come to the size of the prepared picture.
    """

    masks: str
    scores: str
    threshold: float = 0.0
    enlarge: str = "bilinear, pixels as areas (half-pixel centres), edges repeated; before the threshold"


@dataclass(frozen=True)
class JointContract:
    """The whole of it.

    Attributes:
        model: Name of the network.
        encoder: Runs once for a picture; its own contract.json says how the picture is prepared.
        decoder: Runs once for a set of prompts.
        joins: What passes from the one to the other.
        prompts: What goes into the decoder beside that.
        masks: What it gives.
        schema_version: JOINT_SCHEMA.
    """

    model: str
    encoder: Program
    decoder: Program
    joins: tuple[Join, ...]
    prompts: Prompts
    masks: Masks
    schema_version: int = JOINT_SCHEMA


def of_legs(halves: Halves, legs: Sequence[Leg]) -> JointContract:
    """The contract of two artifacts of one target, as their files say."""
    encoder, decoder = (program_of(name, leg) for name, leg in zip((ENCODER, DECODER), legs, strict=True))
    return JointContract(
        halves.encoder.spec.name.removesuffix(f"_{ENCODER}"),
        encoder,
        decoder,
        (Join(encoder.outputs[0].name, EMBEDDING),),
        Prompts(POINTS, LABELS, halves.takes.shapes[1][1], halves.frame, KINDS),
        Masks(MASKS, SCORES),
    )


def program_of(name: str, leg: Leg) -> Program:
    """A leg's file as it lies below a contract for several, in the folder of that name."""
    found = inspect.run(leg.path).inspection
    folder = name if leg.folder.name == name else f"{name}/{leg.folder.name}"
    sides = (tuple(map(_tensor, ends)) for ends in (found.inputs, found.outputs))
    return Program(folder, leg.path.name, leg.artifact.sha256, *sides)


def _tensor(end: End) -> Tensor:
    grid = (None, None) if end.grid is None else (end.grid.scales[0], end.grid.zero_points[0])
    return Tensor(end.name, tuple(end.shape), end.dtype, *grid)
