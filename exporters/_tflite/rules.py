"""LiteRT's full-integer kernels as data: int8 activations per tensor, int8 weights per output channel.

`wide_rules` are the kernels on int16 activations, int8 weights and int64 biases, LiteRT's own: XNNPACK has none.
"""

from __future__ import annotations

from qtools.core.types import OpKind, OpRule, QuantScheme, TargetSpec

SPEC_PAGE = "https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec"
SOURCE_TREE = "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/kernels"

SPEC = TargetSpec(
    name="tflite",
    version="int8-1",
    activation=QuantScheme.activation(8),
    rules={
        OpKind.CONV: OpRule(SPEC_PAGE, weight_axis=0),
        OpKind.DEPTHWISE_CONV: OpRule(SPEC_PAGE, weight_axis=0),
        OpKind.LINEAR: OpRule(f"{SOURCE_TREE}/fully_connected.cc", weight_axis=0),
        OpKind.ADD: OpRule(SPEC_PAGE),
        OpKind.MUL: OpRule(SPEC_PAGE),
        OpKind.MEAN: OpRule(SPEC_PAGE),
        OpKind.RELU: OpRule(f"{SOURCE_TREE}/activations.cc"),
        OpKind.GELU: OpRule(f"{SOURCE_TREE}/activations.cc"),
        OpKind.SIGMOID: OpRule(SPEC_PAGE, fixed_output=(1 / 256, -128)),
        OpKind.RESHAPE: OpRule(SPEC_PAGE, tied=True),
        OpKind.TRANSPOSE: OpRule(SPEC_PAGE, tied=True),
        OpKind.IDENTITY: OpRule(SPEC_PAGE, tied=True),
    },
    fused=(
        (OpKind.CONV, OpKind.RELU),
        (OpKind.DEPTHWISE_CONV, OpKind.RELU),
        (OpKind.LINEAR, OpKind.RELU),
        (OpKind.ADD, OpKind.RELU),
        (OpKind.MUL, OpKind.RELU),
    ),
    expand=frozenset({OpKind.SILU, OpKind.AVG_POOL}),
    suffix=".tflite",
    dynamic=frozenset({OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.LINEAR}),
    clamps=True,
    wide=QuantScheme.activation(16, symmetric=True),
    wide_rules={
        OpKind.CONV: OpRule(SPEC_PAGE, weight_axis=0),
        OpKind.DEPTHWISE_CONV: OpRule(SPEC_PAGE, weight_axis=0),
        OpKind.LINEAR: OpRule(f"{SOURCE_TREE}/fully_connected.cc", weight_axis=0),
        OpKind.ADD: OpRule(SPEC_PAGE),
        OpKind.MUL: OpRule(SPEC_PAGE),
        OpKind.MEAN: OpRule(SPEC_PAGE),
        OpKind.RELU: OpRule(f"{SOURCE_TREE}/activations.cc"),
        OpKind.GELU: OpRule(f"{SOURCE_TREE}/activations.cc"),
        OpKind.SIGMOID: OpRule(f"{SOURCE_TREE}/activations.cc", fixed_output=(1 / 32768, 0)),
        OpKind.RESHAPE: OpRule(SPEC_PAGE, tied=True),
        OpKind.TRANSPOSE: OpRule(SPEC_PAGE, tied=True),
        OpKind.IDENTITY: OpRule(SPEC_PAGE, tied=True),
    },
)
