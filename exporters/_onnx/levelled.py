"""Products that level values in front of codes (`qtools.core.levelled`); the float graph comes without them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters._levelled import laid_out
from exporters._onnx.bind import TensorBinding
from exporters._onnx.edit import Editor, shape_of, stored
from qtools.core.errors import CheckFailed
from qtools.core.levelled import factors_of, levels
from qtools.core.types import GraphView, Op, QuantPlan


def put_products(
    edit: Editor,
    view: GraphView,
    plan: QuantPlan,
    binding: Mapping[str, TensorBinding],
    weights: Mapping[str, NDArray[np.float32]],
) -> None:
    """Puts each product of the graph behind the tensor that it levels.

    Args:
        edit: Of the float graph, before any pair is written; changed in place.
        view: The graph with the products.
        plan: Which of the layers behind them run in integers: the others' weights are renewed here.
        binding: Where values live.
        weights: Every constant, by value id.
    """
    for op in view.ops:
        if not levels(op):
            continue
        source, made = (binding[name] for name in (op.inputs[0], op.outputs[0]))
        tensor, value, factors = edit.tensors[source.tensor], view.values[op.inputs[0]], weights[op.inputs[1]]
        readers = list(tensor.uses())
        factor = edit.stored(factors_of(source.tensor), laid_out(factors, value.shape, (shape_of(tensor), source.last)))
        product = edit.node("Mul", [tensor, factor], made.tensor, tensor.shape)
        edit.put_behind(tensor, [product])
        for node, index in readers:
            node.replace_input_with(index, product)
        edit.tensors[made.tensor] = product
        for reader in view.consumers[op.outputs[0]]:
            if reader.id in plan.float_ops:
                _renew(edit.tensors[binding[reader.inputs[1]].tensor], weights[reader.inputs[1]], factors, reader)


def _renew(held: ir.Value, weight: NDArray[np.float32], factors: NDArray[np.float32], layer: Op) -> None:
    """Puts a weight that undoes the factors in the place of the float graph's, which does not, in the same layout.

    Raises:
        CheckFailed: If the file holds another weight.
    """
    old = stored(held)
    assert old is not None  # it is bound
    groups, (out, inputs) = int(layer.attrs.get("groups", 1)), weight.shape[:2]
    rows = np.repeat(factors.reshape(groups, inputs), out // groups, axis=0)
    exact = weight * rows.reshape(out, inputs, *[1] * (weight.ndim - 2))
    for laid, new in ((exact, weight), (exact.T, weight.T)):
        if laid.size == old.size and np.allclose(laid.reshape(old.shape), old, rtol=1e-5, atol=0):
            held.const_value = ir.tensor(np.ascontiguousarray(new).reshape(old.shape), name=held.name)
            return
    raise CheckFailed(f"the float artifact holds another weight of '{layer.id}' than the network", "report the model")
