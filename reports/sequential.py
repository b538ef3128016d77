"""When a paired audit may stop: pass, fail or go on after each batch of images, with the error kept over all looks.

Looking after every batch at a test of 5 % and stopping when it rejects is wrong far more often than 5 %. Here each look
gets its share of the error, so that over all looks together a drop above the limit passes, or one below it fails, with
at most 1 - confidence.

Sources: shares by the error-spending function alpha log(1 + (e - 1) t) of K. K. G. Lan and D. L. DeMets, "Discrete
sequential boundaries for clinical trials", Biometrika 70 (1983) 659-663, which spends as Pocock's constant boundary
does; nominal levels from them by the recursive integration of P. Armitage, C. K. McPherson and B. C. Rowe, JRSS A 132
(1969) 235-244; intervals that hold over all looks as in C. Jennison and B. W. Turnbull, JRSS B 51 (1989) 305-361.

Each look's own probability is not the normal one: with 1 % of the images flipped an early look has three flips. It is
that of the difference of two Poisson counts (J. G. Skellam, JRSS 109 (1946) 296), their rates being the restricted
maximum-likelihood ones of Tango's score test. The difference of two cells of a trinomial has the same mean and, but for
the square of the drop, the same variance.

Why this and no betting martingale (I. Waudby-Smith and A. Ramdas, JRSS B 86 (2024) 1-27), whose error is bounded
without any approximation: over 10,000 images, a limit of 0.5 points, 1 % flips and no drop, a mixture of bets passed
after 40 % of the images in the median where this rule takes 30 %; its error at the limit was 1 % where 5 % are allowed.
Over limits of 0.5 to 3 points, 300 to 20,000 images and flips on 0.5 to 15 % of them this rule's was 0.6 to 5.2 %
(10,000 audits each, so +- 0.4), far below 5 % where few flips are expected.

What can be decided, simulated with 20 looks and no drop: with the images that `images_needed` names, some 3,700 for a
limit of 0.5 points and flips on 1 % of them, 6,700 with 2 %, 1,200 and 1,900 for 1 point, 78 to 82 % of all audits
pass. Of twice as many images an audit reads 42 % in the mean before it passes, of 2.5 times as many 35 %, of five times
as many 20 %. Where `can_pass` is false, none passes.

Nor is there a much better way to spend the error, by the integration below with 20 looks: of 1 - exp(-g t), g from 2 to
6, and t^p, p of 0.3, 0.5 and 1, none reads more than 3 % of the images less at two to five times as many as this one
needs; all but p = 1, which reads 1 to 2 % more, need 7 to 55 % more images for a pass in four audits of five.

Images must come in random order. Which image sets are large enough is said before the first one is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reports.accuracy import restricted_gain

Decision = Literal["pass", "fail", "go on", "undecided"]
LOOKS = 20
POWER = 0.8
_NORMAL = NormalDist()
_NODES = 160  # quadrature nodes of one look
_NO_RATE = 1e-12  # stands for a Poisson rate of zero


@dataclass(frozen=True)
class Look:
    """What one look at the images so far says.

    Attributes:
        n: Images so far.
        lost: Images that only the reference gets right.
        gained: Images that only the other gets right.
        drop: 100 (lost - gained) / n, in points.
        interval: In points; over all looks of the rule together each end is wrong with at most 1 - confidence.
        decision: pass (the drop is below the limit), fail (it is above), go on, or undecided: no image is left.
    """

    n: int
    lost: int
    gained: int
    drop: float
    interval: tuple[float, float]
    decision: Decision


@dataclass(frozen=True)
class StoppingRule:
    """Made before the first image is seen.

    Attributes:
        max_drop: Limit of the drop, in points.
        confidence: 1 - the chance of a wrong pass, and of a wrong fail, over all looks together.
        looks: Number of images at each look, rising; the last is all there are.
        levels: One-sided nominal level of each look.
    """

    max_drop: float
    confidence: float
    looks: tuple[int, ...]
    levels: tuple[float, ...]

    def judge(self, n: int, lost: int, gained: int) -> Look:
        """Decides at a look of the rule.

        Args:
            n: Images so far; one of `looks`.
            lost: Of them, right before and wrong after.
            gained: Of them, wrong before and right after.

        Raises:
            ValueError: If the rule has no look at `n`, or more images flipped than were seen.
        """
        if n not in self.looks:
            raise ValueError(f"no look was planned at {n} images: the error is kept at {self.looks} only")
        if min(lost, gained) < 0 or lost + gained > n:
            raise ValueError(f"{lost} lost and {gained} gained of {n} images")
        interval = _limits(lost, gained, n, self.levels[self.looks.index(n)])
        return Look(n, lost, gained, 100 * (lost - gained) / n, interval, self.decide(n, lost, gained))

    def decide(self, n: int, lost: int, gained: int) -> Decision:
        """The decision of `judge` alone, without its checks: for simulations."""
        level, limit = self.levels[self.looks.index(n)], self.max_drop / 100
        if _at_most(lost, gained, n, limit) <= level:
            return "pass"
        if _at_most(gained, lost, n, -limit) <= level:
            return "fail"
        return "go on" if n < self.looks[-1] else "undecided"

    @property
    def can_pass(self) -> bool:
        """False where not even a network that flips no image could pass."""
        return self.decide(self.looks[-1], 0, 0) == "pass"

    def chance_to_pass(self, flips: float, drop: float = 0.0) -> tuple[float, ...]:
        """Chance to have passed by each look, from the normal law: within 0.04 of simulations from 12 flips on.

        Args:
            flips: Share of the images on which exactly one of both networks is right, in percent, > 0.
            drop: True drop, in points; not above `flips`.
        """
        drift = (self.max_drop - drop) * math.sqrt(self.looks[-1] / (100 * flips))
        stretch = _stretch(self.max_drop / 100, flips / 100, drop / 100)
        return tuple(np.cumsum(_crossings(_times(self.looks), self.levels, drift, stretch)).tolist())


def stopping_rule(images: int, max_drop: float, confidence: float = 0.95, looks: int = LOOKS) -> StoppingRule:
    """Plans the looks of an audit: equal batches of at least one image.

    Args:
        images: All images there are.
        max_drop: Limit of the drop, in points, > 0.
        confidence: Between 0.5 and 1.
        looks: How often to look, the last time at all images.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if images < 1 or looks < 1 or not 0 < max_drop < 100 or not 0.5 < confidence < 1:
        raise ValueError(f"no rule for {images} images, {looks} looks, a limit of {max_drop}, confidence {confidence}")
    ends = tuple(sorted({math.ceil(images * k / looks) for k in range(1, looks + 1)}))
    return StoppingRule(max_drop, confidence, ends, spent_levels(ends, 1 - confidence))


