"""Exact: the graph as torch.onnx is given it, with few changes of shape around tokens.

onnxruntime's integer kernel for linear layers is Gemm, which is two-dimensional: over tokens in rows no Reshape is
needed around it.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import fx

from exporters._onnx.products import as_products, keep_products_whole
from qtools.graph.moves import call, join_moves
from qtools.graph.tokens import Attention, put, take_apart, tokens_in_rows

aten = torch.ops.aten


def shorten(module: fx.GraphModule, products: Set[str] = frozenset()) -> fx.GraphModule:
    """Rewrites, in place, an unlifted program; its results stay the same up to the order of float products.

    Args:
        module: `ExportedProgram.module()`, whose nodes know their values' shapes.
        products: Names of pointwise convolutions to write as products of matrices.
    """
    graph = module.graph
    as_products(module, products)
    for node in list(graph.nodes):
        take_apart(node)
    tokens_in_rows(graph, ())
    join_moves(graph)
    keep_products_whole(graph)
    for node in list(graph.nodes):
        _attention(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _attention(node: fx.Node) -> None:
    """Its definition; torch.onnx's own has two more changes of shape around the keys.

    Queries are scaled, not scores: there are fewer of them, and the product stays one of floats. Targets whose rules
    have attention written out get none of this: the graph has products and a softmax then.
    """
    found = Attention.of(node)
    if found is None:
        return
    scaled = call(node, aten.mul.Tensor, found.query, found.scale)
    turned = call(node, aten.transpose.int, found.key, -2, -1)
    scores = call(node, aten.matmul.default, scaled, turned)
    masked = scores if found.mask is None else call(node, aten.add.Tensor, scores, found.mask)
    weights = call(node, aten.softmax.int, masked, -1)
    put(node, call(node, aten.matmul.default, weights, found.value))
