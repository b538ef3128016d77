"""The step that levels behind floats: judged like every other one, and what it changes reaches whoever exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qtools
from calibration.apart import Apart
from calibration.float_ops import LEVELLING
from calibration.method import method
from calibration.time_given import WORTH
from calibration.widths import Widths
from exporters import coreml
from exporters._levelled import with_levelled
from exporters.onnx import TARGET
from exporters.tflite import TARGET as TFLITE
from qtools.core.levelled import factors_of, levelled
from qtools.core.protocols import Target
from qtools.graph import execute
from qtools.pipeline import behind_floats, decide, trial
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.audit.run import audit
from qtools.pipeline.config import Options
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Silent, Stopwatch
from reports.steps import Step
from tests.processor import FOLLOWED
from tests.unit import prepared_runs

SLOWER = Apart(max_slower=60.0)


class Spread(nn.Module):
    """SiLU behind a layer with channels of very different width, all of which matter alike behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 1)
        self.wide, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 6)
        width = 40 ** torch.linspace(0, 1, 16)
        with torch.no_grad():
            self.deep.weight *= width.reshape(-1, 1, 1, 1)
            self.wide.weight /= width.reshape(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(F.silu(self.deep(F.relu(self.stem(x))))).mean((2, 3)))


def _prepared(target: Target) -> Prepared:
    torch.manual_seed(3)
    return prepared_runs.prepared(Spread().eval(), target, bound=prepared_runs.Bound)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return _prepared(TARGET)


def _decided(prepared: Prepared, target: Target = TARGET, apart: Apart = SLOWER, bits: int = 8) -> trial.Decision:
    asked = (method("auto"), Widths(bits, bits), apart)
    return decide.decide(prepared, target, asked, Stopwatch(Silent()))


def _step(decision: trial.Decision) -> Step | None:
    return next((step for step in decision.steps if step.name == behind_floats.NAME), None)


@pytest.fixture(scope="module")
def decision(prepared: Prepared) -> trial.Decision:
    return _decided(prepared)


def test_it_is_kept_where_it_brings_the_answers_nearer(prepared: Prepared, decision: trial.Decision) -> None:
    step = _step(decision)
    assert step is not None and step.kept and step.after is not None and step.before is not None
    assert step.after < 0.9 * step.before
    made = decision.prepared
    assert made.program is not prepared.program
    assert made.images is prepared.images and made.loaded is prepared.loaded
    assert decision.plan.params(levelled("silu")) is not None and decision.plan.params("silu") is None
    factors = made.program.constants[factors_of("silu")]
    assert torch.equal(decision.program.constants[factors_of("silu")], factors)
    assert float(factors.max() / factors.min()) > 4
    x = torch.from_numpy(next(iter(prepared.images.batches(prepared.images.evaluation, 2))))
    torch.testing.assert_close(execute.run(made.program, x), execute.run(prepared.program, x), rtol=1e-4, atol=1e-5)


def test_calibration_saw_the_levelled_value(prepared: Prepared, decision: trial.Decision) -> None:
    made = decision.prepared
    ours = made.stats[levelled("silu")]
    factors = made.program.constants[factors_of("silu")].flatten().numpy()
    plain = prepared.stats["silu"]
    np.testing.assert_allclose(ours.channel_hi, plain.channel_hi * factors, rtol=1e-5)
    assert set(made.stats) == {*prepared.stats, levelled("silu")}


