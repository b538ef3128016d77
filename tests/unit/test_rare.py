"""Images unlike all others: planted ones are found, long tails are none, and a run sets them aside and names them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from calibration.method import method
from calibration.rare import GAP, SHARE, Rare, rare_images
from calibration.sampling import Subset
from calibration.widths import Widths
from exporters.tflite import TARGET
from qtools import models
from qtools.core.cache import NONE
from qtools.core.types import TensorStats
from qtools.graph.capture import capture
from qtools.pipeline import aside, data
from qtools.pipeline.config import Images
from qtools.pipeline.prepare import Captured, capture_model, fuse_model
from qtools.pipeline.progress import Silent, Stopwatch
from tests.unit.test_decide import Small

COUNT, PLANTED = 48, 17
EMPTY = np.empty(0, np.float32)


def seen(reach: NDArray[np.floating]) -> TensorStats:
    high = float(reach.max())
    return TensorStats(len(reach), -high, high, 0.0, EMPTY, EMPTY, EMPTY, np.empty(0, np.int64), reach.astype("f4"))


@given(st.integers(0, 10**6), st.integers(32, 300), st.integers(1, 4), st.floats(1.5 * GAP, 1e4))
def test_planted_images_are_found_and_no_others(seed: int, count: int, planted: int, times: float) -> None:
    chance = np.random.default_rng(seed)
    usual = chance.uniform(1, 1.4, count)
    images = chance.choice(count, min(planted, count // SHARE), replace=False)
    strange = usual.copy()
    strange[images] *= times
    values = [seen(usual)] * 18 + [seen(strange)]
    found = rare_images(values, count)
    assert found is not None and found.images == tuple(sorted(images)) and found.values == 1
    assert rare_images([*values, *[seen(usual)] * 2], count) is None, "in one value of 21, chance would do"
    assert times / 1.4 <= found.times * 1.0001 and found.times <= times * 1.4001
    assert rare_images([seen(usual)], count) is None


@pytest.mark.parametrize(
    ("case", "reach"),
    [
        ("nearer than the gap", [1.0] * 63 + [GAP * 0.99]),
        ("zero on most images", [0.0] * 60 + [0.1, 0.2, 3.0, 90.0]),
        ("a long tail, of which the end is no gap", list(np.geomspace(1, 1000, 64))),
        ("a kind of its own", [1.0] * 58 + [50.0] * 6),
        ("constant", [0.0] * 64),
    ],
)
def test_what_is_none(case: str, reach: list[float]) -> None:
    assert rare_images([seen(np.array(reach))], 64) is None, case


@pytest.mark.parametrize(
    ("case", "end", "images"),
    [
        ("each farther than the one before", [6.0, 30.0, 90.0, 900.0], (60, 61, 62, 63)),
        ("the widest gap counts where there are two", [1.0, 1.0, 4.0, 40.0], (63,)),
    ],
)
def test_where_the_usual_ends(case: str, end: list[float], images: tuple[int, ...]) -> None:
    found = rare_images([seen(np.array([1.0] * 60 + end))], 64)
    assert found is not None and found.images == images, case


def test_few_images_and_other_rows_say_nothing() -> None:
    reach = np.array([1.0] * (SHARE - 2) + [100.0])
    assert rare_images([seen(reach)], len(reach)) is None
    windows = seen(np.array([1.0] * 63 + [100.0]))
    assert rare_images([windows], 32) is None


def test_where_values_point_at_more_images_than_may_be_strange_the_farthest_go() -> None:
    values = []
    for image, times in enumerate((10.0, 40.0, 20.0)):
        reach = np.ones(32)
        reach[image] = times
        values.append(seen(reach))
    assert rare_images(values, 32) == Rare((1, 2), 40.0, 2)


class Blows(Small):
    """Multiplies all it sees where a picture is a chessboard."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        edges = (x[..., ::2, ::2] - x[..., 1::2, 1::2]).mean((1, 2, 3), keepdim=True)
        return super().forward(x * (1 + 100 * F.relu(edges - 1)))


@dataclasses.dataclass
class OneChessboard:
    """A source of images, one of which is planted."""

    source: data.ImageSource

    def __len__(self) -> int:
        return len(self.source)

    @property
    def digest(self) -> str:
        return f"{self.source.digest} and a chessboard"

    @property
    def names(self) -> list[str]:
        return [f"holiday/{index}.jpg" for index in range(len(self))]

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        image, label = self.source[index]
        if index == PLANTED:
            image = np.zeros_like(image)
            image[::2, ::2] = 255
        return image, label


def _captured(name: str) -> Captured:
    torch.manual_seed(3)
    loaded = models.wrap_module(Blows().eval(), input_size=32)
    images = data.choose(loaded, Images(calibration=COUNT, evaluation=4))
    images = dataclasses.replace(images, calibration=OneChessboard(images.calibration))
    fused = fuse_model(loaded, images, Stopwatch(Silent()))
    return capture_model(fused, TARGET, (method(name), Widths(8, 8)), (), (NONE, Stopwatch(Silent())))


def test_a_run_sets_it_aside_and_names_it() -> None:
    captured, naive = _captured("auto"), _captured("mse")
    assert len(captured.images.calibration) == COUNT - 1 and len(naive.images.calibration) == COUNT
    (step,) = [step for step in captured.steps if step.name == aside.STEP]
    assert "1 of 48 calibration images" in step.note and step.note.endswith(f"holiday/{PLANTED}.jpg")
    assert aside.STEP not in {step.name for step in naive.steps}
    assert captured.images.described.calibration == COUNT - 1
    (notice,) = aside.notices(captured.steps)
    assert "1 of 48" in notice and "holiday" not in notice, "notices go into the artifact"
    for name, stats in captured.stats.items():
        assert max(-stats.lo, stats.hi) <= max(-naive.stats[name].lo, naive.stats[name].hi)
    end = captured.program.view.outputs[0]
    assert naive.stats[end].hi - naive.stats[end].lo > 20 * (captured.stats[end].hi - captured.stats[end].lo)


def test_images_that_stand_for_something_else_are_left_alone() -> None:
    reach = np.ones(COUNT)
    reach[PLANTED] = 100
    torch.manual_seed(3)
    program = capture(Small().eval(), torch.zeros(1, 3, 32, 32), TARGET.spec.expand)
    stats = {program.view.outputs[0]: seen(reach)}
    images = data.choose(models.wrap_module(Small().eval(), input_size=32), Images(calibration=COUNT, evaluation=4))
    assert aside.find(stats, images, program) is not None
    assert aside.find(stats, dataclasses.replace(images, reader=object()), program) is None
    many = np.where(np.arange(96) % 16 == 0, 100.0, 1.0)
    images = dataclasses.replace(images, calibration=Subset(images.calibration, [*range(COUNT)] * 2))
    found = aside.find({program.view.outputs[0]: seen(many)}, images, program)
    assert found is not None and found[1].note.endswith("image 0, image 16, image 32, image 0, image 16 and 1 more")
