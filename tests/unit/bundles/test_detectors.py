"""Boxes as apps make them, in each language, against the arithmetic that runs are judged by."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtools.core import files
from qtools.core.boxes import Anchors, Decoding, detect

NODE = shutil.which("node")
LABELS = ["one", "two"]
GRIDS = (
    Anchors(((3, 4), (1, 2)), ((2.0,), ()), 0.2, 0.9),
    Anchors(((5, 5),), ((1.5, 3.0),), 0.4, 0.4),
    Anchors(((2, 2), (1, 1), (1, 1)), ((), (2.0, 3.0), (2.0,)), 0.1, 1.1),
    None,
)
CASES = 48


@dataclass(frozen=True)
class Case:
    """A picture's answers, and what a contract says of them."""

    logits: np.ndarray
    boxes: np.ndarray
    decoding: Decoding

    @property
    def contract(self) -> dict[str, Any]:
        return {"decoding": json.loads(files.to_json(self.decoding)), "labels": LABELS}


def case(number: int) -> Case:
    """Whole codes of a few values, so that scores tie; some boxes beyond all bounds, some empty."""
    draw = np.random.default_rng(number)
    anchors = GRIDS[number % len(GRIDS)]
    places, classes = anchors.count if anchors else 11, int(draw.integers(2, 5))
    decoding = Decoding(
        anchors,
        variances=(0.1, 0.2) if number % 3 else (0.3, 1.7),
        background=0 if number % 2 else -1,
        overlap=(0.5, 0.3, None)[number % 3],
        least=(0.01, 0.2)[number % 2],
        candidates=(400, 9)[number % 5 == 0],
        most=(100, 4)[number % 7 == 0],
    )
    logits = draw.integers(-3, 4, (places, classes)).astype(np.float32) * np.float32(0.7)
    boxes = draw.integers(-6, 7, (places, 4)).astype(np.float32) * np.float32(0.31)
    boxes[0, 2:] = 60.0  # exp of it is more than any picture
    if anchors is None:
        boxes = np.abs(boxes) / 8
    return Case(logits, boxes, decoding)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case(number) for number in range(CASES)]


def check(cases: list[Case], found: list[list[dict[str, Any]]]) -> None:
    """Holds what an app found against `qtools.core.boxes`, order included."""
    counts = []
    for here, ours in zip(cases, found, strict=True):
        theirs = detect(here.decoding, here.logits, here.boxes)
        assert [each["index"] for each in ours] == theirs.classes.tolist(), here.decoding
        names = [LABELS[i] if i < len(LABELS) else "" for i in theirs.classes]
        assert [each["label"] for each in ours] == names
        np.testing.assert_allclose([each["score"] for each in ours], theirs.scores, rtol=1e-12)
        boxes = np.array([each["box"] for each in ours]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, theirs.boxes, rtol=1e-12, atol=1e-12)
        counts.append(len(ours))
    assert min(counts) > 0 and 4 in counts and max(counts) > 20


def test_python(cases: list[Case], root: Path) -> None:
    path = root / "qtools/pipeline/bundles/templates/python/qtools_detect.py"
    spec = importlib.util.spec_from_file_location("qtools_detect", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [module.detect(each.logits.reshape(-1), each.boxes.reshape(-1), each.contract) for each in cases]
    check(cases, [[dict(zip(("index", "label", "score", "box"), row, strict=True)) for row in rows] for rows in found])


SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
const { anchors, detect } = await import("./detect.mjs");
const cases = JSON.parse(readFileSync("cases.json"));
const found = cases.map(({ logits, boxes, contract }) =>
  detect(Float32Array.from(logits), Float32Array.from(boxes), contract));
const digest = (grid) =>
  createHash("sha256").update(new Uint8Array(Float32Array.from(anchors(grid)).buffer)).digest("hex");
const digests = cases.map(({ contract }) => contract.decoding.anchors && digest(contract.decoding.anchors));
writeFileSync("found.json", JSON.stringify({ found, digests }));
"""


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_javascript(cases: list[Case], root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "qtools/pipeline/bundles/templates/web/detect.js", tmp_path / "detect.mjs")
    rows = [
        {
            "logits": each.logits.reshape(-1).tolist(),
            "boxes": each.boxes.reshape(-1).tolist(),
            "contract": each.contract,
        }
        for each in cases
    ]
    (tmp_path / "cases.json").write_text(json.dumps(rows))
    (tmp_path / "run.mjs").write_text(SCRIPT)
    ended = subprocess.run([str(NODE), "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    said = json.loads((tmp_path / "found.json").read_text())
    check(cases, said["found"])
    # what a contract has as anchors_sha256
    assert said["digests"] == [each.decoding.anchors.digest if each.decoding.anchors else None for each in cases]
