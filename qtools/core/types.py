"""The frozen values that travel between stages. No framework object inside any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


class OpKind(StrEnum):
    """What an operation means, whatever the framework calls it."""

    CONV = "conv"
    DEPTHWISE_CONV = "depthwise_conv"
    LINEAR = "linear"
    MATMUL = "matmul"
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    RELU = "relu"
    RELU6 = "relu6"
    GELU = "gelu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SILU = "silu"
    HARD_SWISH = "hard_swish"
    HARD_SIGMOID = "hard_sigmoid"
    SOFTMAX = "softmax"
    LAYER_NORM = "layer_norm"
    GROUP_NORM = "group_norm"
    BATCH_NORM = "batch_norm"
    MEAN = "mean"
    SUM = "sum"
    AVG_POOL = "avg_pool"
    MAX_POOL = "max_pool"
    PAD = "pad"
    RESHAPE = "reshape"
    TRANSPOSE = "transpose"
    EXPAND = "expand"
    SLICE = "slice"
    CONCAT = "concat"
    SPLIT = "split"
    RESIZE = "resize"
    IDENTITY = "identity"
    ATTENTION = "attention"
    OTHER = "other"


WEIGHTED = (OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.LINEAR)
"""Kinds that sum products of their input with weights: operands are data, weight and, often, bias."""


TRACELESS = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.IDENTITY, OpKind.EXPAND, OpKind.PAD)
"""Kinds that a converter may leave out, or write into a neighbour: codes pass from what they read to what reads them.

A PAD can be written into a convolution; what it adds is zero, which no grid moves."""


@dataclass(frozen=True)
class QuantScheme:
    """An integer grid: which codes exist and how a scale is laid over a tensor.

    Attributes:
        bits: Width of the grid, 2 to 16 for tensors, 32 for biases.
        symmetric: True where the zero point is held at 0.
        axis: Dimension that carries one scale per index; None for one scale in all.
        qmin: Smallest code.
        qmax: Largest code.
    """

    bits: int
    symmetric: bool
    axis: int | None
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"bits must be 2..32, got {self.bits}")
        if not self.qmin <= 0 <= self.qmax or self.qmax - self.qmin >= 2**self.bits:
            raise ValueError(f"codes {self.qmin}..{self.qmax} do not fit {self.bits} bits or leave out zero")

    @property
    def signed(self) -> bool:
        """True where negative codes exist."""
        return self.qmin < 0

    @property
    def wide(self) -> bool:
        """True where codes need 16 bits of storage, and kernels of that width."""
        return self.bits > 8

    @staticmethod
    def activation(bits: int = 8, *, signed: bool = True, symmetric: bool = False) -> QuantScheme:
        """Per-tensor grid over all codes of the width, as integer kernels want activations."""
        qmin = -(2 ** (bits - 1)) if signed else 0
        return QuantScheme(bits, symmetric, None, qmin, qmin + 2**bits - 1)

    @staticmethod
    def weight(bits: int = 8, *, axis: int | None = 0) -> QuantScheme:
        """Symmetric grid without the most negative code, so that a weight and its negation both exist."""
        top = 2 ** (bits - 1) - 1
        return QuantScheme(bits, True, axis, -top, top)


@dataclass(frozen=True)
class QuantParams:
    """A scheme with its numbers. Real value = (code - zero_point) * scale.

    Attributes:
        scheme: The grid.
        scale: One positive float32-representable number, or one per index of `scheme.axis`.
        zero_point: As many codes as scales, each inside qmin..qmax.
    """

    scheme: QuantScheme
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise ValueError(f"{len(self.scale)} scales and {len(self.zero_point)} zero points")
        if self.scheme.axis is None and len(self.scale) != 1:
            raise ValueError(f"{len(self.scale)} scales on a per-tensor scheme")
        scales = self.scale_array
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ValueError("scales must be finite and greater than zero in float32")
        outside = [z for z in self.zero_point if not self.scheme.qmin <= z <= self.scheme.qmax]
        if outside:
            raise ValueError(f"zero point {outside[0]} is outside {self.scheme.qmin}..{self.scheme.qmax}")
        if self.scheme.symmetric and any(self.zero_point):
            raise ValueError("a symmetric scheme has zero point 0")

    @cached_property
    def scale_array(self) -> NDArray[np.float32]:
        """Scales as float32, shape (n,)."""
        return np.asarray(self.scale, np.float32)

    @cached_property
    def zero_point_array(self) -> NDArray[np.int32]:
        """Zero points as int32, shape (n,)."""
        return np.asarray(self.zero_point, np.int32)

    @property
    def lo(self) -> float:
        """Smallest real value of a per-tensor grid."""
        return (self.scheme.qmin - self.zero_point[0]) * self.scale[0]

    @property
    def hi(self) -> float:
        """Largest real value of a per-tensor grid."""
        return (self.scheme.qmax - self.zero_point[0]) * self.scale[0]


@dataclass(frozen=True)
class Value:
    """A tensor of the captured program.

    Attributes:
        id: Stable name, unique in the graph.
        shape: Static shape; dimension 0 is the batch for activations.
        dtype: "float32", "int64", "bool", ...
        const: True for weights, biases and folded constants.
        channel_axis: Dimension of output channels (weights) or channels (activations), where there is one.
    """

    id: str
    shape: tuple[int, ...]
    dtype: str
    const: bool = False
    channel_axis: int | None = None


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        id: Name of the operation, equal to the id of its first output.
        kind: What it means.
        inputs: Tensor operands in the order kind defines (conv and linear: data, weight, bias).
        outputs: Values produced.
        attrs: Static arguments in neutral terms (stride, padding, groups, dims, ...).
        module: Dotted path of the nn.Module it came from, "" where unknown.
    """

    id: str
    kind: OpKind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""


