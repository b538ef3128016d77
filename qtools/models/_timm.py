"""timm's registry: configurations, preprocessing and construction."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, list_pretrained, model_entrypoint
from torch import nn

from qtools import architectures
from qtools.core.bounds import memory_bounded
from qtools.core.errors import InputError, did_you_mean
from qtools.core.types import InputSpec
from qtools.models._spec import Family, ModelCard, ModelSpec, PretrainedTag

architectures.register()

REFUSED_ARGUMENTS = frozenset(
    {
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes"),
        *("features_only", "scriptable", "exportable", "no_jit"),
    }
)
"""Arguments of timm.create_model that make it fetch, open or return something else; no file may set them."""
MOST_BYTES = 4 << 30
"""Memory for a network whose constructor gets arguments from a file."""


def exists(name: str) -> bool:
    """Whether timm has an architecture of that name (without a tag)."""
    return bool(timm.is_model(name))


def all_names() -> list[str]:
    """Every architecture of timm."""
    return list(timm.list_models())


def config(architecture: str, tag: str = "") -> dict[str, Any]:
    """timm's configuration of an architecture and tag, or of its default tag.

    Raises:
        InputError: If there is no such tag; lists those there are.
    """
    name = f"{architecture}.{tag}" if tag else architecture
    try:
        found = get_pretrained_cfg(name)
    except RuntimeError as error:
        known = [full.partition(".")[2] for full in list_pretrained(f"{architecture}.*")]
        raise InputError(
            f"{architecture} has no published weights '{tag}'.{did_you_mean(tag, known)}",
            f"choose one of: {', '.join(known) or 'none, give --weights PATH'}",
        ) from error
    return dict(found.to_dict()) if found is not None else {}


def input_spec(settings: Mapping[str, Any]) -> InputSpec:
    """Preprocessing as timm resolves it from a model's configuration."""
    data = resolve_data_config(pretrained_cfg=dict(settings))
    _, height, width = data["input_size"]
    mean, std = (tuple(float(v) for v in data[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise InputError(f"the model wants {len(mean)} colour channels", "only RGB classifiers are supported")
    crop_pct, crop_mode = float(data["crop_pct"]), str(data["crop_mode"])
    return InputSpec((int(height), int(width)), mean, std, str(data["interpolation"]), crop_pct, crop_mode)


def listed_spec(card: ModelCard, family: Family, tag: str) -> ModelSpec:
    """The spec of a model that a family file describes, `tag` first among its published weights."""
    settings = config(card.architecture, tag or next((known.tag for known in card.pretrained), ""))
    tags = sorted(card.pretrained, key=lambda p: p.tag != tag) if tag else card.pretrained
    return ModelSpec(
        name=card.name,
        aliases=card.aliases,
        family=family.name,
        input=input_spec(settings),
        classes=int(settings["num_classes"]),
        verified=family.level == "verified",
        architecture=card.architecture,
        task=family.task,
        pretrained=tuple(tags),
        params_millions=card.params_millions,
        macs_billions=card.macs_billions,
    )


def unlisted_spec(architecture: str, tag: str) -> ModelSpec:
    """The spec of any other timm classifier.

    Raises:
        InputError: If timm's model is no classifier.
    """
    settings = config(architecture, tag)
    classes = int(settings.get("num_classes") or 0)
    if classes <= 0:
        raise InputError(f"{architecture} is no classifier: timm gives it {classes} classes", "choose another model")
    published: tuple[PretrainedTag, ...] = ()
    if any(settings.get(key) for key in ("url", "file", "hf_hub_id")):
        source = f"hub: {settings['hf_hub_id']}" if settings.get("hf_hub_id") else str(settings.get("url"))
        published = (PretrainedTag(str(settings.get("tag") or ""), None, str(settings.get("license") or ""), source),)
    return ModelSpec(
        name=architecture,
        aliases=(),
        family=model_entrypoint(architecture).__module__.rpartition(".")[2],
        input=input_spec(settings),
        classes=classes,
        verified=False,
        architecture=architecture,
        pretrained=published,
    )


def create(spec: ModelSpec, *, device: str = "cpu") -> nn.Module:
    """A freshly initialised module of the spec in eval mode.

    Args:
        spec: What to build; its classes and arguments are passed on.
        device: "meta" for names and shapes without memory.

    Raises:
        InputError: If the constructor refuses the arguments.
    """
    refused = sorted(REFUSED_ARGUMENTS & set(spec.arguments))
    if refused:
        raise InputError(f"constructor argument '{refused[0]}' may not be set", "remove it from the file's metadata")
    try:
        # arguments may come from a file: they may not ask for more than any network for a phone has
        bound = memory_bounded(MOST_BYTES) if spec.arguments else nullcontext()
        with torch.device(device), bound:
            module = timm.create_model(
                spec.architecture, pretrained=False, num_classes=spec.classes, **dict(spec.arguments)
            )
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise InputError(
            f"timm cannot build {spec.architecture} with {dict(spec.arguments)}: {error}",
            "check the constructor arguments in the file's metadata",
        ) from error
    assert isinstance(module, nn.Module)
    return module.eval()
