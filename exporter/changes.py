"""Which verdicts have changed since somebody last looked, and from what to what.

Each who wants to know has a :class:`Changes` of its own, and asks on its own thread.
Reads the state under its lock, run by run. What ended and takes no new turn is not
looked at: the cost is that of the runs that go on.
"""

from typing import NamedTuple

from exporter.runs import Run
from exporter.state import State
from exporter.verdict import Rules, Verdict, verdict

LATELY = 10.0
"""Seconds within which a process was heard that is known to be there."""


class Change(NamedTuple):
    """A run's verdict that is another one than before.

    ``before`` is empty for a run whose verdict was not known until now; ``last`` is the
    newest that is known of the run, Unix seconds.
    """

    run: str
    experiment: str
    before: str
    verdict: Verdict
    last: float


class Changes:
    """Remembers the verdict on every run; one thread at a time.

    A run that has ended by now is known without a word. One that goes on is not, until
    one of its processes was heard from now on: until then nobody can tell whether it
    stands still or only has not been heard, for instance since the exporter was away.

    Args:
        state: whose runs they are.
        rules: of the verdict.
        now: Unix seconds, the beginning.
    """

    def __init__(self, state: State, rules: Rules, now: float) -> None:
        self._state = state
        self._rules = rules
        self._since = now
        self._known: dict[str, str] = {}
        self._going_on: set[str] = set()
        with state.lock:
            self._turn, found = state.turned_since(0)
        self._going_on.update(found)
        for name in found:
            self._judge(name, now)

    def look(self, now: float) -> list[Change]:
        """What has changed since the last call, or the beginning."""
        with self._state.lock:
            self._turn, turned = self._state.turned_since(self._turn)
            runs = len(self._state.runs)
        self._going_on.update(turned)
        found = [self._judge(name, now) for name in [*self._going_on]]
        if len(self._known) > 2 * runs + 100:  # of runs that are deleted
            self._known = {
                name: state
                for name, state in self._known.items()
                if name in self._state.runs
            }
        return [change for change in found if change is not None]

    def _judge(self, name: str, now: float) -> Change | None:
        before = self._known.get(name, "")
        with self._state.lock:
            run = self._state.runs.get(name)
            if run is None:  # deleted
                self._going_on.discard(name)
                return None
            found = verdict(run, now, self._rules)
            known = bool(before) or found.ended or self._heard(run, now)
            last = max(run.last_record_at, run.progress_at)
            experiment = run.experiment
        if found.ended:
            self._going_on.discard(name)
        if found.state == before or not known:
            return None
        self._known[name] = found.state
        return Change(name, experiment, before, found, last)

    def _heard(self, run: Run, now: float) -> bool:
        """Whether one of its processes lives for sure, and is not only told of."""
        since = max(self._since, now - LATELY)
        return any(
            one.closed is None and one.lost_at is None and one.last_at >= since
            for one in run.sources.values()
        )
