"""--max-drop from the command line: a limit that cannot be met ends in exit code 1, with what was reached."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory, qtools: Any, album: Any) -> Any:
    """Weights and activations of 2 bits, few islands, pictures without labels, and nothing may be lost."""
    folder = album.furnish(tmp_path_factory.mktemp("gate"))
    for number in range(40):
        album.save(album.picture(number % 5, 200 + number), folder / "unlabelled" / f"{number:03d}", number)
    words = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "unlabelled", "--json")
    return qtools(folder, *words, "--bits", "2", "--max-drop", "0", "--max-islands", "4")


def test_a_missed_limit_fails_and_says_what_next(missed: Any) -> None:
    assert missed.code == 1, missed.err
    report = json.loads(missed.out)
    (check,) = (check for check in report["checks"] if check["name"] == "drop within --max-drop")
    assert check["status"] == "failed" and check["value"] > 0 and check["limit"] == 0
    artifact = next(row for row in report["ledger"] if "XNNPACK" in row["stage"])
    assert check["value"] == pytest.approx(100 - artifact["accuracy"]["agreement"])
    rows = report["islands"]["rows"]
    assert "no labels" in check["note"] and f"{len(rows)} island(s)" in check["note"] and len(rows) <= 4
    assert "that is the best that was reached; next: " in check["note"] and "give --act-bits 16" in check["note"]
    assert "above the limit of 0 points" in report["islands"]["told"]
    timed = report["measured"]["islands"] or {"ratios": []}
    expected = {*(row["value"] for row in rows), "all islands"} if rows else set()
    assert {ratio["name"] for ratio in timed["ratios"]} == expected
    plan = json.loads((missed.folder() / "plan.json").read_text())
    reasons = [*plan["float_ops"].values(), *(entry["reason"] for entry in plan["values"].values())]
    for row in rows:
        assert any(f"precision island: {row['value']} in " in reason for reason in reasons)
    assert not any("this host" in reason for reason in reasons), "what a clock measured is no part of the plan"


def test_a_dry_run_refuses_what_only_measuring_can_choose(missed: Any, qtools: Any) -> None:
    ended = qtools(missed.cwd, "quantize", "--builder", "user_network:build", "--max-islands", "2", "--dry-run")
    assert ended.code == 2 and "measured benefit" in ended.err
