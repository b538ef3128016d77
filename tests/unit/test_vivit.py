"""ViViT's factorised encoder against a convolution in three dimensions and loops over moments."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from qtools import architectures
from qtools.architectures.vivit import VivitFactorised, VivitJoint
from qtools.core.clips import Clip
from qtools.models import resolve
from qtools.models.vivit import from_release
from qtools.pipeline.task import task_of

FRAMES, SIDE, DEEP, PATCH, DIM = 6, 16, 2, 8, 24


@pytest.fixture(scope="module")
def small() -> VivitFactorised:
    torch.manual_seed(0)
    net = VivitFactorised(FRAMES, SIDE, (DEEP, PATCH), (DIM, 3), (2, 1), 5).eval()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return net


def _laid(clip: torch.Tensor) -> torch.Tensor:
    """(n, 3, frames, h, w) as one tall picture."""
    return clip.flatten(2, 3)


@torch.no_grad()
def test_tubelets_are_those_of_a_convolution_in_three_dimensions(small: VivitFactorised) -> None:
    clip = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    deep = nn.Conv3d(3, DIM, (DEEP, PATCH, PATCH), (DEEP, PATCH, PATCH))
    state = {"tubelets.embed.weight": deep.weight, "tubelets.embed.bias": deep.bias}
    small.load_state_dict({**small.state_dict(), **from_release(state)})
    tokens = deep(clip).flatten(3).permute(0, 2, 3, 1)  # n, moments, patches, dim
    seen = [[small.spatial(tokens[n, moment][None]) for moment in range(FRAMES // DEEP)] for n in range(2)]
    expected = torch.cat([small.head(small.temporal(torch.stack(each, 1))) for each in seen])
    torch.testing.assert_close(small(_laid(clip)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_order_of_moments_counts_and_clips_do_not_mix(small: VivitFactorised) -> None:
    clip = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    both = small(_laid(clip))
    torch.testing.assert_close(small(_laid(clip[1:])), both[1:], rtol=1e-4, atol=1e-4)
    assert (small(_laid(clip.flip(2))) - both).abs().max() > 0.1


OLDER = (
    (r"^vivit\.layers\.", "vivit.encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
"""What the files on the hub call parts: those of transformers before version 5."""


@pytest.mark.parametrize("older", [False, True])
@torch.no_grad()
def test_model_1_is_that_of_transformers(older: bool) -> None:
    from transformers import VivitConfig, VivitForVideoClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 4 * DIM}
    config = VivitConfig(image_size=SIDE, num_frames=FRAMES, tubelet_size=[DEEP, PATCH, PATCH], num_labels=5, **sizes)
    theirs, ours = (
        VivitForVideoClassification(config).eval(),
        VivitJoint(FRAMES, SIDE, (DEEP, PATCH), (DIM, 3), 2, 5).eval(),
    )
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    state = theirs.state_dict()
    if older:
        for old, new in OLDER:
            state = {re.sub(old, new, key): value for key, value in state.items()}
        assert "vivit.encoder.layer.1.attention.attention.query.weight" in state
    ours.load_state_dict(from_release(state))
    clip = torch.randn(2, FRAMES, 3, SIDE, SIDE)
    expected = theirs(clip).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(_laid(clip.transpose(1, 2))), expected, rtol=1e-4, atol=1e-4)
    again = from_release(ours.state_dict())
    assert again.keys() == ours.state_dict().keys()


def test_frames_that_no_tubelet_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="not made of tubelets"):
        VivitFactorised(frames=5)
    with pytest.raises(ValueError, match="not made of tubelets"):
        VivitFactorised(side=100)


def test_the_paper_s_member_has_its_size_and_its_clips() -> None:
    """115.1 million weights, table 2; 32 frames with a stride of 2, section 4.1."""
    architectures.register()
    with torch.device("meta"):
        network = timm.create_model("vivit_b_16x2_fe")
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(115.1, rel=1e-3)
    spec = resolve("vivit_b_16x2_fe")
    assert spec.task == "video" and spec.input.size == (32 * 224, 224)
    assert task_of(spec).clip == Clip(32, 2, (224, 224))
