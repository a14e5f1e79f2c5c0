"""The 20 keypoints of a jumping athlete in the Jumping Broadcast Dataset, and their skeleton."""

from __future__ import annotations

from itertools import pairwise

ARM = ("sho", "elb", "wri", "han")
LEG = ("hip", "kne", "ank", "hee", "toe")
SIDES = ("r", "l")
JUMPER_KEYPOINTS = (
    "head",
    "neck",
    *(side + joint for side in SIDES for joint in ARM),
    *(side + joint for side in SIDES for joint in LEG),
)
JUMPER_LOWER = tuple(side + joint for side in SIDES for joint in LEG)
JUMPER_PAIRS = tuple(("r" + joint, "l" + joint) for joint in ARM + LEG)
JUMPER_LINKS = (
    ("head", "neck"),
    *(
        link
        for side in SIDES
        for link in (
            ("neck", side + "sho"),
            *((side + a, side + b) for a, b in pairwise(ARM)),
            (side + "sho", side + "hip"),
            (side + "hip", side + "kne"),
            (side + "kne", side + "ank"),
            (side + "ank", side + "hee"),
            (side + "hee", side + "toe"),
        )
    ),
    ("rhip", "lhip"),
)
