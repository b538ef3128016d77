"""Trains the small promptable network: ``python -m qtools.reference.train_prompted --out DIR --minutes 11``.

An image is encoded once and asked for each of its objects. The first mask has to be the one asked for; of the three
others the best has to be, as in SAM (Kirillov et al., 2023, appendix A), and each states its own overlap. The backbone
starts from the segmentation network that ships, which knows these pictures; turned and mirrored scenes stand in for
rendered ones, so that a few thousand of them are enough.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from qtools import models
from qtools.reference import checkpoint, checkpoints
from qtools.reference.images import REFERENCE_TROUBLE, RENDER_VERSION
from qtools.reference.prompts import LEAST, OBJECTS, Prompt, PromptedImages, prompt, scene
from qtools.reference.train import Recipe, make_optimizer, rate_at, versions

NAME, BACKBONE = "efficientvit_sam_b0", "efficientvit_seg_b0"
BATCH, SCENES, TEST = 12, 2400, 600
EASIEST = 0.15
"""Least trouble of a training scene; the most is that of the reference set and a little more."""
HARDEST = 0.7


def main(arguments: list[str] | None = None) -> None:
    """Trains until the budget is spent, then writes and measures the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m qtools.reference.train_prompted", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and its JSON")
    parser.add_argument("--minutes", type=float, default=11.0, help="wall-clock budget of the training itself")
    parser.add_argument("--scenes", type=int, default=SCENES, help="pictures rendered before the training")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(NAME, given.minutes, 1, 0, 2e-3, precision="float32", smoothing=0.0)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    model = build()
    start(model)
    steps = train(model, recipe, rendered(given.scenes, checkpoints.image_size(model)))
    write(model, recipe, given.out, {"steps": steps, "scenes": given.scenes, "batch": BATCH, "objects": OBJECTS})


def build() -> nn.Module:
    """The network, freshly initialised, with its configuration."""
    spec = models.resolve(NAME)
    model = models.create(spec)
    model.pretrained_cfg = {  # type: ignore[assignment]
        "input_size": (3, *spec.input.size),
        "mean": spec.input.mean,
        "std": spec.input.std,
    }
    return model.train()


def start(model: nn.Module) -> None:
    """Takes over the shipped segmentation network's backbone."""
    known = checkpoint(BACKBONE)
    assert known is not None  # it ships with this package
    state = {k: v.float() for k, v in load_file(known).items() if k.startswith(("stem.", "stages."))}
    _, unexpected = model.image_encoder.load_state_dict(state, strict=False)
    assert not unexpected, unexpected


def rendered(count: int, size: int) -> tuple[Tensor, NDArray[np.bool_]]:
    """Training scenes: pictures (count, size, size, 3) uint8, and masks (count, OBJECTS, size, size)."""
    trouble = np.random.default_rng(0).uniform(EASIEST, HARDEST, count)
    scenes = [scene(at, split="train", size=size, trouble=float(each)) for at, each in enumerate(trouble)]
    return torch.from_numpy(np.stack([s.pixels for s in scenes])), np.stack([s.masks for s in scenes])


