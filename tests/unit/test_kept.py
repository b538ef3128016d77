"""What a run keeps for its audit comes back bit for bit, and damage is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qtools.core.errors import InputError
from qtools.core.protocols import Lowered
from qtools.core.types import InputSpec, TensorStats
from qtools.pipeline import kept, run_facts

SPEC = InputSpec((32, 48), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic", 0.95, "squash")
FACTS = kept.RunFacts("int8", SPEC, {"activations": "int8"}, ("cat", "dog"))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Any, Any]:
    """A run with a weight as it was, a corrected bias, and a table of positions."""
    exact = {
        "weight": torch.randn(4, 3, 3, 3).permute(0, 2, 3, 1),  # not contiguous
        "bias": torch.randn(4),
        "positions": torch.arange(6).reshape(2, 3),
    }
    shipped = {**exact, "bias": exact["bias"] + 0.5}
    low, high = np.float32([-1, -2]), np.float32([1, 2])
    stats = TensorStats(10, -2.0, 2.0, 0.25, low, high, low / 3, np.arange(2048))
    programs = [SimpleNamespace(constants=constants) for constants in (exact, shipped)]
    lowered = Lowered("tflite", tmp_path / "model_float.tflite", {}, {}, 0.0, "")
    lowered.path.write_bytes(b"an artifact")
    prepared = SimpleNamespace(program=programs[0], stats={"x": stats}, lowered=lowered)
    return prepared, SimpleNamespace(program=programs[1])


def test_everything_comes_back(tmp_path: Path, run: tuple[Any, Any]) -> None:
    prepared, decision = run
    kept.write(tmp_path, prepared, decision, FACTS)
    found = kept.read(tmp_path)
    assert found.facts == FACTS
    for name, tensor in prepared.program.constants.items():
        assert torch.equal(found.exact[name], tensor)
        assert torch.equal(found.shipped[name], decision.program.constants[name])
    np.testing.assert_array_equal(found.stats["x"].counts, np.arange(2048))


def test_what_nothing_corrected_is_stored_once(tmp_path: Path, run: tuple[Any, Any]) -> None:
    prepared, decision = run
    inside = kept.write(tmp_path, prepared, decision, FACTS)
    size = sum(t.numel() * t.element_size() for t in prepared.program.constants.values())
    assert (inside / kept.WEIGHTS).stat().st_size < size + 4 * 4 + 1000


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, run: tuple[Any, Any]) -> None:
    a, b = (kept.write(tmp_path / name, *run, FACTS) for name in "ab")
    for name in (kept.WEIGHTS, kept.STATS, run_facts.FILE):
        assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.mark.parametrize("file", [kept.WEIGHTS, kept.STATS, run_facts.FILE])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damage_is_told(tmp_path: Path, run: tuple[Any, Any], file: str, damage: str) -> None:
    path = kept.write(tmp_path, *run, FACTS) / file
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        kept.read(tmp_path)


def test_a_folder_that_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeps nothing to audit") as caught:
        kept.read(tmp_path)
    assert "qtools quantize" in caught.value.next_step
