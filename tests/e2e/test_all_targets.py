"""One calibration, three artifacts: each as good as a run of its own, held against each other, and verifiable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtools.core import files
from qtools.pipeline import seal, vectors

pytestmark = pytest.mark.e2e

ASKED = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "held_out", "--json")
TARGETS = ("tflite", "onnx", "coreml")
ARTIFACTS = {"tflite": "model.tflite", "onnx": "model.onnx", "coreml": "model.mlpackage"}
EVALUATED = 60


@pytest.fixture(scope="module")
def everything(tmp_path_factory, qtools, album) -> Any:
    return qtools(album.furnish(tmp_path_factory.mktemp("all")), *ASKED, "--target", "all", "--out", "together")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, qtools, album) -> Path:
    """Each target by itself, on the same pictures."""
    folder = album.furnish(tmp_path_factory.mktemp("alone"))
    for target in TARGETS:
        assert qtools(folder, *ASKED, "--target", target, "--out", target, "--no-cache").code in (0, 1)
    return folder


@pytest.fixture
def together(everything, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(everything.cwd / "together", tmp_path / "together"))


def test_each_artifact_is_the_one_that_a_run_of_its_own_makes(everything, alone):
    for target, name in ARTIFACTS.items():
        ours = everything.cwd / "together" / target
        assert files.digest(ours / name) == files.digest(alone / target / name), target
        assert (ours / "plan.json").read_bytes() == (alone / target / "plan.json").read_bytes()


def test_what_is_printed_is_what_is_written(everything):
    printed = json.loads(everything.out)
    assert [report["subject"]["target"] for report in printed["reports"]] == list(TARGETS)
    for target, report in zip(TARGETS, printed["reports"], strict=True):
        assert report == json.loads((everything.cwd / "together" / target / "report.json").read_text())
        assert all(check["status"] == "passed" for check in report["checks"]), target
    assert printed["cross"] == json.loads((everything.cwd / "together" / "cross.json").read_text())


def test_each_row_of_places_has_its_time_or_why_not(everything):
    for report in json.loads(everything.out)["reports"]:
        found, rows = report["measured"]["prices"], report["places"]["rows"]
        if report["subject"]["target"] == "coreml":
            assert found["rows"] == [] and found["note"].startswith("not run: ")
            continue
        assert len(found["rows"]) == len(rows) and not found["note"]
        shares = [share for row in found["rows"] for share in row.values()] + [found["ends"], found["loose"]]
        assert sum(shares) == pytest.approx(1) and min(shares) >= 0


def test_artifacts_agree_as_their_own_answers_say(everything):
    """The pairs of the report, from the recorded answers of the artifacts on the first pictures."""
    cross = json.loads((everything.cwd / "together" / "cross.json").read_text())
    assert {(p["first"], p["second"]) for p in cross["pairs"]} == {
        ("tflite", "onnx"), ("tflite", "coreml"), ("onnx", "coreml"),
    }  # fmt: skip
    assert {pair["images"] for pair in cross["pairs"]} == {EVALUATED}
    assert all(pair["agreement"] > 0.9 and 0 < pair["largest_gap"] < 1 for pair in cross["pairs"])
    reasons = {(each["target"], each["reason"]) for each in cross["forced"]}
    assert ("tflite", "the tflite kernel fixes it") in reasons
    assert ("coreml", "added in float by the kernel") in reasons


@pytest.mark.parametrize("target", TARGETS)
def test_a_whole_run_folder_verifies(everything, qtools, target):
    for what in (target, f"{target}/{ARTIFACTS[target]}"):
        ended = qtools(everything.cwd / "together", "verify", what, "--json")
        found = json.loads(ended.out)
        assert ended.code == 0 and found["target"] == target, ended.err
        assert {check["status"] for check in found["checks"]} == {"passed"}
    assert len(vectors.read(everything.cwd / "together" / target / vectors.FILE)) == vectors.COUNT


def failed(ended: Any) -> set[str]:
    assert ended.code == 1, ended.err
    return {check["name"] for check in json.loads(ended.out)["checks"] if check["status"] == "failed"}


def test_a_changed_artifact_fails(together, qtools):
    path = together / "tflite" / "model.tflite"
    path.write_bytes(path.read_bytes() + b"\0")
    assert failed(qtools(together, "verify", "tflite", "--json")) == {"artifact is the one reported", seal.CHECK}


def test_an_artifact_of_another_run_answers_otherwise(together, qtools, album):
    """Other pictures to calibrate on give another plan: it is named, and the recorded answers are not its own."""
    folder = album.furnish(together.parent / "other")
    album.class_folders(folder / "calibration", 4, first=50)
    words = [*ASKED, "--target", "tflite", "--method", "minmax", "--out", "run"]
    assert qtools(folder, *words).code in (0, 1)
    shutil.copy(folder / "run" / "model.tflite", together / "tflite" / "model.tflite")
    assert failed(qtools(together, "verify", "tflite", "--json")) >= {
        "artifact is the one reported", "artifact names the reported plan", "golden vectors replayed",
    }  # fmt: skip


def test_changed_vectors_and_plans_fail(together, qtools):
    file = together / "onnx" / vectors.FILE
    recorded = vectors.read(file)
    ((name, answer),) = recorded[0].outputs.items()
    wrong = vectors.Vector(recorded[0].inputs, {name: np.flip(answer, -1).copy()})
    vectors.write(file, [wrong, *recorded[1:]])
    assert failed(qtools(together, "verify", "onnx", "--json")) == {
        "vectors are the ones reported", "golden vectors replayed", seal.CHECK,
    }  # fmt: skip
    (together / "coreml" / "plan.json").write_text("{}")
    (together / "coreml" / vectors.FILE).unlink()
    assert failed(qtools(together, "verify", "coreml", "--json")) == {
        "plan is the one reported", "vectors are the ones reported", "golden vectors replayed", seal.CHECK,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "nothing.tflite"), "does not exist"),
        (("verify", "user_network.py"), "there is no report.json beside user_network.py"),
    ],
)
def test_what_cannot_be_verified_says_why(everything, qtools, words, message):
    ended = qtools(everything.cwd, *words)
    assert ended.code == 2 and message in ended.err and "next:" in ended.err


def test_a_damaged_report_or_vector_file_is_bad_input(together, qtools):
    (together / "tflite" / vectors.FILE).write_bytes(b"PK\x03\x04 no archive")
    ended = qtools(together, "verify", "tflite")
    assert ended.code == 2 and "golden vectors" in ended.err
    (together / "onnx" / "report.json").write_text('{"schema_version": 1}')
    assert qtools(together, "verify", "onnx").code == 2


def test_options_of_one_target_are_refused(everything, qtools):
    ended = qtools(everything.cwd, *ASKED, "--target", "all", "--onnx-activations", "int8")
    assert ended.code == 2 and "no option of one target" in ended.err