def images_needed(max_drop: float, flips: float, confidence: float = 0.95, power: float = POWER) -> int:
    """Images with which an audit of LOOKS looks passes a network without any drop with chance `power`, see the top.

    Args:
        max_drop: Limit, in points.
        flips: Share of the images on which exactly one of both networks is right, in percent.
        confidence: As in `stopping_rule`.
        power: Chance to pass.
    """
    even = tuple(range(1, LOOKS + 1))
    levels = spent_levels(even, 1 - confidence)
    times = _times(even)
    stretch = _stretch(max_drop / 100, flips / 100, 0.0)
    drift = float(optimize.brentq(lambda d: sum(_crossings(times, levels, d, stretch)) - power, 0, 4 + 4 * stretch))
    return math.ceil(100 * flips * (drift / max_drop) ** 2)


@cache
def smallest_detectable_drop(n: int, flips: int, power: float = POWER) -> float:
    """The smallest true drop, in points, that a sample like this one would have shown with chance `power`.

    Shown means: the 95 % interval of `reports.accuracy.drop_interval` lies above zero. The number of flips and of the
    lost among them are summed over their binomial laws, so no approximation is in it. A drop above the share of flips
    is one without any gained image.

    Args:
        n: Images.
        flips: Images among them on which exactly one of both networks was right.
        power: Between 0 and 1.
    """

    def missing(drop: float) -> float:
        return power - _power(n, max(flips / n, drop), drop)

    if missing(1.0) > 0:
        return 100.0
    return 100 * float(optimize.brentq(missing, 0.0, 1.0, xtol=1e-7))


def _power(n: int, flips: float, drop: float) -> float:
    """Chance that lost - gained > z sqrt(lost + gained), for shares 0 to 1 of flips and drop."""
    if flips <= 0:
        return 0.0
    z = _NORMAL.inv_cdf(0.975)
    spread = 8 * math.sqrt(n * flips) + 8
    m = np.arange(max(1, math.floor(n * flips - spread)), min(n, math.ceil(n * flips + spread)) + 1)
    most_below = np.floor((m + z * np.sqrt(m)) / 2)  # the interval touches zero up to this many lost
    shown = stats.binom.sf(most_below, m, 0.5 * (1 + drop / flips))
    return float((stats.binom.pmf(m, n, flips) * shown).sum())


