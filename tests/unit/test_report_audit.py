"""An audit's part of a report in every form: honest words, names that try to leave their place, JSON and back."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from qtools.core.checks import Check
from qtools.core.plugins import find
from reports import build
from reports.accuracy import paired_accuracy, wilson_interval
from reports.audit import WRONG, Alternative, Audit, Finding, FlippedImage, Stopping
from reports.build import Data, LedgerRow, Report, Size, Subject, Weights
from reports.classes import class_changes, flips
from reports.confidence import calibration_drift
from reports.environment import Environment
from reports.render import _audit
from reports.verdict import notices, verdict

HOSTILE = '"]]><script>alert(1)</script>|`<img src=x onerror=y>\x1b[31m'
FORMS = ("terminal", "markdown", "html", "junit", "model_card")


def audit_report(hostile: str = "", labelled: bool = True, stopping: Stopping | None = None) -> Report:
    """A report with every section of an audit; `hostile` stands in every free text."""
    draw = np.random.default_rng(2)
    exact = draw.normal(0, 2, (400, 6))
    labels = np.where(draw.random(400) < 0.8, exact.argmax(1), draw.integers(0, 6, 400))
    answer = exact + draw.normal(0, 0.6, exact.shape)
    seen = labels if labelled else None
    scores = [paired_accuracy(seen, exact, logits) for logits in (exact, exact + (answer - exact) / 2, answer)]
    moves = flips(exact, answer, seen)
    finding = Finding(
        "outlier channel" + hostile, ("conv" + hostile, "add"), "stem" + hostile, "channel 3" + hostile,
        "channel 3 on a grid of its own" + hostile, 0.08, 0.02, (0.05, 0.07), 48, "qtools quantize ..." + hostile,
    )  # fmt: skip
    audit = Audit(
        (finding, dataclasses.replace(finding, cause="preprocessing: BGR" + hostile, measure=WRONG)),
        0.08,
        32,
        classes=tuple(f"class {i}{hostile}" for i in range(6)),
        changes=class_changes(labels, exact, answer) if labelled else (),
        class_count=6,
        flips=moves,
        flipped=sum(row.count for row in moves),
        pictures=(FlippedImage("a.jpg" + hostile, 1 if labelled else None, 1, 2, "/9j/4AAQ"),),
        drift=calibration_drift(labels, exact, answer) if labelled else None,
        smallest_drop=2.5 if labelled else None,
        stopping=stopping,
        alternatives=(Alternative("red and blue exchanged" + hostile, 96, 80.0, 20.0, 60, 2, 1e-9),)
        if labelled
        else (),
    )
    checks = (Check("drop at most 1 points", "passed", 0.1, "points", 1.0),) if stopping else ()
    return Report(
        "0.1.0",
        Subject("net" + hostile, "", True, "tflite", "w8a8", "auto", "qtools audit run" + hostile),
        Weights("file", "own.safetensors" + hostile, "MIT"),
        Data("folder", 0, 400, labelled, hostile),
        tuple(
            LedgerRow(name + hostile, "step" if i else "reference", each)
            for i, (name, each) in enumerate(zip(("float", "simulated", "artifact"), scores, strict=True))
        ),
        (),
        (),
        (),
        Size(100, 400),
        checks,
        Environment("Debian", "x86_64", "a CPU" + hostile, (), 2, "3.11", {}),
        {"artifact": "ab" * 32},
        audit=audit,
    )


def alone() -> Report:
    """An artifact of other origin, with nothing to compare it with."""
    report = audit_report()
    assert report.audit and report.audit.drift
    audit = dataclasses.replace(
        report.audit, findings=(), drift=None, calibration=report.audit.drift.other, flips=(), pictures=(),
        distance=None, note="no network", smallest_drop=None,
    )  # fmt: skip
    return dataclasses.replace(
        report,
        weights=Weights("artifact", "x.tflite", "unknown"),
        ledger=(dataclasses.replace(report.ledger[0], stage="artifact"),),
        size=Size(100, None),
        audit=audit,
    )


def rendered(form: str, of: Report) -> str:
    text: str = find("reports.render", form, "RENDER")(of)
    return text


@pytest.mark.parametrize("labelled", [True, False])
def test_json_holds_all_that_the_forms_show(labelled: bool) -> None:
    report = audit_report(labelled=labelled)
    back = build.parse_report(build.report_text(report))
    assert back == report
    assert all(rendered(form, back) == rendered(form, report) for form in FORMS)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("make", [audit_report, lambda hostile: audit_report(hostile, labelled=False)])
def test_hostile_names_stay_text(make: Any) -> None:
    for form in FORMS:
        assert "\x1b" not in rendered(form, make(HOSTILE))
    tags = _Tags()
    tags.feed(rendered("html", make(HOSTILE)))
    plain = _Tags()
    plain.feed(rendered("html", make("")))
    assert [tag for tag, _ in tags.found] == [tag for tag, _ in plain.found]
    (image,) = (attributes for tag, attributes in tags.found if tag == "img")
    assert image["src"] == "data:image/jpeg;base64,/9j/4AAQ" and "onerror" not in image
    assert "<script" not in rendered("markdown", make(HOSTILE))


def test_without_a_limit_nothing_passes() -> None:
    report = audit_report()
    assert verdict(report).word == "measured" and "--max-drop" in verdict(report).sentence
    for form in ("terminal", "markdown", "html"):
        assert "PASSED" not in rendered(form, report) and ">passed<" not in rendered(form, report)


@pytest.mark.parametrize(("status", "word"), [("passed", "passed"), ("failed", "failed"), ("not run", "incomplete")])
def test_a_limit_decides_the_word(status: Any, word: str) -> None:
    stopping = Stopping(1.0, 0.95, 900, 400, "pass", (-0.3, 0.7))
    report = audit_report(stopping=stopping)
    report = dataclasses.replace(report, checks=(dataclasses.replace(report.checks[0], status=status),))
    assert verdict(report).word == word
    assert "[−0.30, 0.70] over all looks at 95%" in _audit.headline(report)


def test_the_headline_says_accuracy_with_its_interval_size_and_time() -> None:
    report = audit_report()
    scores = report.ledger[-1].accuracy
    assert scores and scores.drop is not None and scores.drop_interval
    text = _audit.headline(report)
    assert f"drop {scores.drop:.2f} points" in text and "0.250 of float" in text and "Latency not run" in text
    assert f"[{scores.drop_interval[0]:.2f}".replace("-", "−") in text
    other = _audit.headline(audit_report(labelled=False))
    assert "Agreement with float" in other and "without labels" in other and "drop" not in other


def test_an_artifact_alone_shows_no_drop() -> None:
    report = alone()
    lo, hi = wilson_interval(round(report.ledger[0].accuracy.top1 * 4), 400)  # type: ignore[union-attr, operator]
    assert f"95 % [{lo:.2f}, {hi:.2f}]" in _audit.headline(report)
    assert any("--against" in text for text in notices(report))
    for form in ("terminal", "markdown", "html"):
        text = rendered(form, report)
        assert "Causes were not looked for" in text or "No cause could be proven" in text
        assert "not measured" not in text and "0.00 [" not in text and "McNemar p =" not in text
    assert "change of top-1 against float" not in rendered("html", report)
    heads, rows = _audit.ledger(report)
    assert ">drop [95 %], points" not in heads and len(rows) == 1


def test_steps_without_labels_are_in_the_ledger() -> None:
    report = audit_report(labelled=False)
    heads, rows = _audit.ledger(report)
    assert heads == ("Stage", ">n", ">agreement", ">step", ">KL, nats", ">step")
    moved = [float(row[3].replace("−", "-")) for row in rows[1:]]
    scores = report.ledger[-1].accuracy
    assert scores is not None and sum(moved) == pytest.approx(scores.agreement - 100, abs=0.02)


def test_why_there_is_no_cause() -> None:
    report = audit_report()
    assert report.audit is not None
    found = dataclasses.replace(report.audit, findings=())
    assert _audit.no_cause(report.audit) == ""
    assert "32 images" in _audit.no_cause(found) and "0.08" in _audit.no_cause(found)
    skipped = dataclasses.replace(found, distance=None, alternatives=(), note="--no-causes was given")
    assert _audit.no_cause(skipped) == "Causes were not looked for: --no-causes was given."
