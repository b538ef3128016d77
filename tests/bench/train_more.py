"""Trains timm networks on CIFAR-10 for some minutes each, for `make bench-ptq ARGS='--more FOLDER'`.

    PYTHONPATH=. python tests/bench/train_more.py efficientvit_b0 tiny_vit_5m_224 --data DATA --out FOLDER --seconds 400

What a method does to real networks is not seen on the ones it was made on, and made-up weights have no outliers. The
recipe is plain: 32 x 32 pictures enlarged to 64, flips and shifts, AdamW, one cosine over the time there is, on a GPU
where there is one. The header of each file says how `qtools` reads it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

SIDE, SHIFT, BATCH, WARM = 64, 4, 384, 0.08
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZED = {"vit_tiny_patch16_224": {"img_size": SIDE, "patch_size": 8}}
"""Model -> constructor arguments without which it would not take such pictures, or see nothing in them."""
NEEDS_SIZE = ("efficientformerv2", "efficientvit_m")


def main() -> None:
    """Trains one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="timm's names")
    parser.add_argument("--data", type=Path, required=True, help="folder with images/cifar10_*.tar.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=400.0, help="for each network")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seen, of = _pictures(asked.data / "images/cifar10_train_50000_jpg.tar.gz", device)
    unseen, right = _pictures(asked.data / "images/cifar10_test_a.tar.gz", device)
    for name in asked.models:
        kwargs = SIZED.get(name, {"img_size": SIDE} if name.startswith(NEEDS_SIZE) else {})
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=10, **kwargs).to(device)
        _train(network, seen, of, asked.seconds)
        top1 = _top1(network.eval(), unseen, right)
        state = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
        header = {
            "model": name, "kwargs": json.dumps(kwargs), "num_classes": "10", "input": f"3x{SIDE}x{SIDE} RGB",
            "mean": ",".join(map(str, MEAN)), "std": ",".join(map(str, STD)), "resize": f"bilinear 32->{SIDE}",
        }  # fmt: skip
        save_file(state, asked.out / f"{name}.safetensors", metadata=header)
        sys.stderr.write(f"{name}: top-1 {top1:.2f}\n")


def _pictures(archive: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures, shape (pictures, 3, 32, 32), and their classes; a class is a folder."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        names = sorted({path.parent.name for path in files})
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    labels = torch.tensor([names.index(path.parent.name) for path in files], device=device)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device), labels


def _seen(pixels: torch.Tensor, *, moved: bool) -> torch.Tensor:
    """Pictures as the network takes them; mirrored and shifted at random where `moved`."""
    x = pixels.float()
    if moved:
        count, side = len(x), x.shape[-1]
        shift = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), device=x.device) + torch.arange(side, device=x.device)
        rows, columns = shift
        columns = torch.where(torch.rand(count, 1, device=x.device) < 0.5, columns.flip(1), columns)
        x = F.pad(x, (SHIFT,) * 4, mode="reflect").permute(0, 2, 3, 1)
        picked = torch.arange(count, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]
        x = x[picked].permute(0, 3, 1, 2)
    x = F.interpolate(x / 255, size=SIDE, mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(each, device=x.device)[:, None, None] for each in (MEAN, STD))
    return (x - mean) / std


def _train(network: Any, pixels: torch.Tensor, labels: torch.Tensor, seconds: float) -> None:
    """One cosine over the time there is."""
    peak = 1e-3 if network.default_cfg["architecture"].startswith("vit") else 2e-3
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.05}, {"params": [], "weight_decay": 0.0}]
    for parameter in network.parameters():
        groups[parameter.ndim < 2]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=peak)
    began, gone = time.monotonic(), 0.0
    network.train()
    while gone < 1:
        for chosen in torch.randperm(len(pixels), device=pixels.device).split(BATCH)[:-1]:
            if (gone := (time.monotonic() - began) / seconds) >= 1:
                break
            rate = gone / WARM if gone < WARM else (1 + math.cos(math.pi * (gone - WARM) / (1 - WARM))) / 2
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
                heads = network(_seen(pixels[chosen], moved=True))
                logits = torch.stack(heads).mean(0) if isinstance(heads, tuple) else heads
                loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()


@torch.inference_mode()
def _top1(network: Any, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    pairs = zip(pixels.split(500), labels.split(500), strict=True)
    right = sum(int((network(_seen(x, moved=False)).argmax(1) == y).sum()) for x, y in pairs)
    return 100 * right / len(labels)


if __name__ == "__main__":
    main()
