"""Signed distance primitives in the plane, vectorised over float32 grids.

Every function takes coordinate arrays ``x`` and ``y`` of one shape (y points up) and returns an array of that shape:
negative inside, positive outside, about the distance in the units of the coordinates. Where an exact distance costs
more than the picture gains, the value is only a distance near the outline; the renderer divides by the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 in practice; the stubs of numpy widen most results
Point = tuple[float, float]


def clamp(field: Array, low: float, high: float) -> Array:
    """Limits a field to [low, high]; a third of the cost of np.clip on small grids."""
    return np.minimum(np.maximum(field, np.float32(low)), np.float32(high))


def union(*parts: Array) -> Array:
    """Points that lie in any of the parts."""
    result = parts[0]
    for part in parts[1:]:
        result = np.minimum(result, part)
    return result


def cut(body: Array, hole: Array) -> Array:
    """The body without the hole."""
    return np.maximum(body, -hole)


def blend(a: Array, b: Array, radius: float) -> Array:
    """Union whose inner corners are filled with a fillet of about ``radius``."""
    h = clamp(0.5 + (b - a) * (0.5 / radius), 0.0, 1.0)
    return b + (a - b) * h - radius * h * (1.0 - h)


def circle(x: Array, y: Array, centre: Point, radius: float) -> Array:
    """Disc."""
    return np.hypot(x - centre[0], y - centre[1]) - radius


def ellipse(x: Array, y: Array, centre: Point, axes: Point) -> Array:
    """Axis-parallel ellipse with half axes ``axes``; a distance only near the outline."""
    u, v = (x - centre[0]) / axes[0], (y - centre[1]) / axes[1]
    return (np.sqrt(u * u + v * v + 1e-6) - 1.0) * min(axes)


def ring(x: Array, y: Array, centre: Point, radius: float, half_width: float) -> Array:
    """Annulus around the circle of the given radius."""
    return np.abs(np.hypot(x - centre[0], y - centre[1]) - radius) - half_width


def box(x: Array, y: Array, centre: Point, half: Point, rounding: float = 0.0) -> Array:
    """Axis-parallel box with half sides ``half`` (rounding included)."""
    qx = np.abs(x - centre[0]) - (half[0] - rounding)
    qy = np.abs(y - centre[1]) - (half[1] - rounding)
    outside = np.hypot(np.maximum(qx, 0.0), np.maximum(qy, 0.0))
    return outside + np.minimum(np.maximum(qx, qy), 0.0) - rounding


def capsule(x: Array, y: Array, start: Point, end: Point, radius: float) -> Array:
    """Segment thickened by ``radius`` with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = clamp((px * dx + py * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.hypot(px - along * dx, py - along * dy) - radius


def half_plane(x: Array, y: Array, on: Point, angle: float) -> Array:
    """Points behind the line through ``on`` whose outward normal has the given angle (radians)."""
    nx, ny = math.cos(angle), math.sin(angle)
    return x * nx + y * ny - (on[0] * nx + on[1] * ny)


def convex(x: Array, y: Array, corners: Sequence[Point]) -> Array:
    """Convex polygon from corners in counter-clockwise order (exact inside, a lower bound outside)."""
    sides = []
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = math.hypot(bx - ax, by - ay)
        nx, ny = (by - ay) / length, (ax - bx) / length
        sides.append(x * nx + y * ny - (ax * nx + ay * ny))
    result = sides[0]
    for side in sides[1:]:
        result = np.maximum(result, side)
    return result


def star(x: Array, y: Array, points: int, outer: float, inner: float) -> Array:
    """Star with straight sides between tips at ``outer`` and notches at ``inner``."""
    half = math.pi / points
    angle = np.abs(np.mod(np.arctan2(x, y) + half, 2.0 * half) - half)
    radius = np.hypot(x, y)
    u, v = radius * np.cos(angle), radius * np.sin(angle)
    bx, by = inner * math.cos(half) - outer, inner * math.sin(half)
    length = math.hypot(bx, by)
    return ((u - outer) * by - v * bx) / length


def cog(x: Array, y: Array, teeth: int, radius: float, depth: float, taper: float) -> Array:
    """Disc with ``teeth`` trapezoid teeth that reach ``depth`` beyond its rim; ``taper`` narrows them outwards."""
    half = math.pi / teeth
    angle = np.abs(np.mod(np.arctan2(y, x) + half, 2.0 * half) - half)
    reach = np.hypot(x, y)
    along, aside = reach * np.cos(angle), reach * np.sin(angle)
    flank = aside - 0.5 * half * radius + taper * (along - radius)
    tooth = np.maximum(flank, along - (radius + depth))
    return np.minimum(tooth, reach - radius)


def rock(x: Array, y: Array, radius: float, waves: Sequence[tuple[int, float, float]]) -> Array:
    """Irregular blob: a disc whose radius carries (order, relative amplitude, phase) waves."""
    angle = np.arctan2(y, x)
    wobble = np.ones_like(x)
    for order, amplitude, phase in waves:
        wobble += amplitude * np.cos(order * angle + phase)
    return np.hypot(x, y) - radius * wobble
