"""What is kept of a run's last ten minutes: numbers by the point, and what they say.

Values only: time is passed in, and whoever has a :class:`History` sees to it that one
thread at a time uses it (``recent``). Totals are kept as they are, and rates made of
them when somebody looks: over which time, they can say then.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from experiment_hooks import wire
from exporter.checks import BUILT_IN
from exporter.merge import Base, Contribution, Key, Line

POINTS = 120
SECONDS = 5.0
KEPT = POINTS * SECONDS
YOUNG_POINTS, YOUNG_SECONDS = 6, 1.0
"""So many first points come sooner: a run of half a minute has charts too."""
STEPS_OVER, OVER = 10.0, 30.0
"""Seconds over which steps, and a run's own counters, are said per second."""
MAX_SERIES, MAX_MODES = 100, 20
IDLE = 2.5
"""Seconds after which a source that is silent has nothing to say: one that is busy
tells its totals each second, and that is committed once a second."""
MOST_PATIENT = 60.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Values by time (Unix seconds); NaN where there is none."""

    times: Sequence[float] = ()
    values: Sequence[float] = ()

    @property
    def newest(self) -> float:
        """The newest value; NaN where there is none."""
        return self.values[-1] if self.values else math.nan


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a mode went on.

    Attributes:
        steps: steps per second, those of the last seconds each.
        steady: the same over as much of the ten minutes as is known, else None.
        ended: how many of its episodes had ended.
    """

    steps: Curve = field(default_factory=Curve)
    steady: float | None = None
    ended: Curve = field(default_factory=Curve)


@dataclass(frozen=True, slots=True)
class Series:
    """One of a run's own series.

    Attributes:
        number: of the series in its run; it keeps it.
        spec: its metric, as it was declared.
        newest: a gauge's value, a counter's total, the mean of a histogram's newest.
        rate: a counter's per second, a histogram's observations; None of a gauge.
        changed: Unix seconds of its newest change, as far as it was seen.
        sure: whether that change was seen; else it was before.
        curve: a gauge's values, a counter's rate, a histogram's means.
    """

    number: int
    spec: wire.MetricSpec
    labels: tuple[tuple[str, str], ...]
    newest: float
    rate: float | None
    changed: float
    sure: bool
    curve: Curve


