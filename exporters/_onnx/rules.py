"""Integer kernels of onnxruntime's CPU provider as data.

Each rule was also seen at work: onnxruntime 1.31 replaces DequantizeLinear -> op -> QuantizeLinear by the integer
kernel, or drops the pairs around an operation that only moves codes. GELU, LayerNorm, Div, Sub, HardSwish, Tanh and a
ReLU with no kernel in front of it stay in float there, so they have no rule; SiLU is the faster in float. A softmax
kernel exists, but gives wrong numbers where attention is even: no rule either, and what is written keeps it away
(`QdqWriter`). Attention is written out: both of its products are of integers, the scores floats that softmax reads.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from qtools.core.target import Between, FastPath, Island, LayerTime, OpRule, Packing, TargetSpec
from qtools.core.types import WEIGHTED, OpKind, QuantScheme

SOURCE_TREE = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime"
SELECTORS = f"{SOURCE_TREE}/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc"
MATCHED = f"{SOURCE_TREE}/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
RELU = f"{SOURCE_TREE}/core/optimizer/qdq_transformer/relu_quantizelinear.cc"
GEMM = f"{SOURCE_TREE}/contrib_ops/cpu/quantization/quant_gemm.cc"
POOLING = f"{SOURCE_TREE}/core/mlas/lib/qlgavgpool.cpp"
AVERAGING = f"{SOURCE_TREE}/contrib_ops/cpu/quantization/qlinear_pool.cc"
ACTIVATIONS = ("uint8", "int8")
SPATIAL = (2, 3)

KERNELS = FastPath(SELECTORS, "integer kernel", "float kernel")

_MOVE = OpRule(MATCHED, tied=True)

BETWEEN = Between(
    times={
        OpKind.DEPTHWISE_CONV: (11.0, 8.5),
        OpKind.MATMUL: (5.8, 7.0),
        OpKind.SILU: (140.0, 70.0),
        OpKind.GELU: (270.0, 200.0),
        OpKind.HARD_SWISH: (130.0, 60.0),
        OpKind.SIGMOID: (120.0, 57.0),
        OpKind.MUL: (90.0, 52.0),
        OpKind.ADD: (51.0, 72.0),
        OpKind.CONCAT: (85.0, 65.0),
        OpKind.RELU: (0.0, 0.0),
        OpKind.RELU6: (0.0, 0.0),
    },
    layer=LayerTime(1.0, 25.0, 900.0),
    plain=LayerTime(4.0, 6.0, 250.0),
    conversion=105.0,
    call=5e5,
    other=(4.0, 100.0),
    either=frozenset({OpKind.SILU, OpKind.GELU, OpKind.HARD_SWISH}),
    most=0.049,
    returned=15.0,
    source="tests/bench/kernel_times.py: onnxruntime 1.31, x86 with VNNI, six networks",
)
"""Least squares over 1,300 layers, and the functions beside them, at 192 to 256 pixels; a tenth off in the median.

