"""What a model is, before and after its weights are there. No framework import at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from qtools.core.boxes import Decoding
from qtools.core.clips import Clip
from qtools.core.exits import Exits
from qtools.core.types import InputSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    State = dict[str, Tensor]


@dataclass(frozen=True)
class PretrainedTag:
    """One set of published weights.

    Attributes:
        tag: timm's word for it, such as "dist_450e_in1k".
        top1: Published ImageNet top-1 in percent; None where nobody told us.
        licence: Licence of the weights, "" where unknown.
        source: Where they come from, for people.
    """

    tag: str
    top1: float | None
    licence: str
    source: str


@dataclass(frozen=True)
class ModelCard:
    """What a family file says about one model, readable without torch.

    Attributes:
        name: Name in qtools, tables and file names.
        aliases: Other names that mean it, the name itself included.
        architecture: timm's name.
        params_millions: Number of weights as timm counts them after re-parameterization: training branches folded away.
        macs_billions: Multiply-accumulates of that network at the default input size.
        pretrained: Published weights, the default first.
    """

    name: str
    aliases: tuple[str, ...]
    architecture: str
    params_millions: float
    macs_billions: float
    pretrained: tuple[PretrainedTag, ...]


def hub_card(
    name: str,
    params: float,
    macs: float,
    licence: str,
    top1: Mapping[str, float | None],
    aliases: tuple[str, ...] = (),
) -> ModelCard:
    """The card of a model whose weights timm publishes under its own name.

    Args:
        name: timm's name, and ours.
        params: Millions of weights (see ModelCard).
        macs: Billions of multiply-accumulates.
        licence: Licence of the weights.
        top1: Tag -> published ImageNet top-1 in percent, the default tag first.
        aliases: Other names than the name itself.
    """
    tags = tuple(PretrainedTag(tag, known, licence, f"hub: timm/{name}.{tag}") for tag, known in top1.items())
    return ModelCard(name, (*aliases, name), name, params, macs, tags)


def own_card(
    name: str,
    params: float,
    macs: float,
    top1: float | None,
    weights: tuple[str, str],
    aliases: tuple[str, ...] = (),
) -> ModelCard:
    """The card of a network of `qtools.architectures`, whose weights its authors publish on a page of their own.

    Args:
        name: Name in timm's registry, and ours.
        params: Millions of weights (see ModelCard).
        macs: Billions of multiply-accumulates.
        top1: Published ImageNet top-1 in percent.
        weights: Their licence and the page they are on; both "" where none are published.
        aliases: Other names than the name itself.
    """
    licence, page = weights
    published = (PretrainedTag("in1k", top1, licence, page),) if page or top1 is not None else ()
    return ModelCard(name, (*aliases, name), name, params, macs, published)


Level = Literal["verified", "converted", "listed"]
"""verified: qtools' tests cover fusion and graph. converted: the conformance matrix saw the smallest member through all
targets at 8 bits. listed: only the facts on the cards are checked."""


def _unchanged(state: State) -> State:
    return state


def _no_arguments(state: State) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """What a file in qtools/models exposes as FAMILY. Its name is timm's module of the same name.

    Attributes:
        name: Name of the family.
        cards: The models that qtools knows by name.
        translate: Brings a state dict in any of the family's foreign layouts into timm's; returns timm's unchanged.
        instead: (architecture, state dict in the file's own layout) -> the architecture that such a file is of, where
            it is another one of the same names and shapes.
        arguments: Constructor arguments that a state dict (in timm's layout) implies, such as a missing second head.
        level: How far qtools answers for them.
        paper: Address of the paper.
        task: What the networks are for: a file in qtools/pipeline/tasks.
        classes: A state dict (in timm's layout) -> its number of classes, where these are not the classifier's rows.
        decoding: (architecture, (height, width)) -> how boxes are made of the answers; None where the task has none.
        clip: (model) -> which frames of a video it takes; None where it takes pictures.
        exits: (model) -> where it may answer early; None where it has one answer.
        note: What is to be said wherever a member is loaded: whose parameter names are read, what nobody has verified.
    """

    name: str
    cards: tuple[ModelCard, ...]
    translate: Callable[[State], State] = _unchanged
    instead: Callable[[str, State], str | None] | None = None
    arguments: Callable[[State], dict[str, Any]] = _no_arguments
    level: Level = "listed"
    paper: str = ""
    note: str = ""
    task: str = "classification"
    classes: Callable[[State], int | None] | None = None
    decoding: Callable[[str, tuple[int, int]], Decoding] | None = None
    exits: Callable[[ModelSpec], Exits] | None = None
    clip: Callable[[ModelSpec], Clip] | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be built.

    Attributes:
        name: Name in qtools.
        aliases: Other names that mean it.
        family: Family, timm's module name; "own" for a user's module.
        input: Preprocessing, from the model's own configuration or from a checkpoint's metadata.
        classes: Number of logits; of each pixel, where the task has some for each.
        verified: Whether qtools' tests cover this model; unverified ones are marked wherever they show.
        architecture: timm's name; "" for a user's module.
        task: What it is for: a file in qtools/pipeline/tasks.
        arguments: Constructor arguments besides the number of classes.
        pretrained: Published weights; the first one is what `auto` and `imagenet` take.
        params_millions: Number of weights, training branches folded away, where known.
        macs_billions: Multiply-accumulates, where known.
        decoding: How boxes are made of a user's module's answers; a family's are told by `Family.decoding`.
        exits: Where a user's module may answer early; a family's are told by `Family.exits`.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    input: InputSpec
    classes: int
    verified: bool
    architecture: str
    task: str = "classification"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: tuple[PretrainedTag, ...] = ()
    params_millions: float | None = None
    macs_billions: float | None = None
    decoding: Decoding | None = None
    exits: Exits | None = None


WeightsKind = Literal["imagenet", "reference", "file", "builder"]


@dataclass(frozen=True)
class WeightsInfo:
    """Where the weights of a loaded model came from.

    Attributes:
        kind: The word that every name, table and metadata field uses.
        source: Hub identifier, file name or builder.
        sha256: Of the file for "reference" and "file"; of names and values of all tensors for "imagenet" and "builder".
        licence: Licence of the weights, "unknown" where nothing says.
        notes: What a reader must be told: fallbacks, assumptions, values taken from the file.
    """

    kind: WeightsKind
    source: str
    sha256: str
    licence: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A float32 module in eval mode and what is known about it.

    Attributes:
        module: Maps float32 images, shape (n, 3, height, width), to what its task answers: logits, shape (n, classes).
        spec: The spec with what the checkpoint said: classes, input, constructor arguments.
        weights: Where the weights came from.
        fused: Whether the checkpoint was stored with its training branches folded already.
    """

    module: nn.Module
    spec: ModelSpec
    weights: WeightsInfo
    fused: bool = False
