"""What an audit was asked for, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtools.core.errors import InputError
from qtools.core.files import exists_already

if TYPE_CHECKING:
    from torch import nn

LIMIT = 1000
"""Images at most, where nothing else is asked for."""
NO_CAUSES = "--no-causes was given"


@dataclass(frozen=True)
class AuditConfig:
    """One audit.

    Attributes:
        subject: A run folder, its artifact, or an artifact of other origin.
        data: Folder or CSV of images; None takes rendered ones, for a run on the reference set.
        against: The float artifact of one of other origin; None measures that one alone.
        contract: How pictures are fed to artifacts of other origin; None takes it from the file, or assumes it.
        weights: File with the float weights, for a run on a file of the user's.
        builder: "package.module:function" of the float network, for a run on a module of the user's.
        module: The float network itself, from Python.
        limit: Number of images at most; None takes LIMIT, or all there are.
        seed: Seed of the choice.
        max_drop: Largest drop of top-1 allowed, in points; None judges nothing.
        confidence: Confidence of the verdict on `max_drop`, 0.5 to 1.
        causes: Whether causes are looked for.
        sensitivity: File of a sweep that quantizes every part alone; it goes on where it stopped. None: no sweep.
        out: Folder for the reports; None writes none.
        force: Whether an existing one is replaced.
        command: How the audit was called, for the report.
    """

    subject: Path
    data: Path | None = None
    against: Path | None = None
    contract: Path | None = None
    weights: str = ""
    builder: str = ""
    module: nn.Module | None = None
    limit: int | None = None
    seed: int = 0
    max_drop: float | None = None
    confidence: float = 0.95
    causes: bool = True
    sensitivity: Path | None = None
    out: Path | None = None
    force: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        for path in (self.subject, self.against):
            if path is not None and not path.exists():
                raise InputError(f"{path} does not exist", "give a run folder, or an artifact")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit needs at least one image, got {self.limit}", "leave it out for the default")
        if self.max_drop is not None and not 0 < self.max_drop < 100:
            raise InputError(
                f"--max-drop {self.max_drop:g} is no limit: it takes points of top-1, above 0 and below 100",
                "give e.g. --max-drop 0.5",
            )
        if not 0.5 < self.confidence < 1:
            raise InputError(f"--confidence {self.confidence} is not between 0.5 and 1", "give e.g. --confidence 0.95")
        if self.sensitivity is not None and self.sensitivity.is_dir():
            raise InputError(
                f"--sensitivity {self.sensitivity} is a folder", "give a file; it is made where it is missing"
            )
        if self.out is not None:
            self._check_out(self.out)

    def _check_out(self, out: Path) -> None:
        if out.exists() and not self.force:
            raise exists_already(out)
        place = out.resolve()
        read = (self.subject, self.against, self.data, self.contract)
        if any(path is not None and path.resolve().is_relative_to(place) for path in read):
            raise InputError(f"--out {out} would replace what is audited", "give another --out")
