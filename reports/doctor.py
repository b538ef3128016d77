"""What the doctor found: of bytes that a device produced, and of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reports.environment import Environment

Verdict = Literal["equal", "within tolerance", "mistake", "likely mistake", "close", "unknown"]
PASSED: tuple[Verdict, ...] = ("equal", "within tolerance")


@dataclass(frozen=True)
class Explanation:
    """Something that an app may do wrongly, and would give what the device gave.

    Attributes:
        mistakes: What is done wrongly, in words; two where they come together.
        remedies: What to do about each.
        gap: How far what it gives lies from what the device gave; 0 where every byte is the same.
    """

    mistakes: tuple[str, ...]
    remedies: tuple[str, ...]
    gap: float


@dataclass(frozen=True)
class Diagnosis:
    """What a device produced for one picture, against what it should have.

    Attributes:
        side: "input" for the tensor that went in, "output" for the numbers that came out, "boxes" for those of a
            detector's other output.
        vector: Name of the picture.
        verdict: equal (every byte); within tolerance (of an output); mistake (exactly what the mistakes named give);
            likely mistake (much nearer to them than to what is right); close (right but for a level or two); unknown.
        gap: How far it lies from what is right; None where the length alone is wrong.
        unit: Of the gaps.
        tolerance: Largest gap of an output that is all right; None for an input.
        explanations: What explains it, the nearest first. Of an unknown one, what comes nearest.
        tried: How many ways of doing it wrongly were compared.
        next_step: What to do now.
    """

    side: Literal["input", "output", "boxes"]
    vector: str
    verdict: Verdict
    gap: float | None
    unit: str
    tolerance: float | None
    explanations: tuple[Explanation, ...]
    tried: int
    next_step: str

    @property
    def passed(self) -> bool:
        """Whether the device computes what was audited."""
        return self.verdict in PASSED


@dataclass(frozen=True)
class Ability:
    """Something that qtools can do on some machine.

    Attributes:
        group: "make", "run", "time", "device" or "bundle".
        name: What it is done with or for.
        here: Whether this machine can.
        how: With what it is done here, or why not.
        next_step: What would make it possible; "" where nothing is missing.
    """

    group: Literal["make", "run", "time", "device", "bundle"]
    name: str
    here: bool
    how: str
    next_step: str = ""


@dataclass(frozen=True)
class Host:
    """A machine as qtools sees it.

    Attributes:
        version: Of qtools.
        environment: The machine and the versions of all packages.
        memory_bytes: Of the machine; None where it does not say.
        abilities: What can be done here and what cannot.
        wanted: Package -> the versions that qtools is made for; extras say so.
        missing: Those of them that every installation needs and this one lacks.
    """

    version: str
    environment: Environment
    memory_bytes: int | None
    abilities: tuple[Ability, ...]
    wanted: Mapping[str, str]
    missing: tuple[str, ...]
