"""What is known of a run: its sources, its modes, what they came to, how it ended.

The model's nouns. They hold what is known, and say what follows from it. The writer's
thread alone changes them, under the lock of the :class:`~exporter.state.State` that
has them; everybody else reads them under that lock, and keeps no reference. Time is
passed in: nothing is read from a clock, a socket or a disk.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from experiment_hooks import wire
from exporter.merge import Base, Contribution, Schema
from exporter.ranges import Ranges

LOG_LINES = 1000
MAX_ENDS = 20
"""Episodes whose ends tell how fast it goes on."""
SKEW_SHOWN = 2.0
"""Seconds by which clocks may differ before times are shifted, and it is shown."""
ENDED_COUNTS_SECONDS = 60.0
"""How long an ended source's gauges still count as those of a live one."""
NO_SCHEMA = Schema()
"""Of a source that has declared nothing, or is folded."""


class Traced:
    """An episode by its trace, whose id is made when somebody asks: few are shown."""

    __slots__ = ("_episode", "_id")

    def __init__(self, episode: wire.EpisodeEnded) -> None:
        self._episode = episode.run, episode.source, episode.number
        self._id = ""

    @property
    def id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        if not self._id:
            self._id = wire.trace_id(*self._episode)
        return self._id


@dataclass(slots=True)
class Tally:
    """A histogram that the exporter itself counts; a bucket's newest exemplar."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    exemplars: dict[int, tuple[Traced, float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, trace: Traced | None = None, at: float = 0.0) -> None:
        """Count a value, with its trace; ``at`` is the exporter's clock."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        if value > 0.0:
            self.total += value
        if trace is not None:
            self.exemplars[bucket] = (trace, value, at)

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Counts up to each bound, as text, and the sum: prometheus_client's form."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True)), self.total


@dataclass(slots=True)
class Mode:
    """What a run's episodes of one mode came to."""

    durations: Tally
    steps: Tally
    started: int = 0
    successes: int = 0
    judged: bool = False
    lost: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    results: dict[str, deque[float]] = field(default_factory=dict)
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_ENDS))

    def ended_at(self, at: float) -> None:
        """An episode has ended then; what waited in a spool may come late."""
        if self.ends and at < self.ends[-1]:
            newest = sorted([*self.ends, at])[-MAX_ENDS:]
            self.ends.clear()
            self.ends.extend(newest)
        else:
            self.ends.append(at)

    @property
    def ended(self) -> int:
        """Episodes that have ended, under whatever outcome."""
        return sum(self.outcomes.values())

    @property
    def counts(self) -> bool:
        """Whether anything has been counted under it."""
        return bool(self.started or self.outcomes or self.lost)


@dataclass(slots=True)
class Closing:
    """How a run or a source ended."""

    ending: str
    reason: str
    error: wire.ErrorInfo | None
    at: float


class Source:
    """One process's part in a run."""

    def __init__(self, opened: wire.SourceOpened, at: float) -> None:
        self.id = opened.source
        self.asked = opened.run
        self.opened = opened
        self.opened_at = at
        self.last_at = at  # the newest that is known of it, by the exporter's clock
        self.closed: Closing | None = None
        self.lost_at: float | None = None
        self.folded = False
        self.schema = NO_SCHEMA
        self.schemas: list[wire.Schema] = []  # that came before what they go on from
        self.totals: tuple[float, ...] = ()
        self.sample: wire.Sample | None = None
        self.sampled_at = 0.0  # when that was true, by the exporter's clock
        self.skew = 0.0
        self.received = Ranges()
        self.announced = 0
        self.epochs: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.started: dict[int, wire.EpisodeStarted] = {}
        self.ended: Ranges = Ranges()
        self.lost_episodes: set[int] = set()

    @property
    def name(self) -> str:
        """Readable, and unique within a run as far as hosts and pids are."""
        return name_of(self.opened)

    @property
    def commands(self) -> tuple[str, ...]:
        """Names of the commands that it takes, as far as its newest sample tells."""
        return self.sample.commands if self.sample is not None else ()

    @property
    def missing(self) -> int:
        """Records announced that have not come (yet, while it lives)."""
        return max(0, self.announced - self.received.count)

    @property
    def steps(self) -> int:
        """How many steps it has taken, as far as its newest totals say."""
        return steps_of(self.schema, self.totals)

    def has_dropped(self, dropped: Mapping[str, int]) -> None:
        """So much it has dropped itself, by reason: that only grows."""
        for reason, number in dropped.items():
            self.dropped[reason] = max(number, self.dropped.get(reason, 0))

    def counts_as_live(self, now: float) -> bool:
        """Whether its gauges count in rules over live sources."""
        if self.lost_at is not None:
            return now - self.lost_at < ENDED_COUNTS_SECONDS
        return self.closed is None or now - self.closed.at < ENDED_COUNTS_SECONDS

    def shift(self, time: float) -> float:
        """A time of the source's clock, by the exporter's clock."""
        return time + self.skew


