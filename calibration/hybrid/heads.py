"""Per-channel factors inside attention: queries, keys, values and the way out levelled, folded into the layers around.

The score of a query and a key is a sum over channels: a channel of the query may be multiplied by any number if the
key's is divided by it. A channel of the values may be scaled if the layer behind attention takes it back. One layer
often makes all three, on one grid: then a wide channel of one sets the step of all. These folds give every head what
methods with a grid per head have (Yuan et al. 2022, arXiv:2111.12293; Lee et al. 2023, arXiv:2303.12557), on a grid per
tensor.

Which channel of the layer is which channel of which head is found by its numbers: channel numbers are sent through the
operations between instead of data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.hybrid import attention
from calibration.hybrid.attention import Attention
from calibration.hybrid.channels import Channels
from calibration.hybrid.equalize import LARGEST, STRENGTHS
from calibration.hybrid.layers import Weights, is_layer
from qtools.core.types import GraphView, Op, OpKind
from qtools.graph.capture import Program
from qtools.graph.execute import evaluate

WORTH = 0.5
"""Share of the noise that may be left, or nothing is scaled. On MobileViT-XXS (CIFAR-10), where a half was left on the
mean, factors for all attentions made the mean root of KL 1 % worse at 8 bits and 1 % better at 6: no difference."""

Bits = tuple[int, int]
"""Bits of the activations, and of the weights of the layer behind attention."""
_MOVES = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.SLICE, OpKind.SPLIT, OpKind.IDENTITY)


Places = NDArray[np.int64]
"""(position among the writers, output channel) of every channel of every head, shape (channels, 2)."""


@dataclass(frozen=True)
class Heads:
    """An attention between layers, all of its heads, or its queries and keys alone.

    Attributes:
        writers: Layers that make queries, keys and values; one may make several.
        channels: Number of output channels of each.
        query: Where each channel of the queries comes from; `key` has the same channels in the same order.
        key: The same of the keys.
        value: The same of the values; none where no layer reads the result.
        out: The layer that reads the result, or None.
        behind: Input channel of `out` for each channel of the values, shape (channels,).
        averages: As in `Attention`.
    """

    writers: tuple[Op, ...]
    channels: tuple[int, ...]
    query: Places
    key: Places
    value: Places
    out: Op | None
    behind: NDArray[np.int64]
    averages: bool


@dataclass(frozen=True)
class Factors:
    """What channels are multiplied by: `score` the queries (and the keys divided), `value` the values."""

    score: NDArray[np.float64]
    value: NDArray[np.float64]


def find(program: Program) -> tuple[Heads, ...]:
    """Every attention whose operands layers make, with nothing but moves between.

    Values are among them where a layer reads the result, which can take back what is done to them.

    Args:
        program: The captured graph.
    """
    whole = [(each, found) for each in attention.find(program.view) if (found := _whole(each, program))]
    known = {op.id for each, _ in whole for op in each.ops}
    rest = [each for each in attention.scores(program.view) if each.ops[-1].id not in known]
    return (*(found for _, found in whole), *(found for each in rest if (found := _heads(each, None, program))))


def _whole(each: Attention, program: Program) -> Heads | None:
    """An attention with its values, where a layer reads the result."""
    assert each.result is not None
    out = _reader(each.result, program.view)
    return None if out is None else _heads(each, out, program)


def _heads(each: Attention, out: Op | None, program: Program) -> Heads | None:
    """Where the channels of an attention come from and go to; None where others read them, or operations mix them."""
    view = program.view
    operands = [name for name in (each.query, each.key, each.value) if name is not None]
    writers = tuple({maker.id: maker for name in operands if (maker := _maker(name, view)) is not None}.values())
    if not all(is_layer(writer, view) for writer in writers):
        return None
    places = _places(program, each, writers)
    if places is None or _read_elsewhere(program, each.ops, writers, np.concatenate(places)):
        return None
    query, key, *values = places
    value, behind = values[0] if values else np.empty((0, 2), np.int64), np.empty(0, np.int64)
    if out is not None and each.result is not None:
        found = _behind(program, each.result, out)
        if found is None or len(found) != len(value):
            return None
        behind = found
    channels = tuple(view.values[writer.inputs[1]].shape[0] for writer in writers)
    return Heads(writers, channels, query, key, value, out, behind, each.averages)


def level(heads: Heads, seen: Mapping[str, Channels], weights: Weights, bits: Bits) -> tuple[Factors, float, float]:
    """The factors, of a few strengths, that leave the least rounding noise; that noise; and the noise without any.

    Ones where too much of it would be left (WORTH).

    Queries and keys of a channel are brought to the same root mean square, which is where their roundings add least to
    a score; values towards the widest channel of the grid they share.

    Args:
        heads: An attention.
        seen: What the channels of (at least) its writers' results carry.
        weights: Every constant, by value id.
        bits: Widths.
    """
    power = [_of(heads, places, [seen[w.outputs[0]].power for w in heads.writers]) for places in _all(heads)]
    wide = [_of(heads, places, [seen[w.outputs[0]].magnitude for w in heads.writers]) for places in _all(heads)]
    with np.errstate(divide="ignore", invalid="ignore"):
        balance = np.nan_to_num((power[1] / power[0]) ** 0.25, nan=1.0, posinf=1.0)
    balance = np.where(balance > 0, balance, 1.0).clip(1 / LARGEST, LARGEST)
    found = []
    for strength in STRENGTHS:
        score = balance**strength
        rest = max((wide[0] * score).max(), (wide[1] / score).max()) if len(heads.writers) == 1 else 0.0
        widest = max(rest, wide[2].max(initial=0.0))
        up = np.where(wide[2] > 0, widest / np.where(wide[2] > 0, wide[2], 1.0), 1.0).clip(1.0, LARGEST)
        factors = (Factors(score, up**share) for share in STRENGTHS)
        found += [(each, noise(heads, each, seen, weights, bits)) for each in factors]
    (none, before), (best, least) = found[0], min(found, key=lambda pair: pair[1])
    return (best, least, before) if least <= WORTH * before else (none, before, before)


def noise(heads: Heads, factors: Factors, seen: Mapping[str, Channels], weights: Weights, bits: Bits) -> float:
    """Rounding noise in the scores and behind the layer that reads the result, each as a share of its power.

    An element on a grid of step d is off by d^2 / 12 in the mean square; channels count as uncorrelated, and what
    attention gives as wide as the values it mixes.

    Args:
        heads: An attention.
        factors: What its channels are multiplied by.
        seen: What the channels of (at least) its writers' results carry.
        weights: Every constant, by value id.
        bits: Widths.
    """
    scales = _scales(heads, factors)
    rounding = []
    for writer, scale in zip(heads.writers, scales, strict=True):
        below, above = seen[writer.outputs[0]].ends
        step = float((scale * above).max() - (scale * below).min()) / (2 ** bits[0] - 1)
        rounding.append(np.full(len(scale), step**2 / 12))
    off = [_of(heads, places, rounding) for places in _all(heads)]
    power = [_of(heads, places, [seen[w.outputs[0]].power for w in heads.writers]) for places in _all(heads)]
    score, value = factors.score**2, factors.value**2
    scores = float((off[0] * power[1] / score + off[1] * power[0] * score).sum()) / (
        float((power[0] * power[1]).sum()) or 1.0
    )
    if heads.out is None:
        return scores
    weight = weights[heads.out.inputs[1]].astype(np.float64)[:, heads.behind]
    squares = np.square(weight).reshape(len(weight), len(value), -1).sum((0, 2))
    ends = [_of(heads, heads.value, [seen[w.outputs[0]].ends[side] for w in heads.writers]) for side in (0, 1)]
    mixed = float((factors.value * ends[1]).max() - (factors.value * ends[0]).min()) / (2 ** bits[0] - 1)
    step = np.abs(weight.reshape(len(weight), len(value), -1) / factors.value[:, None]).max((1, 2))
    steps = step / (2 ** (bits[1] - 1) - 1)
    behind = ((off[2] + mixed**2 / 12) / value * squares).sum() + (steps**2 / 12).sum() * (value * power[2]).sum()
    return scores + float(behind) / (float((squares * power[2]).sum()) or 1.0)


def fold(levelled: Sequence[tuple[Heads, Factors]], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The constants that change when the channels of each attention are scaled.

    Args:
        levelled: Attentions, each with its factors.
        weights: Every constant, by value id.

    Returns:
        Value id -> new constant, for the layers before and behind.
    """
    new: dict[str, NDArray[np.float64]] = {}

    def now(name: str) -> NDArray[np.float64]:
        return new.get(name, weights[name].astype(np.float64))

    for heads, factors in levelled:
        for writer, scale in zip(heads.writers, _scales(heads, factors), strict=True):
            for name in writer.inputs[1:]:
                new[name] = now(name) * scale.reshape(-1, *[1] * (weights[name].ndim - 1))
        if heads.out is None:
            continue
        columns = np.ones(weights[heads.out.inputs[1]].shape[1])
        columns[heads.behind] = factors.value
        name = heads.out.inputs[1]
        new[name] = now(name) / columns.reshape(1, -1, *[1] * (weights[name].ndim - 2))
    return {name: array.astype(np.float32) for name, array in new.items()}


