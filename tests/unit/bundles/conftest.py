"""A made-up contract with pictures, tensors and answers: a bundle's content without a network to quantize."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibration.images import fill_of
from qtools.core import numerics
from qtools.core.artifact import Runtime
from qtools.core.inspection import End, Grid
from qtools.core.types import InputSpec
from qtools.pipeline import contract, feeding
from qtools.pipeline.bundles import _vectors
from qtools.pipeline.bundles._bundle import Content, PictureVector, Tolerance
from qtools.pipeline.contract_of_run import table_of

MEAN, STD = (0.5, 0.4, 0.45), (0.25, 0.2, 0.3)
GRIDS = {"int8": Grid((0.021,), (-17,)), "uint8": Grid((0.019,), (111,)), "float32": None}
ANSWER = Grid((0.05,), (9,))
LABELS = ("ant", "Bär", 'cat \\ "dog"', "d", "e")
SHAPES = ((60, 41), (33, 75), (20, 22), (31, 31))


@dataclass(frozen=True)
class MadeUp:
    """Content, and a network of one random layer that answers in int8."""

    content: Content
    session: Callable[[Mapping[str, Any]], dict[str, Any]]


def picture(height: int, width: int) -> np.ndarray:
    """Slopes, an edge and some noise: no two of a picture's readings are the same."""
    draw = np.random.default_rng([height, width])
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [200 * y + 40 * x, 90 + 120 * np.sin(9 * x + 5 * y), 250 * (x > 0.4) * (1 - y)]
    noisy = np.stack(planes, -1) + draw.normal(0, 14, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def make(dtype: str = "int8", layout: str = "NHWC", size: tuple[int, int] = (24, 24), **said: Any) -> MadeUp:
    """A content; `said` are entries of the preparation."""
    said = {"resize": "bicubic", "crop": "center", "keep": 0.875, "colours": "RGB"} | said
    pixels = said.get("applied") == "model"
    spec = InputSpec(size, MEAN, STD, said["resize"], said["keep"], said["crop"])
    grid = Grid((1.0,), (0,)) if pixels else GRIDS[dtype]
    shape = (1, *size, 3) if layout == "NHWC" else (1, 3, *size)
    end = End("image", shape, dtype, grid)
    table = table_of(end, spec, SimpleNamespace(codes=numerics.quantize_float32), pixels=pixels)  # type: ignore[arg-type]
    taken = {} if grid is None else {"scale": grid.scales[0], "zero_point": grid.zero_points[0]}
    rows = tuple(tuple(row) for row in table.tolist())
    made = contract.Contract(
        contract.Preparation(size=size, layout=layout, fill=fill_of(spec), mean=MEAN, std=STD, **said),  # type: ignore[arg-type]
        labels=LABELS,
        input=contract.Input("image", shape, dtype, "tensor", rows, **taken),  # type: ignore[arg-type]
        output=contract.Output("logits", (1, 5), "int8", "logits", ANSWER.scales[0], ANSWER.zero_points[0]),
        artifact=contract.File("model.tflite", "tflite", 1, "00", "11"),
        runtime=Runtime("LiteRT"),
        model=contract.Model("made up", "w8a8", contract.Weights("file", "x", "none"), "a test"),
    )
    whole = contract.whole(made, "")
    reading = feeding.Reading(
        end, spec, said["colours"], layout == "NHWC", pixels, fill=fill_of(spec), table=np.asarray(rows)
    )
    session = _network(table)
    vectors = tuple(_vector(whole, reading, session, number) for number in range(len(SHAPES)))
    return MadeUp(Content(whole, vectors, Tolerance(ANSWER.scales[0] * _vectors.ROUNDED, {}, "a step")), session)


def _network(table: np.ndarray) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    low, span = float(table.min()), float(np.ptp(table))

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        flat = (inputs["image"].reshape(-1).astype(np.float64) - low) / span
        layer = np.random.default_rng(3).normal(0, 1, (5, flat.size)) * 12 / np.sqrt(flat.size)
        codes = np.rint(np.tanh(layer @ flat / 4) * 5 / ANSWER.scales[0]) + ANSWER.zero_points[0]
        return {"logits": np.clip(codes, -128, 127).astype(np.int8)[None]}

    return run


def _vector(whole: contract.Whole, reading: feeding.Reading, session: Any, number: int) -> PictureVector:
    shown = picture(*SHAPES[number])
    tensor = reading.tensor(shown)
    output = session({"image": tensor})["logits"]
    top = _vectors.top(whole, _vectors.values(whole, output))
    return PictureVector(str(number), "", shown, tensor, _vectors.memory_of(whole, tensor), output, top)


@pytest.fixture(scope="session")
def made_up() -> Callable[..., MadeUp]:
    """`made_up(dtype, layout, size, resize=..., ...)`."""
    return make
