"""The report as one HTML file: no network, no script, legible in light, dark and print."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.build import Report
from reports.render import _audit
from reports.render import _plots as plots
from reports.render import _wording as words
from reports.render._pareto import front_plot
from reports.verdict import alone, changes, measured_accuracy, notices, verdict

WORST = 12


def render(report: Report) -> str:
    """The whole page. Everything from outside goes through autoescape; only our own SVG is markup."""
    report = words.cleaned(report)
    return pages().get_template("report.html.j2").render(
        report=report,
        words=words,
        verdict=verdict(report),
        notices=notices(report),
        tiles=words.tiles(report),
        labelled=measured_accuracy(report),
        single=alone(report),
        audit=report.audit,
        audited=_audit,
        ledger=tuple(zip(report.ledger, changes(report.ledger), strict=True)),
        by_image=words.by_image(report),
        score=words.metric(report),
        interval_method=words.interval_method(report),
        differing=tuple(row for row in report.differences if row.differing),
        worst=report.fidelity[:WORST],
        ledger_plot=plots.ledger_plot(report.ledger),
        front_plot=front_plot,
        sqnr_plot=plots.sqnr_plot(report.fidelity),
        weight_plot=plots.range_plot(report.ranges, "weight"),
        activation_plot=plots.range_plot(report.ranges, "activation"),
        latency_plot=plots.latency_plot(report.measured.latency) if report.measured.latency else "",
    )  # fmt: skip


@cache
def pages() -> Environment:
    """The templates of this folder."""
    return Environment(
        loader=PackageLoader("reports", "render"),
        autoescape=True,  # model, layer and label names come from files of strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


RENDER = render
