"""`--dry-run` foretells what a run then reports, and writes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

OWN = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "held_out")


@pytest.fixture(scope="module")
def foreseen(tmp_path_factory, qtools, album) -> Any:
    folder = album.furnish(tmp_path_factory.mktemp("dry"))
    before = sorted(folder.iterdir())
    ended = qtools(folder, *OWN, "--target", "all", "--dry-run", "--json")
    assert sorted(folder.iterdir()) == before
    return ended


def test_every_target_is_foreseen(foreseen: Any) -> None:
    assert foreseen.code == 0, foreseen.err
    found = json.loads(foreseen.out)["predictions"]
    assert [each["target"] for each in found] == ["tflite", "onnx", "coreml"]
    assert all(each["places"]["rows"] for each in found)


def test_a_run_reports_the_same(foreseen: Any, qtools: Any) -> None:
    ended = qtools(foreseen.cwd, *OWN, "--target", "onnx", "--evaluation", "8")
    assert ended.code in (0, 1), ended.err
    expected = {each["target"]: each["places"] for each in json.loads(foreseen.out)["predictions"]}["onnx"]
    assert ended.report()["places"] == expected
    assert "Where each operation runs" in ended.out
