"""The numbers under the report, each against another way of computing it."""

from __future__ import annotations

import math
import platform
import time
from fractions import Fraction
from functools import cache
from itertools import accumulate

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.errors import CheckFailed, InputError
from qtools.core.metrics import sqnr_db
from qtools.core.numerics import dequantize, params_from_range, quantize
from qtools.core.types import GraphView, Op, OpKind, QuantPlan, QuantScheme, TensorStats, Value, ValuePlan
from reports import accuracy, environment, latency
from reports.accuracy import paired_accuracy
from reports.fidelity import SQNR_CAP_DB, FidelityTally, differences, equal_images
from reports.ranges import range_rows


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_scipys_binomial_test(lost: int, gained: int) -> None:
    expected = scipy.stats.binomtest(min(lost, gained), lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert accuracy.mcnemar_p(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_closed_form_and_large_counts() -> None:
    assert accuracy.mcnemar_p(5, 0) == 2 * 0.5**5
    assert accuracy.mcnemar_p(0, 0) == 1.0
    assert accuracy.mcnemar_p(2600, 2400) == pytest.approx(scipy.stats.binomtest(2400, 5000).pvalue, rel=1e-9)


@pytest.mark.parametrize(("lost", "gained", "n"), [(1, 7, 21), (12, 5, 1000), (3, 0, 512), (40, 20, 160)])
def test_tango_limits_satisfy_the_score_equation(lost: int, gained: int, n: int) -> None:
    """At each limit the restricted likelihood is maximised numerically, instead of by the closed form."""

    def score(delta: float) -> float:
        def surprise(p: float) -> float:
            terms = ((lost, p + delta), (gained, p), (n - lost - gained, 1 - 2 * p - delta))
            return -float(sum(scipy.special.xlogy(count, share) for count, share in terms))

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        p = scipy.optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return float((lost - gained - n * delta) / math.sqrt(n * (2 * p + delta * (1 - delta))))

    lo, hi = accuracy.drop_interval(lost, gained, n)
    z = scipy.stats.norm.ppf(0.975)
    assert (score(lo / 100), score(hi / 100)) == pytest.approx((z, -z), rel=1e-4)


def test_tango_interval_in_closed_form() -> None:
    # no flip at all: the limits are +-z^2 / (n + z^2) in closed form
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert accuracy.drop_interval(0, 0, 1000) == pytest.approx((-100 * z2 / (1000 + z2), 100 * z2 / (1000 + z2)))
    assert accuracy.drop_interval(20, 20, 20 + 20)[1] == pytest.approx(-accuracy.drop_interval(20, 20, 40)[0])
    assert accuracy.drop_interval(30, 0, 30)[1] == pytest.approx(100)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_tango_interval_is_odd_and_holds_the_estimate(lost: int, gained: int, same: int) -> None:
    n = lost + gained + same
    if not n:
        return
    lo, hi = accuracy.drop_interval(lost, gained, n)
    assert lo - 1e-9 <= 100 * (lost - gained) / n <= hi + 1e-9
    assert accuracy.drop_interval(gained, lost, n) == pytest.approx((-hi, -lo), abs=1e-9)


@pytest.mark.parametrize(
    ("n", "p_lost", "p_gained"), [(512, 0.02, 0.012), (1000, 0.01, 0.006), (1000, 0.03, 0.03), (3000, 0.02, 0.005)]
)
def test_interval_coverage(n: int, p_lost: float, p_gained: float) -> None:
    interval = cache(accuracy.drop_interval)
    draws = np.random.default_rng(5).multinomial(n, (p_lost, p_gained, 1 - p_lost - p_gained), 6000)
    truth = 100 * (p_lost - p_gained)
    held = [interval(lost, gained, n) for lost, gained, _ in draws.tolist()]
    assert 0.93 <= np.mean([lo <= truth <= hi for lo, hi in held]) <= 0.97


def test_wilson_equals_scipy() -> None:
    found = scipy.stats.binomtest(990, 1000).proportion_ci(0.95, "wilson")
    assert accuracy.wilson_interval(990, 1000) == pytest.approx((100 * found.low, 100 * found.high))


def test_paired_accuracy_counts_by_hand() -> None:
    reference = np.eye(8)[[0, 1, 2, 3, 4]] * 5.0
    other = np.eye(8)[[0, 1, 7, 3, 5]] * 5.0
    scores = paired_accuracy(np.array([0, 1, 2, 0, 5]), reference, other)
    assert (scores.n, scores.lost, scores.gained) == (5, 1, 1)
    assert (scores.top1_reference, scores.top1, scores.drop, scores.agreement) == (60, 60, 0, 60)
    p, q = scipy.special.softmax(reference, 1), scipy.special.softmax(other, 1)
    assert scores.kl == pytest.approx(np.mean(scipy.special.rel_entr(p, q).sum(1)))
    bare = paired_accuracy(None, reference, other)
    assert not bare.labelled and bare.agreement == 60 and bare.top1 is None and bare.kl == scores.kl
    assert paired_accuracy(np.array([0]), np.ones((1, 5)), np.ones((1, 5))).top5 is None


def test_the_mean_root_of_kl_is_that_of_each_image() -> None:
    rng = np.random.default_rng(2)
    reference, other = rng.normal(0, 3, (40, 7)), rng.normal(0, 3, (40, 7))
    p, q = scipy.special.softmax(reference, 1), scipy.special.softmax(other, 1)
    expected = np.sqrt(scipy.special.rel_entr(p, q).sum(1)).mean()
    assert accuracy.mean_root_kl(reference, other) == pytest.approx(expected)
    assert accuracy.mean_root_kl(reference, reference) == 0.0


def test_the_mean_root_of_kl_does_not_hang_on_one_image() -> None:
    """Twice the error on 49 images, or twenty times on one: KL grows with its square, the root with the error."""
    rng = np.random.default_rng(3)
    reference, error = rng.normal(0, 1, (50, 10)), rng.normal(0, 1e-3, (50, 10))
    most, one = np.where(np.arange(50) < 49, 2, 1)[:, None], np.where(np.arange(50) < 49, 1, 20)[:, None]
    assert accuracy.mean_kl(reference, reference + most * error) < accuracy.mean_kl(reference, reference + one * error)
    on_most, on_one = (accuracy.mean_root_kl(reference, reference + size * error) for size in (most, one))
    assert on_most > on_one
    base = accuracy.mean_root_kl(reference, reference + error)
    assert on_most == pytest.approx(2 * base, rel=0.05), "for small errors it grows as they do"


def test_paired_accuracy_refuses_what_cannot_be_paired() -> None:
    logits = np.zeros((2, 3))
    with pytest.raises(ValueError, match="are no pair"):
        paired_accuracy(None, logits, np.zeros((3, 3)))
    with pytest.raises(CheckFailed, match="NaN"):
        paired_accuracy(None, logits, np.full((2, 3), np.nan))
    with pytest.raises(InputError, match="label 3"):
        paired_accuracy(np.array([0, 3]), logits, logits)
    with pytest.raises(InputError, match="no image"):
        paired_accuracy(None, np.zeros((0, 3)), np.zeros((0, 3)))


SCHEME = QuantScheme.activation()
PARAMS = params_from_range(-1.0, 3.0, SCHEME)


def _graph() -> tuple[GraphView, QuantPlan]:
    view = GraphView(
        values={
            "x": Value("x", (1, 4, 5, 5), "float32"),
            "w": Value("w", (4, 4, 1, 1), "float32", const=True, channel_axis=0),
            "y": Value("y", (1, 4, 5, 5), "float32"),
            "z": Value("z", (1, 4, 5, 5), "float32"),
        },
        ops=(
            Op("y", OpKind.CONV, ("x", "w"), ("y",), module="stem.conv"),
            Op("z", OpKind.GELU, ("y",), ("z",), module="stem.act"),
        ),
        inputs=("x",),
        outputs=("z",),
    )
    weight = params_from_range(-1, 1, QuantScheme.weight(axis=None))
    values = {
        "x": ValuePlan(PARAMS, "explicit", ""),
        "w": ValuePlan(weight, "explicit", ""),
        "y": ValuePlan(PARAMS, "shared", ""),
        "z": ValuePlan(None, "float", "island"),
    }
    return view, QuantPlan("tiny", "tflite", "w8a8", values, {"z": "island"}, {})


def test_streamed_fidelity_equals_numpy_at_once() -> None:
    view, plan = _graph()
    rng = np.random.default_rng(3)
    images = rng.normal(0.5, 0.7, (6, 4, 5, 5)).astype(np.float32)
    codes = quantize(images, PARAMS).astype(np.int8)
    real = np.clip(codes.astype(int) + (rng.random(codes.shape) < 0.1), -128, 127).astype(np.int8)
    tally = FidelityTally(view, plan)
    for i in range(6):
        one = slice(i, i + 1)
        tally.add(
            {"x": images[one], "y": images[one], "z": images[one]},
            {"x": codes[one], "y": codes[one].astype(np.float32), "z": images[one]},
            {"y": real[one]},
        )
    rows = {row.value: row for row in tally.rows()}
    assert rows["y"].sqnr_simulated_db == pytest.approx(sqnr_db(images, dequantize(codes.astype(np.int32), PARAMS)))
    assert rows["y"].sqnr_real_db == pytest.approx(sqnr_db(images, dequantize(real.astype(np.int32), PARAMS)))
    assert (rows["y"].codes, rows["y"].differing, rows["y"].max_difference) == (600, int((codes != real).sum()), 1)
    assert rows["z"].sqnr_simulated_db == SQNR_CAP_DB and rows["z"].sqnr_real_db is None
    assert (rows["x"].kind, rows["y"].kind, rows["y"].module) == ("input", "conv", "stem.conv")
    assert [row.value for row in tally.rows()] == ["y", "x", "z"]
    (found,) = differences(tally.rows(), {"conv": "rounds ties up"})
    assert (found.kind, found.differing, found.reason) == ("conv", rows["y"].differing, "rounds ties up")


def test_broken_tensors_rank_worst_and_wrong_shapes_are_named() -> None:
    view, plan = _graph()
    tally = FidelityTally(view, plan)
    ones = np.ones((1, 4, 5, 5), np.float32)
    tally.add({"y": ones, "z": ones}, {"z": np.full_like(ones, np.nan), "y": quantize(ones, PARAMS)}, {})
    assert (tally.rows()[0].value, tally.rows()[0].sqnr_simulated_db) == ("z", -SQNR_CAP_DB)
    with pytest.raises(ValueError, match="value y"):
        tally.add({"y": ones}, {"y": ones[:, :1]}, {})


def test_equal_images() -> None:
    a = np.zeros((4, 3), np.int8)
    b = a.copy()
    b[1, 2] = 1
    assert equal_images(a, b) == 75.0


def test_ranges_hold_the_grid_and_the_spread() -> None:
    view, plan = _graph()
    empty = np.zeros(0, np.float32)
    stats = TensorStats(100, -0.9, 2.5, 0.4, np.float32([-0.9, 0]), np.float32([0.1, 2.5]), empty, np.ones(8, np.int64))
    weight = np.zeros((4, 4, 1, 1), np.float32)
    weight[1], weight[2] = 0.5, -0.01
    rows = range_rows(view, plan, {"x": stats, "y": stats, "z": stats}, {"w": weight}, "percentile")
    assert [(r.value, r.role, r.method) for r in rows] == [
        ("w", "weight", "peak"), ("x", "activation", "percentile"), ("y", "activation", "shared"),
        ("z", "activation", "float"),
    ]  # fmt: skip
    assert (rows[0].channel_lo, rows[0].channel_hi) == pytest.approx((0.01, 0.5))
    assert rows[0].module == "stem.conv" and rows[0].lo == pytest.approx(-1)
    assert (rows[1].lo, rows[1].hi) == pytest.approx((PARAMS.lo, PARAMS.hi))
    assert (rows[1].channel_lo, rows[1].channel_hi) == pytest.approx((0.9, 2.5))
    assert (rows[3].lo, rows[3].hi, rows[3].scale, rows[3].channels) == (-0.9, 2.5, None, 0)


def test_latency_takes_turns_and_warms_up() -> None:
    calls: list[str] = []
    found = latency.measure(
        {"int8": lambda: calls.append("a"), "float": lambda: calls.append("b")},
        host="cpu",
        threads=1,
        runs=10,
        warmup=2,
    )
    assert "".join(calls) == "ab" * 12
    assert [row.name for row in found.rows] == ["int8", "float"] and len(found.rows[0].samples_ms) == 10
    assert [(r.name, r.against) for r in found.ratios] == [("int8", "float")]
    assert found.rows[0].min_ms <= found.rows[0].median_ms <= found.rows[0].p90_ms <= found.rows[0].p99_ms


def test_latency_ratio_is_paired_and_noise_is_said() -> None:
    drift = np.linspace(10, 30, 50)
    found = latency.summarize({"int8": 0.25 * drift, "float": drift}, host="cpu", threads=1)
    assert (found.ratios[0].median, found.ratios[0].lo, found.ratios[0].hi) == pytest.approx((0.25, 0.25, 0.25))
    assert found.warnings == ()
    bumpy = np.where(np.arange(50) % 5 == 0, 40.0, 10.0)
    assert "int8 is noisy" in latency.summarize({"int8": bumpy, "float": drift}, host="cpu", threads=1).warnings[0]


def test_median_interval_covers() -> None:
    rng = np.random.default_rng(1)
    held = [
        lo <= math.log(2) <= hi for lo, hi in (latency.median_interval(rng.exponential(1, 50)) for _ in range(4000))
    ]
    assert 0.945 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_order_statistics_are_those_of_exact_sums(share: float) -> None:
    """Against integers: share = a / b, P(X <= t) = sum of C(n, k) a^k (b - a)^(n - k) over b^n."""
    a, b = Fraction(share).limit_denominator(100).as_integer_ratio()
    for n in (1, 5, 6, 7, 50, 200, 1000):
        sums = accumulate(math.comb(n, k) * a**k * (b - a) ** (n - k) for k in range(n + 1))
        exact = sum(40 * total <= b**n for total in sums) - 1
        assert latency.allowed_beyond(n, share, 0.025) == exact


def test_the_interval_of_a_long_series_is_quick() -> None:
    samples = np.arange(200_000.0)
    start = time.perf_counter()
    lo, hi = latency.median_interval(samples)
    assert time.perf_counter() - start < 5, "exact integers of this size take minutes"
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(len(samples)) / 2
    assert (lo, hi) == pytest.approx((99_999.5 - half, 99_999.5 + half), abs=2)


def test_environment_names_the_cpu_and_nobody() -> None:
    found = environment.describe(["numpy", "no-such-package"])
    assert found.packages == {"no-such-package": "not installed", "numpy": np.__version__}
    assert found.cores >= 1 and found.cpu
    assert platform.node() not in repr(found) and "/home" not in repr(found)


def test_cpuinfo_of_x86_and_arm() -> None:
    x86 = "processor: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512_vnni amx_int8 hypervisor\n"
    assert environment.parse_cpuinfo(x86) == ("Some Xeon", ("amx_int8", "avx2", "avx512_vnni"))
    arm = "Features\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    assert environment.parse_cpuinfo(arm) == ("Arm implementer 0x41 part 0xd0c", ("neon", "neon dotprod"))


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/srv/jane/images/val", ".../val"),
        ("--out=/srv/jane/run/", "--out=.../run"),
        ("~/w.pth", ".../w.pth"),
        ("../../else/w.pth", ".../w.pth"),
        (r"C:\Users\jane\w.pth", ".../w.pth"),
        ("runs/a", "runs/a"),
        ("m1_1", "m1_1"),
    ],
)
def test_commands_keep_no_machine_paths(word: str, shown: str) -> None:
    assert environment.portable_command(["qtools", "quantize", word]) == f"qtools quantize {shown}"
