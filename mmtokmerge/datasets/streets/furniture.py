"""What stands along a street: lamps, traffic lights, signs and fences.

Each function draws one thing ``z`` metres ahead, ``x`` metres right of the road's middle.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mmtokmerge.datasets.streets import CLASS
from mmtokmerge.datasets.streets.canvas import Canvas

SIGN_COLOURS = ((40, 40, 200), (190, 90, 30), (40, 200, 230), (60, 130, 50))
LAMPS = ((40, 40, 235), (40, 190, 240), (90, 220, 60))


def pole(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A street lamp: a pole of 5 to 7 m with an arm towards the road."""
    grey = (rng.uniform(70, 150),) * 3
    top, width = rng.uniform(5, 7), rng.uniform(0.14, 0.22)
    canvas.upright(x, (0, top), z, width, grey, CLASS["pole"])
    canvas.upright(x - width / 5, (0, top), z, width / 3, np.multiply(grey, 1.25), None)
    reach = -np.sign(x) * 1.4
    canvas.upright(x + reach / 2, (top - 0.12, top), z, abs(reach), grey, CLASS["pole"])


def traffic_light(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A pole with a box of three lamps, one of them lit."""
    top, grey = rng.uniform(2.9, 3.6), (rng.uniform(60, 110),) * 3
    canvas.upright(x, (0, top), z, 0.14, grey, CLASS["pole"])
    canvas.upright(x, (top - 0.2, top + 1.0), z, 0.5, (35, 38, 35), CLASS["traffic light"])
    lit = rng.integers(3)
    for i, lamp in enumerate(LAMPS):
        colour = lamp if i == lit else np.multiply(lamp, 0.25)
        canvas.ellipse((x, top + 0.8 - 0.4 * i, z), (0.13, 0.13), colour, None)


def traffic_sign(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A pole with a round, rectangular, triangular or diamond-shaped sign."""
    y, radius, label = rng.uniform(2.2, 2.7), rng.uniform(0.36, 0.46), CLASS["traffic sign"]
    colour = SIGN_COLOURS[rng.integers(len(SIGN_COLOURS))]
    canvas.upright(x, (0, y), z, 0.1, (rng.uniform(90, 140),) * 3, CLASS["pole"])
    kind = rng.integers(4)
    if kind == 0:
        canvas.ellipse((x, y, z), (radius, radius), colour, label)
        canvas.ellipse((x, y, z), (radius * 0.68, radius * 0.68), (235, 235, 235), None)
    elif kind == 1:
        canvas.upright(x, (y - radius, y + radius), z, 2 * radius, colour, label)
        canvas.upright(x, (y - radius * 0.2, y + radius * 0.2), z, radius, (240, 240, 240), None)
    else:
        corners = 3 if kind == 2 else 4
        for size, fill, marked in (
            (radius * 1.15, colour, label),
            (radius * 0.7, (235,) * 3, None),
        ):
            turn = np.arange(corners) * 2 * np.pi / corners + np.pi / 2
            points = [(x + size * np.cos(t), y + size * np.sin(t), z) for t in turn]
            canvas.polygon(points, fill, marked)


def fence(canvas: Canvas, rng: Generator, x: float, near: float, far: float) -> None:
    """Rails and posts along the street that one sees through; the label is the whole strip."""
    height, colour = rng.uniform(0.9, 1.3), rng.uniform(60, 170) * rng.uniform(0.8, 1.1, 3)
    canvas.mark([(x, 0, near), (x, 0, far), (x, height, far), (x, height, near)], CLASS["fence"])
    for low in np.linspace(0.12, height - 0.08, 3):
        rail = [(x, low, far), (x, low, near), (x, low + 0.08, near), (x, low + 0.08, far)]
        canvas.polygon(rail, colour, None)
    for z in np.arange(far, near, -rng.uniform(0.5, 0.9)):
        post = [(x, 0, z), (x, height, z), (x, height, z - 0.1), (x, 0, z - 0.1)]
        canvas.polygon(post, np.multiply(colour, 0.85), None)
