"""A small network with two exits, the user's own: one artifact for both, and one artifact for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import qtools
from qtools.core.errors import InputError
from qtools.core.exits import Exits
from qtools.pipeline import contract, contract_of_run, verify
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.audit.run import audit
from qtools.pipeline.progress import Silent
from qtools.pipeline.vectors import read
from reports.exits import COST
from reports.scores import PairedScore

SIDE, KINDS, COUNT = 16, 4, 16


class Early(nn.Module):
    """An exit that sees points alone, and one behind that sees around them; knows where it may be cut."""

    exits = Exits((0.8,), (0.3, 1.0))
    pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU())
        self.early, self.late = nn.Linear(12, KINDS), nn.Linear(24, KINDS)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.first(x)
        return self.early(x.mean((2, 3))), self.late(self.deep(x).mean((2, 3)))

    def pieces(self) -> list[nn.Module]:
        return [First(self), Last(self)]


class First(nn.Module):
    def __init__(self, whole: Early) -> None:
        super().__init__()
        self.first, self.early = whole.first, whole.early

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.first(x)
        return x, self.early(x.mean((2, 3)))


class Last(nn.Module):
    def __init__(self, whole: Early) -> None:
        super().__init__()
        self.deep, self.late = whole.deep, whole.late

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.deep(x).mean((2, 3)))


def pictures(root: Path, count: int) -> Path:
    """Plain fields, dark and bright, which points tell apart; stripes across and down, which only neighbours do."""
    for number in range(count):
        kind, rng = number % KINDS, np.random.default_rng(number)
        pixels = np.full((SIDE, SIDE, 3), (60.0, 190.0, 125.0, 125.0)[kind])
        pixels[:: 4 if kind == 2 else SIDE] += 80 if kind >= 2 else 0
        pixels[:, :: 4 if kind == 3 else SIDE] += 80 if kind >= 2 else 0
        pixels = np.clip(pixels + rng.normal(0, 25, pixels.shape), 0, 255).astype(np.uint8)
        place = root / f"kind{kind}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return root


def trained(root: Path) -> Early:
    torch.manual_seed(0)
    net = Early()
    paths = sorted(root.glob("*/*.png"))
    images = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths]))
    x, y = images.permute(0, 3, 1, 2) / 127.5 - 1, torch.tensor([int(path.parent.name[-1]) for path in paths])
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(120):
        loss = sum(nn.functional.cross_entropy(logits, y) for logits in net(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Early, Path]:
    data = pictures(tmp_path_factory.mktemp("early") / "data", 2 * COUNT)
    return trained(data), data


COUNTS: dict[str, Any] = {"calibration": COUNT, "evaluation": COUNT, "method": "minmax", "cache": False}


@pytest.fixture(scope="module")
def whole(taught: tuple[Early, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    net, data = taught
    return qtools.quantize_all(net, data=data, out=tmp_path_factory.mktemp("whole") / "run", **COUNTS)


@pytest.fixture(scope="module")
def cascade(taught: tuple[Early, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    net, data = taught
    return qtools.quantize_cascade(
        net, target="onnx", data=data, out=tmp_path_factory.mktemp("cascade") / "run", **COUNTS
    )


def _score(result: Any) -> PairedScore:
    final = next(row.accuracy for row in reversed(result.report.ledger) if row.role == "step")
    assert isinstance(final, PairedScore)
    return final


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.all_models
def test_one_artifact_answers_at_every_exit(whole: Any) -> None:
    for name, result in whole.results.items():
        score = _score(result)
        assert score.metric == "top-1 at the exits" and score.n == COUNT
        assert score.score_reference is not None and score.score_reference > 85 and score.agreement > 85, name
        rates = {name: before for name, before, _ in score.beside}
        assert 10 < rates["exit 1 answers"] < 90  # else nothing would be tried
        assert rates[COST] == pytest.approx(0.3 * rates["exit 1 answers"] + rates["exit 2 answers"])
        failed = [c for c in result.report.checks if c.status == "failed" and "slower" not in c.name]
        assert not failed, (name, failed)
        assert verify.run(result.folder).passed


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.all_models
def test_the_contract_names_exits_and_thresholds_in_their_order(whole: Any) -> None:
    for result in whole.results.values():
        said = contract.read(result.folder / contract.FILE)
        assert said.output is not None and said.exits == Early.exits
        assert [end.name for end in (*said.earlier, said.output)] == ["exit_1", "exit_2"]
        assert {end.meaning for end in (*said.earlier, said.output)} == {"logits"}
        seen = read(result.folder / "vectors.npz")[0].outputs
        assert {name: array.shape for name, array in seen.items()} == {"exit_1": (1, KINDS), "exit_2": (1, KINDS)}
        with pytest.raises(InputError, match="early exits"):
            contract_of_run.open_run(result.folder)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.all_models
def test_an_audit_knows_exits(whole: Any, taught: tuple[Early, Path]) -> None:
    net, data = taught
    report = audit(AuditConfig(whole.results["tflite"].folder, data=data, module=net), Silent())
    assert report.audit is not None and "top-1 at the exits" in report.audit.untried
    scores = [row.accuracy for row in report.ledger if row.accuracy is not None]
    assert len(scores) >= 6 and all(isinstance(each, PairedScore) for each in scores)


OPTIONS = onnxruntime.SessionOptions()
OPTIONS.add_session_config_entry("session.x64quantprecision", "1")  # as contracts say under runtime


class App:
    """Reads a cascade's contracts and runs its files, with onnxruntime and nothing of qtools."""

    def __init__(self, folder: Path) -> None:
        self.said = json.loads((folder / "contract.json").read_text())
        places = [folder / each["folder"] for each in self.said["pieces"]]
        self.files = [
            onnxruntime.InferenceSession(place / each["file"], OPTIONS)
            for place, each in zip(places, self.said["pieces"], strict=True)
        ]
        self.picture = json.loads((places[0] / "contract.json").read_text())["input"]

    def answer(self, pixels: np.ndarray) -> tuple[int, int]:
        """Exit and class of a picture of the input's size."""
        table = np.asarray(self.picture["table"], self.picture["dtype"])
        given = {self.picture["name"]: table[np.arange(3)[:, None, None], pixels.transpose(2, 0, 1)][None]}
        for at, (file, piece) in enumerate(zip(self.files, self.said["pieces"], strict=True)):
            raw = file.run([end["name"] for end in piece["outputs"]], given)
            real = {end["name"]: self._real(array, end) for array, end in zip(raw, piece["outputs"], strict=True)}
            logits = real[self.said["logits"][at]][0]
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            if at == len(self.files) - 1 or shares.max() > self.said["exits"]["thresholds"][at]:
                return at, int(shares.argmax())
            join, (behind,) = self.said["joins"][at], self.said["pieces"][at + 1]["inputs"]
            assert join["target"] == behind["name"]
            given = {behind["name"]: self._codes(real[join["source"]], behind)}
        raise AssertionError("the last piece answers")

    def _real(self, array: np.ndarray, end: dict[str, Any]) -> np.ndarray:
        return array if end["scale"] is None else (array.astype(np.float32) - end["zero_point"]) * end["scale"]

    def _codes(self, array: np.ndarray, end: dict[str, Any]) -> np.ndarray:
        if end["scale"] is None:
            return array.astype(np.float32)
        limits = np.iinfo(end["dtype"])
        codes = np.rint(array / np.float32(end["scale"])) + end["zero_point"]
        return np.clip(codes, limits.min, limits.max).astype(end["dtype"])