def train(model: nn.Module, recipe: Recipe, scenes: tuple[Tensor, NDArray[np.bool_]]) -> int:
    """Trains until the budget is spent; returns the number of steps."""
    pixels, masks = scenes
    normalise, draw = checkpoints.Normalise(model), np.random.default_rng(1)
    optimizer, began, steps, said, sums = make_optimizer(model, recipe), time.monotonic(), 0, 0.0, np.zeros(3)
    while (share := (time.monotonic() - began) / (60 * recipe.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(share, recipe)
        some = draw.integers(len(pixels), size=BATCH)
        shown, wanted = _turned(pixels[some], masks[some], draw)
        loss, overlap = step(model, normalise(shown), wanted, draw)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        steps += 1
        sums += loss.item(), overlap, 1
        if time.monotonic() - said > 20:
            sys.stderr.write(f"{share:6.1%}  step {steps}  loss {sums[0] / sums[2]:.4f}  IoU {sums[1] / sums[2]:.4f}\n")
            said, sums = time.monotonic(), np.zeros(3)
    return steps


def _turned(pixels: Tensor, masks: NDArray[np.bool_], draw: np.random.Generator) -> tuple[Tensor, NDArray[np.bool_]]:
    """A batch mirrored and turned by quarters, all of it alike."""
    quarters, mirrored = int(draw.integers(4)), bool(draw.integers(2))
    pixels, masks = torch.rot90(pixels, quarters, (1, 2)), np.rot90(masks, quarters, (2, 3))
    if mirrored:
        pixels, masks = pixels.flip(2), masks[..., ::-1]
    return pixels, np.ascontiguousarray(masks)


def step(model: nn.Module, images: Tensor, masks: NDArray[np.bool_], draw: np.random.Generator) -> tuple[Tensor, float]:
    """Loss of a batch, and the mean overlap of its first masks with the right ones."""
    embedding = model.image_encoder(images)
    which = [(at, obj) for at, each in enumerate(masks) for obj in range(OBJECTS) if each[obj].sum() >= LEAST]
    prompts = [prompt(masks[at], obj, int(draw.integers(3)), draw) for at, obj in which]
    right = torch.from_numpy(np.stack([masks[at, obj] for at, obj in which])).float()
    drawn, stated = model.decoder(embedding[[at for at, _ in which]], *as_tensors(prompts))
    right = functional.interpolate(right[:, None], drawn.shape[-2:], mode="area")
    pixelwise = functional.binary_cross_entropy_with_logits(drawn, right.expand_as(drawn), reduction="none")
    shares = drawn.sigmoid()
    dice = 1 - (2 * (shares * right).sum((2, 3)) + 1) / (shares.sum((2, 3)) + right.sum((2, 3)) + 1)
    losses = 4 * pixelwise.mean((2, 3)) + dice
    found = overlaps(drawn.detach(), right > 0.5)
    total = losses[:, 0].mean() + losses[:, 1:].amin(1).mean() + functional.mse_loss(stated, found)
    return total, float(found[:, 0].mean())


def as_tensors(prompts: list[Prompt]) -> tuple[Tensor, Tensor]:
    """Points (n, POINTS, 2) and labels (n, POINTS)."""
    return (
        torch.from_numpy(np.stack([each.points for each in prompts])),
        torch.from_numpy(np.stack([each.labels for each in prompts])),
    )


def overlaps(drawn: Tensor, right: Tensor) -> Tensor:
    """Intersection over union of masks (n, masks, h, w) before the sigmoid with the right ones (n, 1, h, w) bool."""
    ours = drawn > 0
    both, either = (ours & right).sum((2, 3)), (ours | right).sum((2, 3))
    return both / either.clamp_min(1)


@torch.inference_mode()
def measure(model: nn.Module, images: PromptedImages) -> dict[str, float]:
    """Mean overlap with the right masks at the picture's size: of the first mask, and of the one stated best."""
    model.eval()
    normalise, sums = checkpoints.Normalise(model), np.zeros(2)
    for index in range(len(images)):
        asked, right = images.asked(index)
        pixels = torch.from_numpy(images[index][0])[None]
        drawn, stated = model(normalise(pixels), *as_tensors([asked]))
        drawn = functional.interpolate(drawn, right.shape, mode="bilinear", align_corners=False)
        found = overlaps(drawn, torch.from_numpy(right)[None, None])[0]
        sums += float(found[0]), float(found[int(stated[0].argmax())])
    return dict(zip(("first mask", "mask stated best"), (sums / len(images)).tolist(), strict=True))


def write(model: nn.Module, recipe: Recipe, out: Path, how: dict[str, Any]) -> None:
    """Writes both files and measures the written one."""
    weights = out / f"{NAME}.safetensors"
    digest = checkpoints.save_weights(model, weights)
    shipped = build()
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()}
    missing, unexpected = shipped.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    size = checkpoints.image_size(model)
    measured = measure(shipped, PromptedImages("test", TEST, size))
    mean, std = checkpoints.normalisation(model)
    content = {
        "model": NAME,
        "image_size": size,
        "preprocessing": {
            "transform": "four renders side by side, no resize and no crop; pixels / 255, minus mean, divided by std",
            "mean": mean,
            "std": std,
            "crop_pct": 1.0,
        },
        "render_version": RENDER_VERSION,
        "trouble": REFERENCE_TROUBLE,
        "mask_iou": {
            **measured,
            "images": TEST,
            "split": "test",
            "arithmetic": "float32, unfused, weights read back from the float16 file",
        },
        "sha256": digest,
        "bytes": weights.stat().st_size,
        "training": {
            "minutes": recipe.minutes,
            "threads": recipe.threads,
            "seed": recipe.seed,
            "peak_rate": recipe.peak_rate,
            "weight_decay": recipe.weight_decay,
            "trouble": [EASIEST, HARDEST],
            "backbone": f"from {BACKBONE}",
            **how,
        },
        "environment": versions(),
    }
    checkpoints.write_json(out / f"{NAME}.json", content)
    sys.stderr.write(f"mask IoU {measured} on {TEST} test scenes; {content['bytes']} bytes\n")


if __name__ == "__main__":
    main()
