"""One judged number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Check:
    """One judged number of a report. `not run` is never `passed`."""

    name: str
    status: Status
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    note: str = ""
