"""What an audit says of the run that it opens again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from exporters.tflite import TARGET
from qtools.core import files
from qtools.pipeline.audit import restore


@pytest.mark.parametrize(
    ("planned_for", "touched", "expected"),
    [
        (TARGET.spec.title, False, []),
        ("tflite int8-1", False, [restore.OTHER_RULES.format("tflite int8-1", TARGET.spec.title)]),
        (TARGET.spec.title, True, [restore.CHANGED]),
    ],
)
def test_other_rules_and_other_files_are_said(
    tmp_path: Path, planned_for: str, touched: bool, expected: list[str]
) -> None:
    artifact, plan = tmp_path / "model.tflite", tmp_path / "plan.json"
    artifact.write_bytes(b"artifact")
    plan.write_text("{}")
    digests = {"artifact": files.digest(artifact), "plan": files.digest(plan)}
    if touched:
        plan.write_text("{ }")
    run = SimpleNamespace(
        folder=tmp_path,
        artifact=artifact,
        target=TARGET,
        plan=SimpleNamespace(target=planned_for),
        report=SimpleNamespace(digests=digests),
    )
    assert list(restore.notices(run)) == expected
