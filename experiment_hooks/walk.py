"""The walk over a value: what ``plain`` does, and which reader reads which type.

Rules of this module:

- A reader is a function of the walk, a value and how deep it lies. It spends from the
  walk's budget and returns exact builtins.
- A builtin's subclass is read by the builtin's own methods, not by what it overrides;
  other containers by their protocol (``iter``, ``len``, ``[key]``), each call guarded.
- What raises leaves a mark in its place, and its neighbours are read all the same.
"""

import sys
from collections import OrderedDict, deque
from collections.abc import Mapping, MappingView, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from operator import getitem
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, TypeVar
from uuid import UUID

from experiment_hooks import arrays, wire

MAX_KEY = 128
LISTED = 64
"""An array of at most so many elements is given as a list."""
LISTED_BYTES = 65536
SORTED = 4096
"""A set of more elements is only counted: its order would cost too much."""
ATTEMPTS = 4
"""How often a container is read again that another thread changes meanwhile."""
TOO_DEEP = "... unreadable: RecursionError"

_RESERVE = 2048  # for the marks of all open containers when the size is used up
_MAX_INT_BITS = 4096  # Python 3.11 refuses to write out more than 4,300 digits
_KEY_NODES = 16
_FRAMES = 200  # more than a walk of depth 16 ever stacks up
_CYCLE = "... again (a cycle)"
CHANGED = "... changed while it was read"

_ENDS_PROCESS = sys.version_info < (3, 10)

Result = TypeVar("Result")
Reader = Callable[["Walk", Any, int], Any]


