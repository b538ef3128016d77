"""A network for videos, made-up weights, through a target: folders of frames in, a contract that says which."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import qtools
from calibration.images import normalise
from qtools import models
from qtools.core.errors import InputError
from qtools.pipeline import compare, contract, contract_of_run, verify
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.audit.run import audit
from qtools.pipeline.progress import Silent
from qtools.pipeline.task import task_of
from qtools.pipeline.vectors import read
from qtools.reference.clips import MOTIONS, ReferenceClips, write_clips
from tests.bench.trained_like import trained_like

NAME, COUNT = "vivit_thin", 14

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.all_models]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("video")
    spec = dataclasses.replace(models.resolve(NAME), classes=len(MOTIONS))
    clip = task_of(spec).clip
    assert clip is not None
    data = write_clips(root / "data", "calibration", 2 * COUNT, dataclasses.replace(clip, frames=17, size=(80, 96)))
    shown = ReferenceClips("train", 28, clip)
    seen = np.stack([normalise(shown[at][0].transpose(2, 0, 1), spec.input) for at in range(len(shown))])
    labels = torch.tensor([shown[at][1] for at in range(len(shown))])
    torch.manual_seed(0)
    network = trained_like(models.create(spec), torch.from_numpy(seen), labels, len(MOTIONS))
    save_file({key: value.contiguous().clone() for key, value in network.state_dict().items()}, root / "w.safetensors")
    given = {"weights": str(root / "w.safetensors"), "data": data, "calibration": COUNT, "evaluation": COUNT}
    every = qtools.quantize_all(NAME, out=root / "run", method="minmax", cache=False, **given)
    return root, data, every


def test_every_target_answers_as_simulated(made: Any) -> None:
    _, _, every = made
    for name, result in every.results.items():
        final = next(row.accuracy for row in reversed(result.report.ledger) if row.role == "step")
        assert final is not None and final.metric == "top-1" and final.labelled and final.kl < 0.01, name
        checks = {check.name: check for check in result.report.checks}
        simulated = checks.get("simulation equals artifact") or checks["simulation agrees with artifact"]
        assert simulated.value is not None and simulated.value >= 85, name  # made-up classes nearly tie
        assert verify.run(result.folder).passed


def test_an_app_that_knows_only_the_contract_fills_the_input(made: Any) -> None:
    """The first recorded input from frames on the disc, by the contract's words and Pillow alone."""
    _, data, every = made
    result = every.results["onnx"]
    said = contract.read(result.folder / contract.FILE)
    assert said.clip is not None and said.input is not None and said.preparation.size == (64, 64)
    assert said.input.shape == (1, 3, 8 * 64, 64)
    table, recorded = np.asarray(said.input.table), read(result.folder / "vectors.npz")[0].inputs["image"]
    found = []
    for place in sorted(data.glob("*/*")):
        files = sorted(place.iterdir())
        first = (len(files) - 7 * said.clip.stride - 1) // 2
        rows = []
        for at in range(said.clip.frames):
            frame = Image.open(files[first + at * said.clip.stride])
            short = int(64 / said.preparation.keep)
            frame = frame.resize((int(short * 96 / 80), short), Image.Resampling.BILINEAR)
            pixels = np.asarray(frame)
            top, left = round((pixels.shape[0] - 64) / 2), round((pixels.shape[1] - 64) / 2)
            rows.append(pixels[top : top + 64, left : left + 64])
        laid = np.concatenate(rows).transpose(2, 0, 1)
        found.append((table[np.arange(3)[:, None, None], laid] == recorded[0]).all())
    assert sum(found) == 1


def test_what_serves_pictures_refuses_and_an_audit_does_not(made: Any) -> None:
    root, data, every = made
    folder = every.results["onnx"].folder
    with pytest.raises(InputError, match="network for videos"):
        contract_of_run.open_run(folder)
    with pytest.raises(InputError, match="takes clips"):
        compare.run(folder, every.results["coreml"].folder, data, images=2)
    report = audit(AuditConfig(folder, data=data, weights=str(root / "w.safetensors"), limit=COUNT), Silent())
    assert report.audit is not None and "frames of a video" in report.audit.untried
    with pytest.raises(InputError, match="holds no clips"):
        qtools.quantize(NAME, weights=str(root / "w.safetensors"), data=_pictures(root / "flat"), out=root / "no")


def _pictures(place: Path) -> Path:
    place.mkdir()
    Image.new("RGB", (8, 8)).save(place / "a.png")
    return place
