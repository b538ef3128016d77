"""Exact: a factor for each channel behind a value, of ones until somebody knows better (`qtools.core.levelled`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qtools.core.levelled import factors_of, levelled
from qtools.graph.constants import put_constant

aten = torch.ops.aten


def put_factors(exported: torch.export.ExportedProgram, axes: Mapping[str, int]) -> None:
    """Puts a product with a new constant between each of these values and all that read it, in place.

    Args:
        exported: A functional program.
        axes: Name of a node -> which dimension of its value the channels are.
    """
    nodes = {node.name: node for node in exported.graph.nodes}
    for name, axis in axes.items():
        node = nodes[name]
        ones = torch.ones([size if at == axis else 1 for at, size in enumerate(node.meta["val"].shape)])
        constant = put_constant(exported, ones, factors_of(name))
        constant.meta = {"val": node.meta["val"].new_empty(ones.shape)}
        with exported.graph.inserting_after(node):
            product = exported.graph.call_function(aten.mul.Tensor, (node, constant), name=levelled(name))
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product, delete_user_cb=lambda user, product=product: user is not product)
