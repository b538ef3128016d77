"""A network with a class per pixel, the user's own, through every target: one calibration, masks of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import qtools
from qtools.core.errors import InputError
from qtools.pipeline import compare, verify
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.audit.run import audit
from qtools.pipeline.progress import Silent
from qtools.pipeline.vectors import read
from reports.scores import PairedScore

SIDE, CLASSES = 32, 3


class TwoScales(nn.Module):
    """Dark, grey and bright pixels told apart at half the size, with a branch at an eighth that is enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        deep = functional.interpolate(self.deep(x), x.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(x + 0.1 * deep)


def pictures(root: Path, count: int) -> Path:
    """Blocks of three shades, and which shade each pixel has."""
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = np.kron(rng.integers(0, CLASSES, (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
        pixels = np.clip(60 + 70 * mask[..., None] + rng.normal(0, 18, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        for place, content in (("images", pixels), ("masks", mask)):
            (root / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / place / f"{number:03d}.png")
    return root


def trained(root: Path) -> nn.Module:
    """A hundred and twenty steps on those pictures."""
    torch.manual_seed(0)
    net = TwoScales()
    pixels = [np.asarray(Image.open(path)) for path in sorted((root / "images").iterdir())]
    masks = [np.asarray(Image.open(path)) for path in sorted((root / "masks").iterdir())]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(np.stack(masks)).long()
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for step in range(120):
        some = slice(8 * (step % 3), 8 * (step % 3) + 8)
        logits = functional.interpolate(net(images[some]), (SIDE, SIDE), mode="bilinear", align_corners=False)
        loss = functional.cross_entropy(logits, labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.pretrained_cfg = {  # type: ignore[assignment]
        "input_size": (3, SIDE, SIDE),
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    return net.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("segmentation")
    data = pictures(root / "data", 24)
    net = trained(data)
    every = qtools.quantize_all(net, data=data, out=root / "run", calibration=12, evaluation=12)
    return net, data, every


@pytest.mark.e2e
def test_every_target_loses_little_and_says_so_in_miou(made: Any) -> None:
    _, _, every = made
    for name, result in every.results.items():
        final = next(row.accuracy for row in reversed(result.report.ledger) if row.role == "step")
        assert isinstance(final, PairedScore) and final.n == 12, name
        assert final.score_reference is not None and final.score_reference > 85
        assert final.drop is not None and abs(final.drop) < 1.5 and final.agreement > 97
        failed = [c for c in result.report.checks if c.status == "failed"]
        assert not failed, failed
        assert result.report.subject.task == "segmentation"
    assert min(pair.agreement for pair in every.cross.pairs) > 0.97


@pytest.mark.e2e
def test_the_files_answer_with_maps_as_their_formats_lay_them_out(made: Any) -> None:
    _, _, every = made
    shapes = {"tflite": (1, 16, 16, CLASSES), "onnx": (1, CLASSES, 16, 16), "coreml": (1, CLASSES, 16, 16)}
    for name, result in every.results.items():
        (answer,) = read(result.folder / "vectors.npz")[0].outputs.values()
        assert answer.shape == shapes[name]
        assert verify.run(result.folder).passed


@pytest.mark.e2e
def test_the_float_row_is_the_networks_own_score(made: Any) -> None:
    """All images judged by hand lie around what half of them gave the run; the report keeps the measure's name."""
    net, data, every = made
    inside = json.loads((every.results["onnx"].folder / "report.json").read_text())
    row = inside["ledger"][0]["accuracy"]
    assert (row["metric"], row["agreed"], inside["data"]["labelled"]) == ("mIoU", "pixels", True)
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((data / "images").iterdir())])
    masks = np.stack([np.asarray(Image.open(path)) for path in sorted((data / "masks").iterdir())])
    with torch.inference_mode():
        logits = net(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    named = functional.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False).argmax(1).numpy()
    shares = [((named == c) & (masks == c)).sum() / ((named == c) | (masks == c)).sum() for c in range(CLASSES)]
    assert row["score_reference"] == pytest.approx(100 * np.mean(shares), abs=2)


@pytest.mark.e2e
def test_an_audit_has_a_ledger_and_says_what_it_leaves_out(made: Any) -> None:
    net, data, every = made
    folder = every.results["tflite"].folder
    report = audit(AuditConfig(folder, data=data, module=net), Silent())
    scores = [row.accuracy for row in report.ledger if row.accuracy is not None]
    assert len(scores) >= 6 and all(isinstance(each, PairedScore) for each in scores)
    assert report.audit is not None and "mIoU" in report.audit.untried and not report.audit.flips
    with pytest.raises(InputError, match="--max-drop stops by images lost and gained"):
        audit(AuditConfig(folder, data=data, module=net, max_drop=1.0), Silent())
    alone = every.results["tflite"].path.rename(folder.parent / "alone.tflite")
    with pytest.raises(InputError, match="map of shape"):
        audit(AuditConfig(alone, data=data), Silent())
    alone.rename(every.results["tflite"].path)


@pytest.mark.e2e
def test_runs_compare_by_their_numbers(made: Any) -> None:
    _, data, every = made
    a, b = every.results["tflite"].folder, every.results["onnx"].folder
    found = compare.run(a, b, data, images=4)
    assert found.predictions.n == 4 and found.predictions.accuracy is None
    assert found.predictions.largest_gap < 2
