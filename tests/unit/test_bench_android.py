"""Android: logs as benchmark_model prints them in public, an adb that the test writes, and the script run with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.errors import InputError, MissingPlatform, QtoolsError
from qtools.pipeline import bench
from qtools.pipeline.devices import android
from qtools.pipeline.devices._device import Asked, Item
from qtools.pipeline.progress import Silent
from reports.bench import Subject
from reports.render._plain import plain_text
from reports.render.bench import show

LOG = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: Graph: [/sdcard/models/best_int8.tflite]
INFO: Loaded model /sdcard/models/best_int8.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 539 out of 548 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 19 partitions for the \
whole graph.
INFO: The input model file size (MB): 3.06409
INFO: Initialized session in 92.318ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=3 first=235158 curr=200386 min=199462 max=235158 avg=211669 std=16613

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583

INFO: Inference timings in us: Init: 92318, First inference: 235158, Warmup (avg): 211669, Inference (avg): 145528
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
INFO: Overall peak memory footprint (MB) via periodic monitoring: 81.25
"""
LOGCAT = """\
07-14 13:14:52.859 22838 22838 I tflite  : count=3 first=235158 curr=200386 min=199462 max=235158 avg=211669 std=16613 \
p5=199462 median=200386 p95=235158
07-14 13:14:56.520 22838 22838 I tflite  : count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 \
std=13583 p5=140545 median=141253 p95=187533
07-14 13:14:56.521 22838 22838 I tflite  : Inference timings in us: Init: 92318, First inference: 235158, Warmup \
(avg): 9.99242e+06, Inference (avg): 145528
"""
HEAD = "\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]"
PROFILE = f"""\
INFO: count=10 first=1500 curr=1500 min=1400 max=1600 avg=1500 std=9
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
{HEAD}
\tTfLiteXNNPackDelegate\t1.000\t1.000\t66.7%\t66.7%\t0.000\t1\t[logits]:65
\tGELU\t0.250\t0.250\t33.3%\t100.0%\t0.000\t2\t[a, b]:12

Timings (microseconds): count=10 first=1500 curr=1500 min=1400 max=1600 avg=1495 std=9
Memory (bytes): count=0
3 nodes observed
"""
ADB = '''\
#!{python}
"""An adb that knows one phone. What it is told goes into a file beside it."""
import json, os, pathlib, shlex, sys

here = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (here / "told").open("a") as told:
    told.write(json.dumps(words) + "\\n")
phone = json.loads((here / "phone.json").read_text())
line = " ".join(words[1:])
if words[0] == "devices":
    print("List of devices attached\\n" + "\\n".join(f"{{name}}\\t{{state}}" for name, state in phone["devices"]))
elif words[0] == "push":
    if not pathlib.Path(words[1]).exists():
        sys.exit("adb: error: cannot stat '" + words[1] + "'")
    print("1 file pushed")
elif line.startswith("getprop"):
    print(phone["properties"].get(line.split()[1], ""))
elif line.startswith("test -x"):
    print("yes" if phone["tool"] else "no")
elif "benchmark_model" in line and "chmod" not in line:
    flags = shlex.split(line)
    print(phone["profile" if "--enable_op_profiling=true" in flags else "log"])
    sys.exit(phone["code"])
'''
PROPERTIES = {"ro.product.manufacturer": "Maker", "ro.product.model": 'Fo"ne', "ro.build.version.release": "14"}
PHONE = {"devices": [["serial", "device"]], "properties": PROPERTIES, "tool": True, "log": LOG, "profile": PROFILE}


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`phone(**changes)` plugs one in; `phone.told()` is what adb was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "adb").write_text(ADB.format(python=sys.executable))
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def plug(**changes: Any) -> None:
        (folder / "phone.json").write_text(json.dumps(PHONE | {"code": 0} | changes))

    def told() -> list[list[str]]:
        return [json.loads(line) for line in (folder / "told").read_text().splitlines()]

    plug()
    return SimpleNamespace(plug=plug, told=told)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    path = tmp_path / "a; reboot 'now'.tflite"
    path.write_bytes(b"model")
    return [Item(path, Subject(path.name, path.name, "TFLite", 5, "ab" * 32, ""))]


def only(text: str) -> Any:
    found = android.read(text, "log.txt")
    assert found is not None
    (timing,) = found.timings
    return timing


def test_a_log_of_the_command_line_tool() -> None:
    timing = only(LOG)
    assert (timing.artifact, timing.threads, timing.status) == ("best_int8.tflite", 4, "measured")
    assert (timing.opening.init_ms, timing.opening.first_ms) == (92.318, 235.158)
    spread = timing.spread
    assert (spread.runs, spread.mean_ms, spread.min_ms, spread.max_ms, spread.std_ms) == (
        50, 145.528, 140.071, 195.121, 13.583,
    )  # fmt: skip
    assert spread.median_ms is None and spread.p90_ms is None, "the tool prints none, and none is made up"
    assert timing.memory.added_bytes == round(81.25 * 2**20) and timing.memory.peak_bytes is None
    assert timing.note == "TfLiteXNNPackDelegate: 539 of 548 nodes in 19 parts"
    assert timing.profile is None and timing.profile_note == ""


