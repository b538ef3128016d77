"""Which operations of a graph cannot, or should not, run in a target's integer kernels, and why."""

from __future__ import annotations

from collections.abc import Mapping

from calibration.taken_in import taken_in
from calibration.wide import Kernels
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind

PAIRWISE = (OpKind.ADD, OpKind.SUB, OpKind.MUL)
MOVED = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.IDENTITY)
PERIODIC = ("aten.sin.", "aten.cos.")
DYNAMIC = "its kernel takes floats and quantizes them at run time"
BETWEEN = "its values stay in float between kernels that quantize at run time"
BETWEEN_FLOATS = "all that read it run in float"
ENTERING = "brings an input to float operations"
LEAVING = "brings what a float operation made to an output"
ISLAND = "precision island"


def float_ops_of(view: GraphView, kernels: Kernels, unbound: Mapping[str, str]) -> dict[str, str]:
    """Operations that cannot run in integers -> why. What is fused into one of them falls with it."""
    spec = kernels.spec
    found = {op.id: reason for op in view.ops if (reason := _float_reason(op, view, kernels))}
    integer_ops = [op for op in view.ops if op.id not in found]
    swallowed = taken_in(view, spec, integer_ops)
    merged = [op for op in integer_ops if _is_merged(op, kernels, swallowed, unbound)]
    found |= {op.id: f"the {spec.name} converter merged it into a neighbour" for op in merged}
    integer_ops = [op for op in integer_ops if op.id not in found]
    swallowed = taken_in(view, spec, integer_ops)
    alone = [op for op in integer_ops if kernels.rule(op).fused_only and op.inputs[0] not in swallowed]
    found |= {op.id: f"{spec.name} has it only inside the kernel before it, and there is none" for op in alone}
    if spec.float_results:
        return found
    found |= _entering(view, found) | _leaving(view, found)
    return found | _between_floats(view, found, swallowed)


def _entering(view: GraphView, float_ops: Mapping[str, str]) -> dict[str, str]:
    """Moves from an input to float operations alone: in codes an input such as a label would not even equal itself."""
    fed = set(view.inputs)
    for op in view.ops:
        if op.kind in MOVED and op.inputs[0] in fed:
            fed.add(op.outputs[0])
    found: dict[str, str] = {}
    for op in reversed(view.ops):
        readers = view.consumers[op.outputs[0]]
        in_float = bool(readers) and all(reader.id in float_ops or reader.id in found for reader in readers)
        if op.kind in MOVED and op.outputs[0] in fed and in_float:
            found[op.id] = ENTERING
    return found


def _leaving(view: GraphView, float_ops: Mapping[str, str]) -> dict[str, str]:
    """Moves from a float operation to an output: codes there would be rounding that no kernel asks for."""
    leads_out: set[str] = set()
    for op in reversed(view.ops):
        readers = view.consumers[op.outputs[0]]
        ends = op.outputs[0] in view.outputs or bool(readers)
        if op.kind in MOVED and ends and all(reader.outputs[0] in leads_out for reader in readers):
            leads_out.add(op.outputs[0])
    found: dict[str, str] = {}
    for op in view.ops:
        made = view.producer.get(op.inputs[0]) if op.outputs[0] in leads_out else None
        if made is not None and (made.id in float_ops or made.id in found):
            found[op.id] = LEAVING
    return found


def _between_floats(view: GraphView, float_ops: Mapping[str, str], swallowed: Mapping[str, str]) -> dict[str, str]:
    """Sums and products that only float operations read: a grid between them would cost precision and save nothing.

    So the residual stream between LayerNorms stays in float, outlier channels and all; what the linear layers around it
    read and write are codes as before.
    """
    found: dict[str, str] = {}
    for op in reversed(view.ops):
        if op.kind not in PAIRWISE or op.id in float_ops or op.outputs[0] in (*view.outputs, *swallowed):
            continue
        readers = view.consumers[op.outputs[0]]
        if readers and all(reader.id in float_ops or reader.id in found for reader in readers):
            found[op.id] = BETWEEN_FLOATS
    return found


def _float_reason(op: Op, view: GraphView, kernels: Kernels) -> str:
    """Why an operation has to run in float; empty where an integer kernel takes it."""
    rule, target = kernels.get(op), kernels.spec.name
    if op.id in kernels.floats:
        return ISLAND
    if op.id in kernels.dynamic:
        return f"dynamic range: {DYNAMIC if op.kind in kernels.spec.dynamic else BETWEEN}"
    if rule is None:
        name, width = op.attrs.get("aten", op.kind.value), "16-bit" if kernels.is_wide(op) else "integer"
        return f"{target} has no {width} kernel for {name} in these rules"
    if any(not view.values[n].dtype.startswith("float") for n in (*op.inputs, *op.outputs)):
        return "works on integers or booleans already"
    if rule.dims and _reduced(op, view) != rule.dims:
        return f"the {target} kernel reduces dimensions {rule.dims} of a 4-D value only"
    if rule.sampling and (how := op.attrs.get("sampling")) not in rule.sampling:
        return f"the {target} kernel takes no {how} sampling"
    if op.kind in PAIRWISE and len(op.inputs) != 2:
        return "one operand is a number, not a tensor"
    constants = [n for n in op.inputs if view.values[n].const]
    if op.kind in WEIGHTED and op.inputs[1] not in constants:
        return "its weight is computed, not constant"
    if op.kind in WEIGHTED and any(len(view.consumers[n]) > 1 for n in constants):
        return "its weight or bias is shared with another operation"
    if op.kind in WEIGHTED and _is_phase(op, view):
        return "sines and cosines read it: a phase has many turns, and eight bits of it are none"
    if op.kind not in WEIGHTED and not view.fixed.isdisjoint(op.inputs):
        return "one operand is a constant tensor"
    return ""


def _is_phase(op: Op, view: GraphView) -> bool:
    """Whether nothing but sines and cosines read a result, as in features of positions."""
    readers = view.consumers[op.outputs[0]]
    return bool(readers) and all(str(reader.attrs.get("aten", "")).startswith(PERIODIC) for reader in readers)


def _reduced(op: Op, view: GraphView) -> tuple[int, ...]:
    """Dimensions that an operation reduces, counted from the front; empty where the value is not 4-D."""
    rank, dims = len(view.values[op.inputs[0]].shape), op.attrs.get("dims")
    return tuple(sorted(dim % rank for dim in dims)) if rank == 4 and dims is not None else ()


def _is_merged(op: Op, kernels: Kernels, swallowed: Mapping[str, str], unbound: Mapping[str, str]) -> bool:
    """Whether the converter left no tensor where an integer operation would put its codes, or changed its weight."""
    if op.kind in WEIGHTED and op.inputs[1] in unbound:
        return True
    return op.outputs[0] in unbound and op.outputs[0] not in swallowed and not kernels.rule(op).tied