Products are those of attention, 41 of each kind, per multiply-accumulate whatever their depth. Not fitted are the tap
of 8-bit layers, which all together put at 600 and stems alone at 860 to 1,220, `call`, and a float sigmoid, taken
for SiLU less its product. A concatenation was timed beside sums, of operands on two grids, without VNNI. An 8-bit
convolution gathers its windows byte by byte, which for three channels takes longer than float does. A value that a
float convolution and 8-bit ones share is converted, brought from channels-last to channels-first and into blocks. ReLUs
are part of their layers.
"""

SPEC = TargetSpec(
    name="onnx",
    version="qdq-uint8-4",
    activation=QuantScheme.activation(8, signed=False),
    rules={
        OpKind.CONV: OpRule(SELECTORS, weight_axis=0, gives_floats=True),
        OpKind.DEPTHWISE_CONV: OpRule(SELECTORS, weight_axis=0),
        OpKind.LINEAR: OpRule(GEMM, weight_axis=0, gives_floats=True),
        OpKind.MATMUL: OpRule(SELECTORS, gives_floats=True),
        OpKind.ADD: OpRule(MATCHED),
        OpKind.MUL: OpRule(MATCHED),
        OpKind.MEAN: OpRule(POOLING, dims=SPATIAL),
        OpKind.AVG_POOL: OpRule(AVERAGING, even=True),
        OpKind.SIGMOID: OpRule(MATCHED),
        OpKind.CONCAT: OpRule(MATCHED, varying=True),
        OpKind.RELU: OpRule(RELU, fused_only=True),
        OpKind.RELU6: OpRule(RELU, fused_only=True),
        OpKind.MAX_POOL: _MOVE,
        OpKind.RESHAPE: _MOVE,
        OpKind.TRANSPOSE: _MOVE,
        OpKind.SLICE: _MOVE,
        OpKind.SPLIT: _MOVE,
        OpKind.EXPAND: _MOVE,
        OpKind.IDENTITY: _MOVE,
        OpKind.PAD: _MOVE,
    },
    fused=tuple(product((*WEIGHTED, OpKind.MATMUL, OpKind.ADD, OpKind.MUL), (OpKind.RELU, OpKind.RELU6))),
    expand=frozenset({OpKind.AVG_POOL, OpKind.ATTENTION}),
    suffix=".onnx",
    fast_path=KERNELS,
    islands=(Island("float", "float", mac=3.0, element=20.0, source="as LiteRT on the same host; not timed apart"),),
    weight_room=True,
    between=BETWEEN,
    packing=Packing(
        dict.fromkeys(WEIGHTED, (4,)),
        source="tests/ops/test_stored.py: onnxruntime folds a Cast from INT4 to INT8 when it opens a file",
        overhead=160,
    ),
)

QNN_PAGE = "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
QNN_CONFIG = f"{SOURCE_TREE}/python/tools/quantization/execution_providers/qnn/quant_config.py"

QNN = replace(
    SPEC,
    name="onnx_qnn",
    version="qdq-uint8-1",
    islands=(),
    between=None,
    packing=None,
    expand=frozenset({OpKind.SILU, OpKind.AVG_POOL}),
    fast_path=FastPath(QNN_PAGE, "HTP, as documented", "CPU"),
    rules={
        **{kind: replace(rule, source=QNN_PAGE, gives_floats=False) for kind, rule in SPEC.rules.items()},
        OpKind.MEAN: OpRule(QNN_PAGE),
        OpKind.RELU: OpRule(QNN_PAGE, fused_only=True),
        OpKind.SUB: OpRule(QNN_PAGE),
        OpKind.DIV: OpRule(QNN_PAGE),
        OpKind.GELU: OpRule(QNN_PAGE),
        OpKind.HARD_SWISH: OpRule(QNN_PAGE),
        OpKind.TANH: OpRule(QNN_PAGE),
        OpKind.SIGMOID: OpRule(QNN_CONFIG, fixed_output=(1 / 256, 0)),
        OpKind.SOFTMAX: OpRule(QNN_CONFIG, fixed_output=(1 / 256, 0)),
    },
)
"""Qualcomm's HTP, which runs a graph in integers or not at all: pairs around everything it has an 8-bit form of.

But attention, whose scale would be a product with a number in float between two of them: it is one float island.

Its own rounding is nobody's to see outside the chip: what is simulated and run here is onnxruntime's CPU provider on
the same file, with integer kernels where it has them and Q/DQ around float where it has not.
"""


def with_activations(spec: TargetSpec, kind: str) -> TargetSpec:
    """The same rules with the activations in "uint8" (x86 with VNNI, QNN) or "int8" (Arm).

    What codes save was measured on x86: on Arm nothing of it is given back.
    """
    activation = QuantScheme.activation(spec.activation.bits, signed=kind == "int8")
    between = spec.between
    if kind == "int8" and between is not None:
        between = replace(between, returned=0.0)
    return replace(spec, version=spec.version.replace("uint8", kind), activation=activation, between=between)
