"""Every range method, on statistics that invite mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from qtools.core import numerics, plugins
from qtools.core.protocols import RangeMethod
from qtools.core.types import QuantScheme, TensorStats

NAMES = plugins.names("calibration.ranges")
NONE = np.empty(0, np.float32)
SCHEMES = [
    QuantScheme.activation(b, signed=s, symmetric=y)
    for b in (4, 8, 16)
    for s, y in ((True, False), (False, False), (True, True))
]


def stats(lo: float, hi: float, counts: list[int]) -> TensorStats:
    array = np.array(counts, np.int64)
    return TensorStats(int(array.sum()), lo, hi, (lo + hi) / 2, NONE, NONE, NONE, array)


TRICKY = {
    "dead": stats(0.0, 0.0, [0] * 7 + [100]),
    "one value": stats(3.25, 3.25, [0] * 7 + [100]),
    "one negative value": stats(-3.25, -3.25, [0] * 7 + [100]),
    "all positive": stats(2.0, 4.0, [10] * 64),
    "all negative": stats(-4.0, -2.0, [10] * 64),
    "one element": stats(-1.0, 1.0, [0] * 31 + [1] + [0] * 32),
    "two ends": stats(-1.0, 1.0, [1] + [0] * 62 + [1]),
    "tiny": stats(-1e-30, 1e-30, [5] * 64),
    "huge": stats(-1e30, 1e30, [5] * 64),
    "one-sided outlier": stats(-0.01, 1e6, [10**9] + [0] * 2046 + [1]),
    "few bins": stats(-1.0, 2.0, [3]),
    "many": stats(-1.0, 2.0, [2**40] * 2048),
}


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest) -> RangeMethod:
    found: RangeMethod = plugins.find("calibration.ranges", request.param, "RANGE")
    return found


@pytest.mark.parametrize("name", TRICKY)
def test_the_interval_is_usable(method: RangeMethod, name: str) -> None:
    seen = TRICKY[name]
    for scheme in SCHEMES:
        before = seen.counts.copy()
        lo, hi = method(seen, scheme)
        assert seen.lo <= lo <= hi <= seen.hi
        assert np.isfinite([lo, hi]).all()
        params = numerics.params_from_range(lo, hi, scheme)
        assert params.lo <= 0 <= params.hi
        assert method(seen, scheme) == (lo, hi), "the same answer twice"
        assert (seen.counts == before).all(), "statistics are read, not changed"
