"""report.json, and what every renderer makes of the names in it."""

from __future__ import annotations

import json
from pathlib import Path

from qtools.core.checks import Check
from qtools.core.plugins import find
from qtools.pipeline.report import FORMS, forms
from reports.build import Data, LedgerRow, Measured, Report, Size, Subject, Weights, read_report, report_text
from reports.environment import Environment
from reports.fidelity import Fidelity

TAG = "<zz"
"""No renderer writes it by itself; in HTML and Markdown no text may bring it along."""


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A small report."""
    report = Report(
        tool_version="0.1.0",
        subject=Subject(f"{TAG} onload=1>", "repvit", True, "tflite", "w8a8", "auto", "qtools quantize"),
        weights=Weights("file", f"{TAG}.pth", "MIT"),
        data=Data("folder", 4, 4, False, ""),
        ledger=(LedgerRow("float", "reference", None, f"{TAG}>"),),
        fidelity=(Fidelity(f"{TAG}>", 0, "conv", f"{TAG}>", (1, 2), 30.0, 30.0, 4, 0, 0),),
        differences=(),
        ranges=(),
        size=Size(100, 400),
        checks=(Check(f"{TAG}>", "passed", 1.0, "dB", 0.5, f"{TAG}>"),),
        environment=Environment("Linux", "x86_64", "cpu", ("avx2",), 2, "3.11", {"numpy": "2"}),
        digests={"weights": "0" * 64},
        warnings=(f"{TAG}>",),
        measured=Measured(None, {"load": 1.0}),
    )
    return [report_text(report).encode()]


def read(data: bytes, folder: Path) -> None:
    """As qtools report reads and shows it, in every form."""
    path = folder / "report.json"
    path.write_bytes(data)
    report = read_report(path)
    every = forms()
    for form in (every[len(data) % len(every)],):  # all of them would take seven times as long
        text = find(FORMS, form, "RENDER")(report)
        assert isinstance(text, str)
        if form in ("html", "markdown", "model_card", "junit"):
            body = text.partition("\n---\n")[2] if form == "model_card" else text
            assert TAG not in body, f"{form}: {body[body.index(TAG) - 60 :][:160]}"
        if form in ("json", "model_explorer"):
            json.loads(text)
