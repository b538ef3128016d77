"""Which operations cannot run in integers on a target, or gain nothing there; and why, in words."""

from __future__ import annotations

from collections.abc import Mapping, Set

from calibration import near_zero
from calibration.taken_in import taken_in
from calibration.wide import Kernels
from qtools.core.levelled import levels
from qtools.core.products import PAIRWISE, giving_floats
from qtools.core.target import OpRule
from qtools.core.types import TRACELESS, WEIGHTED, GraphView, Op, OpKind

DYNAMIC = "dynamic range: its kernel takes floats and quantizes them at run time"
BETWEEN = "dynamic range: its values stay in float between kernels that quantize at run time"
BETWEEN_FLOATS = "everything around it runs in float"
ISLAND = "precision island"
IN_FLOAT = "float rounds nothing, where that pays"
LEVELLING = "levels the channels of a float in front of codes"
PERIODIC = ("aten.sin.", "aten.cos.")


def find(view: GraphView, kernels: Kernels, unbound: Mapping[str, str]) -> dict[str, str]:
    """Operations that run in float -> why. What is fused into one of them falls with it.

    Args:
        view: The captured graph.
        kernels: The target's rules, and what was asked to stay in float.
        unbound: Values that the lowered artifact has no tensor for.
    """
    spec = kernels.spec
    found = {op.id: reason for op in view.ops if (reason := _float_reason(op, view, kernels))}
    found |= near_zero.find(view, kernels, found)
    found |= _merged(view, kernels, found, unbound)
    integer_ops = [op for op in view.ops if op.id not in found]
    swallowed = taken_in(view, spec, integer_ops)
    alone = [op for op in integer_ops if kernels.rule(op).fused_only and op.inputs[0] not in swallowed]
    found |= {op.id: f"{spec.name} has it only inside the kernel before it, and there is none" for op in alone}
    return found if spec.float_results else found | _between_floats(view, kernels, found)


def _merged(
    view: GraphView, kernels: Kernels, float_ops: Mapping[str, str], unbound: Mapping[str, str]
) -> dict[str, str]:
    """Operations for whose codes, or operands' codes, the converter left no tensor."""
    found: dict[str, str] = {}
    while True:
        integer_ops = [op for op in view.ops if op.id not in float_ops and op.id not in found]
        swallowed = taken_in(view, kernels.spec, integer_ops)
        in_codes = {op.id for op in integer_ops}
        more = {op.id for op in integer_ops if _is_merged(op, swallowed, unbound)}
        more |= {op.id for op in integer_ops if _reads_what_is_gone(op, view, in_codes, unbound)}
        if not more:
            return found
        found |= dict.fromkeys(more, f"the {kernels.spec.name} converter merged it into a neighbour")


def _is_merged(op: Op, swallowed: Mapping[str, str], unbound: Mapping[str, str]) -> bool:
    """Whether the converter left no tensor where an integer operation would put its codes, or changed its constants."""
    if op.kind in WEIGHTED and not unbound.keys().isdisjoint(op.inputs[1:]):
        return True
    return op.outputs[0] in unbound and op.outputs[0] not in swallowed and op.kind not in TRACELESS


def _reads_what_is_gone(op: Op, view: GraphView, in_codes: Set[str], unbound: Mapping[str, str]) -> bool:
    """Whether an operand is made in float and has no tensor: nothing can turn it into codes."""
    makers = [view.producer[name] for name in op.inputs if name in unbound and name in view.producer]
    return any(maker.id not in in_codes for maker in makers)


def _between_floats(view: GraphView, kernels: Kernels, float_ops: Mapping[str, str]) -> dict[str, str]:
    """Where a grid would cost precision and save nothing: sums and products read in float, moves from float to float.

    So the residual stream between LayerNorms stays in float, outlier channels and all; what the linear layers around it
    read and write are codes as before, or are given as floats by kernels that can. To moves an input or an output is
    nobody who needs codes: a label that is moved and then compared would not even equal itself on a grid.
    """
    integer_ops = [op for op in view.ops if op.id not in float_ops]
    swallowed = taken_in(view, kernels.spec, integer_ops)
    giving = giving_floats(view, kernels.spec) - float_ops.keys()
    able = {
        op.id: op
        for op in integer_ops
        if op.outputs[0] not in swallowed
        if kernels.rule(op).tied or (op.kind in PAIRWISE and _is_inside(op, view))
    }
    while True:
        others = {op.id for op in integer_ops if op.id not in able}
        makers = others - giving
        lost = {
            name for name, op in able.items() if _touches(op, view, others, set() if op.kind in PAIRWISE else makers)
        }
        unread = able.keys() - _read_in_float(view, able, float_ops)
        lost |= {name for name in unread if able[name].kind in PAIRWISE or _touches(able[name], view, set(), giving)}
        if not lost:
            return dict.fromkeys(able, BETWEEN_FLOATS)
        able = {name: op for name, op in able.items() if name not in lost}


