"""Opens a weights file without running any code in it."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qtools.core.errors import InputError
from qtools.core.files import digest_file

EXTENSIONS = (".safetensors", ".pth", ".pt", ".tar")  # .pth.tar, as many training scripts call it
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_PARSER_ERRORS = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What torch's unpickler raises on bytes that are no pickle, besides UnpicklingError."""


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors and words.

    Attributes:
        path: The file.
        state: Parameter name -> tensor, wrappers and prefixes removed, every value finite.
        metadata: The header of a safetensors file; empty for pickles.
        sha256: Of the file.
        notes: What was taken off on the way in.
    """

    path: Path
    state: dict[str, Tensor]
    metadata: Mapping[str, str]
    sha256: str
    notes: tuple[str, ...] = ()


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint in .safetensors or, with `weights_only`, in .pth or .pt.

    Raises:
        InputError: If the file is missing, truncated, of another kind, wants to run code, holds no state dict, or has
            a value that is not finite (named).
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"weights file {path} {what}", "give --weights a .safetensors, .pth or .pt file")
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(
            f"weights file {path.name} has the extension '{path.suffix}'", f"give one of: {', '.join(EXTENSIONS)}"
        )
    if path.suffix.lower() == ".safetensors":
        state, metadata = _read_safetensors(path)
        notes: tuple[str, ...] = ()
    else:
        metadata = {}
        state, notes = _unwrapped(_read_pickle(path), path)
    state, more = _without_prefix(state)
    if not state:
        raise InputError(f"{path.name} holds no tensor", "give the file that the training saved")
    check_finite(state, path.name)
    return Checkpoint(path, state, metadata, digest_file(path), (*notes, *more))


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raises InputError that names the first tensor with NaN or infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{where}: {name} has {bad} of {tensor.numel()} values that are NaN or infinite",
                "the training diverged or the file is damaged: take an earlier checkpoint",
            )


def digest_state(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of all tensors, whatever file they were in."""
    digest = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip and not zipfile.is_zipfile(path):  # the index of a zip is at its end
        raise _damaged(path, "the end of the archive is missing")
    try:
        # Training scripts save their command line too; a Namespace is a bag of values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error) or not any(word in str(error) for word in ("GLOBAL", "global", "REDUCE")):
            raise _damaged(path, str(error).splitlines()[0]) from error
        raise InputError(
            f"{path.name} is a pickle that wants to run code, which qtools never lets it",
            "save only the tensors: torch.save(model.state_dict(), path), or safetensors",
        ) from error
    except _PARSER_ERRORS as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path.name} is truncated or damaged: {why}", "copy or download it again and compare its size")


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict inside a training script's wrapping; averaged weights before the last ones, as timm takes them."""
    notes: list[str] = []
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        key = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
        notes.append(f"weights taken from the entry '{key}' of the file")
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path.name} holds a {type(content).__name__}, not a state dict", "save model.state_dict() instead"
        )
    strange = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        kind = type(content[strange]).__name__
        raise InputError(
            f"{path.name}: the entry '{strange}' is a {kind}, not a tensor",
            f"save model.state_dict() alone, or under one of: {', '.join(_WRAPPERS)}",
        )
    return {str(key): value for key, value in content.items()}, tuple(notes)


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    notes: list[str] = []
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), ""):
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
        notes.append(f"prefix '{prefix}' removed from every parameter name")
    return state, tuple(notes)
