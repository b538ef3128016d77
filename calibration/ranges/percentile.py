"""All but the rarest elements: clips a fixed share on either side, blind to the grid."""

from __future__ import annotations

from calibration.histogram import quantile
from qtools.core.protocols import RangeMethod
from qtools.core.types import QuantScheme, TensorStats

TAIL = 1e-4
"""Share of the elements cut off at each end, 99.99 % as in the usual percentile calibrators."""


def central(stats: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
    """Returns the range between the `TAIL` and the 1 - `TAIL` quantile, whatever the scheme."""
    del scheme
    return quantile(stats, TAIL), quantile(stats, 1 - TAIL)


RANGE: RangeMethod = central
