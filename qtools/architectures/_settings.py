"""What the networks of this folder tell timm about themselves, and how they join its registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model
from torch import nn


def settings(**changes: Any) -> dict[str, Any]:
    """A timm configuration: ImageNet at 224 pixels, cropped from 256, bicubic, unless told otherwise.

    No address of weights is in it: timm would download and open them, and none has been seen to fit.
    """
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head",
        **changes,
    }


def squashed(size: tuple[int, int], **changes: Any) -> dict[str, Any]:
    """`settings` of a network that sees whole pictures, brought to one (height, width) whatever their form.

    Where authors keep a picture's form, sizes differ from picture to picture; an artifact has one.
    """
    whole = {"input_size": (3, *size), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    return settings(**{**whole, **changes})


def enter(network: type[nn.Module], sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Registers a network's sizes with timm. Its module has their configurations as `default_cfgs` by then.

    Args:
        network: The class.
        sizes: Name of each size -> constructor arguments, which those of `timm.create_model` override.
    """
    for name, arguments in sizes.items():
        register_model(_entrypoint(network, name, arguments))


def _entrypoint(network: type[nn.Module], name: str, arguments: Mapping[str, Any]) -> Any:
    def build(pretrained: bool = False, **given: Any) -> nn.Module:
        return build_model_with_cfg(network, name, pretrained, kwargs_filter=("in_chans",), **{**arguments, **given})

    build.__name__, build.__module__ = name, network.__module__  # what timm registers it under
    return build