def test_what_loses_is_taken_back(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors that widen what is wide already: the float result stays, the codes are worse."""
    right = behind_floats.worthwhile

    def wrong(*given: Any) -> Any:
        return tuple(dataclasses.replace(each, factors=1 / each.factors) for each in right(*given))

    monkeypatch.setattr(behind_floats, "worthwhile", wrong)
    decision = _decided(prepared)
    step = _step(decision)
    assert step is not None and not step.kept and step.after is not None and step.before is not None
    assert step.after > step.before
    assert decision.prepared is prepared and levelled("silu") not in decision.plan.values


def test_a_fold_that_moves_the_float_result_is_found(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> Any:
        return {name: array for name, array in right(*given).items() if "factors" in name}

    right = behind_floats.fold
    monkeypatch.setattr(behind_floats, "fold", wrong)
    decision = _decided(prepared)
    step = _step(decision)
    assert step is not None and not step.kept and "would move the float result by" in step.note
    assert decision.prepared is prepared


@pytest.mark.parametrize(
    ("apart", "why"),
    [
        (Apart(max_slower=0.0), "no time is given, and float saves none"),
        (Apart(max_islands=0), "all in 8 bits"),
    ],
)
def test_it_is_not_tried_where_it_may_not(prepared: Prepared, apart: Apart, why: str) -> None:
    decision = _decided(prepared, apart=apart)
    assert _step(decision) is None and decision.prepared is prepared, why


COREML = dataclasses.replace(coreml.TARGET, levelled=with_levelled)
"""Without a package, whose readers nobody can count."""


@pytest.fixture(scope="module")
def untimed() -> Prepared:
    return _prepared(COREML)


def test_where_nobody_has_timed_products_they_have_to_bring_much(
    untimed: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = _decided(untimed, COREML, Apart())
    step = _step(decision)
    assert step is not None and step.kept and step.before and step.after and "nobody has timed that" in step.note
    assert decision.plan.params(levelled("silu")) is not None
    factors = decision.prepared.program.constants[factors_of("silu")].numpy()
    np.testing.assert_array_equal(factors, factors.astype(np.float16))  # as the package stores them
    share = 1 - step.after / step.before
    for least, kept in ((share - 0.01, True), (share + 0.01, False)):
        monkeypatch.setattr(behind_floats, "CLEARLY", least)
        again = _step(_decided(untimed, COREML, Apart()))
        assert again is not None and again.kept is kept


@pytest.mark.parametrize("asked", [{"max_slower": 0.0}, {"max_islands": 0}])
def test_nor_are_they_tried_where_time_counts(untimed: Prepared, asked: Any) -> None:
    decision = _decided(untimed, COREML, Apart(**asked))
    assert _step(decision) is None and decision.prepared is untimed


def test_each_of_them_has_to_spare_a_hundredth(untimed: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[str, float]()

    def asked(paths: Any, costs: Any, known: Any, times: Any, left: float) -> Any:
        seen.update(times)
        return right(paths, costs, known, times, left)

    right = behind_floats.worthwhile
    monkeypatch.setattr(behind_floats, "worthwhile", asked)
    _decided(untimed, COREML, Apart())
    assert seen and {WORTH * time for time in seen.values()} == {0.01}


def test_no_target_gets_what_its_files_cannot_have(prepared: Prepared) -> None:
    assert TFLITE.levelled is None
    decision = _decided(prepared, dataclasses.replace(TARGET, levelled=None))
    assert _step(decision) is None and decision.prepared is prepared


def test_narrow_operands_are_narrow_behind_the_product(prepared: Prepared) -> None:
    decision = _decided(prepared, bits=6)
    assert decision.saturated is not None
    assert decision.plan.values[levelled("silu")].width == 6


@pytest.mark.e2e
def test_a_run_ships_it_and_its_audit_finds_the_same_again(tmp_path: Path) -> None:
    """Every code of the artifact is as simulated, in the run and when it is opened again; float files stay plain."""
    torch.manual_seed(5)
    module = Spread().eval()
    asked: Options = {"input_size": 32, "calibration": 40, "evaluation": 24, "max_slower": 60.0}
    result = qtools.quantize(module, target="onnx", out=tmp_path / "run", **asked)
    assert levelled("silu") in result.plan.values
    found = audit(AuditConfig(tmp_path / "run", module=module, limit=24), Silent())
    for report in (result.report, found):
        assert sum(row.codes for row in report.differences) > 0
        assert all(row.max_difference <= 1 for row in report.differences)
        assert not FOLLOWED or not any(row.differing for row in report.differences)
    rows = {row.stage: row.accuracy for row in found.ledger}
    assert rows["fused"].kl < 1e-9 and rows["float artifact"].kl < 1e-9
    places = {row.reason for row in result.report.places.rows}
    assert LEVELLING in places
