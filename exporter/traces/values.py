"""Any plain value as something that OTLP can carry, and a trace store will keep.

Pure. It never raises on a plain value: a text of any length, an integer of any size, a
time that is no number all come out as something bounded.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

MAX_ATTRIBUTE_BYTES = 2000
"""Below 2 KB: Tempo cuts an attribute at 2,048 bytes."""

MAX_NAME_BYTES = 200
MAX_USER_ATTRIBUTES = 64
MAX_SCORES = 8
LAST_NS = 2**63 - 1
"""The last time in Unix nanoseconds: stores keep signed 64 bits."""

Value = str | bool | int | float


def scores(given: Mapping[str, float]) -> dict[str, Value]:
    """The highest few scores, as attributes."""
    best = sorted(given.items(), key=lambda item: -rank(item[1]))[:MAX_SCORES]
    return named(dict(best), "episode.score.")[0]


def named(
    given: Mapping[str, Any], prefix: str, limit: int = MAX_USER_ATTRIBUTES
) -> tuple[dict[str, Value], int]:
    """Attributes under a prefix, and how many were too many."""
    kept = list(given.items())[:limit]
    shown = {
        prefix + clip(str(name), MAX_NAME_BYTES): value_of(value)
        for name, value in kept
    }
    return shown, len(given) - len(shown)


def value_of(value: Any) -> Value:
    """A plain value as an attribute: nested ones as JSON text."""
    if isinstance(value, str):
        return clip(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    return clip(_json(value))


def _json(value: Any) -> str:
    for write in (_plain_json, repr):
        try:
            return write(value)
        except (TypeError, ValueError, RecursionError):
            continue
    return "(cannot be shown)"


def _plain_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def clip(text: str, limit: int = MAX_ATTRIBUTE_BYTES, keep_end: bool = False) -> str:
    """Text of at most ``limit`` bytes of UTF-8, with a mark where it was cut."""
    if len(text) <= limit and text.isascii():
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    mark = f"... ({len(data)} bytes)"
    room = max(0, limit - len(mark))
    if keep_end:
        return mark + data[len(data) - room :].decode("utf-8", "ignore")
    return data[:room].decode("utf-8", "ignore") + mark


def rank(number: float) -> float:
    """The number, with the last place in any order for what is none."""
    return -math.inf if math.isnan(number) else number


def nanoseconds(seconds: float, low: int, high: int) -> int:
    """Seconds as whole nanoseconds in bounds; what is no number is the lower one."""
    exact = seconds * 1e9
    if not math.isfinite(exact):
        return low
    return min(max(round(exact), low), high)
