"""The web: an npm package, and a page that answers pictures; onnxruntime-web or LiteRT.js run the artifact."""

from __future__ import annotations

from pathlib import Path

from qtools.core.errors import InputError
from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import Bundle, Content

ONNXRUNTIME = "1.30.0"
LITERT = "2.5.3"
TAKEN = ("float32", "uint8")
"""Types of tensors that LiteRT.js 2.5 has, of those that artifacts have."""


def place(content: Content, folder: Path) -> None:
    """Writes the package.

    Raises:
        InputError: If the browser's runtime cannot take the artifact's tensors.
    """
    whole = content.whole
    types = whole.input.dtype, whole.output.dtype
    if whole.artifact.format == "tflite" and not set(types) <= set(TAKEN):
        raise InputError(
            f"LiteRT.js has no {' or '.join(sorted(set(types) - set(TAKEN)))} tensors",
            "quantize with --io pixels (bytes in, float32 out) or --io float32, or --target onnx",
        )
    _templates.place("web", content, folder, onnxruntime=ONNXRUNTIME, litert=LITERT)


BUNDLE = Bundle(
    title="the web",
    formats=("onnx", "tflite"),
    place=place,
    how="npm install, then npm test replays the vectors, and npm start serves the page (?replay replays them there)",
    systems={"Node": "18"},
    tools={"node": "runs the package's test and serves its page", "npm": "installs the browser's runtime"},
)
