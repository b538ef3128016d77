"""The C++ client, compiled by the compiler that is here, replays the vectors byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qtools.pipeline import picture_vectors
from qtools.pipeline.bundles.cpp import BUNDLE

FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off")

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler here")


def replay(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(folder / "replay"), str(folder)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "said",
    [
        {"dtype": "float32", "layout": "NCHW", "crop": "border", "resize": "lanczos", "size": (18, 25), "keep": 1.0},
        {"dtype": "uint8", "crop": "squash", "resize": "nearest", "colours": "BGR", "applied": "model"},
    ],
    ids=lambda said: said["dtype"],  # an int8 tensor is replayed in tests/e2e/test_bundle.py
)
def test_every_tensor_has_the_recorded_bytes(made_up, tmp_path: Path, said: dict[str, Any]) -> None:
    content = made_up(**said).content
    BUNDLE.place(content, tmp_path)
    picture_vectors.write(content, tmp_path / BUNDLE.vectors)
    subprocess.run(["c++", *FLAGS, "replay.cpp", "-o", "replay"], cwd=tmp_path, check=True)
    ended = replay(tmp_path)
    assert (ended.returncode, ended.stdout.count("tensor equal")) == (0, len(content.vectors)), ended.stdout
    assert "network not run" in ended.stdout
    changed = tmp_path / BUNDLE.vectors / "1.input.bin"
    changed.write_bytes(bytes([changed.read_bytes()[0] ^ 1]) + changed.read_bytes()[1:])
    ended = replay(tmp_path)
    assert (ended.returncode, ended.stdout.count("TENSOR DIFFERS")) == (1, 1), ended.stdout
