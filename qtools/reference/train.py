"""Trains a reference checkpoint on the procedural set: ``python -m qtools.reference.train --model NAME --out DIR``.

The schedule is a wall-clock budget: resolution and learning rate follow the share of it that has passed, so a run
ends when it was asked to on any machine. With `--steps` it is a number of steps, and the same command makes the same
weights, killed and resumed or not. Every picture is rendered for its step and never seen again, which leaves nothing
to memorise and makes augmentation needless.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import platform
import resource
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qtools.core import files, process, stop
from qtools.core.claim import claim
from qtools.core.errors import InputError
from qtools.reference import checkpoints
from qtools.reference.images import REFERENCE_TROUBLE, RENDER_VERSION
from qtools.reference.rendered import AHEAD, Rendered

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
    return Stage(min(64, size), 0.45, 64), Stage(min(128, size), 0.30, 64), Stage(size, 0.25, 32)


@dataclass(frozen=True)
class Recipe:
    """What a run was asked for; a `ramp_at` of 0 takes the exercise's, `most_steps` of 0 the budget in minutes."""

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
    most_steps: int = 0
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


def state_of(recipe: Recipe, out: Path) -> Path:
    """The file that lets a run continue."""
    return out / f"{recipe.model}.training.pt"


class Run:
    """A training run: model, optimizer and progress, and the file that lets it continue after a kill."""

    def __init__(self, recipe: Recipe, out: Path, resume: bool) -> None:
        """Builds the model and, with ``resume``, takes up the state left in ``out``.

        Raises:
            InputError: the state in ``out`` belongs to another recipe, is damaged, or there is none to resume.
        """
        torch.manual_seed(recipe.seed)
        self.exercise = checkpoints.exercise_of(recipe.model)
        recipe = replace(recipe, ramp_at=recipe.ramp_at or self.exercise.ramp_at)
        self.recipe, self.out, self.progress = recipe, out, Progress()
        self.ordered: deque[float] = deque()  # trouble of the batches that are ordered and not learnt from yet
        self.model = checkpoints.build(recipe.model).to(memory_format=torch.channels_last)
        if hasattr(self.model, "set_distilled_training"):
            self.model.set_distilled_training(True)  # makes both heads answer on their own, so both are trained
        self.stages = stages_of(checkpoints.image_size(self.model))
        self.optimizer = make_optimizer(self.model, recipe)
        self.normalise = checkpoints.Normalise(self.model)
        self.state_file = state_of(recipe, out)
        if resume:
            self._restore()
        self._wall_before, self._cpu_before = self.progress.wall_s, self.progress.cpu_s
        self._began = time.monotonic()

    def _restore(self) -> None:
        path = self.state_file
        if not path.is_file():
            raise InputError(f"nothing to resume: {path} does not exist", "start without --resume")
        try:
            state = torch.load(path, weights_only=True)
            if state["recipe"]["model"] != self.recipe.model or state["render_version"] != RENDER_VERSION:
                raise InputError(f"{path} was written for another model or render version", "give another --out")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            self.ordered.extend(state["ordered"])
            torch.set_rng_state(state["random"])
        except InputError:
            raise
        except Exception as error:  # broad: a damaged file makes torch raise whatever its reader meets
            raise InputError(f"{path} is no state of a training: {error}", "start without --resume") from error

    def keep(self) -> None:
        """Writes the state, whole or not at all."""
        self.clock()
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        content |= {"ordered": list(self.ordered), "random": torch.get_rng_state()}
        facts = {"recipe": asdict(self.recipe), "progress": asdict(self.progress), "render_version": RENDER_VERSION}
        buffer = io.BytesIO()
        torch.save(content | facts, buffer)
        files.write_bytes(self.state_file, buffer.getvalue())

    def clock(self) -> float:
        """Brings the times up to date; returns the share of the budget that has passed."""
        own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        self.progress.wall_s = self._wall_before + time.monotonic() - self._began
        self.progress.cpu_s = self._cpu_before + sum(use.ru_utime + use.ru_stime for use in (own, ended))
        if self.recipe.most_steps:
            return self.progress.steps / self.recipe.most_steps
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


