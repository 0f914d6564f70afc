"""Arrays, tensors and images: what they are like, and their bytes.

Rules of this module:

- It imports no numpy. Where an array comes from numpy, numpy is loaded already;
  everything else is read by the buffer protocol or ``__array_interface__``.
- A tensor's elements are never read, not even on the CPU: reading one waits for its
  device. Its shape, dtype and device are attributes.
- A large array costs no more than a sample of it, and what it gives says so.
- It may raise whatever a value raises; ``plain`` is the boundary.
"""

import math
import sys
from itertools import islice
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from experiment_hooks import wire

EXACT = 1 << 20
"""Up to so many elements min, mean and max are over all of an array."""
SAMPLED = 1 << 16
"""Of a larger array they are over every n-th element, at most so many."""

_DEVICE_LIBRARIES = frozenset(
    ["torch", "jax", "jaxlib", "tensorflow", "cupy", "mxnet", "paddle", "mindspore"]
)
_PIXELS = frozenset(
    ["|b1", "|u1", "|i1", "<u2", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"]
)
_CHANNELS = ((), (1,), (3,), (4,))
_FORMATS = {
    **dict.fromkeys("?", "b"),
    **dict.fromkeys("bhilq", "i"),
    **dict.fromkeys("BHILQ", "u"),
    **dict.fromkeys("efd", "f"),
}


def root(kind: Any) -> str:
    """The package that a class is from."""
    module = type.__getattribute__(kind, "__module__")
    return module.partition(".")[0] if type(module) is str else ""


def of_device(kind: type) -> bool:
    """Whether reading a value of this type could wait for a device, or start one."""
    bases = type.__getattribute__(kind, "__mro__")
    return any(root(base) in _DEVICE_LIBRARIES for base in bases)


def as_array(value: Any) -> Any:
    """The value as a numpy array, not copied by us; None for all that is none."""
    kind = type(value)
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not hasattr(kind, "__array_interface__") or of_device(kind):
        return None
    if issubclass(kind, numpy.generic):
        return None
    if not issubclass(kind, numpy.ndarray):
        return _foreign(value, numpy)
    # A user's subclass may override anything; numpy's own (masked arrays) may stay.
    return value if root(kind) == "numpy" else numpy.ndarray.view(value, numpy.ndarray)


def _foreign(value: Any, numpy: Any) -> Any:
    said = value.__array_interface__
    if type(said.get("data")) is not bytes or said.get("strides") is not None:
        return numpy.asarray(value)
    # numpy itself would believe the shape, and read beyond the end of the bytes.
    return numpy.frombuffer(said["data"], said["typestr"]).reshape(said["shape"])


def outline(array: Any) -> Dict[str, Any]:
    """What a numpy array is like: shape, dtype and, of numbers, min, mean and max.

    NaN does not count in them, ``nan`` says how many there are; nor do the masked
    elements of a masked array. ``sampled`` is how many elements were looked at where
    that is not all.
    """
    about: Dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if array.dtype.kind not in "biuf" or not array.size:
        return about
    if array.size > EXACT:
        array = _sample(array)
        about["sampled"] = array.size
    with sys.modules["numpy"].errstate(all="ignore"):
        low = array.min().tolist()
        if low != low:
            numbers = array[array == array]
            about["nan"] = array.size - numbers.size
            array = numbers if numbers.size else array
        about["min"] = array.min().tolist()
        about["mean"] = array.mean(dtype="f8").tolist()
        about["max"] = array.max().tolist()
    return about


def _sample(array: Any) -> Any:
    """Every n-th along the longest axes, at most ``SAMPLED`` elements; a view."""
    while array.size > SAMPLED:
        axis = array.shape.index(max(array.shape))
        step = min(-(-array.size // SAMPLED), array.shape[axis])
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    return array


def attributes(value: Any) -> Dict[str, Any]:
    """What a tensor, or an array on disk, says of itself."""
    about = {}
    for name, read in (("shape", _sides), ("dtype", label), ("device", label)):
        if hasattr(type(value), name):
            try:
                about[name] = read(getattr(value, name))
            except Exception:  # a shape of unknown rank cannot be iterated
                about[name] = None
    return about


def _sides(shape: Any) -> List[Any]:
    return list(islice(iter(shape), 32))


def label(value: Any) -> Any:
    """The name of a dtype or a device, else the value itself.

    ``str`` is asked only for a library's own text, never for a user's.
    """
    name = getattr(value, "name", value)
    if type(name) is not str and root(type(value)) in _DEVICE_LIBRARIES:
        return str(value)
    return name


# --- images --------------------------------------------------------------------------


class _Pixels(NamedTuple):
    """What may be an image; ``every(k)`` copies each k-th row and column of it."""

    shape: Tuple[int, ...]
    dtype: str
    every: Callable[[int], bytes]


def image(
    name: str, value: Any, part: int, most: int
) -> Optional[Tuple[wire.Image, bytes]]:
    """See :func:`experiment_hooks.plain.image`."""
    if type(value) is getattr(sys.modules.get("numpy"), "ndarray", None):
        # Most are this, whole, and quickly taken.
        dtype, shape = value.dtype.str, value.shape
        fits = len(shape) in (2, 3) and shape[2:] in _CHANNELS
        if fits and dtype in _PIXELS and 0 < value.nbytes <= most:
            return wire.Image(name, shape, dtype, part, 1), value.tobytes()
    pixels = None if of_device(type(value)) else _pixels(value)
    if pixels is None or pixels.dtype not in _PIXELS:
        return None
    shape = pixels.shape
    if len(shape) not in (2, 3) or 0 in shape or shape[2:] not in _CHANNELS:
        return None
    item = int(pixels.dtype[2:]) * math.prod(shape[2:])
    if most < item:
        return None
    stride = _stride(shape, most // item)
    shape = (_thinned(shape[0], stride), _thinned(shape[1], stride), *shape[2:])
    data = pixels.every(stride)
    if len(data) != item * shape[0] * shape[1]:
        return None
    return wire.Image(name, shape, pixels.dtype, part, stride), data


def _thinned(side: int, stride: int) -> int:
    return -(-side // stride)


def _stride(shape: Tuple[int, ...], most: int) -> int:
    """The smallest stride that leaves at most ``most`` pixels; by bisection."""
    low, high = 1, max(shape)
    while low < high:
        middle = (low + high) // 2
        if _thinned(shape[0], middle) * _thinned(shape[1], middle) <= most:
            high = middle
        else:
            low = middle + 1
    return low


def _pixels(value: Any) -> Optional[_Pixels]:
    array = as_array(value)
    if array is not None:
        dtype = array.dtype.str.replace(">", "<")
        return _Pixels(
            array.shape,
            dtype,
            lambda k: array[::k, ::k].astype(dtype, copy=False).tobytes(),
        )
    if hasattr(type(value), "__array_interface__"):
        said = value.__array_interface__
        if said.get("strides") is not None:
            return None
        shape, dtype, view = said["shape"], said["typestr"], memoryview(said["data"])
    else:
        view = memoryview(value)
        shape, dtype = view.shape, _typestr(view)
    return _Pixels(tuple(shape), dtype, lambda k: _rows(view, shape, k))


def _typestr(view: memoryview) -> str:
    """A buffer's format as numpy would write it."""
    kind = _FORMATS.get(view.format, "?")
    order = "|" if view.itemsize == 1 else "<" if sys.byteorder == "little" else ">"
    return f"{order}{kind}{view.itemsize}"


def _rows(view: memoryview, shape: Sequence[int], stride: int) -> bytes:
    """Without numpy: one copy where nothing is thinned, else row by row."""
    if stride == 1:
        return view.tobytes()
    flat = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    row = flat.nbytes // shape[0]
    pixel = row // shape[1]
    return b"".join(
        flat[start : start + row].cast("B", (shape[1], pixel))[::stride].tobytes()
        for start in range(0, flat.nbytes, row * stride)
    )
