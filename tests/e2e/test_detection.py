"""A small detector, the user's own, through every target: one calibration, boxes of a COCO file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import qtools
from qtools.core.boxes import Anchors, Decoding
from qtools.core.errors import InputError
from qtools.pipeline import bundle, compare, contract, verify
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.audit.run import audit
from qtools.pipeline.bundle import BundleConfig
from qtools.pipeline.doctor import subject
from qtools.pipeline.picture_vectors import Wanted
from qtools.pipeline.progress import Silent
from qtools.pipeline.vectors import read
from qtools.reference.exercises.detection import loss_of
from reports.scores import PairedScore

SIDE, CELL, KINDS = 32, 8, 2
GRID = Anchors(((4, 4), (1, 1)), ((), ()), 0.3, 0.8)


class Cells(nn.Module):
    """Bright and dark blocks found by a map of cells of 8 pixels and one of the whole picture."""

    decoding = Decoding(GRID)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU())
        self.whole = nn.Sequential(nn.Conv2d(24, 24, 4), nn.ReLU())
        self.logits = nn.ModuleList(nn.Conv2d(24, 2 * (1 + KINDS), 1) for _ in GRID.maps)
        self.boxes = nn.ModuleList(nn.Conv2d(24, 2 * 4, 1) for _ in GRID.maps)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = self.deep(self.first(x))
        maps = cells, self.whole(cells)
        rows = [
            [
                layer(each).permute(0, 2, 3, 1).reshape(len(x), -1, numbers)
                for layer, each in zip(two, maps, strict=True)
            ]
            for two, numbers in ((self.logits, 1 + KINDS), (self.boxes, 4))
        ]
        return torch.cat(rows[0], 1), torch.cat(rows[1], 1)


def pictures(root: Path, count: int) -> Path:
    """One block on grey, bright or dark, and its box in COCO's format."""
    (root / "images").mkdir(parents=True)
    images, boxes = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        kind, (w, h) = number % KINDS, rng.integers(8, 20, 2)
        x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
        pixels = np.full((SIDE, SIDE, 3), 120.0)
        pixels[y : y + h, x : x + w] = (30, 210)[kind]
        pixels = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number:03d}.png")
        images.append({"id": 7 + number, "file_name": f"{number:03d}.png", "width": SIDE, "height": SIDE})
        box = [int(x), int(y), int(w), int(h)]
        boxes.append({"id": number, "image_id": 7 + number, "category_id": (3, 9)[kind], "bbox": box, "iscrowd": 0})
    kinds = [{"id": 9, "name": "bright"}, {"id": 3, "name": "dark"}]
    told = {"images": images, "annotations": boxes, "categories": kinds}
    (root / "annotations.json").write_text(json.dumps(told))
    return root


