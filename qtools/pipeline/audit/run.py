"""A run folder or an artifact of any origin in, a report with a ledger, statistics and proven causes out."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from qtools.core import files, plugins, stop
from qtools.core.claim import claim
from qtools.core.errors import InputError
from qtools.core.process import NOTHING
from qtools.pipeline.audit import restore
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.progress import Listener, Stopwatch
from reports.build import Report

FILES = {"report.json": "json", "report.html": "html"}
"""What goes into --out: file -> renderer."""


def audit(config: AuditConfig, listener: Listener) -> Report:
    """Audits what the subject is, and writes the reports where a folder is given.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses.
    """
    with ExitStack() as held:
        if config.out is not None:
            held.enter_context(claim(config.out, replace=config.force))
        if config.sensitivity is not None:
            held.enter_context(stop.leaving(partial(_measured, config.sensitivity)))
            held.enter_context(claim(config.sensitivity))
        report = _audit(config, Stopwatch(listener))
        if config.out is not None:
            write(report, config.out, replace=config.force)
    return report


def _measured(path: Path) -> str:
    """What a stopped audit leaves in the file of its sweep."""
    return f"{path} keeps what was measured; the same command goes on there" if path.is_file() else NOTHING


def _audit(config: AuditConfig, watch: Stopwatch) -> Report:
    if restore.is_run(config.subject):
        _refuse_foreign_options(config)
        from qtools.pipeline.audit import own

        return own.audit(config, watch)
    _refuse_plain_folder(config.subject)
    if config.sensitivity is not None:
        raise InputError(f"{config.subject.name} keeps no float network to sweep over", "leave --sensitivity out")
    from qtools.pipeline.audit import foreign

    return foreign.audit(config, watch)


def write(report: Report, folder: Path, *, replace: bool) -> None:
    """The report as files, whole or not at all."""
    texts = {name: plugins.find("reports.render", form, "RENDER")(report) for name, form in FILES.items()}
    with files.whole_folder(folder, replace=replace) as work:
        for name, text in texts.items():
            files.write_text(work / name, text)


def _refuse_plain_folder(path: Path) -> None:
    """A folder that is neither a run nor a package: said as that, not as a format."""
    if path.is_dir() and not path.suffix:
        runs = sorted(found.parent.parent.name for found in path.glob("*/audit/run.json"))
        inside = f"; in it are runs: {', '.join(runs[:5])}" if runs else ""
        raise InputError(
            f"{path} is a folder without report.json, so no run{inside}", "give a run folder, or an artifact"
        )


def _refuse_foreign_options(config: AuditConfig) -> None:
    for option, given in (("--against", config.against), ("--contract", config.contract)):
        if given is not None:
            raise InputError(
                f"{config.subject} is a run of qtools, which keeps its float network and its preprocessing",
                f"leave {option} out, or copy the artifact elsewhere",
            )
