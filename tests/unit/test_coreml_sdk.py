"""coremltools comes without TensorFlow: what lies on the path under that name must not even begin to load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ran(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "tensorflow.py").write_text("import os\nos._exit(9)\n")
    path = os.pathsep.join((str(folder), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_tensorflow_is_not_loaded(tmp_path: Path) -> None:
    done = ran("from exporters._coreml.sdk import coremltools; print(coremltools().proto.MIL_pb2.__name__)", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "coremltools.proto.MIL_pb2"), done.stderr


def test_it_can_be_loaded_afterwards(tmp_path: Path) -> None:
    done = ran("from exporters._coreml.sdk import coremltools; coremltools(); import tensorflow", tmp_path)
    assert done.returncode == 9


@pytest.mark.parametrize("name", ["torch._inductor.runtime.hints", "torch.export"])
def test_torch_survives_it(name: str) -> None:
    code = f"from exporters._coreml.sdk import coremltools; coremltools(); import {name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
