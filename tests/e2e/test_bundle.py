"""`qtools bundle` and `qtools doctor` on a run of the small network, with the runtime itself behind both clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

WORDS = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "held_out")
NAMES = ["Apfel", "Birne", "Cassis", "Dattel", "Erdbeere"]
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, qtools: Call, album: Any) -> Path:
    """A run, its Python bundle and its C++ bundle."""
    made = album.furnish(tmp_path_factory.mktemp("bundle"))
    (made / "names.txt").write_text("\n".join(NAMES) + "\n")
    ended = qtools(made, *WORDS, "--labels", "names.txt", "--method", "minmax", "--out", "run")
    assert ended.code in (0, 1), ended.err
    for platform in ("python", "cpp"):
        ended = qtools(made, "bundle", "run", "--platform", platform, "-o", f"apps/{platform}", "--json")
        assert ended.code == 0, ended.err
        said = json.loads(ended.out)
        assert said["vectors"] == 5 and set(said["files"]) == {
            path.relative_to(made / "apps" / platform).as_posix()
            for path in (made / "apps" / platform).rglob("*")
            if path.is_file()
        }
    return made


def test_the_python_client_replays_the_vectors_alone(folder: Path) -> None:
    """In a process that sees nothing of qtools."""
    where = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "replay.py"],
        cwd=folder / "apps" / "python",
        env=where,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("decoded, tensor equal, answer equal") == 5
    assert "qtools." not in (folder / "apps" / "python" / "qtools_client.py").read_text().replace("qtools_", "")


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler here")
def test_the_cpp_client_answers_with_litert(folder: Path) -> None:
    spec = find_spec("ai_edge_litert")
    assert spec and spec.origin
    library = Path(spec.origin).with_name("libLiteRt.so")
    if not library.exists():
        pytest.skip("this ai-edge-litert brings no C library")
    words = ["-std=c++17", "-ffp-contract=off", "-DQTOOLS_LITERT", "replay.cpp", str(library), "-o", "replay"]
    home = folder / "apps" / "cpp"
    subprocess.run(["c++", *words, f"-Wl,-rpath,{library.parent}"], cwd=home, check=True)
    ended = subprocess.run([str(home / "replay"), "."], cwd=home, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("tensor equal, answer off by 0,") == 5
    assert any(name in ended.stdout for name in NAMES)


def test_the_run_and_its_bundles_promise_the_same(folder: Path) -> None:
    run, app = (json.loads((folder / place / "contract.json").read_text()) for place in ("run", "apps/python"))
    assert app["runtime"].pop("systems") == {"Python": "3.10"}
    assert run["runtime"].pop("systems") == {}
    assert run == app and run["labels"] == NAMES
    assert (run["input"]["dtype"], run["preparation"]["keep"], run["output"]["meaning"]) == ("int8", 0.875, "logits")
    report = json.loads((folder / "run" / "report.json").read_text())
    assert run["artifact"]["sha256"] == report["digests"]["artifact"]
    assert (folder / "apps/cpp/model.tflite").read_bytes() == (folder / "run/model.tflite").read_bytes()


def test_an_audit_by_the_contract_sees_what_the_run_saw(folder: Path, qtools: Call) -> None:
    shutil.copy(folder / "run" / "model.tflite", folder / "bare.tflite")
    ended = qtools(
        folder, "audit", "bare.tflite", "--data", "held_out", "--contract", "run/contract.json", "--no-causes", "--json"
    )
    assert ended.code == 0, ended.err
    (now,) = (row["accuracy"] for row in json.loads(ended.out)["ledger"] if row["role"] == "reference")
    rows = json.loads((folder / "run" / "report.json").read_text())["ledger"]
    before = next(row["accuracy"] for row in rows if row["stage"] == "artifact, XNNPACK")
    assert (now["n"], now["top1"]) == (before["n"], before["top1"])


def test_the_doctor_reads_a_bundle_and_a_run(folder: Path, qtools: Call) -> None:
    vectors = folder / "apps" / "python" / "vectors"
    for subject in ("run", "apps/python"):
        ended = qtools(folder, "doctor", subject, "--device-output", vectors / "1.output.bin",
                       "--device-input", vectors / "1.input.bin", "--vector", "1", "--json")  # fmt: skip
        assert ended.code == 0, ended.err
        assert [(found["side"], found["verdict"]) for found in json.loads(ended.out)] == [
            ("input", "equal"),
            ("output", "equal"),
        ]
    ended = qtools(folder, "doctor", "run", "--device-output", vectors / "2.output.bin", "--vector", "1")
    assert ended.code == 1 and "vector 2 was shown" in ended.out


def test_the_doctor_names_what_the_app_did(folder: Path, qtools: Call) -> None:
    """Red and blue exchanged, by hand, through the interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    app = folder / "apps" / "python"
    tensor = np.fromfile(app / "vectors" / "0.input.bin", np.int8).reshape(1, 32, 32, 3)
    interpreter = Interpreter(str(app / "model.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor[..., ::-1].copy())
    interpreter.invoke()
    answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    answer.tofile(folder / "phone.bin")
    ended = qtools(app, "doctor", "--device-output", folder / "phone.bin", "--vector", "0", "--json")
    assert ended.code == 1
    (found,) = json.loads(ended.out)
    assert found["verdict"] == "mistake"
    assert any("red and blue" in each["mistakes"][0] for each in found["explanations"])


def test_the_page_has_the_answers_of_float_network_simulation_and_artifact(folder: Path, tmp_path, monkeypatch) -> None:
    """Float against the module itself, the integers against the vector that the bundle has of this picture."""
    import torch
    from PIL import Image

    from calibration.images import fitted, normalise
    from qtools.pipeline.audit import restore
    from qtools.pipeline.audit.config import AuditConfig
    from qtools.pipeline.demo.page import DemoConfig, write
    from qtools.pipeline.progress import Silent

    monkeypatch.chdir(folder)
    page = write(DemoConfig(Path("run"), builder=WORDS[2]), tmp_path, Silent())
    assert "LiteRT.js has no int8 tensors; quantize with --io pixels" in page.not_in_browser
    assert 'data-answered="[&#34;Artifact, XNNPACK&#34;' in (tmp_path / "index.html").read_text()
    picture = np.asarray(Image.open("apps/python/vectors/0.png"))
    real, exact, simulated = (page.answers(picture, way) for way in range(3))
    recorded = json.loads(Path("apps/python/vectors/vectors.json").read_text())["vectors"][0]["top"]
    assert [each["index"] for each in real.top] == [each["index"] for each in recorded]
    assert simulated.top == real.top
    run = restore.read(AuditConfig(Path("run"), builder=WORDS[2]))
    ready = normalise(fitted(picture, run.kept.facts.input), run.kept.facts.input)
    with torch.no_grad():
        shares = run.loaded.module(torch.from_numpy(ready[None].copy())).softmax(1)[0]
    for each in exact.top:
        assert each["probability"] == pytest.approx(float(shares[each["index"]]), rel=1e-3)


def test_a_machine_is_described(folder: Path, qtools: Call) -> None:
    ended = qtools(folder, "doctor", "--json")
    host = json.loads(ended.out)
    assert ended.code == 0 and host["missing"] == []
    abilities = {(each["group"], each["name"]): each for each in host["abilities"]}
    assert abilities["run", "tflite"]["here"] and not abilities["device", "ios"]["here"]
    assert all(each["here"] or each["next_step"] for each in abilities.values())
    assert host["environment"]["packages"]["torch"] != "not installed" and "torch" in host["wanted"]


def test_a_changed_contract_fails_verification(folder: Path, qtools: Call) -> None:
    shutil.copytree(folder / "run", folder / "changed")
    said = folder / "changed" / "contract.json"
    said.write_text(said.read_text().replace("RGB", "BGR"))
    ended = qtools(folder, "verify", "changed", "--json")
    failed = [check["name"] for check in json.loads(ended.out)["checks"] if check["status"] == "failed"]
    assert (ended.code, failed) == (1, ["contract is the one reported", "files are those of SHA256SUMS"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("bundle", "run", "--platform", "pyton"), 2, "Did you mean python"),
        (("bundle", "run", "--platform", "python", "-o", "apps/cpp"), 2, "exists already"),
        (("bundle", "calibration", "--platform", "python", "-o", "new"), 2, "no run folder"),
        (("bundle", "damaged", "--platform", "python", "-o", "new"), 1, "not the file that was audited"),
        (("bundle", "--platform", "python"), 2, "give a run folder or --schema"),
        (("doctor", "run", "--vector", "0"), 2, "what the device gave"),
        (("doctor", "calibration", "--device-output", "names.txt", "--vector", "0"), 2, "neither a run nor a bundle"),
        (("doctor", "apps", "--device-output", "names.txt", "--vector", "0"), 2, "holds 2 bundles"),
        (("doctor", "apps/cpp", "--device-output", "names.txt", "--vector", "0"), 2, "holds no numbers"),
        (("doctor", "apps/cpp", "--device-output", "names.txt", "--vector", "9"), 2, "no vector '9'"),
        (
            ("doctor", "other", "--device-output", "names.txt", "--vector", "0"),
            1,
            "not the file that its contract is about",
        ),
        (
            ("doctor", "apps/cpp", "--device-output", "apps/cpp/vectors/0.input.bin", "--vector", "0"),
            2,
            "--device-input",
        ),
    ],
)
def test_what_cannot_be_done_is_said(folder: Path, qtools: Call, words: Any, code: int, message: str) -> None:
    if "damaged" in words and not (folder / "damaged").exists():
        shutil.copytree(folder / "run", folder / "damaged")
        artifact = folder / "damaged" / "model.tflite"
        artifact.write_bytes(artifact.read_bytes() + b"\0")
    if "other" in words:
        shutil.copytree(folder / "apps" / "cpp", folder / "other")
        (folder / "other" / "model.tflite").write_bytes(b"another model")
    ended = qtools(folder, *words)
    assert ended.code == code, ended.err
    assert message in ended.err and "next:" in ended.err
    assert not (folder / "new").exists() and not list(folder.glob(".new*"))
