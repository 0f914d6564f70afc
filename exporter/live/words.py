"""Numbers, times and ages as a person reads them: pure, values in, texts out.

Nothing here raises for an odd number: NaN and infinities have their names.
"""

import math
from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
FRESH = 1.5
"""Seconds below which an age is not worth a number."""


def count(number: float) -> str:
    """A whole number with its thousands apart: ``12,000``."""
    return f"{number:,.0f}" if math.isfinite(number) else real(number)


def real(value: float, digits: int = 6) -> str:
    """A number to so many significant digits; NaN and infinities by name."""
    if isinstance(value, int) or math.isinf(value) or math.isnan(value):
        return str(value)
    if value.is_integer() and abs(value) < 1e9:
        return f"{value:.0f}"
    if 1e5 <= abs(value) < 1e15:  # a time, a count: its end is what changes
        return f"{value:.2f}"
    return f"{value:.{digits}g}"


def rate(value: float) -> str:
    """A rate to about three digits: ``0.42``, ``12.3``, ``1,240``."""
    if value >= 100:
        return count(float(f"{value:.3g}"))
    return f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """A percentage; 100 % only when nothing is left, 0 % only where nothing is."""
    if whole <= 0:
        return ""
    percent = 100.0 * part / whole
    if 0 < percent < 1:
        return "< 1 %"
    if 99 < percent < 100:
        return "> 99 %"
    return f"{percent:.0f} %"


def duration(seconds: float) -> str:
    """A span of time in two units at most: ``420 ms``, ``3 min 05 s``."""
    if not math.isfinite(seconds):
        return str(seconds)
    seconds = max(0.0, seconds)
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return span(seconds)


def span(seconds: float) -> str:
    """A span in whole seconds or larger units, for what is counted on."""
    if not math.isfinite(seconds):
        return str(seconds)
    whole = max(0, round(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < DAY:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def about(seconds: float) -> str:
    """A span that is only estimated: ``a few seconds``, ``about 12 min``."""
    if seconds < 10:
        return "a few seconds"
    if seconds < MINUTE:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 10 * MINUTE:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"about {minutes} min {rest:02} s" if rest else f"about {minutes} min"
    if seconds < HOUR:
        return f"about {round(seconds / 60)} min"
    return f"about {span(seconds)}"


def ago(seconds: float) -> str:
    """An age: ``now``, ``12 s ago``, ``2 h 04 min ago``."""
    return "now" if seconds < FRESH else f"{span(seconds)} ago"


def iso(at: float) -> str:
    """A moment in the form of ``<time datetime>``; empty for one no calendar has."""
    found = _date(at)
    return found.isoformat(timespec="milliseconds") if found else ""


def clock(at: float) -> str:
    """The time of day, UTC; the page's script shows the reader's own."""
    found = _date(at)
    return f"{found:%H:%M:%S} UTC" if found else "?"


def date(at: float) -> str:
    """Date and time of day, UTC."""
    found = _date(at)
    return f"{found:%Y-%m-%d %H:%M:%S} UTC" if found else "?"


def minute(at: float) -> str:
    """Date and time of day to the minute, UTC; the page's script leaves out today."""
    found = _date(at)
    return f"{found:%Y-%m-%d %H:%M} UTC" if found else "?"


def _date(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def rank(level: str) -> int:
    """A log level's rank, as ``logging`` has it; one that is not known is an info."""
    return _RANKS.get(level.lower(), 20)


_RANKS = {"trace": 10, "debug": 10, "warning": 30, "warn": 30, "error": 40}
_RANKS |= {"critical": 40, "fatal": 40}


def plural(number: float, one: str, many: str = "") -> str:
    """A count with its noun: ``1 step``, ``1,200 steps``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def cut(text: object, most: int = 200) -> str:
    """A text of at most so many characters; anybody may send a long one."""
    said = str(text)
    return said if len(said) <= most else f"{said[: most - 1]}…"
