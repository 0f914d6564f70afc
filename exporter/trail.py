"""The trail of a source: the scores of the steps that were seen, for who comes late.

Values only, bounded; whoever has a trail guards it. A step's place is on an axis of its
own, along which steps count as they are and episodes follow each other after a gap.
"""

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from experiment_hooks import wire

MAX_GLIMPSES = 300
MAX_NAMES = 1000
GAP = 2
"""Places between the last step seen of an episode and the first of the next."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Which episode steps are of; ``begin`` is the place of the first that was seen."""

    number: int
    begin: int
    mode: str = ""
    index: int | None = None
    target: str | None = None


class Glimpse(NamedTuple):
    """A step that was seen: its place, its episode, and its scores by name."""

    place: int
    step: int
    visit: Visit
    names: tuple[str, ...]
    values: "array[float]"


class Trail:
    """The newest glimpses of one source.

    Attributes:
        size: bytes held, about.
    """

    def __init__(self) -> None:
        self._glimpses: deque[Glimpse] = deque()
        self.size = 0

    def add(self, moment: wire.Moment) -> None:
        """A step was seen; what is no later than the newest one takes its place."""
        if moment.episode is None or not moment.scores:
            return
        last = self._newest
        if last is None or last.visit.number != moment.episode:
            place = last.place + GAP if last else 0
            visit = Visit(
                moment.episode, place, moment.mode, moment.index, moment.target
            )
        else:
            visit, place = last.visit, last.place + max(0, moment.step - last.step)
            if place == last.place:
                self.size -= _size(self._glimpses.pop(), self._newest)
        names, values = _columns(moment.scores, last)
        glimpse = Glimpse(place, moment.step, visit, names, values)
        self.size += _size(glimpse, self._newest)
        self._glimpses.append(glimpse)
        while len(self._glimpses) > MAX_GLIMPSES:
            self.size -= _size(self._glimpses.popleft(), self._glimpses[0])

    def glimpses(self) -> tuple[Glimpse, ...]:
        """What was seen, the oldest first; none of it changes any more."""
        return tuple(self._glimpses)

    @property
    def _newest(self) -> Glimpse | None:
        return self._glimpses[-1] if self._glimpses else None


def _columns(
    scores: Mapping[str, float], last: Glimpse | None
) -> tuple[tuple[str, ...], "array[float]"]:
    """Names and values; the names are the last one's own, where they are the same."""
    names = tuple(islice(scores, MAX_NAMES))
    if last is not None and last.names == names:
        names = last.names
    return names, array("d", islice(scores.values(), MAX_NAMES))


def _size(glimpse: Glimpse, beside: Glimpse | None) -> int:
    """Bytes beyond those of the one beside it, whose names are mostly the same."""
    size = 200 + 8 * len(glimpse.values)
    if beside is not None and beside.names is glimpse.names:
        return size
    return size + sum(60 + len(name) for name in glimpse.names)
