"""The web: an npm package, and a page that answers pictures; onnxruntime-web or LiteRT.js run the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtools.core.errors import InputError
from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import Bundle
from qtools.pipeline.contract import Whole
from qtools.pipeline.picture_vectors import Content

ONNXRUNTIME = "1.30.0"
LITERT = "2.5.3"
TAKEN = ("float32", "uint8")
"""Types of tensors that LiteRT.js 2.5 has, of those that artifacts have."""
FORMATS = ("onnx", "tflite")
REMEDY = "quantize with --io pixels (bytes in, float32 out) or --io float32, or for --target onnx"
"""What to do where `refusal` has a reason."""


def refusal(whole: Whole) -> str:
    """Why no browser can run an artifact; "" where one can."""
    if whole.artifact.format not in FORMATS:
        return f"no runtime of a browser takes .{whole.artifact.format}"
    odd = sorted({whole.input.dtype, whole.output.dtype} - set(TAKEN))
    return f"LiteRT.js has no {' or '.join(odd)} tensors" if whole.artifact.format == "tflite" and odd else ""


def place(content: Content, folder: Path) -> None:
    """Writes the package.

    Raises:
        InputError: If the browser's runtime cannot take the artifact's tensors.
    """
    if reason := refusal(content.whole):
        raise InputError(reason, REMEDY)
    place_page(content, folder, not_in_browser="", answered=())


def place_page(content: Content, folder: Path, *, not_in_browser: str, answered: Sequence[str]) -> None:
    """Writes the package's files.

    Args:
        content: What they are filled with.
        folder: Where they go.
        not_in_browser: Why the page does not run the artifact itself; "" where it does.
        answered: What else answers pictures: titles of the ways that whoever serves the page has.
    """
    more = {"not_in_browser": not_in_browser, "answered": list(answered)}
    _templates.place("web", content, folder, onnxruntime=ONNXRUNTIME, litert=LITERT, **more)


BUNDLE = Bundle(
    title="the web",
    formats=FORMATS,
    place=place,
    how="npm install, then npm test replays the vectors, and npm start serves the page (?replay replays them there)",
    systems={"Node": "18"},
    tools={"node": "runs the package's test and serves its page", "npm": "installs the browser's runtime"},
)
