"""Core ML's int8 path as data: int8 tensors in front of convolutions, additions and pooling, float16 between.

Core ML has no integer operations of its own: a package says dequantize -> operation -> quantize, and the Neural Engine
(A17 Pro, M4 and later) runs an operation in integers where its operands come out of a dequantize. Everything else
computes in float16, so a result that no such operation reads stays float16.
"""

from __future__ import annotations

from dataclasses import replace

from qtools.core.target import FastPath, Island, OpRule, Packing, TargetSpec
from qtools.core.types import WEIGHTED, OpKind, QuantScheme

GUIDE = "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-overview.html"
ALGORITHMS = "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-algos.html"
DIALECT = "https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html"

BETWEEN = FastPath(
    ALGORITHMS,
    name="Neural Engine's int8 layers, as documented",
    rest="float16",
    advice="nothing: float16 is what Core ML computes in between",
)

SPEC = TargetSpec(
    name="coreml",
    version="w8a8-1",
    activation=QuantScheme.activation(8),
    rules={
        OpKind.CONV: OpRule(GUIDE, weight_axis=0),
        OpKind.DEPTHWISE_CONV: OpRule(GUIDE, weight_axis=0),
        OpKind.LINEAR: OpRule(DIALECT, weight_axis=0),
        OpKind.ADD: OpRule(ALGORITHMS),
        OpKind.AVG_POOL: OpRule(ALGORITHMS),
        OpKind.MAX_POOL: OpRule(ALGORITHMS, tied=True),
    },
    fused=(),
    expand=frozenset({OpKind.AVG_POOL}),
    suffix=".mlpackage",
    fast_path=BETWEEN,
    scale_dtype="float16",
    float_results=True,
    untimed=frozenset({OpKind.ADD, OpKind.MUL}),
    packing=Packing(
        dict.fromkeys(WEIGHTED, (6, 4, 3, 2)),
        source=f"{ALGORITHMS}; written and evaluated here, never run by Core ML",
        overhead=1024,
    ),
    islands=(
        Island(
            "float", "float16", mac=2.0, element=0.0, source="twice the bits per operand; no Neural Engine was timed"
        ),
    ),
)
PALETTES = ("per_channel", "per_tensor")


def with_palettes(spec: TargetSpec, kind: str) -> TargetSpec:
    """The same rules with weight scales "per_channel" (palettes then need iOS 18) or "per_tensor" (iOS 17 will do)."""
    axis = None if kind == "per_tensor" else 0
    rules = {k: replace(rule, weight_axis=axis) if k in WEIGHTED else rule for k, rule in spec.rules.items()}
    return replace(spec, version=f"{spec.version}-{kind}" if axis is None else spec.version, rules=rules)
