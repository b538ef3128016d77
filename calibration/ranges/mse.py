"""The range whose grid loses least in the mean square: rounding inside weighed against clipping outside."""

from __future__ import annotations

from calibration.histogram import quantization_noise
from calibration.ranges._search import narrow
from qtools.core.protocols import RangeMethod
from qtools.core.types import QuantScheme, TensorStats


def least_squares(stats: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
    """Returns the range of least `quantization_noise` that the search finds."""
    return narrow(stats, scheme, quantization_noise)


RANGE: RangeMethod = least_squares
