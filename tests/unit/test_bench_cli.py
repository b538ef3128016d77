"""`qtools bench` from the outside: exit codes, what is said, and that nothing is claimed that was not measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from onnx import TensorProto, helper

from qtools.cli import main
from qtools.core import files
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.inspection import Inspection, Placement
from qtools.core.protocols import Timer
from qtools.core.timing import Fed, Start
from qtools.pipeline import bench, inspect
from qtools.pipeline.devices import android
from qtools.pipeline.devices._device import Found
from reports.bench import Machine, Timing

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run(*words)` gives (exit code, stdout, stderr), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> tuple[int, str, str]:
        code = 0
        try:
            main(["bench", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    return call


class Clock:
    """A timed file without a runtime; each next one is opened a millisecond slower."""

    opened: ClassVar[list[Path]] = []

    def __init__(self, path: Path, threads: int) -> None:
        if path.stem == "refused":
            raise InputError(f"the runtime refuses {path.name}")
        self._ms = 1.0 + len(self.opened)
        self.opened.append(path)
        self.start = Start(5.0, 6.0, 1000, (Fed("image", (1, 4), "int8", "noise"),))

    def warm(self, runs: int) -> None: ...

    def turn(self) -> float:
        return self._ms

    def stream(self, seconds: float, queries: int, progress: Any) -> list[float]:
        return [self._ms] * queries

    def peak_bytes(self) -> int:
        return 5000

    def close(self) -> None: ...


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`model(name)` is a file that is inspected and timed without any runtime; .mlpackage has no timer."""

    def no_profile(path: Path, threads: int, runs: int) -> Any:
        raise MissingPlatform("this runtime has no profiler")

    def described(path: Path) -> Any:
        unknown = "Nobody'sOp" if path.stem == "unknown" else ""
        seen = Inspection(path.name, "format 1", 4, "maker", (), (), (), (), Placement("r", unknown=unknown))
        return SimpleNamespace(inspection=seen)

    monkeypatch.setattr(Clock, "opened", [])
    monkeypatch.setattr(bench, "_timers", lambda: {".tflite": Timer("clock", ("numpy",), Clock, no_profile)})
    monkeypatch.setattr(inspect, "run", described)

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")
        return path

    return write


def test_rows_ratios_and_the_host(run: Run, model: Callable[[str], Path]) -> None:
    code, out, err = run(model("a.tflite"), model("b.tflite"), "--starts", 1, "--runs", 9, "--profile")
    assert code == 0 and "B / A = 2.000 [2.000, 2.000] (1 thread)" in out and "This host, not a phone: " in out
    assert "not run: this runtime has no profiler" in out and "time, 1 thread(s)" in err


def test_one_object_on_stdout_and_in_a_file(run: Run, model: Callable[[str], Path], tmp_path: Path) -> None:
    words = ["--threads", "2,1,2", "--runs", 8, "--json", "--out", "kept/b.json", "--against", "b.tflite"]
    code, out, _ = run(model("a.tflite"), model("b.tflite"), *words)
    found = json.loads(out)
    assert code == 0 and (tmp_path / "kept/b.json").read_text() == out and found["schema_version"] == 1
    assert [(t["artifact"], t["threads"]) for t in found["timings"]] == [
        ("a.tflite", 1), ("a.tflite", 2), ("b.tflite", 1), ("b.tflite", 2),
    ]  # fmt: skip
    assert {ratio["against"] for each in found["comparisons"] for ratio in each["ratios"]} == {"b.tflite"}
    assert found["timings"][0]["opening"]["init_samples_ms"] == [5.0] * 3
    assert found["artifacts"][0]["sha256"] == files.digest(tmp_path / "a.tflite")
    assert found["machine"]["kind"] == "host" and "phone" not in json.dumps(list(found["timings"][0]))
    code, out, _ = run("--parse", "kept/b.json", "--json")
    assert code == 0 and json.loads(out) == found


def test_a_row_that_cannot_run_here_beside_one_that_can(run: Run, model: Callable[[str], Path]) -> None:
    code, out, _ = run(model("x.mlpackage"), model("a.tflite"), model("unknown.tflite"), "--json")
    rows = {t["artifact"]: t for t in json.loads(out)["timings"]}
    assert code == 0 and rows["a.tflite"]["status"] == "measured"
    assert (rows["x.mlpackage"]["status"], rows["x.mlpackage"]["spread"]) == ("not run", None)
    assert "Nobody'sOp" in rows["unknown.tflite"]["reason"]


def test_nothing_that_can_run_here_ends_in_three(run: Run, model: Callable[[str], Path]) -> None:
    code, out, err = run(model("x.mlpackage"), "--threads", "1,2")
    assert code == 3 and "not run" in out and "--device ios or --device macos" in err


SCRIPT = {"qtools-bench.json", "artifacts"}


