"""Parts of an audit: other preprocessing with planted mistakes, evaluation that stops, and what changes sum to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.sampling import Subset, name_of, shuffled
from qtools.core.errors import InputError
from qtools.core.inspection import End
from qtools.core.types import InputSpec
from qtools.pipeline.audit import alternatives, pieces
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.audit.run import audit
from qtools.pipeline.feeding import Reading
from qtools.pipeline.progress import Silent
from reports.accuracy import paired_accuracy
from reports.audit import WRONG
from reports.build import LedgerRow
from reports.sequential import stopping_rule
from reports.verdict import changes

RIGHT = InputSpec((32, 32), (0.5, 0.4, 0.45), (0.25, 0.2, 0.3), "bilinear", 0.875)
FED = Reading(End("image", (1, 3, 32, 32), "float32"), RIGHT)
COUNT = 96


class Pictures:
    """Coloured noise of 48 x 40 pixels, so that sizes and colours matter."""

    digest = "pictures"

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        draw = np.random.default_rng(index)
        grain = draw.normal(0, 25, (48, 40, 3)) + 60 * draw.normal(0, 1, 3) + draw.integers(60, 200)
        return np.clip(grain, 0, 255).astype(np.uint8), None


def network(name: str = "user_network") -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "e2e" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: torch.nn.Module = module.build()
    return found


def asked(of: Callable[[torch.Tensor], torch.Tensor]) -> alternatives.Ask:
    def ask(tensors: Sequence[NDArray[Any]]) -> Sequence[NDArray[np.floating]]:
        with torch.inference_mode():
            return [*of(torch.from_numpy(np.concatenate(tensors))).numpy()]

    return ask


@pytest.fixture(scope="module")
def trained() -> SimpleNamespace:
    """The small network, and as labels what it says when it is fed rightly."""
    module, source = network(), Pictures()
    logits = np.stack([asked(module)([FED.tensor(source[i][0])])[0] for i in range(COUNT)])
    labels = logits.argmax(1)
    assert np.unique(labels).size >= 4  # else nothing could be told apart
    return SimpleNamespace(module=module, source=source, labels=labels)


def _swapped(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: module(x.flip(1))


def _takes(mean: Any, std: Any) -> Callable[[torch.nn.Module], Callable[[torch.Tensor], torch.Tensor]]:
    """A network that wants other numbers: what it wants, brought to what the inner network was trained with."""

    def plant(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        a, b, m, s = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std, RIGHT.mean, RIGHT.std))
        return lambda x: module((x * b + a - m) / s)

    return plant


PLANTED = {
    "red and blue exchanged": (_swapped, FED),
    "scaled to 0..1 and not normalised": (_takes((0.0,) * 3, (1.0,) * 3), FED),
    "scaled to -1..1": (_takes((0.5,) * 3, (0.5,) * 3), FED),
    "pixels 0..255 as they are": (_takes((0.0,) * 3, (1 / 255,) * 3), FED),
    "normalised by ImageNet's mean and deviation": (
        lambda module: module,
        replace(FED, spec=replace(RIGHT, mean=(0.0,) * 3, std=(2.0,) * 3)),
    ),
}


def tried(trained: SimpleNamespace, ask: alternatives.Ask, fed: Reading, labels: Any = None) -> Any:
    labels = trained.labels if labels is None else labels
    rows, ways = alternatives.try_all(ask, (fed, np.empty((0, 5))), (trained.source, labels), Silent())
    return alternatives.finding(rows, ways, "write {}"), rows


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_mistake_is_named(trained: SimpleNamespace, name: str) -> None:
    plant, fed = PLANTED[name]
    if name.startswith("normalised by"):
        # the network's own numbers are no alternative: ImageNet's are the nearest that are tried
        plant = _takes(*alternatives.IMAGENET)
    found, rows = tried(trained, asked(plant(trained.module)), fed)
    assert found is not None and found.cause == f"preprocessing: {name}", rows
    assert found.measure == WRONG and found.after < found.before and found.gain_interval[0] > 0
    assert '"schema_version": 2' in found.remedy and found.images == COUNT


@pytest.mark.parametrize("moved", [1, -1])
def test_moved_labels_are_named(trained: SimpleNamespace, moved: int) -> None:
    found, _ = tried(trained, asked(trained.module), FED, trained.labels + moved)
    assert found is not None and found.cause == f"preprocessing: labels moved by {-moved:+d}"
    assert f'"labels_offset": {-moved}' in found.remedy


def test_another_crop_is_named(trained: SimpleNamespace) -> None:
    """A network that looks at the place of things: what matters is a frame that only squashing keeps."""

    class Framed(Pictures):
        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
            picture = np.full((64, 32, 3), 128, np.uint8)
            picture[:6] = 255 * (index % 2)
            return picture, None

    def ask(tensors: Sequence[NDArray[Any]]) -> Sequence[NDArray[np.floating]]:
        return [np.array([-1.0, 1.0]) * tensor[0, :, 0].mean() for tensor in tensors]

    rows, ways = alternatives.try_all(
        ask, (FED, np.empty((0, 2))), (Framed(), np.arange(COUNT) % 2), Silent()
    )  # the middle is gray: always one class
    found = alternatives.finding(rows, ways, "{}")
    assert found is not None and found.cause == "preprocessing: squashed"


def test_nothing_is_named_where_nothing_is_planted(trained: SimpleNamespace) -> None:
    found, rows = tried(trained, asked(trained.module), FED)
    assert found is None and rows[0].top1_present == 100
    draw = np.random.default_rng(3)
    for _ in range(2):  # nor where a part of the labels is wrong, so that any way could win
        noisy = np.where(draw.random(COUNT) < 0.4, draw.integers(0, 5, COUNT), trained.labels)
        assert tried(trained, asked(trained.module), FED, noisy)[0] is None


def _config(tmp_path: Path, limit: float | None) -> AuditConfig:
    return AuditConfig(tmp_path, max_drop=limit)


@pytest.mark.parametrize(("flip", "decision"), [(0.0, "pass"), (0.25, "fail"), (0.055, "undecided")])
def test_evaluation_stops_where_the_rule_says(tmp_path: Path, flip: float, decision: str) -> None:
    total, limit, labels = 1200, 5.0, np.zeros(1200, np.int64)
    lost = np.random.default_rng(2).random(total) < flip
    asked_for: list[tuple[int, int]] = []

    def run(first: int, end: int) -> dict[str, NDArray[Any]]:
        asked_for.append((first, end))
        right = np.tile([1.0, 0.0], (end - first, 1))
        return {"float": right, "artifact": np.where(lost[first:end, None], right[:, ::-1], right)}

    chosen = pieces.limit(_config(tmp_path, limit), total, labels, None)
    assert chosen is not None and chosen.warnings == ()
    outputs, stopped = pieces.evaluated(run, total, ("float", "artifact"), (chosen, labels), Silent())
    rule = stopping_rule(total, limit)
    by_hand = next(look for n in rule.looks if (look := rule.judge(n, int(lost[:n].sum()), 0)).decision != "go on")
    assert stopped is not None and (stopped.decision, stopped.n) == (by_hand.decision, by_hand.n)
    assert stopped.decision == decision and (stopped.n < total) == (decision != "undecided")
    assert len(outputs["artifact"]) == stopped.n == asked_for[-1][1]
    assert all(a[1] == b[0] for a, b in pairwise(asked_for))  # no image twice
    assert (stopped.needed is not None) == (decision == "undecided")


def test_a_folder_that_is_no_run_says_where_runs_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"so no run\n"):
        audit(AuditConfig(tmp_path), Silent())
    (tmp_path / "mine" / "audit").mkdir(parents=True)
    (tmp_path / "mine" / "audit" / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"in it are runs: mine\n"):
        audit(AuditConfig(tmp_path), Silent())
    with pytest.raises(InputError, match="is a folder"):
        AuditConfig(tmp_path, sensitivity=tmp_path)
    with pytest.raises(InputError, match="--max-drop 0 is no limit"):
        AuditConfig(tmp_path, max_drop=0.0)


def test_too_few_images_are_said_before_the_first(tmp_path: Path) -> None:
    fewest = pieces.fewest_images(0.5, 0.95)
    assert stopping_rule(fewest, 0.5).can_pass and not stopping_rule(fewest - 1, 0.5).can_pass
    few = pieces.limit(_config(tmp_path, 0.5), 100, np.zeros(100, np.int64), None)
    assert few is not None and f"{fewest:,} at least" in few.warnings[0]
    busy = pieces.limit(_config(tmp_path, 0.5), 2000, np.zeros(2000, np.int64), 5.0)
    assert busy is not None and "probably not" in busy.warnings[0]
    assert pieces.limit(_config(tmp_path, None), 100, None, None) is None
    with pytest.raises(InputError, match="no labels"):
        pieces.limit(_config(tmp_path, 0.5), 100, None, None)


def test_the_random_order_is_one_and_knows_no_classes() -> None:
    labels = np.repeat([0, 1], [900, 100])

    class Source(Pictures):
        def __len__(self) -> int:
            return 1000

    source = Source()
    source.labels, source.names = labels, tuple(f"{i}.png" for i in range(1000))  # type: ignore[attr-defined]
    order = shuffled(source, 1)
    assert sorted(order.indices) == list(range(1000)) and order.indices == shuffled(source, 1).indices
    assert order.indices != shuffled(source, 2).indices and order.labels is not None
    last = order.labels[500:]  # `select` would have left no image of the small class here
    assert 30 <= int(last.sum()) <= 70
    assert name_of(Subset(order, [3]), 0) == f"{order.indices[3]}.png" and name_of(Pictures(), 4) == "image 4"


@pytest.mark.parametrize("labelled", [True, False])
def test_changes_of_the_steps_sum_to_the_whole(labelled: bool) -> None:
    draw = np.random.default_rng(5)
    exact = draw.normal(0, 2, (300, 6))
    stages = [exact]
    for size in (0.0, 0.3, 0.5, 0.2):
        stages.append(stages[-1] + draw.normal(0, size, exact.shape))
    labels = exact.argmax(1) if labelled else None
    scores = [paired_accuracy(labels, exact, stage) for stage in stages]
    few = paired_accuracy(None if labels is None else labels[:9], exact[:9], stages[2][:9])
    rows = [LedgerRow(str(i), "step" if i else "reference", each) for i, each in enumerate(scores)]
    found = changes((*rows[:3], LedgerRow("beside", "side", few), *rows[3:]))
    assert found[0] is None and found[3] is None
    steps = [change for change in found if change is not None]
    assert len(steps) == 4 and scores[-1].agreement < 100
    assert sum(step.agreement for step in steps) == pytest.approx(scores[-1].agreement - 100)
    assert sum(step.kl for step in steps) == pytest.approx(scores[-1].kl)
    drops = [step.score for step in steps]
    if labelled:
        assert sum(filter(None, drops)) == pytest.approx(-(scores[-1].drop or 0))
    else:
        assert drops == [None] * 4


@pytest.mark.parametrize(("wrong", "tried"), [(4, False), (11, False), (13, True), (60, True)])
def test_alternatives_are_tried_only_where_one_could_be_proven(wrong: int, tried: bool) -> None:
    """14 ways, corrected p of 0.01: right on every image that is wrong now, one needs 2 * 2^-wrong * 14 <= 0.01."""
    logits = np.tile(np.float32([1, 0, 0]), (200, 1))
    labels = np.zeros(200, np.int64)
    labels[:wrong] = 1
    reason = alternatives.hopeless(logits, labels, 14)
    assert (reason == "") == tried
    assert tried or f"only {wrong} of 96 images" in reason
