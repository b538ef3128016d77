"""What a file in this folder exposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qtools.pipeline.picture_vectors import Content

VECTORS = "vectors"


@dataclass(frozen=True)
class Bundle:
    """One kind of package.

    Attributes:
        title: What messages call it.
        formats: Suffixes that it runs, without the dot, its own choice first.
        place: (content, the bundle's folder) -> None; writes everything but contract, artifact and vectors.
        how: How to build it and prove it, in a sentence.
        assets: Where contract, its schema and the artifact lie inside the bundle.
        vectors: Where the vectors lie inside the bundle.
        systems: Operating system -> its oldest version that the package's own code takes.
        tools: Program -> what it does with the package; `qtools doctor` looks for them.
    """

    title: str
    formats: tuple[str, ...]
    place: Callable[[Content, Path], None]
    how: str
    assets: str = "."
    vectors: str = VECTORS
    systems: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
