"""The JavaScript of a web bundle, run by Node, against the Python client, which is held against Pillow."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qtools.core import files
from qtools.core.errors import InputError
from qtools.pipeline.bundles import _vectors, web
from qtools.pipeline.contract import Output

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
DTYPES = ("int8", "uint8", "int16", "float32")
CASES = 240
FLOAT = Output("logits", (1, 5), "float32", "logits")

SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
const { prepare, realNumbers, top, typed } = await import(process.argv[2]);
const cases = JSON.parse(readFileSync("cases.json"));
const parts = cases.map(({ width, height, contract }, at) =>
  Buffer.from(prepare({ width, height, data: new Uint8Array(readFileSync(`${at}.rgb`)) }, contract).buffer));
parts.forEach((part, at) => writeFileSync(`${at}.out`, part));
const answers = JSON.parse(readFileSync("answers.json"));
writeFileSync("tops.json", JSON.stringify(answers.map(({ bytes, contract }) => {
  const numbers = realNumbers(typed(Uint8Array.from(bytes), contract.output.dtype), contract);
  return { numbers: Array.from(numbers), top: top(numbers, contract, 3) };
})));
"""


@pytest.fixture(scope="module")
def templates(root: Path) -> Path:
    return root / "qtools" / "pipeline" / "bundles" / "templates"


