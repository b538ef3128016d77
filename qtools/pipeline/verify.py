"""An artifact held against the folder it was made in: its bytes, its plan, its answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qtools.core import files, plugins
from qtools.core.checks import Check
from qtools.core.errors import InputError
from qtools.core.protocols import Target
from qtools.pipeline import contract, seal, vectors
from reports.build import Report, read_report

FLOAT_LIMIT = 1e-4
"""Largest |now - recorded| / max(1, |recorded|) of a float output: another host may add floats in another order.
Integer outputs must be equal."""
REPORT = "report.json"
TARGETS_NEXT = "give the artifact of a run folder, or qtools inspect for a file from elsewhere"


@dataclass(frozen=True)
class Verification:
    """What was compared.

    Attributes:
        artifact: Name of the file.
        model: Model of the report.
        target: Target of the report.
        checks: Every comparison.
    """

    artifact: str
    model: str
    target: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)


def run(path: Path) -> Verification:
    """Re-hashes an artifact, replays its golden vectors, and compares with its report.

    Args:
        path: The artifact inside its run folder, or the run folder.

    Raises:
        InputError: If there is no such file, or no report beside it.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    artifact = artifact_of(path)
    folder = artifact.parent
    if not (folder / REPORT).is_file():
        raise InputError(f"there is no {REPORT} beside {path.name}: nothing says what it should be", TARGETS_NEXT)
    report = read_report(folder / REPORT)
    target = target_of(report)
    checks = [
        _same("artifact is the one reported", files.digest(artifact), report.digests.get("artifact")),
        _same("plan is the one reported", _digest(folder / "plan.json"), report.digests.get("plan")),
        _same("vectors are the ones reported", _digest(folder / vectors.FILE), report.digests.get("vectors")),
        _same("contract is the one reported", _digest(folder / contract.FILE), report.digests.get("contract")),
        _own_plan(target, artifact, report),
        seal.check(folder),
        _replayed(target, artifact, folder / vectors.FILE),
        _verdict(report),
    ]
    return Verification(artifact.name, report.subject.model, report.subject.target, tuple(checks))


def artifact_of(path: Path) -> Path:
    """The artifact of a run folder; any other path is one itself.

    Raises:
        InputError: If a run folder has lost its artifact, or its report cannot be read.
    """
    if not (path / REPORT).is_file():
        return path
    artifact = path / f"model{target_of(read_report(path / REPORT)).spec.suffix}"
    if not artifact.exists():
        raise InputError(f"{path} has no {artifact.name}", "run qtools quantize again")
    return artifact


def target_of(report: Report) -> Target:
    """What the artifact of a report is for."""
    target: Target = plugins.find("exporters", report.subject.target, "TARGET")
    return target


def _digest(path: Path) -> str:
    return files.digest(path) if path.is_file() else "missing"


def _same(name: str, now: str, reported: str | None) -> Check:
    if reported is None:
        return Check(name, "not run", note="the report holds no digest of it")
    note = f"sha256 {now[:16]}" + ("" if now == reported else f", reported {reported[:16]}")
    return Check(name, "passed" if now == reported else "failed", note=note)


def _own_plan(target: Target, artifact: Path, report: Report) -> Check:
    """The plan that the artifact itself names, read as any foreign file is."""
    facts = target.inspectors[target.spec.suffix](artifact).metadata or {}
    own = facts.get("plan_sha256")
    return _same("artifact names the reported plan", str(own), report.digests.get("plan"))


def _replayed(target: Target, artifact: Path, file: Path) -> Check:
    name = "golden vectors replayed"
    if not file.is_file():
        return Check(name, "failed", note=f"{file.name} is missing")
    recorded = vectors.read(file)
    session = target.foreign(artifact, target.kernels[0], 1)
    differing, worst = 0, 0.0
    for vector in recorded:
        now = session(vector.inputs)
        gaps = [_gap(now.get(output), was) for output, was in vector.outputs.items()]
        differing += max(gaps) > FLOAT_LIMIT
        worst = max(worst, *gaps)
    note = f"{len(recorded) - differing} of {len(recorded)} vectors answered as recorded"
    note += f", floats within {worst:.1e}" if 0 < worst <= FLOAT_LIMIT else ""
    return Check(name, "failed" if differing else "passed", float(differing), "vectors", 0.0, note)


def _gap(now: np.ndarray | None, was: np.ndarray) -> float:
    """0 where equal; relative to the largest recorded number for floats; infinite where nothing can be compared."""
    if now is None or now.shape != was.shape or now.dtype != was.dtype:
        return float("inf")
    if not np.issubdtype(was.dtype, np.floating):
        return 0.0 if np.array_equal(now, was) else float("inf")
    gap = float(np.abs(now.astype(np.float64) - was).max() / max(1.0, float(np.abs(was).max())))
    return gap if np.isfinite(gap) else float("inf")


def _verdict(report: Report) -> Check:
    """Whether the run itself passed; what a clock measured belongs to the machine it ran on and is left out."""
    failed = [check.name for check in report.checks if check.status == "failed"]
    note = f"failed: {', '.join(failed)}" if failed else f"{len(report.checks)} checks of the run"
    return Check("checks of the run", "failed" if failed else "passed", note=note)
