"""A few SVG shapes and axes. Colours are CSS classes of the page, so that one drawing serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels.

    Attributes:
        lo: Value at `start`, greater than 0 on a logarithmic axis.
        hi: Value at `end`, > lo.
        start: Pixel of `lo`.
        end: Pixel of `hi`; may be smaller than `start`, as on a vertical axis.
        log: True for a logarithmic axis.
    """

    lo: float
    hi: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value; values outside land on the edge."""
        value = min(max(value, self.lo), self.hi)
        if self.log:
            share = math.log(value / self.lo) / math.log(self.hi / self.lo)
        else:
            share = (value - self.lo) / (self.hi - self.lo)
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 6) -> tuple[float, ...]:
        """Round values inside the axis: decades on a logarithmic one, else steps of 1, 2 or 5."""
        if self.log:
            first, last = math.ceil(math.log10(self.lo) - 1e-9), math.floor(math.log10(self.hi) + 1e-9)
            stride = max(1, math.ceil((last - first + 1) / wanted))
            return tuple(10.0**e for e in range(first, last + 1, stride))
        rough = (self.hi - self.lo) / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        first, last = math.ceil(self.lo / step - 1e-9), math.floor(self.hi / step + 1e-9)
        return tuple(round(i * step, 10) for i in range(first, last + 1))


def decades(values: Iterable[float]) -> tuple[float, float]:
    """Powers of ten around the positive values."""
    positive = [v for v in values if v > 0]
    if not positive:
        return 0.1, 1.0
    lo, hi = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return 10.0**lo, 10.0 ** max(hi, lo + 1)


def line(a: tuple[float, float], b: tuple[float, float], css: str) -> Markup:
    """A straight line between two points in pixels."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(css, *_px(*a, *b))


def dot(at: tuple[float, float], radius: float, css: str, hint: str = "") -> Markup:
    """A circle; `hint` shows when the pointer rests on it."""
    title = Markup("<title>{}</title>").format(hint) if hint else ""
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>').format(css, *_px(*at, radius), title)


def box(corner: tuple[float, float], size: tuple[float, float], css: str) -> Markup:
    """A rectangle from its upper left corner."""
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(css, *_px(*corner, *size))


def path(points: Sequence[tuple[float, float]], css: str) -> Markup:
    """An open line through points."""
    return Markup('<polyline class="{}" points="{}"/>').format(css, " ".join(",".join(_px(*p)) for p in points))


def label(at: tuple[float, float], text: str, anchor: str = "start", css: str = "") -> Markup:
    """Text; `anchor` is start, middle or end."""
    x, y = _px(*at)
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(css, x, y, anchor, text)


def legend(corner: tuple[float, float], entries: Iterable[tuple[str, str]]) -> Markup:
    """Dots with words, (css class, words), side by side up to the right end `corner`."""
    entries, parts = [*entries], []
    # the width of a letter is a guess, fonts differ: it only moves the gaps between entries
    widths = [30 + 6.7 * len(text) for _, text in entries]
    x, y = corner[0] - sum(widths) + 16, corner[1]
    for (css, text), width in zip(entries, widths, strict=True):
        parts += [dot((x, y - 4), 4, css), label((x + 9, y), text)]
        x += width
    return join(parts)


def horizontal(axis: Axis, top: float, bottom: float, unit: str) -> Markup:
    """Grid lines and tick labels of a horizontal axis, with its unit below."""
    parts = [line((axis.at(t), top), (axis.at(t), bottom), "grid") for t in axis.ticks()]
    parts += [label((axis.at(t), bottom + 16), tick_text(t), "middle", "tick") for t in axis.ticks()]
    parts.append(label(((axis.start + axis.end) / 2, bottom + 34), unit, "middle", "unit"))
    return join(parts)


def vertical(axis: Axis, left: float, right: float, unit: str) -> Markup:
    """Grid lines and tick labels of a vertical axis, with its unit above."""
    parts = [line((left, axis.at(t)), (right, axis.at(t)), "grid") for t in axis.ticks()]
    parts += [label((left - 7, axis.at(t) + 4), tick_text(t), "end", "tick") for t in axis.ticks()]
    parts.append(label((left - 44, axis.end - 12), unit, "start", "unit"))
    return join(parts)


def tick_text(value: float) -> str:
    """A tick as people write it."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"1e{round(math.log10(abs(value)))}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def drawing(width: int, height: int, alt: str, parts: Iterable[Markup]) -> Markup:
    """The whole picture; `alt` is read aloud in its place."""
    opening = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, alt)
    return opening + join(parts) + Markup("</svg>")


def join(parts: Iterable[Markup]) -> Markup:
    """Shapes in drawing order."""
    return Markup("").join(escape(part) for part in parts)


def _px(*values: float) -> tuple[str, ...]:
    """Tenths of a pixel, without a trailing .0."""
    return tuple(f"{value:.1f}".removesuffix(".0") for value in values)
