"""What one source has to tell: its totals, its newest moment, its unsent records.

Owns the source's id, its sequence, its schema and its outbox. Called from the
experiment's threads (under ``lock``, briefly) and from the sender (``sample``,
``take_records``, ``raise_flags``). Never does I/O; never holds more than its bounds.
What it complains of is logged when the lock is free: a logging handler may wait.

After a fork the child must not count for the parent. ``forked`` puts a :class:`Door` in
the place of every lock: the first call through it makes the child a source of its own.
No hook call pays for that.
"""

import itertools
import logging
import os
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from experiment_hooks import plain, wire
from experiment_hooks.episode import Episode
from experiment_hooks.errors import RunStopped
from experiment_hooks.metrics import NO_SERIES, Labelled, Series, make_series
from experiment_hooks.outbox import Outbox
from experiment_hooks.totals import Taken

logger = logging.getLogger("experiment_hooks")

MAX_OPEN_EPISODES = 1024
MAX_SERIES = 2000
MAX_METRICS = 2000
MAX_TOTALS = 32_000
"""Numbers in all series together: they have to fit into one record, the last."""
MAX_PHASES = 32
MAX_MODES = 16
MAX_SHOWN_EPISODES = 64
MAX_STREAMS = 64
MAX_STREAM_BYTES = 256 * 1024
MAX_PENDING_BYTES = 16 * 1024 * 1024
_MAX_COMPLAINTS = 200
_CHUNK_METRICS = 50
_CHUNK_SERIES = 500
_CHUNK_CHARACTERS = 64 * 1024

Make = Callable[..., wire.AnyRecord]
Ranges = Tuple[Tuple[int, int], ...]


class Door:
    """Stands where a lock was, until the first call of a forked child goes through."""

    __slots__ = ("_lock", "_open")

    def __init__(self, open_door: Callable[[], Any]) -> None:
        self._open = open_door
        self._lock: Any = None

    def __enter__(self) -> None:
        self._lock = self._open()
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def _is_owned(self) -> bool:
        return False


class Halt:
    """Stands where a metric's lock was, once a stop is due at any hook call.

    So no metric call has to ask whether one is.
    """

    __slots__ = ("_boundary",)

    def __init__(self, boundary: Callable[[str], None]) -> None:
        self._boundary = boundary

    def __enter__(self) -> None:
        self._boundary("now")

    def __exit__(self, *exc: object) -> None:
        pass


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


class BuiltIn(Series):
    """A series of our own: read out of the totals of its mode."""

    __slots__ = ("_read", "mode")

    def __init__(self, mode: str, read: Callable[[ModeTotals], List[float]]) -> None:
        super().__init__("", None, lambda reason, detail: None)
        self.mode = mode
        self._read = read

    def of(self, totals: ModeTotals) -> List[float]:
        """The totals of this series."""
        return self._read(totals)


