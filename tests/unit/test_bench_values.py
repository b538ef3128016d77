"""A bench's numbers against numpy and counting, its warnings against planted noise, its JSON and its table."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.errors import InputError
from qtools.core.timing import Fed, KernelTime, Profile, grouped
from reports import bench, latency
from reports.bench import Bench, Comparison, Machine, Memory, Opening, Subject, Timing
from reports.environment import Environment
from reports.latency import LatencyRatio
from reports.render import bench as rendering

RNG = np.random.default_rng(0)
QUIET = 10 + RNG.normal(0, 0.05, 60)


def series(samples: Any) -> latency.LatencyRow:
    return latency.row("a", np.asarray(samples, np.float64))


def speed(samples: Any) -> latency.Latency:
    return latency.summarize({"a": np.asarray(samples, np.float64)}, host="cpu", threads=1)


def test_a_spread_is_numpys() -> None:
    samples = np.round(RNG.gamma(3, 2, 200), 3)
    found = bench.spread_of(series(samples))
    assert found.std_ms == pytest.approx(np.std(samples, ddof=1)) and found.runs == 200
    wanted = [np.percentile(samples, p) for p in (50, 90, 95, 97, 99)]
    assert [found.median_ms, found.p90_ms, found.p95_ms, found.p97_ms, found.p99_ms] == pytest.approx(wanted)
    assert found.median_interval_ms == latency.median_interval(samples)
    assert (found.min_ms, found.max_ms, found.mean_ms) == pytest.approx((samples.min(), samples.max(), samples.mean()))


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=80), st.integers(1, 100))
def test_a_percentile_of_queries_is_the_least_latency_that_so_many_keep(samples: list[float], percent: int) -> None:
    found = bench.percentile_rank(np.array(samples), percent)
    keeps = [x for x in samples if 100 * sum(y <= x for y in samples) >= percent * len(samples)]
    assert found == min(keeps)


@pytest.mark.parametrize(
    ("n", "percent", "larger"),
    [(43, 90, None), (44, 90, 0), (63, 90, 0), (64, 90, 1), (458, 99, None), (459, 99, 0), (661, 99, 0), (662, 99, 1)],
)
def test_the_bound_needs_as_many_queries_as_loadgens_early_stopping(n: int, percent: int, larger: int | None) -> None:
    """459 for no query beyond p99; 64 and 662 for one beyond p90 and p99: what LoadGen's own finder gives."""
    found = bench.upper_bound(np.arange(1.0, n + 1), percent)
    assert found == (None if larger is None else n - larger)


@pytest.mark.parametrize("n", [100, 1024, 20_000])
def test_the_bound_holds_as_often_as_it_says(n: int) -> None:
    t = scipy.stats.binom.ppf(0.01, n, 0.1)
    t = t if scipy.stats.binom.cdf(t, n, 0.1) <= 0.01 else t - 1
    assert bench.upper_bound(np.arange(1.0, n + 1), 90) == n - t


def test_the_first_can_be_what_others_are_held_against() -> None:
    samples = {"a": np.full(20, 2.0), "b": np.full(20, 3.0), "c": np.full(20, 1.0)}
    found = latency.summarize(samples, host="cpu", threads=1, against="a")
    assert [(r.name, r.against, r.median) for r in found.ratios] == [("b", "a", 1.5), ("c", "a", 0.5)]


def test_a_quiet_series_says_nothing() -> None:
    assert bench.noise(speed(QUIET)) == ()


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.where(np.arange(60) % 8 == 0, 10 * QUIET, QUIET), "is noisy"),
        (np.where(np.arange(60) % 12 == 0, 3 * QUIET, QUIET), "5 of 60 inferences lie far outside"),
        (QUIET * np.linspace(1, 1.6, 60), "last third took"),
        (QUIET[::-1] * np.linspace(1.6, 1, 60), "last third took 0.7"),
    ],
)
def test_planted_noise_is_said(samples: Any, said: str) -> None:
    assert any(said in warning for warning in bench.noise(speed(samples)))


@given(st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=40))
def test_noise_never_stumbles(samples: list[float]) -> None:
    assert all(isinstance(warning, str) for warning in bench.noise(speed(samples)))


