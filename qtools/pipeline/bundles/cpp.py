"""A client in C++17 for anything that has no platform of its own: headers only, the contract as constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import Bundle
from qtools.pipeline.picture_vectors import Content

ELEMENT = {"int8": "std::int8_t", "uint8": "std::uint8_t", "int16": "std::int16_t", "float32": "float"}
NUMBER = {name: "float" if name == "float32" else "int" for name in ELEMENT}
"""Filter of the templates that makes a number of the table."""


def place(content: Content, folder: Path) -> None:
    """Writes the headers and the program that replays the vectors."""
    boxes = content.contract.boxes
    counts = {"answers": content.whole.output.shape, "sides": boxes.shape if boxes else (0,)}
    numbers = {name: int(np.prod(shape)) for name, shape in counts.items()}
    _templates.place("cpp", content, folder, element=ELEMENT, number=NUMBER, **numbers)


BUNDLE = Bundle(
    title="the C++ client",
    formats=("tflite", "onnx"),
    place=place,
    how="c++ -std=c++17 -O2 -ffp-contract=off replay.cpp -o replay && ./replay . replays the vectors' tensors and what "
    "is recorded of a detector's outputs; with -DQTOOLS_LITERT and LiteRT's C library (libLiteRt.so, in the wheel "
    "ai-edge-litert) it runs the network too",
    tools={"c++": "compiles it"},
)
