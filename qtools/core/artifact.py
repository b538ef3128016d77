"""A file that ships, and what it needs to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Artifact:
    """A file that ships.

    Attributes:
        path: Where it lies.
        target: Name of the TargetSpec.
        plan_sha256: Digest of the plan it carries; "" for the float artifact.
        size_bytes: Length of the file.
        sha256: Digest of the file.
        toolchain: Package name -> version of everything that wrote into it.
        float_constants: Float constants above 1 kB that are left in it, by value id or, where they are none of the
            program's, by name -> values that the results of their readers are, or become first; None where nobody
            looked.
    """

    path: str
    target: str
    plan_sha256: str
    size_bytes: int
    sha256: str
    toolchain: Mapping[str, str]
    float_constants: Mapping[str, tuple[str, ...]] | None = field(default_factory=dict)


@dataclass(frozen=True)
class Runtime:
    """What runs a file.

    Attributes:
        name: Of the runtime.
        minimum: Its oldest version that takes the file, or the oldest systems it comes with, in words; "" where
            nobody knows.
        source: Who says so.
        tested: Package -> version of what ran the file when it was made.
        systems: Operating system -> its oldest version, where the runtime belongs to the system.
        options: What to open the file with, as the runtime names it; each changes nothing where it is not needed.
    """

    name: str
    minimum: str = ""
    source: str = ""
    tested: Mapping[str, str] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
