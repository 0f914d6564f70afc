"""Scores over steps as charts: whose they are, which lines are drawn, in which colours.

Values in, values out. What stands before the first slash of a score's name says whose
belief it is (``LM_0/mug``): each has a chart of its own, and nothing is averaged. Of
many lines the highest are drawn, and the target; one that was drawn is drawn for all of
its episode, so that no line comes and goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exporter.trail import Glimpse, Visit

TOP = 5
"""So many of the highest of each step are drawn, at least."""
MAX_LINES = 8
"""Lines of an episode at most: as many as there are colours to tell apart."""
MAX_CHARTS = 8
LARGEST = 1e300
"""What is beyond is drawn as infinity is: the span of two would be none."""
MAX_KNOWN = 256
"""Names of a chart; where more have come, all is drawn anew from what is there."""

Point = tuple[Any, ...]


@dataclass(frozen=True)
class Chart:
    """What the page's script draws; the numbers are finite or None.

    Attributes:
        lines: names; a line is spoken of by its place here.
        colours: of each line, -1: none. No two have the same, and a name keeps its own
            as long as there are enough.
        points: in order of their place on the x axis: ``(place, step, values)``, where
            values are line, value, line, value ...; the first of an episode has a
            fourth part, what is to be said of the episode.
        begin: the same of the first point's episode, whose first step may be gone:
            ``(label, title, target's line or -1)``.
    """

    lines: tuple[str, ...] = ()
    colours: tuple[int, ...] = ()
    points: tuple[Point, ...] = ()
    begin: Point = ()


@dataclass(frozen=True)
class Leader:
    """The highest score: whose, since which step of the episode, ahead of which other.

    ``right``: whether it is the episode's target; None where that is no score's name.
    """

    name: str
    since: int
    ahead: float | None = None
    second: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Belief:
    """One chart, the colours of the newest episode's lines, and what leads there."""

    whose: str
    chart: Chart
    colours: Mapping[str, int]
    leader: Leader | None = None


def parted(name: str) -> tuple[str, str]:
    """Whose score it is, and of what: ``LM_0/mug`` -> ``LM_0``, ``mug``."""
    whose, slash, what = name.partition("/")
    return (whose, what) if slash and whose and what else ("", name)


def of_now(
    beliefs: Iterable[Belief], scores: Mapping[str, float]
) -> tuple[Belief, ...]:
    """The same, but nothing leads where the newest step has no scores."""
    there = {parted(name)[0] for name in scores}
    return tuple(
        one if one.whose in there else replace(one, leader=None) for one in beliefs
    )


class Evidence:
    """Turns a source's glimpses into charts; only new ones cost anything."""

    def __init__(self) -> None:
        self._last: Glimpse | None = None
        self._drawings: dict[str, _Drawing] = {}
        self._columns: tuple[tuple[str, ...], _Columns] = ((), {})

    def seen(self, glimpses: Sequence[Glimpse]) -> list[Belief]:
        """The charts, now that these are what was seen, the oldest first."""
        fresh = self._fresh(glimpses)
        if len(fresh) == len(glimpses):  # another source's, or too many at once
            self._drawings = {}
        for glimpse in fresh:
            for whose, columns in self._parted(glimpse.names).items():
                if whose in self._drawings or self._has_room(glimpse.visit):
                    drawing = self._drawings.setdefault(whose, _Drawing())
                    drawing.add(glimpse, columns)
        if glimpses:
            self._last = glimpses[-1]
            for drawing in self._drawings.values():
                drawing.forget(glimpses[0].place)
        self._drawings = {w: one for w, one in self._drawings.items() if one.points}
        return [
            Belief(whose, one.chart(), one.colours, one.leader)
            for whose, one in self._drawings.items()
        ]

    def _has_room(self, visit: Visit) -> bool:
        """Whether there is a chart for one more; those of this episode come first."""
        if len(self._drawings) < MAX_CHARTS:
            return True
        found = self._drawings.items()
        old = next((whose for whose, one in found if one.visit != visit), None)
        if old is not None:
            del self._drawings[old]
        return old is not None

    def _fresh(self, glimpses: Sequence[Glimpse]) -> Sequence[Glimpse]:
        """Those that were not seen yet; all, where none is known."""
        last = self._last
        for back, glimpse in enumerate(reversed(glimpses)):
            if glimpse is last:
                return glimpses[len(glimpses) - back :]
            if last and glimpse.visit is last.visit and glimpse.place == last.place:
                return glimpses[len(glimpses) - back - 1 :]  # that step, seen again
        return glimpses

    def _parted(self, names: tuple[str, ...]) -> "_Columns":
        if self._columns[0] is not names:
            found: _Columns = {}
            for column, name in enumerate(names):
                whose, what = parted(name)
                found.setdefault(whose, {})[what] = column
            self._columns = (names, found)
        return self._columns[1]


_Columns = dict[str, dict[str, int]]
"""By whose score it is and of what: its column."""


class _Drawing:
    """One chart as it grows; ``colours`` are those of the newest ``visit``, by name."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.colours: dict[str, int] = {}
        self.leader: Leader | None = None
        self.visit: Visit | None = None
        self._owners: dict[str, int] = {}  # the oldest first
        self._lines: dict[str, int] = {}
        self._steps: list[tuple[int, int, dict[str, float]]] = []  # of the visit
        self._first: Point = ()
        self._chart: Chart | None = None

    def chart(self) -> Chart:
        """As it is now; the same object as long as that does not change."""
        if self._chart is None:
            colours = tuple(self._owners.get(name, -1) for name in self._lines)
            points = tuple(self.points)
            self._chart = Chart(tuple(self._lines), colours, points, self._first)
        return self._chart

    def add(self, glimpse: Glimpse, columns: Mapping[str, int]) -> None:
        """The next step, of whose scores these are ours."""
        self._chart = None
        visit = glimpse.visit
        if visit != self.visit:
            self.visit, self.colours, self._steps = visit, {}, []
            self.leader = None
        values = {name: glimpse.values[column] for name, column in columns.items()}
        if self._steps and self._steps[-1][0] == glimpse.place:  # the same, seen again
            self._steps.pop()
            self.points.pop()
        self._steps.append((glimpse.place, glimpse.step, values))
        self.leader = _leader(values, glimpse, self.leader)
        more = self._colour(_highest(values, visit.target))
        if more and len(self._lines) > MAX_KNOWN:
            self._lines, self.points = (
                {name: n for n, name in enumerate(self.colours)},
                [],
            )
        if more or not self.points:
            self.points = [p for p in self.points if p[0] < self._steps[0][0]]
            self.points += [self._point(*step) for step in self._steps]
        else:
            self.points.append(self._point(*self._steps[-1]))

    def forget(self, before: int) -> None:
        """What lies before this place is not kept any more."""
        while self.points and self.points[0][0] < before:
            self._chart = None
            self._first = (*self.points.pop(0)[3:], self._first)[0]
        if self.points:
            self._first = (*self.points[0][3:], self._first)[0]
        while self._steps and self._steps[0][0] < before:
            self._steps.pop(0)

    def _colour(self, names: Iterable[str]) -> bool:
        """Give these a line and a colour, while there are any; whether one is new."""
        more = False
        for name in names:
            if name not in self.colours and len(self.colours) < MAX_LINES:
                self._lines.setdefault(name, len(self._lines))
                if name not in self._owners:
                    self._owners[name] = self._free()
                self.colours = {**self.colours, name: self._owners[name]}
                more = True
        return more

    def _free(self) -> int:
        """A colour that nobody has, or that one gives up who is not of this episode."""
        for colour in range(MAX_LINES):
            if colour not in self._owners.values():
                return colour
        return self._owners.pop(next(n for n in self._owners if n not in self.colours))

    def _point(self, place: int, step: int, values: Mapping[str, float]) -> Point:
        numbers: list[Any] = []
        for name in self.colours:
            if name in values:
                numbers += (self._lines[name], _number(values[name]))
        if self._steps[0][0] != place:
            return place, step, tuple(numbers)
        return place, step, tuple(numbers), self._begin()

    def _begin(self) -> tuple[Any, ...]:
        visit = self.visit
        assert visit is not None
        target = self._lines.get(visit.target or "", -1)
        which = "" if visit.index is None else f" {visit.index}"
        title = f"{visit.mode} episode{which}"[:100]
        return (visit.target or "")[:100], title, target


def _leader(
    values: Mapping[str, float], glimpse: Glimpse, before: Leader | None
) -> Leader | None:
    """What leads now; NaN leads nowhere."""
    found = sorted((v, name) for name, v in values.items() if v == v)
    if not found:
        return None
    (value, name), target = found[-1], glimpse.visit.target
    goes_on = before is not None and before.name == name
    return Leader(
        name,
        before.since if before is not None and goes_on else glimpse.step,
        value - found[-2][0] if len(found) > 1 else None,
        found[-2][1] if len(found) > 1 else "",
        name == target if target in values else None,
    )


def _highest(values: Mapping[str, float], target: str | None) -> list[str]:
    """The target, and the names of the highest, in the order in which they came."""
    wanted = [*values]
    if len(wanted) > MAX_LINES:
        found = sorted((-v, n) for n, v in enumerate(values.values()) if v == v)
        best = {number for _, number in found[:TOP]}
        wanted = [name for number, name in enumerate(wanted) if number in best]
    if target in values and target in wanted:
        wanted.remove(target)
    return [target, *wanted] if target in values and target is not None else wanted


def _number(value: float) -> float | None:
    """To five digits: more cannot be seen; JSON has no NaN and no infinity."""
    return float(f"{value:.5g}") if abs(value) < LARGEST else None
