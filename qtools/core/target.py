"""A runtime as data: what its kernels accept and fix, and what its converter makes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
        even: True where the kernel pools over windows of one size only, cut from the padded map in full.
        unpadded: True where the kernel pools over windows that lie on the map only: padding is an operation in float.
        sampling: Ways to enlarge a map (attribute of a RESIZE) that the kernel has; None = all.
        delegated: False where the runtime's fast path leaves the integer kernel to the runtime itself.
        converted: True where that path moves codes to another grid instead, if it comes to the same
            (`qtools.core.conversion`).
        advice: What a reader of a report can do where it is not.
        ratios: [lowest, highest) of operand scale (for MUL: product of operand scales) over output scale that the
            fast path takes; None = any.
        varying: True where that path wants every operand to change with the input.
        fused_only: True where there is a kernel only as the lower end of the grid behind another kernel (see
            `TargetSpec.fused`): that grid has to start at zero.
        number: True where one operand may be a number, which is written as a constant of one code.
        centered: Positions of operands whose zero point has to be 0.
        gives_floats: True where the kernel gives floats instead of codes at no price, that of a convolution if it is
            written as a product of matrices: what only float operations read is then rounded by nobody.
    """

    source: str
    weight_axis: int | None = None
    tied: bool = False
    fixed_output: tuple[float, int] | None = None
    dims: tuple[int, ...] | None = None
    even: bool = False
    unpadded: bool = False
    sampling: tuple[str, ...] | None = None
    fused_only: bool = False
    delegated: bool = True
    converted: bool = False
    advice: str = ""
    ratios: tuple[float, float] | None = None
    varying: bool = False
    number: bool = False
    centered: tuple[int, ...] = ()
    gives_floats: bool = False


@dataclass(frozen=True)
class FastPath:
    """The part of a runtime that a graph should not leave.

    Attributes:
        source: Address of the page or file that says what it takes.
        name: What a report calls it.
        rest: What a report calls that which runs everything else.
        floats: What it computes in float too: kinds, or the framework's own names of operations.
        unpadded: Kinds whose padding is an operation of its own, which it leaves.
        operands: Most operands of a kind that it takes, where there is a limit.
        parts: True where it takes the graph in pieces, each handed over at a price.
        advice: What to do about an operation in float, where the answer is one for all kinds.
        rest_in_integers: Whether what runs everything else has integer kernels of its own.
    """

    source: str
    name: str
    rest: str
    floats: frozenset[str] = frozenset()
    unpadded: frozenset[OpKind] = frozenset()
    operands: Mapping[OpKind, int] = field(default_factory=dict)
    parts: bool = False
    rest_in_integers: bool = False
    advice: str = ""


@dataclass(frozen=True)
class Island:
    """A way to compute a few operations more precisely than in the target's 8-bit kernels.

    Attributes:
        kind: What the planner makes of them: 16-bit codes, float activations over int8 weights, or float.
        words: What a report calls it.
        mac: Time of a multiply-accumulate over that of one in 8 bits.
        element: Further time per element that such an operation reads or writes, in 8-bit multiply-accumulates.
        source: Where the two numbers were seen.
    """

    kind: Literal["wide", "dynamic", "float"]
    words: str
    mac: float
    element: float
    source: str


@dataclass(frozen=True)
class LayerTime:
    """What a layer takes.

    Attributes:
        mac: Per multiply-accumulate.
        element: Per element that it writes.
        tap: Per position of a window that is gathered, for each place of the result, whatever the channels; windows of
            one position need no gathering.
    """

    mac: float
    element: float
    tap: float = 0.0


