"""An iPhone or iPad: it runs apps only, so what there is to hand over is one, for Xcode to sign and run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qtools.core import files as writing
from qtools.core.errors import MissingPlatform
from qtools.pipeline.devices import _coreml
from qtools.pipeline.devices._device import Asked, Device, Found, Item
from qtools.pipeline.progress import Listener

NAME = "ios"
WHY = "an iPhone runs signed apps only, which Xcode on a Mac has to build"


def measure(items: Sequence[Item], asked: Asked, against: str, listener: Listener) -> Found:
    """Never called: `absent` always has a reason.

    Raises:
        MissingPlatform: Always.
    """
    raise MissingPlatform(WHY)


def files(items: Sequence[Item], asked: Asked) -> dict[str, str]:
    """An app playground."""
    sources = {name: (_coreml.HERE / name).read_text() for name in ("Bench.swift", "App.swift", "Package.swift")}
    return {**sources, "runs.json": writing.to_json(_coreml.calls(items, asked))}


DEVICE = Device(
    title="an iPhone or iPad",
    suffixes=_coreml.SUFFIXES,
    places=_coreml.PLACES,
    modes=_coreml.MODES,
    absent=lambda: WHY,
    measure=measure,
    files=files,
    how="rename the folder to end in .swiftpm, open it in Xcode, run it on the phone, and share its text as output.txt",
    read=partial(_coreml.read, device=NAME),
)
