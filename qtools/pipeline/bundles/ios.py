"""iOS and macOS: a Swift package with the preparation in plain Swift, and Core ML to run the artifact.

The tests parse every file, and translate and replay the arithmetic of QtoolsPreparation. Where a Swift compiler is,
they build the package on Linux, replay its vectors, and check the types of what touches Apple's frameworks against
declarations written from Apple's documentation. Core ML itself has never run it.
"""

from __future__ import annotations

from pathlib import Path

from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import Bundle
from qtools.pipeline.picture_vectors import Content

SYSTEMS = {"iOS": "17", "macOS": "14"}
"""What the package's own code takes; a newer one where the artifact needs it."""


def place(content: Content, folder: Path) -> None:
    """Writes the package."""
    needed = content.contract.runtime.systems if content.contract.runtime else {}
    _templates.place("ios", content, folder, systems={**SYSTEMS, **needed})


BUNDLE = Bundle(
    title="iOS and macOS",
    formats=("mlpackage",),
    place=place,
    how="swift test on a Mac replays the vectors, and xcodebuild test does on a phone; in an app, add the folder as a "
    "local package",
    assets="Sources/QtoolsVision/Assets",
    vectors="Tests/ReplayTests/vectors",
    systems=SYSTEMS,
    tools={"swift": "builds the package and runs its test", "xcodebuild": "runs the test on a phone"},
)
