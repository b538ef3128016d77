"""The report's checks as JUnit XML, which CI systems show and gate on.

One test case per check and per stage of the ledger that should have run: `failure` where it failed, `skipped` where it
was not run. Structure: https://github.com/testmoapp/junitxml (what CI systems read of it).
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from qtools.core.checks import Check
from reports.build import LedgerRow, Report
from reports.render import _wording as words
from reports.verdict import notices, verdict


def render(report: Report) -> str:
    """One test suite. Names are escaped by the XML writer, characters that XML has not are replaced."""
    report = words.cleaned(report)
    checks, stages = report.all_checks, [row for row in report.ledger if row.role == "step"]
    failed = sum(check.status == "failed" for check in checks)
    skipped = sum(check.status == "not run" for check in checks) + sum(row.accuracy is None for row in stages)
    # attributes are words, so the order of the report decides and nothing else
    counts = {"tests": str(len(checks) + len(stages)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    root = ET.Element("testsuites", {"name": "qtools", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": words.title(report), **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(report):
        ET.SubElement(properties, "property", {"name": name, "value": value})
    group = f"qtools.{report.subject.target}"
    for check in checks:
        _check(ET.SubElement(suite, "testcase", {"classname": f"{group}.checks", "name": check.name}), check)
    for row in stages:
        _stage(ET.SubElement(suite, "testcase", {"classname": f"{group}.stages", "name": row.stage}), row)
    said = ET.SubElement(suite, "system-out")
    said.text = "\n".join([f"{verdict(report).word}: {verdict(report).sentence}", *notices(report)])
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _facts(report: Report) -> list[tuple[str, str]]:
    subject = report.subject
    return [
        ("qtools", report.tool_version),
        ("model", subject.model),
        ("scheme", subject.scheme),
        ("target", subject.target),
        ("command", subject.command),
        *((f"sha256 of {name}", digest) for name, digest in sorted(report.digests.items())),
    ]


def _check(case: ET.Element, check: Check) -> None:
    measured = f"{words.check_value(check)}, limit {words.check_limit(check)}"
    if check.status == "failed":
        ET.SubElement(case, "failure", {"message": measured, "type": "check"}).text = check.note
    elif check.status == "not run":
        ET.SubElement(case, "skipped", {"message": check.note or words.NOT_RUN})
    else:
        ET.SubElement(case, "system-out").text = "; ".join(filter(None, (measured, check.note)))


def _stage(case: ET.Element, row: LedgerRow) -> None:
    if row.accuracy is None:
        ET.SubElement(case, "skipped", {"message": row.note or words.NOT_RUN})
        return
    scores = (
        f"drop {words.drop_text(row)} points",
        f"agreement {words.agreement_text(row)}",
        f"KL {words.kl_text(row)}",
    )
    ET.SubElement(case, "system-out").text = "; ".join(scores)


RENDER = render
