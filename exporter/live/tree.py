"""A value as a tree to read: what is nested folds, what has changed is marked.

Pure: a plain value (as ``wire.decode_plain`` gives it) and the one shown before, to
HTML. Every text of it is escaped here; nothing else writes markup around a value. A
fold has a ``data-key`` that stays the same while the value changes, so that the page
can leave it as the reader left it.
"""

from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

from markupsafe import Markup, escape

from exporter.live import words

INLINE = 8
"""A list of at most so many numbers or short texts is one line."""
OPEN_CHILDREN = 12
"""A container of more entries starts folded, and so does what lies deeper."""
OPEN_DEPTH = 2
LONG_TEXT = 200
SHORT_TEXT = 24
MAX_ROWS = 2000
MAX_DEPTH = 24
"""Bounds of what is written; the hooks' own are tighter, but anybody may send."""

_ARRAY = {"shape", "dtype", "device", "min", "mean", "max", "nan", "sampled"}
_MISSING: Any = object()
_SCALARS = (bool, int, float, str, type(None))


def tree(value: Any, before: Any = _MISSING, key: str = "") -> Markup:
    """The value as HTML.

    Args:
        value: plain: None, bool, int, float, str, list, dict with str keys.
        before: the value shown before; what differs from it is marked. Left out:
            nothing is marked.
        key: makes the folds' keys unlike those of other trees of the page.
    """
    compared = before if before is not _MISSING else value
    try:
        return Markup(_Tree().whole(value, compared, _hash(key, 0)))
    except RecursionError:
        return Markup('<p class="empty">too deep to be shown</p>')


def same(one: Any, other: Any) -> bool:
    """Equal, where NaN is equal to NaN, and 1 is neither True nor 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(value, other[name]) for name, value in one.items()
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


# What follows writes str and escapes each text itself: a tree may have 1,000 nodes and
# is written ten times a second.


class _Tree:
    """One tree being written, and how many rows it may still have."""

    def __init__(self) -> None:
        self.left = MAX_ROWS

    def whole(self, value: Any, before: Any, key: int) -> str:
        if isinstance(value, dict | list) and not _line(value):
            return self.entries(value, before, 0, key)
        return f'<ul class="tree"><li>{_leaf(value, before)}</li></ul>'

    def entries(self, value: Any, before: Any, depth: int, key: int) -> str:
        rows: list[str] = []
        for name, child, old in _children(value, before):
            if self.left <= 0 or depth >= MAX_DEPTH:
                more = words.count(len(value) - len(rows))
                rows.append(f'<li><span class="hint">… {more} more</span></li>')
                break
            self.left -= 1
            rows.append(self.row(name, child, old, depth, _hash(name, key)))
        return f'<ul class="tree">{"".join(rows)}</ul>'

    def row(self, name: str, value: Any, before: Any, depth: int, key: int) -> str:
        label = f'<span class="k">{escape(name)}</span> '
        if not isinstance(value, dict | list) or _line(value):
            return f"<li>{label}{_leaf(value, before)}</li>"
        unfolded = " open" if depth < OPEN_DEPTH and len(value) <= OPEN_CHILDREN else ""
        changed = "" if same(value, before) else " changed"
        return (
            f'<li><details data-key="{key:08x}"{unfolded}><summary>{label}'
            f'<span class="hint{changed}">{_size(value)}</span></summary>'
            f"{self.entries(value, before, depth + 1, key)}</details></li>"
        )


def _hash(name: str, parent: int) -> int:
    return crc32(name.encode("utf-8", "replace"), parent)


def _children(value: Any, before: Any) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(value, dict):
        known = before if isinstance(before, dict) else {}
        return ((name, one, known.get(name, _MISSING)) for name, one in value.items())
    old = before if isinstance(before, list) else []
    return (
        (str(place), one, old[place] if place < len(old) else _MISSING)
        for place, one in enumerate(value)
    )


def _size(value: Any) -> str:
    if isinstance(value, dict):
        return words.plural(len(value), "entry", "entries")
    return words.plural(len(value), "item")


def _line(value: Any) -> bool:
    """Whether a container is shown in one line."""
    if not value:
        return True
    if isinstance(value, list):
        return _one_text(value) or (len(value) <= INLINE and all(map(_short, value)))
    return _is_array(value)


def _short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= SHORT_TEXT
    return isinstance(value, _SCALARS)


def _one_text(value: list[Any]) -> bool:
    return len(value) == 1 and isinstance(value[0], str) and len(value[0]) <= LONG_TEXT


def _is_array(value: dict[str, Any]) -> bool:
    """Whether this is how the hooks outline an array or tensor."""
    return (
        "dtype" in value
        and isinstance(value.get("shape"), list)
        and all(isinstance(side, int) for side in value["shape"])
        and value.keys() <= _ARRAY
        and all(isinstance(value[name], _SCALARS) for name in value if name != "shape")
    )


def _leaf(value: Any, before: Any) -> str:
    if isinstance(value, list) and value:
        old = before if isinstance(before, list) and len(before) == len(value) else None
        parts = [
            _leaf(one, _MISSING if old is None else old[place])
            for place, one in enumerate(value)
        ]
        return f'<span class="list">{", ".join(parts)}</span>'
    changed = "" if same(value, before) else " changed"
    if isinstance(value, dict) and value:
        return f'<span class="v array{changed}">{_outline(value)}</span>'
    write = _WRITERS.get(type(value), _other)
    kind, text = write(value)
    if len(text) > LONG_TEXT:
        return _long(text, kind + changed)
    return f'<span class="v {kind}{changed}">{escape(text)}</span>'


def _long(text: str, kind: str) -> str:
    head = text[: LONG_TEXT // 2]
    more = words.count(len(text) - len(head))
    return (
        f'<details class="long" data-key="text"><summary><span class="v {kind}">'
        f'{escape(head)}</span> <span class="hint">… {more} more characters</span>'
        f'</summary><pre class="v {kind}">{escape(text)}</pre></details>'
    )


def _outline(value: dict[str, Any]) -> str:
    sides = " × ".join(str(side) for side in value["shape"]) or "scalar"
    more = [
        f'<span class="k">{escape(name)}</span> {escape(_WRITERS[type(one)](one)[1])}'
        for name, one in value.items()
        if name not in ("shape", "dtype")
    ]
    head = f"{escape(value['dtype'])} [{sides}]"
    return " ".join([f'<span class="text">{head}</span>', *more])


def _text(value: str) -> tuple[str, str]:
    return ("hint" if value.startswith("... ") else "text", value if value else "''")


def _other(value: Any) -> tuple[str, str]:
    if isinstance(value, dict | list):
        return "none", "{}" if isinstance(value, dict) else "[]"
    return "text", str(value)


_WRITERS: dict[type, Callable[[Any], tuple[str, str]]] = {
    str: _text,
    bool: lambda value: ("bool", str(value)),
    int: lambda value: ("num", str(value)),
    float: lambda value: ("num", words.real(value)),
    type(None): lambda value: ("none", "None"),
}
