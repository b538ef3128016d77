"""What an audit was asked for, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtools.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

LIMIT = 1000
"""Images at most, where nothing else is asked for."""


@dataclass(frozen=True)
class AuditConfig:
    """One audit.

    Attributes:
        subject: A run folder, or its artifact.
        data: Folder or CSV of images; None takes rendered ones, for a run on the reference set.
        weights: File with the float weights, for a run on a file of the user's.
        builder: "package.module:function" of the float network, for a run on a module of the user's.
        module: The float network itself, from Python.
        limit: Number of images at most; None takes LIMIT, or all there are.
        seed: Seed of the choice.
        max_drop: Largest drop of top-1 allowed, in points; None judges nothing.
        confidence: Confidence of the verdict on `max_drop`, 0.5 to 1.
        causes: Whether causes are looked for.
        command: How the audit was called, for the report.
    """

    subject: Path
    data: Path | None = None
    weights: str = ""
    builder: str = ""
    module: nn.Module | None = None
    limit: int | None = None
    seed: int = 0
    max_drop: float | None = None
    confidence: float = 0.95
    causes: bool = True
    command: str = ""

    def __post_init__(self) -> None:
        if not self.subject.exists():
            raise InputError(f"{self.subject} does not exist", "give a run folder, or an artifact")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit needs at least one image, got {self.limit}", "leave it out for the default")
        if self.max_drop is not None and not 0 < self.max_drop < 100:
            raise InputError(f"--max-drop {self.max_drop} is no number of points", "give e.g. --max-drop 0.5")
        if not 0.5 < self.confidence < 1:
            raise InputError(f"--confidence {self.confidence} is not between 0.5 and 1", "give e.g. --confidence 0.95")