class Spoken:
    """The line that says how a stage goes, every so many seconds."""

    def __init__(self, run: Run, stage: Stage, every_s: float) -> None:
        """Nothing is said before `every_s` have passed."""
        self._run, self._stage, self._every = run, stage, every_s
        self._begin()

    def _begin(self) -> None:
        self._said, self._images = time.monotonic(), self._run.progress.images
        self._losses: list[float] = []
        self._hits: list[float] = []

    def heard(self, loss: float, hit: float, share: float) -> None:
        """A step's loss and score; these were taken in training mode, but never on pictures seen before."""
        self._losses.append(loss)
        self._hits.append(hit)
        passed, done, stage = time.monotonic() - self._said, self._run.progress, self._stage
        if passed > self._every:
            say(
                f"{share:6.1%}  {stage.size:3d} px  step {done.steps:5d}  images {done.images:7d}"
                f"  {(done.images - self._images) / passed:5.1f}/s  loss {sum(self._losses) / len(self._losses):.4f}"
                f"  batch {self._run.exercise.metric} {sum(self._hits) / len(self._hits):.4f}"
                f"  trouble {done.trouble:.2f}"
            )
            self._begin()


def train_stage(run: Run, stage: Stage, rendered: Rendered, say_s: float = 20.0, keep_s: float = 200.0) -> None:
    """Trains at one resolution until the budget asks for another, or is spent. A signal ends it behind a step."""
    done, spoken, kept = run.progress, Spoken(run, stage, say_s), time.monotonic()

    def order(place: int, trouble: float) -> None:
        first = done.images + place * stage.batch
        rendered.order(range(first, first + stage.batch), stage.size, trouble)

    for place, trouble in enumerate(run.ordered):  # by the run that this one goes on with
        order(place, trouble)
    run.model.train()
    share, over = run.clock(), False
    try:
        while not over:
            while len(run.ordered) < AHEAD:
                order(len(run.ordered), done.trouble)
                run.ordered.append(done.trouble)
            batch = rendered.take()
            with stop.deferred():
                run.ordered.popleft()
                spoken.heard(*run.step(*batch), share)
                share = run.clock()
                over = share >= 1.0 or stage_at(share, run.stages) != stage
                if over:
                    run.ordered.clear()
                if over or time.monotonic() - kept > keep_s:
                    run.keep()
                    kept = time.monotonic()
    except SystemExit:  # a signal
        run.keep()
        say(f"stopped behind step {done.steps}, which is kept")
        raise
    rendered.forget()
    say(f"{share:6.1%}  {stage.size:3d} px  held-out {run.exercise.metric} {run.held_out(stage.size):.4f}")


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


def parse(arguments: list[str] | None) -> tuple[Recipe, argparse.Namespace]:
    """Reads the command line: the recipe, and the rest."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m qtools.reference.train", description=summary)
    parser.add_argument("--model", default="repvit_m1_1", help="name of a model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, its JSON and the state")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget of the training itself")
    parser.add_argument(
        "--steps", type=int, default=0, dest="most_steps", help="a budget that makes the same bytes again"
    )
    parser.add_argument("--keep", type=float, default=200.0, help="seconds between two writes of the state")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights; the pictures have their own")
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of the matrix products"
    )
    parser.add_argument("--peak-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--resume", action="store_true", help="continue from the state in --out")
    given = parser.parse_args(arguments)
    names = {field.name for field in fields(Recipe)}
    return Recipe(**{key: value for key, value in vars(given).items() if key in names}), given


def train(arguments: list[str] | None) -> None:
    """Trains until the budget is spent, then writes and measures the checkpoint."""
    recipe, given = parse(arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for rendering: matrices too small to share
    torch.set_num_threads(recipe.threads)
    with claim(state_of(recipe, given.out)), Rendered(recipe.model) as rendered:
        run = Run(recipe, given.out, given.resume)
        while (share := run.clock()) < 1.0:
            train_stage(run, stage_at(share, run.stages), rendered, keep_s=given.keep)
        content = finish(run)
    metric = run.exercise.metric
    say(f"{metric} {content[metric]['value']:.4f} on {len(TEST)} test renders; {content['bytes']} bytes")


def main(arguments: list[str] | None = None) -> None:
    """`train`, with exit codes; a signal ends it behind a step, and --resume goes on there."""
    process.run("train", lambda: train(arguments), own=arguments is None, left="--resume goes on with what was kept")


if __name__ == "__main__":
    main()