class Walk:
    """One walk over one value: what is left of its budget, and where it is.

    The budget is spent before it is looked at; a value may overdraw it a little, then
    each open container ends with a mark. ``_RESERVE`` is kept for that.
    """

    __slots__ = ("depth", "keys", "limit", "nodes", "path", "size")

    def __init__(self, depth: int, nodes: int, size: int, keys: int = 2) -> None:
        self.depth = depth
        self.keys = keys  # how deep containers may lie in a key
        self.nodes = nodes
        self.limit = size
        self.size = size - min(_RESERVE, size // 4)
        self.path: List[Any] = []

    def value(self, value: Any, depth: int) -> Any:
        """Read one value that lies in ``depth`` containers."""
        self.nodes -= 1
        try:
            kind = type(value)
            read = _READERS.get(kind) or _reader(kind)
            return read(self, value, depth)
        except Exception as error:
            return self.text(why(error))

    def text(self, value: str) -> str:
        """Spend the size of an exact str, cut it where it does not fit."""
        left = self.size
        if len(value) <= left and value.isascii():
            self.size = left - len(value) - 5
            return value
        if left <= 0:
            return cut_at(self.limit)
        # "replace" turns a lone surrogate into one question mark: lengths stay.
        data = value[:left].encode("utf-8", "replace")[:left]
        self.size = left - len(data) - 5
        kept = data.decode("utf-8", "ignore")
        cut = len(value) - len(kept)
        return f"{kept}... {cut} more characters" if cut else kept

    def items(self, values: Iterable[Any], total: int, depth: int) -> List[Any]:
        """Read the head of a sequence that has ``total`` elements."""
        found: List[Any] = []
        for value in values:
            if self.nodes <= 0 or self.size <= 0:
                break
            if type(value) is float:
                self.nodes -= 1
                self.size -= 9
                found.append(value)
            else:
                found.append(self.value(value, depth))
        if len(found) < total:
            found.append(self.more(total - len(found)))
        return found

    def pairs(
        self, pairs: Iterable[Tuple[Any, Any]], total: int, depth: int
    ) -> Dict[str, Any]:
        """Read the head of a mapping that has ``total`` entries."""
        found: Dict[str, Any] = {}
        for key, value in pairs:
            if self.nodes <= 0 or self.size <= 0:
                break
            usual = type(key) is str and key.isascii() and len(key) <= MAX_KEY
            name = key if usual and key not in found else self.name(key, found)
            if type(value) is float:
                self.nodes -= 1
                self.size -= len(name) + 14
                found[name] = value
            else:
                self.size -= len(name) + 5
                found[name] = self.value(value, depth)
        if len(found) < total:
            found[self.name("...", found)] = self.more(total - len(found))
        return found

    def name(self, key: Any, taken: Dict[str, Any]) -> str:
        """A key as text, unlike those that are taken."""
        name = line(key, MAX_KEY, self.keys)
        if not name.isascii():
            self.size -= 3 * len(name)  # at most four bytes a character
        if name not in taken:
            return name
        number = len(taken) + 1  # its place, which no other name is likely to have
        while f"{name} ({number})" in taken:
            number += 1
        return f"{name} ({number})"

    def more(self, count: int) -> str:
        """The mark for ``count`` elements that are left out."""
        mark = f"... {count} more"
        return mark if self.size > 0 else f"{mark}, {cut_at(self.limit)[4:]}"


def _container(read: Reader) -> Reader:
    """A reader that goes into a value: not too deep, and not in a circle."""

    def guarded(walk: Walk, value: Any, depth: int) -> Any:
        if depth >= walk.depth:
            return walk.text(f"... deeper than {walk.depth}")
        path = walk.path
        for outer in path:
            if outer is value:
                return walk.text(_CYCLE)
        path.append(value)
        walk.size -= 5
        try:
            return read(walk, value, depth + 1)
        finally:
            path.pop()

    return guarded


def why(error: BaseException) -> str:
    """The mark for a value that raised. Its message might call a user's code.

    Raises:
        RecursionError: it is one, and not only of the value: the stack is full. Then
            only the outer end of the walk may catch it.
    """
    if isinstance(error, RecursionError) and stack_is_full():
        raise error
    said = _arguments(error)[:1]
    if said and type(said[0]) is str and said[0].endswith("during iteration"):
        return CHANGED
    return f"... unreadable: {_name(type(error)).rpartition('.')[2][:MAX_KEY]}"


def stack_is_full() -> bool:
    """Whether too few frames are left to walk anything: to be asked before."""
    try:
        sys._getframe(sys.getrecursionlimit() - _FRAMES)
    except ValueError:  # there are not so many
        return False
    return True


def overflowed(error: RecursionError, mark: Result) -> Result:
    """The mark for a RecursionError that reached the outer end of a walk.

    Raises:
        RecursionError: the stack is full to its last frames, on a Python below 3.10.
            The experiment's own next call would raise it; but if it were swallowed
            here and the calls went on, that Python would end the process.
    """
    if _ENDS_PROCESS and stack_is_full():
        raise error
    return mark


def cut_at(size: int) -> str:
    """The mark for what does not fit."""
    return f"... cut at {size // 1024} KB" if size >= 1024 else f"... cut at {size} B"


def line(value: Any, most: int, depth: int = 2) -> str:
    """A value as a text of at most ``most`` characters."""
    if issubclass(type(value), str):
        text = str.__str__(value)
    else:
        # Keys in keys are not gone into: with shared ones that would take for ever.
        found = Walk(depth, _KEY_NODES, 4096, keys=0).value(value, 0)
        if type(value) is tuple and type(found) is list:
            found = tuple(found)
        text = found if type(found) is str else repr(found)
    if len(text) > most:
        kept = max(most - 24, 0)
        text = f"{text[:kept]}... {len(text) - kept} more"[:most]
    return text.encode("utf-8", "replace").decode("utf-8")


_arguments: Callable[[BaseException], Tuple[Any, ...]] = vars(BaseException)[
    "args"
].__get__


def _name(kind: Any) -> str:
    """``module.QualName`` of a class or function, without calling code of its own."""
    fetch = type.__getattribute__ if isinstance(kind, type) else object.__getattribute__
    parts = []
    for name in ("__module__", "__qualname__"):
        part = fetch(kind, name)
        parts.append(part if type(part) is str else "?")
    return ".".join(parts)


# --- numbers and texts ---------------------------------------------------------------


def _none(walk: Walk, value: Any, _depth: int) -> Any:
    walk.size -= 1
    return value


def _float(walk: Walk, value: Any, _depth: int) -> float:
    walk.size -= 9
    return float.__float__(value)


def _int(walk: Walk, value: Any, _depth: int) -> Any:
    number = int.__int__(value)
    if -(1 << 63) <= number < 1 << 64:
        walk.size -= 9
        return number
    return walk.text(_digits(number))


def _digits(number: int) -> str:
    bits = number.bit_length()
    return str(number) if bits <= _MAX_INT_BITS else f"... an integer of {bits} bits"


def _str(walk: Walk, value: Any, _depth: int) -> str:
    return walk.text(str.__str__(value))


def _bytes(walk: Walk, value: Any, _depth: int) -> str:
    view = memoryview(value)
    head = repr(bytes(view[:LISTED]))
    cut = view.nbytes - LISTED
    return walk.text(f"{head}... {cut} more bytes" if cut > 0 else head)


def _enum(walk: Walk, value: Any, depth: int) -> Any:
    if value._name_ is None:  # flags together have no name before Python 3.11
        return walk.value(value._value_, depth)
    return walk.text(f"{type(value).__name__}.{value._name_}")


def _fraction(walk: Walk, value: Any, _depth: int) -> str:
    return walk.text(f"{_digits(value.numerator)}/{_digits(value.denominator)}")


def _path(walk: Walk, value: Any, _depth: int) -> str:
    return walk.text(sys.modules["pathlib"].PurePath.__str__(value))


def _seconds(walk: Walk, value: Any, _depth: int) -> float:
    walk.size -= 9
    return timedelta.total_seconds(value)


def _texts(write: Callable[[Any], str]) -> Reader:
    """A reader that writes a value by a function of the standard library."""
    return lambda walk, value, depth: walk.text(write(value))


_unknown = _texts(lambda value: f"<{_name(type(value))}>")
_named = _texts(lambda value: f"<{_name(value)}>")


# --- containers ----------------------------------------------------------------------


def _head(values: Callable[[], Iterable[Any]], most: int) -> List[Any]:
    """The first elements of what another thread may be changing."""
    for _ in range(ATTEMPTS - 1):
        try:
            return list(islice(values(), most))
        except RecursionError:
            raise
        except RuntimeError:
            continue
    return list(islice(values(), most))


def _total(value: Any, head: List[Any], most: int) -> int:
    """How many there are: asked only where the head may not hold all of them."""
    return len(head) if len(head) < most else max(len(value), most)


def _entries(items: Callable[[Any], Iterable[Tuple[Any, Any]]]) -> Reader:
    """A reader of one kind of dict, by that kind's own ``items``."""

    def read(walk: Walk, value: Any, depth: int) -> Dict[str, Any]:
        most = max(walk.nodes, 0)
        head = _head(lambda: items(value), most)
        return walk.pairs(head, _total(value, head, most), depth)

    return _container(read)


_dict = _entries(dict.items)
_ordered = _entries(OrderedDict.items)


@_container
def _namespace(walk: Walk, value: Any, depth: int) -> Any:
    return _dict(walk, object.__getattribute__(value, "__dict__"), depth - 1)


@_container
def _mapping(walk: Walk, value: Any, depth: int) -> Dict[str, Any]:
    """By keys, one value after the other: one that raises leaves the others."""
    most = max(walk.nodes, 0)
    keys = _head(lambda: iter(value), most)
    pairs = ((key, _attempt(getitem, value, key)) for key in keys)
    return walk.pairs(pairs, _total(value, keys, most), depth)


@_container
def _object(walk: Walk, value: Any, depth: int) -> Dict[str, Any]:
    """An object whose class declares its fields."""
    names = _fields(type(value)) or []
    pairs = ((name, _attempt(getattr, value, name)) for name in names)
    return walk.pairs(pairs, len(names), depth)


@_container
def _list(walk: Walk, value: Any, depth: int) -> List[Any]:
    most = max(walk.nodes, 0)
    head = list.__getitem__(value, slice(most))
    return walk.items(head, _total(value, head, most), depth)


@_container
def _tuple(walk: Walk, value: Any, depth: int) -> Any:
    total = tuple.__len__(value)
    head = tuple.__getitem__(value, slice(max(walk.nodes, 0)))
    names = getattr(type(value), "_fields", None)
    if type(names) is tuple and len(names) == total:
        return walk.pairs(zip(names, head), total, depth)
    return walk.items(head, total, depth)


@_container
def _sequence(walk: Walk, value: Any, depth: int) -> List[Any]:
    most = max(walk.nodes, 0)
    head = _head(lambda: iter(value), most)
    return walk.items(head, _total(value, head, most), depth)


@_container
def _set(walk: Walk, value: Any, depth: int) -> List[Any]:
    """In an order of its own: that of hashes differs from process to process."""
    total = len(value)
    if total > SORTED:
        return [walk.more(total)]
    head = _head(lambda: iter(value), SORTED)
    kinds = {type(element) for element in head}
    if kinds in ({str}, {int}):
        return walk.items(sorted(head), len(head), depth)
    return _shares(walk, head, depth)


def _shares(walk: Walk, elements: List[Any], depth: int) -> List[Any]:
    """Elements sorted by what they give.

    Each has the same share of the budget, so that what it gives does not depend on the
    order that they came in.
    """
    nodes, size, count = walk.nodes, walk.size, len(elements)
    if nodes < count or size < count:
        return [walk.more(count)] if count else []
    found = []
    left_nodes, left_size = nodes, size
    for element in elements:
        walk.nodes, walk.size = nodes // count, size // count
        found.append(walk.value(element, depth))
        left_nodes -= nodes // count - walk.nodes
        left_size -= size // count - walk.size
    walk.nodes, walk.size = left_nodes, left_size
    return sorted(found, key=wire.encode_plain)


def _attempt(read: Callable[..., Any], *args: Any) -> Any:
    try:
        return read(*args)
    except Exception as error:
        return why(error)


def _fields(kind: Any) -> Optional[List[str]]:
    """The fields that a dataclass, msgspec, attrs or pydantic class declares."""
    if getattr(kind, "__dataclass_fields__", None):
        return [field.name for field in sys.modules["dataclasses"].fields(kind)]
    for mark in ("__struct_fields__", "__attrs_attrs__", "__pydantic_fields__"):
        found = getattr(kind, mark, None)
        if found:
            return [name if type(name) is str else name.name for name in found]
    return None


# --- arrays and tensors --------------------------------------------------------------


def _scalar(walk: Walk, value: Any, depth: int) -> Any:
    """A numpy scalar; the item of a long double is a long double again."""
    found = value.item()
    if type(found) is type(value):
        found = complex(value) if value.dtype.kind == "c" else float(value)
    walk.nodes += 1
    return walk.value(found, depth)


def _array(walk: Walk, value: Any, depth: int) -> Any:
    """An array: a list while it is small, else what it is like."""
    array = arrays.as_array(value)
    if array is None:  # no numpy is loaded to read it
        said = value.__array_interface__
        about = {"shape": list(said["shape"]), "dtype": said["typestr"]}
        return walk.value(about, depth)
    if array.ndim == 0 and array.dtype.kind != "O":
        walk.nodes += 1
        return walk.value(array.tolist(), depth)
    small = 0 < array.size <= LISTED and array.nbytes <= LISTED_BYTES
    if small or array.shape == (0,):
        return _listed(walk, value, depth)
    return walk.value(arrays.outline(array), depth)


@_container
def _listed(walk: Walk, value: Any, depth: int) -> Any:
    found = arrays.as_array(value).tolist()
    if type(found) is list:
        return walk.items(found, len(found), depth)
    return walk.value(found, depth)  # the object in an array without axes


def _tensor(walk: Walk, value: Any, depth: int) -> Any:
    return walk.value(arrays.attributes(value), depth)


# --- which reader --------------------------------------------------------------------

_READERS: Dict[type, Reader] = {
    float: _float,
    int: _int,
    str: _str,
    bool: _none,
    type(None): _none,
    list: _list,
    dict: _dict,
    tuple: _tuple,
    OrderedDict: _ordered,
    deque: _sequence,
    set: _set,
    frozenset: _set,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _unknown,
    range: _texts(range.__repr__),
    complex: _texts(complex.__repr__),
    Decimal: _texts(Decimal.__str__),
    UUID: _texts(UUID.__str__),
    datetime: _texts(datetime.isoformat),
    date: _texts(date.isoformat),
    time: _texts(time.isoformat),
    timedelta: _seconds,
    Enum: _enum,
    SimpleNamespace: _namespace,
    type: _named,
    FunctionType: _named,
    BuiltinFunctionType: _named,
}
"""By exact type, then by base class."""
_BY_NAME: Dict[str, Reader] = {
    "numpy.memmap": _tensor,  # reading it could be reading a disk
    "numpy.ndarray": _array,
    "numpy.float64": _float,
    "numpy.generic": _scalar,
    "pathlib.PurePath": _path,
    "fractions.Fraction": _fraction,
    "argparse.Namespace": _namespace,
    "array.array": _sequence,
}
"""Of modules that cost to import; a value of theirs shows that they are loaded."""
_PROTOCOLS: Tuple[Tuple[Any, Reader], ...] = (
    (Mapping, _mapping),
    (MappingView, _sequence),
    (Set, _set),
    (Sequence, _sequence),
)


def _reader(kind: type) -> Reader:
    """The reader for a type that is not in the table itself."""
    device = arrays.of_device(kind)
    for base in type.__getattribute__(kind, "__mro__")[:-1]:
        found = _READERS.get(base)
        if found is None:
            found = _BY_NAME.get(f"{arrays.root(base)}.{base.__name__}")
        if found is None and not device and "__array_interface__" in vars(base):
            found = _array
        if found is not None:
            if arrays.root(kind) == "numpy":  # few types, and often met
                _READERS[kind] = found
            return found
    return _by_shape(kind, device)


def _by_shape(kind: type, device: bool) -> Reader:
    """The reader for a type that is known by what it has."""
    if _fields(kind):
        return _object
    if hasattr(kind, "shape") and hasattr(kind, "dtype"):
        return _tensor
    if device and kind.__name__ in ("dtype", "device"):
        return _texts(arrays.label)
    for protocol, read in _PROTOCOLS:
        if issubclass(kind, protocol):
            return read
    return _unknown
