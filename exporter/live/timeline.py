"""What happened when in an episode, as bars that need no script.

Pure: an episode as ``views.whole_episode`` says it, to percents of its time. Whatever
was said is drawn within bounds: times that no clock could tell lie inside the episode,
what is too near to be told apart is one bar, and there are as many lanes and rows as a
person looks at.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from exporter.live import words

Json = dict[str, Any]

MAX_LANES = 16
NEAR = 0.25
"""Percent of the episode's time: no bar is shorter, and no gap between two."""
PHASES_LISTED = 200
STEPS_LISTED = 100
EVENTS_LISTED = 128

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Stretch:
    """A bar in a lane, in percent of the episode's time, and what it says."""

    start: float
    width: float
    says: str


@dataclass(frozen=True)
class Lane:
    """All that bears one name: ``seconds`` in all, and the share of the episode."""

    name: str
    kind: str
    count: int
    seconds: float | None
    bars: Sequence[Stretch]


@dataclass(frozen=True)
class Timeline:
    """Lanes over the time of an episode.

    Attributes:
        duration: seconds from its left to its right end.
        lanes: phases, by the time spent in them, then sampled steps, then events.
        more: phases by another name, of which there were too many.
        idle: seconds in no phase; None where not all phases are known, or none was.
    """

    duration: float
    lanes: Sequence[Lane] = ()
    more: int = 0
    idle: float | None = None


def timeline(episode: Json) -> Timeline:
    """The lanes of an ended episode."""
    duration = _seconds(episode["duration_seconds"])
    axis = _Axis(duration)
    named: dict[str, list[Json]] = {}
    for phase in episode["phases"]:
        named.setdefault(phase["name"], []).append(phase)
    lanes = [axis.lane(name, "phase", spans) for name, spans in named.items()]
    lanes.sort(key=lambda lane: -(lane.seconds or 0.0))
    more = len(lanes) - MAX_LANES
    lanes = lanes[:MAX_LANES]
    if episode["sampled"]:
        lanes.append(axis.lane("steps looked at", "steps", episode["sampled"]))
    if episode["events"]:
        lanes.append(axis.events(episode["events"]))
    whole = named and not episode["omitted"].get("phases")
    idle = axis.idle(episode["phases"]) if whole else None
    return Timeline(duration, lanes, max(0, more), idle)


class _Axis:
    """The time of an episode; what is said to lie outside of it lies at its ends."""

    def __init__(self, duration: float) -> None:
        self._duration = duration

    def lane(self, name: str, kind: str, spans: Sequence[Json]) -> Lane:
        lengths = [_seconds(span["duration_seconds"]) for span in spans]
        seconds = sum(lengths) if kind == "phase" else None
        return Lane(name, kind, len(spans), seconds, self._bars(spans))

    def events(self, events: Sequence[Json]) -> Lane:
        marks = [
            Stretch(
                min(self._place(event["at"]), 100.0 - NEAR),
                NEAR,
                f"{words.duration(_seconds(event['at']))}: {words.cut(event['name'])}",
            )
            for event in thinned(events, EVENTS_LISTED)[0]
        ]
        return Lane("events", "events", len(events), None, marks)

    def idle(self, spans: Iterable[Json]) -> float:
        """Seconds that none of the spans covers."""
        covered, reached = 0.0, 0.0
        for start, end in sorted(map(self._within, spans)):
            covered += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return max(0.0, self._duration - covered)

    def _bars(self, spans: Iterable[Json]) -> list[Stretch]:
        """One for each, but for those that could not be told apart."""
        joined: list[tuple[float, float, int]] = []
        near = NEAR * self._duration / 100.0
        for start, end in sorted(map(self._within, spans)):
            if joined and start - joined[-1][1] <= near:
                first, last, number = joined[-1]
                joined[-1] = first, max(last, end), number + 1
            else:
                joined.append((start, end, 1))
        return [self._bar(*one) for one in joined]

    def _bar(self, start: float, end: float, number: int) -> Stretch:
        says = f"{words.duration(start)} to {words.duration(end)}"
        if number > 1:
            says += f", {words.count(number)} times"
        width = max(NEAR, self._place(end) - self._place(start))
        return Stretch(min(self._place(start), 100.0 - width), width, says)

    def _within(self, span: Json) -> tuple[float, float]:
        start = min(_seconds(span["start"]), self._duration)
        return start, min(start + _seconds(span["duration_seconds"]), self._duration)

    def _place(self, seconds: float) -> float:
        if not self._duration:
            return 0.0
        return 100.0 * (min(_seconds(seconds), self._duration) / self._duration)


def _seconds(value: float | None) -> float:
    """A span of time; none, where what was said is no such."""
    return max(0.0, value) if value is not None and math.isfinite(value) else 0.0


# --- lists ----------------------------------------------------------------------------


def in_order(phases: Sequence[Json]) -> tuple[list[Json], int]:
    """The first phases as they began, and how many are left out."""
    found = sorted(phases, key=lambda phase: _seconds(phase["start"]))
    return found[:PHASES_LISTED], max(0, len(found) - PHASES_LISTED)


def top(scores: Mapping[str, float]) -> tuple[str, float] | None:
    """The highest score and its name; None where there is none."""
    found = [one for one in scores.items() if one[1] == one[1]]
    return max(found, key=lambda one: one[1]) if found else None


def thinned(items: Sequence[_Item], most: int) -> tuple[list[_Item], int]:
    """At most so many, spread evenly, and how many are left out."""
    if len(items) <= most:
        return [*items], 0
    chosen = [items[place * len(items) // most] for place in range(most)]
    return chosen, len(items) - most
