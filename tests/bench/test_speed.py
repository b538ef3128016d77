"""Timings side by side in one run, `make test ARGS="-m bench -n 0"`: read ratios within a group, not milliseconds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from qtools.graph import execute

pytestmark = pytest.mark.bench


@pytest.mark.benchmark(group="LiteRT RepViT-M1.1 224 px, 1 thread")
@pytest.mark.parametrize("which", ["int8", "float"])
def test_artifact(bench: Any, benchmark: Any, which: str) -> None:
    runner = bench.quantized if which == "int8" else bench.plain
    benchmark.pedantic(runner.invoke, rounds=60, warmup_rounds=10)


@pytest.mark.benchmark(group="8 images through RepViT-M1.1 in Python")
@pytest.mark.parametrize("which", ["float program", "integer simulator"])
def test_simulator(bench: Any, benchmark: Any, which: str) -> None:
    call = {
        "float program": lambda: execute.run(bench.program, bench.images),
        "integer simulator": lambda: bench.simulator.codes(bench.images),
    }[which]
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="one image: rendering it and running the network on it, 1 thread")
@pytest.mark.parametrize("which", ["render", "network"])
def test_render(bench: Any, benchmark: Any, which: str) -> None:
    from qtools.reference import render

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    call = {
        "render": lambda: render(7, split="test", size=224),
        "network": lambda: execute.run(bench.program, bench.images[:1]),
    }[which]
    benchmark.pedantic(call, rounds=20, warmup_rounds=2)
    torch.set_num_threads(threads)


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("command", ["python -c pass", "qtools --help"])
def test_start(benchmark: Any, command: str) -> None:
    words = {"python -c pass": ["-c", "pass"], "qtools --help": ["-c", "from qtools.cli import main; main(['--help'])"]}
    call = [sys.executable, *words[command]]
    benchmark.pedantic(lambda: subprocess.run(call, check=True, capture_output=True), rounds=5, warmup_rounds=1)
