"""What large inputs take, beside small ones: memory of many and of large images, folders of many files, long graphs.

Each figure comes from a process of its own (`python test_load.py CELL SIZE` is one), as Linux's mark of the largest
resident memory only ever rises. `-m bench -n 0 -s` shows the numbers.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.bench, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/e2e")]

Numbers = dict[str, float]


def pictures(folder: Path, count: int, size: tuple[int, int], classes: int = 5) -> Path:
    """Class folders of noise with a tint; every picture is another one."""
    for number in range(count):
        draw = np.random.default_rng(number)
        place = folder / f"{number % classes}"
        place.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
        Image.fromarray(small).resize(size[::-1]).save(place / f"{number:06d}.jpg", quality=80)
    return folder


def calibrated(folder: Path, count: int) -> Numbers:
    """A whole run, calibrated on all images of a folder but those it is judged on."""
    from user_network import build

    from qtools.pipeline.config import Images, RunConfig
    from qtools.pipeline.quantize import run

    class Heard:
        """Every bar goes up, and ends where it said that it would."""

        def __init__(self) -> None:
            self.bars: dict[str, list[tuple[int, int]]] = {}

        def stage(self, name: str) -> None:
            for label, told in self.bars.items():
                assert [done for done, _ in told] == sorted(done for done, _ in told), label
                assert len({total for _, total in told}) == 1 and told[-1][0] == told[-1][1], (label, told[-1])
            self.bars = {}

        def warn(self, text: str) -> None:
            return

        def __call__(self, label: str, done: int, total: int) -> None:
            self.bars.setdefault(label, []).append((done, total))

    began = time.perf_counter()
    images = Images(folder, None, count, 32)
    config = RunConfig(build(), target="onnx", images=images, out=folder.parent / f"run{count}", cache=False)
    listener = Heard()
    run(config, listener)
    listener.stage("end")
    return {"seconds": time.perf_counter() - began}


def decoded(folder: Path, count: int) -> Numbers:
    """Images of a folder made ready, one batch after the other."""
    from calibration.batches import ImageBatches
    from calibration.data import open_folder
    from calibration.sampling import select
    from qtools.core.types import InputSpec

    began = time.perf_counter()
    spec = InputSpec((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9, "center")
    seen = sum(len(batch) for batch in ImageBatches(select(open_folder(folder), count), spec))
    assert seen == count
    return {"seconds": time.perf_counter() - began}


def opened(folder: Path, count: int) -> Numbers:
    """From the name of a folder of `count` files to the first batch of the 256 images that are wanted."""
    from calibration.batches import ImageBatches
    from calibration.data import open_folder
    from calibration.sampling import split
    from qtools.core.types import InputSpec

    began = time.perf_counter()
    source = open_folder(folder)
    listed = time.perf_counter() - began
    calibration, _ = split(source, calibration=256, evaluation=512)
    assert len(calibration) == 256 and len(source) == count
    spec = InputSpec((32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
    next(iter(ImageBatches(calibration, spec)))
    first = time.perf_counter() - began
    assert calibration.digest
    return {"seconds": first, "listed": listed, "digest": time.perf_counter() - began - first}


def chain(count: int) -> Any:
    """Residual blocks of `count` operations in all."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
            nn.init.normal_(self.conv.weight, std=0.1)
            self.norm.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            self.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.1 * torch.relu(self.norm(self.conv(x)))

    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
            self.blocks = nn.Sequential(*(Block() for _ in range(count // 4)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.blocks(self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    return Long().eval()


def graph(folder: Path, count: int) -> Numbers:
    """A chain of residual blocks of `count` operations, from the module to its simulated integers."""
    import torch

    from calibration.collect import collect
    from calibration.plan import Recipe, plan
    from calibration.ranges.minmax import RANGE
    from exporters._onnx.rules import SPEC
    from exporters.onnx import TARGET
    from qtools.fuse import fuse
    from qtools.graph.capture import capture
    from qtools.graph.execute import observe
    from qtools.simulate.run import Simulator

    torch.set_num_threads(1)
    images, found = torch.randn(8, 3, 8, 8), {}
    last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        found[name], last = time.perf_counter() - last, time.perf_counter()

    module = chain(count)
    lap("build")
    fused, _ = fuse(module, images[:1])
    lap("fuse")
    program = capture(fused, images[:1], SPEC.expand)
    lap("capture")
    floats = set(program.view.activations)
    stats = collect(
        [images.numpy()],
        lambda x: ((n, t) for n, t in observe(program, torch.from_numpy(x)) if n in floats),
        {},
    )
    lap("collect")
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    lowered = TARGET.lower(program, [images[:1].numpy(), images[1:2].numpy()], folder)
    lap("lower")
    made = plan(program.view, SPEC, stats, weights, Recipe("long", 8, 8, "minmax", RANGE), lowered.unbound)
    lap("plan")
    simulator = Simulator(program, made, TARGET.simulator)
    lap("prepare simulation")
    simulator.codes(images[:1])
    lap("simulate")
    TARGET.apply(lowered, made, program, folder / f"model{count}.onnx", {})
    lap("apply")
    return {"operations": len(program.view.ops), **found}


CELLS: dict[str, Callable[[Path, int], Numbers]] = {
    "calibrated": calibrated,
    "decoded": decoded,
    "opened": opened,
    "graph": graph,
}


def measured(cell: str, folder: Path, size: int) -> Numbers:
    """A cell in a process of its own: its numbers, and `peak`, its largest resident memory in MB."""
    done = subprocess.run(
        [sys.executable, __file__, cell, str(folder), str(size)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(capsys: Any, title: str, sizes: tuple[int, int], small: Numbers, large: Numbers) -> None:
    """Both columns and their ratio."""
    rows = [f"\n{title:28} {sizes[0]:>10,} {sizes[1]:>10,} {'ratio':>7}"]
    rows += [
        f"{key:28} {small[key]:10.2f} {large[key]:10.2f} {large[key] / max(small[key], 1e-9):7.2f}" for key in small
    ]
    with capsys.disabled():
        sys.stdout.write("\n".join([*rows, ""]))


def test_memory_does_not_grow_with_calibration_images(tmp_path: Path, capsys: Any) -> None:
    sizes = 100, 10_000
    folder = pictures(tmp_path / "images", sizes[1] + 32, (40, 40))
    small, large = (measured("calibrated", folder, size) for size in sizes)
    side_by_side(capsys, "calibration images", sizes, small, large)
    assert large["peak"] <= 1.05 * small["peak"]


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, capsys: Any) -> None:
    sizes = 8, 80
    folder = pictures(tmp_path / "images", sizes[0], (2160, 3840))
    for number, path in enumerate(sorted(folder.rglob("*.jpg")) * (sizes[1] // sizes[0] - 1)):
        os.link(path, path.with_name(f"again{number}.jpg"))
    small, large = (measured("decoded", folder, size) for size in sizes)
    side_by_side(capsys, "images of 3840 x 2160", sizes, small, large)
    assert large["peak"] - small["peak"] < 3840 * 2160 * 3 / 2**20, "not one picture more is held at a time"


def test_a_folder_of_many_files_opens_soon(tmp_path: Path, capsys: Any) -> None:
    sizes = 1_000, 100_000
    some = sorted(pictures(tmp_path / "some", 10, (40, 40)).rglob("*.jpg"))  # a file has no more than 65,000 names
    for size in sizes:
        for label in range(10):
            (tmp_path / f"{size}" / f"{label}").mkdir(parents=True)
        for number in range(size):
            os.link(some[number % 10], tmp_path / f"{size}" / f"{number % 10}" / f"{number:06d}.jpg")
    small, large = (measured("opened", tmp_path / f"{size}", size) for size in sizes)
    side_by_side(capsys, "files in class folders", sizes, small, large)
    assert large["seconds"] < 5


def test_a_long_graph_takes_in_proportion(tmp_path: Path, capsys: Any) -> None:
    sizes = 500, 2_000
    small, large = (measured("graph", tmp_path, size) for size in sizes)
    side_by_side(capsys, "operations", sizes, small, large)
    slow = {name: large[name] / small[name] for name in small if large[name] > 2}
    assert all(ratio < 8 for ratio in slow.values()), slow  # in proportion: 4; squared: 16


if __name__ == "__main__":
    numbers = CELLS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    numbers |= {"peak": int(peak.split()[1]) / 1024, "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2])}
    sys.stdout.write(json.dumps(numbers))
