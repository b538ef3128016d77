"""Values of 16 bits beside values of 8: which go together, and on which grids readers of the other width take them.

A kernel has operands and a result of one width, so that a value has the width of the kernel that makes it, and a
reader of the other width reads it behind a QUANTIZE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from calibration.taken_in import taken_in
from calibration.ties import tied_groups
from qtools.core import numerics
from qtools.core.target import OpRule, TargetSpec
from qtools.core.types import GraphView, Op, QuantParams, ValuePlan


@dataclass(frozen=True)
class Kernels:
    """A target's rules, each operation's at its own width.

    Attributes:
        spec: The target.
        wide: Values that are made at 16 bits.
        dynamic: Operations between which activations stay in float, over int8 weights where there are such kernels.
        floats: Operations in float, weights and all.
        between: Those in float because that pays (`calibration.sides`).
        cut: Whether codes are cut at the ends of narrow grids, which then have their zero points elsewhere.
    """

    spec: TargetSpec
    wide: frozenset[str] = frozenset()
    dynamic: frozenset[str] = frozenset()
    floats: frozenset[str] = frozenset()
    between: frozenset[str] = frozenset()
    cut: bool = False

    def is_wide(self, op: Op) -> bool:
        """Whether an operation runs in a 16-bit kernel, or would if there were one."""
        return op.outputs[0] in self.wide

    def get(self, op: Op) -> OpRule | None:
        """The rule of an operation; None where it has no integer kernel."""
        return self.spec.rule(op.kind, wide=self.is_wide(op))

    def rule(self, op: Op) -> OpRule:
        """The rule of an operation that runs in integers."""
        rule = self.get(op)
        assert rule is not None, op.id
        return rule


def raised(view: GraphView, spec: TargetSpec, asked: Set[str], known: Set[str]) -> frozenset[str]:
    """Everything that has to be 16 bits wide where some values are to be.

    Args:
        view: The captured graph.
        spec: The target's rules.
        asked: Values to raise.
        known: Values whose codes are given (bytes of a picture): they stay as they are.

    Returns:
        The asked ones, what is tied to them, and what lies inside the kernels that make them.
    """
    if not asked:
        return frozenset()
    inside = taken_in(view, spec, view.ops)
    found = set(asked) | {inside[name] for name in asked if name in inside}
    for members in tied_groups(view, spec, [op for op in view.ops if op.kind in spec.rules]).values():
        if known & set(members):
            found -= set(members)
        elif found & set(members):
            found |= set(members)
    for name, leaves in inside.items():
        (found.add if leaves in found else found.discard)(name)
    return frozenset(found)


def together(view: GraphView, spec: TargetSpec, asked: Set[str]) -> frozenset[str]:
    """Operations, and those that are one kernel with any of them."""
    found = set(asked)
    for name, leaves in taken_in(view, spec, view.ops).items():
        pair = {view.producer[name].id, view.producer[leaves].id}
        found |= pair if found & pair else set()
    return frozenset(found)


def conversions(
    integer_ops: Sequence[Op], kernels: Kernels, values: Mapping[str, ValuePlan], narrow: Mapping[str, QuantParams]
) -> dict[str, ValuePlan]:
    """The values that kernels of both widths meet, with the grids of those that do not make them.

    Args:
        integer_ops: Operations that run in integers.
        kernels: The rules.
        values: Decisions so far.
        narrow: Wide value -> the grid of its 8-bit readers.
    """
    found: dict[str, ValuePlan] = {}
    if kernels.spec.wide is None:
        return found  # no kernels of another width; a grid of 16 bits stands for a float type there
    for op in integer_ops:
        for name in op.inputs:
            entry = found.get(name, values.get(name))
            if entry is None or entry.params is None or entry.params.scheme.wide == kernels.is_wide(op):
                continue
            grid = narrow[name] if entry.params.scheme.wide else exactly(entry.params, kernels.spec)
            found[name] = replace(entry, reads={**entry.reads, op.id: grid})
    return found


def exactly(params: QuantParams, spec: TargetSpec) -> QuantParams:
    """The 16-bit grid on which every code of an 8-bit grid has a code of its own: nothing is lost on the way up."""
    assert spec.wide is not None  # planned for a target that has such kernels
    return numerics.widened(params, spec.wide)


def with_scale(entry: ValuePlan, params: QuantParams, spec: TargetSpec) -> ValuePlan:
    """A decision on another grid; 16-bit readers of an 8-bit value follow it."""
    follow = {reader: exactly(params, spec) if grid.scheme.wide else grid for reader, grid in entry.reads.items()}
    made = entry.made and replace(entry.made, scale=params.scale)
    return replace(entry, params=params, made=made, reads=entry.reads if params.scheme.wide else follow)
