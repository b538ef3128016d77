"""A runtime as data: what its kernels accept and fix, and what its converter makes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qtools.core.types import OpKind, QuantScheme


@dataclass(frozen=True)
class OpRule:
    """What a target's kernel for one OpKind accepts and fixes.

    Attributes:
        source: Address of the page or file the rule was taken from.
        weight_axis: Axis of per-channel weight scales in the program's own layout; None = per tensor.
        tied: True where inputs and output must share one scale (reshape, pooling, concat).
        fixed_output: (scale, zero_point) that the kernel insists on.
        dims: Dimensions of a 4-D value that the kernel reduces, where it takes no others; None = any.
        fused_only: True where there is a kernel only as the lower end of the grid behind another kernel (see
            `TargetSpec.fused`): that grid has to start at zero.
    """

    source: str
    weight_axis: int | None = None
    tied: bool = False
    fixed_output: tuple[float, int] | None = None
    dims: tuple[int, ...] | None = None
    fused_only: bool = False


@dataclass(frozen=True)
class TargetSpec:
    """A runtime as data. A kind without a rule has no integer kernel and stays in float.

    Attributes:
        name: Word used on the command line.
        version: Version of the rules, goes into the plan.
        activation: Grid of 8-bit activations; other widths follow it.
        rules: What each integer kernel wants.
        fused: (producer kind, activation kind) pairs that become one kernel, so that no tensor lies between.
        expand: Composite kinds that the converter takes apart, written out before planning.
        suffix: File ending of the artifact.
        scale_dtype, float_results: Type that stores scales exactly; True where kernels add biases and give floats.
    """

    name: str
    version: str
    activation: QuantScheme
    rules: Mapping[OpKind, OpRule]
    fused: tuple[tuple[OpKind, OpKind], ...]
    expand: frozenset[OpKind]
    suffix: str
    scale_dtype: str = "float32"
    float_results: bool = False
