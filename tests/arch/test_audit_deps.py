"""What `make audit-deps` makes of pip-audit's answer: a pin that nobody could be asked about is no pass."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FINE = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1"}, {"id": "CVE-2"}]}
UNKNOWN = {"name": "odd", "skip_reason": "not found"}


@pytest.fixture(scope="module")
def audit(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_audit", root / ".ci" / "audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        ([FINE], 0, "1 pins asked about, 0 with"),
        ([FINE, BAD], 1, "bad 2: PYSEC-1, CVE-2"),
        ([FINE, UNKNOWN], 3, "not run for 1 pins: odd"),
        ([BAD, UNKNOWN], 1, "not run for 1 pins: odd"),
        ([], 3, "0 pins"),
    ],
)
def test_only_a_full_answer_passes(audit: Any, capsys: Any, rows: list[Any], status: int, said: str) -> None:
    assert audit.status({"a.lock": audit.read(json.dumps({"dependencies": rows}))}) == status
    assert said in capsys.readouterr().out


def test_a_service_that_does_not_answer_is_not_run(audit: Any, capsys: Any) -> None:
    fine = audit.read(json.dumps({"dependencies": [FINE]}))
    assert audit.status({"a.lock": fine, "b.lock": audit.Answer(0, trouble="no connection")}) == 3
    assert "b.lock: not run: no connection" in capsys.readouterr().out
