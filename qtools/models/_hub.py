"""Published weights: from the cache, or from the hub if it answers in time."""

from __future__ import annotations

import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn

from qtools.core.errors import InputError, MissingPlatform
from qtools.models import _timm
from qtools.models._spec import ModelSpec

PROBE_SECONDS = 5.0
OR_REFERENCE = " or --weights reference"
"""End of what to do without a hub, for models of which a reference checkpoint ships."""
_FILES = ("model.safetensors", "pytorch_model.bin")  # the names under which timm publishes


def load_pretrained(spec: ModelSpec, probe: Callable[[str], str] | None = None) -> nn.Module:
    """The spec's architecture with the first of its published weights, through timm, in eval mode.

    Args:
        spec: A model with published weights.
        probe: Replaces the question whether a URL answers; returns "" or why not.

    Raises:
        MissingPlatform: If there are no published weights, or they are neither cached nor reachable.
    """
    if not spec.pretrained:
        raise MissingPlatform(f"{spec.name} has no published weights", "give --weights PATH")
    tag = spec.pretrained[0].tag
    name = f"{spec.architecture}.{tag}" if tag else spec.architecture
    settings = _timm.config(spec.architecture, tag)
    if not any(settings.get(key) for key in ("url", "file", "hf_hub_id")):
        page = spec.pretrained[0].source
        what = f"are on a page of their authors, {page}, and not fetched" if page else "are not published"
        raise MissingPlatform(
            f"the weights of {spec.name} {what}",
            "download them there and give --weights PATH" if page else "give your own with --weights PATH",
        )
    file, url = _locations(settings)
    if file is not None:
        try:
            return _checked(timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}))
        except (RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
            raise InputError(f"cached weights {file.name} of {name} are damaged", f"delete {file} and retry") from error
    reason = "offline mode is set (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else (probe or unreachable)(url)
    if reason:
        raise _no_hub(name, reason)
    try:
        return _checked(timm.create_model(name, pretrained=True))
    except (OSError, HfHubHTTPError) as error:  # it answered the probe and failed on the way
        raise _no_hub(name, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def unreachable(url: str, seconds: float = PROBE_SECONDS) -> str:
    """Why `url` does not answer a HEAD request within `seconds`, all in all; "" where it does.

    The question runs in a thread of its own, because a stalled name lookup or proxy ignores socket timeouts.
    """
    answers: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "qtools"})  # noqa: S310 timm's URL
            with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310 likewise  # nosec B310
                answers.put("")
        except urllib.error.HTTPError as error:
            # 404 is an answer: the weights may have another file name there, which timm finds out
            answers.put("" if error.code == 404 else f"it answered {error.code} {error.reason}")
        except urllib.error.URLError as error:
            answers.put(f"no connection ({error.reason})")
        except (OSError, ValueError) as error:
            answers.put(f"no connection ({error})")

    threading.Thread(target=ask, daemon=True, name="hub probe").start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return f"no answer within {seconds:g} s"


def _locations(settings: dict[str, object]) -> tuple[Path | None, str]:
    """The cached file of a timm configuration, or None, and the URL to ask otherwise."""
    repository, url = str(settings.get("hf_hub_id") or ""), str(settings.get("url") or "")
    if not repository:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        return (cached if url and cached.is_file() else None), url
    override = settings.get("hf_hub_filename")
    names = (str(override),) if override else _FILES
    repository, _, revision = repository.partition("@")
    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision or None, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(found, str):
            return Path(found), ""
    return None, hf_hub_url(repository, names[0], revision=revision or None, endpoint=constants.ENDPOINT)


def _checked(module: nn.Module) -> nn.Module:
    return module.float().eval()


def _no_hub(name: str, reason: str) -> MissingPlatform:
    return MissingPlatform(
        f"pretrained weights {name} are not cached and the hub cannot be used: {reason}",
        f"connect to the network, or give --weights PATH{OR_REFERENCE}",
    )
