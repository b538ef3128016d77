"""Program -> float ONNX graph through torch.onnx, with nothing in it that names a machine."""

from __future__ import annotations

from collections.abc import Set

import onnx_ir as ir
import torch

from exporters._quiet import quiet
from exporters._refused import refused
from exporters._room import check_room
from qtools.core.errors import CheckFailed
from qtools.graph.capture import Program

OPSET = 20
"""The first with Gelu as one operator; QuantizeLinear has had all 8-bit types since 10."""
IR_VERSION = 10


def convert(program: Program, products: Set[str] = frozenset()) -> ir.Model:
    """Converts the captured graph at batch 1, NCHW. Value names are the program's value ids, mostly.

    Args:
        program: The captured graph.
        products: Pointwise convolutions to write as products of matrices.

    Raises:
        CheckFailed: If torch.onnx refuses the graph; its own words are on stderr.
        InputError: If there is no room for temporary files.
    """
    from exporters._onnx.shorten import shorten
    from exporters._onnx.simplify import simplified

    check_room(program)
    examples = tuple(torch.zeros(shape) for shape in program.takes.shapes)
    module = shorten(program.exported.module(), products)
    with quiet():
        try:
            exported = torch.onnx.export(
                module, examples, dynamo=True, opset_version=OPSET, verbose=False, optimize=False
            )
            assert exported is not None  # only the older exporter returns nothing
            model = simplified(exported.model)
        except Exception as error:  # broad: the exporter raises anything; the original stays attached
            raise refused("torch.onnx could not convert the model", program.view, error) from error
    if model.opset_imports.get("") != OPSET:
        raise CheckFailed(f"torch.onnx wrote opset {model.opset_imports.get('')} instead of {OPSET}")
    model.ir_version = IR_VERSION
    _strip(model)
    return model


def _strip(model: ir.Model) -> None:
    """Removes stack traces, source lines and absolute paths, which torch.onnx writes into every node."""
    graph = model.graph
    model.doc_string = graph.doc_string = None
    values = [*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)]
    for holder in (model, graph, *graph, *values):
        holder.metadata_props.clear()
        holder.doc_string = None
    for value in graph.initializers.values():
        if value.const_value is not None:
            value.const_value.doc_string = None
    model.functions.clear()
