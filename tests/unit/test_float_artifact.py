"""A float artifact kept without its weights comes back bit for bit, and nothing else passes for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.tflite import TARGET
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Lowered
from qtools.pipeline import float_artifact

CONSTANTS = {
    "weight": torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)),
    "again": torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)),
    "deep": torch.randn(40, 1, 3, 3, generator=torch.Generator().manual_seed(1)),
    "linear": torch.randn(12, 30, generator=torch.Generator().manual_seed(2)).T,
    "zeros": torch.zeros(200),
    "small": torch.ones(4),
}
ENTRY = {"tensor": "weight", "permutation": (0, 2, 3, 1), "shape": (8, 3, 3, 4), "error": 1e-7}


def image(name: str, axes: tuple[int, ...]) -> bytes:
    return np.ascontiguousarray(CONSTANTS[name].numpy().transpose(axes)).tobytes()


def lowered(path: Path) -> Lowered:
    binding = {"weight": TARGET.bound(ENTRY)} if TARGET.bound else {}
    return Lowered("tflite", path, binding, {"bias": "folded"}, 0.5, files.digest(path))


def test_weights_in_any_layout_are_stored_nowhere_else(tmp_path: Path) -> None:
    data = b"head" + image("weight", (0, 2, 3, 1)) + b"." * 3 + image("deep", (1, 2, 3, 0)) + image("linear", (1, 0))
    path = tmp_path / "model_float.tflite"
    path.write_bytes(data + image("weight", (0, 2, 3, 1)) + b"tail")  # twice: every use has its own
    made = lowered(path)
    float_artifact.write(tmp_path / "audit", made, CONSTANTS)
    assert (tmp_path / "audit" / float_artifact.REST).stat().st_size < 40
    path.unlink()
    found = float_artifact.read(tmp_path / "audit", CONSTANTS, TARGET, tmp_path / "work")
    assert found == replace(made, path=tmp_path / "work" / path.name)
    assert files.digest(found.path) == made.sha256


PIECES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([image("weight", (0, 1, 2, 3)), image("deep", (1, 2, 3, 0)), image("zeros", (0,)), bytes(3000)]),
)


@given(st.lists(st.lists(PIECES, max_size=6), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_any_package_comes_back(tmp_path_factory: pytest.TempPathFactory, members: list[list[bytes]]) -> None:
    folder = tmp_path_factory.mktemp("package")
    for number, pieces in enumerate(members):
        files.write_bytes(folder / "model_float.mlpackage" / f"{number}" / "weights.bin", b"".join(pieces))
    made = lowered(folder / "model_float.mlpackage")
    float_artifact.write(folder / "audit", made, CONSTANTS)
    found = float_artifact.read(folder / "audit", CONSTANTS, TARGET, folder / "work")
    assert found is not None and files.digest(found.path) == made.sha256


@pytest.mark.parametrize("damage", ["facts", "rest", "constants", "cut"])
def test_what_is_not_the_artifact_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model_float.tflite"
    path.write_bytes(b"head" + image("weight", (0, 1, 2, 3)) + b"tail")
    float_artifact.write(tmp_path / "audit", lowered(path), CONSTANTS)
    constants = {**CONSTANTS}
    if damage == "constants":
        constants["weight"] = constants["weight"] + 1
        constants["again"] = constants["weight"]
    elif damage == "cut":
        (tmp_path / "audit" / float_artifact.REST).unlink()
    else:
        broken = tmp_path / "audit" / (float_artifact.FACTS if damage == "facts" else float_artifact.REST)
        broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        float_artifact.read(tmp_path / "audit", constants, TARGET, tmp_path / "work")


def test_a_run_that_kept_none(tmp_path: Path) -> None:
    unknown: Any = SimpleNamespace(bound=None)
    for target in (TARGET, unknown):
        assert float_artifact.read(tmp_path, CONSTANTS, target, tmp_path) is None
