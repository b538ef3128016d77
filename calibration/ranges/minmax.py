"""Everything that was seen: no clipping, the coarsest grid."""

from __future__ import annotations

from qtools.core.protocols import RangeMethod
from qtools.core.types import QuantScheme, TensorStats


def extremes(stats: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
    """Returns (stats.lo, stats.hi), whatever the scheme."""
    del scheme
    return stats.lo, stats.hi


RANGE: RangeMethod = extremes
