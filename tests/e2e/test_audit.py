"""`qtools audit` on a run of the small network and on its artifact without a name, against the runtime by hand."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from calibration.batches import ImageBatches
from calibration.data import open_folder
from exporters._tflite import flatbuffer
from exporters.tflite import TARGET
from qtools.core.types import InputSpec
from qtools.fuse.apply import fuse
from qtools.graph.capture import capture
from reports.classes import class_changes
from reports.sequential import stopping_rule

pytestmark = pytest.mark.e2e

COUNT = 160
SPEC = InputSpec((32, 32), (0.5, 0.4, 0.45), (0.25, 0.2, 0.3), "bilinear", 0.875)
WORDS = ("--builder", "user_network:build")
CONTRACT = {"resize": "bilinear", "crop": "center", "keep": 0.875, "mean": SPEC.mean, "std": SPEC.std}
Call = Callable[..., Any]


def float_network(folder: Path) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("user_network", folder / "user_network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: torch.nn.Module = module.build()
    return found


def ask(model: Path, pixels: np.ndarray) -> np.ndarray:
    """Output of a .tflite for each picture, by hand."""
    interpreter = Interpreter(str(model))
    interpreter.allocate_tensors()
    (given,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in pixels:
        data = image.transpose(1, 2, 0)[None]
        if given["dtype"] != np.float32:
            scale, zero = given["quantization"]
            data = np.clip(np.rint(data / np.float32(scale)) + zero, -128, 127)
        interpreter.set_tensor(given["index"], data.astype(given["dtype"]))
        interpreter.invoke()
        scale, zero = out["quantization"]
        codes = interpreter.get_tensor(out["index"])[0].astype(np.float64)
        rows.append((codes - zero) * scale if scale else codes)
    return np.stack(rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, qtools: Call, album: SimpleNamespace) -> SimpleNamespace:
    """A run at 4-bit weights, pictures labelled by the float network, and what both say of them, by hand."""
    folder = album.furnish(tmp_path_factory.mktemp("audit"))
    module = float_network(folder)
    answered = album.labels_csv(folder / "answered", COUNT, 5, first=200)
    pixels = np.concatenate(list(ImageBatches(open_folder(answered), SPEC)))
    with torch.inference_mode():
        exact = module(torch.from_numpy(pixels)).numpy()
    names = sorted(path.name for path in answered.iterdir() if path.suffix != ".csv")
    rows = [f"{name},{label}" for name, label in zip(names, exact.argmax(1), strict=True)]
    (answered / "labels.csv").write_text("\n".join(["file,label", *rows, ""]))
    shutil.copytree(answered, folder / "flat", ignore=shutil.ignore_patterns("*.csv"))
    ended = qtools(folder, "quantize", *WORDS, "--data", "calibration", "--eval", "held_out", "--method", "minmax",
                   "--weight-bits", "4", "--strict-weights", "--io", "int8", "--out", "run")  # fmt: skip
    assert ended.code in (0, 1), ended.err
    real = ask(folder / "run" / "model.tflite", pixels)
    assert 5 <= (exact.argmax(1) != real.argmax(1)).sum() <= COUNT / 2  # else there is nothing to see
    return SimpleNamespace(folder=folder, module=module, pixels=pixels, exact=exact, real=real, names=names)


@pytest.fixture(scope="module")
def audited(runs: SimpleNamespace, qtools: Call) -> dict[str, Any]:
    ended = qtools(runs.folder, "audit", "run", *WORDS, "--data", "answered", "--out", "audits/first", "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def step(report: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in reversed(report["ledger"]) if row["role"] == "step")["accuracy"]


def test_the_statistics_are_those_of_the_runtime(audited: dict[str, Any], runs: SimpleNamespace) -> None:
    before, after = runs.exact.argmax(1), runs.real.argmax(1)
    moved = before != after
    scores, found = step(audited), audited["audit"]
    assert (scores["n"], scores["top1_reference"]) == (COUNT, 100)
    assert (scores["lost"], scores["gained"]) == (moved.sum(), 0)
    assert scores["top1"] == pytest.approx(100 * (~moved).mean())
    pairs = Counter(zip(before[moved].tolist(), after[moved].tolist(), strict=True))
    assert {(row["before"], row["after"]): row["count"] for row in found["flips"]} == pairs
    assert found["flipped"] == moved.sum()
    rows = class_changes(before, runs.exact, runs.real)
    assert [row["index"] for row in found["changes"]] == [row.index for row in rows if row.lost > row.gained][:8]
    assert [row["p_adjusted"] for row in found["changes"]] == pytest.approx(
        [row.p_adjusted for row in rows if row.lost > row.gained][:8]
    )
    drift = found["drift"]
    assert drift["drift_interval"][0] <= drift["drift"] <= drift["drift_interval"][1]
    assert 0 < found["smallest_drop"] < 20 and scores["kl_interval"][0] < scores["kl"] < scores["kl_interval"][1]


def test_flipped_images_are_shown(audited: dict[str, Any], runs: SimpleNamespace) -> None:
    moved = set(np.flatnonzero(runs.exact.argmax(1) != runs.real.argmax(1)).tolist())
    shown = audited["audit"]["pictures"]
    assert len(shown) == min(24, len(moved))
    assert {runs.names.index(picture["name"]) for picture in shown} <= moved
    for picture in shown:
        index = runs.names.index(picture["name"])
        assert picture["before"] == picture["label"] == runs.exact[index].argmax()
        assert picture["after"] == runs.real[index].argmax()
        data = base64.b64decode(picture["jpeg"])
        assert len(data) < 8000
        small = Image.open(io.BytesIO(data))
        assert small.format == "JPEG" and max(small.size) <= 96


def test_what_is_said_without_a_limit(audited: dict[str, Any], runs: SimpleNamespace, qtools: Call) -> None:
    names = {finding["cause"] for finding in audited["audit"]["findings"]}
    assert not any(name.startswith("preprocessing") for name in names)
    text = qtools(runs.folder, "report", "audits/first").out
    assert "MEASURED" in text and "neither passed nor failed" in " ".join(text.split())
    assert f"drop {step(audited)['drop']:.2f} points" in " ".join(text.split())
    marks = qtools(runs.folder, "report", "audits/first", "--format", "markdown").out
    assert "## Causes" in marks and "## Images that moved to another class" in marks


class _Sources(HTMLParser):
    """Everything that a page would fetch, and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_page_is_one_file_and_made_of_the_json_alone(
    audited: dict[str, Any], runs: SimpleNamespace, qtools: Call
) -> None:
    page = (runs.folder / "audits" / "first" / "report.html").read_text()
    assert qtools(runs.folder, "report", "audits/first/report.json", "--format", "html").out == page
    read = _Sources()
    read.feed(page)
    assert len(page) < 3_000_000 and read.tags["script"] == read.tags["link"] == 0 and "url(" not in page
    assert read.tags["img"] == len(audited["audit"]["pictures"])
    assert all(source.startswith("data:image/jpeg;base64,") for source in read.fetched)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium to open the page with")
