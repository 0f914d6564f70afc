"""Numbers as small charts: pure functions, numbers in, SVG out.

A chart says by its shape how something went; what it was exactly stands in the HTML
beside it, and once more in words in its label. It is stretched to the room it gets, so
it has no text in it and its lines keep their width (``vector-effect`` in the sheet).
There are no inline styles: the page's security policy forbids them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from exporter.live import words
from exporter.live.tracks import Curve

WIDTH, HEIGHT = 240, 60
STRIP_HEIGHT = 20
GAP_SECONDS = 30.0
"""Without a value for so long, a line has a gap."""
SPANS = {
    60.0: "the last minute",
    120.0: "the last 2 minutes",
    300.0: "the last 5 minutes",
    600.0: "the last 10 minutes",
}
"""Seconds that charts over time reach back: the least that holds what is known."""
STRIP_LEAST = 40
"""A strip has room for so many columns at least."""
TONES = ("good", "plain", "warn", "bad")

_Points = list[tuple[int, int]]


@dataclass(frozen=True)
class Spark:
    """A chart, and from where to where it reaches; None where nothing is to be seen."""

    svg: Markup
    low: float | None = None
    high: float | None = None


def span(seconds: float) -> float:
    """The least of the usual spans that holds so many seconds."""
    return next((one for one in SPANS if seconds <= one), max(SPANS))


def over_time(
    curve: Curve, until: float, seconds: float, name: str, *, zero: bool = False
) -> Spark:
    """A line over the last ``seconds`` until then; with zero in it, or not."""
    start = until - seconds
    scale = WIDTH / seconds
    points = [
        ((at - start) * scale, value)
        for at, value in zip(curve.times, curve.values, strict=True)
        if at >= start
    ]
    said = f"{name}, {SPANS[seconds]}"
    return _line(points, GAP_SECONDS * scale, said, zero=zero, dots=False)


def over_episodes(values: Sequence[float], name: str) -> Spark:
    """A line from one episode to the next, the newest last; few of them as dots too."""
    step = WIDTH / max(1, len(values) - 1)
    points = [(WIDTH - step * back, value) for back, value in enumerate(values[::-1])]
    said = f"{name}, the last {words.plural(len(values), 'episode')}"
    dots = len(values) <= STRIP_LEAST
    return _line(points[::-1], 1.5 * step, said, zero=False, dots=dots)


def ends(tones: Sequence[str], name: str) -> Markup:
    """A column for each episode, the newest last.

    Successes stand above the middle, what has gone wrong below it, so that not only the
    colour tells them apart; where nothing is called a success, the rest stands across.
    """
    room = max(len(tones), STRIP_LEAST)
    judged = "good" in tones
    first = room - len(tones)
    paths = []
    for tone in TONES:
        places = [first + n for n, one in enumerate(tones) if one == tone]
        if places:
            top, height = _column(tone, judged)
            drawn = "".join(f"M{place}.5 {top}v{height}" for place in places)
            paths.append(Markup('<path class="{}" d="{}"/>').format(tone, drawn))
    return _svg("spark ends", room, STRIP_HEIGHT, name, paths)


def brief(value: float) -> str:
    """A number in few characters: ``0.0123``, ``1,240``, ``1.2e+07``."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    if abs(value) >= 100:
        return words.count(float(f"{value:.3g}"))
    return f"{value:.3g}"


# --- inside -------------------------------------------------------------------------


def _column(tone: str, judged: bool) -> tuple[int, int]:
    """Where a column begins, and its height."""
    if tone == "good":
        return 0, STRIP_HEIGHT // 2
    if judged:
        return STRIP_HEIGHT // 2, STRIP_HEIGHT // 2
    return 0, STRIP_HEIGHT


def _line(
    points: Iterable[tuple[float, float]],
    gap: float,
    name: str,
    *,
    zero: bool,
    dots: bool,
) -> Spark:
    known = [(x, value) for x, value in points if math.isfinite(value)]
    if not known:
        label = f"{name}: nothing"
        return Spark(_svg("spark", WIDTH, HEIGHT, label, []))
    values = [value for _, value in known]
    low, high = min(values), max(values)
    bottom, top = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    placed = [(round(x), _height(value, bottom, top)) for x, value in known]
    breaks = [after[0] - before[0] > gap for before, after in pairwise(known)]
    paths = [Markup('<path class="line" d="{}"/>').format(_path(placed, breaks))]
    if dots:
        paths.append(Markup('<path class="dots" d="{}"/>').format(_dots(placed)))
    paths.append(Markup('<path class="dot" d="{}"/>').format(_dots(placed[-1:])))
    label = f"{name}: {brief(values[-1])}, from {brief(low)} to {brief(high)}"
    return Spark(_svg("spark", WIDTH, HEIGHT, label, paths), bottom, top)


def _height(value: float, bottom: float, top: float) -> int:
    """The place of a value; what does not change runs through the middle."""
    half = value / 2 - bottom / 2  # halves: the largest floats overflow otherwise
    whole = top / 2 - bottom / 2
    if whole <= 1e-12 * max(abs(top), abs(bottom)):
        return HEIGHT // 2
    return round(HEIGHT * (1.0 - half / whole))


def _path(placed: _Points, breaks: Sequence[bool]) -> str:
    (x, y), *rest = placed
    said = [f"M{x} {y}"]
    alone = True
    for (next_x, next_y), broken in zip(rest, breaks, strict=True):
        if broken:
            said.append("h0" if alone else "")
            said.append(f"M{next_x} {next_y}")
        else:
            more = next_y - y
            said.append(f"l{next_x - x}{'' if more < 0 else ' '}{more}")
        alone = broken
        x, y = next_x, next_y
    return "".join(said)


def _dots(placed: _Points) -> str:
    """Nothing long, with round ends: the only dots that are not stretched."""
    return "".join(f"M{x} {y}h0" for x, y in placed)


def _svg(kind: str, width: int, height: int, name: str, paths: list[Markup]) -> Markup:
    return Markup(
        '<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}"'
        ' preserveAspectRatio="none">{}</svg>'
    ).format(kind, name, width, height, Markup().join(paths))
