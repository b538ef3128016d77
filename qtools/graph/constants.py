"""Exact: what a graph computes from its constants alone is computed once and becomes a constant.

Position encodings, window indices and standardised weights are written out by models on every call. Left in the graph
they are integer and boolean tensors that no converter and no observer has a use for. What several layers share is given
to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

aten = torch.ops.aten

PREFIX = "folded_"
_BROADCASTING = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
_KEPT = (aten.expand.default, aten.clone.default)  # an expand to the batch size would make a constant of every size

LAYERS = (aten.conv2d.default, aten.linear.default)
"""Operations with a weight and a bias."""
_DROPOUT = 4
"""Place of `dropout_p` among the arguments of attention."""


def fold_constants(exported: torch.export.ExportedProgram, constants: Mapping[str, torch.Tensor]) -> None:
    """Folds in place; constants that nothing reads any more go.

    Args:
        exported: A functional program.
        constants: Value id -> tensor of every parameter, buffer and lifted constant.
    """
    graph = exported.graph
    fixed = _fixed(graph, constants)
    folded = [node for node, value in fixed.items() if _is_frontier(node, value, fixed)]
    if not folded:
        return
    before = {node for node in graph.nodes if node.op == "placeholder" and node.users}
    for index, node in enumerate(folded):
        _replace(exported, node, fixed[node], f"{PREFIX}{index}")
    for node in reversed(list(graph.nodes)):
        if node in fixed and node.op == "call_function" and not node.users:
            graph.erase_node(node)
    for node in [node for node in graph.nodes if node in before and node in fixed and not node.users]:
        specs = exported.graph_signature.input_specs
        specs[:] = [spec for spec in specs if spec.arg.name != node.name]
        graph.erase_node(node)


def part_shared(exported: torch.export.ExportedProgram) -> None:
    """Gives each layer weights and biases of its own, in place, where a module is called more than once.

    Inputs of different ranges want different biases on their grids, and what calibration corrects in one place is not
    what it corrects in another.
    """
    for node in [node for node in exported.graph.nodes if node.op == "placeholder" and len(node.users) > 1]:
        value = constant_of(exported, node)
        for layer in [user for user in node.users if user.target in LAYERS][1:] if value is not None else ():
            own = put_constant(exported, value, f"{node.name}_of_{layer.name}")
            own.meta = dict(node.meta)
            layer.replace_input_with(node, own)


def constant_of(exported: torch.export.ExportedProgram, node: fx.Node) -> torch.Tensor | None:
    """The tensor of a parameter, buffer or lifted constant; None for what is computed or comes in."""
    if node.op != "placeholder":
        return None  # without asking: torch makes its tables of constants anew at every look
    store, name = _stored(exported, node)
    return None if store is None else store[name]


def replace_constant(exported: torch.export.ExportedProgram, node: fx.Node, value: torch.Tensor) -> None:
    """Puts another tensor of the same shape in a constant's place; the module it came from keeps its own."""
    store, name = _stored(exported, node)
    assert store is not None  # the caller asked `constant_of`
    store[name] = value


def _stored(exported: torch.export.ExportedProgram, node: fx.Node) -> tuple[dict[str, Any] | None, str]:
    signature = exported.graph_signature
    kept = signature.inputs_to_parameters.get(node.name) or signature.inputs_to_buffers.get(node.name)
    if kept is not None:
        return (exported.state_dict if kept in exported.state_dict else exported.constants), kept
    lifted = signature.inputs_to_lifted_tensor_constants.get(node.name)
    return (None, "") if lifted is None else (exported.constants, lifted)


def serves_alone(node: fx.Node, several: torch.Tensor, one: torch.Tensor) -> bool:
    """Whether a constant of the graph at batch 1 can stand for the one of a larger batch.

    Args:
        node: The constant in the graph of the larger batch.
        several: Its value there.
        one: The constant at batch 1.
    """
    if several.shape == one.shape:
        return True
    repeated = several.shape[1:] == one.shape[1:] and torch.equal(several, several[:1].expand_as(several))
    return repeated and len(one) == 1 and all(user.target in _BROADCASTING for user in node.users)


def _fixed(graph: fx.Graph, constants: Mapping[str, torch.Tensor]) -> dict[fx.Node, Any]:
    """Node -> value of every node that no input reaches, constants among them."""
    fixed: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder" and node.name in constants:
                fixed[node] = constants[node.name]
            elif _can_be_folded(node) and all(source in fixed for source in node.all_input_nodes):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: fixed[source])
                fixed[node] = node.target(*args, **kwargs)
    return fixed


def _can_be_folded(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target not in _KEPT and not _is_random(node)


def _is_random(node: fx.Node) -> bool:
    """Whether an operation draws numbers; attention only does where it drops some."""
    if node.target is aten.scaled_dot_product_attention.default:
        dropped = node.args[_DROPOUT] if len(node.args) > _DROPOUT else node.kwargs.get("dropout_p", 0.0)
        return dropped != 0
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_frontier(node: fx.Node, value: Any, fixed: Mapping[fx.Node, Any]) -> bool:
    """Whether something that is computed from an input reads the node."""
    computed = node.op == "call_function" and isinstance(value, torch.Tensor)
    return computed and any(user not in fixed and user.op != "output" for user in node.users)


def put_constant(exported: torch.export.ExportedProgram, value: torch.Tensor, name: str) -> fx.Node:
    """A new lifted constant in front of the program's inputs; what its value looks like is for the caller to say."""
    signature = exported.graph_signature
    places = [i for i, spec in enumerate(signature.input_specs) if spec.kind is InputKind.USER_INPUT]
    first = next(n for n in exported.graph.nodes if n.op == "placeholder" and n.name in signature.user_inputs)
    with exported.graph.inserting_before(first):
        constant: fx.Node = exported.graph.placeholder(name)
    spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(constant.name), name)
    signature.input_specs.insert(places[0], spec)
    exported.constants[name] = value.detach().clone().contiguous()
    return constant


def _replace(exported: torch.export.ExportedProgram, node: fx.Node, value: torch.Tensor, name: str) -> None:
    """Puts a lifted constant of that name in the node's place."""
    constant = put_constant(exported, value, name)
    constant.meta = {"val": node.meta["val"]}
    node.replace_all_uses_with(constant)
