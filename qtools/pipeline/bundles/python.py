"""A client in Python for servers and notebooks: numpy and the runtime, nothing of qtools."""

from __future__ import annotations

from functools import partial

from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import Bundle

BUNDLE = Bundle(
    title="the Python client",
    formats=("tflite", "onnx"),
    place=partial(_templates.place, "python"),
    how="pip install numpy, and ai-edge-litert for a .tflite or onnxruntime for a .onnx; python replay.py replays the "
    "vectors; in a program: from qtools_client import Client",
    systems={"Python": "3.10"},
)
