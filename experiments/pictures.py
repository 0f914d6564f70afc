"""Pictures of environments drawn in NumPy alone: no display, no pygame; 0.1 ms.

Gymnasium's own are drawn by pygame, whose first picture makes the process deaf to
SIGTERM: to look at an experiment must not change it (docs/gymnasium.md).
"""

import math

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (height, width, 3)

SIDE = 96  # pixels
WHITE, GREY, BLUE, RED = (255, 255, 255), (170, 170, 170), (0, 110, 170), (210, 70, 40)


def rods(first: float, second: float) -> Picture:
    """Two rods of one length; angles in radians from straight down, and a goal line."""
    picture = _empty()
    scale = SIDE / 4.4
    picture[int(SIDE / 2 - scale)] = GREY
    joint = (math.sin(first), -math.cos(first))
    tip = (joint[0] + math.sin(second), joint[1] - math.cos(second))
    for start, end, colour in (((0.0, 0.0), joint, BLUE), (joint, tip, RED)):
        _line(picture, start, end, scale, colour)
    return picture


def cart(position: float, angle: float) -> Picture:
    """A cart at ``position`` (m, -2.4 to 2.4), its pole at ``angle`` from upright."""
    picture = _empty()
    scale, floor = SIDE / 5.2, -1.0
    picture[int(SIDE / 2 - floor * scale) + 4] = GREY
    for side in (-0.3, 0.3):
        _line(picture, (position, floor), (position + side, floor), scale, BLUE)
    top = (position + 2 * math.sin(angle), floor + 2 * math.cos(angle))
    _line(picture, (position, floor), top, scale, RED)
    return picture


def _empty() -> Picture:
    return np.full((SIDE, SIDE, 3), WHITE, np.uint8)


def _line(
    picture: Picture,
    start: tuple[float, float],
    end: tuple[float, float],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw a thick line; (0, 0) is the middle of the picture, y points up."""
    along = np.linspace(0.0, 1.0, SIDE)[:, None]
    points = np.array(start) * (1 - along) + np.array(end) * along
    x = np.clip(SIDE / 2 + points[:, 0] * scale, 1, SIDE - 2).astype(int)
    y = np.clip(SIDE / 2 - points[:, 1] * scale, 1, SIDE - 2).astype(int)
    for across in (-1, 0, 1):
        picture[y + across, x] = colour
        picture[y, x + across] = colour
