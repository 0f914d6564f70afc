"""Totals of steps and phases: of one episode at one moment, of a mode's ended ones.

Values only. An episode makes a new :class:`Taken` on its own thread, which any thread
may read; :class:`ModeTotals` are the recorder's, and changed under its lock.
"""

from typing import Dict, List, Optional, Tuple


class Taken:
    """An episode's totals at one moment; replaced as a whole, never changed."""

    __slots__ = (
        "counts", "gap", "last", "last_step", "phase", "phases", "promise", "steps",
    )  # fmt: skip

    def __init__(
        self,
        steps: int,
        counts: Tuple[int, ...],
        last_step: float,
        last: float,
        gap: float,
        phases: Dict[str, Tuple[float, int]],
        phase: str,
        promise: Optional[float],
    ) -> None:
        self.steps = steps
        self.counts = counts
        self.last_step = last_step
        self.last = last
        self.gap = gap
        self.phases = phases
        self.phase = phase
        self.promise = promise

    def seconds(self, start: float) -> float:
        """The sum of all step durations: steps follow each other without a hole."""
        return self.last_step - start


class ModeTotals:
    """What the ended episodes of one mode have added up to.

    Added to in place, number by number: a signal handler that ends an episode of its
    own in the middle of it adds to the same, and nothing of that is overwritten.
    """

    __slots__ = ("counts", "phases", "seconds", "steps")

    def __init__(self, buckets: int) -> None:
        self.steps = 0
        self.counts = [0] * buckets
        self.seconds = 0.0
        self.phases: Dict[str, List[float]] = {}  # seconds, times

    def add(self, taken: Taken, start: float) -> None:
        """Add one episode's totals; ``start`` is where its first step began."""
        self.steps += taken.steps
        for bucket, count in enumerate(taken.counts):
            if count:
                self.counts[bucket] += count
        self.seconds += taken.seconds(start)
        for name, (seconds, times) in taken.phases.items():
            known = self.phases.setdefault(name, [0.0, 0])
            known[0] += seconds
            known[1] += times

    def copy(self) -> "ModeTotals":
        """A copy that can be added to."""
        other = ModeTotals(0)
        other.steps, other.seconds = self.steps, self.seconds
        other.counts = list(self.counts)
        other.phases = {name: list(known) for name, known in self.phases.items()}
        return other