@dataclass(frozen=True)
class GraphView:
    """The captured program as plain data: values, operations in execution order, and its ends."""

    values: Mapping[str, Value]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def producer(self) -> Mapping[str, Op]:
        """Operation that makes each non-constant, non-input value."""
        return {out: op for op in self.ops for out in op.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Op, ...]]:
        """Operations that read each value, in execution order."""
        found: dict[str, list[Op]] = {name: [] for name in self.values}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                found[name].append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Values that no input reaches: constants, and what is computed from nothing else."""
        found = {name for name, value in self.values.items() if value.const}
        for op in self.ops:
            if found.issuperset(op.inputs):
                found.update(op.outputs)
        return frozenset(found)

    @property
    def activations(self) -> tuple[str, ...]:
        """Ids of the floating-point values that change with the input, in execution order."""
        order = [*self.inputs, *(out for op in self.ops for out in op.outputs)]
        return tuple(i for i in order if self.values[i].dtype.startswith("float") and not self.values[i].const)


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the model's input. Comes from the model's own config, never from a constant of ours.

    Attributes:
        size: (height, width) of the input in pixels.
        mean: Per-channel mean subtracted after scaling to 0..1, RGB.
        std: Per-channel divisor, RGB.
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", ...
        crop_pct: Share of the resized short side that the crop keeps, 0 to 1; 1.0 = no border lost.
        crop_mode: "center" (resize the short side, crop the middle), "squash" (resize both sides) or "border".
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    crop_mode: str = "center"


@dataclass(frozen=True)
class TensorStats:
    """What calibration saw of one value, over all images.

    Attributes:
        count: Number of elements seen.
        lo: Smallest element.
        hi: Largest element.
        mean: Mean of all elements.
        channel_lo: Smallest element per channel, shape (channels,), or empty.
        channel_hi: Largest element per channel, shape (channels,), or empty.
        channel_mean: Mean per channel, shape (channels,), or empty.
        counts: Histogram over equal bins from lo to hi, shape (bins,), int64; empty where only extremes were asked for.
        reach: Largest magnitude on each image, shape (images,); empty where the first dimension is not the images.
    """

    count: int
    lo: float
    hi: float
    mean: float
    channel_lo: NDArray[np.float32]
    channel_hi: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    counts: NDArray[np.int64]
    reach: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges of the histogram, shape (bins + 1,)."""
        return np.linspace(self.lo, self.hi, len(self.counts) + 1)


Origin = Literal["explicit", "shared", "fixed", "derived", "fused", "float"]


@dataclass(frozen=True)
class ValuePlan:
    """The decision for one value.

    Attributes:
        params: The numbers, or None where the value stays in float or has no tensor of its own.
        origin: explicit (from its own range), shared (tied to another value), fixed (by the kernel),
            derived (bias: product of scales), fused (swallowed by the next operation), float.
        reason: Why, in words. Never empty where params is None.
        made: The grid its kernel writes, where a QUANTIZE behind it brings the codes onto `params` and so cuts them.
        reads: Id of an operation -> the grid it reads the value on, where that is another: a QUANTIZE lies between.
        narrow: Of a weight, the grid that its codes lie on, all but the few outliers that need those of `params`.
        packed: Of a weight, whether the file holds each code in as many bits as the grid has, not in a byte.
        width: Of an activation, bits of the grid whose steps it has, where its container has more.
    """

    params: QuantParams | None
    origin: Origin
    reason: str
    made: QuantParams | None = None
    reads: Mapping[str, QuantParams] = field(default_factory=dict)
    narrow: QuantScheme | None = None
    packed: bool = False
    width: int | None = None

    def __post_init__(self) -> None:
        if self.params is None and not self.reason:
            raise ValueError("a value left out of quantization needs a reason")

    def read(self, reader: str) -> QuantParams | None:
        """The grid that an operation reads the value on."""
        return self.reads.get(reader, self.params)


PLAN_SCHEMA = 1
"""Raised when a field of plan.json changes its meaning or goes. Plans from before it was written down are version 1."""


@dataclass(frozen=True)
class QuantPlan:
    """All decisions, ready to be translated.

    Attributes:
        model: Name of the model.
        target: Name of the TargetSpec.
        scheme: Name of the scheme, e.g. "w8a8".
        values: Value id -> decision, for every floating-point value of the graph.
        float_ops: Op id -> why it runs in float; every other operation runs in integers.
        digests: sha256 of what the plan was made from ("weights", "data", "target").
        schema_version: At most PLAN_SCHEMA.
    """

    model: str
    target: str
    scheme: str
    values: Mapping[str, ValuePlan]
    float_ops: Mapping[str, str]
    digests: Mapping[str, str]
    schema_version: int = PLAN_SCHEMA

    def __post_init__(self) -> None:
        if not 1 <= self.schema_version <= PLAN_SCHEMA:
            raise ValueError(f"plan schema {self.schema_version} is not one of 1 to {PLAN_SCHEMA}: take a newer qtools")

    def params(self, value: str) -> QuantParams | None:
        """Parameters of a value; None where it is not quantized."""
        entry = self.values.get(value)
        return entry.params if entry else None

    def read(self, value: str, reader: str) -> QuantParams | None:
        """Parameters of a value as an operation, by its id, reads it; None where it is not quantized."""
        entry = self.values.get(value)
        return entry.read(reader) if entry else None


def with_params(plan: QuantPlan, grids: Mapping[str, QuantParams]) -> QuantPlan:
    """The plan with other numbers for some values."""
    values = {name: replace(plan.values[name], params=params) for name, params in grids.items()}
    return replace(plan, values={**plan.values, **values}) if values else plan
