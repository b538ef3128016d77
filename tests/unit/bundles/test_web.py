"""The JavaScript of a web bundle, run by Node, against the Python client, which is held against Pillow."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qtools.core import files
from qtools.core.errors import InputError
from qtools.pipeline import picture_vectors
from qtools.pipeline.bundles import web
from qtools.pipeline.contract import Output
from tests.unit.bundles import detector_cases

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")
FLOAT = Output("logits", (1, 5), "float32", "logits")

SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
const { prepare, realNumbers, top, typed, uncut } = await import(process.argv[2]);
const cases = JSON.parse(readFileSync("cases.json"));
const parts = cases.map(({ width, height, contract }, at) =>
  Buffer.from(prepare({ width, height, data: new Uint8Array(readFileSync(`${at}.rgb`)) }, contract).buffer));
parts.forEach((part, at) => writeFileSync(`${at}.out`, part));
const box = JSON.parse(readFileSync("box.json"));
writeFileSync("uncut.json", JSON.stringify(cases.map((each) => uncut(box, each, each.contract.preparation))));
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
def computed(tmp_path_factory, templates, drawn) -> Path:
    """The folder of one run of Node over all cases."""
    folder = tmp_path_factory.mktemp("node")
    for number, pixels in enumerate(drawn.pictures):
        (folder / f"{number}.rgb").write_bytes(pixels.tobytes())
    shown = [dict(zip(("height", "width"), pixels.shape, strict=False)) for pixels in drawn.pictures]
    cases = [sides | {"contract": contract} for sides, contract in zip(shown, drawn.contracts, strict=True)]
    answers = [{"bytes": list(answer.memory), "contract": answer.contract} for answer in drawn.answers]
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "box.json").write_text(json.dumps(detector_cases.BOX))
    (folder / "run.mjs").write_text(SCRIPT)
    shutil.copy(templates / "web" / "prepare.js", folder / "prepare.mjs")
    ended = subprocess.run(
        [str(NODE), "run.mjs", "./prepare.mjs"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return folder


def test_every_tensor_is_that_of_python_to_the_byte(client, computed, drawn) -> None:
    for number, (pixels, contract) in enumerate(zip(drawn.pictures, drawn.contracts, strict=True)):
        expected = client.prepare(pixels, contract).tobytes()
        assert (computed / f"{number}.out").read_bytes() == expected, (pixels.shape, contract["preparation"])


def test_a_box_is_led_back_to_the_whole_picture_as_python_does_it(client, computed, drawn) -> None:
    given = zip(drawn.pictures, drawn.contracts, strict=True)
    expected = [client.uncut(detector_cases.BOX, *pixels.shape[:2], said["preparation"]) for pixels, said in given]
    np.testing.assert_allclose(json.loads((computed / "uncut.json").read_text()), expected, rtol=1e-12)


def test_answers_mean_the_same_numbers_and_the_same_classes(client, computed, drawn) -> None:
    for ours, answer in zip(json.loads((computed / "tops.json").read_text()), drawn.answers, strict=True):
        numbers = client.real_numbers(answer.codes, answer.contract)
        np.testing.assert_array_equal(np.float32(ours["numbers"]), numbers)
        shares = client.probabilities(numbers.astype(np.float64), answer.contract)
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
    picture_vectors.write(content, tmp_path / "vectors")
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
    web.place_page(replace(content, whole=whole), tmp_path, not_in_browser='"><b>', answered=('x"<b>', "two"))
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
