"""RepViT (Wang et al., CVPR 2024, https://arxiv.org/abs/2307.09283).

Accuracy: table of https://github.com/THU-MIG/RepViT, distilled for 300 and 450 epochs. Parameters and
multiply-accumulates: counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qtools.models._spec import Family, ModelCard, hub_card

if TYPE_CHECKING:
    from qtools.models._spec import State

_RELEASE = re.compile(r"features\.(\d+)\.(.+)")

_STEM = {"0.": "stem.conv1.", "2.": "stem.conv2."}

_BLOCK = {
    "token_mixer.0.": "token_mixer.",
    "token_mixer.1.": "se.",
    "channel_mixer.m.0.": "channel_mixer.conv1.",
    "channel_mixer.m.2.": "channel_mixer.conv2.",
}

_STRIDED = {
    "token_mixer.0.": "spatial_downsample.",
    "token_mixer.2.": "channel_downsample.",
    "channel_mixer.m.0.": "ffn.conv1.",
    "channel_mixer.m.2.": "ffn.conv2.",
}

_HEADS = {
    "classifier.classifier.": "head.head.",
    "classifier.classifier_dist.": "head.head_dist.",
    "classifier.": "head.",  # the one Linear that is left after fusion
}


def _card(size: str, params: float, macs: float, top1: tuple[float, float]) -> ModelCard:
    shorter, longer = top1  # the more accurate one is the default
    known = {"dist_450e_in1k": longer, "dist_300e_in1k": shorter}
    return hub_card(f"repvit_m{size}", params, macs, "Apache-2.0", known, (f"m{size}",))


def from_release(state: State) -> State:
    """Renames the authors' keys to timm's; a state dict in any other layout comes back as it is.

    The authors number all blocks through (`features.N`, the stem being 0) where timm has stages: a strided block ends
    a stage, and timm puts it, together with the block before it, into the next stage's `downsample`. Fused releases
    differ only in what comes after the module names, so the same table serves both.

    Args:
        state: Parameter name -> tensor.
    """
    blocks = {int(found[1]) for key in state if (found := _RELEASE.fullmatch(key))}
    if not blocks:
        return state
    strided = {n for n in blocks if any(key.startswith(f"features.{n}.token_mixer.2.") for key in state)}
    places = _places(sorted(blocks - {0}), strided)
    return {_renamed(key, places, strided): value for key, value in state.items()}


def _places(blocks: list[int], strided: set[int]) -> dict[int, str]:
    """Block number -> module path in timm, with a dot at the end."""
    places: dict[int, str] = {}
    stage, position = 0, 0
    for n in blocks:
        if n in strided:
            places[n] = f"stages.{stage}.downsample."
        elif n + 1 in strided:
            stage, position = stage + 1, 0
            places[n] = f"stages.{stage}.downsample.pre_block."
        else:
            places[n] = f"stages.{stage}.blocks.{position}."
            position += 1
    return places


def _renamed(key: str, places: dict[int, str], strided: set[int]) -> str:
    """One key in timm's layout; a key that fits no row stays, so that the diff shows it."""
    found = _RELEASE.fullmatch(key)
    if found is None:
        table, place, rest = _HEADS, "", key
    elif (n := int(found[1])) == 0:
        table, place, rest = _STEM, "", found[2]
    else:
        table, place, rest = (_STRIDED if n in strided else _BLOCK), places[n], found[2]
    row = next((prefix for prefix in table if rest.startswith(prefix)), None)
    return key if row is None else place + table[row] + rest[len(row) :]


def _arguments(state: State) -> dict[str, Any]:
    """A network trained without distillation has one head; a fused one no longer shows it and does not need to."""
    one_head = any(key.startswith("head.head.") for key in state)
    two_heads = any(key.startswith("head.head_dist.") for key in state)
    return {"distillation": False} if one_head and not two_heads else {}


FAMILY = Family(
    name="repvit",
    cards=(
        _card("0_9", 5.067, 0.8156, (78.7, 79.1)),
        _card("1_0", 6.81, 1.106, (80.0, 80.3)),
        _card("1_1", 8.244, 1.337, (80.7, 81.2)),
        _card("1_5", 14.05, 2.274, (82.3, 82.5)),
        _card("2_3", 22.93, 4.516, (83.3, 83.7)),
    ),
    translate=from_release,
    arguments=_arguments,
    level="verified",
    paper="https://arxiv.org/abs/2307.09283",
)
