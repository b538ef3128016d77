"""Products that level values in front of codes, as operations of the ML Program (`qtools.core.levelled`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._coreml import edit
from exporters._coreml.bind import TensorBinding
from exporters._coreml.blob import BlobWriter
from exporters._coreml.half import shapes
from exporters._levelled import laid_out
from qtools.core.levelled import factors_of, levels
from qtools.core.types import GraphView


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
    """
    behind, held = dict[str, list[Any]](), shapes(operations)
    for op in view.ops:
        if not levels(op):
            continue
        source, made = (binding[name].tensor for name in (op.inputs[0], op.outputs[0]))
        factors = laid_out(weights[op.inputs[1]], view.values[op.inputs[0]].shape, (held[source], False))
        edit.rewire_all(operations, source, made)
        behind[source] = [
            edit.constant(factors_of(source), factors.astype(np.float16), "float16", writer),
            edit.operation("mul", made, (held[source], "float16"), {"x": source, "y": factors_of(source)}),
        ]
    return [new for old in operations for new in (old, *(x for r in old.outputs for x in behind.get(r.name, ())))]
