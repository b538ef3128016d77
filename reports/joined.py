"""Artifacts that work one behind the other: what they lose together, and how they fit."""

from __future__ import annotations

from dataclasses import dataclass

from qtools.core.checks import Check
from reports.scores import PairedScore

JOINED_SCHEMA = 1


@dataclass(frozen=True)
class JoinedRow:
    """One way to go through all.

    Attributes:
        name: What ran.
        score: Against float in all.
    """

    name: str
    score: PairedScore


@dataclass(frozen=True)
class Joined:
    """All artifacts of a target together.

    Attributes:
        model: Name of the network.
        target: What the artifacts are for.
        scheme: E.g. "w8a8".
        rows: Ways through both, from one half in integers to both.
        checks: What has to hold of all together.
        warnings: What has to be said.
        title: What is together.
        heads: What the shares that agree with float, and the scores, are called.
        schema_version: JOINED_SCHEMA.
    """

    model: str
    target: str
    scheme: str
    rows: tuple[JoinedRow, ...]
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    title: str = "both halves together"
    heads: tuple[str, str] = ("mask IoU with float", "mask IoU with what was asked for")
    schema_version: int = JOINED_SCHEMA