def trained(root: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Two hundred steps on those pictures, with the loss of the reference detectors."""
    torch.manual_seed(0)
    net = Cells()
    told = json.loads((root / "annotations.json").read_text())
    pixels = [np.asarray(Image.open(path)) for path in sorted((root / "images").iterdir())]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    rows = [
        [{3: 0, 9: 1}[each["category_id"]], x, y, x + w, y + h, SIDE]
        for each in told["annotations"]
        for x, y, w, h in [each["bbox"]]
    ]
    answers = torch.tensor(rows)
    monkeypatch.setattr("qtools.reference.exercises.detection._decoding", lambda side, anchors: net.decoding)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(200):
        loss, _ = loss_of(net(images), answers, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    settings = {"input_size": (3, SIDE, SIDE), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}
    net.pretrained_cfg = settings | {"interpolation": "bilinear"}  # type: ignore[assignment]
    return net.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("detection")
    data = pictures(root / "data", 32)
    with pytest.MonkeyPatch.context() as patch:
        net = trained(data, patch)
    every = qtools.quantize_all(net, data=data, out=root / "run", calibration=16, evaluation=16)
    return net, data, every


@pytest.mark.e2e
def test_every_target_loses_little_and_says_so_in_ap(made: Any) -> None:
    _, _, every = made
    for name, result in every.results.items():
        final = next(row.accuracy for row in reversed(result.report.ledger) if row.role == "step")
        assert isinstance(final, PairedScore) and final.metric == "AP" and final.n == 16, name
        assert final.score_reference is not None and final.score_reference > 60
        assert final.drop is not None and final.drop_interval is not None and final.agreement > 95
        half, before, after = final.beside[0]
        # blocks are found to the pixel: of 32 pixels 8 bits lose what overlaps of 0.9 and 0.95 ask for, not half a box
        assert half == "AP50" and before > 95 and abs(before - after) < 1.5
        assert final.classes == ("dark", "bright")
        failed = [check for check in result.report.checks if check.status == "failed"]
        assert not failed, failed
        assert result.report.subject.task == "detection"


@pytest.mark.e2e
def test_both_outputs_have_names_and_static_shapes_and_grids_of_their_own(made: Any) -> None:
    _, _, every = made
    shapes = {"logits": (1, GRID.count, 1 + KINDS), "boxes": (1, GRID.count, 4)}
    for result in every.results.values():
        seen = read(result.folder / "vectors.npz")[0].outputs
        assert {name: array.shape for name, array in seen.items()} == shapes
        said = contract.read(result.folder / contract.FILE)
        assert said.output is not None and said.boxes is not None
        assert (said.output.name, said.boxes.name, said.boxes.meaning) == ("logits", "boxes", "boxes")
        assert said.decoding == Decoding(GRID) and said.anchors_sha256 == GRID.digest
        assert verify.run(result.folder).passed
    tflite = contract.read(every.results["tflite"].folder / contract.FILE)
    assert tflite.output is not None and tflite.boxes is not None and tflite.output.scale != tflite.boxes.scale


@pytest.mark.e2e
def test_the_artifact_finds_the_blocks_when_decoded_as_the_contract_says(made: Any) -> None:
    """With loops of its own: the surest place of each recorded picture, its box by SSD's formula."""
    _, data, every = made
    result = every.results["tflite"]
    said = contract.read(result.folder / contract.FILE)
    assert said.decoding is not None and said.decoding.anchors is not None
    start, (v0, v1) = said.decoding.anchors.table(), said.decoding.variances
    told = json.loads((data / "annotations.json").read_text())
    truth = [np.asarray(each["bbox"], float) / SIDE for each in told["annotations"]]
    for vector in read(result.folder / "vectors.npz"):
        real = {}
        for end in (said.output, said.boxes):
            assert end is not None and end.scale is not None and end.zero_point is not None
            real[end.name] = (vector.outputs[end.name][0].astype(float) - end.zero_point) * end.scale
        at = int((real["logits"][:, 1:].max(1) - real["logits"][:, 0]).argmax())
        (x, y, w, h), (a, b, c, d) = start[at], real["boxes"][at]
        middle, side = (x + a * w * v0, y + b * h * v0), (w * np.exp(c * v1), h * np.exp(d * v1))
        gaps = [np.abs([*(t[:2] + t[2:] / 2 - middle), *(t[2:] - side)]).max() for t in truth]
        assert min(gaps) < 0.1


REPLAYS = (("tflite", "python", sys.executable, "replay.py"), ("onnx", "python", sys.executable, "replay.py"))


@pytest.mark.e2e
def test_apps_find_the_recorded_objects(made: Any, tmp_path: Path) -> None:
    _, data, every = made
    for target, platform, program, script in REPLAYS:
        out = tmp_path / target
        asked = BundleConfig(every.results[target].folder, platform, Wanted(data / "images", 3), out)
        assert bundle.make(asked, Silent()).vectors == 3
        ended = subprocess.run([program, script], cwd=out, capture_output=True, text=True, check=False)
        assert ended.returncode == 0 and "3 of 3 vectors passed" in ended.stdout, ended.stderr[-2000:]
        index = json.loads((out / "vectors" / "vectors.json").read_text())
        assert all(each["found"] and each["found"][0]["label"] in ("dark", "bright") for each in index["vectors"])
        index["vectors"][1]["found"][0]["box"][2] += 0.01
        (out / "vectors" / "vectors.json").write_text(json.dumps(index))
        ended = subprocess.run([program, script], cwd=out, capture_output=True, text=True, check=False)
        assert ended.returncode == 1 and ended.stdout.count("OBJECTS DECODED OTHERWISE") == 1


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler here")
def test_the_cpp_client_finds_them_with_litert(made: Any, tmp_path: Path) -> None:
    """The network's own outputs, by LiteRT's C library; a byte of a recorded one that is another is noticed."""
    _, data, every = made
    spec = find_spec("ai_edge_litert")
    assert spec and spec.origin
    library = Path(spec.origin).with_name("libLiteRt.so")
    if not library.exists():
        pytest.skip("this ai-edge-litert brings no C library")
    out = tmp_path / "app"
    bundle.make(BundleConfig(every.results["tflite"].folder, "cpp", Wanted(data / "images", 3), out), Silent())
    words = ["-std=c++17", "-ffp-contract=off", "-DQTOOLS_LITERT", "replay.cpp", str(library), "-o", "replay"]
    subprocess.run(["c++", *words, f"-Wl,-rpath,{library.parent}"], cwd=out, check=True)
    ended = subprocess.run(["./replay", "."], cwd=out, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(re.findall(r"tensor equal, \d+ objects, answer off by 0, boxes off by 0\n", ended.stdout)) == 3
    boxes = out / "vectors" / "1.boxes.bin"
    boxes.write_bytes(bytes([boxes.read_bytes()[0] ^ 64]) + boxes.read_bytes()[1:])
    ended = subprocess.run(["./replay", "."], cwd=out, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "2 of 3 vectors passed" in ended.stdout


@pytest.mark.e2e
def test_the_doctor_looks_at_both_outputs(made: Any, tmp_path: Path) -> None:
    folder, out = made[2].results["tflite"].folder, tmp_path / "app"
    bundle.make(BundleConfig(folder, "python", Wanted(made[1] / "images", 2), out), Silent())
    recorded = out / "vectors"
    logits, boxes = recorded / "1.output.bin", recorded / "1.boxes.bin"
    found = subject.run(subject.Asked(out, "1", logits, boxes=boxes))
    assert [(each.side, each.verdict) for each in found] == [("output", "equal"), ("boxes", "equal")]
    other = subject.run(subject.Asked(out, "1", boxes=recorded / "0.boxes.bin"))
    assert other[0].verdict == "mistake" and "vector 0 was shown" in other[0].explanations[0].mistakes[0]
    with pytest.raises(InputError, match="as long as the boxes"):
        subject.run(subject.Asked(out, "1", boxes))
    said = contract.read(out / contract.FILE).output
    assert said is not None and said.scale is not None and said.zero_point is not None
    real = (np.frombuffer(logits.read_bytes(), np.int8).astype(float) - said.zero_point) * said.scale
    powers = np.exp(real.reshape(said.shape[1:]))
    np.save(tmp_path / "softmax.npy", powers / powers.sum(1, keepdims=True))
    (soft,) = subject.run(subject.Asked(out, "1", tmp_path / "softmax.npy"))
    assert soft.verdict == "mistake" and "softmax taken already" in soft.explanations[0].mistakes


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.all_models
def test_an_audit_and_a_comparison_know_detectors(made: Any) -> None:
    net, data, every = made
    folder = every.results["tflite"].folder
    report = audit(AuditConfig(folder, data=data, module=net), Silent())
    scores = [row.accuracy for row in report.ledger if row.accuracy is not None]
    assert len(scores) >= 6 and all(isinstance(each, PairedScore) for each in scores)
    assert report.audit is not None and "AP" in report.audit.untried
    found = compare.run(folder, every.results["onnx"].folder, data, images=4)
    assert found.predictions.n == 4 and found.predictions.accuracy is None