class Recorder:
    """One source's part in one run.

    Args:
        run_id: the run's id.
        step_bounds: bounds of the histogram of step durations, in seconds.
        inline: there is no sender thread; hook calls send when due.
        max_bytes: bound of the unsent and unacknowledged records.
    """

    def __init__(
        self,
        run_id: str,
        *,
        step_bounds: Tuple[float, ...] = wire.STEP_DURATION_BUCKETS,
        inline: bool = False,
        max_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self.run_id = run_id
        self.step_bounds = step_bounds
        self.inline = inline
        self.lock: Any = threading.RLock()
        self.wake: Callable[[], None] = lambda: None
        self.inline_due: Callable[[], bool] = lambda: False
        self.pump: Callable[[], None] = lambda: None
        self.stop: Optional[wire.Command] = None
        self.watched = False
        self.success: Optional[Set[str]] = None
        self._max_bytes = max_bytes
        self._metrics: List[wire.MetricSpec] = []
        self._labelled: List[Labelled] = []
        self._untold: List[str] = []
        self._series: List[Tuple[wire.SeriesSpec, Series]] = []
        self._start_over()

    def _start_over(self) -> None:
        self.source = os.urandom(16)
        self.seq = 0
        self._seqs = itertools.count(1)
        self.closed = False
        self._outbox = Outbox(self._max_bytes, self.drop)
        self.dropped: Dict[str, int] = {}
        self._complaints: Set[str] = set()
        self.open: Dict[int, Episode] = {}
        self._numbers = itertools.count()
        self._indices: Dict[str, int] = {}
        self._modes: Dict[str, ModeTotals] = {}
        self._phase_names: Set[str] = set()
        self._builtin: Set[Tuple[str, str]] = set()
        self.epochs: Dict[str, int] = {}
        self._described = [0, 0]
        self._progress = (0.0, time.perf_counter())  # Unix seconds, monotonic
        self._gap = 0.0
        self._gaps = 0
        self._moment_wanted = True
        self.urgent = False  # an episode has failed, and its moment was not sent yet
        self._moments: Dict[bool, Tuple[wire.Moment, List[bytes]]] = {}
        self._streams: Dict[str, bytes] = {}
        # The series of our own go: a forked child may never use those modes.
        self._series = [pair for pair in self._series if not _is_builtin(pair)]
        for _, series in self._series:
            series._reset()
        own = (self._metrics[spec.metric] for spec, _ in self._series)
        self._width = sum(map(wire.slots, own))

    # --- fork ---------------------------------------------------------------------

    def forked(self, on_first_use: Callable[[], None]) -> None:
        """In a forked child: nothing counts until the first call, which starts over."""
        for episode in self.open.values():
            episode.disown()
        real = threading.RLock()

        def open_door() -> Any:
            with real:
                if isinstance(self.lock, Door):
                    self._set_lock(real)
                    self._start_over()
                    on_first_use()
            return real

        self._set_lock(Door(open_door))

    def _set_lock(self, lock: Any) -> None:
        self.lock = lock
        self._guard_series(lock)

    def _guard_series(self, lock: Any) -> None:
        for family in self._labelled:
            family._use_lock(lock)
        for _, series in self._series:
            series._use_lock(lock)

    # --- guarding the experiment --------------------------------------------------

    def guard(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call something of ours; a failure is counted, told once, and swallowed."""
        try:
            return call(*args)
        except RunStopped:
            raise
        except Exception as error:
            try:
                name = getattr(call, "__name__", "hook")
                self.drop("internal_error", f"{name}: {type(error).__name__}: {error}")
                logger.debug("episight: a hook failed", exc_info=True)
            except Exception:  # a logging handler of the user's raised, say
                pass
            return None
        finally:
            if self._untold:
                self.tell()

    def drop(self, reason: str, detail: str = "") -> None:
        """Count a drop under its reason; each detail is logged once."""
        with self.lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
            known = self._complaints
            if detail and detail not in known and len(known) < _MAX_COMPLAINTS:
                known.add(detail)
                self._untold.append(f"{detail} ({reason}; said once)")
        if self._untold:
            self.tell()

    def tell(self) -> None:
        """Log what was complained of; not yet, while this thread holds the lock.

        A logging handler may wait for a lock of its own; the thread that holds that one
        may be in there to record a line, and wait for ours.
        """
        if self.lock._is_owned():
            return
        while self._untold:
            try:
                logger.warning("episight: %s", self._untold.pop(0))
            except Exception:  # another thread was faster, or a user's handler raised
                pass

    def ask_stop(self, command: wire.Command) -> None:
        """A stop is asked for: it is raised at the boundary that it names."""
        with self.lock:
            self.stop = command
            if command.when == "now":
                self._guard_series(Halt(self.boundary))
        self.raise_flags()

    def boundary(self, at: str) -> None:
        """Raise :class:`RunStopped` if a stop was asked for that arrives here."""
        stop = self.stop
        if stop is not None and stop.when in (at, "now"):
            raise RunStopped(stop.reason, stop.by)

    def passed(self, at: str) -> None:
        """The end of a hook call: send what is due where no thread does, then stop.

        Raises:
            RunStopped: as for :meth:`boundary`.
        """
        if self.inline and self.inline_due():
            self.pump()
        self.boundary(at)

    # --- records ------------------------------------------------------------------

    def record(
        self,
        make: Make,
        at: float,
        rank: str = "essential",
        smaller: Optional[Make] = None,
    ) -> int:
        """Number a record, encode it, and put it into the outbox.

        Args:
            make: gives the record its sequence number and the other common fields.
            at: Unix seconds.
            rank: one of ``outbox.RANKS``: which goes first when there are too many.
            smaller: makes a smaller one, in case the first is too large.

        Returns:
            Its sequence number; 0 after the source's end, where nothing is recorded.
        """
        with self.lock:
            seq = 0 if self.closed else self._put(make, at, rank, smaller)
        if seq:
            self.wake()
        else:  # nobody would send it
            self.drop("closed", "something was told after the run's end")
        return seq

    def _put(
        self,
        make: Make,
        at: float,
        rank: str = "essential",
        smaller: Optional[Make] = None,
    ) -> int:
        # Not +=: a signal handler that records something, too, may come in between.
        self.seq = seq = next(self._seqs)
        base: Dict[str, Any] = {
            "run": self.run_id,
            "source": self.source,
            "seq": seq,
            "time": at,
        }
        data = self._encode(make, base)
        if data is None and smaller is not None:
            data = self._encode(smaller, base)
        if data is None:
            # The number is taken, so it is said that what it stood for will not come.
            gone = wire.GivenUp(ranges=((seq, seq),), reason="lost", **base)
            data = wire.encode(gone)
        self._outbox.put(rank, seq, data)
        return seq

    def _encode(self, make: Make, base: Dict[str, Any]) -> Optional[bytes]:
        try:
            data = wire.encode(make(**base))
        except wire.WireError as error:
            self.drop("unencodable", str(error))
            return None
        if len(data) > wire.MAX_RECORD_BYTES:
            self.drop("too_large", f"a record of {len(data)} bytes")
            return None
        return data

    def take_records(self, most: int, most_bytes: int) -> List[Tuple[int, bytes]]:
        """Move the oldest unsent records out of the outbox, for the sender.

        They count as held until :meth:`released`.
        """
        with self.lock:
            gone = self._outbox.gone()
            if gone:
                self._put(
                    lambda **base: wire.GivenUp(ranges=gone, reason="memory", **base),
                    time.time(),
                )
            return self._outbox.take(most, most_bytes)

    def released(self, size: int) -> None:
        """The exporter has committed records of ``size`` bytes."""
        with self.lock:
            self._outbox.held -= size

    def take_all(self) -> Dict[str, List[Tuple[int, bytes]]]:
        """Move all unsent records out of the outbox, by rank, for the spool.

        They count as held until :meth:`released`.
        """
        with self.lock:
            return self._outbox.take_all()

    def put_back(self, rank: str, records: Iterable[Tuple[int, bytes]]) -> None:
        """Records that were taken, and could not be sent or spooled, wait again."""
        with self.lock:
            self._outbox.put_back(rank, records)

    def gave_up(self, rank: str, count: int, ranges: Ranges) -> None:
        """The spool had no room for these: they are counted, and will be told of."""
        reason = "spool_log_lines" if rank == "log" else "spool_episodes"
        with self.lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            for first, last in ranges:
                self._outbox.forget(first, last)

    @property
    def unsent(self) -> int:
        """How many records wait in the outbox."""
        return self._outbox.count

    @property
    def crowded(self) -> bool:
        """Whether unsent records fill more than half of what they may."""
        return self._outbox.held > self._max_bytes // 2

    # --- episodes -----------------------------------------------------------------

    def start_episode(
        self,
        mode: str,
        epoch: Optional[int],
        index: Optional[int],
        target: Optional[str],
        seed: Optional[int],
    ) -> Optional[Episode]:
        """Open an episode; None when too many are open."""
        with self.lock:
            if self.closed or len(self.open) >= MAX_OPEN_EPISODES:
                self.drop("open_episodes", "too many are open, or the run is closed")
                return None
            mode = self.mode_name(mode)
            number = next(self._numbers)
            if index is None:
                index = self._indices.get(mode, 0)
            self._indices[mode] = index + 1
            if epoch is not None:
                self.epochs[mode] = epoch
            episode = Episode(self, number, mode, epoch, index, target, seed)
            self._note_progress(episode.started, episode.start)
            self.open[number] = episode
            self.record(
                lambda **base: wire.EpisodeStarted(
                    number=number, mode=mode, epoch=epoch, index=index,
                    target=target, seed=seed, **base,
                ),
                episode.started,
                "start",
            )  # fmt: skip
        self.wake()  # again: with the lock held, a run without a thread sends nothing
        return episode

    def episode_ended(
        self, episode: Episode, now: float, outcome: str, failed: bool
    ) -> None:
        """Fold an episode into its mode's totals and tell its end; its own thread."""
        if episode.thread == threading.get_ident():  # else its state is not to be read
            if failed and not self.urgent:
                self._moment_wanted = True
            self.guard(self._take_moment, episode, now)
            # Before its record: the exporter keeps with it what it has seen by then.
            self.urgent = self.urgent or failed
        with self.lock:
            if self.open.pop(episode.number, None) is None:
                return
            success = None
            if self.success is not None:
                success = outcome in self.success
            self._totals(episode.mode).add(episode.taken, episode.start)
            self._gap = max(self._gap, episode.taken.gap)
            self._gaps += episode.taken.steps + 1
            # No gap since the start of the episode: it has measured its own.
            self._progress = (episode.wall(now), now)
            self.record(
                episode.ended(now, outcome, success),
                episode.wall(now),
                "end",
                smaller=episode.ended(now, outcome, success, bare=True),
            )
        self.wake()

    def mode_name(self, mode: str) -> str:
        """The mode, or ``other`` when there are too many."""
        if mode not in self._modes and len(self._modes) >= MAX_MODES:
            self.drop("modes", f"more than {MAX_MODES} modes; the rest is 'other'")
            mode = "other"
        with self.lock:
            self._totals(mode)
        return mode

    def phase_name(self, name: object) -> str:
        """The phase's name as text, or ``other`` when there are too many."""
        text = plain.text(name, 100)
        if text not in self._phase_names:
            if len(self._phase_names) >= MAX_PHASES:
                self.drop("phases", f"more than {MAX_PHASES}; the rest is 'other'")
                return "other"
            self._phase_names.add(text)
        return text

    def progress(self) -> None:
        """A loop without episodes has moved on."""
        with self.lock:
            self._note_progress(time.time(), time.perf_counter())

    def _note_progress(self, wall: float, now: float) -> None:
        if self._progress[0] and not self.open:
            self._gap = max(self._gap, now - self._progress[1])
        self._gaps += 1
        self._progress = (wall, now)

    def use_step_bounds(self, bounds: Tuple[float, ...]) -> None:
        """Other bounds of the histogram of step durations; too late after a step."""
        with self.lock:
            if self._modes and bounds != self.step_bounds:
                self.drop("usage", "buckets['step_duration'] come after an episode")
                return
            self.step_bounds = bounds

    # --- series -------------------------------------------------------------------

    def define(self, spec: wire.MetricSpec) -> Series:
        """A new metric: with labels one that makes series, without them its one."""
        with self.lock:
            if len(self._metrics) >= MAX_METRICS:
                self.drop("series", f"over {MAX_METRICS} metrics, at {spec.name!r}")
                return NO_SERIES
            self._metrics.append(spec)
            number = len(self._metrics) - 1
            if not spec.labels:
                return self._add_series(number, ())

            def make(values: Tuple[str, ...]) -> Series:
                return self._add_series(number, values)

            family = Labelled(spec, self.lock, self.drop, make)
            self._labelled.append(family)
        return family

    def _add_series(self, metric: int, values: Tuple[str, ...]) -> Series:
        spec = self._metrics[metric]
        with self.lock:
            width = self._width + wire.slots(spec)
            if len(self._series) >= MAX_SERIES or width > MAX_TOTALS:
                self.drop("series", f"over {MAX_SERIES} series, at {spec.name!r}")
                return NO_SERIES
            self._width = width
            series = make_series(spec, self.lock, self.drop)
            self._series.append((wire.SeriesSpec(metric, values), series))
        return series

    def _totals(self, mode: str) -> ModeTotals:
        totals = self._modes.get(mode)
        if totals is None:
            totals = self._modes[mode] = ModeTotals(len(self.step_bounds) + 1)
            self._define_mode(mode)
        return totals

    def _define_mode(self, mode: str) -> None:
        self._build(
            wire.MetricSpec("steps", "counter", labels=("mode",)),
            (mode,),
            lambda totals: [totals.steps],
        )
        self._build(
            wire.MetricSpec(
                "step_duration_seconds",
                "histogram",
                labels=("mode",),
                buckets=self.step_bounds,
            ),
            (mode,),
            lambda totals: [*totals.counts, totals.seconds],
        )

    def _define_phase(self, mode: str, phase: str) -> None:
        if (mode, phase) in self._builtin:
            return
        self._builtin.add((mode, phase))
        labels = ("mode", "phase")
        self._build(
            wire.MetricSpec("phase_seconds", "counter", labels=labels),
            (mode, phase),
            lambda totals: [totals.phases.get(phase, (0.0, 0))[0]],
        )
        self._build(
            wire.MetricSpec("phases", "counter", labels=labels),
            (mode, phase),
            lambda totals: [totals.phases.get(phase, (0.0, 0))[1]],
        )

    def _build(
        self,
        spec: wire.MetricSpec,
        values: Tuple[str, ...],
        read: Callable[[ModeTotals], List[float]],
    ) -> None:
        if spec not in self._metrics:
            self._metrics.append(spec)
        metric = self._metrics.index(spec)
        series = BuiltIn(values[0], read)
        self._width += wire.slots(spec)
        self._series.append((wire.SeriesSpec(metric, values), series))

    def _describe(self) -> None:
        """Tell what is new in the schema, before totals that need it."""
        while self._described != [len(self._metrics), len(self._series)]:
            first_metric, first_series = self._described
            metrics = tuple(self._metrics[first_metric : first_metric + _CHUNK_METRICS])
            known = first_metric + len(metrics)
            # A series comes with its metric, or after it.
            series = self._chunk(first_series) if known == len(self._metrics) else ()
            self._put(_schema(first_metric, first_series, metrics, series), time.time())
            self._described = [known, first_series + len(series)]
            self.wake()

    def _chunk(self, first: int) -> Tuple[wire.SeriesSpec, ...]:
        """Some series from ``first`` on, as many as go well into one record."""
        chunk: List[wire.SeriesSpec] = []
        size = 0
        for spec, _ in self._series[first : first + _CHUNK_SERIES]:
            size += sum(map(len, spec.values))
            if chunk and size > _CHUNK_CHARACTERS:
                break
            chunk.append(spec)
        return tuple(chunk)

    # --- samples ------------------------------------------------------------------

    def raise_flags(self) -> None:
        """Ask the experiment's threads to take themselves at their next call."""
        with self.lock:
            self._moment_wanted = True
            for episode in self.open.values():
                episode.raise_due()

    def taken(self, episode: Episode, now: float) -> None:
        """An episode has taken its totals; its moment too, if it is the oldest open."""
        if self._moment_wanted:
            with self.lock:
                oldest = next(iter(self.open.values()), None)
            if oldest is episode:
                self._take_moment(episode, now)
        if self.inline:
            self.pump()

    def _take_moment(self, episode: Episode, now: float) -> None:
        if self._moment_wanted:
            self._moment_wanted = False
            moment = episode.moment(now, images=self.watched)
            with self.lock:
                self._moments[True] = moment

    def state(self, value: Any) -> None:
        """The run's own state, taken now if a sample was asked for since the last."""
        self.progress()
        with self.lock:
            if False in self._moments:
                return
        moment = wire.Moment(time=time.time(), state=plain.take(value))
        with self.lock:
            self._moments[False] = (moment, [])

    def stream(self, name: Any, value: Any) -> None:
        """A named data stream's newest value; only while somebody watches."""
        if not self.watched:
            return
        name = plain.text(name, 100)
        if name in self._streams:
            return
        data = plain.take(value)
        with self.lock:
            size = sum(map(len, self._streams.values())) + len(data)
            if len(self._streams) < MAX_STREAMS and size <= MAX_STREAM_BYTES:
                self._streams[name] = data
                return
        self.drop("streams", f"too many data streams, or too large: at {name!r}")

    def sample(self, number: int, sent: float) -> Tuple[wire.Sample, List[bytes]]:
        """The totals and the newest moment, and the moment's image parts."""
        with self.lock:
            self.urgent = False
            totals = self.totals()
            moments, parts = _joined(list(self._moments.values()))
            streams, self._streams, self._moments = self._streams, {}, {}
            taken = [(episode, episode.taken) for episode in self.open.values()]
            last = max([self._progress[1], *(one.last for _, one in taken)])
            # As the clock is now: it may have been set, or the machine may have slept,
            # since the episode's start, and then its own times are of before.
            to_wall = time.time() - time.perf_counter()
            sample = wire.Sample(
                number=number,
                sent=sent,
                announced=self.seq,
                totals=totals,
                progress=to_wall + last if self._progress[0] else 0.0,
                gap=max([self._gap, *(one.gap for _, one in taken)]),
                gaps=self._gaps + sum(one.steps for _, one in taken),
                promise=taken[0][1].promise if taken else None,
                open=tuple(
                    _shown(*pair, to_wall) for pair in taken[:MAX_SHOWN_EPISODES]
                ),
                epochs=dict(self.epochs),
                moments=moments,
                streams=streams,
                dropped=dict(self.dropped),
            )
        return sample, parts

    def totals(self) -> bytes:
        """All totals, as :class:`wire.Sample` carries them; tells the schema first."""
        with self.lock:
            modes = {mode: totals.copy() for mode, totals in self._modes.items()}
            for episode in self.open.values():
                modes[episode.mode].add(episode.taken, episode.start)
            for mode, totals in modes.items():
                for phase in totals.phases:
                    self._define_phase(mode, phase)
            self._describe()
            values: List[float] = []
            for _, series in self._series:
                if isinstance(series, BuiltIn):
                    values += series.of(modes[series.mode])
                else:
                    values += series.read()
        return wire.pack_totals(values)

    def log(
        self, level: str, message: str, name: str, fields: Dict[str, Any], at: float
    ) -> None:
        """A log line, with the trace id of this thread's open episode."""
        trace = self._trace_of_thread()
        self.record(
            lambda **base: wire.LogLine(
                level=level, message=message, logger=name, fields=fields,
                trace=trace, **base,
            ),
            at,
            "log",
        )  # fmt: skip

    def _trace_of_thread(self) -> str:
        thread = threading.get_ident()
        with self.lock:
            for episode in reversed(list(self.open.values())):
                if episode.thread == thread:
                    return episode.trace_id
        return ""

    def abandon_episodes(
        self, outcome: str = "ended", error: Optional[wire.ErrorInfo] = None
    ) -> None:
        """The run closes: what is open and has no outcome yet ends with this one."""
        with self.lock:
            left = list(self.open.values())
        for episode in left:
            self.guard(episode.abandon, outcome, error)

    def mute(self) -> None:
        """There is no line any more, or not yet."""
        self.wake = self.pump = lambda: None
        self.inline_due = lambda: False
        if self.stop is not None:
            self.stop = None
            self._guard_series(self.lock)

    def close(self, ending: str, reason: str, error: Optional[wire.ErrorInfo]) -> None:
        """The source's last record, with its final totals."""
        with self.lock:
            if self.closed:
                return
            totals = self.totals()
            epochs, dropped = dict(self.epochs), dict(self.dropped)
            self.record(
                lambda **base: wire.SourceClosed(
                    ending=ending, reason=reason, error=error, totals=totals,
                    epochs=epochs, dropped=dropped, **base,
                ),
                time.time(),
            )  # fmt: skip
            self.closed = True


def _is_builtin(pair: Tuple[wire.SeriesSpec, Series]) -> bool:
    return isinstance(pair[1], BuiltIn)


def _schema(
    first_metric: int,
    first_series: int,
    metrics: Tuple[wire.MetricSpec, ...],
    series: Tuple[wire.SeriesSpec, ...],
) -> Make:
    return lambda **base: wire.Schema(
        first_metric=first_metric,
        first_series=first_series,
        metrics=metrics,
        series=series,
        **base,
    )


def _shown(episode: Episode, taken: Taken, to_wall: float) -> wire.OpenEpisode:
    return wire.OpenEpisode(
        number=episode.number,
        mode=episode.mode,
        steps=taken.steps,
        started=episode.started,
        last=to_wall + taken.last,
        phase=taken.phase,
        epoch=episode.epoch,
        index=episode.index,
        target=episode.target,
    )


def _joined(
    moments: List[Tuple[wire.Moment, List[bytes]]],
) -> Tuple[Tuple[wire.Moment, ...], List[bytes]]:
    """The moments, and their images' bytes: only an episode's moment has any."""
    parts = [part for _, found in moments for part in found]
    return tuple(moment for moment, _ in moments), parts