def given_as_floats(view: GraphView, kernels: Kernels, float_ops: Mapping[str, str]) -> frozenset[str]:
    """Results that integer kernels give as floats, because nothing else reads them.

    Args:
        view: The captured graph.
        kernels: The target's rules.
        float_ops: What runs in float.
    """
    giving = giving_floats(view, kernels.spec) - float_ops.keys()
    makers = [op for op in view.ops if op.id in giving]
    made = [name for op in makers for name in op.outputs if name not in view.outputs and view.consumers[name]]
    return frozenset(name for name in made if all(reader.id in float_ops for reader in view.consumers[name]))


def _read_in_float(view: GraphView, able: Mapping[str, Op], float_ops: Mapping[str, str]) -> set[str]:
    """The able whose results an operation in float reads in the end; an output alone needs no floats."""
    found: set[str] = set()
    for op in reversed(view.ops):
        readers = {reader.id for name in op.outputs for reader in view.consumers[name]}
        if op.id in able and not (float_ops.keys() | found).isdisjoint(readers):
            found.add(op.id)
    return found


def _is_inside(op: Op, view: GraphView) -> bool:
    return op.outputs[0] not in view.outputs and bool(view.consumers[op.outputs[0]])


def _data(op: Op, view: GraphView) -> list[str]:
    return [name for name in op.inputs if not view.values[name].const]


def _touches(op: Op, view: GraphView, readers: Set[str], makers: Set[str]) -> bool:
    """Whether one of the readers reads what an operation makes, or one of the makers makes what it reads."""
    reading = [reader.id for name in op.outputs for reader in view.consumers[name]]
    making = [view.producer[name].id for name in _data(op, view) if name in view.producer]
    return not (readers.isdisjoint(reading) and makers.isdisjoint(making))


def _float_reason(op: Op, view: GraphView, kernels: Kernels) -> str:
    """Why an operation has to run in float; empty where an integer kernel takes it."""
    rule, target = kernels.get(op), kernels.spec.name
    if chosen := _chosen(op, kernels):
        return chosen
    if levels(op):
        return LEVELLING
    if rule is None:
        name, width = op.attrs.get("aten", op.kind.value), "16-bit" if kernels.is_wide(op) else "integer"
        return f"{target} has no {width} kernel for {name} in these rules"
    if any(not view.values[n].dtype.startswith("float") for n in (*op.inputs, *op.outputs)):
        return "works on integers or booleans already"
    if form := _unsupported_form(op, rule, view):
        return f"the {target} kernel {form}"
    if rule.centered and kernels.cut:
        return "one operand's zero point has to be at 0, and codes that are cut have theirs elsewhere"
    if op.kind is OpKind.PAD and op.attrs["value"]:
        return f"it adds {op.attrs['value']:g}, and codes can only be padded with zero"
    if op.kind in PAIRWISE and len(op.inputs) != 2 and not (rule.number and op.attrs.get("number")):
        return "one operand is a number, not a tensor"
    if op.kind in WEIGHTED:
        return _reason_of_layer(op, view)
    return "" if view.fixed.isdisjoint(op.inputs) else "one operand is a constant tensor"


def _unsupported_form(op: Op, rule: OpRule, view: GraphView) -> str:
    """What an integer kernel does only, where the operation is another form of its kind."""
    if rule.dims and _reduced(op, view) != rule.dims:
        return f"reduces dimensions {rule.dims} of a 4-D value only"
    if rule.even and not op.attrs.get("even"):
        return "pools over even windows only"
    if rule.unpadded and not op.attrs.get("unpadded"):
        return "pools without padding only"
    if rule.sampling and (how := op.attrs.get("sampling")) not in rule.sampling:
        return f"takes no {how} sampling"
    return ""


def _chosen(op: Op, kernels: Kernels) -> str:
    """Who wants an operation in float that could run in integers; empty for nobody."""
    if op.id in kernels.floats:
        return ISLAND
    if op.id in kernels.dynamic and op.kind in kernels.spec.dynamic:
        return DYNAMIC
    if op.id in kernels.between:
        return IN_FLOAT
    return BETWEEN if op.id in kernels.dynamic else ""


def _reason_of_layer(op: Op, view: GraphView) -> str:
    """The same for an operation with weights that has a kernel."""
    constants = [n for n in op.inputs if view.values[n].const]
    if op.inputs[1] not in constants:
        return "its weight is computed, not constant"
    if any(len(view.consumers[n]) > 1 for n in constants):
        return "its weight or bias is shared with another operation"
    if _is_phase(op, view):
        return "sines and cosines read it: a phase has many turns, and eight bits of it are none"
    return ""


def _is_phase(op: Op, view: GraphView) -> bool:
    """Whether nothing but sines and cosines read a result, as in features of positions."""
    readers = view.consumers[op.outputs[0]]
    return bool(readers) and all(str(reader.attrs.get("aten", "")).startswith(PERIODIC) for reader in readers)


def _reduced(op: Op, view: GraphView) -> tuple[int, ...]:
    """Dimensions that an operation reduces, counted from the front; empty where the value is not 4-D."""
    rank, dims = len(view.values[op.inputs[0]].shape), op.attrs.get("dims")
    return tuple(sorted(dim % rank for dim in dims)) if rank == 4 and dims is not None else ()
