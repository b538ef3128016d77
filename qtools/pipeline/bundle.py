"""A run becomes a package for an app: artifact, contract, vectors, and the platform's sources made of them."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from qtools.core import files, plugins
from qtools.core.claim import claim
from qtools.core.errors import InputError
from qtools.pipeline import contract, picture_vectors
from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import Bundle
from qtools.pipeline.contract_of_run import MADE, Run, open_run
from qtools.pipeline.picture_vectors import Content, Wanted
from qtools.pipeline.progress import Listener
from qtools.pipeline.verify import REPORT

FOLDER = "qtools.pipeline.bundles"
EVERY = "every"
"""Templates that all platforms get."""


@dataclass(frozen=True)
class BundleConfig:
    """What is asked for.

    Attributes:
        run: A run folder, or one of `--target all`.
        platform: Name of a file in bundles/.
        pictures: Of the vectors.
        out: Where it goes; None makes bundles/PLATFORM beside the run's files.
        force: Whether a folder given with `out` is replaced.
    """

    run: Path
    platform: str
    pictures: Wanted = field(default_factory=Wanted)
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Made:
    """What a bundle came to.

    Attributes:
        folder: Where it lies.
        platform: What it is for.
        artifact: The file inside that runs.
        contract: The file that says how.
        vectors: How many pictures.
        how: What to do with it.
        files: Every file, by path inside the folder.
    """

    folder: Path
    platform: str
    artifact: str
    contract: str
    vectors: int
    how: str
    files: tuple[str, ...]


def make(config: BundleConfig, listener: Listener) -> Made:
    """Writes a bundle, whole or not at all.

    Raises:
        InputError: If there is no such platform, or it cannot run what the run made.
        CheckFailed: If the artifact is not the one that was audited.
    """
    plugins.check(FOLDER, config.platform, "platform")
    kind: Bundle = plugins.find(FOLDER, config.platform, "BUNDLE")
    chosen = choose(config.run, config.platform, kind)
    folder = config.out or config.run / "bundles" / config.platform
    replace = config.force or config.out is None
    with claim(folder, replace=replace):
        listener.stage("read the run")
        run = open_run(chosen)
        listener.stage("make vectors")
        content = _with_systems(picture_vectors.make(run, config.pictures), kind)
        listener.stage("write")
        with files.whole_folder(folder, replace=replace) as work:
            write(content, run, kind, work)
            written = tuple(sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()))
    assets = Path(kind.assets)
    return Made(
        folder,
        config.platform,
        (assets / run.artifact.name).as_posix(),
        (assets / contract.FILE).as_posix(),
        len(content.vectors),
        kind.how,
        written,
    )


def choose(folder: Path, platform: str, kind: Bundle) -> Path:
    """The run itself, or that of a run for all targets whose artifact the platform likes best.

    Raises:
        InputError: If there is none that the platform can run.
    """
    if (folder / REPORT).is_file():
        found = [folder]
    else:
        found = sorted(each.parent for each in folder.glob(f"*/{REPORT}")) if folder.is_dir() else []
        if not found:
            raise InputError(f"{folder} is no run folder: it has no {REPORT}", MADE)
    for format_ in kind.formats:
        for each in found:
            if (each / f"model.{format_}").exists():
                return each
    raise InputError(
        f"{kind.title} runs {' and '.join(f'.{name}' for name in kind.formats)}, and {folder} has none",
        f"quantize for it, or choose another --platform: {', '.join(plugins.names(FOLDER))}, not {platform}",
    )


def _with_systems(content: Content, kind: Bundle) -> Content:
    """The contract with what the platform's own code needs."""
    if content.contract.runtime is None or not kind.systems:
        return content
    runtime = dataclasses.replace(
        content.contract.runtime, systems={**kind.systems, **content.contract.runtime.systems}
    )
    said = dataclasses.replace(content.contract, runtime=runtime)
    return dataclasses.replace(content, whole=dataclasses.replace(content.whole, contract=said))


def write(content: Content, run: Run, kind: Bundle, work: Path) -> None:
    """Contract, artifact, vectors, and the platform's own files."""
    assets = work / kind.assets
    files.write_text(assets / contract.FILE, files.to_json(content.contract))
    files.write_text(assets / contract.SCHEMA_FILE, files.to_json(contract.schema()))
    copy = shutil.copytree if run.artifact.is_dir() else shutil.copyfile
    copy(run.artifact, assets / run.artifact.name)
    picture_vectors.write(content, work / kind.vectors)
    _templates.place(EVERY, content, work, title=kind.title, how=kind.how, where=kind.vectors)
    kind.place(content, work)