def name_of(opened: wire.SourceOpened) -> str:
    """A source's name; of one that does not say where it runs, its id."""
    if not opened.host and not opened.pid:
        return opened.source.hex()[:8]
    return f"{opened.host}:{opened.pid}"


def steps_of(schema: Schema, totals: tuple[float, ...]) -> int:
    """The steps that a source's totals say, of all modes."""
    found = sum(totals[at] for at in schema.steps if at < len(totals))
    return int(found) if math.isfinite(found) else 0


class Run:
    """One launch of an experiment."""

    def __init__(self, name: str, at: float) -> None:
        self.id = name
        self.opened: wire.RunOpened | None = None
        self.owner: bytes = b""
        self.started_at = at
        self.closed: Closing | None = None
        self.attempts = 0
        self.sources: dict[bytes, Source] = {}
        self.modes: dict[str, Mode] = {}
        self.base = Base()
        self.logs: deque[wire.LogLine] = deque(maxlen=LOG_LINES)
        self.log_count = 0
        # By the command's id, then by the source that answered; and which of them were
        # of an earlier attempt.
        self.commands: dict[str, dict[bytes, wire.CommandAnswered]] = {}
        self.earlier_commands: frozenset[str] = frozenset()
        self.last_record_at = at
        self.resumed_at = 0.0
        self.progress_at = 0.0

    def clock_is(self, now: float) -> None:
        """Nothing was made later than now: the clock may have been set back."""
        back = max(self.progress_at, self.resumed_at) - now
        if back > 0.0:  # which of the two was later stays as it is
            self.resumed_at -= back
            self.progress_at = max(0.0, self.progress_at - back)

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.opened.experiment if self.opened else ""

    def mode(self, name: str) -> Mode:
        """The mode of that name, made when new."""
        found = self.modes.get(name)
        if found is None:
            opened = self.opened
            found = self.modes[name] = Mode(
                Tally(
                    opened.episode_duration_buckets
                    if opened
                    else wire.EPISODE_DURATION_BUCKETS
                ),
                Tally(
                    opened.episode_steps_buckets
                    if opened
                    else wire.EPISODE_STEPS_BUCKETS
                ),
            )
        return found

    def judged(self, episode: wire.EpisodeEnded) -> bool | None:
        """Whether an episode is a success, as its source or else the run declared."""
        if episode.success is not None or self.opened is None:
            return episode.success
        successes = self.opened.success
        return None if successes is None else episode.outcome in successes

    def contributions(self, now: float) -> list[Contribution]:
        """The totals of the sources that are not folded into the base."""
        return [
            Contribution(one.name, one.schema, one.totals, one.counts_as_live(now))
            for one in self.sources.values()
            if not one.folded and one.totals
        ]

    def epochs(self) -> dict[str, int]:
        """The newest epoch by mode."""
        found: dict[str, int] = {}
        for source in self.sources.values():
            for mode, epoch in source.epochs.items():
                found[mode] = max(epoch, found.get(mode, epoch))
        return found
