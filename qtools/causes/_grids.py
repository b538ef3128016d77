"""Grids laid again over what the audit's images show, with as many steps as the value has."""

from __future__ import annotations

from calibration.ranges._through import least_squares_through
from calibration.ranges.mse import least_squares
from calibration.read_through import Function
from qtools.core import numerics
from qtools.core.types import QuantParams, QuantScheme, TensorStats


def relaid(stats: TensorStats, params: QuantParams, bits: int, function: Function | None = None) -> QuantParams:
    """The grid of least squared error, or of least squared error behind a function of each element.

    Args:
        stats: What was seen of the value.
        params: Its present grid.
        bits: Width that was asked for; below the grid's own, only the steps are as coarse (`numerics.in_container`).
        function: What alone reads the value.
    """
    own = params.scheme
    width = min(bits, own.bits) if own.bits <= 8 else own.bits
    narrow = own if width == own.bits else QuantScheme.activation(width, signed=own.signed, symmetric=own.symmetric)
    lo, hi = least_squares(stats, narrow) if function is None else least_squares_through(stats, narrow, function)
    found = numerics.params_from_range(lo, hi, narrow)
    return found if narrow is own else numerics.in_container(found, own)
