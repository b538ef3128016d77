"""What an app has to know of the artifacts of a cascade: their tensors, what passes on, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qtools.core.exits import Exits
from qtools.pipeline.joint_contract import Join, Program, program_of
from qtools.pipeline.leg import Leg
from qtools.pipeline.pieces import Piece

CASCADE_SCHEMA = 1
RULE = (
    "run the pieces in their order; after each, the softmax over its exit's logits: if the largest probability is "
    "above the piece's threshold, the class it belongs to is the answer and the rest does not run; the last piece "
    "always answers"
)


@dataclass(frozen=True)
class CascadeContract:
    """The whole of it.

    Attributes:
        model: Name of the network.
        pieces: In the order in which they run; how a picture is prepared stands in the contract.json of the first.
        joins: What passes from each piece to the next.
        logits: Name of each piece's output that holds the logits of its exit.
        exits: Thresholds and costs.
        rule: When to stop.
        schema_version: CASCADE_SCHEMA.
    """

    model: str
    pieces: tuple[Program, ...]
    joins: tuple[Join, ...]
    logits: tuple[str, ...]
    exits: Exits
    rule: str = RULE
    schema_version: int = CASCADE_SCHEMA


def of_legs(model: str, pieces: Sequence[Piece], exits: Exits, legs: Sequence[Leg]) -> CascadeContract:
    """The contract of the artifacts of one target, as their files say."""
    programs = tuple(program_of(piece.name, leg) for piece, leg in zip(pieces, legs, strict=True))
    joins = tuple(Join(piece.gives.names[0], behind.takes.names[0]) for piece, behind in pairwise(pieces))
    return CascadeContract(model, programs, joins, tuple(piece.gives.names[-1] for piece in pieces), exits)
