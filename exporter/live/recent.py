"""Ten minutes of what live runs count: a value each five seconds, looked at or not.

Owner: a thread of its own (``recent``), the only one that adds to the histories; the
hub's and the requests' read them under the lock that is in here. It uses a twentieth of
a core at most, however many runs there are: then points come less often. The state's
lock is held while a run's values are copied, and what is costly, merging them, is done
without it. Nothing is written to disk: an exporter that starts has no history.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace

from exporter.live.tracks import KEPT, MOST_PATIENT, History, Look, Seen, lags
from exporter.merge import Key
from exporter.runs import Run
from exporter.state import State
from exporter.verdict import Rules, verdict

logger = logging.getLogger("exporter")

TICK = 1.0
REST = 20.0
"""What took t seconds is followed by a rest of so many times t."""
AT_ONCE = 0.005
"""Seconds of work before such a rest: others need the interpreter too."""
MAX_SERIES = 20_000
"""In all runs together; of one see ``tracks``."""
SEEN_KEPT = 16


class Recent:
    """The last ten minutes of the runs that live, and of those that just ended.

    Args:
        state: what is true.
        rules: of the verdict.
        clock: Unix seconds.
    """

    def __init__(
        self, state: State, rules: Rules, clock: Callable[[], float] = time.time
    ) -> None:
        self._state = state
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._histories: dict[str, History] = {}
        self._of: dict[str, weakref.ref[Run]] = {}  # whose history each is
        self._series = 0
        self._seen: dict[str, Seen] = {}
        # Runs that are over without having said so, by when they were heard last.
        self._over: dict[str, float] = {}
        self._failures = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="recent", daemon=True)

    # --- called by other threads -----------------------------------------------------

    def rates(self, run: str) -> Mapping[str, float]:
        """A live run's steps per second by mode, where they are known."""
        history = self._histories.get(run)
        return history.rates if history and history.over is None else {}

    def seen(self, run: str) -> Seen | None:
        """A run's last ten minutes; the same object until there is more."""
        with self._lock:
            history = self._histories.get(run)
            if history is None:
                self._seen.pop(run, None)
                return None
            found = self._seen.get(run)
            if found is None or found.number != history.points:
                self._seen.pop(run, None)  # the newest of them last
                found = self._seen[run] = history.seen()
                if len(self._seen) > SEEN_KEPT:
                    del self._seen[next(iter(self._seen))]
            return found

    def start(self) -> None:
        """Begin; the state has been restored."""
        self._thread.start()

    def close(self) -> None:
        """Stop; again: nothing."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    # --- the thread ------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Take a point of each run for which it is time, at once."""
        for run in self._due(now):
            self._take(run, now)

    def _serve(self) -> None:
        while not self._closed.wait(TICK):
            since = time.monotonic()
            for run in self._due(self._clock()):
                self._try(run)
                spent = time.monotonic() - since
                if spent >= AT_ONCE:
                    if self._closed.wait(REST * spent):
                        return
                    since = time.monotonic()

    def _try(self, run: Run) -> None:
        try:
            self._take(run, self._clock())
        except Exception:  # the other runs can be looked at all the same
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:  # the 1st, 2nd, 4th, ...
                logger.exception("run %r: nothing can be charted", run.id)

    def _due(self, now: float) -> list[Run]:
        """Runs of which to take a point; forgets those that are not kept any more."""
        with self._state.lock:
            runs = self._state.runs
            known = [runs[name] for name in self._histories if name in runs]
            live = [run for run in runs.values() if run.closed is None]
            if len(self._over) > len(runs):
                over = self._over.items()
                self._over = {name: at for name, at in over if name in runs}
        found = {run.id: run for run in (*known, *live)}
        for name, history in [*self._histories.items()]:
            late = history.over is not None and now - history.over > KEPT
            if late or name not in found:
                self._forget(name)
        return [run for run in found.values() if self._wanted(run, now)]

    def _forget(self, name: str) -> None:
        with self._lock:
            self._series -= len(self._histories.pop(name).series)
            self._seen.pop(name, None)
            self._of.pop(name, None)

    def _wanted(self, run: Run, now: float) -> bool:
        history = self._histories.get(run.id)
        if history is not None and history.over is None:
            return history.due(now)
        return run.closed is None and self._over.get(run.id) != run.last_record_at

    def _take(self, run: Run, now: float) -> None:
        history = self._histories.get(run.id)
        if history is not None and (now < history.at or self._of[run.id]() is not run):
            self._forget(run.id)  # the clock was set back; or that run was deleted
            history = None
        with self._state.lock:
            if self._state.runs.get(run.id) is not run:
                return
            judged = verdict(run, now, self._rules)
            if judged.ended:
                self._over[run.id] = run.last_record_at
                if history is None or history.over is not None:
                    return
            look = looked(run, now, history.patience if history else MOST_PATIENT)
        sets: dict[Key, float] = {}
        lines = look.base.merged(look.sources, sets=sets)
        if judged.ended_at is not None:  # a while ago: nothing was counted since
            told, stepped = (min(t, judged.ended_at) for t in (look.told, look.stepped))
            look = replace(look, told=told, stepped=stepped)
        with self._lock:
            if history is None:
                history = self._histories[run.id] = History()
                self._of[run.id] = weakref.ref(run)
            self._series -= len(history.series)
            history.put(look, lines, sets, MAX_SERIES - self._series)
            self._series += len(history.series)
            history.over = now if judged.ended else None


def looked(run: Run, now: float, patience: float) -> Look:
    """Copy what is to be known of a run; under the state's lock."""
    live = (
        (one.sampled_at, one.shift(one.sample.sent), one.sample)
        for one in run.sources.values()
        if one.sample is not None and one.closed is None and one.lost_at is None
    )
    told, stepped = lags(live, now, patience)
    return Look(
        now,
        now - told,
        now - stepped,
        run.base.copy(),
        run.contributions(now),
        {name: mode.ended for name, mode in run.modes.items()},
    )