@pytest.mark.parametrize(
    ("device", "name", "files_of_it"),
    [
        ("android", "a.tflite", SCRIPT | {"run.sh"}),
        ("macos", "a.mlpackage", SCRIPT | {"run.sh", "Bench.swift", "Command.swift"}),
        ("ios", "a.mlpackage", SCRIPT | {"App.swift", "Bench.swift", "Package.swift", "runs.json"}),
    ],
)  # fmt: skip
def test_a_device_that_is_not_here_leaves_a_folder(
    run: Run, model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, name: str,
    files_of_it: set[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", "")
    path = model(name)
    code, out, err = run(path, "--device", device)
    folder = tmp_path / "runs" / f"bench-{device}"
    assert code == 3 and "not run" in out and f"hand runs/bench-{device} to someone" in err and "--parse" in err
    assert {entry.name for entry in folder.iterdir()} == files_of_it
    assert (folder / "artifacts" / name).read_bytes() == path.read_bytes()
    assert run(path, "--device", device)[0] == 3, "a folder of ours is replaced"
    (folder / "qtools-bench.json").unlink()
    code, _, err = run(path, "--device", device)
    assert code == 2 and "exists already" in err, "one of somebody else's is not"


def test_a_device_gets_only_what_it_runs(
    run: Run, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measure(items: Any, asked: Any, against: str, listener: Any) -> Found:
        seen.extend(item.subject.name for item in items)
        return Found(Machine("android", "Phone", "Android"), tuple(Timing(name, 1, "measured") for name in seen))

    device = dataclasses.replace(android.DEVICE, absent=lambda: "", measure=measure)
    monkeypatch.setattr(bench, "find_device", lambda name: device)
    code, out, _ = run(model("a.onnx"), model("b.tflite"), "--device", "android", "--json")
    found = json.loads(out)
    assert code == 0 and seen == ["b.tflite"] and len(found["artifacts"]) == 2
    rows = {timing["artifact"]: timing["reason"] for timing in found["timings"]}
    assert rows == {"b.tflite": "", "a.onnx": "an Android device does not run .onnx"}
    code, out, _ = run(model("a.onnx"), "--device", "android")
    assert code == 3 and "does not run .onnx" in out and seen == ["b.tflite"]


def test_run_folders_give_their_names(tmp_path: Path) -> None:
    same = tmp_path / "runs" / "net-w8a8" / "model.tflite"
    assert bench.names([same, tmp_path / "b.onnx", same]) == ["net-w8a8.tflite", "b.onnx", "net-w8a8-2.tflite"]
    apart = [tmp_path / "a" / "x.onnx", tmp_path / "b" / "x.onnx"]
    assert bench.names(apart) == ["a-x.onnx", "b-x.onnx"]
    every = tmp_path / "runs" / "net-all"
    every.mkdir(parents=True)
    (every / "cross.json").touch()
    assert bench.names([every / "onnx" / "model.onnx"]) == ["net-all-onnx.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is nothing to time"),
        (["a.tflite", "--mode", "fastest"], "unknown mode 'fastest'"),
        (["a.tflite", "--mode", "single"], "Did you mean single-stream"),
        (["a.tflite", "--threads", "1,x"], "no list of numbers"),
        (["a.tflite", "--threads", "0"], "begin at 1"),
        (["a.tflite", "--device", "andriod"], "Did you mean android"),
        (["a.tflite", "--delegate", "gpu"], "leave --delegate out"),
        (["a.tflite", "--device", "android", "--delegate", "npu"], "choose one of: xnnpack"),
        (["a.tflite", "--device", "android", "--mode", "single-stream"], "does not give every latency"),
        (["a.tflite", "--against", "b.tflite"], "is none of the artifacts"),
        (["a.tflite", "--runs", "1"], "--runs"),
        (["refused.tflite"], "the runtime refuses refused.tflite"),
        (["a.tflite", "--parse", "a.tflite"], "--parse reads a log"),
        (["--parse", "a.tflite"], "no output of a bench"),
        (["--parse", "absent.txt"], "cannot read absent.txt"),
    ],
)
def test_what_cannot_be_used_ends_in_two(run: Run, model: Callable[[str], Path], words: list[str], said: str) -> None:
    model("a.tflite"), model("refused.tflite")
    code, out, err = run(*words)
    assert code == 2 and out == "" and said in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["absent.tflite", "absent.onnx", "absent.mlpackage"])
def test_a_missing_file_ends_in_two(run: Run, name: str) -> None:
    code, out, err = run(name)
    assert (code, out) == (2, "") and "does not exist" in err


@pytest.mark.parametrize("name", ["model.pth", "random.tflite", "random.onnx", "random.mlpackage"])
def test_a_file_of_another_kind_ends_in_two(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(3).bytes(4096))
    code, out, err = run(name)
    assert (code, out) == (2, "") and name in err and "Traceback" not in err


def test_a_file_that_reaches_outside_its_folder_is_refused_before_a_runtime_opens_it(run: Run, tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    path = tmp_path / "in" / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    code, out, err = run(path)
    assert (code, out) == (2, "") and "Traceback" not in err and "secret.bin" in err


def test_a_truncated_onnx_ends_in_two(run: Run, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2])
    code, out, err = run("m.onnx")
    assert (code, out) == (2, "") and "m.onnx" in err
