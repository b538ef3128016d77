"""One picture: background, clutter behind, the object, clutter in front, and the camera.

World coordinates run over [-1, 1] both ways with y up, whatever the resolution. The generator is consumed in a
fixed order; only the sensor noise, drawn last, has as many values as the picture has pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtools.reference.shapes import Array, box, capsule, clamp, convex, ring, rock, union
from qtools.reference.silhouettes import silhouette
from qtools.reference.surface import Colour, Draw, Material, Pattern, colour, lattice, near, spline

Mask = NDArray[np.bool_]
Field = Callable[[Array, Array, Draw], Array]


@dataclass(frozen=True)
class Pose:
    """Where a shape stands: centre and scale in world units, turn and shear in radians and ratio, and its bend."""

    centre: tuple[float, float]
    scale: float
    turn: float
    shear: float
    squeeze: float
    keystone: tuple[float, float]
    mirrored: bool


@dataclass(frozen=True)
class Light:
    """Direction the light comes from (world, y up) and how strongly it shows."""

    x: float
    y: float
    strength: float
    shadow: float


class Canvas:
    """A picture in the making: float32 planes (3, size, size) and the coordinate axes of its pixel centres.

    ``mask`` (size, size) is true where the labelled object shows: painted by it and by nothing since.
    """

    def __init__(self, size: int, softness: float, trouble: float) -> None:
        """Starts black.

        Args:
            size: side in pixels.
            softness: half width of every edge in world units, i.e. the defocus.
            trouble: 0..1, scales everything that makes the scene hard to read.
        """
        self.trouble = trouble
        self.pixel = 2.0 / size
        self.columns = ((np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1.0).astype(np.float32)
        self.rows = -self.columns
        self.planes = np.zeros((3, size, size), dtype=np.float32)
        self.mask = np.zeros((size, size), dtype=np.bool_)
        self.splines = {count: (spline(self.rows, count), spline(self.columns, count)) for count in (4, 9)}
        self.edge = max(softness, 0.6 * self.pixel)

    def noise(self, count: int, draw: Draw) -> Array:
        """Smooth noise (size, size), about 0..1, from a lattice of ``count`` by ``count`` random values."""
        values = draw.random((count, count), dtype=np.float32)
        return lattice(values, spline(self.rows, count), spline(self.columns, count))

    def window(self, centre: tuple[float, float], reach: float) -> tuple[slice, slice]:
        """Row and column slices that cover a square of half side ``reach``, at least four pixels each way."""
        size = len(self.columns)

        def span(lo: float, hi: float) -> slice:
            first = int(np.clip(math.floor((lo + 1.0) / self.pixel), 0, size - 4))
            last = int(np.clip(math.ceil((hi + 1.0) / self.pixel), first + 4, size))
            return slice(first, last)

        return span(-centre[1] - reach, -centre[1] + reach), span(centre[0] - reach, centre[0] + reach)


def paint_background(canvas: Canvas, draw: Draw) -> Colour:
    """Fills the canvas with a textured two- or three-colour ground; returns its main colour."""
    first = colour(draw)
    second = near(first, draw, canvas.trouble * draw.uniform(0.1, 0.6))
    third = near(first, draw, canvas.trouble * draw.uniform(0.05, 0.4))
    coarse, fine = int(draw.integers(3, 7)), int(draw.integers(9, 30))
    field, grain = canvas.noise(coarse, draw), canvas.noise(fine, draw)
    pattern, sharp, rough = Pattern.drawn(draw), draw.uniform(1.0, 6.0), draw.uniform(0.05, 0.4)
    mix = clamp((field - 0.5) * sharp + 0.5, 0.0, 1.0)
    weave = pattern.at(canvas.columns[None, :], canvas.rows[:, None] + field * 0.3) * draw.uniform(0.2, 0.9)
    grain = (grain - 0.5) * rough + 1.0
    for channel in range(3):
        plane = first[channel] + mix * (second[channel] - first[channel])
        plane += weave * (third[channel] - plane)
        canvas.planes[channel] = plane * grain
    return first


def draw_pose(draw: Draw, centre: tuple[float, float], scale: float, limits: tuple[float, float]) -> Pose:
    """Draws the remaining pose.

    Args:
        draw: the scene's generator.
        centre: world position.
        scale: world length of one object unit.
        limits: standard deviation of the turn in radians, and a factor (0..1) on shear, aspect and perspective.

    Returns:
        The pose.
    """
    spin, trouble = limits
    turn = float(np.clip(draw.normal(0.0, 1.0), -2.5, 2.5)) * spin
    shear, squeeze, fall_x, fall_y = draw.uniform(-1.0, 1.0, 4) * trouble
    keystone = (0.18 * fall_x, 0.18 * fall_y)
    return Pose(centre, scale, turn, 0.3 * shear, 1.0 + 0.2 * squeeze, keystone, draw.random() < 0.5)


def paint_shape(
    canvas: Canvas, pose: Pose, field: Field, look: tuple[Material, Light], draw: Draw, labelled: bool = False
) -> None:
    """Paints one lit, textured shape with its contact shadow over the canvas.

    A pixel belongs to the shape where it covers at least half of it, by the same cover that mixes the colours.
    """
    material, light = look
    bend = draw.uniform(-0.09, 0.09, (2, 4, 4)).astype(np.float32)
    grain = draw.random((9, 9), dtype=np.float32)
    rows, columns = canvas.window(pose.centre, pose.scale * 1.5)
    warp = lattice(bend, canvas.splines[4][0][rows], canvas.splines[4][1][columns]) * np.float32(pose.scale)
    warp[0] += canvas.columns[columns][None, :] - np.float32(pose.centre[0])
    warp[1] += canvas.rows[rows][:, None] - np.float32(pose.centre[1])
    x, y = _object_coordinates(warp[0], warp[1], pose)
    distance: Array = field(x, y, draw).astype(np.float32)
    slope_x, slope_y = _slopes(distance, canvas.pixel)
    steep = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1e-8)
    # Dividing by the gradient turns warped and approximate fields into world distances near the outline.
    distance = distance / clamp(steep, 0.5 / pose.scale, 2.5 / pose.scale)
    cover = clamp(0.5 - distance * (0.5 / canvas.edge), 0.0, 1.0)
    facing = (slope_x * light.x + slope_y * light.y) / steep
    planes = canvas.planes[:, rows, columns]
    fade = clamp(1.0 - distance / (0.22 * pose.scale), 0.0, 1.0)
    planes *= 1.0 - light.shadow * fade * clamp(0.55 - 0.6 * facing, 0.0, 1.0)
    rim = clamp(1.0 + distance / (material.bevel * pose.scale), 0.0, 1.0)
    relief = lattice(grain, canvas.splines[9][0][rows], canvas.splines[9][1][columns])
    tone = 1.0 + light.strength * facing * rim + (relief - 0.5) * 0.3
    shine = material.gloss * clamp(facing * rim - 0.45, 0.0, 1.0)
    mix = material.pattern.at(x, y)
    for channel in range(3):
        base, other = material.first[channel], material.second[channel]
        paint = (base + mix * (other - base)) * tone + shine
        planes[channel] += cover * (paint - planes[channel])
    canvas.mask[rows, columns][cover >= 0.5] = labelled


def _slopes(field: Array, pixel: float) -> tuple[Array, Array]:
    """Derivatives along world x and y; differences in place because np.gradient costs more than the rest together."""
    along_x, along_y = np.empty_like(field), np.empty_like(field)
    np.subtract(field[:, 2:], field[:, :-2], out=along_x[:, 1:-1])
    along_x[:, 0], along_x[:, -1] = along_x[:, 1], along_x[:, -2]
    np.subtract(field[:-2], field[2:], out=along_y[1:-1])
    along_y[0], along_y[-1] = along_y[1], along_y[-2]
    along_x *= 0.5 / pixel
    along_y *= 0.5 / pixel
    return along_x, along_y


def _object_coordinates(x: Array, y: Array, pose: Pose) -> tuple[Array, Array]:
    c, s = math.cos(pose.turn) / pose.scale, math.sin(pose.turn) / pose.scale
    u = x * c + y * s
    v = y * c - x * s
    u = u + pose.shear * v
    depth = clamp(1.0 + pose.keystone[0] * u + pose.keystone[1] * v, 0.5, 1.6)
    u = u * ((-1.0 if pose.mirrored else 1.0) * pose.squeeze) / depth
    return u.astype(np.float32), (v / (depth * pose.squeeze)).astype(np.float32)


def draw_clutter(draw: Draw) -> Field:
    """A distractor that is no member of any class: blob, slab, wedge, rod, hoop, cross or bent rod."""
    kind = int(draw.integers(0, 7))
    a, b = draw.uniform(0.2, 1.0), draw.uniform(0.2, 0.9)
    waves = [(order, draw.uniform(0.0, 0.22), draw.uniform(0.0, 6.28)) for order in (2, 3, 5)]

    def field(x: Array, y: Array, _: Draw) -> Array:
        if kind == 0:
            return rock(x, y, 0.8, waves)
        if kind == 1:
            return box(x, y, (0.0, 0.0), (a, b), 0.1 * b)
        if kind == 2:
            return convex(x, y, [(-a, -0.7), (b, -0.6), (a - b, 0.9)])
        if kind == 3:
            return capsule(x, y, (-1.0, 0.0), (1.0, 0.0), 0.08 + 0.15 * b)
        if kind == 4:
            return ring(x, y, (0.0, 0.0), 0.7, 0.06 + 0.15 * b)
        if kind == 5:
            return union(box(x, y, (0.0, 0.0), (0.9, 0.12 * a + 0.06)), box(x, y, (0.0, 0.0), (0.12 * b + 0.06, 0.9)))
        return union(capsule(x, y, (-0.8, 0.6), (0.0, -0.3), 0.13), capsule(x, y, (0.0, -0.3), (a, b), 0.13))

    return field


def paint_distractor(
    canvas: Canvas, ground: Colour, light: Light, draw: Draw, spot: tuple[float, float, float]
) -> None:
    """Paints one distractor at ``spot``: world x, y and scale."""
    pose = draw_pose(draw, spot[:2], spot[2], (3.0, 1.0))
    paint_shape(canvas, pose, draw_clutter(draw), (Material.drawn(draw, ground, canvas.trouble), light), draw)


def paint_clutter(canvas: Canvas, ground: Colour, light: Light, draw: Draw) -> None:
    """Scatters one to four distractors over the background."""
    for _ in range(round(float(draw.integers(1, 5)) * canvas.trouble)):
        spot = (draw.uniform(-1.0, 1.0), draw.uniform(-1.0, 1.0), draw.uniform(0.1, 0.36))
        paint_distractor(canvas, ground, light, draw, spot)


def paint_object(canvas: Canvas, ground: Colour, light: Light, label: int, draw: Draw) -> Pose:
    """Paints the labelled object; returns where it stands."""
    trouble = canvas.trouble
    scale = 0.8 - trouble * draw.uniform(0.0, 0.34)
    room = trouble * (1.02 - 0.85 * scale)
    centre = (draw.uniform(-room, room), draw.uniform(-room, room))
    pose = draw_pose(draw, centre, scale, (0.42 * trouble, trouble))
    look = (Material.drawn(draw, ground, trouble), light)
    paint_shape(canvas, pose, lambda x, y, source: silhouette(label, x, y, source), look, draw, labelled=True)
    return pose


def paint_occluders(canvas: Canvas, ground: Colour, light: Light, pose: Pose, draw: Draw) -> None:
    """Puts up to three distractors over parts of the object."""
    count = int(np.searchsorted((0.28, 0.68, 0.92), draw.random()))
    for _ in range(round(count * canvas.trouble)):
        angle, away = draw.uniform(0.0, 2.0 * math.pi), pose.scale * draw.uniform(0.3, 1.0)
        x, y = pose.centre[0] + away * math.cos(angle), pose.centre[1] + away * math.sin(angle)
        paint_distractor(canvas, ground, light, draw, (x, y, pose.scale * draw.uniform(0.16, 0.38)))


def expose(canvas: Canvas, draw: Draw) -> Array:
    """The camera: uneven light, white balance, exposure, contrast and sensor noise, in place.

    Returns:
        (3, size, size) float32, nominally 0..255 but not clipped.
    """
    tilt_x, tilt_y = draw.uniform(-0.3, 0.3, 2)
    balance = draw.uniform(0.82, 1.18, 3) * draw.uniform(0.65, 1.15)
    contrast, lift, noise = draw.uniform(0.55, 1.1), draw.uniform(-0.05, 0.12), draw.uniform(0.008, 0.05)
    noise *= canvas.trouble
    planes = canvas.planes
    shade = (1.0 + tilt_x * canvas.columns)[None, :] * (1.0 + tilt_y * canvas.rows)[:, None]
    for channel in range(3):
        planes[channel] *= shade * np.float32(balance[channel] * contrast * 255.0)
    planes += np.float32((0.5 * (1.0 - contrast) + lift) * 255.0)
    planes += draw.standard_normal(planes.shape, dtype=np.float32) * np.float32(noise * 255.0)
    return planes


def compose(label: int, size: int, draw: Draw, trouble: float) -> tuple[Array, Mask]:
    """Draws and paints a whole scene.

    Args:
        label: index into ``CLASSES``.
        size: side of the square picture in pixels, at least 16.
        draw: the scene's own generator.
        trouble: 0..1, how much of the clutter, occlusion, warp, noise and lack of contrast to keep.

    Returns:
        (3, size, size) float32, nominally 0..255, not clipped, and (size, size) bool: where the object shows.
    """
    canvas = Canvas(size, softness=trouble * draw.uniform(0.0, 0.026), trouble=trouble)
    bearing = draw.uniform(0.0, 2.0 * math.pi)
    light = Light(math.cos(bearing), math.sin(bearing), draw.uniform(0.1, 0.45), draw.uniform(0.0, 0.6))
    ground = paint_background(canvas, draw)
    paint_clutter(canvas, ground, light, draw)
    pose = paint_object(canvas, ground, light, label, draw)
    paint_occluders(canvas, ground, light, pose, draw)
    return expose(canvas, draw), canvas.mask
