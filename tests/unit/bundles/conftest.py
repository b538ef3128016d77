"""A bundle's content without a network to quantize, and many drawn contracts for ports of the client's arithmetic."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibration.images import fill_of
from qtools.core import numerics
from qtools.core.artifact import Runtime
from qtools.core.inspection import End, Grid
from qtools.core.types import InputSpec
from qtools.pipeline import contract, feeding, picture_vectors
from qtools.pipeline.contract_of_run import table_of
from qtools.pipeline.picture_vectors import Content, PictureVector, Tolerance

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
    return MadeUp(Content(whole, vectors, Tolerance(ANSWER.scales[0] * picture_vectors.ROUNDED, {}, "a step")), session)


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
    top = picture_vectors.top(whole, picture_vectors.values(whole, output))
    return PictureVector(str(number), "", shown, tensor, picture_vectors.memory_of(whole, tensor), output, top)


@pytest.fixture(scope="session")
def made_up() -> Callable[..., MadeUp]:
    """`made_up(dtype, layout, size, resize=..., ...)`."""
    return make


FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
DTYPES = ("int8", "uint8", "int16", "float32")
CASES, ANSWERS = 240, 40


@dataclass(frozen=True)
class DrawnAnswer:
    """An output's codes, and the contract that says what they mean."""

    codes: np.ndarray
    contract: dict[str, Any]

    @property
    def memory(self) -> bytes:
        return self.codes.tobytes()


@dataclass(frozen=True)
class Drawn:
    """Pictures with a contract each, and outputs with theirs."""

    pictures: Sequence[np.ndarray]
    contracts: Sequence[dict[str, Any]]
    answers: Sequence[DrawnAnswer]


def _contract(draw: np.random.Generator, number: int) -> dict[str, Any]:
    """Every filter, crop, layout and type comes up often."""
    size = [int(side) for side in draw.integers(1, 48, 2)]
    dtype = DTYPES[number % 4]
    table = draw.normal(0, 40, (3, 256)).astype(np.float32)
    if dtype != "float32":
        kind = np.iinfo(dtype)
        table = np.clip(np.rint(table), kind.min, kind.max)
    preparation = {
        "size": size if draw.random() < 0.5 else [size[0], size[0]],
        "keep": float(draw.choice([1.0, 0.875, 0.9, 0.5])),
        "crop": ("squash", "center", "border")[number % 3],
        "resize": FILTERS[number % 6] if number < CASES - 40 else "bicubic",
        "fill": [int(byte) for byte in draw.integers(0, 256, 3)],
        "colours": "BGR" if draw.random() < 0.5 else "RGB",
        "layout": "NCHW" if draw.random() < 0.5 else "NHWC",
    }
    return {"preparation": preparation, "input": {"dtype": dtype, "table": table.tolist()}}


def _answer(draw: np.random.Generator, number: int) -> DrawnAnswer:
    dtype = DTYPES[number % 4]
    codes = draw.normal(0, 30, 7).astype(np.float32)
    if dtype != "float32":
        codes = np.clip(np.rint(codes), np.iinfo(dtype).min, np.iinfo(dtype).max)
    codes = codes.astype(dtype)
    codes[2] = codes[5]  # a tie
    scale = None if dtype == "float32" else float(draw.uniform(0.001, 0.3))
    output = {"dtype": dtype, "scale": scale, "zero_point": None if scale is None else int(draw.integers(-9, 9))}
    meaning = "logits" if number % 2 else "probabilities"
    return DrawnAnswer(codes, {"output": output | {"meaning": meaning}, "labels": ["a", "b"]})


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    """240 pictures, half of them black and white only, so that overshoot has to be clipped; 40 answers."""
    draw = np.random.default_rng(3)
    pictures = []
    for number in range(CASES):
        pixels = draw.integers(0, 256, (*draw.integers(1, 90, 2), 3), np.uint8)
        pictures.append(np.where(pixels > 127, 255, 0).astype(np.uint8) if number % 2 else pixels)
    contracts = [_contract(draw, number) for number in range(CASES)]
    return Drawn(pictures, contracts, [_answer(draw, number) for number in range(ANSWERS)])


@pytest.fixture(scope="session")
def client(root: Path) -> ModuleType:
    """The Python client, which is held against Pillow."""
    path = root / "qtools" / "pipeline" / "bundles" / "templates" / "python" / "qtools_client.py"
    spec = importlib.util.spec_from_file_location("qtools_client", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
