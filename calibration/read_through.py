"""Values that nothing but one function of each element reads, such as what goes into GELU or SiLU.

Where the function is flat nobody sees an error: SiLU of -8 and of -12 are nearly the same number. The range of such a
value is chosen by what the function gives, and ends where the function has nothing more to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from qtools.core.types import GraphView, Op, OpKind

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
"""Element by element, any shape."""

FUNCTIONS: Mapping[OpKind, Function] = {
    OpKind.GELU: lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    OpKind.SILU: lambda x: x * expit(x),
    OpKind.SIGMOID: expit,
    OpKind.TANH: np.tanh,
    OpKind.HARD_SWISH: lambda x: x * np.clip(x + 3, 0, 6) / 6,
    OpKind.HARD_SIGMOID: lambda x: np.clip(x + 3, 0, 6) / 6,
}
_GATED = {OpKind.SIGMOID: OpKind.SILU, OpKind.HARD_SIGMOID: OpKind.HARD_SWISH}
"""A gate -> what it is together with the product of its input and its output."""


def read_through(view: GraphView) -> dict[str, Function]:
    """Value id -> the function that is all that reads it.

    Args:
        view: The captured graph; SiLU may be one operation or written out as a product.
    """
    found = {}
    for name in view.activations:
        readers = view.consumers[name]
        kind = readers[0].kind if len(readers) == 1 else _gated(name, readers)
        if kind is not None and kind in FUNCTIONS and name not in view.outputs:
            found[name] = FUNCTIONS[kind]
    return found


def _gated(name: str, readers: tuple[Op, ...]) -> OpKind | None:
    """What a gate and a product make of a value together; None where they are something else."""
    gates = [op for op in readers if op.kind in _GATED]
    products = [op for op in readers if op.kind is OpKind.MUL]
    if len(readers) != 2 or len(gates) != 1 or len(products) != 1:
        return None
    whole = set(products[0].inputs) == {name, gates[0].outputs[0]}
    return _GATED[gates[0].kind] if whole else None
