"""SSDLite: its size as published, its anchors and its rows in the same order, and what its loss asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from qtools.architectures.ssdlite import SIDE
from qtools.core.errors import InputError
from qtools.models import load, resolve
from qtools.models.ssdlite import decoding
from qtools.reference.exercises.detection import EXERCISE
from qtools.reference.images import box_of

PAPER = {"ssdlite_mobilevitv2_050": 2.0, "ssdlite_mobilevitv2_075": 3.6, "ssdlite_mobilevitv2_100": 5.6}
"""arXiv 2206.02680, the table of SSDLite on COCO: millions of weights, as printed."""


def meta(name: str) -> torch.nn.Module:
    resolve(name)
    with torch.device("meta"):
        return timm.create_model(name).eval()


@pytest.mark.parametrize("name", PAPER)
def test_size_as_published(name: str) -> None:
    counted = sum(p.numel() for p in meta(name).parameters()) / 1e6
    assert abs(counted - PAPER[name]) <= 0.05


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ssdlite_repvit_thin", (100, 70)),
        ("ssdlite_repvit_m0_9", (SIDE, SIDE)),
        ("ssdlite_mobilevitv2_050", (128, 192)),
    ],
)
def test_there_is_an_anchor_for_every_row(name: str, size: tuple[int, int]) -> None:
    with torch.inference_mode(), FlopCounterMode(display=False):
        logits, boxes = meta(name)(torch.zeros(1, 3, *size, device="meta"))
    anchors = decoding(name, size).anchors
    assert anchors is not None
    assert logits.shape == (1, anchors.count, 81) and boxes.shape == (1, anchors.count, 4)


def test_sizes_that_mobilevit_would_pad_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 64"):
        decoding("ssdlite_mobilevitv2_050", (160, 320))


def test_rows_are_cells_then_shapes_as_the_anchors_are() -> None:
    """A bias that is another for each shape, and a weight that reads one cell alone."""
    resolve("ssdlite_repvit_thin")
    torch.manual_seed(0)
    model = timm.create_model("ssdlite_repvit_thin", num_classes=3).eval()
    answer = model.answers[0]
    x = torch.zeros(1, 128, 4, 6)
    with torch.inference_mode():
        answer.boxes.weight.zero_()
        answer.boxes.bias.copy_(torch.arange(6 * 4).float())
        _, rows = answer(x)
    assert rows.shape == (1, 4 * 6 * 6, 4)
    torch.testing.assert_close(rows[0], torch.arange(24.0).reshape(6, 4).repeat(24, 1))
    answer.mix, answer.project = torch.nn.Identity(), torch.nn.Identity()
    with torch.inference_mode():
        answer.boxes.weight.fill_(1.0)
        x[0, :, 2, 5] = 1.0
        _, moved = answer(x)
    cell = (moved - rows).abs().sum(2)[0].nonzero()[:, 0]
    assert cell.tolist() == list(range((2 * 6 + 5) * 6, (2 * 6 + 5) * 6 + 6))


def test_one_depthwise_convolution_serves_both_answers() -> None:
    """As many weights as the joint convolution of the published code, and its numbers."""
    torch.manual_seed(1)
    resolve("ssdlite_repvit_thin")
    answer = timm.create_model("ssdlite_repvit_thin", num_classes=3).eval().answers[0]
    x = torch.randn(1, 128, 4, 4)
    weight = torch.cat([answer.logits.weight, answer.boxes.weight])
    bias = torch.cat([answer.logits.bias, answer.boxes.bias])
    with torch.inference_mode():
        joint = functional.conv2d(answer.mix(answer.project(x)), weight, bias)
        logits, boxes = answer(x)
    split = joint.split([24, 24], 1)
    torch.testing.assert_close(logits, split[0].permute(0, 2, 3, 1).reshape(1, -1, 4))
    torch.testing.assert_close(boxes, split[1].permute(0, 2, 3, 1).reshape(1, -1, 4))


def test_a_file_says_how_many_classes_it_has(tmp_path: Path) -> None:
    resolve("ssdlite_repvit_thin")
    model = timm.create_model("ssdlite_repvit_thin", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "seven.pt")
    loaded = load("ssdlite_repvit_thin", tmp_path / "seven.pt")
    assert (loaded.spec.task, loaded.spec.classes) == ("detection", 7)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(loaded.module(image), model(image), strict=True):
            torch.testing.assert_close(ours, theirs)


def _right(
    label: int, box: tuple[int, int, int, int], side: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Answers that say the box at every anchor, and are sure of the label at the nearest ones alone."""
    how = decoding("ssdlite_repvit_thin", (side, side))
    assert how.anchors is not None
    start, (x0, y0, x1, y1) = how.anchors.table(), np.asarray(box) / side
    middle, size = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([x1 - x0, y1 - y0])
    numbers = np.concatenate([(middle - start[:, :2]) / start[:, 2:] / 0.1, np.log(size / start[:, 2:]) / 0.2], 1)
    low, high = start[:, :2] - start[:, 2:] / 2, start[:, :2] + start[:, 2:] / 2
    shared = np.clip(np.minimum(high, [x1, y1]) - np.maximum(low, [x0, y0]), 0, None).prod(1)
    near = shared / (start[:, 2:].prod(1) + size.prod() - shared)
    logits = np.zeros((1, len(start), 17))
    logits[..., 0] = 12
    ours = (near >= 0.5) | (near == near.max())
    logits[0, ours, 0], logits[0, ours, label + 1] = 0, 12
    return (torch.from_numpy(logits), torch.from_numpy(numbers[None])), torch.tensor([[label, *box, side]])


def test_the_loss_is_least_for_the_right_answers_and_counts_them_as_found() -> None:
    (logits, numbers), answers = _right(4, (30, 20, 80, 100), 128)
    loss, found = EXERCISE.loss((logits, numbers), answers, 0.0)
    assert loss < 1e-3 and found == 1
    assert EXERCISE.tally((logits, numbers), answers)[:, 4].tolist() == [1, 1]
    off, _ = EXERCISE.loss((logits, numbers + 2), answers, 0.0)
    assert float(off) == pytest.approx(4 * 1.5, abs=1e-2), "smooth L1 of 2 is 1.5, for each of four numbers"
    wrong, missed = EXERCISE.loss((logits.roll(1, 2), numbers), answers, 0.0)
    assert wrong > 10 and missed == 0


def test_an_object_that_does_not_show_is_background_everywhere() -> None:
    (logits, numbers), _ = _right(4, (30, 20, 80, 100), 128)
    hidden = torch.tensor([[4, 0, 0, 0, 0, 128]])
    logits[...] = 0
    logits[..., 0] = 12
    loss, _ = EXERCISE.loss((logits, numbers), hidden, 0.0)
    assert float(loss) == 0


def test_the_box_of_a_mask_is_tight() -> None:
    shown = np.zeros((9, 12), np.bool_)
    shown[2:5, 3] = shown[4, 3:8] = True
    assert box_of(shown) == (3, 2, 8, 5)
    assert box_of(np.zeros((4, 4), np.bool_)) == (0, 0, 0, 0)
