"""Images as experiments send them, made fit for a browser."""

import io
from typing import Any, Tuple

import numpy as np
import pytest
from PIL import Image

from experiment_hooks import wire
from exporter.live.pictures import PictureError, png


def shown(array: Any, name: str = "x") -> Any:
    """What a browser would draw."""
    image = wire.Image(name, array.shape, array.dtype.str, 0)
    found = Image.open(io.BytesIO(png(image, array.tobytes())))
    assert found.format == "PNG"
    return np.asarray(found)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_unsigned_bytes_are_shown_as_they_are(channels: Tuple[int, ...]) -> None:
    array = np.arange(6 * 5 * (channels or (1,))[0], dtype="|u1")
    array = array.reshape(6, 5, *channels)
    assert np.array_equal(shown(array).squeeze(), array.squeeze())


def test_true_is_white() -> None:
    assert shown(np.array([[True, False]])).tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", ["|i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])
def test_numbers_are_stretched_from_black_to_white(dtype: str) -> None:
    array = np.array([[-100, 0, 100]], dtype)
    assert shown(array).tolist() == [[0, 127, 255]]


def test_unsigned_numbers_too() -> None:
    array = np.array([[0, 32768, 65535]], "<u2")
    assert shown(array).tolist() == [[0, 127, 255]]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_floats_within_0_and_1_keep_their_brightness(dtype: str) -> None:
    array = np.array([[0.25, 0.5]], dtype)
    assert shown(array).tolist() == [[63, 127]]
    assert shown(array, "patch depth").tolist() == [[0, 255]], "of what is near, too"


def test_a_depths_horizon_leaves_the_colours_to_what_is_near() -> None:
    array = np.array([[0.1, 0.2, 0.3, 840.0, np.inf]], "<f4")
    assert shown(array, "view_finder depth").tolist() == [[0, 127, 255, 255, 255]]
    flat = np.array([[0.0, 840.0]], "<f4")
    assert shown(flat, "view_finder depth").tolist() == [[0, 255]]


@pytest.mark.parametrize("dtype", ["<i2", "<f2", "<f4", "<f8"])
def test_channels_are_stretched_together(dtype: str) -> None:
    array = np.array([[[-100, 0, 100], [100, 100, 100]]], dtype)
    assert shown(array).tolist() == [[[0, 127, 255], [255, 255, 255]]]


def test_all_the_same_is_black_and_no_error() -> None:
    assert shown(np.full((2, 2), 7, "<i4")).tolist() == [[0, 0], [0, 0]]


def test_nan_and_infinities_do_not_count() -> None:
    array = np.array([[np.nan, -1.0, 1.0, np.inf, -np.inf]])
    found = shown(array)[0].tolist()
    assert (found[1], found[2]) == (0, 255)
    shown(np.full((2, 2), np.nan))


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [
        ((2, 2), "|u1", 3),
        ((2, 2), "|O", 4),
        ((2, 2, 2), "|u1", 8),
        ((4,), "|u1", 4),
        ((-1, -4), "|u1", 4),
        ((0, 4), "|u1", 0),
        ((1 << 40, 1 << 40), "<f8", 8),
    ],
)
def test_what_is_no_image_is_an_error(
    shape: Tuple[int, ...], dtype: str, size: int
) -> None:
    with pytest.raises(PictureError):
        png(wire.Image("x", shape, dtype, 0), b"\0" * size)
