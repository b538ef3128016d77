"""nn.Module -> Program: a functional torch.export graph, its constants, and the GraphView over both."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import torch
from torch import fx, nn

from qtools.core.errors import CheckFailed, InputError
from qtools.core.levelled import factors_of, levelled
from qtools.core.ports import IMAGE, Ports
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind, Value
from qtools.graph.classify import classify
from qtools.graph.constants import fold_constants, part_shared, serves_alone
from qtools.graph.factors import put_factors
from qtools.graph.rank import lower_rank
from qtools.graph.rewrite import expansions, simplify
from qtools.graph.rows import Rows, gives_of, outputs_of
from qtools.graph.scales import fold_scales, scale_scores

CAPTURE_TOLERANCE = 1e-4
"""Largest |captured - module| / max(1, |module|) accepted: float32 reassociation in a network, not a changed graph."""

_EXPORTING = Lock()
"""torch.export patches torch while it runs; batches of a size not seen before may come from several threads."""


@dataclass(frozen=True)
class Program:
    """A captured model.

    Attributes:
        exported: The functional graph at batch 1; its node names are the value ids.
        view: The same graph as plain data.
        constants: Value id -> tensor, for weights, biases and folded constants.
        max_error: Largest relative difference to the module it was captured from, on the example.
        takes: Its inputs, in the order of `view.inputs`.
        gives: Its outputs, in the order of `view.outputs`.
    """

    exported: torch.export.ExportedProgram
    view: GraphView
    constants: Mapping[str, torch.Tensor]
    max_error: float
    takes: Ports
    gives: Ports
    _source: nn.Module
    _expand: frozenset[OpKind]
    _scale_queries: bool
    _graphs: dict[int, fx.Graph] = field(default_factory=dict)
    _axes: Mapping[str, int] = field(default_factory=dict)

    def graph(self, batch: int) -> fx.Graph:
        """The graph for a batch size. Shapes are static, so each size is captured once and kept.

        Raises:
            CheckFailed: If the model takes another path at this batch size (see `batch_size`).
        """
        with _EXPORTING:
            return self._graph(batch)

    def _graph(self, batch: int) -> fx.Graph:
        if batch not in self._graphs:
            examples = tuple(torch.zeros(batch, *shape[1:]) for shape in self.takes.shapes)
            exported = _export(self._source, examples, self._expand, self._scale_queries)
            graph, constants = exported.graph, _constants(exported)
            put = {name for value in self._axes for name in (levelled(value), factors_of(value))}
            plain = [node for node in self.exported.graph.nodes if node.name not in put]
            if [(n.op, n.target) for n in graph.nodes] != [(n.op, n.target) for n in plain]:
                raise CheckFailed(f"the graph at batch {batch} differs from the graph at batch 1")
            for node, known in zip(graph.nodes, plain, strict=True):
                if node.name in constants and not serves_alone(node, constants[node.name], self.constants[known.name]):
                    raise CheckFailed(f"{known.name}, a constant, depends on the batch size: it is another at {batch}")
                node.name = known.name  # what torch called it may hang on the batch size
            put_factors(exported, self._axes)
            self._graphs[batch] = graph
        return self._graphs[batch]

    def batch_size(self, wanted: int) -> int:
        """The batch size to run at: `wanted`, or 1 where the model takes another path for more images at once."""
        try:
            self.graph(wanted)
        except CheckFailed:
            return 1
        return wanted

    def levelled(self, values: Sequence[str]) -> Program:
        """The same with a factor per channel, of ones, behind these values (`qtools.core.levelled`).

        Args:
            values: Value ids of activations with channels; none may be an output.
        """
        examples = tuple(torch.zeros(shape) for shape in self.takes.shapes)
        with _EXPORTING:
            exported = _export(self._source, examples, self._expand, self._scale_queries)
        axes = {**self._axes, **{value: self.view.values[value].channel_axis or 0 for value in values}}
        put_factors(exported, axes)
        constants = _constants(exported)
        view, graphs = _view(exported, constants), {1: exported.graph}
        made = replace(self, exported=exported, view=view, constants=constants, _graphs=graphs, _axes=axes)
        return made.with_constants(self.constants)

    def with_constants(self, new: Mapping[str, torch.Tensor]) -> Program:
        """The same graph over other weights.

        Args:
            new: Value id -> tensor of the shape and type it replaces; all other constants are kept.
        """
        signature = self.exported.graph_signature
        state, lifted = dict(self.exported.state_dict), dict(self.exported.constants)
        for node, tensor in new.items():
            parameter = signature.inputs_to_parameters.get(node) or signature.inputs_to_buffers.get(node)
            if parameter in state:
                state[parameter] = nn.Parameter(tensor, requires_grad=False)
            else:
                lifted[parameter or signature.inputs_to_lifted_tensor_constants[node]] = tensor
        exported = torch.export.ExportedProgram(
            root=self.exported.graph_module,
            graph=self.exported.graph,
            graph_signature=signature,
            state_dict=state,
            range_constraints=self.exported.range_constraints,
            module_call_graph=self.exported.module_call_graph,
            example_inputs=self.exported.example_inputs,
            constants=lifted,
        )
        return replace(self, exported=exported, constants={**self.constants, **new})


def capture(
    module: nn.Module, example: torch.Tensor, expand: frozenset[OpKind] = frozenset(), *, scale_queries: bool = False
) -> Program:
    """Captures an inference graph and proves that it computes what the module computes.

    Args:
        module: A fused model in eval mode; one of several inputs as `Rows`.
        example: float32 input of shape (1, 3, height, width), or a row.
        expand: Composite kinds to write out (see `qtools.graph.rewrite`).
        scale_queries: Whether attention so written multiplies its queries by its number, or its scores.

    Raises:
        InputError: If torch.export cannot follow the model.
        CheckFailed: If the captured graph and the module disagree on the example.
    """
    with torch.inference_mode():
        expected = module(
            example
        )  # first: what a module keeps of its first run is then in the graph of every batch size
    network = module.network if isinstance(module, Rows) else module
    examples = module.takes.split(example) if isinstance(module, Rows) else (example,)
    exported = _export(network, examples, expand, scale_queries)
    constants = _constants(exported)
    view = _view(exported, constants)
    with torch.inference_mode():
        actual = exported.module()(*examples)
    if isinstance(module, Rows):
        takes, gives = module.takes, module.gives
        expected = gives.split(expected)
    else:
        takes, gives = Ports((IMAGE,), (tuple(example.shape),)), gives_of(outputs_of(actual))
    pairs = zip(outputs_of(actual), outputs_of(expected), strict=True)
    error = max(float(((a - b).abs().max() / b.abs().max().clamp_min(1)).item()) for a, b in pairs)
    if not error <= CAPTURE_TOLERANCE:
        raise CheckFailed(f"the captured graph differs from the model by {error:.2e} (limit {CAPTURE_TOLERANCE:.0e})")
    return Program(exported, view, constants, error, takes, gives, network, expand, scale_queries, {1: exported.graph})


def _export(
    module: nn.Module, examples: tuple[torch.Tensor, ...], expand: frozenset[OpKind], scale_queries: bool
) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about its own internals
        try:
            exported = torch.export.export(module, examples)
        except Exception as error:  # broad: torch.export raises anything, and the user can only change the model
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"torch.export cannot follow {type(module).__name__}: {reason}",
                "make its forward free of data-dependent control flow",
            ) from error
        # an empty table still makes the graph functional: no in-place operation, no dropout
        functional = exported.run_decompositions(expansions(expand, scale_queries=scale_queries))
        simplify(functional.graph)
        fold_constants(functional, _constants(functional))
        part_shared(functional)
        fold_scales(functional)
        if OpKind.ATTENTION in expand and not scale_queries:
            scale_scores(functional)
        lower_rank(functional.graph)
        functional.graph_module.recompile()
        return functional


def _constants(exported: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    signature = exported.graph_signature
    found: dict[str, torch.Tensor] = {}
    for node, name in signature.inputs_to_parameters.items():
        found[node] = exported.state_dict[name].detach()
    for node, name in signature.inputs_to_buffers.items():
        buffer = exported.state_dict.get(name)
        found[node] = exported.constants[name] if buffer is None else buffer.detach()
    for node, name in signature.inputs_to_lifted_tensor_constants.items():
        found[node] = exported.constants[name]
    return found


def _view(exported: torch.export.ExportedProgram, constants: Mapping[str, torch.Tensor]) -> GraphView:
    values: dict[str, Value] = {}
    ops: list[Op] = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            values[node.name] = _value(node, const=node.name in constants)
        elif node.op == "call_function" and not is_getitem(node):
            outputs = [u for u in node.users if is_getitem(u)] if _is_tuple(node) else [node]
            for out in outputs:
                values[out.name] = _value(out, const=False)
            kind, attrs = classify(node)
            inputs = _operands(node)
            ops.append(Op(node.name, kind, inputs, tuple(o.name for o in outputs), attrs, _module_path(node)))
    for op in ops:
        if op.kind in WEIGHTED and op.inputs[1] in constants:
            weight = values[op.inputs[1]]
            values[weight.id] = Value(weight.id, weight.shape, weight.dtype, True, 0)
    return GraphView(
        values,
        tuple(ops),
        tuple(n for n in exported.graph_signature.user_inputs if isinstance(n, str)),
        tuple(str(n) for n in exported.graph_signature.user_outputs),
    )


def _value(node: fx.Node, *, const: bool) -> Value:
    tensor = node.meta["val"]
    shape = tuple(int(s) for s in tensor.shape)
    axis = None if const or len(shape) < 2 else (1 if len(shape) == 4 else len(shape) - 1)
    return Value(node.name, shape, str(tensor.dtype).removeprefix("torch."), const, axis)


def _operands(node: fx.Node) -> tuple[str, ...]:
    """Every tensor operand in order, a tensor that is read twice (x * x) twice."""
    found: list[str] = []
    fx.node.map_arg((node.args, node.kwargs), lambda source: found.append(source.name))
    return tuple(found)


def is_getitem(node: fx.Node) -> bool:
    """True for nodes that take one tensor out of an operation's tuple of results."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _is_tuple(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))


def _module_path(node: fx.Node) -> str:
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
