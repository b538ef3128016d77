"""Checks on what was measured: time is judged where a phone's would be like it."""

from __future__ import annotations

import pytest

from qtools.pipeline.gate import time_check
from reports.latency import Latency, LatencyRatio

PLAIN, DOT = ("avx2", "fma"), ("avx2", "avx512_vnni")


def _measured(lo: float, hi: float) -> Latency:
    return Latency("some CPU", 1, 50, 5, (), (LatencyRatio("int8", "float", (lo + hi) / 2, lo, hi),), ())


@pytest.mark.parametrize(
    ("ratio", "isa", "status"),
    [
        ((0.4, 0.5), DOT, "passed"),
        ((1.1, 1.3), DOT, "failed"),
        ((1.1, 1.3), ("neon", "neon dotprod"), "failed"),
        ((0.9, 1.3), DOT, "passed"),  # busy, proves nothing
        ((0.8, 0.9), PLAIN, "passed"),
        ((1.1, 1.3), PLAIN, "not run"),
        ((1.1, 1.3), ("neon",), "not run"),
        ((1.1, 1.3), (), "failed"),  # of this machine nothing is known
    ],
)
def test_slower_than_float_counts_where_the_processor_multiplies_bytes(
    ratio: tuple[float, float], isa: tuple[str, ...], status: str
) -> None:
    (check,) = time_check(_measured(*ratio), isa)
    assert check.status == status
    assert check.status != "not run" or ("1.20 x on some CPU" in check.note and "--device" in check.note)


def test_without_a_runtime_nothing_is_judged() -> None:
    (check,) = time_check(None, DOT)
    assert check.status == "not run"
