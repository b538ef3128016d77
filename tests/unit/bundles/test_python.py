"""The Python client against Pillow, byte for byte, and against what a run feeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration.images import fill_of, fitted
from qtools.core import files
from qtools.core.types import InputSpec

sides = st.integers(1, 70)
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Those that a contract can name; Pillow 13 has two more."""
filters = st.sampled_from(FILTERS)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Noise, half of it black and white only: overshoot has to be clipped at both ends."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(draw.random((height, width, 1)) < 0.5, np.where(pixels > 127, 255, 0), pixels).astype(np.uint8)


@settings(max_examples=100)
@given(sides, sides, sides, sides, filters, st.integers(0, 99))
def test_resizing_is_pillows_to_the_byte(client, height, width, goal_h, goal_w, name, seed) -> None:
    pixels = picture(height, width, seed)
    theirs = np.asarray(Image.fromarray(pixels).resize((goal_w, goal_h), Image.Resampling[name.upper()]))
    np.testing.assert_array_equal(client.resize(pixels, goal_h, goal_w, name), theirs)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("shape", "goal"), [((480, 640), (256, 341)), ((97, 1013), (224, 224)), ((50, 20), (256, 640))]
)
def test_so_are_sizes_of_photographs(client, name: str, shape: Any, goal: Any) -> None:
    pixels = picture(*shape, seed=1)
    theirs = np.asarray(Image.fromarray(pixels).resize(goal[::-1], Image.Resampling[name.upper()]))
    np.testing.assert_array_equal(client.resize(pixels, *goal, name), theirs)


crops = st.sampled_from(["squash", "center", "border"])
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.integers(1, 40).map(lambda side: (side, side))


@settings(max_examples=100)
@given(st.tuples(sides, sides), sizes, crops, st.floats(0.3, 1), filters, st.integers(0, 99))
def test_a_picture_is_cut_as_the_run_cuts_it(client, shape, size, mode, keep, name, seed) -> None:
    spec = InputSpec(size, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2), name, keep, mode)
    said = {"size": size, "keep": keep, "crop": mode}
    pixels = picture(*shape, seed)
    ours = client.crop(client.resize(pixels, *client.goal_size(*shape, said), name), size, fill_of(spec))
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), fitted(pixels, spec))


wide = st.integers(40, 200)


@settings(max_examples=40)
@given(st.tuples(wide, wide), sizes, crops, st.floats(0.3, 1), st.integers(0, 99))
def test_a_box_is_led_back_to_the_pixels_that_it_shows(client, shape, size, mode, keep, seed) -> None:
    """Of a picture whose bytes are their own places, a pixel behind resize and crop holds the place that it shows."""
    size = size if isinstance(size, tuple) else (size, size)
    said = {"size": size, "keep": keep, "crop": mode, "resize": "bilinear", "fill": [0, 0, 0]}
    y, x = np.mgrid[: shape[0], : shape[1]]
    resized = client.goal_size(*shape, said)
    cut = client.crop(client.resize(np.stack([y, x, x], -1).astype(np.uint8), *resized, "bilinear"), size, [0, 0, 0])
    reach = np.maximum(np.divide(shape, resized), 1)  # of the filter: nearer to an edge it shows less than it would
    shown = []
    for row, column in np.random.default_rng(seed).integers(0, size, (8, 2)):
        box = column / size[1], row / size[0], (column + 1) / size[1], (row + 1) / size[0]
        x0, y0, x1, y1 = client.uncut(box, *shape, said)
        middle = np.array([(y0 + y1) / 2 * shape[0], (x0 + x1) / 2 * shape[1]])
        if (middle > reach).all() and (middle < np.array(shape) - reach).all():
            shown.append((cut[row, column, :2], middle - 0.5))
    assume(shown)
    for place, expected in shown:
        np.testing.assert_allclose(place, expected, atol=0.75)  # of rounding, and of the filter


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.integers(0, 99))
def test_a_png_is_read_as_pillow_reads_it(client, tmp_path_factory, height, width, smooth, seed) -> None:
    pixels = picture(height, width, seed)
    if smooth:  # makes the encoder choose other row filters
        pixels = np.add.outer(np.add.outer(np.arange(height) * 3, np.arange(width) * 5), [0, 40, 80]).astype(np.uint8)
    file = tmp_path_factory.mktemp("png") / "a.png"
    Image.fromarray(pixels).save(file)
    np.testing.assert_array_equal(client.read_png(file), pixels)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"dtype": "float32", "layout": "NCHW", "crop": "border", "resize": "lanczos", "size": (18, 25)},
        {"dtype": "uint8", "layout": "NHWC", "crop": "squash", "colours": "BGR", "applied": "model"},
    ],
    ids=lambda said: said.get("dtype", "int8"),
)
def test_the_client_prepares_what_a_run_feeds(client, made_up, said: dict[str, Any]) -> None:
    content = made_up(**said).content
    plain = json.loads(files.to_json(content.contract))
    for vector in content.vectors:
        tensor = client.prepare(vector.picture, plain)
        assert tensor.tobytes() == vector.memory
        assert tensor.shape == content.whole.input.shape and str(tensor.dtype) == content.whole.input.dtype
        numbers = client.real_numbers(vector.output, plain)
        assert numbers == pytest.approx([0.05 * (int(code) - 9) for code in vector.output[0]])
        assert client.probabilities(numbers, plain).sum() == pytest.approx(1)


def test_the_client_runs_an_onnx_file(client, made_up, tmp_path: Path) -> None:
    """The mean of each channel, by a graph of one operation."""
    onnx = pytest.importorskip("onnx")
    content = made_up("float32", "NCHW").content
    shape = content.whole.input.shape
    float32 = onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info(name, float32, size) for name, size in (("image", shape), ("logits", (1, 3)))
    ]
    node = onnx.helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)
    graph = onnx.helper.make_graph([node], "means", ends[:1], ends[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    said = json.loads(files.to_json(content.contract))
    said["artifact"] |= {"name": "m.onnx", "format": "onnx"}
    said["output"] |= {"scale": None, "zero_point": None}
    (tmp_path / "contract.json").write_text(json.dumps(said))
    vector = content.vectors[0]
    means = vector.tensor.mean((2, 3))[0]
    opened = client.Client(tmp_path)
    np.testing.assert_allclose(opened.run(vector.tensor)[0], means, atol=1e-5)
    first = opened.classify(vector.picture, 1)[0]
    assert first[0] == means.argmax() and first[1] == content.contract.labels[first[0]]
    assert first[2] == pytest.approx(np.exp(means.max()) / np.exp(means).sum(), abs=1e-5)
