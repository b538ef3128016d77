"""What an artifact was made of and with, as a CycloneDX 1.6 bill of materials: https://cyclonedx.org/docs/1.6/json.

The same artifact from the same environment gives the same bytes: no serial number, no time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from reports.build import Report

PROJECT = "qtools"
NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def bill(report: Report, artifact: str, sha256: Mapping[str, str]) -> dict[str, Any]:
    """The document.

    Args:
        report: Of the artifact.
        artifact: Its name.
        sha256: "artifact", "plan", "weights", "calibration" -> digest; the report's own.
    """
    made = _component("machine-learning-model", artifact, sha256.get("artifact"))
    made |= {"description": f"{report.subject.model}, {report.subject.scheme}, for {report.subject.target}"}
    weights = _component("machine-learning-model", report.weights.source or "weights", sha256.get("weights"))
    if report.weights.licence != "unknown":
        weights["licenses"] = [{"license": {"name": report.weights.licence}}]
    inputs = [
        weights,
        _component("data", "calibration images", sha256.get("calibration")),
        _component("data", "plan.json", sha256.get("plan")),
    ]
    libraries = [_library(each) for each in sorted(installed(), key=lambda each: _canonical(each.metadata["Name"]))]
    tool = {"type": "application", "name": PROJECT, "version": report.tool_version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": made, "tools": {"components": [tool]}},
        "components": inputs + libraries,
        "dependencies": [
            {"ref": made["bom-ref"], "dependsOn": [each["bom-ref"] for each in inputs]},
        ],
    }


def installed(project: str = PROJECT) -> Iterator[metadata.Distribution]:
    """Every installed package that a project's requirements reach, those of its extras too where they are there."""
    everything: frozenset[str] | None = None
    waiting, seen, told = [(_canonical(project), everything)], set[tuple[str, frozenset[str] | None]](), {project}
    while waiting:
        entry = name, extras = waiting.pop()
        if entry in seen:
            continue
        seen.add(entry)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform, or of an extra that was not asked for
            continue
        if name not in told:
            told.add(name)
            yield found
        for requirement in found.requires or ():
            wanted, asked = NAME.match(requirement), EXTRA.search(requirement)
            if wanted and (asked is None or extras is None or asked[1] in extras):
                waiting.append((_canonical(wanted[1]), frozenset(re.split(r"[ ,]+", wanted[2] or "")) - {""}))


def _component(kind: str, name: str, digest: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"type": kind, "bom-ref": f"{kind}:{name}", "name": name}
    if digest:
        found["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return found


def _library(found: metadata.Distribution) -> dict[str, Any]:
    name = _canonical(found.metadata["Name"])
    address = f"pkg:pypi/{name}@{found.version}"
    library: dict[str, Any] = {
        "type": "library",
        "bom-ref": address,
        "name": name,
        "version": found.version,
        "purl": address,
    }
    if "License-Expression" in found.metadata:
        library["licenses"] = [{"expression": found.metadata["License-Expression"]}]
    return library


def _canonical(name: str) -> str:
    """As package indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
