"""The JavaScript of a web bundle, run by Node, against the Python client, which is held against Pillow."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qtools.core.plugins import find
from qtools.pipeline.bundles import web
from qtools.pipeline.contract import File, Input, Output, Preparation

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")

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


def end(dtype: str) -> tuple[Input, Output]:
    table = (tuple(float(byte % 128) for byte in range(256)),) * 3  # numbers that int8 has too
    given = Input("image", (1, 4, 4, 3), dtype, "tensor", table)
    return given, Output("logits", (1, 3), dtype, "logits")


@pytest.mark.parametrize(
    ("format_", "dtype", "words"),
    [("tflite", "int8", "no int8 tensors"), ("mlpackage", "float32", ".mlpackage"), ("onnx", "int8", "")],
)
def test_what_no_browser_can_run_is_said(format_: str, dtype: str, words: str) -> None:
    from qtools.pipeline.contract import Contract, Whole

    given, output = end(dtype)
    file = File(f"model.{format_}", format_, 1, "0" * 64, "0" * 64)
    whole = Whole(Contract(Preparation()), given, output, file, (4, 4))
    reason = web.refusal(whole)
    assert words in reason and bool(reason) == bool(words)
    assert find("qtools.pipeline.bundles", "web", "BUNDLE").formats == ("onnx", "tflite")
