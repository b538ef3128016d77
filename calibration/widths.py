"""How many bits weights and activations get, as asked for and as a target can have them."""

from __future__ import annotations

from dataclasses import dataclass

from qtools.core.errors import InputError
from qtools.core.target import TargetSpec
from qtools.core.types import TRACELESS, WEIGHTED, GraphView, Op, OpKind

NARROWEST, WIDEST = 2, 8
FLOAT_ACTIVATIONS = 16
"""What `--act-bits` calls activations that stay in the target's own float type."""
NARROW_WEIGHTS = 6
"""Weight bits below which some layers keep the target's own width."""
SUMS_PRODUCTS = (*WEIGHTED, OpKind.MATMUL, OpKind.ATTENTION)
"""Kinds whose operands the widths of a scheme are about: layers, and products of matrices."""
_MOVES = (*TRACELESS, OpKind.SLICE, OpKind.SPLIT, OpKind.CONCAT)


@dataclass(frozen=True)
class Widths:
    """Bits of the two grids.

    Attributes:
        weights: Width of the weight grid.
        activations: Width of the grids of activations that layers and products of matrices read.
    """

    weights: int
    activations: int

    @property
    def scheme(self) -> str:
        """Short name, e.g. "w8a8"."""
        return f"w{self.weights}a{self.activations}"


@dataclass(frozen=True)
class Narrow:
    """A layer's own width of weights, stored in as many bits, and why it has it."""

    bits: int
    why: str


def choose(spec: TargetSpec, bits: int, weight_bits: int | None, act_bits: int | None) -> Widths:
    """What a target makes of `--bits`, `--weight-bits` and `--act-bits`.

    Args:
        spec: The target.
        bits: Width of both, where nothing else is asked for.
        weight_bits: Width of the weights alone.
        act_bits: Width of the activations alone.

    Raises:
        InputError: If the target cannot have what was asked for.
    """
    weights = bits if weight_bits is None else weight_bits
    activations = bits if act_bits is None else act_bits
    if not NARROWEST <= weights <= WIDEST:
        raise InputError(f"weights of {weights} bits are not available", f"choose {NARROWEST} to {WIDEST}")
    if spec.float_results:  # such a runtime computes in float: it has activations on its own grid, or none
        native = spec.activation.bits
        if activations < native and act_bits is None:
            activations = native
        if activations not in (native, FLOAT_ACTIVATIONS):
            raise InputError(
                f"the {spec.name} target has no activations of {activations} bits",
                f"choose --act-bits {native}, or {FLOAT_ACTIVATIONS} for float activations",
            )
    elif not (NARROWEST <= activations <= WIDEST or (spec.wide is not None and activations == spec.wide.bits)):
        raise InputError(
            f"activations of {activations} bits are not available on the {spec.name} target",
            f"choose {NARROWEST} to {WIDEST}" + (f", or {spec.wide.bits}" if spec.wide is not None else ""),
        )
    return Widths(weights, activations)


def operands(view: GraphView) -> frozenset[str]:
    """Values that layers and products of matrices read, directly or behind moves.

    What "W6A6" means in the literature: Q-HyViT, PTQ4ViT and RepQ-ViT quantize these values alone, and leave sums and
    what functions read in float. Where a product itself runs in float, its queries, keys and values count all the same.
    """
    found: set[str] = set()
    for op in reversed(view.ops):
        if op.kind in SUMS_PRODUCTS or (op.kind in _MOVES and found & set(op.outputs)):
            found.update(op.inputs)
    return frozenset(found)


def keeps_its_width(op: Op, view: GraphView, weight_bits: int) -> str:
    """Why a layer's weights keep the target's own width, whatever was asked for; empty where they do not.

    Below NARROW_WEIGHTS bits the layers with few weights and those at the two ends stay as they are.

    Args:
        op: A convolution or linear operation.
        view: The captured graph.
        weight_bits: Width asked for.
    """
    if weight_bits >= NARROW_WEIGHTS:
        return ""
    if op.kind is OpKind.DEPTHWISE_CONV:
        return "a depthwise layer has few weights for each result"
    if op.inputs[0] in view.inputs:
        return "the first layer"
    if op.outputs[0] in view.outputs:
        return "the head"
    shape = view.values[op.inputs[0]].shape
    if len(shape) == 4 and shape[2:] == (1, 1):
        return "a layer on pooled values"
    return ""