@dataclass(frozen=True, slots=True)
class Seen:
    """A run's last ten minutes, as of the point ``number``, taken at ``at``.

    ``since`` is the time of the first point that is kept, ``speeds`` are by mode; so
    many series ``more`` are not kept.
    """

    number: int
    since: float
    at: float
    speeds: Mapping[str, Speed]
    series: tuple[Series, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Look:
    """A run as it was under the state's lock, and what is to be made of it.

    ``at`` is when that was, ``told`` the time of its totals, ``stepped`` that of its
    steps (see :func:`lags`); ``ended`` counts the episodes that have, by mode.
    """

    at: float
    told: float
    stepped: float
    base: Base
    sources: Sequence[Contribution]
    ended: Mapping[str, int]


def lags(
    samples: Iterable[tuple[float, float, wire.Sample]], now: float, patience: float
) -> tuple[float, float]:
    """How old a run's totals are, and its steps, on the average of its live sources.

    A sample was true when it was made, not when it came, which on a busy machine is
    later by now more and now less. And the steps in it are those of the newest step
    that was taken: with its time a rate is right however seldom samples come. Where a
    source has not taken a step for longer than ``patience``, time goes on without it.

    Args:
        samples: the newest of each source: when it came, and when it was made, both by
            the clock that ``now`` is of.
        now: Unix seconds.
        patience: seconds.
    """
    told = stepped = 0.0
    number = 0
    for came, made, sample in samples:
        # Clocks differ by little; more than that was set meanwhile, and says nothing.
        late = min(max(came - made, -IDLE), IDLE)
        age = max(-IDLE, now - came)  # it may have come since
        taken = max(0.0, sample.sent - sample.progress) if sample.progress else 0.0
        told += min(age, IDLE) + late
        stepped += min(age + taken, patience) + late
        number += 1
    return (told / number, stepped / number) if number else (0.0, 0.0)


def per_second(
    times: Sequence[float], totals: Sequence[float], over: float
) -> "array[float]":
    """How much a total grew per second: since ``over`` seconds before, or the first.

    NaN where the total is NaN, and where less than a second is known.
    """
    return _slopes(times, times, totals, over)


def means(
    times: Sequence[float],
    counts: Sequence[float],
    sums: Sequence[float],
    over: float,
) -> "array[float]":
    """The mean of what was observed in the same time; NaN where nothing was."""
    return _slopes(times, counts, sums, over)


def _slopes(
    times: Sequence[float], by: Sequence[float], of: Sequence[float], over: float
) -> "array[float]":
    found = array("d", [math.nan]) * len(times)
    known = [place for place, value in enumerate(of) if value == value]
    base = 0
    for number, place in enumerate(known):
        while base + 1 < number and times[known[base + 1]] <= times[place] - over:
            base += 1
        start = known[base]
        span, more = by[place] - by[start], of[place] - of[start]
        if times[place] - times[start] >= 1.0 and span > 0.0:
            found[place] = more / span
    return found


def _ring() -> "array[float]":
    return array("d", [math.nan]) * POINTS


class Track:
    """One series, by the points of its history; NaN where it had no value.

    Of a histogram ``values`` are how many were observed, and ``sums`` their sums.
    """

    __slots__ = ("changed", "number", "seen", "sets", "spec", "sums", "sure", "values")

    def __init__(
        self, number: int, spec: wire.MetricSpec, at: float, sure: bool
    ) -> None:
        self.number = number
        self.spec = spec
        self.values = _ring()
        self.sums = _ring() if spec.type == "histogram" else None
        self.sets = 0.0
        self.changed, self.sure = at, sure
        self.seen = -1

    def put(self, point: int, value: float, more: float, at: float) -> None:
        """The value of a point; ``more`` is a gauge's number of sets, or the sum."""
        before = self.values[(point - 1) % POINTS]
        other = value != before and (value == value or before == before)
        if self.seen >= 0 and (other or more > self.sets):
            self.changed, self.sure = at, True
        self.values[point % POINTS] = value
        if self.sums is not None:
            self.sums[point % POINTS] = more
        else:
            self.sets = more
        self.seen = point

    def skip(self, point: int) -> None:
        """There is no value at this point, unless it is put."""
        self.values[point % POINTS] = math.nan
        if self.sums is not None:
            self.sums[point % POINTS] = math.nan


class History:
    """The points of one run.

    Attributes:
        points: how many were taken, those that are not kept any more among them.
        at: Unix seconds of the newest.
        over: when the run was found to have ended; None while it lives.
        rates: steps per second now, by mode.
        series: the run's own, by what they are called.
        more: how many there are that are not kept.
    """

    def __init__(self) -> None:
        self.points = 0
        self.at = 0.0
        self.over: float | None = None
        self.rates: Mapping[str, float] = {}
        self.series: dict[Key, Track] = {}
        self.more = 0
        self._made = 0
        self._at, self._told, self._stepped = _ring(), _ring(), _ring()
        self._steps: dict[str, array[float]] = {}
        self._ended: dict[str, array[float]] = {}

    def due(self, now: float) -> bool:
        """Whether it is time for the next point; also where the clock was set back."""
        pause = SECONDS if self.points >= YOUNG_POINTS else YOUNG_SECONDS
        return not 0.0 <= now - self.at < pause - 0.25

    @property
    def patience(self) -> float:
        """Seconds within which a source takes a step, as far as is known."""
        if not self.rates:
            return MOST_PATIENT
        rate = sum(self.rates.values())
        return min(MOST_PATIENT, max(IDLE, 3.0 / rate)) if rate > 0.0 else IDLE

    # --- taking a point --------------------------------------------------------------

    def put(
        self, look: Look, lines: Iterable[Line], sets: Mapping[Key, float], room: int
    ) -> None:
        """Take the next point.

        Args:
            look: the run.
            lines: its totals, merged.
            sets: how often each gauge was set.
            room: how many series more may be kept.
        """
        place = self.points % POINTS
        self.at = self._at[place] = look.at
        self._told[place], self._stepped[place] = look.told, look.stepped
        for ring in (*self._steps.values(), *self._ended.values()):
            ring[place] = math.nan
        for track in self.series.values():
            track.skip(self.points)
        self._put_modes(self._ended, look.ended)
        room, self.more = min(room, MAX_SERIES - len(self.series)), 0
        for line in lines:
            if line.spec.name == "steps":
                # Before its first step a mode had none, but nobody knows how long.
                steps = zip(line.keys, line.values, strict=True)
                by_mode = {_mode(key): value or math.nan for key, value in steps}
                self._put_modes(self._steps, by_mode)
            elif line.spec.name not in BUILT_IN:
                room -= self._put_line(line, sets, room)
        self.points += 1
        rates = {name: self._rate(ring) for name, ring in self._steps.items()}
        self.rates = {name: rate for name, rate in rates.items() if rate >= 0.0}
        for key in [k for k, t in self.series.items() if self.points - t.seen > POINTS]:
            del self.series[key]

    def _put_modes(
        self, rings: "dict[str, array[float]]", values: Mapping[str, float]
    ) -> None:
        for name, value in values.items():
            if name not in rings and len(rings) < MAX_MODES:
                rings[name] = _ring()
            if name in rings:
                rings[name][self.points % POINTS] = value

    def _put_line(self, line: Line, sets: Mapping[Key, float], room: int) -> int:
        """Put the series of one metric; how many of them are new."""
        new = 0
        for key, value, more in _flat(line, sets):
            track = self.series.get(key)
            if track is None:
                if new >= room:
                    self.more += 1
                    continue
                new += 1
                self._made += 1
                track = Track(self._made, line.spec, self.at, sure=self.points > 0)
                self.series[key] = track
            track.put(self.points, value, more, self.at)
        return new

    def _rate(self, totals: "array[float]") -> float:
        """Per second now, as :func:`per_second` says it of the newest point."""
        kept = min(self.points, POINTS)
        places = [(self.points - back) % POINTS for back in range(1, kept + 1)]
        last, newest = self._stepped[places[0]], totals[places[0]]
        found = math.nan
        for place in places[1:]:
            span = last - self._stepped[place]
            if totals[place] == totals[place] and span >= 1.0:
                found = (newest - totals[place]) / span
                if span >= STEPS_OVER:
                    break
        return found

    # --- what it says ----------------------------------------------------------------

    def seen(self) -> Seen:
        """What the points say."""
        at = self._ordered(self._at)
        first = next(n for n, time in enumerate(at) if time >= self.at - KEPT)
        return Seen(
            self.points,
            at[first],
            self.at,
            {name: self._speed(name, first) for name in {**self._steps, **self._ended}},
            tuple(self._series(key, one, first) for key, one in self.series.items()),
            self.more,
        )

    def _ordered(self, ring: "array[float]", first: int = 0) -> "array[float]":
        place = self.points % POINTS if self.points > POINTS else 0
        return (ring[place:] + ring[:place])[first : min(self.points, POINTS)]

    def _speed(self, mode: str, first: int) -> Speed:
        at, times = self._ordered(self._at, first), self._ordered(self._stepped, first)
        ended = self._ended.get(mode)
        counted = Curve(at, self._ordered(ended, first)) if ended else Curve()
        ring = self._steps.get(mode)
        if ring is None:
            return Speed(ended=counted)
        totals = self._ordered(ring, first)
        steady = per_second(times, totals, math.inf)[-1]
        return Speed(
            Curve(at, per_second(times, totals, STEPS_OVER)),
            steady if steady == steady else None,
            counted,
        )

    def _series(self, key: Key, track: Track, first: int) -> Series:
        kind, times = track.spec.type, self._ordered(self._told, first)
        values = self._ordered(track.values, first)
        newest, rate = values[-1], None
        shown: Sequence[float] = values
        if kind != "gauge":
            rates = per_second(times, values, OVER)
            rate = rates[-1] if rates[-1] == rates[-1] else None
            shown = rates
        if track.sums is not None:
            sums = self._ordered(track.sums, first)
            shown = means(times, values, sums, OVER)
            newest = next((m for m in reversed(shown) if m == m), math.nan)
        at = self._ordered(self._at, first)
        return Series(
            track.number, track.spec, key[1], newest, rate, track.changed, track.sure,
            Curve(at, shown),
        )  # fmt: skip


def _mode(key: Key) -> str:
    return dict(key[1]).get("mode", "")


def _flat(line: Line, sets: Mapping[Key, float]) -> Iterable[tuple[Key, float, float]]:
    """Each series with its value, and its number of sets or its sum."""
    for key, value in zip(line.keys, line.values, strict=True):
        if line.spec.type == "histogram":
            yield key, sum(value[:-1]), value[-1]
        elif line.spec.type == "counter":
            yield key, value, 0.0
        elif line.spec.merge == "per_source":
            for source, number in value:
                yield (key[0], (*key[1], ("source", source))), number, 0.0
        else:
            yield key, value, sets.get(key, 0.0)
