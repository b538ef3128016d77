"""The embedded default: a procedural labelled image set and small checkpoints trained on it.

Importing this package loads neither torch nor numpy; the image names arrive on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtools.reference.images import CLASSES, RENDER_VERSION, ReferenceImages, render, write_folder

__all__ = ["CLASSES", "RENDER_VERSION", "ReferenceImages", "checkpoint", "render", "write_folder"]

_WEIGHTS = Path(__file__).parent / "weights"


def checkpoint(name: str) -> Path | None:
    """Path of the shipped checkpoint of a timm model, or None where none is shipped.

    The facts about it (image size, mean, std, measured top-1, digest) lie beside it in ``<name>.json``.
    """
    path = _WEIGHTS / f"{name}.safetensors"
    return path if path.is_file() and path.with_suffix(".json").is_file() else None


def __getattr__(name: str) -> Any:
    if name in __all__:
        from qtools.reference import images

        return getattr(images, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
