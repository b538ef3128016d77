"""The tools that a reviewer would run, and the layers that import-linter reads from pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGES = ("qtools", "calibration", "exporters", "reports")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--output-format=concise"],
        ["ruff", "format", "--check", "--output-format=concise"],
        ["mypy"],
        ["lint-imports", "--no-logo"],
        ["bandit", "--quiet", "--configfile=pyproject.toml", "--recursive", *PACKAGES, ".ci"],
    ],
    ids=["ruff check", "ruff format", "mypy", "lint-imports", "bandit"],
)
def test_tool_has_nothing_to_say(root: Path, command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    assert program.exists(), f"{command[0]} is missing: this environment was not built by `make install-dev`"
    done = subprocess.run([program, *command[1:]], cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"


def test_every_package_has_its_place_in_the_layers(root: Path) -> None:
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c for c in contracts if c["type"] == "layers")["layers"]
    placed = {name.strip(" ()") for line in layers for name in line.split("|")}
    there = {f"qtools.{p.parent.name}" for p in (root / "qtools").glob("*/__init__.py")}
    assert there | {"calibration", "exporters", "reports"} == placed