def test_a_browser_has_nothing_to_complain_of(audited: dict[str, Any], runs: SimpleNamespace, tmp_path: Path) -> None:
    page = runs.folder / "audits" / "first" / "report.html"
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path}", "--window-size=390,844", "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "</html>" in done.stdout and "CONSOLE" not in done.stderr


@pytest.mark.parametrize(("limit", "code", "decision"), [("60", 0, "pass"), ("1", 1, "fail")])
def test_a_limit_is_judged_as_soon_as_it_can_be(
    runs: SimpleNamespace, qtools: Call, limit: str, code: int, decision: str
) -> None:
    """Every flip is a loss here, so that a limit of 1 point fails and one of 60 passes long before the last image."""
    ended = qtools(
        runs.folder, "audit", "run", *WORDS, "--data", "answered", "--max-drop", limit, "--no-causes", "--json"
    )
    assert ended.code == code, ended.err
    report = json.loads(ended.out)
    found = report["audit"]["stopping"]
    assert found["decision"] == decision and found["n"] == step(report)["n"] < COUNT
    assert found["n"] in stopping_rule(COUNT, float(limit)).looks and "stopped after" in ended.err
    (check,) = (check for check in report["checks"] if check["name"].startswith("drop at most"))
    assert check["status"] == ("passed" if code == 0 else "failed")
    if limit == "1":  # 160 images cannot pass one point, and that is said before they are seen
        assert ended.err.index("at least") < ended.err.index("evaluate")


def test_images_without_labels(runs: SimpleNamespace, qtools: Call) -> None:
    words = ("audit", "run", *WORDS, "--data", "flat", "--no-causes")
    refused = qtools(runs.folder, *words, "--max-drop", "1")
    assert refused.code == 2 and "no labels" in refused.err and "labels.csv" in refused.err
    ended = qtools(runs.folder, *words, "--limit", "40")
    said = " ".join(ended.out.split())
    assert ended.code == 0 and "Agreement with float" in said and "images without labels" in said
    assert "Stage n agreement step KL, nats step" in said and "weights on their grids" in said


