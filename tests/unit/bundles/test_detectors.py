"""Boxes as apps make them, in each language, against the arithmetic that runs are judged by."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.bundles.detector_cases import Case, check, drawn

NODE = shutil.which("node")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return drawn()


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
