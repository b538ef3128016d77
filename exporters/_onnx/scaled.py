"""Scores scaled where their product begins: the number goes into the scale of the codes that the product reads.

onnxruntime's product of floats takes a factor behind it in, that of codes (MatMulIntegerToFloat) leaves it an operator
of its own over every score: 3 % of MobileViT-XXS's time at 256 pixels. The scores differ by the rounding of one float.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx_ir as ir

from exporters._onnx.edit import REAL, Editor, stored


def scale_first(edit: Editor, scores: Set[str]) -> None:
    """Takes out each product with one stored number that is all that reads what a product of codes gives as floats.

    Args:
        edit: Of a graph with all Q/DQ pairs written; changed in place.
        scores: Names of what such products give.
    """
    for node in list(edit.graph):
        factor = _factor(node, scores)
        if factor is None:
            continue
        product, number = factor
        read = product.inputs[0]
        assert read is not None
        product.replace_input_with(0, _scaled(edit, product, read, number))
        edit.replace(node, product.outputs[0])


def _factor(node: ir.Node, scores: Set[str]) -> tuple[ir.Node, np.float32] | None:
    """A product of codes and the number that is all it is multiplied by behind it."""
    if node.op_type != "Mul":
        return None
    for given, factor in (node.inputs, tuple(reversed(node.inputs))):
        number, product = stored(factor), None if given is None else given.producer()
        if number is None or number.size != 1 or number.item() <= 0 or given is None or given.name not in scores:
            continue
        if product is not None and product.op_type == "MatMul" and len(given.uses()) == 1:
            return product, np.float32(number.item())
    return None


def _scaled(edit: Editor, product: ir.Node, read: ir.Value, number: np.float32) -> ir.Value:
    """The same codes with every step times a number."""
    made = read.producer()
    assert made is not None
    codes, scale, zero_point = (value for value in made.inputs if value is not None)
    numbers = stored(scale)
    assert numbers is not None  # `Editor.numbers` stored it
    name = f"{product.outputs[0].name}.scaled"
    step = edit.stored(f"{name}.scale", (numbers.astype(np.float32) * number).astype(np.float32))
    real = edit.node("DequantizeLinear", [codes, step, zero_point], f"{name}{REAL}", read.shape)
    edit.put(product, real)
    return real
