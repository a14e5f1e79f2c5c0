"""What stands beside a street: houses, parks, walls and trees."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mmtokmerge.datasets.streets import CLASS
from mmtokmerge.datasets.streets.canvas import Canvas
from mmtokmerge.datasets.streets.furniture import fence

FARTHEST_M, NEAREST_M = 90.0, 2.5


def tree(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A trunk under a crown of many leafy blobs, lighter on top."""
    tall, spread, index = rng.uniform(4, 8), rng.uniform(1.2, 2.2), CLASS["vegetation"]
    green = np.array([rng.uniform(25, 50), rng.uniform(75, 125), rng.uniform(45, 95)])
    canvas.upright(x, (0, tall * 0.6), z, rng.uniform(0.25, 0.4), (45, 60, 75), index)
    for _ in range(24 if z < 35 else 12):
        angle, reach = rng.uniform(0, 2 * np.pi), spread * np.sqrt(rng.uniform())
        up = np.sin(angle) * reach * 1.1
        centre = (x + np.cos(angle) * reach, tall * 0.72 + up, z)
        radius = rng.uniform(0.25, 0.5) * spread
        tone = 0.85 + 0.3 * up / spread + rng.uniform(-0.18, 0.18)
        canvas.ellipse(centre, (radius, radius * 0.85), green * tone, index)


def draw_roadside(canvas: Canvas, rng: Generator, side: int, edge: float) -> None:
    """Houses, parks and walls along one side, from the farthest to the nearest."""
    z = FARTHEST_M
    while z > NEAREST_M:
        near = z - rng.uniform(8, 17)
        near = near if near > NEAREST_M + 4 else NEAREST_M
        plot = rng.choice([_house, _park, _wall], p=[0.62, 0.25, 0.13])
        plot(canvas, rng, side * (edge + rng.uniform(0, 0.6)), near, z)
        z = near


def _house(canvas: Canvas, rng: Generator, x: float, near: float, far: float) -> None:
    top, label = rng.uniform(5, 15), CLASS["building"]
    colour = rng.uniform(80, 200) * np.array([rng.uniform(0.65, 1), rng.uniform(0.8, 1), 1.0])

    def facade(
        z: tuple[float, float], y: tuple[float, float], fill: np.ndarray, mark: int | None
    ) -> None:
        points = [(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])]
        canvas.polygon(points, fill, mark)

    front = np.sign(x) * rng.uniform(6, 12)
    canvas.polygon(
        [(x, 0, near), (x + front, 0, near), (x + front, top, near), (x, top, near)],
        colour * 0.8,
        label,
    )
    facade((near, far), (0, top), colour, label)
    facade((near, far), (top - 0.5, top), colour * 0.7, None)
    facade((near, far), (0, 0.8), colour * 0.75, None)
    glass = np.array([110, 95, 80]) * rng.uniform(0.5, 1.3)
    gap = rng.uniform(2.2, 3.4)
    for z in np.arange(near + gap * 0.3, far - 1.2, gap):
        for y in np.arange(1.2, top - 2.2, 3.0):
            facade((z, z + 1.15), (y, y + 1.6), glass * rng.uniform(0.6, 1.4), None)


def _park(canvas: Canvas, rng: Generator, x: float, near: float, far: float) -> None:
    side = np.sign(x)
    for z in sorted(rng.uniform(near + 1, far, 5), reverse=True):
        tree(canvas, rng, x + side * rng.uniform(2, 9), z)
    if rng.uniform() < 0.6:
        fence(canvas, rng, x, near, far)


def _wall(canvas: Canvas, rng: Generator, x: float, near: float, far: float) -> None:
    for z in sorted(rng.uniform(near + 1, far, 3), reverse=True):
        tree(canvas, rng, x + np.sign(x) * rng.uniform(2, 5), z)
    top, brick = rng.uniform(1.6, 2.6), np.array([85, 105, 150]) * rng.uniform(0.7, 1.2)
    canvas.polygon([(x, 0, near), (x, top, near), (x, top, far), (x, 0, far)], brick, CLASS["wall"])
    for y in np.arange(0.3, top, 0.3):
        canvas.polygon(
            [(x, y, near), (x, y + 0.04, near), (x, y + 0.04, far), (x, y, far)], brick * 0.8, None
        )
