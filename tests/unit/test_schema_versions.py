"""Files of every schema version there ever was are read: tests/golden holds one of each, written by the qtools of then.

Whoever raises a version keeps the old file, adds one of the new, and keeps reading both.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from calibration.collect import write_stats
from calibration.plan_file import read_plan
from exporters.tflite import TARGET
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Lowered
from qtools.core.types import PLAN_SCHEMA, QuantPlan
from qtools.pipeline import contract, float_artifact, kept
from qtools.pipeline import run_facts as facts_of_runs
from reports.bench import BENCH_FILE, BENCH_SCHEMA
from reports.build import REPORT_SCHEMA, read_report
from reports.sweep import SWEEP_FILE, SWEEP_SCHEMA

GOLDEN = Path(__file__).parents[1] / "golden"


def run_facts(path: Path) -> kept.RunFacts:
    inside = path.parent / "run" / kept.FOLDER
    inside.mkdir(parents=True, exist_ok=True)
    save_file({"float.w": torch.ones(1)}, inside / kept.WEIGHTS)
    write_stats(inside / kept.STATS, {})
    shutil.copy(path, inside / facts_of_runs.FILE)
    return kept.read(inside.parent).facts


WEIGHT = torch.arange(96.0).reshape(4, 2, 3, 4)


def float_facts(path: Path) -> Lowered | None:
    """The file that this artifact was cut to: its weight lies between two words, the axes in another order."""
    inside = path.parent / "kept"
    inside.mkdir(exist_ok=True)
    shutil.copy(path, inside / float_artifact.FACTS)
    (inside / float_artifact.REST).write_bytes(zlib.compress(b"headtail"))
    found = float_artifact.read(inside, {"weight": WEIGHT}, TARGET, path.parent)
    assert found is not None
    assert found.path.read_bytes() == b"head" + WEIGHT.numpy().transpose(0, 2, 3, 1).tobytes() + b"tail"
    return found


SPEC = ((8, 8), "center", (0.5,) * 3)
RUN = ("int8", (224, 224), ("cat", "dog"))
READERS: dict[str, tuple[int, Callable[[Path], Any], Callable[[Any], object], object]] = {
    "report": (REPORT_SCHEMA, read_report, lambda r: (r.subject.model, len(r.ledger), r.checks[0].name), None),
    "bench": (
        BENCH_SCHEMA,
        lambda p: BENCH_FILE.parse(p.read_text(), p.name),
        lambda b: b.timings[0].artifact,
        "m",
    ),
    "contract": (
        contract.CONTRACT_SCHEMA,
        contract.read,
        lambda c: (c.preparation.size, c.preparation.crop, c.preparation.mean),
        SPEC,
    ),
    "run": (facts_of_runs.RUN_SCHEMA, run_facts, lambda f: (f.io, f.input.size, f.classes), RUN),
    "float": (
        float_artifact.FLOAT_SCHEMA,
        float_facts,
        lambda f: (f.binding["image"].shape, f.binding["weight"].tensor, f.unbound, f.max_error),
        ((1, 8, 8, 3), "weight", {"bias": "folded"}, 1e-7),
    ),
    "sweep": (
        SWEEP_SCHEMA,
        lambda p: SWEEP_FILE.parse(p.read_text(), p.name),
        lambda s: (s.side_by_side, [(r.cell, r.status, r.value, r.cost("size"), r.cost("latency")) for r in s.rows]),
        (2, [("net-a", "passed", 80.0, 10.0, 1.0), ("net-b", "error", None, None, None)]),
    ),
    "plan": (PLAN_SCHEMA, read_plan, lambda p: (p.model, p.values["image"].params.scale), ("m", (0.05,))),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_version_is_read(kind: str, tmp_path: Path) -> None:
    newest, read, facts, expected = READERS[kind]
    for version in range(1, newest + 1):
        path = Path(shutil.copy(GOLDEN / f"{kind}-{version}.json", tmp_path))
        found = facts(read(path))
        if expected is not None:
            assert found == expected
        held = json.loads(path.read_text())
        if kind == "report":
            first = held["checks"][0]["name"]
            assert found == (held["subject"]["model"], len(held["ledger"]), first)
        assert held.get("schema_version", version) == version


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("version", [0, -1, 2.5, "1", None, 10**30, True], ids=str)
def test_a_version_that_is_not_known_is_refused(kind: str, version: Any, tmp_path: Path) -> None:
    newest, read, _, _ = READERS[kind]
    held = json.loads((GOLDEN / f"{kind}-{newest}.json").read_text())
    path = tmp_path / f"{kind}.json"
    path.write_text(json.dumps(held | {"schema_version": newest + 1}))
    with pytest.raises(InputError):
        read(path)
    if version in ("1", True):  # pydantic takes both for 1
        return
    path.write_text(json.dumps(held | {"schema_version": version}))
    with pytest.raises(InputError):
        read(path)


def test_a_plan_from_before_versions_is_the_first_and_is_written_with_its_number(tmp_path: Path) -> None:
    assert "schema_version" not in json.loads((GOLDEN / "plan-1.json").read_text())
    plan = read_plan(GOLDEN / "plan-1.json")
    again = files.write_text(tmp_path / "plan.json", files.to_json(plan))
    assert json.loads(again.read_text())["schema_version"] == 1 and read_plan(again) == plan


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    held = json.loads((GOLDEN / "report-1.json").read_text())
    path = tmp_path / "report.json"
    path.write_text(json.dumps(held | {"written_by_a_later_qtools": {"a": 1}}))
    assert read_report(path).subject.model == held["subject"]["model"]
    plan: QuantPlan = read_plan(GOLDEN / "plan-1.json")
    assert plan.values["softmax"].params is None
