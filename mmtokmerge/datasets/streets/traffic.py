"""Who and what moves in a street: people, cyclists, cars, buses and trucks.

Each function draws one thing ``z`` metres ahead, ``x`` metres right of the road's middle.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mmtokmerge.datasets.streets import CLASS
from mmtokmerge.datasets.streets.canvas import Canvas, Colour, Point

SKIN = (120, 150, 200)
CAR_COLOURS = (
    (50, 45, 45),
    (205, 205, 205),
    (125, 120, 115),
    (40, 35, 150),
    (130, 75, 35),
    (75, 95, 55),
    (235, 235, 230),
)
SHAPES = {"car": (1.8, 0.95, 4.2), "bus": (2.5, 3.0, 10.0), "truck": (2.4, 2.9, 7.0)}
"""Width, height of the body and length in metres."""


def person(
    canvas: Canvas, rng: Generator, x: float, z: float, label: str = "person", lift: float = 0.0
) -> None:
    """Somebody standing, 1.5 to 1.9 m tall; ``lift`` seats a rider above the ground."""
    tall, index = rng.uniform(1.5, 1.9), CLASS[label]
    coat, trousers = rng.uniform(25, 220, 3), rng.uniform(20, 110, 3)
    step = rng.uniform(0.05, 0.14)
    for side in (-1, 1):
        canvas.upright(x + side * step, (lift, lift + tall * 0.5), z, 0.15, trousers, index)
        canvas.upright(
            x + side * 0.25, (lift + tall * 0.45, lift + tall * 0.8), z, 0.11, coat * 0.8, index
        )
    canvas.upright(x, (lift + tall * 0.45, lift + tall * 0.84), z, 0.42, coat, index)
    canvas.ellipse((x, lift + tall * 0.92, z), (0.11, 0.14), SKIN, index)
    canvas.ellipse((x, lift + tall * 0.97, z), (0.11, 0.07), rng.uniform(15, 90, 3), index)


def cyclist(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A rider on a bicycle, seen from behind at an angle."""
    for side in (-0.42, 0.42):
        canvas.ellipse((x + side, 0.34, z), (0.26, 0.34), (35, 35, 35), CLASS["bicycle"])
        canvas.ellipse((x + side, 0.34, z), (0.19, 0.27), (110, 110, 110), None)
    canvas.upright(x, (0.42, 0.52), z, 0.8, rng.uniform(30, 200, 3), CLASS["bicycle"])
    person(canvas, rng, x, z, "rider", lift=0.45)


def vehicle(canvas: Canvas, rng: Generator, x: float, z: float, kind: str = "car") -> None:
    """A car, bus or truck from behind: a body with a cabin, lights and the side that one sees."""
    width, height, length = SHAPES[kind]
    colour, index = np.array(CAR_COLOURS[rng.integers(len(CAR_COLOURS))], float), CLASS[kind]
    shadow = [
        (x + s * width * 0.56, 0, z + d)
        for s, d in ((-1, -0.4), (1, -0.4), (1, length), (-1, length))
    ]
    canvas.darken(shadow, 0.45)
    _box(canvas, x, z, (width, 0.25, height, length), colour, index)
    if kind == "car":
        _box(canvas, x, z + 0.6, (width * 0.84, height, 1.45, 2.4), colour * 0.75, index)
        glass = (height + 0.05, 1.38)
        canvas.upright(x, glass, z + 0.6, width * 0.7, (90, 80, 70), None)
    else:
        canvas.upright(x, (height * 0.55, height * 0.9), z, width * 0.85, (85, 75, 65), None)
    for side in (-1, 1):
        canvas.upright(x + side * width * 0.36, (0, 0.35), z, 0.24, (25, 25, 25), index)
        lamp = (x + side * width * 0.41, (height * 0.6, height * 0.78), z)
        canvas.upright(*lamp, 0.22, (45, 40, 190), None)
    canvas.upright(x, (0.45, 0.58), z, 0.5, (225, 225, 225), None)


def _box(
    canvas: Canvas,
    x: float,
    z: float,
    shape: tuple[float, float, float, float],
    colour: Colour,
    label: int,
) -> None:
    """A box of (width, bottom, top, length): the side towards the camera, the top, the back."""
    width, low, high, length = shape
    side = x - np.sign(x - canvas.camera.offset) * width / 2
    a, b = x - width / 2, x + width / 2
    flank: list[Point] = [
        (side, low, z),
        (side, low, z + length),
        (side, high, z + length),
        (side, high, z),
    ]
    roof: list[Point] = [(a, high, z), (b, high, z), (b, high, z + length), (a, high, z + length)]
    canvas.polygon(flank, np.multiply(colour, 0.65), label)
    canvas.polygon(roof, np.multiply(colour, 1.15), label)
    canvas.upright(x, (low, high), z, width, colour, label)