@pytest.mark.e2e
def test_an_app_that_knows_only_the_contracts_leaves_where_the_float_network_does(
    cascade: Any, taught: tuple[Early, Path]
) -> None:
    net, data = taught
    app, same, left = App(cascade.folder), 0, set()
    paths = sorted(data.glob("*/*.png"))
    for path in paths:
        pixels = np.array(Image.open(path))
        with torch.inference_mode():
            early, late = net(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
        sure = float(early.softmax(1).max()) > Early.exits.thresholds[0]
        told = app.answer(pixels)
        same += told == (0 if sure else 1, int((early if sure else late).argmax()))
        left.add(told[0])
    assert left == {0, 1} and same >= 0.9 * len(paths)
    joined = cascade.joined["onnx"]
    assert [check.status for check in joined.checks] == ["passed"]
    assert joined.rows[-1].score.agreement > 85 and joined.rows[-1].score.score is not None
    for piece in cascade.pieces:
        with pytest.raises(InputError, match="one part of a network"):
            contract_of_run.open_run(piece["onnx"].folder)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.all_models
def test_every_piece_is_verified_by_itself(cascade: Any) -> None:
    for piece in cascade.pieces:
        assert verify.run(piece["onnx"].folder).passed


@pytest.mark.e2e
def test_what_cannot_be_cut_is_refused(tmp_path: Path, taught: tuple[Early, Path]) -> None:
    net, data = taught
    with pytest.raises(InputError, match="does not say in which piece"):
        qtools.quantize_cascade(net, data=data, out=tmp_path / "a", int16=["first*"])
    with pytest.raises(InputError, match="features that pass between"):
        qtools.quantize_cascade(net, data=data, out=tmp_path / "b", max_drop=1.0)
    plain = nn.Sequential(nn.Conv2d(3, 4, SIDE), nn.Flatten())
    with pytest.raises(InputError, match="no early exits"):
        qtools.quantize_cascade(plain, data=data, out=tmp_path / "c", input_size=SIDE)
    assert not list(tmp_path.iterdir())
