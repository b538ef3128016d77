"""The report as Markdown, for release notes and pull requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from reports.audit import Audit
from reports.build import Report
from reports.render import _audit
from reports.render import _wording as words
from reports.verdict import notices, verdict

WORST = 10


def render(report: Report) -> str:
    """GitHub-flavoured Markdown; every name is escaped, so that none becomes a tag, a link or a cell border."""
    report = words.cleaned(report)
    result = verdict(report)
    parts = [
        f"# {plain(words.title(report))}",
        f"**{result.word.upper()}.** {plain(result.sentence)}",
        *((f"**{plain(_audit.headline(report))}**",) if report.audit else ()),
        *(f"> **Note:** {plain(text)}" for text in notices(report)),
        _bullets((tile.label, f"{tile.value} ({tile.detail})") for tile in words.tiles(report)),
        "## Accuracy",
        table(*_audit.ledger(report)) if report.audit else _ledger(report),
        *(_sections(report, report.audit) if report.audit else ()),
        "## Checks",
        _checks(report) if report.all_checks else "Nothing was checked.",
    ]
    if classes := words.part_rows(report):
        parts += [f"## {words.part_title(report)}", table(words.part_heads(report), classes)]
    if report.steps:
        parts += ["## Steps on the weights", table(words.STEP_HEADS, map(words.step_cells, report.steps))]
    if islands := report.islands:
        parts += [f"## {words.ISLAND_TITLE}", plain(f"{islands.told}.")]
        parts += [table(words.island_heads(report), words.island_rows(report))] if islands.rows else []
    if places := report.places:
        cells = table(words.PLACE_HEADS, (words.place_cells(places, row) for row in places.rows))
        parts += [f"## {words.PLACE_TITLE}", plain(f"{places.summary}."), cells]
    if report.fidelity:
        parts += ["## Weakest tensors", _worst(report)]
    differing = [row for row in report.differences if row.differing]
    if differing:
        rows = [(d.kind, f"{d.differing:,}", f"{d.codes:,}", str(d.max_difference), d.reason) for d in differing]
        parts += ["## Codes that differ between simulated and real",
                  table(("Kind", ">differing", ">of", ">by at most", "why"), rows)]  # fmt: skip
    parts += ["## Made from", _origin(report)]
    return "\n\n".join(parts) + "\n"


def _sections(report: Report, audit: Audit) -> Iterable[str]:
    """What an audit adds."""
    yield f"## {_audit.TITLES['causes']}"
    if reason := _audit.no_cause(audit):
        yield plain(reason)
    if audit.findings:
        yield table(_audit.FINDING_HEADS, map(_audit.finding_cells, audit.findings))
    if lines := _audit.remarks(report):
        yield "\n".join(f"- {plain(line)}" for line in lines)
    if audit.changes:
        weakest = audit.calibration is not None
        rows = _audit.weak_rows(audit) if weakest else _audit.class_rows(audit)
        yield f"## {_audit.TITLES['weakest' if weakest else 'classes']}"
        yield table(_audit.WEAK_HEADS if weakest else _audit.CLASS_HEADS, rows)
        yield plain(_audit.class_note(audit))
    if audit.drift or audit.calibration:
        yield f"## {_audit.TITLES['confidence']}"
        yield table(_audit.CONFIDENCE_HEADS, _audit.confidence_rows(audit))
    if audit.flips:
        yield f"## {_audit.TITLES['flips']}: {audit.flipped}"
        yield table(_audit.FLIP_HEADS, _audit.flip_rows(audit))
    if audit.alternatives:
        yield f"## {_audit.TITLES['otherwise']}"
        yield table(_audit.OTHERWISE_HEADS, _audit.otherwise_rows(audit))
        yield plain(_audit.otherwise_note(audit))
    if audit.sweep:
        yield f"## {_audit.TITLES['sweep']}"
        yield table(_audit.SWEEP_HEADS, _audit.sweep_rows(audit.sweep))
        yield plain(_audit.sweep_note(audit.sweep))
        for front in audit.sweep.fronts:
            yield f"### {_audit.front_title(front)}"
            yield table(_audit.FRONT_HEADS, _audit.front_rows(front))
            yield plain(_audit.front_note(front))


def plain(text: str) -> str:
    """Text without meaning in Markdown or HTML."""
    escaped = re.sub(r"([\\`*_{}\[\]#|!~&@])", r"\\\1", text)
    # a bare address would become a link on GitHub
    return escaped.replace("<", "&lt;").replace(">", "&gt;").replace("://", ":\\//")


def _ledger(report: Report) -> str:
    rows = []
    for row in report.ledger:
        scores = row.accuracy
        if scores is None:
            rows.append((row.stage, words.DASH, words.NOT_RUN, row.note, *[words.DASH] * 3))
            continue
        level, changes = words.number(scores.score), (words.drop_text(row), words.flips_text(row))
        rows.append((row.stage, str(scores.n), level, *changes, words.agreement_text(row), words.kl_text(row)))
    head = (
        "Stage",
        ">n",
        f">{words.metric(report)}",
        ">drop [95 %], points",
        ">lost / gained",
        ">agreement",
        ">KL, nats",
    )
    return table(head, rows)


def _checks(report: Report) -> str:
    rows = [
        (words.STATUS_SIGNS[c.status], c.name, words.check_value(c), words.check_limit(c), c.note)
        for c in report.all_checks
    ]
    return table(("Status", "Check", ">value", ">limit", "note"), rows)


def _worst(report: Report) -> str:
    rows = [
        (words.place(row), row.kind, words.decibels(row.sqnr_simulated_db), words.decibels(row.sqnr_real_db))
        for row in report.fidelity[:WORST]
    ]
    return table(("Module", "kind", ">simulated, dB", ">real, dB"), rows)


def _origin(report: Report) -> str:
    environment = report.environment
    machine = f"{environment.cpu}, {environment.cores} cores ({', '.join(environment.isa)}), {environment.system}"
    return _bullets(
        [
            ("Command", report.subject.command),
            ("qtools", report.tool_version),
            ("Weights", words.weights_text(report)),
            ("Images", words.data_text(report)),
            ("Machine", machine),
            *((f"sha256 of {name}", digest) for name, digest in sorted(report.digests.items())),
        ]
    )


def _bullets(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{plain(name)}:** {plain(text)}" for name, text in pairs)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table; a leading ">" aligns a column to the right."""
    lines = ["| " + " | ".join(plain(name.removeprefix(">")) for name in head) + " |"]
    lines.append("|" + "|".join("---:" if name.startswith(">") else "---" for name in head) + "|")
    lines += ["| " + " | ".join(map(plain, row)) + " |" for row in rows]
    return "\n".join(lines)


RENDER = render
