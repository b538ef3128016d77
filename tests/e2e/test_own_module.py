"""The user's own network, from a builder and a folder of pictures of all kinds to a verified artifact."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

import qtools as package
from qtools.pipeline import seal
from qtools.pipeline.evaluate import SLOW_KERNEL_IMAGES

pytestmark = pytest.mark.e2e

ASKED = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "held_out", "--json")
EVALUATED = 60


@pytest.fixture(scope="module")
def first(tmp_path_factory, qtools, album) -> Any:
    """The run that the others are held against; it finds nothing that another one kept."""
    folder = album.furnish(tmp_path_factory.mktemp("first"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QTOOLS_CACHE", str(tmp_path_factory.mktemp("nothing")))
        return qtools(folder, *ASKED)


@pytest.fixture(scope="module")
def interrupt(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Starts a run in a process of its own and sends it a signal as soon as it says that it converts."""

    def start_and_stop(folder: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, {str(root)!r}); from qtools.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *ASKED],
            cwd=folder,
            env=os.environ | {"QTOOLS_CACHE": str(folder / "kept")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if "convert to" in line:
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(ASKED, process.returncode, out, seen + err)

    return start_and_stop


@pytest.fixture(scope="module")
def killed(tmp_path_factory, album, interrupt) -> SimpleNamespace:
    """A folder in which a run was killed, and what it looked like right afterwards."""
    folder = album.furnish(tmp_path_factory.mktemp("killed"))
    ended = interrupt(folder, signal.SIGKILL)
    return SimpleNamespace(folder=folder, ended=ended, runs=[path.name for path in (folder / "runs").iterdir()])


@pytest.fixture(scope="module")
def second(killed, qtools) -> Any:
    """The same command again, where a run was killed before, with what it kept and nothing else, on other threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QTOOLS_CACHE", str(killed.folder / "kept"))
        torch.set_num_threads(4)
        try:
            return qtools(killed.folder, *ASKED)
        finally:
            torch.set_num_threads(1)


def reopened(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The artifact as an app opens it: one NHWC float picture to logits, with arithmetic written here."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(pixels: np.ndarray) -> np.ndarray:
        if image["dtype"] == np.int8:
            scale, zero = image["quantization"]
            pixels = np.clip(np.rint(pixels / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(image["index"], pixels[None])
        interpreter.invoke()
        raw = interpreter.get_tensor(logits["index"])[0]
        if logits["dtype"] == np.float32:
            return raw
        scale, zero = logits["quantization"]
        return (raw.astype(np.float64) - zero) * scale

    return answer


def judged(folder: Path, artifact: Path) -> tuple[float, float, float]:
    """Top-1 of float and artifact and their agreement in percent, through timm's own preprocessing."""
    network = builder(folder)()
    config = timm.data.resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    transform = timm.data.create_transform(**config)
    int8 = reopened(artifact)
    pairs = []
    for label, name in enumerate(sorted(path.name for path in (folder / "held_out").iterdir())):
        for path in sorted((folder / "held_out" / name).iterdir()):
            pixels = transform(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
            with torch.inference_mode():
                exact = int(network(pixels[None]).argmax())
            pairs.append((label, exact, int(np.argmax(int8(pixels.numpy().transpose(1, 2, 0))))))
    labels, exact, real = np.array(pairs).T
    assert len(pairs) == EVALUATED and len(set(exact)) >= 3, "the test needs a network that tells pictures apart"
    return 100 * np.mean(exact == labels), 100 * np.mean(real == labels), 100 * np.mean(real == exact)


def builder(folder: Path) -> Callable[[], torch.nn.Module]:
    spec = importlib.util.spec_from_file_location("user_network_again", folder / "user_network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build


def rows(report: dict[str, Any]) -> dict[str, Any]:
    return {row["stage"]: row["accuracy"] for row in report["ledger"]}


def blob(artifact: Path) -> dict[str, Any]:
    from exporters._tflite import flatbuffer

    return json.loads(flatbuffer.metadata(flatbuffer.read(artifact.read_bytes()), "qtools"))


def only_the_clock_failed(report: dict[str, Any]) -> bool:
    """A busy machine may fail the check of speed, and no other."""
    return all(check["status"] == "passed" for check in report["checks"])


def test_it_succeeds_with_json_alone_on_stdout_and_talk_on_stderr(first):
    printed = json.loads(first.out)
    assert printed == first.report()
    assert only_the_clock_failed(printed) and first.code in (0, 1), first.err
    assert (first.code == 1) == any(check["status"] == "failed" for check in printed["measured"]["checks"])
    told = [line.split("s  ", 1)[1] for line in first.err.splitlines()]
    assert told[:4] == ["start", "load", "fuse", "capture"] and "calibrate" in told, first.err


def test_the_run_folder_is_whole(first):
    names = {path.name for path in first.folder().iterdir()}
    assert {"model.tflite", "plan.json", "fusion.json", "report.json", "report.html", seal.BILL} <= names
    assert seal.check(first.folder()).status == "passed"
    assert not [name for name in names if name.startswith(".") or "float" in name]
    assert [path.name for path in first.cwd.rglob(".*")] == []


def test_the_reported_accuracy_is_what_the_reopened_file_has(first):
    report = rows(first.report())
    exact, real, agreement = judged(first.cwd, first.folder() / "model.tflite")
    assert report["float"]["top1"] == pytest.approx(exact)
    assert report["artifact, XNNPACK"]["top1"] == pytest.approx(real)
    assert report["artifact, XNNPACK"]["agreement"] == pytest.approx(agreement)
    second = ("artifact, LiteRT default kernels", "artifact, reference kernels", "artifact, TensorFlow's interpreter")
    assert {stage: accuracy["n"] for stage, accuracy in report.items()} == {
        stage: SLOW_KERNEL_IMAGES if stage in second else EVALUATED for stage in report
    }


def test_the_simulation_equals_the_artifact_in_every_code(first):
    report = first.report()
    (check,) = [check for check in report["checks"] if check["name"] == "simulation equals artifact"]
    assert check["status"] == "passed" and check["value"] == 100
    assert sum(row["codes"] for row in report["differences"]) > 10_000
    assert sum(row["differing"] for row in report["differences"]) == 0


def test_the_report_describes_the_file_and_the_pictures(first):
    report, artifact = first.report(), first.folder() / "model.tflite"
    assert report["digests"]["artifact"] == hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert report["size"]["quantized_bytes"] == artifact.stat().st_size
    described = report["data"]
    assert (described["kind"], described["calibration"], described["evaluation"]) == ("folder", 20, EVALUATED)
    assert described["labelled"] and report["subject"]["verified"] is False
    assert report["subject"]["command"] == f"qtools {' '.join(ASKED)}"


def test_the_artifact_says_what_it_is(first):
    facts = blob(first.folder() / "model.tflite")
    assert facts["weights"]["kind"] == "builder" and facts["weights"]["source"] == "user_network:build"
    assert (facts["scheme"], facts["target"].split()[0], facts["io"]) == ("w8a8", "tflite", "int8")
    digests = first.report()["digests"]
    assert [facts[f"{name}_sha256"] for name in ("plan", "weights", "calibration")] == [
        digests[name] for name in ("plan", "weights", "calibration")
    ]
    assert facts["notices"] == first.report()["warnings"]
    assert facts["input"]["size"] == [32, 32] and facts["classes"] == 5
    interpreter = Interpreter(model_path=str(first.folder() / "model.tflite"))
    (signature,) = interpreter.get_signature_list().values()
    assert signature == {"inputs": ["image"], "outputs": ["logits"]}


def test_the_html_report_needs_nothing_else(first):
    page = (first.folder() / "report.html").read_text()
    assert "</html>" in page and "<svg" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//[^"'\s>]*""", page)
    assert not re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//|<script[^>]+src", page)


def test_no_file_names_this_machine(first, contents):
    for name, data in contents(first.folder()).items():
        assert str(first.cwd).encode() not in data and str(Path.home()).encode() + b"/" not in data, name


def test_a_killed_run_leaves_no_run_folder(killed):
    assert killed.ended.returncode == -signal.SIGKILL
    assert killed.runs and all(name.startswith(".") for name in killed.runs), killed.runs


def test_two_runs_give_the_same_bytes_whatever_threads_torch_has(first, second, contents):
    before, after = first.folder(), second.cwd / "runs" / first.folder().name
    clocked = {"report.json", "report.html", seal.SUMS}  # and digests of these
    found = [{name: data for name, data in contents(run).items() if name not in clocked} for run in (before, after)]
    assert {"model.tflite", "plan.json", "fusion.json", "vectors.npz", "audit/stats.npz"} <= found[0].keys()
    assert found[0].keys() == found[1].keys()
    assert [name for name, data in found[0].items() if found[1][name] != data] == []
    reports = [json.loads((folder / "report.json").read_text()) for folder in (before, after)]
    for report in reports:
        assert report.pop("measured")["timings_s"]
    assert reports[0] == reports[1]


def test_the_module_itself_gives_the_artifact_of_its_builder(first, tmp_path):
    from exporters._tflite import flatbuffer

    result = package.quantize(
        builder(first.cwd)(),
        data=first.cwd / "calibration",
        eval_data=first.cwd / "held_out",
        out=tmp_path / "run",
    )
    assert result.path == tmp_path / "run" / "model.tflite" and result.folder == tmp_path / "run"
    assert result.report.digests["artifact"] == hashlib.sha256(result.path.read_bytes()).hexdigest()
    models = [flatbuffer.read(path.read_bytes()) for path in (result.path, first.folder() / "model.tflite")]
    for model in models:  # what the network is called, and where it came from, differs
        for entry in model.metadata:
            model.buffers[entry.buffer].data = None
    assert flatbuffer.write(models[0]) == flatbuffer.write(models[1])


def test_other_pictures_give_another_plan_and_float_ends_are_float(first, tmp_path, qtools, album):
    folder = album.furnish(tmp_path)
    (folder / "mine").mkdir()
    (folder / "mine" / "old.txt").write_text("an earlier run")
    more = ("--data", "held_out", "--calibration", "24", "--evaluation", "36", "--io", "float32")
    ended = qtools(folder, *ASKED[:3], *more, "--out", "mine", "--force")
    report = json.loads((folder / "mine" / "report.json").read_text())
    assert only_the_clock_failed(report) and ended.code in (0, 1), ended.err
    assert (report["data"]["calibration"], report["data"]["evaluation"]) == (24, 36)
    assert report["digests"]["plan"] != first.report()["digests"]["plan"]
    assert report["digests"]["calibration"] != report["digests"]["evaluation"]
    interpreter = Interpreter(model_path=str(folder / "mine" / "model.tflite"))
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert details["dtype"] == np.float32
    assert blob(folder / "mine" / "model.tflite")["io"] == "float32"
    assert "mine/model.tflite" in ended.out and "agreement" in ended.out
    assert not (folder / "mine" / "old.txt").exists()
    assert sorted(path.name for path in folder.glob("*mine*")) == ["mine"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(tmp_path, album, interrupt, number):
    folder = album.furnish(tmp_path / "work")
    ended = interrupt(folder, number)
    assert ended.returncode == 130
    assert ended.stderr.endswith("qtools: interrupted; nothing was left behind\n") and "Traceback" not in ended.stderr
    assert not (folder / "runs").exists()
