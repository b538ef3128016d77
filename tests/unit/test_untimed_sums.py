"""Sums in float where nobody has timed them: a residual stream with one channel that reaches far, on Core ML."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from calibration.apart import Apart
from calibration.float_ops import IN_FLOAT
from calibration.method import method
from calibration.widths import Widths
from exporters import coreml
from qtools.core.types import OpKind
from qtools.graph import execute
from qtools.pipeline import decide, sides, trial
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Silent, Stopwatch
from reports.render._wording import step_cells
from reports.steps import Step
from tests.unit import prepared_runs

FAR = 600.0
TARGET = dataclasses.replace(coreml.TARGET, levelled=None)


class Stream(nn.Module):
    """A sum whose first channel reaches hundreds, of which a norm behind it looks away, as trained transformers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.late, self.head = nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(16, 16, 1), nn.Linear(16, 6)
        self.norm = nn.GroupNorm(4, 16)
        with torch.no_grad():
            self.late.weight[0] *= 0
            self.late.bias[0] = FAR
            self.norm.weight[0] = 0.02

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.head(self.norm(y + self.late(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    torch.manual_seed(4)
    return prepared_runs.prepared(Stream().eval(), TARGET, bound=prepared_runs.Bound)


def _decided(prepared: Prepared, **said: Any) -> trial.Decision:
    return decide.decide(prepared, TARGET, (method("auto"), Widths(8, 8), Apart(**said)), Stopwatch(Silent()))


def _step(decision: trial.Decision) -> Step | None:
    return next((step for step in decision.steps if step.name == sides.NAME), None)


def _off(prepared: Prepared, decision: trial.Decision) -> float:
    images = torch.from_numpy(next(iter(prepared.images.batches(prepared.images.evaluation, 4))))
    wanted = execute.run(prepared.program, images)
    found = decision.simulator.logits(decision.simulator.codes(images))
    return float((found - wanted).norm() / wanted.norm())


def test_a_stream_that_reaches_far_stays_in_float(prepared: Prepared) -> None:
    decision = _decided(prepared)
    step = _step(decision)
    assert step is not None and step.kept and step.before is not None and step.after is not None
    assert step.after < 0.2 * step.before
    (total,) = (op.id for op in prepared.program.view.ops if op.kind is OpKind.ADD)
    assert decision.plan.float_ops[total] == IN_FLOAT
    assert _step(_decided(prepared, max_slower=0.0)) is None  # nobody knows whether that takes none
    in_codes = _decided(prepared, max_islands=0)
    assert _step(in_codes) is None and total not in in_codes.plan.float_ops
    assert _off(prepared, decision) < 0.2 * _off(prepared, in_codes)


def test_what_comes_nearer_by_less_stays_on_codes(prepared: Prepared, monkeypatch: Any) -> None:
    gained = _step(_decided(prepared))
    assert gained is not None and gained.before and gained.after
    share = 1 - gained.after / gained.before
    for least, kept in ((share - 0.01, True), (share + 0.01, False)):
        monkeypatch.setattr(sides, "CLEARLY", least)
        decision = _decided(prepared)
        step = _step(decision)
        assert step is not None and step.kept is kept
        assert step_cells(step)[1] == ("done" if kept else "taken back: it gained too little")
        assert (IN_FLOAT in decision.plan.float_ops.values()) is kept
