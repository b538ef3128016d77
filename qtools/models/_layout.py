"""Fits a state dict to an architecture: which layout it is in, and what is wrong where it fits none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from qtools.core.errors import InputError
from qtools.models import _metadata, _timm
from qtools.models._catalogue import cards, family_of, resolve
from qtools.models._checkpoint import Checkpoint
from qtools.models._spec import ModelCard, ModelSpec

_SHOWN = 3
_ALIKE = 0.95
"""Share of a file's tensors that must have another model's names and shapes before we say it looks like that model."""
_ABOUT = 0.2
"""Share by which the number of weights may differ from another family's card: BatchNorm statistics, another head."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where names or shapes of a state dict and of a module differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many tensors are concerned; 0 means that the file fits."""
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        parts = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.reshaped))
        return "; ".join(f"{len(names)} {word} ({_first(names)})" for word, names in parts if names)


def fit(spec: ModelSpec, checkpoint: Checkpoint) -> tuple[nn.Module, ModelSpec, bool, tuple[str, ...]]:
    """Builds the spec's architecture as the file wants it and fills it, strictly and in float32.

    Args:
        spec: The model asked for.
        checkpoint: The file's tensors and words.

    Returns:
        The module in eval mode, the spec with the file's classes, input and arguments, whether the file was stored
        fused, and notes.

    Raises:
        InputError: If the file is of another model, or fits neither the training-time nor the fused layout.
    """
    where = checkpoint.path.name
    said = checkpoint.metadata.get("model", spec.architecture)
    if resolved_architecture(said) != spec.architecture:
        raise InputError(f"{where} says it is {said}, you asked for {spec.name}", f"ask for {said} instead")
    family = family_of(spec)
    meant = None if family.instead is None else family.instead(spec.architecture, checkpoint.state)
    if meant is not None and _timm.exists(meant):
        raise InputError(f"{where} is of {meant}, you asked for {spec.name}", f"ask for {meant} instead")
    state = family.translate(checkpoint.state)
    spec, notes = _as_the_file_says(spec, state, checkpoint)
    module = _timm.create(spec)
    difference = compare(state, module)
    fused = False
    if difference.count:
        folded = reparameterize_model(module)  # timm's own inference layout: the names a fused file was saved under
        other = compare(state, folded)
        if other.count < difference.count:
            module, difference, fused = folded, other, True
    if difference.count:
        raise InputError(f"{where} does not fit {spec.name}: {difference}", _likely_cause(spec, state, difference))
    complete = {name: state.get(name, value) for name, value in module.state_dict().items()}
    module.load_state_dict(complete, strict=True)
    return module.float().eval(), spec, fused, notes


def compare(state: Mapping[str, Tensor], module: nn.Module) -> Difference:
    """Names and shapes of a state dict against a module. Batch counters may be absent: nothing reads them."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return Difference(
        missing=tuple(n for n in wanted if n not in state and not n.endswith("num_batches_tracked")),
        unexpected=tuple(n for n in state if n not in wanted),
        reshaped=tuple(
            f"{n} {tuple(state[n].shape)} for {shape}"
            for n, shape in wanted.items()
            if n in state and tuple(state[n].shape) != shape
        ),
    )


def resolved_architecture(name: str) -> str:
    """timm's name of what a file's metadata calls its model; the word itself where qtools does not know it."""
    try:
        return resolve(name).architecture
    except InputError:
        return name


def _as_the_file_says(
    spec: ModelSpec, state: Mapping[str, Tensor], checkpoint: Checkpoint
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec with the file's constructor arguments, classes and input size."""
    where, metadata = checkpoint.path.name, checkpoint.metadata
    settings = _timm.config(spec.architecture)
    heads = settings.get("classifier") or ()
    counted = family_of(spec).classes
    paths = () if counted else (heads,) if isinstance(heads, str) else heads
    classes = _metadata.classes(state, metadata, paths, where) or (counted(dict(state)) if counted else None)
    picture, notes = _metadata.input_spec(spec.input, metadata, where)
    arguments = {**spec.arguments, **family_of(spec).arguments(dict(state)), **_metadata.arguments(metadata, where)}
    if settings.get("fixed_input_size"):
        side = None if "input" in metadata else _metadata.square_size(state)
        if side is not None and (side, side) != picture.size:
            picture = dataclasses.replace(picture, size=(side, side))
            notes += (f"input {side}x{side} from the shape of the position table",)
        if picture.size != spec.input.size:
            arguments.setdefault("img_size", picture.size)
    if arguments:
        notes += (f"constructor arguments from the file: {arguments}",)
    if classes is not None and classes != spec.classes:
        notes += (f"{classes} classes from the file",)
    return dataclasses.replace(spec, classes=classes or spec.classes, input=picture, arguments=arguments), notes


def _likely_cause(spec: ModelSpec, state: Mapping[str, Tensor], difference: Difference) -> str:
    """A sentence on what went wrong, and the next step."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    for card in _candidates(spec, state):
        if card.architecture != spec.architecture and _looks_like(resolve(card.name), shapes):
            return f"this looks like {card.name}, you asked for {spec.name}: ask for {card.name}"
    if any(name.endswith(("lora_A.weight", "scale", "zero_point")) for name in difference.unexpected):
        return "these are not plain float weights: give the float checkpoint"
    if not set(shapes) & set(_timm.create(spec, device="meta").state_dict()):
        return "no parameter name is known: this is another architecture, or another repository's layout of it"
    return "check the model name, and that the file holds the whole network"


def _candidates(spec: ModelSpec, state: Mapping[str, Tensor]) -> list[ModelCard]:
    """Cards worth building: those of the same family, and others of about as many weights."""
    own = {card.name for card in family_of(spec).cards}
    weights = sum(tensor.numel() for tensor in state.values()) / 1e6
    return [c for c in cards() if c.name in own or abs(weights - c.params_millions) <= _ABOUT * c.params_millions]


def _looks_like(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    module = _timm.create(spec, device="meta")
    with torch.device("meta"):  # the layers that folding makes hold no numbers either
        folded = reparameterize_model(module)
    for candidate in (module, folded):
        wanted = {name: tuple(value.shape) for name, value in candidate.state_dict().items()}
        same = sum(wanted.get(name) == shape for name, shape in shapes.items())
        counters = sum(name.endswith("num_batches_tracked") for name in wanted)
        if same >= _ALIKE * len(shapes) and len(shapes) >= _ALIKE * (len(wanted) - counters):
            return True
    return False


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
