"""ONNX QDQ for Qualcomm NPUs (onnxruntime's QNN provider): uint8 pairs around everything the HTP runs in integers.

The same files as `onnx`, by other rules. No NPU is here: the artifact is run and simulated as onnxruntime's CPU
provider runs it, and reports call it that.
"""

from __future__ import annotations

import dataclasses

from exporters import onnx
from exporters._onnx.rules import QNN

LABELS = {
    "ort": "artifact, onnxruntime CPU in place of the NPU",
    "ort_float": "artifact, onnxruntime CPU without integer kernels",
}

TARGET = dataclasses.replace(
    onnx.target(QNN),
    simulator="onnxruntime_qdq",
    labels=LABELS,
    configure=None,
    trace=None,  # what an operation takes on this CPU says nothing of the NPU, whose places the report has
)
