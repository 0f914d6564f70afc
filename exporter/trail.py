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
        last = self._glimpses[-1] if self._glimpses else None
        if last is None or last.visit.number != moment.episode:
            place = last.place + GAP if last else 0
            visit = Visit(
                moment.episode, place, moment.mode, moment.index, moment.target
            )
        else:
            visit, place = last.visit, last.place + max(0, moment.step - last.step)
            if place == last.place:
                self._drop(self._glimpses.pop())
        names, values = _columns(moment.scores, last)
        self._glimpses.append(Glimpse(place, moment.step, visit, names, values))
        self.size += _size(values)
        while len(self._glimpses) > MAX_GLIMPSES:
            self._drop(self._glimpses.popleft())

    def glimpses(self) -> tuple[Glimpse, ...]:
        """What was seen, the oldest first; none of it changes any more."""
        return tuple(self._glimpses)

    def _drop(self, glimpse: Glimpse) -> None:
        self.size -= _size(glimpse.values)


def _columns(
    scores: Mapping[str, float], last: Glimpse | None
) -> tuple[tuple[str, ...], "array[float]"]:
    """Names and values; the names are the last one's own, where they are the same."""
    names = tuple(islice(scores, MAX_NAMES))
    if last is not None and last.names == names:
        names = last.names
    return names, array("d", islice(scores.values(), MAX_NAMES))


def _size(values: "array[float]") -> int:
    # The names are mostly shared with those before.
    return 200 + 8 * len(values)
