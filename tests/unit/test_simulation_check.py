"""The check of artifacts with float islands: what a sample proves fails, and a tie in a few images does not."""

from __future__ import annotations

import numpy as np
import pytest

from qtools.core.types import QuantPlan
from qtools.pipeline.judge import _simulation_check
from qtools.pipeline.tasks.classification import TASK


def checked(flips: int, images: int, float_ops: dict[str, str]) -> tuple[str, float]:
    simulated = np.tile(np.array([[2.0, 1.0]], np.float32), (images, 1))
    real = simulated.copy()
    real[:flips] = real[:flips, ::-1]
    plan = QuantPlan("toy", "tflite", "w8a8", {}, float_ops, {})
    check = _simulation_check(plan, {"simulated": simulated, "xnnpack": real}, "xnnpack", TASK)
    return check.status, check.value or 0.0


@pytest.mark.parametrize(
    ("flips", "images", "status"),
    [(0, 48, "passed"), (1, 48, "passed"), (4, 48, "failed"), (10, 1000, "passed"), (20, 1000, "failed")],
)
def test_with_islands_only_what_the_sample_proves_fails(flips: int, images: int, status: str) -> None:
    assert checked(flips, images, {"softmax": "no kernel"}) == (status, pytest.approx(100 * (1 - flips / images)))


def test_without_islands_every_code_has_to_be_equal() -> None:
    assert checked(0, 48, {})[0] == "passed"
    assert checked(1, 48, {})[0] == "failed"
