"""Exact rewrites: composite operations written out in the operations that integer kernels exist for.

They are made while the graph is captured, so that the float program, the simulator and the converter all see the same
graph: decompositions for torch.export, and what has to know the readers of a value on the finished graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx

from qtools.core.types import OpKind
from qtools.graph.patches import fold, unfold
from qtools.graph.sampling import grid_sample

aten = torch.ops.aten


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _global_average(x: torch.Tensor, output_size: list[int]) -> Any:
    if tuple(output_size) != (1, 1):
        return NotImplemented
    return x.mean((2, 3), keepdim=True)


def _attention_to_one_token(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, **options: Any) -> Any:
    """The softmax of a single weight is 1: what is attended to is the answer. XNNPACK refuses the product itself."""
    if rest or options.keys() - {"scale"} or k.shape[-2] != 1:
        return NotImplemented
    return v.expand(*v.shape[:-2], q.shape[-2], v.shape[-1])


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any, scale_queries: bool = False, **options: Any
) -> Any:
    """softmax(q k^T / sqrt(width) + mask) v; masks of booleans and causal ones are left to torch."""
    mask = rest[0] if rest else options.get("attn_mask")
    one = _attention_to_one_token(q, k, v, *rest, **options)
    if one is not NotImplemented:
        return one
    if len(rest) > 1 or options.keys() - {"scale", "attn_mask"} or (mask is not None and mask.dtype is torch.bool):
        return NotImplemented
    scale = options.get("scale") or q.shape[-1] ** -0.5
    keys = k.transpose(-2, -1)
    scores = torch.matmul(q * scale, keys) if scale_queries else torch.matmul(q, keys) * scale
    return torch.matmul(torch.softmax(scores if mask is None else scores + mask, -1), v)


def _hardtanh(x: torch.Tensor, low: float | None = -1.0, high: float | None = 1.0) -> Any:
    """nn.ReLU6 is a hardtanh from 0 to 6, and some write a clamp: converters and kernels know less of both."""
    return aten.relu6.default(x) if (low, high) == (0, 6) else NotImplemented


def _hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """The sum goes into the bias of the layer in front (`fold_scales`), where the kernel of integers caps at 6 too."""
    return aten.relu6.default(x + 3.0) * (1 / 6)


def _stack(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """A concatenation, which integer kernels have."""
    apart = [each.unsqueeze(dim) for each in tensors]
    return apart[0] if len(apart) == 1 else torch.cat(apart, dim)


_ALWAYS: Mapping[Any, Callable[..., Any]] = {
    aten.scaled_dot_product_attention.default: _attention_to_one_token,
    aten.hardtanh.default: _hardtanh,
    aten.clamp.default: _hardtanh,
    aten.grid_sampler.default: grid_sample,
    aten.im2col.default: unfold,
    aten.col2im.default: fold,
    aten.stack.default: _stack,
}

_EXPANSIONS: Mapping[OpKind, Mapping[Any, Callable[..., Any]]] = {
    OpKind.SILU: {aten.silu.default: _silu},
    OpKind.HARD_SIGMOID: {aten.hardsigmoid.default: _hard_sigmoid},
    OpKind.AVG_POOL: {aten.adaptive_avg_pool2d.default: _global_average},
    OpKind.ATTENTION: {aten.scaled_dot_product_attention.default: _attention},
}


def expansions(kinds: frozenset[OpKind], *, scale_queries: bool = False) -> dict[Any, Callable[..., Any]]:
    """Returns the decomposition table that writes out the given kinds, and what is simpler for every target.

    SiLU becomes x * sigmoid(x), a hard sigmoid relu6(x + 3) / 6, global average pooling a mean over height and width,
    attention two products around a softmax; these are the definitions.

    Args:
        kinds: What to write out.
        scale_queries: Whether attention multiplies its queries by its number, or else its scores.
    """
    chosen = {target: rule for kind in sorted(kinds) for target, rule in _EXPANSIONS.get(kind, {}).items()}
    if scale_queries and OpKind.ATTENTION in kinds:
        chosen |= {target: partial(rule, scale_queries=True) for target, rule in _EXPANSIONS[OpKind.ATTENTION].items()}
    return {**_ALWAYS, **chosen}


_COPIES = (aten.clone.default, aten.alias.default, aten.detach.default)
_BROADCASTING = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def simplify(graph: fx.Graph) -> None:
    """Takes out, in place, what changes no number.

    That is assertions, copies, padding by nothing, expands in front of operations that broadcast, and factors that are
    a softmax of one element; and every change of shape gets one name, so that the graph does not tell whether torch had
    to copy for it, which depends on the batch size.

    LiteRT's converter folds an expand into its reader with shapes that do not fit, and makes of a softmax over one
    element an exponential that is divided by itself.
    """
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # one for every conversion to a type; it holds, or the export would have failed
        elif node.target in _COPIES or _pads_nothing(node):
            _drop_copy(graph, node)
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        elif node.target is aten.expand.default:
            _drop_expand(graph, node)
        elif node.target in (aten.softmax.int, aten._softmax.default) and node.meta["val"].shape[node.args[1]] == 1:
            _drop_lone_softmax(graph, node)


def _pads_nothing(node: fx.Node) -> bool:
    """Windows that fit are padded by zero rows and columns."""
    return node.target in (aten.pad.default, aten.constant_pad_nd.default) and not any(node.args[1])  # type: ignore[arg-type]


def _drop_copy(graph: fx.Graph, node: fx.Node) -> None:
    source = node.args[0]
    if isinstance(source, fx.Node) and not _is_result(node):
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def _is_result(node: fx.Node) -> bool:
    """Whether the graph's signature names it: then it has to stay."""
    return any(user.op == "output" for user in node.users)


def _drop_expand(graph: fx.Graph, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    for reader in list(node.users):
        if reader.target in _BROADCASTING and _shape_without(reader, node, source) == _shape(reader):
            reader.replace_input_with(node, source)
    if not node.users:
        graph.erase_node(node)


def _shape_without(reader: fx.Node, expanded: fx.Node, source: fx.Node) -> tuple[int, ...]:
    """Shape of a reader's result if it read `source` in the place of `expanded`."""
    operands = [source if operand is expanded else operand for operand in reader.args[:2]]
    return tuple(torch.broadcast_shapes(*(_shape(operand) for operand in operands if isinstance(operand, fx.Node))))


def _drop_lone_softmax(graph: fx.Graph, node: fx.Node) -> None:
    for reader in list(node.users):
        others = [operand for operand in reader.args if operand is not node]
        if reader.target is not aten.mul.Tensor or len(others) != 1 or not isinstance(others[0], fx.Node):
            continue
        if not _is_result(reader) and _shape(others[0]) == _shape(reader):
            reader.replace_all_uses_with(others[0])
            graph.erase_node(reader)
    if not node.users:
        graph.erase_node(node)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)