def test_a_mean_is_not_shown_as_a_median(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text('qtools-bench: {"artifact": "a.tflite", "where": "xnnpack"}\n' + LOG)
    shown = plain_text(lambda console: show(bench.read(tmp_path / "log.txt", ""), console), 80)
    assert "145.5*" in shown and "* mean: the tool prints no median" in shown and "85.20 MB" in shown
    assert "xnnpack" in shown and "140.0" not in shown, "nothing is cut in 80 columns"


def test_a_log_of_logcat_with_percentiles() -> None:
    spread = only(LOGCAT).spread
    assert (spread.runs, spread.median_ms, spread.p95_ms, spread.p90_ms) == (25, 141.253, 187.533, None)


@pytest.mark.parametrize(
    ("text", "runs", "mean"),
    [
        ("count=1 curr=40000\n", 1, 40.0),
        ("Timings (microseconds): count=50 first=9 curr=9 min=8 max=10 avg=9.5 std=1\n", 50, 0.0095),
        ("count=7 curr=30 min=30 max=30 avg=30 std=0\nTimings (microseconds): count=7 curr=20\n", 7, 0.03),
    ],
)
def test_the_tools_other_ways_to_say_it(text: str, runs: int, mean: float) -> None:
    spread = only(text).spread
    assert (spread.runs, spread.mean_ms) == (runs, mean)


def test_a_log_with_operations() -> None:
    profile = only(PROFILE).profile
    assert [(k.kind, k.ms, k.fast) for k in profile.kernels] == [
        ("TfLiteXNNPackDelegate", 1.0, True), ("GELU", 0.5, False),
    ]  # fmt: skip
    assert (profile.wall_ms, profile.runs) == (1.5, 10)


def test_a_run_that_failed_is_not_run_and_says_why() -> None:
    mark = 'qtools-bench: {"artifact": "a.tflite", "where": "gpu"}\n'
    failed = only(mark + "ERROR: Failed to apply GPU delegate.\nBenchmarking failed.\n")
    assert (failed.status, failed.reason, failed.spread) == ("not run", "Failed to apply GPU delegate.", None)
    assert only(mark + LOG[:500]).reason == "its log ends before a result"


@pytest.mark.parametrize("text", ["", "nothing of the kind\n", '{"a": 1}', "qtools-bench: "])
def test_other_texts_are_not_taken(text: str) -> None:
    assert android.read(text, "x") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("qtools-bench: {broken\n" + LOG, "is damaged"),
        ('qtools-bench: {"artifact": 7}\n' + LOG, "damaged at artifact"),
        (LOG.replace("avg=145528", "avg=1e999"), "is no time"),
        (LOG.replace("avg=145528", "avg=1.2.3"), "is no number"),
        (PROFILE.replace("[avg ms]", "[avg]"), "column names"),
    ],
)
def test_damage_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        android.read(text, "log.txt")


@given(
    st.sampled_from([LOG, LOGCAT, PROFILE, 'qtools-bench: {"device": "android", "name": "", "system": ""}\n' + LOG]),
    st.lists(st.tuples(st.integers(0, 2500), st.text('\n\t =.eE+-9[]{}:"q\0', max_size=5)), max_size=10),
)
def test_any_damage_is_an_error_of_ours_or_a_result(text: str, changes: list[tuple[int, str]]) -> None:
    for place, letters in changes:
        text = text[:place] + letters + text[place + 2 :]
    try:
        android.read(text, "log.txt")
    except QtoolsError:
        return


def test_driving_a_phone(phone: Any, items: list[Item], tmp_path: Path) -> None:
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(b"elf")
    assert android.absent() == ""
    asked = Asked(threads=(1, 4), runs=7, warmup=3, profile=True, where="nnapi", tool=tool)
    found = android.measure(items, asked, "", Silent())
    assert (found.machine.name, found.machine.system) == ('Maker Fo"ne', "Android 14")
    assert [(t.artifact, t.threads, t.where, t.status) for t in found.timings] == [
        (items[0].subject.name, 1, "nnapi", "measured"), (items[0].subject.name, 4, "nnapi", "measured"),
    ]  # fmt: skip
    assert all(t.profile is not None and t.spread is not None and t.spread.runs == 50 for t in found.timings)
    assert found.subjects[0].sha256 == "ab" * 32 and found.subjects[0].size_bytes == 5
    told = phone.told()
    assert ["push", str(items[0].path), f"{android.FOLDER}/0-a__reboot__now_.tflite"] in told
    runs = [words[1] for words in told if "--graph" in " ".join(words)]
    assert len(runs) == 4 and all("--num_runs=7 --warmup_runs=3" in run and "--use_nnapi=true" in run for run in runs)
    assert told[-1] == ["shell", f"rm -f {android.FOLDER}/0-a__reboot__now_.tflite"]
    assert "reboot '" not in " ".join(runs), "no name of a file reaches the phone's shell as it is"


def test_the_script_prints_what_driving_gives(phone: Any, items: list[Item], tmp_path: Path) -> None:
    asked = Asked(threads=(2,), profile=True)
    folder = tmp_path / "script"
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / items[0].subject.name).write_bytes(b"model")
    (folder / "run.sh").write_text(android.files(items, asked)["run.sh"])
    done = subprocess.run(["sh", str(folder / "run.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, driven = android.read(done.stdout, "output.txt"), android.measure(items, asked, "", Silent())
    assert found is not None and found.timings == driven.timings and found.subjects == driven.subjects
    assert found.machine.name == "Maker Fone" and found.machine.system == driven.machine.system


def test_a_phone_that_cannot(phone: Any, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    phone.plug(tool=False)
    with pytest.raises(MissingPlatform, match="benchmark_model is not on the device"):
        android.measure(items, Asked(), "", Silent())
    phone.plug(devices=[["serial", "unauthorized"]])
    assert "no device that is ready" in android.absent()
    phone.plug(log="ERROR: no memory\n", code=1)
    (timing,) = android.measure(items, Asked(), "", Silent()).timings
    assert (timing.status, timing.reason) == ("not run", "no memory")
    items[0].path.unlink()
    with pytest.raises(InputError, match="adb push failed: adb: error: cannot stat"):
        android.measure(items, Asked(), "", Silent())
    monkeypatch.setenv("PATH", "")
    assert android.absent() == "adb is not installed here"
