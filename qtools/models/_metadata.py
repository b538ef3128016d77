"""What a checkpoint says about itself, in its header and in its shapes.

Words of a safetensors header that are understood, all optional: `model` (timm's name), `num_classes`, `input`
("3x64x64 RGB"), `mean` and `std` ("0.485,0.456,0.406"), `interpolation`, `crop_pct`, `resize` ("bilinear 32->64"),
`kwargs` (JSON object of constructor arguments), `licence`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from qtools.core.errors import InputError
from qtools.core.types import InputSpec

_SIZE = re.compile(r"\s*(?:3\s*[x,]\s*)?([0-9]{1,6})(?:\s*[x,]\s*([0-9]{1,6}))?(?:\s+RGB)?\s*")
_NUMBER = re.compile(r"[0-9]{1,6}")
LONGEST = 4096
"""Characters of `kwargs`."""
MAX_ITEMS, MAX_NUMBER = 64, 4096
"""Constructor arguments beyond these build a network that fills memory before any shape is compared."""
MAX_SIDE = 8192
"""Pixels."""
_SHOWN = 80
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def arguments(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Constructor arguments from the header.

    Raises:
        InputError: If `kwargs` is not a JSON object, or asks for a network of absurd size.
    """
    text = metadata.get("kwargs") or "{}"
    try:
        found = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, "kwargs", text) from error
    if not isinstance(found, dict) or not _harmless(found):
        raise _unreadable(where, "kwargs", text)
    return found


def _harmless(value: Any) -> bool:
    """Whether constructor arguments are of a size that a network for a phone can have."""
    if isinstance(value, dict):
        return all(map(_harmless, value.values()))
    if isinstance(value, list):
        return len(value) <= MAX_ITEMS and all(map(_harmless, value))
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= MAX_NUMBER
    return True


def classes(state: Mapping[str, Tensor], metadata: Mapping[str, str], heads: Iterable[str], where: str) -> int | None:
    """Number of classes: rows of the classifier's weight, else the header's word, else None.

    Args:
        state: Parameters in timm's layout, fused or not.
        metadata: The header.
        heads: timm's paths of the classifier layers; in a fused file a parent of such a path is the layer.
        where: File name for messages.

    Raises:
        InputError: If shapes and header disagree.
    """
    said = metadata.get("num_classes")
    if said is not None and not _NUMBER.fullmatch(said.strip()):
        raise _unreadable(where, "num_classes", said)
    for head in heads:
        parts = head.split(".")
        for depth in range(len(parts), 0, -1):
            weight = state.get(".".join(parts[:depth]) + ".weight")
            if weight is not None and weight.ndim >= 2:
                rows = int(weight.shape[0])
                if said is not None and int(said) != rows:
                    raise InputError(
                        f"{where} says {said} classes but its classifier has {rows} rows", "the file contradicts itself"
                    )
                return rows
    return int(said) if said is not None else None


def input_spec(default: InputSpec, metadata: Mapping[str, str], where: str) -> tuple[InputSpec, tuple[str, ...]]:
    """Preprocessing of the checkpoint: the model's own, changed by what the header says.

    A network trained at a smaller size than its published one saw whole, enlarged pictures rather than centre crops, so
    the crop goes with the published size unless the header gives one.

    Returns:
        The preprocessing, and a note for each deviation.

    Raises:
        InputError: If a word cannot be read.
    """
    changes: dict[str, Any] = {}
    if "input" in metadata:
        found = _SIZE.fullmatch(metadata["input"])
        if found is not None and max(int(found[1]), int(found[2] or 0)) > MAX_SIDE:
            found = None
        if found is None:
            raise _unreadable(where, "input", metadata["input"])
        height = int(found[1])
        changes["size"] = (height, int(found[2] or height))
        if max(changes["size"]) < min(default.size):
            changes["crop_pct"] = 1.0
    for word in ("mean", "std"):
        if word in metadata:
            changes[word] = _three(metadata[word], word, where)
    if "crop_pct" in metadata:
        changes["crop_pct"] = _share(metadata["crop_pct"], where)
    interpolation = metadata.get("interpolation") or metadata.get("resize", "").partition(" ")[0]
    if interpolation in _INTERPOLATIONS:
        changes["interpolation"] = interpolation
    elif "interpolation" in metadata:
        raise _unreadable(where, "interpolation", interpolation)
    spec = dataclasses.replace(default, **changes)
    if spec == default:
        return default, ()
    size = "x".join(map(str, spec.size))
    how = f"input {size}, {spec.interpolation}, crop {spec.crop_pct:g}"
    return spec, (f"preprocessing from the file's metadata: {how}",)


def square_size(state: Mapping[str, Tensor]) -> int | None:
    """Input side in pixels of a ViT whose position table has one row per patch, read off its shapes; None elsewhere."""
    table, patch = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if table is None or patch is None or table.ndim != 3 or patch.ndim != 4:
        return None
    rows = int(table.shape[1])
    registers = state.get("reg_token")
    extra = ("cls_token" in state) + (int(registers.shape[1]) if registers is not None else 0)
    side = next((isqrt(n) for n in (rows - extra, rows) if n > 0 and isqrt(n) ** 2 == n), None)
    return None if side is None else side * int(patch.shape[-1])


def _three(text: str, word: str, where: str) -> tuple[float, float, float]:
    try:
        first, second, third = (float(part) for part in text.strip("[]() ").split(","))
    except ValueError as error:
        raise _unreadable(where, word, text) from error
    if not all(map(math.isfinite, (first, second, third))) or (word == "std" and not (first and second and third)):
        raise _unreadable(where, word, text)
    return first, second, third


def _share(text: str, where: str) -> float:
    try:
        share = float(text)
    except ValueError as error:
        raise _unreadable(where, "crop_pct", text) from error
    if not 0 < share <= 1:
        raise _unreadable(where, "crop_pct", text)
    return share


def _unreadable(where: str, word: str, text: str) -> InputError:
    return InputError(
        f"{where}: the metadata says {word} = {text[:_SHOWN]!r}, which cannot be read",
        "write the file again with metadata such as input = '3x224x224 RGB', kwargs = '{}'",
    )
