"""A picture and its label, drawn together through a pinhole camera above the street."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import cv2
import numpy as np

Colour = Sequence[float]
"""Blue, green, red, 0 to 255."""
Point = tuple[float, float, float]
"""Metres: right of the road's middle, above the ground, ahead of the camera."""

SUBPIXEL_BITS = 3
FARTHEST_PIXEL = 8000
VISIBILITY_M = 140.0


@dataclass(frozen=True)
class Camera:
    """A level camera; lengths on the ground in metres, the rest in pixels."""

    focal: float
    centre_x: float
    horizon_y: float
    height: float
    offset: float

    def project(self, points: Sequence[Point]) -> np.ndarray:
        """Pixels ``(n, 2)``, x and y, of points in the world."""
        pixels = []
        for x, y, z in points:
            scale = self.focal / max(z, 0.5)
            right = self.centre_x + scale * (x - self.offset)
            down = self.horizon_y + scale * (self.height - y)
            pixels.append((_limit(right, FARTHEST_PIXEL), _limit(down, FARTHEST_PIXEL)))
        return np.array(pixels)


def _limit(value: float, most: float) -> float:
    return max(-most, min(most, value))


class Canvas:
    """An image ``(H, W, 3)`` BGR uint8 and its label ``(H, W)`` uint8, drawn back to front.

    Args:
        camera: The camera that projects points of the world.
        size: Height and width in pixels.
        haze: The colour that far things fade to.
        light: Brightness of the scene, about 1.
    """

    def __init__(
        self, camera: Camera, size: tuple[int, int], haze: Colour, light: float = 1.0
    ) -> None:
        self.camera = camera
        self.image = np.zeros((*size, 3), dtype=np.uint8)
        self.label = np.full(size, 255, dtype=np.uint8)
        self.haze = tuple(map(float, haze))
        self.light = light

    def polygon(self, points: Sequence[Point], colour: Colour, label: int | None) -> None:
        """Fill a flat polygon; ``label=None`` leaves the label under it, for details."""
        pixels = self._fixed_point(self.camera.project(points))
        cv2.fillPoly(self.image, [pixels], self.shade(colour, points[0][2]), shift=SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(self.label, [pixels], label, shift=SUBPIXEL_BITS)

    def mark(self, points: Sequence[Point], label: int) -> None:
        """Fill a polygon of the label alone, for things that one can see through."""
        pixels = self._fixed_point(self.camera.project(points))
        cv2.fillPoly(self.label, [pixels], label, shift=SUBPIXEL_BITS)

    def upright(
        self,
        x: float,
        y: tuple[float, float],
        z: float,
        width: float,
        colour: Colour,
        label: int | None,
    ) -> None:
        """Fill a rectangle that faces the camera, ``width`` metres wide around ``x``."""
        a, b = x - width / 2, x + width / 2
        self.polygon([(a, y[0], z), (b, y[0], z), (b, y[1], z), (a, y[1], z)], colour, label)

    def ellipse(
        self, centre: Point, radii: tuple[float, float], colour: Colour, label: int | None
    ) -> None:
        """Fill an ellipse that faces the camera; radii in metres, right and up."""
        middle = self._fixed_point(self.camera.project([centre]))[0]
        scale = self.camera.focal / max(centre[2], 0.5) * (1 << SUBPIXEL_BITS)
        axes = [int(max(r * scale, 4)) for r in radii]
        args = (tuple(map(int, middle)), axes, 0, 0, 360)
        cv2.ellipse(self.image, *args, self.shade(colour, centre[2]), -1, cv2.LINE_8, SUBPIXEL_BITS)
        if label is not None:
            cv2.ellipse(self.label, *args, label, -1, cv2.LINE_8, SUBPIXEL_BITS)

    def darken(self, points: Sequence[Point], factor: float) -> None:
        """Lay a shadow over a polygon: its pixels times ``factor``."""
        pixels = self._fixed_point(self.camera.project(points))
        left, top, wide, high = cv2.boundingRect(pixels >> SUBPIXEL_BITS)
        box = np.s_[max(top, 0) : max(top + high + 1, 0), max(left, 0) : max(left + wide + 1, 0)]
        under = self.image[box]
        mask = np.zeros(under.shape[:2], dtype=np.uint8)
        corner = np.array([max(left, 0), max(top, 0)], dtype=np.int32) << SUBPIXEL_BITS
        cv2.fillPoly(mask, [pixels - corner], 1, shift=SUBPIXEL_BITS)
        np.multiply(under, factor, out=under, where=mask[..., None] > 0, casting="unsafe")

    def shade(self, colour: Colour, z: float) -> tuple[float, ...]:
        """A colour as it looks ``z`` metres away."""
        clear = exp(-max(z, 0.0) / VISIBILITY_M)
        pairs = zip(colour, self.haze)
        return tuple(
            max(0.0, min(255.0, clear * self.light * c + (1 - clear) * h)) for c, h in pairs
        )

    @staticmethod
    def _fixed_point(pixels: np.ndarray) -> np.ndarray:
        return np.round(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