@dataclass(frozen=True)
class Between:
    """What operations take on codes and on floats, in multiply-accumulates of an 8-bit layer.

    Attributes:
        times: Kind -> (on codes, in float), per multiply-accumulate of its own, or per element that it writes where it
            has none.
        layer: Of a layer on codes.
        plain: Of a layer in float.
        conversion: Per element that is made codes of floats, or floats of codes.
        call: Per value that is so converted, whatever its size.
        other: Per multiply-accumulate, and per element that it writes, of an operation that is always in float.
        table: Per element of a function in float that has codes on both sides, without any conversion; None where the
            runtime makes no tables.
        dynamic: Per multiply-accumulate, and per element that it reads or writes, of a layer on floats over int8
            weights, which quantizes what it reads at run time.
        either: Kinds that are always in float, and lie in memory as their neighbours do: on codes they take their
            conversions too.
        most: Share of the multiply-accumulates that may leave integers for nearness or time; None: no limit.
        given: Percent of its time that a network with attention may give for nearness, where nobody says.
        returned: Percent of what codes save of float's time that any other may give, where each spares enough noise
            (`calibration.time_given`).
        source: Where the numbers were seen.
    """

    times: Mapping[OpKind, tuple[float, float]]
    layer: LayerTime
    plain: LayerTime
    conversion: float
    call: float
    other: tuple[float, float]
    source: str
    table: float | None = None
    dynamic: tuple[float, float] = (0.0, 0.0)
    either: frozenset[OpKind] = frozenset()
    most: float | None = None
    given: float = 0.0
    returned: float = 0.0


@dataclass(frozen=True)
class Packing:
    """Weights below the container's width in as many bits as their grid has, read by the same kernels.

    Attributes:
        widths: Widths of each kind that files hold so and that the fast path computes with, widest first.
        source: Where that was seen.
        pointwise: Kinds of which only convolutions of single positions can have it.
        even: Whether a layer has to sum over an even number of inputs.
        overhead: Bytes that a layer so stored takes beyond its codes.
    """

    widths: Mapping[OpKind, tuple[int, ...]]
    source: str
    pointwise: frozenset[OpKind] = frozenset()
    even: bool = False
    overhead: int = 0


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
        scales_queries: Whether attention so written multiplies its queries by its number, or the scores behind them:
            scores are more, but a kernel that gives them as floats can do it at no price.
        suffix: File ending of the artifact.
        fast_path: Where an operation should run; None where nobody has looked.
        scale_dtype, float_results: Type that stores scales exactly; True where kernels add biases and give floats.
        dynamic: Kinds with a kernel on int8 weights that takes and gives floats, and quantizes them at run time.
        weight_room: True where narrow weights lie in containers of the activations' width, with room for wider codes.
        clamps: True where a QUANTIZE can cut codes at the ends of a grid narrower than its container.
        wide: Grid of 16-bit activations; None where no kernel takes them.
        wide_rules: What each kernel on such activations wants; its operands and its result all have that width.
        packing: How weights of fewer bits take fewer bytes; None where every weight takes one.
        islands: How single values can be held more precisely; none where the runtime wants whole graphs of codes.
        between: What operations take on codes and in float; None where that is not known.
        untimed: Kinds of few multiply-accumulates that may be in float, or be added there, though that is not known.
    """

    name: str
    version: str
    activation: QuantScheme
    rules: Mapping[OpKind, OpRule]
    fused: tuple[tuple[OpKind, OpKind], ...]
    expand: frozenset[OpKind]
    suffix: str
    fast_path: FastPath | None = None
    scales_queries: bool = False
    scale_dtype: str = "float32"
    float_results: bool = False
    dynamic: frozenset[OpKind] = frozenset()
    weight_room: bool = False
    clamps: bool = False
    wide: QuantScheme | None = None
    wide_rules: Mapping[OpKind, OpRule] = field(default_factory=dict)
    islands: tuple[Island, ...] = ()
    between: Between | None = None
    untimed: frozenset[OpKind] = frozenset()
    packing: Packing | None = None

    @property
    def title(self) -> str:
        """Name and version, as a plan names what it was made for."""
        return f"{self.name} {self.version}"

    def rule(self, kind: OpKind, *, wide: bool) -> OpRule | None:
        """The rule of a kind's kernel of either width; None where there is no such kernel."""
        return (self.wide_rules if wide else self.rules).get(kind)
