"""Two artifacts that work one behind the other: what both together lose, and how they fit."""

from __future__ import annotations

from dataclasses import dataclass

from qtools.core.checks import Check
from reports.scores import PairedScore

JOINED_SCHEMA = 1


@dataclass(frozen=True)
class JoinedRow:
    """One way to go through both.

    Attributes:
        name: What ran.
        score: Against float in both.
    """

    name: str
    score: PairedScore


@dataclass(frozen=True)
class Joined:
    """Both artifacts of a target together.

    Attributes:
        model: Name of the network.
        target: What the artifacts are for.
        scheme: E.g. "w8a8".
        rows: Ways through both, from one half in integers to both.
        checks: What has to hold of both together.
        warnings: What has to be said.
        schema_version: JOINED_SCHEMA.
    """

    model: str
    target: str
    scheme: str
    rows: tuple[JoinedRow, ...]
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    schema_version: int = JOINED_SCHEMA
