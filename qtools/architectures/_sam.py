"""What networks of SAM's kind share beside its decoder: the neck, and how pictures are shown to them."""

from __future__ import annotations

from typing import Any

from torch import nn

from qtools.architectures._prompted import MASKS, ChannelNorm
from qtools.architectures._settings import squashed

SIDE, WIDTH = 1024, 256
"""Of the picture in pixels, and of the embedding in channels."""


def neck(channels: int) -> nn.Sequential:
    """SAM's neck: a map of so many channels as an embedding."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 1, bias=False),
        ChannelNorm(WIDTH),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        ChannelNorm(WIDTH),
    )


def shown(side: int = SIDE) -> dict[str, Any]:
    """timm's configuration of a promptable network that sees whole pictures as squares."""
    return squashed((side, side), num_classes=MASKS, classifier="")
