"""Plain values: whatever a user gives, as a bounded tree of exact builtins.

Rules of this module:

- It runs on the experiment's own thread, owns nothing and keeps nothing of the user's.
- It never raises: what cannot be read, or is too much, leaves a mark that says so.
  (The one exception lies in ``walk.overflowed``.)
- Only None, bool, int of 64 bits, float, str, list and dict with str keys come out, so
  that msgspec never sees a user's object. The same value always gives the same output:
  no addresses, no order of hashes.
- It never calls a user's ``__repr__`` or ``__str__``, never reads a tensor's elements
  (that would wait for a device), never consumes an iterator.
- The cost is bounded by what comes out, not by what goes in: a list of a million
  elements is never copied.
"""

from heapq import nlargest
from itertools import islice
from typing import Any, Dict, NamedTuple, Optional, Tuple

from experiment_hooks import arrays, wire
from experiment_hooks.walk import (
    MAX_KEY,
    TOO_DEEP,
    Walk,
    cut_at,
    line,
    overflowed,
    stack_is_full,
    why,
)

MAX_DEPTH = 16
MAX_NODES = 1000
MAX_BYTES = 65536
MAX_SCORES = 256
MAX_RESULTS = 16
MAX_TEXT = 256
LOOKED_AT = 16384
"""Of a larger mapping or sequence of scores only so many entries are looked at."""

_TOO_DEEP = wire.encode_plain(TOO_DEEP)


def plain(
    value: Any,
    *,
    depth: int = MAX_DEPTH,
    nodes: int = MAX_NODES,
    size: int = MAX_BYTES,
) -> Any:
    """Turn any value into plain ones; never raises.

    Args:
        value: anything at all.
        depth: how deep containers may lie in each other.
        nodes: how many values may come out, containers included.
        size: how many bytes they may take when encoded.

    Returns:
        None, bool, int of 64 bits, float, str, list or dict with str keys. Where
        something was cut there is a text such as ``... 990 more``, in a dict under the
        key ``...``.
    """
    try:
        return TOO_DEEP if stack_is_full() else Walk(depth, nodes, size).value(value, 0)
    except RecursionError as error:
        return overflowed(error, TOO_DEEP)
    except Exception as error:
        return why(error)


def take(value: Any) -> bytes:
    """Encode any value as it is now, in at most 64 KB; never raises."""
    try:
        data = wire.encode_plain(plain(value))
        return data if len(data) <= MAX_BYTES else wire.encode_plain(cut_at(MAX_BYTES))
    except RecursionError as error:
        return overflowed(error, _TOO_DEEP)
    except Exception as error:
        return wire.encode_plain(why(error))


class Made(NamedTuple):
    """A value that is encoded already; given to ``step``, it is taken as it is."""

    data: bytes


def made(value: Any) -> Made:
    """Encode a value that is plain: no walk, and so a tenth of the cost of ``take``.

    For integrations that build their values themselves, of exact builtins: no other
    thread may have them. Where that is not so, or it is too large, it is taken as any
    value is. Never raises.
    """
    try:
        data = wire.encode_plain(value)
    except Exception:
        return Made(take(value))
    return Made(data if len(data) <= MAX_BYTES else take(value))


def text(value: Any, most: int = MAX_TEXT) -> str:
    """Any value as one text of at most ``most`` characters; never raises."""
    if type(value) is str and len(value) <= most and value.isascii():
        return value
    try:
        return TOO_DEEP[:most] if stack_is_full() else line(value, most)
    except RecursionError as error:
        return overflowed(error, TOO_DEEP[:most])
    except Exception as error:
        return why(error)[:most]


def scores(values: Any, most: int = MAX_SCORES) -> Dict[str, float]:
    """The numbers in a mapping, a sequence or an array with one axis, by their names.

    A sequence's names are ``"0"``, ``"1"``, ... What is no number is left out; of more
    than ``most`` the largest stay, in the order given. Of very many only the first
    16,384 are looked at. Never raises.
    """
    try:
        found = _numbers(values, LOOKED_AT)
        if len(found) <= most:
            return found
        kept = set(nlargest(most, found, key=lambda name: _height(found[name])))
        return {name: number for name, number in found.items() if name in kept}
    except RecursionError as error:
        return overflowed(error, {})
    except Exception:
        return {}


def numbers(values: Any, most: int = MAX_RESULTS) -> Tuple[Dict[str, float], int]:
    """The first ``most`` numbers in a mapping, and how many entries were left out.

    Entries that are no numbers count as left out. Never raises.
    """
    try:
        found = _numbers(values, MAX_NODES)
        kept = dict(islice(found.items(), most))
        return kept, max(_length(values, len(found)) - len(kept), 0)
    except RecursionError as error:
        return overflowed(error, ({}, 0))
    except Exception:
        return {}, 0


def image(
    name: Any, array: Any, part: int, most: int = wire.MAX_IMAGE_BYTES
) -> Optional[Tuple[wire.Image, bytes]]:
    """An image's description and its bytes, copied now; None for what is no image.

    Args:
        name: its name.
        array: offers ``__array_interface__`` or the buffer protocol; its shape is
            (height, width) or (height, width, 1 or 3 or 4), its elements are bool,
            uint8, uint16, int8 to int64 or float16 to float64.
        part: the number of the attachment that its bytes will be.
        most: a larger one is thinned by the smallest stride in both directions that
            makes it fit.
    """
    try:
        if stack_is_full():
            return None
        return arrays.image(text(name, MAX_KEY), array, part, most)
    except RecursionError as error:
        return overflowed(error, None)
    except Exception:
        return None


def _numbers(values: Any, nodes: int) -> Dict[str, float]:
    """The numbers among the first entries of a mapping, sequence or 1-d array."""
    if stack_is_full():
        return {}
    if type(values) is dict and len(values) <= nodes:
        quick = _floats(values.copy())
        if quick:
            return quick
    array = arrays.as_array(values)
    if array is not None:
        values = array[:nodes].tolist() if array.ndim == 1 else None
    found = plain(values, depth=1, nodes=nodes + 1, size=nodes * 512)
    if type(found) is list:
        found = {str(place): value for place, value in enumerate(found)}
    if type(found) is not dict:
        return {}
    return {
        name: float(value)
        for name, value in found.items()
        if type(value) in (float, int, bool)
    }


_WHOLE = 2**53
"""Below it each integer is a float."""


def _floats(values: Dict[Any, Any]) -> Dict[str, float]:
    """A dict of ours as it should be, nothing else: most are, and quickly seen."""
    for name, value in values.items():
        if type(value) is not float:
            if type(value) is not int or not -_WHOLE < value < _WHOLE:
                return {}
            values[name] = float(value)
        if type(name) is not str or len(name) > MAX_KEY or not name.isascii():
            return {}
    return values


def _height(number: float) -> Tuple[bool, float]:
    """What to sort numbers by, so that NaN has a place: below all others."""
    return number == number, number


def _length(value: Any, otherwise: int) -> int:
    try:
        return len(value)
    except Exception:
        return otherwise