def test_the_share_of_the_fast_path() -> None:
    kernels = grouped([KernelTime("a", 1, 3.0, True), KernelTime("b", 1, 1.0, False), KernelTime("a", 1, 4.0, True)])
    assert kernels == (KernelTime("a", 2, 7.0, True), KernelTime("b", 1, 1.0, False))
    assert bench.fast_share(Profile("p", 1, 9.0, kernels, "x")) == pytest.approx(7 / 8)
    unsaid = (KernelTime("a", 1, 3.0, None), *kernels)
    assert bench.fast_share(Profile("p", 1, 9.0, unsaid, "x")) is None


def make(**more: Any) -> Bench:
    profile = Profile(
        "profiler", 20, 10.5, (KernelTime("CONV", 3, 8.0, True), KernelTime("GELU", 1, 2.0, False)), "FAST"
    )
    good = Timing(
        "int8\x1b[2J.tflite",
        1,
        "measured",
        opening=Opening(21.5, 12.25, (21.5,), (12.25,)),
        memory=Memory(30_000_000, 72_000_000),
        spread=bench.spread_of(series(QUIET)),
        profile=profile,
    )
    fed = Fed("i", (1, 4), "int8", "noise")
    bad = Timing("x.mlpackage", 1, "not run", "no runtime", profile_note="not run: no profiler")
    values: dict[str, Any] = {
        "tool_version": "1",
        "command": "qtools bench",
        "mode": "interleaved",
        "machine": Machine("host", "Some CPU", "Some OS"),
        "environment": Environment("OS", "x86_64", "Some CPU", ("avx2",), 2, "3.11", {"numpy": "2"}),
        "settings": {"threads": (1,)},
        "artifacts": (
            Subject(good.artifact, "int8.tflite", "TFLite", 1000, "ab", "somebody", "LiteRT", (fed,)),
            Subject("x.mlpackage", "x.mlpackage", "ML Program", 10, "cd", ""),
        ),
        "timings": (good, bad),
        "comparisons": (Comparison(1, (LatencyRatio("x.mlpackage", good.artifact, 0.5, 0.4, 0.6),)),),
        "notes": ("a note",),
        "warnings": ("a warning",),
    }  # fmt: skip
    return Bench(**values | more)


def test_json_comes_back_the_same() -> None:
    found = make(settings={"threads": [1]})
    text = bench.BENCH_FILE.text(found)
    assert bench.BENCH_FILE.parse(text) == found and json.loads(text)["schema_version"] == bench.BENCH_SCHEMA


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 99}, "schema 99"),
        ({"timings": [{"artifact": "a"}]}, "damaged at timings"),
        ({"mode": "fast"}, "damaged at mode"),
        ({"machine": None}, "damaged at machine"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        bench.BENCH_FILE.parse(json.dumps(json.loads(bench.BENCH_FILE.text(make())) | change))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_refused_or_read(value: Any) -> None:
    with pytest.raises(InputError):
        bench.BENCH_FILE.parse(json.dumps(value))


def test_a_number_that_is_none_is_not_written() -> None:
    broken = make(timings=(Timing("a", 1, "measured", opening=Opening(float("nan"), 1.0)),))
    with pytest.raises(ValueError, match="init_ms is nan"):
        bench.BENCH_FILE.text(broken)


def test_the_table_says_everything_and_moves_no_cursor() -> None:
    text = rendering.render(make())
    said = ["Some CPU", "not a phone", "a warning", "21.50", "12.25", "30.00 MB", "B / A = 0.500 [0.400, 0.600]"]
    said += ["B: not run: no runtime", "80.0 % in FAST", "10.000 of 10.500 ms", "profiler", "A note.", "avx2"]
    assert [words for words in said if words not in text] == []
    assert "\x1b" not in text and "int8\N{REPLACEMENT CHARACTER}[2J.tflite" in text


def test_the_metric_of_a_single_stream_is_named() -> None:
    samples = [1.0] * 89 + [2.0] + [3.0] * 10  # nine tenths take at most 2 ms
    timing = dataclasses.replace(make().timings[0], spread=bench.spread_of(series(samples), by_rank=True))
    text = rendering.render(make(mode="single-stream", timings=(timing,), comparisons=()))
    assert "A, 1 thread: 90th percentile 2.000 ms (with 99 % confidence at most 3.000" in text and "100 queries" in text


def test_a_device_is_never_called_a_host() -> None:
    text = rendering.render(make(machine=Machine("android", "Phone 1", "Android 14", "Chip 2")))
    assert "android: Phone 1, Chip 2, Android 14" in text and "host" not in text and "Some CPU" not in text


def test_letters_go_on_behind_z() -> None:
    assert [rendering._letter(place) for place in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]
