"""RepViT by its name: from a checkpoint file and a labels.csv, and the embedded default where it is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from timm.data import create_transform
from torch import nn

from qtools import reference
from qtools.pipeline.evaluate import SLOW_KERNEL_IMAGES

pytestmark = pytest.mark.e2e

CLASSES, SIDE, EVALUATED = 4, 64, 24
WORDS = ("quantize", "m0_9", "--weights", "trained.safetensors", "--data", "seen", "--eval", "new/labels.csv")


def trained() -> nn.Module:
    """RepViT-M0.9 that no ImageNet saw: BatchNorm statistics of noise, moved a little, and none of its defaults."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        network = timm.create_model("repvit_m0_9", num_classes=CLASSES)
        norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d))]
        for norm in norms:
            norm.momentum = None
            norm.weight.copy_(0.5 + 0.5 * torch.rand(norm.num_features))
            norm.bias.copy_(0.2 * torch.randn(norm.num_features))
        stripes = (0.5 * torch.randn(32, 1, 1, 16)).repeat_interleave(4, 3).expand(-1, 3, SIDE, -1)
        noise = torch.randn(32, 3, 1, 1) + stripes + 0.15 * torch.randn(32, 3, SIDE, SIDE)
        network.train()(noise)
        for norm in norms:
            norm.running_mean += 0.02 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= 0.95 + 0.1 * torch.rand(norm.num_features)
        network.eval()
        heads = (network.head.head.l, network.head.head_dist.l)
        for head in heads:
            head.weight *= 20  # pictures of different colours get different answers
        middle = network(noise).mean(0)
        for head in heads:
            head.bias -= middle
        return network


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def ended(tmp_path_factory, network, album, qtools) -> Any:
    folder = tmp_path_factory.mktemp("named")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    words = {"model": "repvit_m0_9", "input": f"3x{SIDE}x{SIDE} RGB", "licence": "CC0-1.0"}
    save_file(state, folder / "trained.safetensors", words)
    album.labels_csv(folder / "seen", 16, CLASSES)
    album.labels_csv(folder / "new", EVALUATED, CLASSES, first=100)
    return qtools(folder, *WORDS)


def answers(network: nn.Module, folder: Path) -> np.ndarray:
    """(label, answer) of each picture, through timm's own preprocessing: whole pictures, as the size was reduced."""
    config = timm.data.resolve_model_data_config(network) | {"input_size": (3, SIDE, SIDE), "crop_pct": 1.0}
    transform = create_transform(**config)
    pairs = []
    for line in (folder / "labels.csv").read_text().split()[1:]:
        name, label = line.split(",")
        pixels = transform(ImageOps.exif_transpose(Image.open(folder / name)).convert("RGB"))
        with torch.inference_mode():
            pairs.append((int(label), int(network(pixels[None]).argmax())))
    return np.array(pairs)


def test_it_ends_well_and_says_where_things_are(ended):
    assert ended.code == 0, ended.err + ended.out
    assert ended.folder().name == "repvit_m0_9-trained-w8a8-tflite"
    for name in ("model.tflite", "report.html"):
        assert f"runs/{ended.folder().name}/{name}" in ended.out
        assert (ended.folder() / name).is_file()
    assert "agreement" in ended.out and "s  calibrate" in ended.err and "s  calibrate" not in ended.out


def test_the_file_gave_size_classes_and_licence(ended):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(ended.folder() / "model.tflite"))
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["shape"].tolist(), logits["shape"].tolist()) == ([1, SIDE, SIDE, 3], [1, CLASSES])
    assert image["dtype"] == logits["dtype"] == np.int8
    assert ended.report()["weights"] == {"kind": "file", "source": "trained.safetensors", "licence": "CC0-1.0"}


def test_float_accuracy_is_that_of_timms_network(ended, network):
    labels, exact = answers(network, ended.cwd / "new").T
    assert len(set(exact)) >= 2, "the test needs a network that tells pictures apart"
    for row in ended.report()["ledger"][:2]:
        assert row["accuracy"]["n"] == EVALUATED
        assert row["accuracy"]["top1"] == pytest.approx(100 * np.mean(exact == labels)), row["stage"]


def test_every_stage_proved_its_work(ended):
    report = ended.report()
    assert {check["status"] for check in report["checks"]} == {"passed"}
    certificate = json.loads((ended.folder() / "fusion.json").read_text())
    assert len(certificate["blocks"]) > 50 and not certificate["leftover"]
    assert report["size"]["quantized_bytes"] < 0.28 * report["size"]["float_bytes"]
    assert report["subject"]["verified"] is True and report["data"]["labelled"] is True


@pytest.mark.slow
@pytest.mark.skipif(reference.checkpoint("repvit_m1_1") is None, reason="no reference checkpoint is shipped yet")
def test_the_embedded_default(tmp_path, qtools):
    few = ("--method", "mse", "--calibration", "16", "--evaluation", "16")  # the default method goes its way above
    ended = qtools(tmp_path, "quantize", "m1_1", "--weights", "reference", *few)
    assert ended.code == 0, ended.err + ended.out
    report = ended.report()
    assert ended.folder().name == "repvit_m1_1-reference-w8a8-tflite"
    assert report["weights"]["kind"] == "reference" and report["data"]["kind"] == "reference"
    counts = {row["accuracy"]["n"] for row in report["ledger"] if row["accuracy"]}
    assert report["data"]["labelled"] and counts == {16, SLOW_KERNEL_IMAGES}
    assert "Reference weights, not imagenet" in " ".join(ended.out.split())
    assert report["ledger"][0]["accuracy"]["top1"] > 80  # of 12 classes or more
    assert any("rendered images, not on ImageNet" in words for words in report["warnings"])
