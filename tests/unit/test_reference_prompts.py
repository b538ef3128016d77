"""Pictures to be asked about, the prompts, and the network that was taught to answer them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from qtools.core.types import InputSpec
from qtools.models import load
from qtools.pipeline.halves import prompted, spread
from qtools.reference import checkpoint, prompts, train_prompted
from qtools.reference.images import REFERENCE_TROUBLE, RENDER_VERSION, render_masked
from qtools.reference.prompts import OBJECTS, POINTS, PromptedImages, prompt, scene

SIDE = 64


def test_a_picture_is_four_scenes_side_by_side() -> None:
    found = scene(3, split="test", size=SIDE)
    for place, (down, right) in enumerate(((0, 0), (0, 32), (32, 0), (32, 32))):
        pixels, _, mask = render_masked(12 + place, split="test", size=32)
        assert (found.pixels[down : down + 32, right : right + 32] == pixels).all()
        assert (found.masks[place, down : down + 32, right : right + 32] == mask).all()
        assert found.masks[place].sum() == mask.sum()


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_prompts_lie_where_they_should(kind: int) -> None:
    for index in range(8):
        masks = scene(index, split="test", size=SIDE).masks
        asked = prompt(masks, 1, kind, np.random.default_rng(index))
        assert asked.points.shape == (POINTS, 2) and asked.labels.shape == (POINTS,)
        for (x, y), label in zip(asked.points, asked.labels, strict=True):
            if label == prompts.FOREGROUND and masks[1].any():
                assert masks[1][int(y), int(x)]
            if label == prompts.BACKGROUND:
                assert not masks[1][int(y), int(x)]
        if kind == 1 and masks[1].any():
            (x0, y0), (x1, y1) = asked.points[:2]
            inside = masks[1][round(y0) : round(y1) + 1, round(x0) : round(x1) + 1].sum()
            assert inside > 0.6 * masks[1].sum()
            assert list(asked.labels[:2]) == [prompts.TOP_LEFT, prompts.BOTTOM_RIGHT]


def test_points_are_counted_in_the_frame() -> None:
    """Twice as many units as pixels; pictures that nobody asks about get clicks inside and boxes in the middle."""
    spec = InputSpec((SIDE, SIDE), (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    images = PromptedImages("test", 3, SIDE)
    points, labels = prompted(images, spec, 2 * SIDE)
    for index in range(3):
        asked, _ = images.asked(index)
        assert points[index] == pytest.approx(2 * asked.points) and (labels[index] == asked.labels).all()
    alone = [spread(index, (20, 40)) for index in range(9)]
    assert all((p.points >= 0).all() and (p.points <= (40, 20)).all() for p in alone)
    assert [int(p.labels[0]) for p in alone[:3]] == [1, 1, 2]


def test_the_shipped_network_answers_as_its_json_says() -> None:
    path = checkpoint(train_prompted.NAME)
    assert path is not None
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["bytes"] == path.stat().st_size < 5_000_000
    assert (facts["render_version"], facts["trouble"]) == (RENDER_VERSION, REFERENCE_TROUBLE)
    loaded = load(train_prompted.NAME, "reference", checkpoint)
    network = train_prompted.build()
    network.load_state_dict(loaded.module.state_dict())
    measured = train_prompted.measure(network, PromptedImages("test", 8, facts["image_size"]))
    # the first of the 600 of the JSON: overlaps spread by less than 0.3, so three standard errors are 0.3
    assert measured["first mask"] == pytest.approx(facts["mask_iou"]["first mask"], abs=0.3)


def test_a_prompt_decides_which_object_is_meant() -> None:
    """The mask of each object overlaps more with that object than with the three others."""
    loaded = load(train_prompted.NAME, "reference", checkpoint)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (loaded.spec.input.mean, loaded.spec.input.std))
    right, asked = 0, 0
    for index in range(4):
        found = scene(index, split="test", size=128)
        picture = ((torch.from_numpy(found.pixels).permute(2, 0, 1) / 255 - mean) / std)[None]
        for wanted in range(OBJECTS):
            if found.masks[wanted].sum() < prompts.LEAST:
                continue
            points, labels = train_prompted.as_tensors([prompt(found.masks, wanted, 1, np.random.default_rng(0))])
            with torch.inference_mode():
                drawn, _ = loaded.module(picture, points, labels)
            wide = torch.nn.functional.interpolate(drawn, (128, 128), mode="bilinear")[:, :1]
            overlaps = train_prompted.overlaps(
                wide.expand(OBJECTS, 1, 128, 128), torch.from_numpy(found.masks)[:, None]
            )
            right += int(overlaps[:, 0].argmax()) == wanted
            asked += 1
    assert asked >= 12 and right >= 0.9 * asked


def test_a_step_learns_and_every_part_of_the_network_takes_part() -> None:
    torch.manual_seed(0)
    network = train_prompted.build()
    pixels, masks = train_prompted.rendered(2, 128)
    images = train_prompted.checkpoints.Normalise(network)(pixels)
    loss, overlap = train_prompted.step(network, images, masks, np.random.default_rng(0))
    loss.backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None]
    assert 0 <= overlap <= 1 and not idle, idle
