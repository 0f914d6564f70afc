"""Arrays are listed or described, tensors never read, images copied as they are now."""

import math
import pathlib
import subprocess
import sys
import warnings
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from experiment_hooks import arrays, plain, wire

ROOT = pathlib.Path(__file__).parent.parent
NAN = float("nan")


class Thing:
    """A user's object."""


THING = f"<{__name__}.Thing>"


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types, NaN equal to NaN."""
    return repr(one) == repr(other)


# --- numpy ---------------------------------------------------------------------------

SCALARS = {
    "float64": (np.float64(1.5), 1.5),
    "float32": (np.float32(1.5), 1.5),
    "float16": (np.float16(1.5), 1.5),
    "longdouble": (np.longdouble(1.5), 1.5),
    "int8": (np.int8(-1), -1),
    "uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "bool": (np.bool_(True), True),
    "str": (np.str_("a"), "a"),
    "complex": (np.complex64(1 + 2j), "(1+2j)"),
    "clongdouble": (np.clongdouble(1 + 2j), "(1+2j)"),
    "datetime": (np.datetime64("2026-11-21T03:00:00", "s"), "2026-11-21T03:00:00"),
    "timedelta": (np.timedelta64(5, "s"), 5.0),
    "nan": (np.float64("nan"), NAN),
    "without axes": (np.array(2.5), 2.5),
}

SMALL = {
    "floats": (np.array([0.5, NAN]), [0.5, NAN]),
    "ints": (np.arange(4, dtype="u1").reshape(2, 2), [[0, 1], [2, 3]]),
    "bools": (np.array([True]), [True]),
    "big endian": (np.array([1, 2], ">i4"), [1, 2]),
    "empty": (np.array([]), []),
    "empty, many rows": (
        np.zeros((10**6, 0)),
        {"shape": [10**6, 0], "dtype": "float64"},
    ),
    "64": (np.zeros(64), [0.0] * 64),
    "objects": (np.array([Thing(), 1, None], dtype=object), [THING, 1, None]),
    "an object": (np.array(Thing(), dtype=object), THING),
    "structured": (np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), [[1, 2.0]]),
    "masked": (np.ma.array([1, 2], mask=[True, False]), [None, 2]),
    "texts": (np.array(["a", "bc"]), ["a", "bc"]),
    "wide texts": (
        np.array(["a" * 10**6]),
        {"shape": [1], "dtype": f"str{32 * 10**6}"},
    ),
}

OUTLINES = {
    "floats": (np.arange(100.0), {"min": 0.0, "mean": 49.5, "max": 99.0}),
    "bytes": (np.full((9, 9), 7, "u1"), {"min": 7, "mean": 7.0, "max": 7}),
    "bools": (np.ones(100, bool), {"min": True, "mean": 1.0, "max": True}),
    "some nan": (
        np.array([NAN, 1.0, 3.0] * 30),
        {"nan": 30, "min": 1.0, "mean": 2.0, "max": 3.0},
    ),
    "all nan": (np.full(70, NAN), {"nan": 70, "min": NAN, "mean": NAN, "max": NAN}),
    "both infinities": (
        np.array([math.inf, -math.inf] * 40),
        {"min": -math.inf, "mean": NAN, "max": math.inf},
    ),
    "overflowing half floats": (
        np.full(100, 60000, "f2"),
        {"min": 60000.0, "mean": 60000.0, "max": 60000.0},
    ),
    "complex": (np.zeros(100, "c8"), {}),
    "objects": (np.array([Thing()] * 100, dtype=object), {}),
    "structured": (np.zeros(100, [("a", "i4")]), {}),
    "dates": (np.zeros(100, "M8[s]"), {}),
    "masked": (
        np.ma.array(np.arange(100), mask=np.arange(100) > 1),
        {"min": 0, "mean": 0.5, "max": 1},
    ),
}


@pytest.mark.parametrize("name", SCALARS)
def test_a_numpy_scalar_is_a_number(name: str) -> None:
    value, expected = SCALARS[name]
    assert same(plain.plain(value), expected)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_array_is_a_list(name: str) -> None:
    value, expected = SMALL[name]
    assert same(plain.plain(value), expected)


@pytest.mark.parametrize("name", OUTLINES)
def test_a_larger_array_is_what_it_is_like(name: str) -> None:
    value, expected = OUTLINES[name]
    about = {"shape": list(value.shape), "dtype": value.dtype.name, **expected}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(plain.plain(value), about)


def test_a_very_large_array_is_sampled_and_says_so() -> None:
    value = np.lib.stride_tricks.as_strided(
        np.ones(1), shape=(10**6, 10**3, 3), strides=(0, 0, 0)
    )
    found = plain.plain(value)
    assert found["shape"] == [10**6, 10**3, 3]
    assert 0 < found["sampled"] <= 65536
    assert (found["min"], found["mean"], found["max"]) == (1.0, 1.0, 1.0)


def test_up_to_a_million_elements_the_extremes_are_exact() -> None:
    value = np.zeros(2**20, "f4")
    value[12345] = -5
    value[54321] = 7
    found = plain.plain(value)
    assert (found["min"], found["max"]) == (-5.0, 7.0)
    assert "sampled" not in found


def test_a_subclass_of_array_is_read_as_an_array() -> None:
    class Mine(np.ndarray):
        def tolist(self) -> Any:
            raise AssertionError("a user's method was called")

        min = max = mean = __getitem__ = tolist

    assert plain.plain(np.arange(3).view(Mine)) == [0, 1, 2]
    assert plain.plain(np.arange(100).view(Mine))["max"] == 99


def test_an_array_on_disk_is_not_read(tmp_path: pathlib.Path) -> None:
    value = np.memmap(str(tmp_path / "a"), dtype="f4", mode="w+", shape=(4, 5))
    found = plain.plain(value)
    assert (found["shape"], found["dtype"]) == ([4, 5], "float32")
    assert "min" not in found


def test_without_numpy_an_array_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign:
        __array_interface__ = {"shape": (2, 3), "typestr": "<f4", "version": 3}

    monkeypatch.setitem(sys.modules, "numpy", None)
    assert plain.plain(Foreign()) == {"shape": [2, 3], "dtype": "<f4"}


def test_numpy_is_not_imported() -> None:
    code = (
        "import sys; from experiment_hooks import plain; plain.take([1]);"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), check=True)


# --- tensors -------------------------------------------------------------------------


def a_tensor(library: str, touched: List[str]) -> Any:
    """Something like a tensor: it has attributes, and its elements bite."""

    def bite(name: str) -> Callable[..., Any]:
        def biting(*_: Any) -> Any:
            touched.append(name)
            raise AssertionError(name)

        return biting

    named = type("dtype", (), {"__str__": lambda _: f"{library}.float32"})
    placed = type("device", (), {"__str__": lambda _: "cuda:0"})
    named.__module__ = placed.__module__ = library
    reading = (
        "__array__ __iter__ __len__ __getitem__ __float__ __int__ __bool__ __repr__"
        " __str__ __dlpack__ __eq__ __index__ item tolist numpy cpu min max mean"
    ).split()
    body: Dict[str, Any] = {name: bite(name) for name in reading}
    body["__array_interface__"] = property(bite("__array_interface__"))
    body["shape"] = property(lambda _: (2, 3))
    body["dtype"] = property(lambda _: named())
    body["device"] = property(lambda _: placed())
    body["__hash__"] = object.__hash__
    kind = type("Tensor", (), body)
    kind.__module__ = f"{library}.core"
    return type("Mine", (kind,), {})()


@pytest.mark.parametrize("library", ["torch", "jax", "jaxlib", "tensorflow", "cupy"])
def test_a_tensor_is_described_and_never_read(library: str) -> None:
    touched: List[str] = []
    tensor = a_tensor(library, touched)
    about = {"shape": [2, 3], "dtype": f"{library}.float32", "device": "cuda:0"}
    assert plain.plain({"a": [tensor]}) == {"a": [about]}
    assert plain.scores({"a": tensor, "b": 1.0}) == {"b": 1.0}
    assert plain.scores(tensor) == {}
    assert plain.numbers({"a": tensor}) == ({}, 1)
    assert plain.image("a", tensor, 0) is None
    assert len(plain.text(tensor)) <= 256
    assert touched == []


def test_a_tensor_whose_attributes_raise_is_described_all_the_same() -> None:
    class Tensor:
        dtype = "float32"

        @property
        def shape(self) -> Any:
            raise ValueError("unknown rank")

    assert plain.plain(Tensor()) == {"shape": None, "dtype": "float32"}


# --- images --------------------------------------------------------------------------


class Picture:
    """Offers its pixels as Pillow's images do."""

    def __init__(self, pixels: Any, strides: Any = None) -> None:
        said = {"shape": pixels.shape, "typestr": pixels.dtype.str, "version": 3}
        self.__array_interface__ = {}
        self._said = {**said, "data": pixels.tobytes(), "strides": strides}

    @property
    def __array_interface__(self) -> Any:
        return self._said

    @__array_interface__.setter
    def __array_interface__(self, _: Any) -> None:
        pass


