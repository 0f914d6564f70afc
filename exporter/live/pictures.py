"""Images as experiments send them, to PNG: pure, bytes in, bytes out.

What a browser shows has 8 bits: unsigned bytes are taken as they are, True is white,
and all else is stretched between its smallest and its largest value (floats within 0
and 1: between those two, but for a depth, by its name: what is near differs by little).
NaN and infinities do not count in that, nor what is far behind all else in a depth. Of
one channel these are a depth or the like, and are drawn in colours from dark blue to
yellow (viridis).
"""

import io
import math
import struct
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

from PIL import Image

from experiment_hooks import wire

# Of each type: the name by which Pillow's raw decoder makes floats of it, and ours.
_RAW = {
    "|i1": "F;8S",
    "<u2": "F;16",
    "<i2": "F;16S",
    "<i4": "F;32S",
    "<f4": "F;32F",
    "<f8": "F;64F",
}
BACKGROUND = 100.0
_UNPACKED = {"<i8": "q", "<f2": "e"}
_ITEM = {"|b1": 1, "|u1": 1, "|i1": 1, "<u2": 2, "<i2": 2, "<f2": 2}
_ITEM |= {"<i4": 4, "<f4": 4, "<i8": 8, "<f8": 8}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def _viridis() -> bytes:
    """The colour map of that name: 256 colours, by polynomials within 3 % of it."""
    red = (0.27773, 0.10509, -0.33086, -4.63423, 6.22827, 4.77638, -5.43546)
    green = (0.00541, 1.40461, 0.21485, -5.79910, 14.17993, -13.74515, 4.64585)
    blue = (0.33410, 1.38459, 0.09510, -19.33244, 56.69055, -65.35303, 26.31244)
    colours = []
    for number in range(256):
        at = number / 255
        for terms in (red, green, blue):
            value = sum(term * at**power for power, term in enumerate(terms))
            colours.append(min(255, max(0, round(255 * value))))
    return bytes(colours)


_VIRIDIS = _viridis()


class PictureError(ValueError):
    """The image is not what its description says."""


def png(image: wire.Image, data: bytes) -> bytes:
    """Encode an image.

    Raises:
        PictureError: shape, type and bytes do not fit, or are of no known kind.
    """
    height, width, channels = _checked(image, data)
    if image.dtype in ("|u1", "|b1"):
        drawn = Image.frombytes(_MODES[channels], (width, height), data)
        if image.dtype == "|b1":
            drawn = drawn.point(lambda value: 255 if value else 0)
    else:
        drawn = _stretched(image, (width, height), channels, data)
        if channels == 1:
            drawn.putpalette(_VIRIDIS)
    written = io.BytesIO()
    drawn.save(written, "PNG", compress_level=1)
    return written.getvalue()


def extent(image: wire.Image, data: bytes) -> tuple[float, float] | None:
    """The values between which an image is stretched; None where it is not, or is none.

    Costs a few milliseconds a megabyte.
    """
    try:
        height, width, channels = _checked(image, data)
    except PictureError:
        return None
    if image.dtype in ("|u1", "|b1"):
        return None
    return _range(image, _planes(image.dtype, (width, height), channels, data))


def _checked(image: wire.Image, data: bytes) -> tuple[int, int, int]:
    shape, item = image.shape, _ITEM.get(image.dtype)
    if item is None or len(shape) not in (2, 3) or min(shape) < 1:
        raise PictureError(f"no image: {image.dtype} {shape}")
    channels = shape[2] if len(shape) == 3 else 1
    if channels not in _MODES or len(data) != math.prod(shape) * item:
        raise PictureError(f"{len(data)} bytes are no {image.dtype} {shape}")
    return shape[0], shape[1], channels


def _stretched(
    image: wire.Image, size: tuple[int, int], channels: int, data: bytes
) -> Image.Image:
    planes = _planes(image.dtype, size, channels, data)
    low, high = _range(image, planes)
    scale = 255.0 / (high - low) if high > low else 0.0
    shown = [
        plane.point(lambda value: value * scale - low * scale).convert("L")
        for plane in planes
    ]
    return shown[0] if channels == 1 else Image.merge(_MODES[channels], shown)


def _planes(
    dtype: str, size: tuple[int, int], channels: int, data: bytes
) -> list[Image.Image]:
    split = [_channel(dtype, data, channels, number) for number in range(channels)]
    return [_plane(dtype, size, channel) for channel in split]


def _range(image: wire.Image, planes: Sequence[Image.Image]) -> tuple[float, float]:
    low, high = _extent(planes)
    if not image.dtype.startswith("<f"):
        return low, high
    if image.name.endswith("depth"):
        return low, _without_background(planes, low, high)
    return (0.0, 1.0) if 0 <= low <= high <= 1 else (low, high)


def _without_background(
    planes: Sequence[Image.Image], low: float, high: float
) -> float:
    """The largest distance that is not ``BACKGROUND`` times the smallest, or more.

    Simulators give what they see nothing at the distance of their horizon: stretched
    up to that, all else would have one colour.
    """
    horizon = BACKGROUND * low
    if not 0 < horizon < high:
        return high
    every = chain.from_iterable(array("f", plane.tobytes()) for plane in planes)
    return max(value for value in every if value <= horizon)


def _channel(dtype: str, data: bytes, channels: int, number: int) -> bytes:
    """The bytes of one channel; only the items' size matters here."""
    if channels == 1:
        return data
    items = array({1: "B", 2: "H", 4: "I", 8: "Q"}[_ITEM[dtype]], data)
    return items[number::channels].tobytes()


def _plane(dtype: str, size: tuple[int, int], data: bytes) -> Image.Image:
    if dtype in _RAW:
        return Image.frombytes("F", size, data, "raw", _RAW[dtype])
    numbers = struct.unpack(f"<{size[0] * size[1]}{_UNPACKED[dtype]}", data)
    return Image.frombytes("F", size, array("f", numbers).tobytes())


def _extent(planes: Sequence[Image.Image]) -> tuple[float, float]:
    """The smallest and the largest finite value of all planes."""
    found: list[Any] = [edge for plane in planes for edge in plane.getextrema()]
    if not all(map(math.isfinite, found)):
        # Rare, and slow: Pillow has no notion of a value that is none.
        every = chain.from_iterable(array("f", plane.tobytes()) for plane in planes)
        found = [value for value in every if math.isfinite(value)] or [0.0]
    return float(min(found)), float(max(found))
