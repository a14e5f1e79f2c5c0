"""A whole street: sky, ground, houses and parks along it, things in it, light, blur and noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.random import Generator

from mmtokmerge.datasets.streets import CLASS, furniture, roadside, traffic
from mmtokmerge.datasets.streets.canvas import Camera, Canvas

SUPERSAMPLING = 2
FINE_GRAIN = {"vegetation": 13, "terrain": 9, "road": 5, "sidewalk": 6, "building": 5, "wall": 7}
COARSE_GRAIN = {"vegetation": 16, "terrain": 12, "road": 6, "sidewalk": 6, "building": 8, "sky": 5}


def draw_street(rng: Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene, the same for the same state of ``rng``.

    Args:
        rng: The only source of chance.
        height: The height of the picture in pixels.
        width: The width of the picture in pixels.

    Returns:
        The image ``(height, width, 3)`` in BGR and the label ``(height, width)`` of Cityscapes'
        train ids, 255 where the camera's own bonnet hides the street; both uint8.
    """
    size = height * SUPERSAMPLING, width * SUPERSAMPLING
    road = rng.uniform(3.4, 5.0)
    camera = Camera(
        focal=size[1] * rng.uniform(0.75, 0.95),
        centre_x=size[1] * rng.uniform(0.4, 0.6),
        horizon_y=size[0] * rng.uniform(0.4, 0.5),
        height=rng.uniform(1.3, 1.7),
        offset=road * rng.uniform(0.2, 0.55),
    )
    sky = np.array([rng.uniform(170, 240), rng.uniform(170, 210), rng.uniform(140, 200)])
    canvas = Canvas(camera, size, haze=sky, light=rng.uniform(0.75, 1.15))
    pavement = rng.uniform(2.2, 3.4)
    _sky(canvas, rng, sky)
    _ground(canvas, rng, road, pavement)
    for side in (-1, 1):
        roadside.draw_roadside(canvas, rng, side, road + pavement)
    _populate(canvas, rng, road, pavement)
    _bonnet(canvas, rng)
    return _photograph(canvas, rng, height, width)


