"""Trains a reference checkpoint on the procedural set: ``python -m qtools.reference.train --model NAME --out DIR``.

The schedule is a wall-clock budget, not a number of steps: resolution and learning rate follow the share of the
budget that has passed, so a run ends when it was asked to on any machine. Every picture is rendered for its step and
never seen again, which leaves nothing to memorise and makes augmentation needless.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from qtools.reference import checkpoints
from qtools.reference.images import REFERENCE_TROUBLE, RENDER_VERSION

HELD_OUT = range(50_000_000, 50_000_320)  # training-split scenes that no step ever reaches: the progress column
SETTLE = range(60_000_000, 60_000_512)  # and those that settle the batch norms
TEST = range(2000)


@dataclass(frozen=True)
class Stage:
    """A resolution, the share of the budget it gets, and its batch size."""

    size: int
    share: float
    batch: int


def stages_of(size: int) -> tuple[Stage, ...]:
    """The way up to a model's own resolution: most pictures are small ones, the last are seen at full size."""
    return Stage(64, 0.45, 64), Stage(128, 0.30, 64), Stage(size, 0.25, 32)


@dataclass(frozen=True)
class Recipe:
    """What a run was asked for; a `ramp_at` of 0 takes the exercise's."""

    model: str
    minutes: float
    threads: int
    seed: int
    peak_rate: float
    weight_decay: float = 0.05
    smoothing: float = 0.05
    warmup: float = 0.03
    clip: float = 2.0
    ramp_at: float = 0.0
    ramp_step: float = 0.004
    precision: str = "bfloat16"
    top_trouble: float = 0.75  # above the reference set's: what is learnt on harder scenes leaves a margin there


@dataclass
class Progress:
    """What a run has done; survives a kill.

    ``batch_score`` is a running mean of the exercise's score. ``trouble`` is the difficulty of the scenes: it rises by
    ``ramp_step`` a step while ``batch_score`` is above ``ramp_at``, because a network that starts at full difficulty
    learns nothing.
    """

    steps: int = 0
    images: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    batch_score: float = 0.0
    trouble: float = 0.0


