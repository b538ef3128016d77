"""LiteRT's full-integer kernels as data: int8 activations per tensor, int8 weights per output channel.

`wide_rules` are the kernels on int16 activations, int8 weights and int64 biases, LiteRT's own: XNNPACK has none.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

from qtools.core.target import Between, FastPath, Island, LayerTime, OpRule, Packing, TargetSpec
from qtools.core.types import WEIGHTED, OpKind, QuantScheme

SPEC_PAGE = "https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec"
SOURCE_TREE = "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/kernels"
DELEGATE = f"{SOURCE_TREE.removesuffix('kernels')}delegates/xnnpack/xnnpack_delegate.cc"
FLOATS = frozenset(
    {
        *("abs", "amax", "clamp", "clamp_min", "einsum", "erf", "exp", "leaky_relu", "linalg_vector_norm"),
        *("log_softmax", "pixel_shuffle", "pow", "prelu", "roll", "sqrt"),
        *("stack", "upsample_bilinear2d"),
    }
)
"""Operations that are no kind of ours, or of which it takes one form: nearest-neighbour resizing runs outside."""
ALONE = "let it be the only reader of the convolution, addition or multiplication before it: there it costs nothing"
TABLE = "leave it: the 25 of RepViT-M1.1 take a tenth of its time; a ReLU fused into a convolution takes none"

XNNPACK = FastPath(
    source=DELEGATE,
    name="XNNPACK",
    rest="LiteRT kernel",
    floats=frozenset(set(OpKind) - {OpKind.OTHER, OpKind.RESIZE}) | FLOATS,
    unpadded=frozenset({OpKind.MAX_POOL}),
    operands={OpKind.CONCAT: 5},
    parts=True,
    rest_in_integers=True,
)
"""Phones' kernels, as LiteRT's default delegate. What it takes was also seen at work (tests/ops/test_placement.py)."""

_WIDE: dict[OpKind, tuple[str, dict[str, Any]]] = {
    OpKind.CONV: (SPEC_PAGE, {"weight_axis": 0}),
    OpKind.DEPTHWISE_CONV: (SPEC_PAGE, {"weight_axis": 0}),
    OpKind.LINEAR: (f"{SOURCE_TREE}/fully_connected.cc", {"weight_axis": 0}),
    OpKind.ADD: (SPEC_PAGE, {}),
    OpKind.MUL: (SPEC_PAGE, {}),
    OpKind.MEAN: (SPEC_PAGE, {}),
    OpKind.RELU: (f"{SOURCE_TREE}/activations.cc", {}),
    OpKind.GELU: (f"{SOURCE_TREE}/activations.cc", {}),
    OpKind.SIGMOID: (f"{SOURCE_TREE}/activations.cc", {"fixed_output": (1 / 32768, 0)}),
    OpKind.RESHAPE: (SPEC_PAGE, {"tied": True}),
    OpKind.TRANSPOSE: (SPEC_PAGE, {"tied": True}),
    OpKind.IDENTITY: (SPEC_PAGE, {"tied": True}),
}
"""Kinds with a kernel on 16-bit activations: LiteRT's own, XNNPACK has none."""
WIDE = "hold fewer values at 16 bits: these kernels are LiteRT's plain ones"

TIMED = "tests/bench/test_islands.py, on an x86 host with VNNI"
ISLANDS = (
    Island("float", "float", mac=3.0, element=20.0, source=TIMED),
    Island("dynamic", "float activations over int8 weights", mac=1.5, element=60.0, source=TIMED),
    Island("wide", "16 bits", mac=50.0, element=900.0, source=TIMED),
)
"""A float operation costs its conversions; on 16 bits the kernels are LiteRT's plain ones."""

BETWEEN = Between(
    times={
        OpKind.DEPTHWISE_CONV: (10.0, 11.5),
        OpKind.GELU: (80.0, 50.0),
        OpKind.HARD_SWISH: (12.0, 12.0),
        OpKind.SIGMOID: (14.0, 36.0),
        OpKind.MUL: (4.0, 18.0),
        OpKind.ADD: (20.0, 18.0),
        OpKind.MATMUL: (1.5, 3.6),
        OpKind.MEAN: (30.0, 50.0),
        OpKind.RELU: (4.0, 5.0),
        OpKind.RELU6: (4.0, 5.0),
    },
    layer=LayerTime(1.0, 4.0),
    plain=LayerTime(3.3, 4.0),
    conversion=4.0,
    call=1e5,
    table=13.0,
    dynamic=(0.8, 50.0),
    other=(4.0, 30.0),
    most=0.049,
    given=25.0,
    source="LiteRT 2.3's profiler, x86 with VNNI: RepViT-M1.1, MobileViT-XXS, MobileViTv2-050, EfficientViT-B0",
)
"""An 8-bit GELU is LiteRT's own, and each cuts the graph. Of a float one between codes XNNPACK makes a table.

Rounded, and against float where networks differ: 8-bit sums took 20 to 35. `call` is an estimate, a quarter of a
microsecond. `dynamic` fits eight networks' pointwise layers within a fifth, but EfficientViT-B0's, 28 % slower:
RepViT-M1.1's take 1.2 times as long as on codes, MobileViTv2-050's, of fewer channels, 1.9 times. Products of two
values are no fit: they are those of layers, with some time to pack the second operand at each run; on an EPYC without
VNNI, where layers gain nothing either, theirs were 1.2 to 1.4 times float's. Predicted and measured times of whole
networks stand in the README. Networks with attention give a quarter: their norms and softmax
keep them on CPUs anyway, and their streams of tokens and SiLU lose more in 8 bits than this costs.
"""