def spent_levels(looks: Sequence[int], alpha: float) -> tuple[float, ...]:
    """One-sided nominal levels at `looks` whose crossings add up to `alpha` for a Brownian motion without drift."""
    times = _times(looks)
    spent = alpha * np.log1p((math.e - 1) * times)
    walk, levels = _Walk(), []
    for t, share in zip(times, np.diff(spent, prepend=0.0), strict=True):
        bound = float(optimize.brentq(partial(_missed, walk, t, share), 0.0, 12.0))
        levels.append(float(special.ndtr(-bound / math.sqrt(t))))
        walk = walk.on(t, bound)
    return tuple(levels)


def _missed(walk: _Walk, t: float, share: float, bound: float) -> float:
    return walk.above(bound, t) - share


def _stretch(limit: float, flips: float, drop: float) -> float:
    """Deviation of lost - gained if its drop were the limit, over its true one: a test standardises by the former."""
    n = 1_000_000  # shares as counts
    gained = restricted_gain(round(n * (flips + drop) / 2), round(n * (flips - drop) / 2), n, limit)
    return math.sqrt((2 * gained + limit) / flips)


def _crossings(times: NDArray[np.float64], levels: Sequence[float], drift: float, stretch: float = 1.0) -> list[float]:
    """Chance of the first crossing at each look, of a Brownian motion whose mean at time 1 is `drift`.

    `stretch`: factor on the bounds.
    """
    walk, found = _Walk(drift=drift), []
    for t, level in zip(times, levels, strict=True):
        bound = -float(special.ndtri(level)) * math.sqrt(t) * stretch
        found.append(walk.above(bound, t))
        walk = walk.on(t, bound)
    return found


class _Walk:
    """Density of a Brownian motion at a look, as far as it has crossed no bound before; quadrature nodes and masses."""

    def __init__(self, drift: float = 0.0) -> None:
        self.drift, self.t = drift, 0.0
        self.at: NDArray[np.float64] = np.zeros(1)
        self.mass: NDArray[np.float64] = np.ones(1)

    def above(self, bound: float, t: float) -> float:
        """Chance to lie above `bound` at time `t`."""
        step = t - self.t
        return float(self.mass @ special.ndtr((self.at + self.drift * step - bound) / math.sqrt(step)))

    def on(self, t: float, bound: float) -> _Walk:
        """What is below `bound` at time `t`."""
        step = t - self.t
        nodes, weights = _gauss()
        bottom = min(self.drift * t, bound) - 8 * math.sqrt(t)
        found = _Walk(self.drift)
        found.t, found.at = t, bottom + (bound - bottom) * (nodes + 1) / 2
        gap = (found.at[:, None] - self.at[None] - self.drift * step) / math.sqrt(step)
        density = np.exp(-(gap**2) / 2) @ self.mass / math.sqrt(2 * math.pi * step)
        found.mass = density * weights * (bound - bottom) / 2
        return found


@cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(_NODES)


def _times(looks: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(looks, np.float64) / looks[-1]


def _at_most(lost: int, gained: int, n: int, delta: float) -> float:
    """P(lost - gained at most what was seen) where the true drop is `delta` (-1 to 1); falls as `delta` rises."""
    rate_gained = n * max(0.0, restricted_gain(lost, gained, n, delta))
    rate_lost = max(_NO_RATE, rate_gained + n * delta)
    return _skellam_cdf(lost - gained, rate_lost, max(_NO_RATE, rate_gained))


def _skellam_cdf(k: int, first: float, second: float) -> float:
    """P(Poisson(first) - Poisson(second) <= k), by its identity with the noncentral chi-square law."""
    if k < 0:
        return float(special.chndtr(2 * second, -2 * k, 2 * first))
    return 1 - float(special.chndtr(2 * first, 2 * (k + 1), 2 * second))


def _limits(lost: int, gained: int, n: int, level: float) -> tuple[float, float]:
    """Drops, in points, beyond which this look rejects, each end at a one-sided `level`."""
    return -_upper_limit(gained, lost, n, level), _upper_limit(lost, gained, n, level)


def _upper_limit(lost: int, gained: int, n: int, level: float) -> float:
    low, high = (lost - gained) / n, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(lost, gained, n, middle) > level else (low, middle)
    return 100 * high
