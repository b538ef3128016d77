"""Scores scaled where their product begins: the number goes into the scale of the codes that the product reads.

onnxruntime's product of floats takes a factor behind it in, that of codes (MatMulIntegerToFloat) leaves it an operator
of its own over every score: 3 % of MobileViT-XXS's time at 256 pixels. The scores differ by the rounding of one float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters._onnx.edit import MOVES, REAL, Editor, stored

SCALED = ".scaled"
"""Ending of the name of what a product gives that scales it itself."""


def scale_first(edit: Editor, tensor: str, number: float) -> None:
    """Takes out the product with a number behind a product of codes (`qtools.core.products.scaled_inside`).

    Args:
        edit: Of a graph with all Q/DQ pairs written; changed in place.
        tensor: Name of the scaled result.
        number: What it is scaled by.
    """
    scaling = edit.tensors[tensor].producer()
    given = [] if scaling is None else [value for value in scaling.inputs if stored(value) is None]
    if scaling is None or scaling.op_type != "Mul" or len(given) != 1 or given[0] is None:
        return  # torch.onnx has put it elsewhere: then it is computed there
    maker = given[0].producer()
    while maker is not None and maker.op_type in MOVES and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    read = None if maker is None or maker.op_type != "MatMul" else maker.inputs[0]
    if maker is None or read is None or (made := read.producer()) is None or made.op_type != "DequantizeLinear":
        return
    maker.replace_input_with(0, _scaled(edit, maker, made, np.float32(number)))
    maker.outputs[0].name = f"{maker.outputs[0].name}{SCALED}"  # what it gives is no longer that value
    edit.replace(scaling, given[0])


def _scaled(edit: Editor, product: ir.Node, read: ir.Node, number: np.float32) -> ir.Value:
    """The codes that a product reads, in front of it, with every step times a number."""
    codes, scale, zero_point = (value for value in read.inputs if value is not None)
    steps = stored(scale)
    assert steps is not None  # `Editor.numbers` stored it
    name = f"{product.outputs[0].name}{SCALED}"
    step = edit.stored(f"{name}.scale", np.asarray(steps.astype(np.float32) * number, np.float32))
    real = edit.node("DequantizeLinear", [codes, step, zero_point], f"{name}{REAL}", read.outputs[0].shape)
    edit.put(product, real)
    return real
