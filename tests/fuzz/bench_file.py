"""What qtools bench --parse reads: logs of benchmark_model, lines of the Swift program, and its own JSON."""

from __future__ import annotations

import json
from pathlib import Path

from qtools.core import plugins
from qtools.pipeline import bench
from reports.bench import BENCH_FILE
from reports.render._plain import plain_text
from reports.render.bench import show

LOG = b"""\
INFO: Num threads: [4]
INFO: Graph: [models/best_int8.tflite]
VERBOSE: Replacing 539 out of 548 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 19 partitions for the
INFO: count=50 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583
INFO: Inference timings in us: Init: 92318, First inference: 235158, Warmup (avg): 211669, Inference (avg): 145528
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
INFO: Overall peak memory footprint (MB) via periodic monitoring: 81.25
ERROR: none
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\tGELU\t0.250\t0.250\t33.3%\t100.0%\t0.000\t2\t[a, b]:12

"""
MACHINE = {"device": "macos", "name": "Mac14,2", "system": "macOS 14.5", "chip": "M2", "runtime": "Core ML"}
DEVICES = [bench.find_device(name) for name in plugins.names(bench.DEVICES)]
RUN = {"artifact": "a.mlpackage", "where": "cpu", "init_ms": 40.5, "first_ms": 3.25, "samples_ms": [1.5, 1.0, 2.0]}


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """One of each."""
    marks = "".join(f"qtools-bench: {json.dumps(mark)}\n" for mark in (MACHINE, RUN)).encode()
    phone = b'qtools-bench: {"device": "android", "name": "a", "system": "b"}\nqtools-bench: {"artifact": "m"}\n' + LOG
    return [LOG, marks, phone]


def read(data: bytes, folder: Path) -> None:
    """As qtools bench reads and shows it."""
    text = data.decode(errors="replace")
    for device in DEVICES:
        device.read(text, "output.txt")
    if text.startswith("{"):
        BENCH_FILE.parse(text, "output.txt")
    if len(data) % 64 == 0:  # looking for plugins and drawing tables takes a hundred times as long as reading
        path = folder / "output.txt"
        path.write_bytes(data)
        found = bench.read(path, "")
        plain_text(lambda console: show(found, console), 120)