@pytest.fixture(scope="module")
def client(templates: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("qtools_client", templates / "python" / "qtools_client.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(draw: np.random.Generator, number: int) -> dict[str, Any]:
    """A picture's sides and a contract; every filter, crop, layout and type comes up often."""
    height, width = (int(side) for side in draw.integers(1, 90, 2))
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
    contract = {"preparation": preparation, "input": {"dtype": dtype, "table": table.tolist()}}
    return {"width": width, "height": height, "contract": contract}


def answered(draw: np.random.Generator, number: int) -> dict[str, Any]:
    """An output's bytes and what they mean."""
    dtype = DTYPES[number % 4]
    codes = draw.normal(0, 30, 7).astype(np.float32)
    if dtype != "float32":
        codes = np.clip(np.rint(codes), np.iinfo(dtype).min, np.iinfo(dtype).max)
    codes = codes.astype(dtype)
    codes[2] = codes[5]  # a tie
    scale = None if dtype == "float32" else float(draw.uniform(0.001, 0.3))
    output = {"dtype": dtype, "scale": scale, "zero_point": None if scale is None else int(draw.integers(-9, 9))}
    meaning = "logits" if number % 2 else "probabilities"
    return {"bytes": list(codes.tobytes()), "contract": {"output": output | {"meaning": meaning}, "labels": ["a", "b"]}}


@pytest.fixture(scope="module")
def computed(tmp_path_factory, templates) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """One run of Node over all cases."""
    folder, draw = tmp_path_factory.mktemp("node"), np.random.default_rng(3)
    cases = [case(draw, number) for number in range(CASES)]
    for number, each in enumerate(cases):
        pixels = draw.integers(0, 256, (each["height"], each["width"], 3), np.uint8)
        extreme = np.where(pixels > 127, 255, 0).astype(np.uint8)
        (folder / f"{number}.rgb").write_bytes((extreme if number % 2 else pixels).tobytes())
    answers = [answered(draw, number) for number in range(40)]
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "run.mjs").write_text(SCRIPT)
    shutil.copy(templates / "web" / "prepare.js", folder / "prepare.mjs")
    ended = subprocess.run(
        [str(NODE), "run.mjs", "./prepare.mjs"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return folder, cases, answers


def test_every_tensor_is_that_of_python_to_the_byte(client, computed) -> None:
    folder, cases, _ = computed
    for number, each in enumerate(cases):
        shape = each["height"], each["width"], 3
        pixels = np.frombuffer((folder / f"{number}.rgb").read_bytes(), np.uint8).reshape(shape)
        expected = client.prepare(pixels, each["contract"]).tobytes()
        assert (folder / f"{number}.out").read_bytes() == expected, each


def test_answers_mean_the_same_numbers_and_the_same_classes(client, computed) -> None:
    folder, _, answers = computed
    for ours, each in zip(json.loads((folder / "tops.json").read_text()), answers, strict=True):
        contract = each["contract"]
        codes = np.frombuffer(bytes(each["bytes"]), contract["output"]["dtype"])
        numbers = client.real_numbers(codes, contract)
        np.testing.assert_array_equal(np.float32(ours["numbers"]), numbers)
        shares = client.probabilities(numbers.astype(np.float64), contract)
        order = np.argsort(-shares, kind="stable")[:3]
        assert [row["index"] for row in ours["top"]] == order.tolist()
        np.testing.assert_allclose([row["probability"] for row in ours["top"]], shares[order], rtol=1e-12)


@pytest.mark.parametrize("name", ["client.js", "page.js", "prepare.js", "replay.js", "replay.mjs", "serve.mjs"])
def test_every_file_is_javascript(templates: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / f"{Path(name).stem}.mjs"  # read as a module, as the package's type makes Node do it
    shutil.copy(templates / "web" / name, copy)
    assert subprocess.run([str(NODE), "--check", str(copy)], capture_output=True, check=False).returncode == 0


REPLAY = """
import { readFileSync } from "node:fs";
const { prepare } = await import("./prepare.js");
const contract = JSON.parse(readFileSync("contract.json"));
const { vectors } = JSON.parse(readFileSync("vectors/vectors.json"));
const equal = vectors.map(({ rgb, input, width, height }) => Buffer.from(prepare(
  { width, height, data: new Uint8Array(readFileSync(`vectors/${rgb}`)) }, contract).buffer)
  .equals(readFileSync(`vectors/${input}`)));
console.log(JSON.stringify(equal));
"""
MIXED = ({}, {"colours": "BGR", "resize": "bilinear"}, {"crop": "border", "keep": 1.0}, {"crop": "squash"})


@pytest.mark.parametrize(
    ("dtype", "layout", "said"),
    [
        ("uint8", "NHWC", MIXED[0]),
        ("float32", "NCHW", MIXED[1]),
        ("uint8", "NCHW", MIXED[2]),
        ("float32", "NHWC", MIXED[3]),
    ],
)
def test_a_package_prepares_its_own_vectors(
    made_up, tmp_path: Path, dtype: str, layout: str, said: dict[str, str]
) -> None:
    content = made_up(dtype, layout, **said).content
    content = replace(content, whole=replace(content.whole, output=FLOAT))
    web.place(content, tmp_path)
    _vectors.write(content, tmp_path / "vectors")
    (tmp_path / "contract.json").write_text(files.to_json(content.contract))
    (tmp_path / "replay_tensors.mjs").write_text(REPLAY)
    ended = subprocess.run([str(NODE), "replay_tensors.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-1000:]
    assert json.loads(ended.stdout) == [True] * len(content.vectors)


def test_names_are_no_code(made_up, tmp_path: Path) -> None:
    """A model called after a script is shown, never run; what is JSON stays JSON."""
    content = made_up("uint8").content
    model = replace(content.contract.model, name='<script>alert("x")</script>')
    whole = replace(content.whole, contract=replace(content.contract, model=model), output=FLOAT)
    web.place_page(replace(content, whole=whole), tmp_path, not_in_browser='"><b>', answered=True)
    page = (tmp_path / "index.html").read_text()
    assert "<script>alert" not in page and '"><b>' not in page and "&lt;script&gt;" in page
    assert "script" in json.loads((tmp_path / "package.json").read_text())["name"]


@pytest.mark.parametrize(
    ("format_", "dtype", "words"),
    [("tflite", "int8", "no int8 tensors"), ("mlpackage", "float32", ".mlpackage"), ("onnx", "int8", "")],
)
def test_what_no_browser_can_run_is_said(made_up, tmp_path: Path, format_: str, dtype: str, words: str) -> None:
    content = made_up(dtype).content
    whole = replace(content.whole, artifact=replace(content.whole.artifact, format=format_))
    reason = web.refusal(whole)
    assert words in reason and bool(reason) == bool(words)
    if reason:
        with pytest.raises(InputError, match="--io pixels"):
            web.place(replace(content, whole=whole), tmp_path)
        assert not list(tmp_path.iterdir())
