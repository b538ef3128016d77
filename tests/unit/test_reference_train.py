"""The trainer's schedule and files, and that the shipped checkpoints are what their JSON says."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from qtools.core import plugins
from qtools.core.errors import InputError
from qtools.models import resolve
from qtools.reference import CLASSES, RENDER_VERSION, checkpoint, checkpoints, train
from qtools.reference.exercises import classification
from qtools.reference.images import REFERENCE_TROUBLE

TINY = "test_efficientnet"
WEIGHTS = (Path(checkpoints.__file__).parent / "weights").glob("*.safetensors")
TAUGHT = plugins.names("qtools.reference.exercises")
"""Others are taught by trainers of their own: see test_reference_prompts.py."""
SHIPPED = sorted(path.stem for path in WEIGHTS if resolve(path.stem).task in TAUGHT)


def _recipe(**changes: object) -> train.Recipe:
    return train.Recipe(**{"model": TINY, "minutes": 1.0, "threads": 1, "seed": 0, "peak_rate": 1e-3} | changes)


def test_stages_follow_the_budget_and_end_at_the_shipped_size() -> None:
    stages = train.stages_of(256)
    assert math.isclose(sum(stage.share for stage in stages), 1.0)
    assert train.stage_at(0.0, stages) is stages[0]
    assert train.stage_at(stages[0].share + 1e-6, stages) is stages[1]
    assert train.stage_at(1.2, stages) is stages[-1]
    assert stages[-1].size == 256
    assert {stage.size for stage in train.stages_of(64)} == {64}, "some architectures take one size and no other"


def test_the_rate_warms_up_peaks_and_falls() -> None:
    recipe = _recipe()
    rates = [train.rate_at(share / 1000, recipe) for share in range(1001)]
    assert rates[0] < 0.05 * recipe.peak_rate
    assert max(rates) == pytest.approx(recipe.peak_rate, rel=1e-3)
    assert rates[-1] == pytest.approx(0.01 * recipe.peak_rate)
    falling = rates[int(1000 * recipe.warmup) + 1 :]
    assert all(late <= early for early, late in itertools.pairwise(falling))


def test_every_head_is_trained() -> None:
    heads = tuple(torch.randn(4, len(CLASSES), requires_grad=True) for _ in range(2))
    labels = torch.arange(4)
    loss, score = classification.loss_of(heads, labels, 0.05)
    loss.backward()
    expected = sum(functional.cross_entropy(head, labels, label_smoothing=0.05) for head in heads) / 2
    torch.testing.assert_close(loss, expected)
    assert score == ((heads[0] + heads[1]).argmax(1) == labels).float().mean()
    assert all(head.grad is not None and head.grad.abs().max() > 0 for head in heads)


def test_only_kernels_decay() -> None:
    model = checkpoints.build(TINY)
    decayed, free = train.make_optimizer(model, _recipe()).param_groups
    assert decayed["weight_decay"] > 0 and free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))
    assert {weight.ndim for weight in free["params"]} == {1}


def test_difficulty_rises_only_with_success(tmp_path: Path) -> None:
    run = train.Run(_recipe(), tmp_path, resume=False)
    for _ in range(100):
        run._raise_trouble(0.5)
    assert run.progress.trouble == 0.0
    for _ in range(1000):
        run._raise_trouble(1.0)
    assert run.progress.trouble == _recipe().top_trouble >= REFERENCE_TROUBLE


def test_a_killed_run_continues_where_it_stopped(tmp_path: Path) -> None:
    recipe = _recipe()
    run = train.Run(recipe, tmp_path, resume=False)
    pixels, labels = next(checkpoints.batches(classification.EXERCISE, ("train", range(4)), 32, 4))
    run.model.train()
    run.step(pixels, labels)
    run.keep()
    again = train.Run(recipe, tmp_path, resume=True)
    assert again.progress.steps == 1 and again.progress.images == 4
    for key, value in run.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[key], value)
    assert again.optimizer.state_dict()["state"].keys() == run.optimizer.state_dict()["state"].keys()
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(InputError, match="another model"):
        (tmp_path / "test_vit.training.pt").write_bytes((tmp_path / f"{TINY}.training.pt").read_bytes())
        train.Run(_recipe(model="test_vit"), tmp_path, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        train.Run(recipe, tmp_path / "elsewhere", resume=True)


def test_weights_survive_the_half_precision_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = checkpoints.build(TINY).eval()
    path = tmp_path / f"{TINY}.safetensors"
    digest = checkpoints.save_weights(model, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = checkpoints.load(TINY, path)
    assert not loaded.training
    for key, value in loaded.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, model.state_dict()[key].half().float()), key
    with pytest.raises(RuntimeError, match="does not fit"):
        checkpoints.load("test_vit", path)


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    model = checkpoints.build(TINY)
    next(model.parameters()).data.fill_(1e6)
    with pytest.raises(ValueError, match="float16"):
        checkpoints.save_weights(model, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_settled_norms_hold_plain_averages() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    checkpoints.settle_batch_norm(model, range(8), size=16, batch=4)
    normalise = checkpoints.Normalise(model)
    batches = checkpoints.batches(classification.EXERCISE, ("train", range(8)), 16, 8)
    seen = torch.cat([model[0](normalise(pixels)) for pixels, _ in batches])
    torch.testing.assert_close(model[1].running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-5)
    assert not model[1].training and model[1].momentum == 0.1


def test_normalisation_is_timm_s() -> None:
    model = checkpoints.build(TINY)
    config = timm.data.resolve_data_config(model=model)
    assert checkpoints.normalisation(model) == (list(config["mean"]), list(config["std"]))
    pixels = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    expected = ((pixels / 255.0 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(checkpoints.Normalise(model)(pixels), expected, atol=1e-5, rtol=1e-5)


def test_no_checkpoint_is_invented() -> None:
    assert checkpoint("resnet9000") is None


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_what_their_json_says(name: str) -> None:
    path = checkpoint(name)
    assert path is not None
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["bytes"] == path.stat().st_size < 20_000_000
    exercise = checkpoints.exercise_of(name)
    assert facts["model"] == name and facts["classes"] == list(exercise.classes)
    assert facts["trouble"] == REFERENCE_TROUBLE
    assert facts["render_version"] == RENDER_VERSION, "the pictures changed after this checkpoint was trained"
    score = facts[exercise.metric]["value"]
    assert {"top1": 0.9, "top1_at_exits": 0.4, "miou": 0.6, "found": 0.5}[exercise.metric] <= score < 1.0
    model = checkpoints.load(name, path)
    assert checkpoints.normalisation(model) == (facts["preprocessing"]["mean"], facts["preprocessing"]["std"])
    # Other scenes than the 2,000 of the JSON; 32 of them stray by less than 4 standard errors, where each is right or
    # wrong, and a share of each, as a mean IoU has it, strays by less.
    share = checkpoints.per_class(model, exercise, "test", range(2000, 2032)).mean().item()
    assert share > score - 4 * math.sqrt(score * (1 - score) / 32)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """The library's own order of a header's words changes from call to call: twelve alike in a row are no chance."""
    model = checkpoints.build(TINY)
    assert len({checkpoints.save_weights(model, tmp_path / f"{number}.safetensors") for number in range(12)}) == 1
