"""The list of digests against sha256sum, and the bill of materials against what is installed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from qtools.core.errors import InputError
from qtools.pipeline import seal
from reports import sbom
from reports.build import Data, Measured, Report, Size, Subject, Weights
from reports.environment import Environment

DIGESTS = {"artifact": "a" * 64, "plan": "b" * 64, "weights": "c" * 64, "calibration": "d" * 64}
REPORT = Report(
    tool_version="1.2.3",
    subject=Subject("m", "f", True, "tflite", "w8a8", "auto", ""),
    weights=Weights("file", "trained.pth", "CC0-1.0"),
    data=Data("folder", 1, 1, False),
    ledger=(), fidelity=(), differences=(), ranges=(), size=Size(1, 2), checks=(),
    environment=Environment("Linux", "x86_64", "cpu", (), 1, "3.11", {}),
    digests=DIGESTS, warnings=(), measured=Measured(None, {}),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "model.mlpackage" / "Data" / "weight file.bin").write_bytes(b"weights")
    (tmp_path / "plan.json").write_text("{}")
    seal.sums(tmp_path)
    return tmp_path


def test_sha256sum_reads_the_list(folder: Path) -> None:
    lines = (folder / seal.SUMS).read_text().splitlines()
    assert lines[1] == f"{hashlib.sha256(b'{}').hexdigest()}  plan.json" and len(lines) == 2
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("no sha256sum here")
    subprocess.run([program, "--check", "--strict", "--quiet", seal.SUMS], cwd=folder, check=True)


def test_a_changed_and_a_missing_file_are_named(folder: Path) -> None:
    assert seal.check(folder).status == "passed"
    (folder / "audits").mkdir()
    (folder / "audits" / "later.json").touch()
    assert seal.check(folder).status == "passed"
    (folder / "plan.json").write_text("{ }")
    (folder / "model.mlpackage" / "Data" / "weight file.bin").unlink()
    found = seal.check(folder)
    assert found.status == "failed" and found.value == 2
    assert "weight file.bin is missing" in found.note and "plan.json is another" in found.note
    (folder / seal.SUMS).unlink()
    assert seal.check(folder).status == "not run"


@pytest.mark.parametrize(
    "line", ["text", "0" * 64 + "  ../other", "0" * 64 + "  /etc/passwd", "0" * 64 + "  a\x1b[31m"]
)
def test_a_list_names_files_of_its_folder_only(folder: Path, line: str) -> None:
    (folder / seal.SUMS).write_text(line + "\n")
    with pytest.raises(InputError, match="line 1"):
        seal.check(folder)


def test_the_bill_names_what_went_in_and_every_package_that_worked(tmp_path: Path) -> None:
    first = seal.bill(tmp_path, REPORT, Path("model.tflite")).read_bytes()
    assert seal.bill(tmp_path, REPORT, Path("model.tflite")).read_bytes() == first
    made = json.loads(first)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": DIGESTS["artifact"]}]
    by_name = {each["name"]: each for each in made["components"]}
    assert by_name["trained.pth"]["hashes"][0]["content"] == DIGESTS["weights"]
    assert by_name["trained.pth"]["licenses"] == [{"license": {"name": "CC0-1.0"}}]
    for name in ("numpy", "torch", "ai-edge-litert", "onnxruntime", "coremltools", "protobuf", "sympy"):  # and theirs
        assert by_name[name]["version"] == metadata.version(name)
        assert by_name[name]["purl"] == f"pkg:pypi/{name}@{metadata.version(name)}"
    assert "pytest" not in by_name and "qtools" not in by_name  # a tool of the tests; the tool itself
    refs = [each["bom-ref"] for each in made["components"]] + [made["metadata"]["component"]["bom-ref"]]
    assert len(set(refs)) == len(refs)
    assert {ref for each in made["dependencies"] for ref in (each["ref"], *each["dependsOn"])} <= set(refs)


def test_requirements_are_followed_past_markers_and_extras() -> None:
    found = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower() for each in sbom.installed()}
    direct = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in metadata.requires("qtools") or ()}
    there = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower() for each in metadata.distributions()}
    assert "torch" in direct & there
    assert direct & there <= found
