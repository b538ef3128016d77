"""Accuracy over cost as a picture: for a sweep's artifacts, and for an audit's choices of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.render import _svg as svg
from reports.render import _wording as words
from reports.sensitivity import Front as Choices
from reports.sweep import Front

WIDTH, HEIGHT = 1000, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 986, 34, 300
NAMED = 12
"""Points of a front that carry their name; the others show it under the pointer."""


@dataclass(frozen=True)
class Plane:
    """The axes of a picture, with what stands beside them.

    Attributes:
        x: The cost.
        y: What it buys.
        below: Unit of `x`.
        beside: Unit of `y`.
    """

    x: svg.Axis
    y: svg.Axis
    below: str
    beside: str

    def at(self, cost: float, value: float) -> tuple[float, float]:
        """Where a point goes."""
        return self.x.at(cost), self.y.at(value)

    def drawing(self, alt: str, parts: Sequence[Markup]) -> Markup:
        """The picture, `parts` on its grid."""
        grid = [svg.horizontal(self.x, TOP, BOTTOM, self.below), svg.vertical(self.y, LEFT, RIGHT, self.beside)]
        return svg.drawing(WIDTH, HEIGHT, alt, [*grid, *parts])


def costs_axis(costs: Sequence[float]) -> svg.Axis:
    """An axis with some room at both ends; `costs` are not all the same."""
    room = 0.04 * (max(costs) - min(costs))
    return svg.Axis(min(costs) - room, max(costs) + room, LEFT, RIGHT)


def front_plot(front: Choices) -> Markup:
    """Distance from float over what it costs: over time where that changes, else over the weights' bytes."""
    timed = any(point.time != front.points[0].time for point in front.points)
    per, unit = _unit([point.weight_bytes for point in front.points])
    costs = [point.time if timed else point.weight_bytes / per for point in front.points]
    if max(costs) == min(costs):
        return Markup("")
    reached = [d for point in front.points for d in (point.predicted, point.measured) if d is not None]
    below = "predicted time over the plan's own" if timed else f"weights as packed codes, {unit}"
    y = svg.Axis(0.0, 1.1 * max(*reached, 1e-9), BOTTOM, TOP)
    plane = Plane(costs_axis(costs), y, below, "mean √KL from float (lower is better)")
    parts = [svg.path([plane.at(c, p.predicted) for c, p in zip(costs, front.points, strict=True)], "real")]
    for cost, point in zip(costs, front.points, strict=True):
        hint = f"{point.changed} changed, the last {point.last}" if point.changed else "the plan as it is"
        parts.append(svg.dot(plane.at(cost, point.predicted), 2.2, "mark real", hint))
        if point.measured is not None:
            parts.append(svg.dot(plane.at(cost, point.measured), 4.6, "mark simulated", hint))
    first = plane.at(costs[0], front.points[0].predicted)
    parts.append(svg.label((first[0], first[1] - 12), "as it is", "middle", "value"))
    parts.append(svg.legend((RIGHT, 16), [("mark real", "predicted"), ("mark simulated", "measured")]))
    return plane.drawing(f"accuracy against cost: {front.title}", parts)


def pareto_plot(front: Front) -> Markup:
    """Score of every artifact over its cost; the ones that none beats are joined by steps, as nothing lies between."""
    sized = front.axis == "size"
    per, unit = _unit([row.cost("size") or 0.0 for row in front.rows]) if sized else (1.0, "ms")
    costs = {row.cell: (row.cost(front.axis) or 0.0) / per for row in front.rows}
    values = {row.cell: row.value or 0.0 for row in front.rows}
    if max(costs.values()) == min(costs.values()):
        return Markup("")
    low, high = min(values.values()), max(values.values())
    room = max(0.1 * (high - low), 0.05)
    y = svg.Axis(low - room, min(high + room, 100.0) if high < 100 else 100.0, BOTTOM, TOP)
    below = f"artifact, {unit}" if sized else f"median latency, ms, {front.host}; not a phone"
    plane = Plane(costs_axis([*costs.values()]), y, below, f"{front.judged_by}, % (higher is better)")
    kept = [row for row in front.rows if row.cell in front.best]
    parts = [svg.path(_steps([plane.at(costs[row.cell], values[row.cell]) for row in kept]), "simulated")]
    for row in front.rows:
        hint = f"{row.cell}: {words.number(values[row.cell])} %, {costs[row.cell]:.4g} {unit}"
        css, radius = ("mark real", 4.6) if row.cell in front.best else ("mark side", 3.2)
        parts.append(svg.dot(plane.at(costs[row.cell], values[row.cell]), radius, css, hint))
    for row in kept[:NAMED]:
        x, height = plane.at(costs[row.cell], values[row.cell])
        right = x > (LEFT + RIGHT) / 2
        parts.append(
            svg.label((x - 8 if right else x + 8, height + 15), row.cell, "end" if right else "start", "value")
        )
    parts.append(svg.legend((RIGHT, 16), [("mark real", "none beats it"), ("mark side", "beaten")]))
    return plane.drawing(f"{front.judged_by} against {front.axis}", parts)


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A staircase: the level of a point holds until the next one."""
    found: list[tuple[float, float]] = []
    for point in points:
        found += [(point[0], found[-1][1]), point] if found else [point]
    return found


def _unit(sizes: Sequence[float]) -> tuple[float, str]:
    return (1e6, "MB") if sizes[0] >= 1e6 else (1e3, "kB")
