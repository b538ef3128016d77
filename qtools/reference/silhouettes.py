"""The sixteen classes: one silhouette function each, with its own variation.

A silhouette takes object coordinates (float32, y up, the thing fills about the unit disc) and a generator. It draws
all its proportions from the generator before it touches the grid, so the shape does not depend on the resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qtools.reference.shapes import (
    Array,
    blend,
    box,
    capsule,
    circle,
    cog,
    convex,
    cut,
    ellipse,
    half_plane,
    ring,
    star,
    union,
)

Draw = np.random.Generator


def _anchor(x: Array, y: Array, draw: Draw) -> Array:
    half, reach, bar = draw.uniform(0.06, 0.1), draw.uniform(0.5, 0.68), draw.uniform(0.24, 0.42)
    bar_at, fluke = draw.uniform(0.3, 0.48), draw.uniform(0.2, 0.3)
    middle = -0.92 + reach
    arc = np.maximum(ring(x, y, (0.0, middle), reach, half), y - middle + 0.12)
    ax = np.abs(x)
    tip = convex(ax, y, [(reach - fluke, middle - 0.12), (reach + fluke * 0.8, middle - 0.2), (reach, middle + fluke)])
    shaft = capsule(x, y, (0.0, 0.6), (0.0, -0.9), half)
    cross = capsule(x, y, (-bar, bar_at), (bar, bar_at), half * 0.9)
    return union(arc, tip, shaft, cross, ring(x, y, (0.0, 0.76), 0.15, half * 0.75))


def _bottle(x: Array, y: Array, draw: Draw) -> Array:
    wide, neck = draw.uniform(0.26, 0.42), draw.uniform(0.08, 0.14)
    shoulder, lip, fillet = draw.uniform(-0.05, 0.3), draw.uniform(0.0, 0.05), draw.uniform(0.12, 0.35)
    body = box(x, y, (0.0, (shoulder - 0.95) / 2), (wide, (shoulder + 0.95) / 2), draw.uniform(0.03, 0.12))
    stem = box(x, y, (0.0, 0.45), (neck, 0.5))
    return union(blend(body, stem, fillet), box(x, y, (0.0, 0.88), (neck + lip, 0.08), 0.02))


def _butterfly(x: Array, y: Array, draw: Draw) -> Array:
    ax = np.abs(x)
    tilt, low = draw.uniform(0.3, 0.9), draw.uniform(-0.9, -0.4)
    upper = (draw.uniform(0.42, 0.52), draw.uniform(0.24, 0.34))
    lower = (draw.uniform(0.28, 0.4), draw.uniform(0.2, 0.28))

    def wing(angle: float, axes: tuple[float, float]) -> Array:
        c, s = math.cos(angle), math.sin(angle)
        return ellipse(ax * c + y * s, y * c - ax * s, (axes[0] * 1.02, 0.0), axes)

    body = capsule(x, y, (0.0, 0.35), (0.0, -0.5), draw.uniform(0.05, 0.09))
    feeler = capsule(ax, y, (0.0, 0.35), (draw.uniform(0.15, 0.3), 0.8), 0.03)
    return union(wing(tilt, upper), wing(low, lower), body, feeler)


def _crescent(x: Array, y: Array, draw: Draw) -> Array:
    shift, inner = draw.uniform(0.3, 0.6), draw.uniform(0.62, 0.85)
    return cut(circle(x, y, (0.0, 0.0), 0.9), circle(x, y, (shift, draw.uniform(-0.15, 0.15)), inner))


def _fish(x: Array, y: Array, draw: Draw) -> Array:
    tall, tail, notch = draw.uniform(0.24, 0.44), draw.uniform(0.28, 0.48), draw.uniform(0.0, 0.15)
    fin, eye = draw.uniform(0.12, 0.3), draw.random() < 0.7
    body = ellipse(x, y, (-0.2, 0.0), (draw.uniform(0.62, 0.75), tall))
    ay = np.abs(y)
    flap = convex(x, ay, [(0.3, -0.06), (0.9 - notch, -0.06), (0.95, tail), (0.85, tail)])
    back = convex(x, y, [(-0.4, tall * 0.8), (0.15, tall * 0.7), (0.1, tall + fin)])
    shape = union(body, flap, back)
    return cut(shape, circle(x, y, (-0.62, tall * 0.2), 0.06)) if eye else shape


def _gear(x: Array, y: Array, draw: Draw) -> Array:
    teeth, depth = int(draw.integers(7, 12)), draw.uniform(0.13, 0.22)
    rim = cog(x, y, teeth, draw.uniform(0.66, 0.76), depth, draw.uniform(0.0, 0.4))
    return cut(rim, circle(x, y, (0.0, 0.0), draw.uniform(0.16, 0.42)))


def _hammer(x: Array, y: Array, draw: Draw) -> Array:
    half, tall, face = draw.uniform(0.07, 0.11), draw.uniform(0.13, 0.2), draw.uniform(0.3, 0.48)
    droop, beak = draw.uniform(0.0, 0.2), draw.uniform(0.5, 0.72)
    handle = box(x, y, (0.0, -0.2), (half, 0.72), half * 0.6)
    head = box(x, y, (-face / 2, 0.58), (face / 2 + 0.14, tall), 0.03)
    claw = convex(x, y, [(0.05, 0.58 - tall), (beak, 0.52 - droop), (beak, 0.6 - droop), (0.05, 0.58 + tall)])
    return union(handle, head, claw)


def _heart(x: Array, y: Array, draw: Draw) -> Array:
    lobe, apart, drop = draw.uniform(0.4, 0.48), draw.uniform(0.36, 0.44), draw.uniform(0.7, 0.95)
    ax = np.abs(x)
    # The flank is the tangent from the lower tip to the lobe, so that the outline has no corner there.
    reach = math.hypot(apart, 0.25 + drop)
    lean = math.atan2(0.25 + drop, apart) - math.asin(lobe / reach)
    flank = half_plane(ax, y, (0.0, -drop), lean - math.pi / 2)
    top = half_plane(ax, y, (apart, 0.25), lean + math.pi / 2)
    centre = np.maximum(np.maximum(flank, top), np.maximum(y - 0.3, ax - apart - lobe))
    wedge = np.maximum(np.maximum(flank, y - 0.25), -y - drop)
    return union(circle(ax, y, (apart, 0.25), lobe), np.minimum(centre, np.maximum(wedge, ax - apart)))


def _house(x: Array, y: Array, draw: Draw) -> Array:
    wide, eaves, peak = draw.uniform(0.48, 0.72), draw.uniform(0.06, 0.2), draw.uniform(0.55, 0.9)
    wall, door, door_at = draw.uniform(0.0, 0.18), draw.uniform(0.1, 0.17), draw.uniform(-0.5, 0.5)
    stack, pane = draw.random() < 0.7, draw.random() < 0.6
    shape = box(x, y, (0.0, (wall - 0.8) / 2), (wide, (wall + 0.8) / 2))
    shape = union(shape, convex(x, y, [(-wide - eaves, wall), (wide + eaves, wall), (0.0, peak)]))
    if stack:
        shape = union(shape, box(x, y, (wide * 0.55, peak * 0.6), (0.09, 0.3)))
    shape = cut(shape, box(x, y, (door_at * wide, -0.6), (door, 0.26)))
    if pane:
        shape = cut(shape, box(x, y, (-door_at * wide * 0.9, wall - 0.2), (0.11, 0.11)))
    return shape


def _key(x: Array, y: Array, draw: Draw) -> Array:
    bow, band, shaft = draw.uniform(0.25, 0.36), draw.uniform(0.07, 0.12), draw.uniform(0.055, 0.085)
    count, square = int(draw.integers(2, 4)), draw.random() < 0.25
    at = -0.92 + bow + band
    plate = box(x, y, (at, 0.0), (bow, bow), bow * 0.3) if square else circle(x, y, (at, 0.0), bow)
    grip: Array = np.abs(plate) - band
    parts = [grip, capsule(x, y, (at + bow, 0.0), (0.88, 0.0), shaft)]
    for number in range(count):
        long = draw.uniform(0.14, 0.3)
        parts.append(box(x, y, (0.82 - 0.19 * number, -long / 2), (0.06, long / 2 + 0.03)))
    return union(*parts)


def _leaf(x: Array, y: Array, draw: Draw) -> Array:
    bulge, teeth, depth = draw.uniform(0.35, 0.6), draw.uniform(14.0, 26.0), draw.uniform(0.0, 0.035)
    bend, rib = draw.uniform(-0.25, 0.25), draw.uniform(0.012, 0.03)
    bx = x - bend * (y * y - 0.3)
    length = 0.72
    radius = (length * length + bulge * bulge) / (2.0 * bulge)
    yy = y - 0.2
    blade = np.hypot(np.abs(bx) + (radius - bulge), yy) - radius + depth * np.sin(teeth * yy)
    vein = capsule(bx, y, (0.0, -0.5), (0.0, 0.5), rib)
    return union(cut(blade, vein), capsule(bx, y, (0.0, -0.45), (0.0, -0.92), 0.04))


def _mug(x: Array, y: Array, draw: Draw) -> Array:
    wide, tall, taper = draw.uniform(0.42, 0.58), draw.uniform(0.5, 0.76), draw.uniform(-0.12, 0.2)
    loop, band, stretch = draw.uniform(0.24, 0.34), draw.uniform(0.06, 0.1), draw.uniform(1.0, 1.4)
    left = x + 0.2
    body = box(left / (1.0 + taper * y), y, (0.0, 0.0), (wide, tall), draw.uniform(0.03, 0.15))
    handle = ring(left, y / stretch, (wide + loop * 0.45, draw.uniform(-0.05, 0.12)), loop, band)
    return union(body, handle)


def _mushroom(x: Array, y: Array, draw: Draw) -> Array:
    wide, tall, brim = draw.uniform(0.58, 0.88), draw.uniform(0.5, 0.8), draw.uniform(-0.1, 0.15)
    stalk, flare, curl = draw.uniform(0.12, 0.25), draw.uniform(-0.1, 0.2), draw.uniform(-0.2, 0.25)
    cap = np.maximum(ellipse(x, y, (0.0, brim), (wide, tall)), brim - y + curl * x * x)
    stem = np.maximum(np.abs(x) - stalk + flare * (y - brim) * 0.5, np.abs(y - brim + 0.42) - 0.47)
    return union(cap, stem)


def _star(x: Array, y: Array, draw: Draw) -> Array:
    points = 5 if draw.random() < 0.7 else int(draw.integers(4, 8))
    return star(x, y, points, 0.98, draw.uniform(0.34, 0.5)) - draw.uniform(0.0, 0.05)


def _tree(x: Array, y: Array, draw: Draw) -> Array:
    tiers, wide, trunk = int(draw.integers(2, 5)), draw.uniform(0.45, 0.7), draw.uniform(0.07, 0.13)
    overlap, shrink = draw.uniform(1.3, 1.8), draw.uniform(0.6, 0.85)
    step = 1.5 / (tiers - 1 + overlap)
    parts = [box(x, y, (0.0, -0.75), (trunk, 0.22))]
    for number in range(tiers):
        foot = -0.58 + step * number
        reach = wide * shrink**number
        parts.append(convex(x, y, [(-reach, foot), (reach, foot), (0.0, foot + step * overlap)]))
    return union(*parts)


def _umbrella(x: Array, y: Array, draw: Draw) -> Array:
    wide, tall, ribs = draw.uniform(0.75, 0.92), draw.uniform(0.6, 0.85), int(draw.integers(3, 6))
    scallop, half, hook = draw.uniform(0.08, 0.16), draw.uniform(0.035, 0.06), draw.uniform(0.11, 0.17)
    edge = scallop * np.abs(np.sin(x * (math.pi * ribs / (2.0 * wide)) + (0.0 if ribs % 2 == 0 else math.pi / 2)))
    canopy = np.maximum(ellipse(x, y, (0.0, 0.05), (wide, tall)), 0.02 + edge - y)
    pole = capsule(x, y, (0.0, tall + 0.12), (0.0, -0.75), half)
    crook = np.maximum(ring(x, y, (hook, -0.75), hook, half), y + 0.75)
    return union(canopy, pole, crook)


_SILHOUETTES: dict[str, Callable[[Array, Array, Draw], Array]] = {
    "anchor": _anchor,
    "bottle": _bottle,
    "butterfly": _butterfly,
    "crescent": _crescent,
    "fish": _fish,
    "gear": _gear,
    "hammer": _hammer,
    "heart": _heart,
    "house": _house,
    "key": _key,
    "leaf": _leaf,
    "mug": _mug,
    "mushroom": _mushroom,
    "star": _star,
    "tree": _tree,
    "umbrella": _umbrella,
}

CLASSES: tuple[str, ...] = tuple(_SILHOUETTES)


def silhouette(label: int, x: Array, y: Array, draw: Draw) -> Array:
    """Signed distance field of one exemplar of a class.

    Args:
        label: index into ``CLASSES``.
        x: object coordinates, any shape.
        y: object coordinates, y up, same shape.
        draw: source of the exemplar's proportions; consumed the same way at every resolution.

    Returns:
        float32 array shaped like ``x``: negative inside.
    """
    return _SILHOUETTES[CLASSES[label]](x, y, draw)
