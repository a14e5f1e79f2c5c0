"""Drawing one jumping stick figure that faces the viewer, before a cluttered background.

Right and left are told by place alone: a mirrored figure is a figure with sides exchanged, so that
flips are as true here as on photographs.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from mmtokmerge.datasets.keypoints.jumper import ARM, JUMPER_KEYPOINTS, JUMPER_LINKS, LEG

# Lengths as a fraction of the figure's height; angles in degrees from straight down, outwards.
HEAD, TORSO, SHOULDER, HIP = 0.13, 0.30, 0.10, 0.06
ARM_PARTS = {"elb": (0.16, (-10, 160)), "wri": (0.14, (-20, 100)), "han": (0.06, (-25, 25))}
LEG_PARTS = {
    "kne": (0.23, (-10, 70)),
    "ank": (0.22, (-60, 10)),
    "hee": (0.05, (-20, 10)),
    "toe": (0.10, (50, 80)),
}
BORDER = 0.06


def draw_jumper(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a figure.

    Args:
        rng: Decides everything that is random.
        height: The height of the image in pixels.
        width: The width of the image in pixels.

    Returns:
        The image ``(height, width, 3)`` uint8 BGR, and the keypoints ``(20, 2)`` as pixels (x, y).
    """
    image = _background(rng, height, width)
    points = _place(rng, _pose(rng), height, width)
    _draw_figure(rng, image, points)
    noise = rng.normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8), points


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Keypoints ``(20, 2)`` of a figure of height about 1, hips at the origin, y down."""
    lean = np.deg2rad(rng.normal(0, 15))
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    joints = {"neck": np.array([0.0, -TORSO]), "head": np.array([0.0, -TORSO - HEAD])}
    for side, sign in (("r", -1), ("l", 1)):  # the figure's right is the viewer's left
        joints[side + "sho"] = np.array([sign * SHOULDER, -TORSO])
        joints[side + "hip"] = np.array([sign * HIP, 0.0])
        for chain, parts in ((ARM, ARM_PARTS), (LEG, LEG_PARTS)):
            angle = 0.0
            for before, joint in pairwise(chain):
                length, bounds = parts[joint]
                angle += np.deg2rad(rng.uniform(*bounds))
                step = length * np.array([sign * np.sin(angle), np.cos(angle)])
                joints[side + joint] = joints[side + before] + step
    return np.stack([joints[name] for name in JUMPER_KEYPOINTS]) @ turn.T


def _place(rng: np.random.Generator, points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale and shift a pose so that it lies within the image."""
    size = np.array([width, height])
    extent = np.ptp(points, axis=0)
    scale = rng.uniform(0.6, 1.0) * ((1 - 2 * BORDER) * size / extent).min()
    room = (1 - 2 * BORDER) * size - scale * extent
    corner = BORDER * size + rng.uniform(0, 1, 2) * room
    return (points - points.min(axis=0)) * scale + corner


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    low, high = rng.uniform(60, 200, (2, 3))
    ramp = np.linspace(0, 1, height)[:, None, None]
    image = np.repeat(low + (high - low) * ramp, width, axis=1).astype(np.uint8)
    for _ in range(rng.integers(4, 9)):
        colour = rng.uniform(30, 230, 3).tolist()
        start, end = (tuple(map(int, rng.uniform(0, 1, 2) * (width, height))) for _ in range(2))
        if rng.random() < 0.5:
            cv2.rectangle(image, start, end, colour, -1)
        else:
            cv2.line(image, start, end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def _draw_figure(rng: np.random.Generator, image: np.ndarray, points: np.ndarray) -> None:
    joints = dict(zip(JUMPER_KEYPOINTS, points))
    size = np.ptp(points, axis=0).max()
    thick = max(2, round(0.028 * size))
    shirt, shorts, skin = (rng.uniform(20, 235, 3).tolist() for _ in range(3))
    trunk = [joints[name].round().astype(int) for name in ("rsho", "lsho", "lhip", "rhip")]
    cv2.fillConvexPoly(image, np.stack(trunk), shirt, cv2.LINE_AA)
    for a, b in JUMPER_LINKS:
        colour = shorts if b[1:] in ("kne", "hip") else shirt if b[1:] in ("sho", "elb") else skin
        ends = (tuple(map(int, joints[name].round())) for name in (a, b))
        cv2.line(image, *ends, colour, thick, cv2.LINE_AA)
    for name in ("rhan", "lhan", "rtoe", "ltoe"):
        cv2.circle(image, tuple(map(int, joints[name].round())), thick, skin, -1, cv2.LINE_AA)
    centre = tuple(map(int, joints["head"].round()))
    cv2.circle(image, centre, max(3, round(0.055 * size)), skin, -1, cv2.LINE_AA)
