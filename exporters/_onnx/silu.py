"""SiLU of codes in one operator of onnxruntime's, which the file defines for all others as a function.

onnxruntime makes that operator of a product with a sigmoid itself, but not behind a DequantizeLinear: it gives each of
the two readers one of their own first. Written so, MobileViTv2-050 (64 and 256 pixels) and EfficientNetV2-B0 took 0.88
to 0.91 of the time that they took with 8-bit kernels for sigmoid and product (onnxruntime 1.31, x86 with VNNI), and it
rounds once instead of three times.
"""

from __future__ import annotations

import onnx_ir as ir

from exporters._onnx.edit import Editor

DOMAIN, NAME, VERSION = "com.microsoft", "QuickGelu", 1
"""https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md: x * sigmoid(alpha * x), since 1.13."""


def in_one_operator(model: ir.Model, edit: Editor) -> None:
    """Puts that operator in place of each SiLU that reads what a DequantizeLinear gives.

    Args:
        model: With all Q/DQ pairs written; changed in place.
        edit: Of its graph.
    """
    found = [pair for node in edit.graph if (pair := _silu(node)) is not None]
    for product, source in found:
        output = product.outputs[0]
        one = ir.Value(name=None, shape=output.shape, type=output.type)
        ir.Node(DOMAIN, NAME, [source], [ir.AttrFloat32("alpha", 1.0)], outputs=[one])
        edit.put(product, one)
        edit.replace(product, one)
    if found:
        model.functions[(DOMAIN, NAME, "")] = _definition(model.opset_imports[""])
        model.opset_imports[DOMAIN] = VERSION


def _silu(product: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """A product of what a DequantizeLinear gives and its sigmoid, which nothing else reads, with the former."""
    if product.op_type != "Mul":
        return None
    for source, gate in (product.inputs, tuple(reversed(product.inputs))):
        made = None if gate is None else gate.producer()
        if source is None or made is None or made.op_type != "Sigmoid" or made.inputs[0] is not source:
            continue
        read = source.producer()
        if read is not None and read.op_type == "DequantizeLinear" and len(made.outputs[0].uses()) == 1:
            return product, source
    return None


def _definition(opset: int) -> ir.Function:
    """What the operator computes, for who does not have it."""
    x, alpha, scaled, gate, y = (ir.Value(name=name) for name in ("x", "alpha", "scaled", "gate", "y"))
    nodes = [
        ir.Node("", "Constant", [], [ir.RefAttr("value_float", "alpha", ir.AttributeType.FLOAT)], outputs=[alpha]),
        ir.Node("", "Mul", [x, alpha], outputs=[scaled]),
        ir.Node("", "Sigmoid", [scaled], outputs=[gate]),
        ir.Node("", "Mul", [x, gate], outputs=[y]),
    ]
    graph = ir.Graph([x], [y], nodes=nodes, opset_imports={"": opset})
    return ir.Function(DOMAIN, NAME, "", graph=graph, attributes=[ir.Attr("alpha", ir.AttributeType.FLOAT, None)])
