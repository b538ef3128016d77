"""TensorFlow's interpreter beside LiteRT: the same artifact, the same codes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from exporters._tflite import second
from qtools.core.errors import InputError, MissingPlatform

needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason=f"TensorFlow is not here; {second.EXTRA}")


class Small(nn.Module):
    """Every kernel of a RepViT block: both kinds of convolution, a table, a gate, a pool and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = nn.functional.gelu(self.stem(x))
        x = x + self.mix(x) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def tiny(bench: Any) -> Any:
    return bench.tiny("second-runtime", Small, (3, 16, 16))


@needs_tensorflow
def test_both_runtimes_give_the_same_codes(tiny: Any) -> None:
    rng = np.random.default_rng(7)
    for _ in range(2):
        plan = tiny.random_plan(rng, 1.0)
        path = tiny.write(plan)
        runner = tiny.open(path)
        images = tiny.images(plan, rng, 6)
        feeds = np.concatenate([array for image in images for array in runner.feed(image).values()])
        ours, theirs = runner.codes(images), second.run(path, feeds)
        assert theirs.dtype == ours.dtype and np.array_equal(theirs, ours)
        assert len(np.unique(ours, axis=0)) > 1


@needs_tensorflow
def test_a_file_that_it_refuses_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "model.tflite"
    broken.write_bytes(b"TFL3" * 100)
    with pytest.raises(InputError, match=r"TensorFlow's interpreter cannot open model\.tflite"):
        second.run(broken, np.zeros((1, 16, 16, 3), np.int8))


def test_without_tensorflow_the_next_step_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "find_spec", lambda name: None)
    with pytest.raises(MissingPlatform, match=r"qtools\[tensorflow\]"):
        second.run(tmp_path / "model.tflite", np.zeros((1, 16, 16, 3), np.int8))
