"""The list of runs as a scene: which runs, under which filter; see ``scene``."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter import views
from exporter.live import view
from exporter.live.scene import Pace, Parts
from exporter.live.view import Shown
from exporter.runs import Run
from exporter.verdict import ENDED, verdict

RUNS_LISTED = 200


@dataclass(frozen=True)
class Query:
    """Which runs are listed: by a text in name, id or tags, and by their state."""

    text: str = ""
    state: str = ""

    def matches(self, run: Run, state: str) -> bool:
        """Whether a run in this state is listed."""
        if self.state == "live":
            wanted = state not in ENDED
        elif self.state == "ended":
            wanted = state in ENDED
        else:
            wanted = self.state in ("", state)
        return wanted and self._found(run)

    def _found(self, run: Run) -> bool:
        if not self.text:
            return True
        tags: Mapping[str, Any] = run.opened.tags if run.opened else {}
        said = [run.id, run.experiment, *(f"{name}={tags[name]}" for name in tags)]
        text = " ".join(said).casefold()
        return all(word in text for word in self.text.casefold().split())


class ListScene:
    """The list of runs; copied and drawn once a second at most.

    Args:
        query: which runs.
        refused: gives the connections that were refused, the newest last.
        losses: what could not be used.
        addresses: what is listened on; see ``view.RunList``.
        parts: where to look.
    """

    def __init__(
        self,
        query: Query,
        refused: Callable[[], Iterable[view.Refused]],
        losses: Callable[[], view.Losses],
        addresses: tuple[tuple[str, str], ...],
        parts: Parts,
    ) -> None:
        self._query = query
        self._refused = refused
        self._losses = losses
        self._addresses = addresses
        self._parts = parts
        self._second = 0
        self._pace = Pace()
        self._shown: Shown | None = None
        self._known = -1

    def look(self, now: float) -> Shown:
        """What the page shows now."""
        fresh = len(self._parts.state.runs) != self._known or int(now) != self._second
        if self._shown is None or (fresh and self._pace.due):
            since = time.monotonic()
            self._second = int(now)
            self._known = len(self._parts.state.runs)
            self._shown = view.run_list(self._seen(now), float(int(now)))
            self._pace.spent(since)
        return self._shown

    def _seen(self, now: float) -> view.RunList:
        state, rules = self._parts.state, self._parts.rules
        with state.lock:
            runs = list(state.runs.values())
        found: list[tuple[bool, Run]] = []
        for run in runs:
            with state.lock:
                judged = verdict(run, now, rules)
                if self._query.matches(run, judged.state):
                    found.append((judged.ended, run))
        found.sort(key=lambda one: (one[0], -one[1].started_at))
        summaries = []
        for _, run in found[:RUNS_LISTED]:
            with state.lock:
                success = (run.opened.success if run.opened else None) or ()
                summaries.append(
                    {
                        **views.run_summary(run, now, rules),
                        "success": success,
                        "rates": self._parts.recent.rates(run.id),
                    }
                )
        return view.RunList(
            runs=tuple(summaries),
            total=len(runs),
            matching=len(found),
            live=sum(not ended for ended, _ in found),
            refused=tuple(self._refused())[::-1],
            addresses=self._addresses,
            losses=self._losses(),
        )
