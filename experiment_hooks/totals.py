"""Totals of steps and phases: of one episode, at one moment.

Values only. An episode makes a new :class:`Taken` on its own thread; any thread may
read it.
"""

from typing import Dict, Optional, Tuple


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
