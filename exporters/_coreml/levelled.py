"""Products that level values in front of codes, as operations of the ML Program (`qtools.core.levelled`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._coreml import edit
from exporters._coreml.bind import MOVES, TensorBinding
from exporters._coreml.blob import BlobWriter
from exporters._coreml.half import shapes
from exporters._coreml.package import Package, main_block
from exporters._levelled import laid_out
from qtools.core.errors import CheckFailed
from qtools.core.levelled import factors_of, levels
from qtools.core.protocols import Lowered
from qtools.core.types import GraphView


def readers_in_package(lowered: Lowered) -> dict[str, int]:
    """Value id -> how many operations of the float package read its tensor, straight or through moves.

    The converter computes once what several operations of the captured graph compute alike: such a tensor has readers
    that the graph has at another value.

    Args:
        lowered: The float package and its binding.
    """
    _, block = main_block(Package(lowered.path).spec)
    readers: dict[str, list[Any]] = {}
    for operation in block.operations:
        for name in edit.read_names([operation]):
            readers.setdefault(name, []).append(operation)

    def count(name: str) -> int:
        further = (count(o.outputs[0].name) if o.type in MOVES else 1 for o in readers.get(name, ()))
        return sum(further) + (name in block.outputs)

    return {value: count(entry.tensor) for value, entry in lowered.binding.items()}


def with_products(
    operations: list[Any],
    view: GraphView,
    binding: Mapping[str, TensorBinding],
    weights: Mapping[str, NDArray[np.float32]],
    writer: BlobWriter,
) -> list[Any]:
    """The operations with each product of the graph behind the tensor that it levels, whose readers are rewired.

    Args:
        operations: Of a float16 program without them; changed in place.
        view: The graph with the products.
        binding: Where values live.
        weights: Every constant, by value id.
        writer: Where long constants go.

    Raises:
        CheckFailed: If the binding has no tensor for a product.
    """
    behind, held = dict[str, list[Any]](), shapes(operations)
    for op in view.ops:
        if not levels(op):
            continue
        if not binding.keys() >= {op.inputs[0], op.outputs[0]}:
            raise CheckFailed(f"no tensor for: {op.outputs[0]}", "report the model")
        source, made = (binding[name].tensor for name in (op.inputs[0], op.outputs[0]))
        factors = laid_out(weights[op.inputs[1]], view.values[op.inputs[0]].shape, (held[source], False))
        edit.rewire_all(operations, source, made)
        behind[source] = [
            edit.constant(factors_of(source), factors.astype(np.float16), "float16", writer),
            edit.operation("mul", made, (held[source], "float16"), {"x": source, "y": factors_of(source)}),
        ]
    return [new for old in operations for new in (old, *(x for r in old.outputs for x in behind.get(r.name, ())))]
