"""The promptable network that ships, as two artifacts: an app that knows only their contracts draws float's masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

import qtools
from qtools.core.errors import InputError
from qtools.models import load
from qtools.pipeline import verify
from qtools.reference import checkpoint
from qtools.reference.prompts import PromptedImages

NAME, COUNT = "efficientvit_sam_b0", 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("prompted") / "run"
    return qtools.quantize_prompted(
        NAME, weights="reference", target="onnx", calibration=4, evaluation=COUNT, method="minmax", out=out, cache=False
    )


OPTIONS = onnxruntime.SessionOptions()
OPTIONS.add_session_config_entry("session.x64quantprecision", "1")  # as contracts say under runtime


class App:
    """Reads the two contracts and runs the two files, with onnxruntime and nothing of qtools."""

    def __init__(self, folder: Path) -> None:
        self.joint = json.loads((folder / "contract.json").read_text())
        self.files = {
            name: onnxruntime.InferenceSession(folder / self.joint[name]["folder"] / self.joint[name]["file"], OPTIONS)
            for name in ("encoder", "decoder")
        }
        self.picture = json.loads((folder / self.joint["encoder"]["folder"] / "contract.json").read_text())["input"]

    def mask(self, pixels: np.ndarray, points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        """The mask to show, at the picture's size, and how many of its pixels only rounding puts in or out."""
        table = np.asarray(self.picture["table"], self.picture["dtype"])
        image = table[np.arange(3)[:, None, None], pixels.transpose(2, 0, 1)][None]
        embedding = dict(self.run("encoder", {self.picture["name"]: image}))
        asked = {self.joint["prompts"]["points"]: points[None], self.joint["prompts"]["labels"]: labels[None]}
        carried = {join["target"]: embedding[join["source"]] for join in self.joint["joins"]}
        answer = self.run("decoder", {**carried, **asked})
        said = self.joint["masks"]
        wide = functional.interpolate(torch.from_numpy(answer[said["masks"]]), pixels.shape[:2], mode="bilinear")
        over = wide[0, int(answer[said["scores"]].argmax())].numpy() - said["threshold"]
        return over > 0, int((abs(over) < 1e-5).sum())

    def run(self, name: str, floats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ends = self.joint[name]
        given = {end["name"]: _codes(floats[end["name"]], end) for end in ends["inputs"]}
        answers = self.files[name].run([end["name"] for end in ends["outputs"]], given)
        return {end["name"]: _real(a, end) for a, end in zip(answers, ends["outputs"], strict=True)}


def _codes(array: np.ndarray, end: dict[str, Any]) -> np.ndarray:
    if end["scale"] is None or array.dtype == end["dtype"]:
        return array
    limits = np.iinfo(end["dtype"])
    codes = np.rint(array / np.float32(end["scale"])) + end["zero_point"]
    return np.clip(codes, limits.min, limits.max).astype(end["dtype"])


def _real(array: np.ndarray, end: dict[str, Any]) -> np.ndarray:
    if end["scale"] is None:
        return array
    return (array.astype(np.float32) - end["zero_point"]) * np.float32(end["scale"])


@pytest.mark.slow
@pytest.mark.all_models
def test_an_app_draws_what_the_run_was_judged_by(made: Any) -> None:
    network = load(NAME, "reference", checkpoint)
    mean, std = (np.float32(x) for x in (network.spec.input.mean, network.spec.input.std))
    images, app = PromptedImages("test", COUNT, 128), App(made.folder)
    ious, right, unsure = [], [], []
    for index in range(COUNT):
        pixels, (asked, shown) = images[index][0], images.asked(index)
        picture = torch.from_numpy(((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None])
        with torch.inference_mode():
            masks, scores = network.module(picture, *(torch.from_numpy(x)[None] for x in (asked.points, asked.labels)))
        exact = functional.interpolate(masks, (128, 128), mode="bilinear")[0, int(scores.argmax())].numpy() > 0
        ours, on_the_line = app.mask(pixels, asked.points, asked.labels)
        ious.append((ours & exact).sum() / (ours | exact).sum())
        right.append((ours & shown).sum() / (ours | shown).sum())
        unsure.append(2 * on_the_line / min((ours | exact).sum(), (ours | shown).sum()))
    near = 100 * np.mean(unsure) + 1e-4  # codes meet between two pixels, and the sum of two products is not quite 0
    joined = json.loads((made.folder / "joined.json").read_text())[0]
    last = joined["rows"][-1]["score"]
    assert last["agreement"] == pytest.approx(100 * np.mean(ious), abs=near)
    assert last["score"] == pytest.approx(100 * np.mean(right), abs=near)
    assert last["agreement"] > 90 and [c["status"] for c in joined["checks"]] == ["passed"]


@pytest.mark.slow
@pytest.mark.all_models
def test_each_half_is_a_run_of_its_own(made: Any) -> None:
    for name, half, task in (("encoder", made.encoder, "features"), ("decoder", made.decoder, "masks")):
        (result,) = half.values()
        assert result.folder == made.folder / name and result.path.is_file()
        assert result.report.subject.task == task
        assert not [check for check in result.report.checks if check.status == "failed" and "float" not in check.name]
        assert verify.run(result.folder).checks[0].status == "passed"
        replayed = next(c for c in verify.run(result.folder).checks if c.name == "golden vectors replayed")
        assert replayed.status == "passed"
    decoder = made.decoder["onnx"].report
    assert {row.accuracy.metric for row in decoder.ledger if row.accuracy} == {"mask IoU"}
    assert (made.folder / "SHA256SUMS").is_file()


@pytest.mark.e2e
def test_what_masks_cannot_have_is_refused(tmp_path: Path) -> None:
    def quantized(**options: Any) -> None:
        qtools.quantize_prompted(NAME, weights="reference", out=tmp_path / "a", **options)

    with pytest.raises(InputError, match="masks have none"):
        quantized(size_budget="1MB")
    with pytest.raises(InputError, match="one program"):
        quantized(io="pixels")
    with pytest.raises(InputError, match="call qtools.quantize_prompted"):
        qtools.quantize(NAME, weights="reference", out=tmp_path / "c")
    with pytest.raises(InputError, match="write encoder:stages"):
        quantized(int16=("stages.0*",))
    with pytest.raises(InputError, match="one program, and has"):
        qtools.quantize_prompted("mobilevit_xxs", weights="reference", out=tmp_path / "d")


@pytest.mark.slow
@pytest.mark.all_models
def test_every_target_draws_floats_masks(tmp_path: Path) -> None:
    made = qtools.quantize_prompted(
        NAME, weights="reference", target="all", calibration=64, evaluation=64, out=tmp_path / "run", cache=False
    )
    for name, joined in made.joined.items():
        alone = next(row.accuracy for row in reversed(made.decoder[name].report.ledger) if row.role == "step")
        assert alone is not None and alone.agreement >= 97, name
        assert all(check.status == "passed" for check in joined.checks), name
        shipped = joined.rows[-1].score
        assert shipped.drop is not None and shipped.drop <= 0.5, name
        assert shipped.agreement >= 97 and not joined.warnings, name