def pixels(*shape: int, dtype: str = "u1") -> Any:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


IMAGES = {
    "grey": pixels(4, 5),
    "one channel": pixels(4, 5, 1),
    "colours": pixels(4, 5, 3),
    "with alpha": pixels(4, 5, 4),
    **{
        name: pixels(4, 5, dtype=name)
        for name in "? u1 u2 i1 i2 i4 i8 f2 f4 f8 >u2 >f4".split()
    },
    "turned": pixels(5, 4, 3).transpose(1, 0, 2),
    "flipped": pixels(4, 5, 3)[::-1],
    "a part": pixels(8, 9, 3)[2:6, 1:6],
    "fortran": np.asfortranarray(pixels(4, 5, 3)),
}
NO_IMAGES = {
    "none": None,
    "text": "abc",
    "bytes": b"abc",
    "a list": [[1, 2], [3, 4]],
    "a number": np.float64(1),
    "one axis": pixels(9),
    "four axes": pixels(2, 2, 2, 3),
    "two channels": pixels(4, 5, 2),
    "channels first": pixels(3, 4, 5),
    "no rows": pixels(0, 5, 3),
    "no columns": pixels(5, 0),
    "complex": pixels(4, 5, dtype="c8"),
    "objects": pixels(4, 5).astype(object),
    "dates": np.zeros((4, 5), "M8[s]"),
    "uint32": pixels(4, 5, dtype="u4"),
    "texts": np.full((4, 5), "a"),
    "structured": np.zeros((4, 5), [("a", "u1")]),
    "an object": Thing(),
}