PACKING = Packing(
    {OpKind.LINEAR: (4,), OpKind.CONV: (4,)},
    source="tests/ops/test_stored.py: XNNPACK's QC4W kernels; a pointwise convolution is written as FULLY_CONNECTED",
    pointwise=frozenset({OpKind.CONV}),
    even=True,
)
"""LiteRT has 4-bit convolutions too, but XNNPACK leaves them to its plain kernels; and 2-bit linear layers, slower."""

SPEC = TargetSpec(
    name="tflite",
    version="int8-5",
    activation=QuantScheme.activation(8),
    rules={
        OpKind.CONV: OpRule(SPEC_PAGE, weight_axis=0),
        OpKind.DEPTHWISE_CONV: OpRule(SPEC_PAGE, weight_axis=0),
        OpKind.LINEAR: OpRule(f"{SOURCE_TREE}/fully_connected.cc", weight_axis=0),
        OpKind.ADD: OpRule(SPEC_PAGE, ratios=(2.0**-10, 2.0**8)),
        OpKind.MUL: OpRule(SPEC_PAGE, ratios=(2.0**-16, 2.0**8), number=True),
        OpKind.MATMUL: OpRule(f"{SOURCE_TREE}/batch_matmul.cc", centered=(1,)),
        OpKind.MEAN: OpRule(SPEC_PAGE),
        OpKind.RELU: OpRule(f"{SOURCE_TREE}/activations.cc", delegated=False, converted=True, advice=ALONE),
        OpKind.RELU6: OpRule(f"{SOURCE_TREE}/activations.cc", delegated=False, converted=True, advice=ALONE),
        OpKind.GELU: OpRule(f"{SOURCE_TREE}/activations.cc", delegated=False, advice=TABLE),
        OpKind.SIGMOID: OpRule(SPEC_PAGE, fixed_output=(1 / 256, -128)),
        OpKind.CONCAT: OpRule(SPEC_PAGE, tied=True),
        OpKind.MAX_POOL: OpRule(SPEC_PAGE, tied=True, unpadded=True),
        OpKind.PAD: OpRule(DELEGATE, tied=True),
        OpKind.RESIZE: OpRule(DELEGATE, tied=True, sampling=("bilinear",)),
        OpKind.RESHAPE: OpRule(SPEC_PAGE, tied=True),
        OpKind.TRANSPOSE: OpRule(SPEC_PAGE, tied=True),
        OpKind.IDENTITY: OpRule(SPEC_PAGE, tied=True),
        OpKind.SLICE: OpRule(DELEGATE, tied=True),
        OpKind.SPLIT: OpRule(DELEGATE, tied=True),
    },
    fused=tuple(product((*WEIGHTED, OpKind.ADD, OpKind.MUL), (OpKind.RELU, OpKind.RELU6))),
    expand=frozenset({OpKind.SILU, OpKind.HARD_SIGMOID, OpKind.AVG_POOL, OpKind.ATTENTION}),
    scales_queries=True,
    suffix=".tflite",
    fast_path=XNNPACK,
    dynamic=frozenset(WEIGHTED),
    weight_room=True,
    clamps=True,
    wide=QuantScheme.activation(16, symmetric=True),
    packing=PACKING,
    islands=ISLANDS,
    between=BETWEEN,
    wide_rules={kind: OpRule(source, delegated=False, advice=WIDE, **fixed) for kind, (source, fixed) in _WIDE.items()},
)

SOFTMAXES = ("float", "int8")
"""Where softmax is computed."""
ROWS = "leave it for NPUs; on an x86 CPU it took four times as long in 8 bits as in float"


def with_softmax(kind: str) -> TargetSpec:
    """The same rules with softmax in "float", the faster on CPUs, or in "int8" on LiteRT's kernel, as NPUs want it."""
    if kind == SOFTMAXES[0]:
        return SPEC
    rule = OpRule(SPEC_PAGE, fixed_output=(1 / 256, -128), delegated=False, advice=ROWS)
    return replace(SPEC, version=f"{SPEC.version}-softmax", rules={**SPEC.rules, OpKind.SOFTMAX: rule})
