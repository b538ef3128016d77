"""Building reference models, measuring them, and the two files a shipped checkpoint consists of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qtools import models
from qtools.core import files, plugins
from qtools.reference.exercise import Exercise
from qtools.reference.images import REFERENCE_TROUBLE, render, render_masked


def exercise_of(name: str) -> Exercise:
    """What a model is to learn on the reference set, by its task."""
    found: Exercise = plugins.find("qtools.reference.exercises", models.resolve(name).task, "EXERCISE")
    return found


def build(name: str) -> nn.Module:
    """The architecture with one output per answer of its exercise, freshly initialised.

    Those that are not timm's get what timm's have: a `pretrained_cfg` with size, mean and standard deviation.
    """
    spec, exercise = models.resolve(name), exercise_of(name)
    model = models.create(dataclasses.replace(spec, classes=len(exercise.classes)))
    if exercise.size is not None:
        sides = (3, exercise.size, exercise.size)
        model.pretrained_cfg = {"input_size": sides, "mean": spec.input.mean, "std": spec.input.std}
    return model.train()


def image_size(model: nn.Module) -> int:
    """Side in pixels of the pictures the architecture was made for, from its timm configuration."""
    return int(model.pretrained_cfg["input_size"][-1])


def normalisation(model: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (RGB, of 0..1 pixels) from the model's timm configuration."""
    config = model.pretrained_cfg
    return list(config["mean"]), list(config["std"])


class Normalise:
    """Turns uint8 pictures into the model's input."""

    def __init__(self, model: nn.Module) -> None:
        """Takes mean and standard deviation from the model's timm configuration."""
        mean, std = normalisation(model)
        self._mean = torch.tensor(mean).view(1, 3, 1, 1) * 255.0
        self._std = torch.tensor(std).view(1, 3, 1, 1) * 255.0

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, h, w, 3) uint8 to (n, 3, h, w) float32 in channels-last layout."""
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return (planes - self._mean) / self._std


def batches(
    exercise: Exercise, which: tuple[str, range], size: int, batch: int, trouble: float = REFERENCE_TROUBLE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Renders scenes of a split in order, (n, size, size, 3) uint8 and their answers at a time; the last may be short.

    Args:
        exercise: Whose answers are wanted.
        which: split and scenes.
        size: side in pixels.
        batch: pictures at a time.
        trouble: how hard the scenes are.
    """
    split, indices = which
    for start in range(0, len(indices), batch):
        some = indices[start : start + batch]
        scenes = [render_masked(index, split=split, size=size, trouble=trouble) for index in some]
        pixels = torch.from_numpy(np.stack([scene[0] for scene in scenes]))
        yield pixels, torch.from_numpy(np.stack([exercise.answer(label, mask) for _, label, mask in scenes]))


@torch.inference_mode()
def per_class(model: nn.Module, exercise: Exercise, split: str, indices: range, size: int | None = None) -> Tensor:
    """The exercise's score of each class: share of right answers, or intersection over union.

    Args:
        model: a network with the exercise's answers; put into eval mode.
        exercise: what it learnt.
        split: split to render.
        indices: scenes to use; a multiple of the class count weighs every class alike.
        size: side of the renders in pixels; None is the model's own.

    Returns:
        (classes,) float64; their mean is the top-1 (where the classes are balanced) or the mean IoU.
    """
    model.eval()
    normalise = Normalise(model)
    sums = torch.zeros(2, len(exercise.classes), dtype=torch.float64)
    for pixels, answers in batches(exercise, (split, indices), size or image_size(model), 50):
        sums += exercise.tally(model(normalise(pixels)), answers)
    return sums[0] / sums[1]


@torch.no_grad()
def settle_batch_norm(model: nn.Module, indices: range, size: int | None = None, batch: int = 32) -> None:
    """Replaces running batch-norm statistics by plain averages over training renders, in float32.

    The running averages of the last training steps were taken in bfloat16 while the weights still moved.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    normalise = Normalise(model)
    for start in range(0, len(indices), batch):
        some = indices[start : start + batch]
        scenes = [render(index, split="train", size=size or image_size(model))[0] for index in some]
        model(normalise(torch.from_numpy(np.stack(scenes))))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    model.eval()


def save_weights(model: nn.Module, path: Path) -> str:
    """Writes the state dict as float16 safetensors under its timm names, without batch counters.

    The header says what the loader has to know: renders come at the network's size, so nothing is cropped.

    Returns:
        The file's SHA-256 in hexadecimal.

    Raises:
        ValueError: a value is not finite in float16; nothing is written.
    """
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        half = value.detach().to(torch.float16) if value.is_floating_point() else value.detach()
        if half.is_floating_point() and not torch.isfinite(half).all():
            raise ValueError(f"{key} leaves the range of float16")
        state[key] = half.contiguous().clone()
    size = image_size(model)
    header = {"input": f"3x{size}x{size}", "crop_pct": "1.0", "licence": "Apache-2.0"}
    files.write_bytes(path, _in_order(save(state, metadata=header)))
    return files.digest_file(path)


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the words of its header sorted: the library writes them in an order of chance.

    The format: length of the header in 8 bytes, the header as JSON with spaces behind it up to a multiple of 8, data.
    """
    size = int.from_bytes(data[:8], "little")
    facts = json.loads(data[8 : 8 + size])
    header = json.dumps({"__metadata__": facts.pop("__metadata__"), **facts}, sort_keys=True, separators=(",", ":"))
    spaced = header.encode() + b" " * (-len(header.encode()) % 8)
    return len(spaced).to_bytes(8, "little") + spaced + data[8 + size :]


def load(name: str, path: Path) -> nn.Module:
    """Builds the model and fills it with a shipped checkpoint, in float32 and eval mode.

    Raises:
        RuntimeError: the file's keys are not those of the architecture.
    """
    model = build(name)
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"{path.name} does not fit {name}: missing {missing[:4]}, unexpected {unexpected[:4]}")
    return model.eval()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all, keys in the given order."""
    files.write_text(path, json.dumps(content, indent=2) + "\n")