def test_where_reports_may_go(audited: dict[str, Any], runs: SimpleNamespace, qtools: Call, contents: Call) -> None:
    before = contents(runs.folder / "audits")
    for out, *more in (("audits/first",), ("run", "--force"), (".", "--force")):
        ended = qtools(runs.folder, "audit", "run", *WORDS, "--data", "answered", "--out", out, *more)
        assert ended.code == 2, out
    assert contents(runs.folder / "audits") == before and (runs.folder / "run" / "plan.json").is_file()
    for option in ("--against", "--contract"):
        ended = qtools(runs.folder, "audit", "run", *WORDS, option, "run/report.json")
        assert ended.code == 2 and "is a run of qtools" in ended.err


@pytest.fixture(scope="module")
def bare(runs: SimpleNamespace) -> Path:
    """The run's artifact without a word about itself, and beside it the float one: as files of another tool."""
    model = flatbuffer.read((runs.folder / "run" / "model.tflite").read_bytes())
    model.metadata = []
    path = runs.folder / "theirs.tflite"
    path.write_bytes(flatbuffer.write(model))
    example = torch.from_numpy(runs.pixels[:1])
    program = capture(fuse(runs.module, example)[0], example, TARGET.spec.expand)
    lowered = TARGET.lower(program, (runs.pixels[:1], runs.pixels[1:2]), runs.folder / "float")
    shutil.copy(lowered.path, runs.folder / "float.tflite")
    (runs.folder / "contract.json").write_text(json.dumps(CONTRACT))
    (runs.folder / "wrong.json").write_text(json.dumps(CONTRACT | {"colours": "BGR"}))
    return path


def test_an_artifact_alone_is_measured_and_no_drop_is_made_up(bare: Path, runs: SimpleNamespace, qtools: Call) -> None:
    ended = qtools(runs.folder, "audit", bare.name, "--data", "answered", "--contract", "contract.json", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    right = runs.real.argmax(1) == runs.exact.argmax(1)
    (reference,) = (row for row in report["ledger"] if row["role"] == "reference")
    assert reference["accuracy"]["top1"] == pytest.approx(100 * right.mean())
    assert not any(row["role"] == "step" for row in report["ledger"])
    assert report["audit"]["findings"] == [] and report["size"]["float_bytes"] is None
    assert report["audit"]["calibration"]["root_mean_square"] >= 0
    for words, said in (
        (("--max-drop", "1"), "--against"),
        (("--data", "flat"), "nothing to measure"),
        ((), "--data"),
    ):
        more = () if "--data" in words or not words else ("--data", "answered")
        refused = qtools(runs.folder, "audit", bare.name, *words, *more)
        assert refused.code == 2 and said in refused.err


def test_an_artifact_against_its_float_one(bare: Path, runs: SimpleNamespace, qtools: Call) -> None:
    words = ("--data", "answered", "--against", "float.tflite", "--contract", "contract.json")
    ended = qtools(runs.folder, "audit", bare.name, *words, "--no-causes", "--out", "audits/theirs", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    flips = int((runs.real.argmax(1) != runs.exact.argmax(1)).sum())
    assert (step(report)["lost"], step(report)["gained"], step(report)["top1_reference"]) == (flips, 0, 100)
    assert report["audit"]["flipped"] == flips
    assert [row["role"] for row in report["ledger"]] == ["reference", "step", "side", "side"]
    page = qtools(runs.folder, "report", "audits/theirs", "--format", "html")
    assert page.code == 0 and "theirs.tflite, a bare artifact" in page.out


def test_a_wrong_contract_is_named(bare: Path, runs: SimpleNamespace, qtools: Call) -> None:
    ended = qtools(runs.folder, "audit", bare.name, "--data", "answered", "--contract", "wrong.json", "--json")
    (finding,) = json.loads(ended.out)["audit"]["findings"]
    assert finding["cause"] == "preprocessing: red and blue exchanged" and finding["before"] > finding["after"]
    entry = json.loads(finding["remedy"].split("'")[1])
    (runs.folder / "right.json").write_text(json.dumps(entry))
    again = qtools(runs.folder, "audit", bare.name, "--data", "answered", "--contract", "right.json", "--json")
    found = json.loads(again.out)
    assert found["audit"]["findings"] == []
    right = runs.real.argmax(1) == runs.exact.argmax(1)
    assert found["ledger"][0]["accuracy"]["top1"] == pytest.approx(100 * right.mean())
