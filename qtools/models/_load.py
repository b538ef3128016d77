"""A model's name and a word for its weights become a module in eval mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from qtools.core.errors import InputError, MissingPlatform, did_you_mean
from qtools.models import _checkpoint, _hub, _layout
from qtools.models._catalogue import family_of, resolve
from qtools.models._spec import Loaded, ModelSpec, WeightsInfo

Reference = Callable[[str], Path | None]
_WORDS = ("auto", "imagenet", "reference")
_REFERENCE_NOTE = "reference weights: trained on rendered images, not on ImageNet"


def load(model: str | ModelSpec, weights: str | Path = "auto", reference: Reference | None = None) -> Loaded:
    """Builds a model and loads its weights.

    Args:
        model: A name for `resolve`, or its result.
        weights: "auto" (published weights; the reference checkpoint where the hub does not answer, said in the notes),
            "imagenet" (published weights or an error), "reference" (the reference checkpoint or an error), or a file.
        reference: Gives the path of the reference checkpoint of a model's name, or None where there is none.

    Raises:
        InputError: Unknown name, unusable file, or a file that does not fit.
        MissingPlatform: Weights that can be had neither from the network nor from the cache, nor from a reference
            checkpoint where one is allowed.
    """
    spec = resolve(model) if isinstance(model, str) else model
    if weights == "imagenet":
        return _published(spec)
    if weights == "reference":
        path = reference(spec.name) if reference else None
        if path is None:
            raise InputError(f"there is no reference checkpoint of {spec.name}", "give --weights PATH or imagenet")
        return _from_file(spec, path, is_reference=True)
    if weights == "auto":
        return _automatic(spec, reference)
    path = Path(weights)
    if not path.exists() and path.suffix.lower() not in _checkpoint.EXTENSIONS:
        raise InputError(
            f"--weights {weights} is neither a file nor one of: {', '.join(_WORDS)}."
            f"{did_you_mean(str(weights), _WORDS)}",
            "give the path of a .safetensors, .pth or .pt file",
        )
    return _from_file(spec, path, is_reference=False)


def _automatic(spec: ModelSpec, reference: Reference | None) -> Loaded:
    """Published weights, or the reference checkpoint with the reason why."""
    try:
        return _published(spec)
    except MissingPlatform as error:
        path = reference(spec.name) if reference else None
        if path is None:
            raise MissingPlatform(
                f"{error.what}; there is no reference checkpoint of {spec.name} to fall back to",
                error.next_step.removesuffix(_hub.OR_REFERENCE),
            ) from error
        loaded = _from_file(spec, path, is_reference=True)
        notes = (f"{error.what}: the reference checkpoint is used instead", *loaded.weights.notes)
        return dataclasses.replace(loaded, weights=dataclasses.replace(loaded.weights, notes=notes))


def _published(spec: ModelSpec) -> Loaded:
    module = _hub.load_pretrained(spec)
    state = module.state_dict()
    tag = spec.pretrained[0]
    _checkpoint.check_finite(state, tag.source)
    info = WeightsInfo("imagenet", tag.source, _checkpoint.digest_state(state), tag.licence or "unknown")
    return Loaded(module, spec, info)


def _from_file(spec: ModelSpec, path: Path, *, is_reference: bool) -> Loaded:
    checkpoint = _checkpoint.read(path)
    module, spec, fused, notes = _layout.fit(spec, checkpoint)
    licence = checkpoint.metadata.get("licence") or checkpoint.metadata.get("license") or "unknown"
    said = tuple(note for note in (_REFERENCE_NOTE if is_reference else "", family_of(spec).note) if note)
    info = WeightsInfo(
        kind="reference" if is_reference else "file",
        source=path.name,  # no folder: reports and artifacts are the same wherever the file lies
        sha256=checkpoint.sha256,
        licence="Apache-2.0" if is_reference and licence == "unknown" else licence,
        notes=(*said, *checkpoint.notes, *notes),
    )
    return Loaded(module, spec, info, fused)