def read(image: wire.Image, data: bytes) -> Any:
    return np.frombuffer(data, image.dtype).reshape(image.shape)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_its_shape_and_its_bytes(name: str) -> None:
    array = IMAGES[name]
    found = plain.image("camera", array, 3)
    assert found is not None
    image, data = found
    assert (image.name, image.part, image.stride) == ("camera", 3, 1)
    assert image.shape == array.shape
    assert image.dtype[0] in "|<"
    assert np.array_equal(read(image, data), array)


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_gives_none(name: str) -> None:
    assert plain.image("camera", NO_IMAGES[name], 0) is None


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((1024, 1024), 1),
        ((1024, 1025), 2),
        ((1080, 1920, 3), 3),
        ((2049, 2048), 3),
        ((1, 3 * 2**20), 3),
        ((2**21, 1), 2),
        ((9000, 9000, 1), 9),
    ],
)
def test_a_large_image_is_thinned_by_the_smallest_stride_that_fits(
    shape: Any, stride: int
) -> None:
    array = np.broadcast_to(pixels(*(1,) * len(shape)) + 7, shape)
    image, data = plain.image("a", array, 0) or pytest.fail("no image")
    assert image.stride == stride
    assert len(data) <= wire.MAX_IMAGE_BYTES
    assert np.array_equal(read(image, data), array[::stride, ::stride])


def test_a_smaller_bound_may_be_asked_for() -> None:
    array = pixels(100, 100, 3)
    image, data = plain.image("a", array, 0, most=9000) or pytest.fail("no image")
    assert (image.stride, image.shape) == (2, (50, 50, 3))
    assert np.array_equal(read(image, data), array[::2, ::2])
    assert plain.image("a", array, 0, most=0) is None


@pytest.mark.parametrize("numpy", ["loaded", "not loaded"])
@pytest.mark.parametrize("most", [10**6, 900])
@pytest.mark.parametrize("shape", [(20, 31), (20, 31, 1), (20, 31, 3), (20, 31, 4)])
def test_an_image_of_pillows_kind_is_read(
    shape: Any, most: int, numpy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = pixels(*shape)
    if numpy == "not loaded":
        monkeypatch.setitem(sys.modules, "numpy", None)
    found = plain.image("a", Picture(array), 0, most)
    monkeypatch.undo()
    image, data = found or pytest.fail("no image")
    assert np.array_equal(read(image, data), array[:: image.stride, :: image.stride])
    assert len(data) <= most


@pytest.mark.parametrize("most", [10**6, 100])
@pytest.mark.parametrize("form", "?BbHhilqfd")
def test_a_buffer_is_read(form: str, most: int) -> None:
    array = pixels(8, 9).astype(form)
    view = memoryview(array.tobytes()).cast("B").cast(form, (8, 9))
    image, data = plain.image("a", view, 0, most) or pytest.fail("no image")
    assert np.array_equal(read(image, data), array[:: image.stride, :: image.stride])


def test_pillows_images_are_read() -> None:
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.new("RGB", (5, 4), (1, 2, 3))
    image, data = plain.image("a", picture, 0) or pytest.fail("no image")
    assert image.shape == (4, 5, 3)
    assert data == bytes([1, 2, 3]) * 20
    assert plain.plain(pillow.new("L", (100, 100)))["shape"] == [100, 100]


def test_an_interface_that_lies_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Picture(pixels(4, 5))
    short._said["data"] = b"abc"
    strided = Picture(pixels(4, 5), strides=(1, 4))
    monkeypatch.setitem(sys.modules, "numpy", None)
    found = [plain.image("a", value, 0) for value in (short, strided)]
    monkeypatch.undo()
    assert found == [None, None]
    assert plain.image("a", short, 0) is None


def test_an_image_is_a_copy_of_the_moment() -> None:
    array = pixels(4, 5)
    _, data = plain.image("a", array, 0) or pytest.fail("no image")
    array[:] = 0
    assert data == bytes(range(20))
    array.resize((2, 2), refcheck=False)  # nothing holds its memory


def test_a_name_is_made_text() -> None:
    image, _ = plain.image(("left", 1), pixels(2, 2), 0) or pytest.fail("no image")
    assert image.name == "('left', 1)"


def test_a_dtype_without_a_name_keeps_its_value() -> None:
    assert arrays.label(5) == 5
