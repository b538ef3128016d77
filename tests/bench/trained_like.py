"""Made-up weights that behave as trained ones do: nothing neutral, activations of ordinary size, classes told apart.

A network straight from its initializer is no subject for quantization: with all that is born neutral made random,
rounding errors grow from layer to layer until nothing of the image is left, and float32 differs from itself. What
training does about that is done here in one pass over rendered images: every BatchNorm gets the statistics of what
really reaches it, branches that are born silent stay small beside the stream they are added to, and the classifier is
the least-squares one for the renders' labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from qtools.core.types import InputSpec
from qtools.reference.images import render

IMAGES = 48
"""Three of each of the 16 classes; none of them calibrates or is evaluated."""
SCALES, SHIFTS = (0.5, 1.5), (-0.2, 0.5)
"""Of norms; shifts lean to the side where a ReLU lets through, as an untrained one halves all that reaches it."""
BIASES = (-0.2, 0.2)
BRANCHES = (0.05, 0.25)
"""Scales of what is born 0, or nearly, so that its block is the identity: layer scales, and last norms of a branch."""
UNLIKE_MEAN, UNLIKE_VARIANCE = (-0.2, 0.2), (0.7, 1.4)
"""How far a training set's statistics are from those of our few images: in standard deviations, and as factors."""
UNLIKE_HEADS = (0.9, 1.1)
"""Factors: two classifiers of one network are not the same."""
LEAST_VARIANCE = 0.1
"""Of a channel, as a share of its layer's mean: few images make some channels all but constant."""
RIDGE = 0.1
"""Penalty of the classifier, as a share of its inputs' total variance."""


def renders(picture: InputSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Rendered images as the network takes them, shape (n, 3, height, width), and their labels."""
    side = max(picture.size)
    pairs = [render(index, split="train", size=side) for index in range(IMAGES)]
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in pairs]))
    images = pixels.permute(0, 3, 1, 2)[:, :, : picture.size[0], : picture.size[1]] / 255
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (picture.mean, picture.std))
    return (images - mean) / std, torch.tensor([label for _, label in pairs])


@torch.no_grad()
def trained_like(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, classes: int) -> nn.Module:
    """The module in eval mode as training might have left it; the same numbers at every call.

    Args:
        module: Freshly made, with a classifier of `classes` rows; changed in place.
        images: What it has seen, shape (n, 3, height, width).
        labels: Their classes, shape (n,).
        classes: How many there are.
    """
    draw = _Draw()
    hooks = []
    for part in module.modules():
        for name, values in part.named_parameters(recurse=False):
            _unsettle(part, name, values, draw)
        if _is_batch_norm(part):
            hooks.append(part.register_forward_pre_hook(_settle(draw)))
    module.eval()
    seen: dict[nn.Linear, torch.Tensor] = {}
    heads = [part for part in module.modules() if isinstance(part, nn.Linear) and part.out_features == classes]
    hooks += [head.register_forward_pre_hook(lambda part, read: seen.update({part: read[0]})) for head in heads]
    module(images)
    for hook in hooks:
        hook.remove()
    for head, features in seen.items():
        rows = features.flatten(0, -2)
        if len(rows) == len(labels):  # a layer inside may be as wide as there are classes
            _fit(head, rows, labels)
            head.weight.mul_(draw(head.weight.shape, UNLIKE_HEADS))
    return module


class _Draw:
    """Uniform random numbers from one seed."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, shape: torch.Size, interval: tuple[float, float]) -> torch.Tensor:
        lo, hi = interval
        return lo + (hi - lo) * torch.rand(shape, generator=self._generator)


def _is_batch_norm(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._BatchNorm)


def _unsettle(part: nn.Module, name: str, values: torch.Tensor, draw: _Draw) -> None:
    """Takes a parameter away from the neutral number it was born with."""
    norm = _is_batch_norm(part) or isinstance(part, (nn.LayerNorm, nn.GroupNorm))
    if name == "bias":
        values.copy_(draw(values.shape, SHIFTS if norm else BIASES))
    elif values.numel() > 1 and bool((values == values.flatten()[0]).all()):  # born neutral
        values.copy_(draw(values.shape, SCALES if norm and bool(values.any()) else BRANCHES))


def _settle(draw: _Draw) -> Any:
    """A hook that gives a BatchNorm the statistics of its first input, before it computes."""

    def hook(norm: Any, read: tuple[torch.Tensor]) -> None:
        channels = read[0].transpose(0, 1).flatten(1)
        mean, variance = channels.mean(1), channels.var(1, unbiased=False)
        norm.running_mean.copy_(mean + variance.sqrt() * draw(mean.shape, UNLIKE_MEAN))
        floor = LEAST_VARIANCE * float(variance.mean())
        norm.running_var.copy_(variance.clamp_min(floor) * draw(mean.shape, UNLIKE_VARIANCE))

    return hook


def _fit(head: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Ridge regression from a classifier's inputs, shape (n, channels), onto +-1 per class, in its dual form."""
    wanted = 2.0 * nn.functional.one_hot(labels, head.out_features).double() - 1
    centre, mean = features.double().mean(0), wanted.mean(0)
    deviations = features.double() - centre
    gram = deviations @ deviations.T
    dual = torch.linalg.solve(gram + RIDGE * gram.trace() * torch.eye(len(gram)), wanted - mean)
    weight = dual.T @ deviations
    head.weight.copy_(weight * (4 / (deviations @ weight.T).std()))
    head.bias.copy_(mean - head.weight.double() @ centre)