class Scenes(IterableDataset):
    """An endless run of training batches from a given scene on, made in a worker process."""

    def __init__(self, model: str, start: int, how: tuple[int, int], trouble: Tensor) -> None:
        """Scenes from number ``start``, with the answers that ``model`` learns, ``how`` large and how many at a time.

        ``trouble`` is one float32 in shared memory, read again for every batch: how hard the scenes are to be.
        """
        self.model, self.start, self.trouble = model, start, trouble
        self.size, self.batch = how

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (batch, size, size, 3) uint8 pictures and their answers."""
        exercise = checkpoints.exercise_of(self.model)
        for number in itertools.count():
            first = self.start + number * self.batch
            indices, trouble = range(first, first + self.batch), float(self.trouble)
            yield from checkpoints.batches(exercise, ("train", indices), self.size, self.batch, trouble)


def stage_at(share: float, stages: tuple[Stage, ...]) -> Stage:
    """The stage that is due after a share (0..1) of the budget."""
    passed = 0.0
    for stage in stages:
        passed += stage.share
        if share < passed:
            return stage
    return stages[-1]


def rate_at(share: float, recipe: Recipe) -> float:
    """Learning rate after a share (0..1) of the budget: linear warm-up, then a cosine down to 1 % of the peak."""
    if share < recipe.warmup:
        return recipe.peak_rate * max(share / recipe.warmup, 0.02)
    passed = min((share - recipe.warmup) / (1.0 - recipe.warmup), 1.0)
    return recipe.peak_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * passed)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with decay on weight matrices and kernels only: biases and norms are not to be pulled to zero."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    free = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, betas=(0.9, 0.98))


class Run:
    """A training run: model, optimizer and progress, and the file that lets it continue after a kill."""

    def __init__(self, recipe: Recipe, out: Path, resume: bool) -> None:
        """Builds the model and, with ``resume``, takes up the state left in ``out``.

        Raises:
            ValueError: the state in ``out`` belongs to another recipe, or there is none to resume.
        """
        torch.manual_seed(recipe.seed)
        self.exercise = checkpoints.exercise_of(recipe.model)
        recipe = replace(recipe, ramp_at=recipe.ramp_at or self.exercise.ramp_at)
        self.recipe, self.out, self.progress = recipe, out, Progress()
        self.model = checkpoints.build(recipe.model).to(memory_format=torch.channels_last)
        if hasattr(self.model, "set_distilled_training"):
            self.model.set_distilled_training(True)  # makes both heads answer on their own, so both are trained
        self.stages = stages_of(checkpoints.image_size(self.model))
        self.optimizer = make_optimizer(self.model, recipe)
        self.normalise = checkpoints.Normalise(self.model)
        self._state_file = out / f"{recipe.model}.training.pt"
        if resume:
            self._restore()
        self._wall_before, self._cpu_before = self.progress.wall_s, self.progress.cpu_s
        self._began = time.monotonic()

    def _restore(self) -> None:
        if not self._state_file.is_file():
            raise ValueError(f"nothing to resume: {self._state_file} does not exist")
        state = torch.load(self._state_file, weights_only=True)
        if state["recipe"]["model"] != self.recipe.model or state["render_version"] != RENDER_VERSION:
            raise ValueError(f"{self._state_file} was written for another model or render version")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def keep(self) -> None:
        """Writes the state atomically."""
        self.clock()
        partial = self._state_file.with_suffix(".partial")
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        facts = {"recipe": asdict(self.recipe), "progress": asdict(self.progress), "render_version": RENDER_VERSION}
        torch.save(content | facts, partial)
        os.replace(partial, self._state_file)

    def clock(self) -> float:
        """Brings the times up to date; returns the share of the budget that has passed."""
        own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        self.progress.wall_s = self._wall_before + time.monotonic() - self._began
        self.progress.cpu_s = self._cpu_before + sum(use.ru_utime + use.ru_stime for use in (own, ended))
        return self.progress.wall_s / (60.0 * self.recipe.minutes)

    def step(self, pixels: Tensor, answers: Tensor) -> tuple[float, float]:
        """One optimizer step; returns the loss and the exercise's score on the batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.clock(), self.recipe)
        with self.arithmetic():
            outputs = self.model(self.normalise(pixels))
        loss, hit = self.exercise.loss(outputs, answers, self.recipe.smoothing)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} after {self.progress.steps} steps")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.progress.steps += 1
        self.progress.images += len(answers)
        self._raise_trouble(hit)
        return loss.item(), hit

    def _raise_trouble(self, hit: float) -> None:
        done = self.progress
        done.batch_score += 0.05 * (hit - done.batch_score)
        if done.batch_score > self.recipe.ramp_at:
            done.trouble = min(done.trouble + self.recipe.ramp_step, self.recipe.top_trouble)

    def arithmetic(self) -> torch.autocast:
        """bfloat16 is faster where the processor multiplies matrices of it (AMX), float32 elsewhere."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def held_out(self, size: int) -> float:
        """The score on the held-out training-split scenes, in the arithmetic of the training."""
        with self.arithmetic():
            return checkpoints.per_class(self.model, self.exercise, "train", HELD_OUT, size).mean().item()


def train_stage(run: Run, stage: Stage, say_s: float = 20.0, keep_s: float = 200.0) -> None:
    """Trains at one resolution until the budget asks for another, or is spent.

    Every picture is new, so the batch's score on the progress line is taken in training mode but not on seen pictures.
    """
    trouble = torch.tensor(run.progress.trouble).share_memory_()
    scenes = Scenes(run.recipe.model, run.progress.images, (stage.size, stage.batch), trouble)
    loader = DataLoader(scenes, batch_size=None, num_workers=1, prefetch_factor=4, multiprocessing_context="spawn")
    said = kept = time.monotonic()
    images, losses, hits = run.progress.images, [], []
    run.model.train()
    metric = run.exercise.metric
    for pixels, answers in loader:
        loss, hit = run.step(pixels, answers)
        losses.append(loss)
        hits.append(hit)
        now, share = time.monotonic(), run.clock()
        trouble.fill_(run.progress.trouble)
        if now - said > say_s:
            speed = (run.progress.images - images) / (now - said)
            say(
                f"{share:6.1%}  {stage.size:3d} px  step {run.progress.steps:5d}  images {run.progress.images:7d}"
                f"  {speed:5.1f}/s  loss {sum(losses) / len(losses):.4f}  batch {metric} {sum(hits) / len(hits):.4f}"
                f"  trouble {float(trouble):.2f}"
            )
            said, images, losses, hits = now, run.progress.images, [], []
        over = share >= 1.0 or stage_at(share, run.stages) != stage
        if over or now - kept > keep_s:
            run.keep()
            kept = now
        if over:
            say(f"{share:6.1%}  {stage.size:3d} px  held-out {metric} {run.held_out(stage.size):.4f}")
            return


def say(line: str) -> None:
    """Progress goes to stderr; stdout stays free for results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def finish(run: Run) -> dict[str, Any]:
    """Settles the norms, writes both files and measures the written one.

    Returns:
        The content of the JSON file.
    """
    name, out = run.recipe.model, run.out
    checkpoints.settle_batch_norm(run.model, SETTLE)
    weights = out / f"{name}.safetensors"
    digest = checkpoints.save_weights(run.model, weights)
    say(f"wrote {weights.name}; measuring it on {len(TEST)} test renders")
    shipped = checkpoints.load(name, weights)
    exercise = run.exercise
    by_class = checkpoints.per_class(shipped, exercise, "test", TEST)
    run.clock()
    mean, std = checkpoints.normalisation(shipped)
    content = {
        "model": name,
        "classes": list(exercise.classes),
        "image_size": checkpoints.image_size(run.model),
        "preprocessing": {
            "transform": "render at image_size, no resize and no crop; pixels / 255, minus mean, divided by std",
            "mean": mean,
            "std": std,
            "crop_pct": 1.0,
        },
        "render_version": RENDER_VERSION,
        "trouble": REFERENCE_TROUBLE,
        exercise.metric: {
            "value": by_class.mean().item(),
            "images": len(TEST),
            "split": "test",
            "first_index": TEST.start,
            "arithmetic": "float32, unfused, weights read back from the float16 file",
        },
        f"{exercise.metric}_by_class": dict(zip(exercise.classes, by_class.tolist(), strict=True)),
        "sha256": digest,
        "bytes": weights.stat().st_size,
        "training": {
            **asdict(run.recipe),
            "stages": [asdict(stage) for stage in run.stages],
            **asdict(run.progress),
            "batch_norm_renders": len(SETTLE),
            "first_index": 0,
        },
        "environment": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "machine": platform.machine(),
            **versions(),
        },
    }
    checkpoints.write_json(out / f"{name}.json", content)
    return content