def _sky(canvas: Canvas, rng: Generator, colour: np.ndarray) -> None:
    rows, columns = (side // 4 for side in canvas.label.shape)
    zenith = colour * np.array([1.0, 0.85, 0.7])
    fade = np.linspace(0, 1, rows)[:, None] ** 0.7
    column = zenith * (1 - fade) + colour * fade  # (H / 4, 3)
    clouds = cv2.resize(rng.uniform(-1, 1, (6, 12)).astype(np.float32), (columns, rows))
    clouds = np.maximum(clouds, 0)[..., None] * rng.uniform(0, 35)
    sky = (column[:, None] + clouds).clip(0, 255).astype(np.uint8)
    cv2.resize(sky, canvas.label.shape[::-1], dst=canvas.image)
    canvas.label[:] = CLASS["sky"]
    for _ in range(14):
        x, tone = rng.uniform(-75, 75), rng.uniform(0.5, 0.8)
        top, wide = rng.uniform(5, 20), rng.uniform(8, 20)
        green = rng.uniform() < 0.4
        tint, label = ((60, 120, 90), "vegetation") if green else ((150, 155, 165), "building")
        canvas.upright(
            x, (0, top * (0.5 if green else 1)), 100, wide, np.multiply(tint, tone), CLASS[label]
        )


def _ground(canvas: Canvas, rng: Generator, road: float, pavement: float) -> None:
    def strip(
        left: float, right: float, colour: np.ndarray, label: int | None, ends: tuple = (2.0, 1e3)
    ) -> None:
        near, far = ends
        points = [(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)]
        canvas.polygon(points, colour, label)

    grass = np.array([45, 115, 95]) * rng.uniform(0.7, 1.1)
    asphalt = rng.uniform(75, 125) * np.array([1.0, 0.98, 0.97])
    slabs = asphalt * rng.uniform(1.15, 1.5) * np.array([0.93, 1.0, 1.05])
    edge = road + pavement
    horizon = round(canvas.camera.horizon_y)
    canvas.image[horizon:] = canvas.shade(grass, 12)
    canvas.label[horizon:] = CLASS["terrain"]
    strip(-edge, edge, slabs, CLASS["sidewalk"])
    for z in np.arange(3, 30, 1.2):
        strip(-edge, edge, slabs * 0.86, None, (z, z + 0.06))
    strip(-road, road, asphalt, CLASS["road"])
    for side in (-1, 1):
        strip(side * road - 0.12, side * road + 0.12, slabs * 1.15, None)
        strip(side * (road - 0.5) - 0.06, side * (road - 0.5) + 0.06, asphalt * 1.6, None)
    for z in np.arange(rng.uniform(2, 4), 80, 6):
        strip(-0.08, 0.08, asphalt * 1.9, None, (z, z + 3))
    if rng.uniform() < 0.35:
        start = rng.uniform(9, 22)
        for x in np.arange(-road + 0.5, road - 0.5, 1.0):
            strip(x, x + 0.5, asphalt * 1.9, None, (start, start + 3))
    if rng.uniform() < 0.5:
        side = rng.choice([-1, 1])
        reach = rng.uniform(0.1, 0.9) * road
        canvas.darken(
            [
                (side * edge, 0, 2),
                (side * reach, 0, 2),
                (side * reach, 0, 99),
                (side * edge, 0, 99),
            ],
            0.6,
        )


def _populate(canvas: Canvas, rng: Generator, road: float, pavement: float) -> None:
    """Things at random places, drawn from the farthest to the nearest."""
    drawn: list[tuple[float, Callable[[], None]]] = []

    def place(
        draw: Callable[..., None],
        at: tuple[float, float],
        number: int,
        z: tuple[float, float],
        **kind: str,
    ) -> None:
        for _ in range(number):
            x, depth = rng.choice([-1, 1]) * rng.uniform(*at), rng.uniform(*z)
            drawn.append((depth, partial(draw, canvas, rng, x, depth, **kind)))

    kerb, back = (road + 0.3, road + 0.7), (road + 0.6, road + pavement - 0.3)
    place(furniture.pole, kerb, rng.integers(3, 6), (9, 40))
    place(furniture.traffic_light, kerb, rng.integers(1, 4), (9, 26))
    place(furniture.traffic_sign, kerb, rng.integers(2, 5), (8, 26))
    place(traffic.person, back, rng.integers(2, 7), (7, 30))
    place(roadside.tree, back, rng.integers(0, 3), (14, 45))
    place(traffic.vehicle, (road - 1.3, road - 1.0), rng.integers(1, 5), (9, 45))
    place(traffic.vehicle, (1.0, 1.9), rng.integers(0, 3), (11, 55))
    place(traffic.cyclist, (road - 1.2, road - 0.6), rng.integers(0, 2), (8, 24))
    big = str(rng.choice(["bus", "truck"]))
    place(traffic.vehicle, (1.6, road - 1.4), int(rng.uniform() < 0.25), (18, 45), kind=big)
    for _ in range(rng.integers(1, 3)):
        x, near = rng.choice([-1, 1]) * (road + 0.25), rng.uniform(7, 18)
        far = near + rng.uniform(5, 12)
        drawn.append((far, partial(furniture.fence, canvas, rng, x, near, far)))
    for _, draw in sorted(drawn, key=lambda item: -item[0]):
        draw()


def _bonnet(canvas: Canvas, rng: Generator) -> None:
    rows, columns = canvas.label.shape
    if rng.uniform() < 0.5:
        middle, axes = (columns // 2, int(rows * 1.03)), (int(columns * 0.42), int(rows * 0.1))
        cv2.ellipse(canvas.image, middle, axes, 0, 0, 360, (rng.uniform(25, 90),) * 3, -1)
        cv2.ellipse(canvas.label, middle, axes, 0, 0, 360, 255, -1)


def _photograph(
    canvas: Canvas, rng: Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texture by class, one tint of light, blur and sensor noise, at the final size."""
    label = np.ascontiguousarray(canvas.label[::SUPERSAMPLING, ::SUPERSAMPLING])
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    for grains, step in ((FINE_GRAIN, 2), (COARSE_GRAIN, 12)):
        amplitude = np.zeros(256, dtype=np.float32)
        for name, value in grains.items():
            amplitude[CLASS[name]] = value
        shape = -(-height // step), -(-width // step)
        grain = cv2.resize(rng.standard_normal(shape, dtype=np.float32), (width, height))
        image += (amplitude[label] * grain)[..., None]
    image *= rng.uniform(0.92, 1.08, 3).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    image += rng.uniform(1.5, 5) * rng.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 255).astype(np.uint8), label
