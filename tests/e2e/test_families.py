"""A slice of `make conformance`: two families a run, and what the kept matrix has to say for the level of a family.

Which two is settled by the sources: the same tree always tests the same, and every change of it moves on.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from qtools.models import ModelCard, families
from tests.bench import cell, conformance, matrix
from tests.bench.trained_like import trained_like

SLICE = (("onnx", 0), ("coreml", 1))  # TFLite has end-to-end tests of its own
SEEN = [family for family in families() if family.level == "converted"]
WITHIN_DB = 1.0


def _turn(root: Path) -> int:
    """A number that every change of the sources changes."""
    digest = sha256()
    for folder in ("qtools", "calibration", "exporters"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big")


def _lightest(target: str) -> list[ModelCard]:
    """The five smallest members with the fewest operations: converting takes more time here than computing."""
    known = yaml.safe_load(conformance.KEPT.read_text())
    cards = [min(family.cards, key=lambda card: card.macs_billions) for family in SEEN]
    cards = [card for card in cards if cell.rows_of(card) == (card.name,)]
    return sorted(cards, key=lambda card: known[f"{card.name} w8a8 {target}"]["operations"])[:5]


@pytest.mark.e2e
@pytest.mark.parametrize(("target", "place"), SLICE)
def test_a_family_in_turn_goes_through_a_target(target: str, place: int, root: Path, capsys) -> None:
    light = _lightest(target)
    card = light[(_turn(root) + place) % len(light)]
    assert cell.work(card.name, "w8a8", [target], None) == 0
    found = json.loads(capsys.readouterr().out)  # 4e-07 is a word in YAML 1.1
    assert found["status"] != "failed", f"{card.name}, {target}: {found}"
    assert found["fused_max_error"] < 1e-4
    assert found["snr_db"] > found["snr_simulated_db"] - WITHIN_DB


def test_a_converted_family_was_seen_through_every_target() -> None:
    known = yaml.safe_load(conformance.KEPT.read_text())
    for family in SEEN:
        card = min(family.cards, key=lambda card: card.macs_billions)
        keys = [f"{row} w8a8 {target}" for row in cell.rows_of(card) for target in conformance.TARGETS]
        assert {known.get(key, {"status": "not run"})["status"] for key in keys} <= {"ok", "explained", "differs"}, keys


def test_every_kept_cell_says_how_it_went() -> None:
    rows = {row for family in families() for card in family.cards for row in cell.rows_of(card)}
    for key, found in yaml.safe_load(conformance.KEPT.read_text()).items():
        row, scheme, target = key.split()
        assert row in rows and scheme in cell.SCHEMES and target in conformance.TARGETS
        assert found["reason"] if found["status"] == "failed" else found["size_bytes"] > 0
        assert found["status"] != "explained" or found["sources"]


class Deep(nn.Module):
    """Residual blocks whose last norm is born 0, as in many families."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
        self.blocks = nn.ModuleList(nn.Sequential(*self._block()) for _ in range(20))
        self.head = nn.Linear(16, 4)
        for block in self.blocks:
            nn.init.zeros_(block[-1].weight)  # type: ignore[index]

    @staticmethod
    def _block() -> list[nn.Module]:
        wide = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        return [wide, nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def test_made_up_weights_keep_what_tells_images_apart() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 24, 24) + torch.randn(16, 3, 1, 1), torch.arange(16) % 4
    module = trained_like(Deep(), images, labels, 4)
    with torch.inference_mode():
        exact, shaken = module(images), module(images + 1e-3 * torch.randn_like(images))
    told_apart = ((exact - exact.mean(0)) ** 2).sum() / ((shaken - exact) ** 2).sum()
    assert 10 * np.log10(float(told_apart)) > 40, "60 dB came in"
    assert not any(bool((m.weight == m.weight[0]).all()) for m in module.modules() if isinstance(m, nn.BatchNorm2d))


def test_given_weights_are_found_by_their_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors", {"model": "mobilenetv3_small_050"})
    save_file({"a": torch.zeros(1)}, tmp_path / "two.safetensors", {"model": "repvit_m0_9"})
    assert cell.weights_of("repvit_m0_9", tmp_path) == tmp_path / "two.safetensors"
    assert cell.weights_of("repvit_m1_0", tmp_path) is None


def _cell_of(**changes: Any) -> dict[str, Any]:
    facts = {"status": "ok", "snr_db": 14.41, "snr_simulated_db": 14.5, "size_ratio": 0.41, "agreed": "images"}
    return (
        facts
        | {"input": 224, "weights": "made up", "simulated_real_agreement": 87.5, "compared_codes": 10000}
        | changes
    )


def _row(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_says_why_simulation_and_artifact_differ() -> None:
    softmax = {"kind": "softmax", "arithmetic": "float", "moved": 41, "most": 1, "missed_steps": 2e-4}
    add = {"kind": "add", "arithmetic": "integer", "moved": 7, "most": 1}
    flips = {"images": 2, "largest_margin": 0.2, "simulation_apart": 0.1, "quantization_apart": 3.0}
    known = {
        "repvit_m0_9 w8a8 tflite": _cell_of(status="explained", sources=[softmax], flips=flips),
        "repvit_m0_9 w8a8 onnx": _cell_of(status="differs", sources=[softmax, add]),
        "efficientvit_sam_b0_decoder w6a6 onnx": cell.failed("export", "it broke"),
    }
    lines = matrix.table(known).splitlines()
    heads = _row(lines, "model")
    first = dict(zip(heads, _row(lines, "repvit_m0_9"), strict=True))
    second = dict(zip(heads, _row(lines, "efficientvit_sam_b0_decoder"), strict=True))
    assert (first["TFLite W8A8"], first["ONNX W8A8"]) == ("14.4 (14.5) [1]", "**14.4 (14.5) differs** [2]")
    assert first["TFLite size"] == "0.41" and first["px"] == "224"
    assert second["ONNX W6A6"] == "**fails** [3]"
    assert list(first.values()).count("–") == 5 and list(second.values()).count("–") == 8
    one, two, three = lines[-3:]
    assert one.startswith("1. repvit_m0_9, TFLite, W8A8: as simulated on 87.5 % of the images: 41 of 10,000 codes move")
    assert "behind float softmax, 0.0002 steps and less" in one
    assert "two best classes are at most 0.2 apart, quantization moves logits by 3, the simulation is 0.1 off" in one
    assert two.endswith("7 of 10,000 codes move from equal operands, behind integer add")
    assert three == "3. efficientvit_sam_b0_decoder, ONNX, W6A6: fails at export: it broke"


def test_the_page_shows_what_is_kept() -> None:
    """docs/conformance.md is written by `make conformance`, and by nobody's hand."""
    text = conformance.PAGE.read_text()
    assert conformance.page(text, matrix.table(yaml.safe_load(conformance.KEPT.read_text()))) == text


def test_larger_members_are_folded_and_a_smaller_side_is_said() -> None:
    known = {
        "repvit_m1_1 w8a8 onnx": _cell_of(snr_simulated_db=14.44),
        "repvit_m0_9 w8a8 onnx": _cell_of(input=64, weights="given"),
        "repvit_m0_9 w8a8 coreml": _cell_of(),
    }
    lines = matrix.table(known).splitlines()
    fold = lines.index(matrix.FOLD)
    assert _row(lines[:fold], "repvit_m0_9")[1:3] == ["64 of 224 / 224", "given / made up"]
    assert "14.4" in _row(lines[fold:], "repvit_m1_1") and lines[-1] == matrix.END