def versions() -> dict[str, str]:
    """Versions of the libraries that decide the result."""
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "timm", "numpy", "safetensors")}


def parse(arguments: list[str] | None) -> tuple[Recipe, Path, bool]:
    """Reads the command line."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m qtools.reference.train", description=summary)
    parser.add_argument("--model", default="repvit_m1_1", help="name of a model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, its JSON and the state")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget of the training itself")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights; the pictures have their own")
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of the matrix products"
    )
    parser.add_argument("--peak-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--resume", action="store_true", help="continue from the state in --out")
    given = vars(parser.parse_args(arguments))
    names = {field.name for field in fields(Recipe)}
    return Recipe(**{key: value for key, value in given.items() if key in names}), given["out"], given["resume"]


def main(arguments: list[str] | None = None) -> None:
    """Trains until the budget is spent, then writes and measures the checkpoint."""
    recipe, out, resume = parse(arguments)
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the render worker: its matrices are too small to share
    torch.set_num_threads(recipe.threads)
    run = Run(recipe, out, resume)
    while (share := run.clock()) < 1.0:
        train_stage(run, stage_at(share, run.stages))
    content = finish(run)
    metric = run.exercise.metric
    say(f"{metric} {content[metric]['value']:.4f} on {len(TEST)} test renders; {content['bytes']} bytes")


if __name__ == "__main__":
    main()
