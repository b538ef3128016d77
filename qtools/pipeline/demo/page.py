"""A run's page: the web bundle's, with what this machine's own process answers beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from qtools.pipeline import bundle, contract_of_run, picture_vectors
from qtools.pipeline.audit import restore
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.bundles import web
from qtools.pipeline.demo.answers import Answers
from qtools.pipeline.demo.server import Later
from qtools.pipeline.picture_vectors import Content, Tolerance
from qtools.pipeline.progress import Listener, Silent, Stopwatch

INSTALLED = "bundles/web/node_modules"
"""Where a run's web bundle has the browser's runtime, once somebody installed it."""
NONE = Tolerance(0.0, {}, "no pictures are here")
_KIND = dataclasses.replace(web.BUNDLE, title="the page", formats=("onnx", "tflite", "mlpackage"))


@dataclass(frozen=True)
class DemoConfig:
    """What is shown.

    Attributes:
        run: A run folder, or one of `--target all`.
        weights: File with the float weights, for a run on a file of the user's.
        builder: "package.module:function" of the float network, for a run on a module of the user's.
    """

    run: Path
    weights: str = ""
    builder: str = ""


@dataclass(frozen=True)
class Page:
    """A page that is ready to be served.

    Attributes:
        answers: What this process says to pictures.
        not_in_browser: Why the browser does not run the artifact itself; "" where it does.
    """

    answers: Later
    not_in_browser: str


def write(config: DemoConfig, folder: Path, listener: Listener) -> Page:
    """Writes the page into a folder, and begins to load the network.

    Raises:
        InputError: If there is no such run, or its float weights have to be named.
        CheckFailed: If the artifact is not the one that was audited.
    """
    listener.stage("read the run")
    place = bundle.choose(config.run, "web", _KIND)
    shipped = contract_of_run.open_run(place)
    run = restore.read(AuditConfig(place, weights=config.weights, builder=config.builder))
    listener.stage("write the page")
    modules = (config.run / INSTALLED).resolve()
    reason = web.refusal(shipped.whole)
    if reason:
        reason = f"{reason}; {web.REMEDY}"
    elif not modules.is_dir():
        reason = f"its runtime is not here: qtools bundle {config.run} --platform web, then npm install in that folder"
    content = Content(shipped.whole, (), NONE)
    if not reason:  # the bundle beside the runtime has the pictures, and its own artifact is held against the contract
        content = picture_vectors.read(modules.parent / web.BUNDLE.vectors, shipped.whole)
        (folder / "node_modules").symlink_to(modules)
    bundle.write(content, shipped, dataclasses.replace(_KIND, place=lambda *_: None), folder)
    answers = Answers(run, shipped, Stopwatch(Silent()))
    web.place_page(content, folder, not_in_browser=reason, answered=answers.titles)
    return Page(Later(answers.makers()), reason)