def _all(heads: Heads) -> tuple[Places, Places, Places]:
    return heads.query, heads.key, heads.value


def _of(heads: Heads, places: Places, of_writer: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Numbers of the writers' channels, laid out by heads."""
    return np.array([of_writer[writer][channel] for writer, channel in places])


def _scales(heads: Heads, factors: Factors) -> list[NDArray[np.float64]]:
    """Factor of every output channel of each writer."""
    scales = [np.ones(channels) for channels in heads.channels]
    for places, by in zip(_all(heads), (factors.score, 1 / factors.score, factors.value), strict=True):
        for (writer, channel), factor in zip(places, by, strict=True):
            scales[writer][channel] = factor
    return scales


def _maker(name: str, view: GraphView) -> Op | None:
    """The operation behind a value, seen through moves."""
    op = view.producer.get(name)
    while op is not None and op.kind in _MOVES:
        op = view.producer.get(op.inputs[0])
    return op


def _reader(name: str, view: GraphView) -> Op | None:
    """The one layer that reads a value, seen through moves; None where anything else does."""
    readers = view.consumers[name]
    if name in view.outputs or len(readers) != 1:
        return None
    if readers[0].kind in _MOVES and len(readers[0].outputs) == 1:
        return _reader(readers[0].outputs[0], view)
    plain = is_layer(readers[0], view) and readers[0].inputs[0] == name and int(readers[0].attrs.get("groups", 1)) == 1
    return readers[0] if plain else None


def _read_elsewhere(program: Program, readers: Sequence[Op], writers: Sequence[Op], places: Places) -> bool:
    """Whether moves carry any of these channels to something else than these operations."""
    view, ends, left = program.view, list[str](), [writer.outputs[0] for writer in writers]
    while left:
        name = left.pop()
        others = [op for op in view.consumers[name] if op not in readers]
        left += [out for op in others if op.kind in _MOVES for out in op.outputs]
        if name in view.outputs or any(op.kind not in _MOVES for op in others):
            ends.append(name)
    numbers, starts = _numbered(program, writers)
    sent = _sent(program, numbers, ends)
    channels = np.asarray(starts)[places[:, 0]] + places[:, 1]
    return len(sent) < len(ends) or any(np.isin(channels, each.numpy()).any() for each in sent)


def _numbered(program: Program, writers: Sequence[Op]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Results that hold the numbers of their channels, counted through all writers; and the first number of each."""
    numbers, starts = {}, [0]
    for writer in writers:
        value = program.view.values[writer.outputs[0]]
        axis = value.channel_axis or 0
        own = torch.arange(value.shape[axis], dtype=torch.float64) + starts[-1]
        numbers[value.id] = own.reshape([-1 if at == axis else 1 for at in range(len(value.shape))]).expand(value.shape)
        starts.append(starts[-1] + value.shape[axis])
    return numbers, starts


def _sent(program: Program, numbers: Mapping[str, torch.Tensor], wanted: Sequence[str]) -> list[torch.Tensor]:
    """Values behind moves, when these numbers lie before them; fewer than wanted where one cannot be reached."""
    moves = {name for op in program.view.ops if op.kind in _MOVES for name in (op.id, *op.outputs)}
    alive: dict[str, Any] = dict(numbers)
    for node in program.graph(1).nodes:
        if node.name in moves and all(source.name in alive for source in node.all_input_nodes):
            alive[node.name] = evaluate(node, alive)
    return [alive[name] for name in wanted if name in alive]


def _places(program: Program, inside: Attention, writers: Sequence[Op]) -> tuple[Places, ...] | None:
    """Where the channels of queries, keys and values come from; None where positions or channels mix."""
    numbers, starts = _numbered(program, writers)
    wanted = [name for name in (inside.query, inside.key, inside.value) if name is not None]
    sent = _sent(program, numbers, wanted)
    if len(sent) == len(wanted) and inside.turned:
        sent[1] = sent[1].transpose(-2, -1)
    found = [each for each in map(_constant_over_tokens, sent) if each is not None]
    if len(found) != len(wanted) or len(found[0]) != len(found[1]):
        return None
    every = np.concatenate(found)
    if len(np.unique(every)) != len(every):
        return None  # a channel that is read twice can have one factor only
    writer_of = [np.searchsorted(starts, each, side="right") - 1 for each in found]
    pairs = zip(writer_of, found, strict=True)
    return tuple(np.stack([writer, each - np.asarray(starts)[writer]], 1) for writer, each in pairs)


def _behind(program: Program, result: str, out: Op) -> NDArray[np.int64] | None:
    """Input channel of the layer behind for every channel of every head."""
    shape = program.view.values[result].shape
    if len(shape) != 4:
        return None
    batch, heads, tokens, depth = shape
    numbers = torch.arange(heads * depth, dtype=torch.float64).reshape(1, heads, 1, depth)
    sent = _sent(program, {result: numbers.expand(batch, heads, tokens, depth)}, out.inputs[:1])
    if not sent:
        return None
    axis = program.view.values[out.inputs[0]].channel_axis or 0
    rows = sent[0].movedim(axis, 0).flatten(1)
    if (rows != rows[:, :1]).any() or sorted(rows[:, 0].tolist()) != list(range(heads * depth)):
        return None
    return np.argsort(rows[:, 0].numpy().astype(np.int64))


def _constant_over_tokens(value: torch.Tensor) -> NDArray[np.int64] | None:
    """Channel numbers, head after head, of a value of shape (batch, heads, tokens, depth), or without heads."""
    if value.ndim == 3:
        value = value.unsqueeze(1)
    if value.ndim != 4 or (value != value[:1, :, :1]).any():
        return None
    return value[0, :, 0].reshape(-1).numpy().astype(np.int64)
