"""What one source has to tell: its totals, its newest moment, its unsent records.

Owns the source's id, its catalogue of metrics and its outbox. Called from the
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

import msgspec

from experiment_hooks import plain, wire
from experiment_hooks.catalogue import Catalogue
from experiment_hooks.doors import Door, Halt
from experiment_hooks.episode import Episode
from experiment_hooks.errors import RunStopped
from experiment_hooks.metrics import Series
from experiment_hooks.outbox import Make, Outbox
from experiment_hooks.totals import Taken

logger = logging.getLogger("experiment_hooks")

MAX_OPEN_EPISODES = 1024
MAX_PHASES = 32
MAX_SHOWN_EPISODES = 64
MAX_STREAMS = 64
MAX_STREAM_BYTES = 256 * 1024
MAX_PENDING_BYTES = 16 * 1024 * 1024
_MAX_COMPLAINTS = 200

Ranges = Tuple[Tuple[int, int], ...]

_SPOOLED = {"log": "spool_log_lines", "old": "spool_old"}
"""Why records of a rank are dropped that were on disk; else they are of episodes."""


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
        self.inline = inline
        self.lock: Any = threading.RLock()
        self.wake: Callable[[], None] = lambda: None
        self.inline_due: Callable[[], bool] = lambda: False
        self.pump: Callable[[], None] = lambda: None
        self.stop: Optional[wire.Command] = None
        self.stopping: Callable[[], None] = lambda: None
        self.taken_commands: Callable[[], Tuple[str, ...]] = tuple
        self.watched = False
        self.success: Optional[Set[str]] = None
        self._max_bytes = max_bytes
        self._untold: List[str] = []
        self._catalogue = Catalogue(step_bounds, self.lock, self.drop)
        self._start_over()

    def _start_over(self) -> None:
        self.source = os.urandom(16)
        self.closed = False
        self._outbox = Outbox(self.run_id, self.source, self._max_bytes, self.drop)
        self.dropped: Dict[str, int] = {}
        self._complaints: Set[str] = set()
        self.open: Dict[int, Episode] = {}
        self._numbers = itertools.count()
        self._indices: Dict[str, int] = {}
        self._phase_names: Set[str] = set()
        self.epochs: Dict[str, int] = {}
        self._progress = (0.0, time.perf_counter())  # Unix seconds, monotonic
        self._gap = 0.0
        self._gaps = 0
        self._moment_wanted = True
        self.urgent = False  # an episode has failed, and its moment was not sent yet
        self._moments: Dict[bool, Tuple[wire.Moment, List[bytes]]] = {}
        self._streams: Dict[str, bytes] = {}

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
                    self._catalogue.start_over()
                    on_first_use()
            return real

        self._set_lock(Door(open_door))

    def _set_lock(self, lock: Any) -> None:
        self.lock = lock
        self._catalogue.use_lock(lock)

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
                self._catalogue.guard(Halt(self.boundary))
        self.raise_flags()

    def boundary(self, at: str) -> None:
        """Raise :class:`RunStopped` if a stop was asked for that arrives here."""
        stop = self.stop
        if stop is not None and stop.when in (at, "now"):
            self.guard(self.stopping)
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
        """Have a record sent, see :meth:`Outbox.record`.

        Returns:
            Its sequence number; 0 after the source's end, where nothing is recorded.
        """
        with self.lock:
            seq = 0 if self.closed else self._outbox.record(make, at, rank, smaller)
        if seq:
            self.wake()
        else:  # nobody would send it
            self.drop("closed", "something was told after the run's end")
        return seq

    def take_records(self, most: int, most_bytes: int) -> List[Tuple[int, bytes]]:
        """Move the oldest unsent records out of the outbox, for the sender.

        They count as held until :meth:`released`.
        """
        with self.lock:
            gone = self._outbox.gone()
            if gone:
                self._outbox.record(
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
        reason = _SPOOLED.get(rank, "spool_episodes")
        with self.lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            for first, last in ranges:
                self._outbox.forget(first, last)

    @property
    def seq(self) -> int:
        """The number of the newest record; 0 before the first."""
        return self._outbox.seq

    @property
    def unsent(self) -> int:
        """How many records wait in the outbox."""
        return self._outbox.count

    @property
    def held(self) -> int:
        """Bytes of the records that are not acknowledged, nor on disk."""
        return self._outbox.held

    @property
    def crowded(self) -> bool:
        """Whether those fill more than half of what they may."""
        return self.held > self._max_bytes // 2

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
            mode = self._catalogue.mode(mode)
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
            self._catalogue.add(episode.mode, episode.taken, episode.start)
            self._gap = max(self._gap, episode.taken.gap)
            self._gaps += episode.taken.steps + 1
            # No gap since the start of the episode: it has measured its own.
            self._progress = (episode.wall(now), now)
            self.record(
                lambda **base: episode.ended(base, now, outcome, success),
                episode.wall(now),
                "end",
                smaller=lambda **base: episode.ended(base, now, outcome, success, True),
            )
        self.wake()

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

    # --- metrics ------------------------------------------------------------------

    @property
    def step_bounds(self) -> Tuple[float, ...]:
        """Bounds of the histogram of step durations, in seconds."""
        return self._catalogue.step_bounds

    def use_step_bounds(self, bounds: Tuple[float, ...]) -> None:
        """Other bounds of the histogram of step durations; too late after a step."""
        with self.lock:
            self._catalogue.use_step_bounds(bounds)

    def define(self, spec: wire.MetricSpec) -> Series:
        """A new metric: with labels one that makes series, without them its one."""
        with self.lock:
            return self._catalogue.define(spec)

    # --- samples ------------------------------------------------------------------

    def watch(self, on: bool) -> None:
        """Whether a person looks; what is made only for one is not kept for later."""
        if self.watched and not on:
            with self.lock:
                self._streams = {}
                self._moments = {
                    of_episode: (msgspec.structs.replace(moment, images=()), [])
                    for of_episode, (moment, _) in self._moments.items()
                }
        self.watched = on

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
                commands=self.taken_commands(),
            )
        return sample, parts

    def totals(self) -> bytes:
        """All totals, as :class:`wire.Sample` carries them; tells the schema first."""
        with self.lock:
            modes = self._catalogue.modes(self.open.values())
            for schema in self._catalogue.untold():
                self._outbox.record(schema, time.time())
                self.wake()
            values = self._catalogue.read(modes)
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
            self._catalogue.use_lock(self.lock)

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
