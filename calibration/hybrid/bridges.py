"""Bridges: where the feature maps of a hybrid become tokens for attention, found in the graph and not listed by name.

Q-HyViT (arXiv 2303.12557, section III and Table I) names these blocks as the ones that post-training quantization
breaks first, and lists them by hand for each model. Here a *crossing* is a reshape that takes a feature map apart
in space and whose result reaches an attention without passing a spatial convolution. Crossings that leave from trunk
values of one spatial size belong to one bridge: a stage of the network enters attention once, however many blocks
repeat it. That gives the paper's counts: MobileViT 3, MobileViTv2 3, EfficientFormer 1, EfficientFormerV2 2, and none
for a convolutional network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qtools.core.types import WEIGHTED, GraphView, Op, OpKind

CONVOLUTIONS = (OpKind.CONV, OpKind.DEPTHWISE_CONV)
FIRST, LAST = slice(2, 4), slice(1, 3)
"""Height and width in the shape of a feature map with its channels first, and last."""


@dataclass(frozen=True)
class Bridge:
    """One way from feature maps into attention.

    Attributes:
        size: (height, width) of the trunk it leaves from.
        crossings: Ids of the reshapes that take the maps apart, in execution order.
        makers: Ids of the convolutions and linear operations whose results cross, in execution order.
        attentions: Ids of the attention operations that the crossings reach first, in execution order.
    """

    size: tuple[int, int]
    crossings: tuple[str, ...]
    makers: tuple[str, ...]
    attentions: tuple[str, ...]


def find(view: GraphView) -> tuple[Bridge, ...]:
    """Every bridge of a graph, in the order in which the network enters them."""
    order = {op.id: place for place, op in enumerate(view.ops)}
    maps = _maps(view)
    trunk = _trunk_sizes(view, maps)
    found: dict[tuple[int, int], list[tuple[str, frozenset[str], frozenset[str]]]] = {}
    for place, op in enumerate(view.ops):
        if _takes_a_map_apart(op, view, maps) and (attentions := _attentions_behind(op, view)):
            found.setdefault(trunk[place], []).append((op.id, _makers_before(op, view), attentions))
    return tuple(
        Bridge(
            size,
            tuple(name for name, _, _ in crossings),
            tuple(sorted({m for _, makers, _ in crossings for m in makers}, key=order.__getitem__)),
            tuple(sorted({a for _, _, reached in crossings for a in reached}, key=order.__getitem__)),
        )
        for size, crossings in found.items()
    )


def is_attention(op: Op, view: GraphView) -> bool:
    """Whether an operation weighs tokens by other tokens: softmax, a product of two activations, or the composite."""
    if op.kind is OpKind.MATMUL:
        return not any(view.values[name].const for name in op.inputs)
    return op.kind in (OpKind.SOFTMAX, OpKind.ATTENTION)


def _takes_a_map_apart(op: Op, view: GraphView, maps: Mapping[str, slice]) -> bool:
    """Whether a reshape's input is a feature map, and its output has no longer height and width where they were."""
    if op.kind is not OpKind.RESHAPE or op.inputs[0] not in maps:
        return False
    where = maps[op.inputs[0]]
    before, after = view.values[op.inputs[0]].shape, view.values[op.outputs[0]].shape
    if math.prod(before[where]) == 1:
        return False
    return after[where] != before[where] if where is LAST else after[-2:] != before[-2:]


def _maps(view: GraphView) -> dict[str, slice]:
    """Value ids of feature maps -> the slice of their shape that is height and width.

    The input is one, and what convolutions make; others keep what they read. A reshape ends it; a transpose may put the
    channels last.
    """
    found = {name: FIRST for name in view.inputs if len(view.values[name].shape) == 4}
    for op in view.ops:
        shape = view.values[op.outputs[0]].shape
        sources = [found[name] for name in op.inputs if name in found]
        if len(shape) != 4 or op.kind is OpKind.RESHAPE or is_attention(op, view):
            continue
        if op.kind in CONVOLUTIONS:
            found[op.outputs[0]] = FIRST
        elif sources and op.kind is OpKind.TRANSPOSE:
            before = view.values[op.inputs[0]].shape
            if sources[0] is FIRST and shape == (before[0], *before[2:], before[1]):
                found[op.outputs[0]] = LAST
            elif sources[0] is LAST and shape == (before[0], before[3], *before[1:3]):
                found[op.outputs[0]] = FIRST
        elif sources:
            found[op.outputs[0]] = sources[0]
    return found


def _attentions_behind(op: Op, view: GraphView) -> frozenset[str]:
    """The first attention operations on every way from an operation, spatial convolutions being the end of a way."""
    reached: set[str] = set()
    seen: set[str] = set()
    waiting = list(op.outputs)
    while waiting:
        name = waiting.pop()
        for reader in view.consumers[name]:
            if reader.id in seen or _is_spatial(reader, view):
                continue
            seen.add(reader.id)
            if is_attention(reader, view):
                reached.add(reader.id)
            else:
                waiting += reader.outputs
    return frozenset(reached)


def _makers_before(op: Op, view: GraphView) -> frozenset[str]:
    """The convolutions and linear operations whose results an operation reads, others in between."""
    found: set[str] = set()
    waiting = [op.inputs[0]]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        made = view.producer.get(name)
        if made is None or name in seen:
            continue
        seen.add(name)
        if made.kind in WEIGHTED:
            found.add(made.id)
        else:
            waiting += [source for source in made.inputs if not view.values[source].const]
    return frozenset(found)


def _is_spatial(op: Op, view: GraphView) -> bool:
    return op.kind in CONVOLUTIONS and math.prod(view.values[op.inputs[1]].shape[2:]) > 1


def _trunk_sizes(view: GraphView, maps: Mapping[str, slice]) -> Mapping[int, tuple[int, int]]:
    """Place of each operation -> (height, width) of the last feature map before it that every way passes.

    In execution order a value is such a cut where nothing older is read after the operation that makes it.
    """
    made_at = dict.fromkeys(view.inputs, -1) | {out: at for at, op in enumerate(view.ops) for out in op.outputs}
    last_read = dict.fromkeys(made_at, -1)
    for at, op in enumerate(view.ops):
        last_read.update({name: at for name in op.inputs if name in made_at})
    sizes: dict[int, tuple[int, int]] = {}
    size = (0, 0)
    open_until = -1
    for at, op in enumerate(view.ops):
        sizes[at] = size
        open_until = max([open_until, *(last_read[name] for name in op.inputs if name in made_at)])
        if open_until <= at and (where := maps.get(op.outputs[0])) and len(op.outputs) == 1:
            height, width = view.values[op.outputs[0]].shape[where]
            size = (height, width) if height * width > 1 else size
    return sizes
