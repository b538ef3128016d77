"""The sources as the architecture tests see them."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Source:
    """One Python file: where it is, what it says, what it means."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def imports(self) -> set[str]:
        """Packages it imports, wherever in the file."""
        names = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
        return names

    @property
    def package(self) -> str:
        """ "qtools.core" for qtools/core/types.py, "reports" for reports/build.py."""
        folders = self.path.split("/")[:-1]
        return ".".join(folders[: 2 if folders[0] == "qtools" else 1])

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 0)}"


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[str]:
    """Every file that is in the repository or would be with the next commit."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted({name for name in listing.stdout.split("\0") if name and (root / name).is_file()})


@pytest.fixture(scope="session")
def sources(root: Path, tracked: list[str]) -> list[Source]:
    """The four packages."""
    ours = ("qtools/", "calibration/", "exporters/", "reports/")
    return [Source(p, (root / p).read_text()) for p in tracked if p.endswith(".py") and p.startswith(ours)]


@pytest.fixture(scope="session")
def all_sources(root: Path, tracked: list[str]) -> list[Source]:
    """The four packages, the tests and the tools."""
    return [Source(p, (root / p).read_text()) for p in tracked if p.endswith(".py")]
