"""The pages of a run's episodes, and of one of them: documents that need no script.

They show what has been, so nothing keeps them right: who wants it newer loads it again.
Each request runs in a thread of its own. A page of the list costs the same wherever in
a million episodes it is: pages follow each other by the rows at their ends, and a
filter that finds little says how far it has looked, and goes on from there.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import flask

from exporter import lastseen, lookup, views
from exporter._version import version
from exporter.answers import wanted_episodes
from exporter.live import timeline, view
from exporter.live.evidence import parted
from exporter.live.scene import Parts
from exporter.live.view import Json
from exporter.lookup import OPEN, Lookup
from exporter.reader import Found, Row, Wanted
from exporter.runs import Run, Source
from exporter.state import MAX_OUTCOMES, OTHER

PAGE = 50
OPEN_LISTED = 200
RESULT_COLUMNS = 8
OPTIONS = 64
SCORES_SHOWN, SCORES_LISTED = 12, 512
"""Bars of whose final scores they are, that are seen at once and in all."""
BELIEFS_LISTED = 32
RECENT = 20 * 3600.0
"""Seconds within which the time of day tells when."""
LOG_LINES = 100
_LARGEST = 2**62


def add(app: flask.Flask, parts: Parts, clock: Callable[[], float]) -> None:
    """Add the routes; ``clock`` tells Unix seconds."""
    pages = Episodes(parts, clock)
    address = "/runs/<run>/episodes"
    app.get(address, endpoint="page_episodes")(pages.several)
    app.get(f"{address}/<trace_id>", endpoint="page_episode")(pages.one)


@dataclass(frozen=True)
class Option:
    """A choice of a filter; ``count`` is None where it is not known."""

    value: str
    label: str
    count: int | None
    chosen: bool


@dataclass(frozen=True)
class Ways:
    """Where a page of the list leads to: queries, or "" where there is nothing."""

    first: str = ""
    newer: str = ""
    older: str = ""
    onwards: str = ""
    """To where the search goes on, since it has found nothing so far."""


@dataclass(frozen=True)
class _Known:
    """What the state knows of a run's episodes, copied under its lock."""

    experiment: str
    success: Sequence[str]
    counted: dict[str, dict[str, int]]
    sources: dict[bytes, Source]
    open: list[Json]
    open_count: int


class Episodes:
    """The routes; see :func:`add`."""

    def __init__(self, parts: Parts, clock: Callable[[], float]) -> None:
        self._parts = parts
        self._clock = clock
        self._lookup = Lookup(parts.state, parts.reader)

    # --- the list --------------------------------------------------------------------

    def several(self, run: str) -> str | tuple[str, int]:
        """A page of the list."""
        wanted = wanted_episodes()
        with self._parts.state.lock:
            found = self._parts.state.runs.get(run)
            known = _known(found, wanted) if found else None
        if known is None:
            return _no_run(run, "../../")
        page, ways = self._page(run, wanted, known)
        self._lookup.remember(run, page.rows)
        rows, now = self._rows(run, page.rows, known), self._clock()
        results = dict.fromkeys(name for row in rows for name in row["results"])
        return view.page(
            "episodes.html",
            view.Shown(),
            version=version,
            root="../../",
            socket="",
            run=run,
            known=known,
            rows=rows,
            results=[*results][:RESULT_COLUMNS],
            ways=ways,
            wanted=wanted,
            filters=_filters(known, wanted),
            matching=lookup.matching(known.counted, wanted),
            total=lookup.matching(known.counted, Wanted()),
            query=_query(wanted),
            form=_form(rows, now),
            now=now,
        )

    def _page(self, run: str, wanted: Wanted, known: _Known) -> tuple[Found, Ways]:
        before, after = _place("before"), _place("after")
        if lookup.matching(known.counted, wanted) == 0:
            return Found([]), Ways()
        if after is not None:
            found = self._search(run, wanted, after=after)
            if len(found.rows) > PAGE or found.searched is not None:
                return _newer(found, wanted)
            before = None  # it would be the first page, but not a whole one
        return _older(self._search(run, wanted, before=before), wanted, before)

    def _search(
        self,
        run: str,
        wanted: Wanted,
        before: int | None = None,
        after: int | None = None,
    ) -> Found:
        # One more than is shown tells whether there are more.
        return self._parts.reader.search(
            run, wanted, limit=PAGE + 1, before=before, after=after
        )

    def _rows(self, run: str, rows: Sequence[Row], known: _Known) -> list[Json]:
        seen = self._parts.reader.seen(run) if rows else set()
        said = [
            views.episode(row, known.sources.get(row.episode.source), seen)
            for row in rows
        ]
        return [self._row(one, known.success) for one in [*known.open, *said]]

    def _row(self, row: Json, success: Sequence[str]) -> Json:
        ended = row["outcome"] is not None
        trace = view.trace_link(self._parts.trace_url, row["trace_id"])
        return {
            "late": False,  # an open one does not say
            **row,
            "tone": tone(row, success),
            "top": timeline.top(row.get("scores", {})),
            "link": trace if ended else "",
        }

    # --- one of them -----------------------------------------------------------------

    def one(self, run: str, trace_id: str) -> str | tuple[str, int]:
        """One episode's own page."""
        with self._parts.state.lock:
            if run not in self._parts.state.runs:
                return _no_run(run, "../../../")
        found = self._lookup.whole(run, trace_id)
        values: Json = {
            "version": version,
            "root": "../../../",
            "socket": "",
            "run": run,
        }
        if found is None:
            page = view.page(
                "no_episode.html", view.Shown(), trace_id=trace_id, **values
            )
            return page, 404
        return view.page(
            "episode.html", view.Shown(), **values, **self._shown(run, found)
        )

    def _shown(self, run: str, found: Json) -> Json:
        """What the page of an episode is made of."""
        source_id, number = bytes.fromhex(found["source"]), found["number"]
        with self._parts.state.lock:
            of_run = self._parts.state.runs.get(run)
            source = of_run.sources.get(source_id) if of_run else None
            success = of_run.opened.success if of_run and of_run.opened else None
            experiment = of_run.experiment if of_run else ""
            said = views.source(source) if source else None
            logs = _log_lines(of_run, found["trace_id"]) if of_run else []
            following = _open_after(source, number) if source else None
        before, after = self._parts.reader.beside(source_id, number)
        seen = self._last_seen(run, found["trace_id"], source)
        ended = found["outcome"] is not None
        link = view.trace_link(self._parts.trace_url, found["trace_id"])
        return {
            "experiment": experiment,
            "one": found,
            "badge": _badge(found, success or ()),
            "source": said,
            "before": _named(before) if before else None,
            "after": _named(after) if after else following,
            "link": link if ended else "",
            "logs": logs,
            "seen": seen,
            # Those of its end, where there is one, are on the page in full.
            "beliefs": view.beliefs(seen["scores"], ())
            if seen and not found["scores"]
            else (),
            "now": self._clock(),
            **_drawn(found),
        }

    def _last_seen(self, run: str, trace_id: str, source: Source | None) -> Json | None:
        data = self._parts.reader.last_seen(run, trace_id)
        found = lastseen.decode(data) if data else None
        if found is None:
            return None
        with self._parts.state.lock:
            said = views.last_seen(found, trace_id, source)
        kept = said["state"] is not None or said["images"] or said["scores"]
        return said if kept or said["logs"] else None


def _no_run(run: str, root: str) -> tuple[str, int]:
    values = {"version": version, "root": root, "run": run, "socket": ""}
    return view.page("missing.html", view.Shown(), **values), 404


# --- what is asked for ----------------------------------------------------------------


def _query(wanted: Wanted, **place: int) -> str:
    """The address of the same list, at a place."""
    said = {
        "mode": wanted.mode,
        "outcome": wanted.outcome,
        "failed": 1 if wanted.failed else None,
        **place,
    }
    return urlencode(
        {name: value for name, value in said.items() if value is not None},
        quote_via=quote,
    )


def _place(name: str) -> int | None:
    """A row's number in the address; None where there is none, or no such."""
    try:
        number = int(flask.request.args.get(name, ""))
    except ValueError:
        return None
    return number if 0 < number < _LARGEST else None


def _way(wanted: Wanted, **place: int) -> str:
    return f"?{_query(wanted, **place)}"


def _newer(found: Found, wanted: Wanted) -> tuple[Found, Ways]:
    """A page that was reached from an older one, and that is not the first."""
    rows, searched = found.rows[-PAGE:], found.searched
    newest = searched if searched is not None else rows[0].id
    way = _way(wanted, after=newest)
    if not rows:
        return Found(rows, searched), Ways(_way(wanted), onwards=way)
    older = _way(wanted, before=rows[-1].id)
    return Found(rows, searched), Ways(_way(wanted), way, older)


def _older(found: Found, wanted: Wanted, before: int | None) -> tuple[Found, Ways]:
    """The first page, or one that was reached from a newer one."""
    rows, searched = found.rows[:PAGE], found.searched
    first = newer = older = onwards = ""
    if before is not None:
        first = _way(wanted)
        newer = _way(wanted, after=rows[0].id if rows else before - 1)
    if len(found.rows) > PAGE:
        older = _way(wanted, before=rows[-1].id)
    elif searched is not None and rows:
        older = _way(wanted, before=searched)
    elif searched is not None:
        onwards = _way(wanted, before=searched)
    return Found(rows, searched), Ways(first, newer, older, onwards)


# --- what is known --------------------------------------------------------------------


def _known(run: Run, wanted: Wanted) -> _Known:
    asked = wanted.outcome == OPEN
    return _Known(
        run.experiment,
        (run.opened.success if run.opened else None) or (),
        lookup.outcomes(run),
        dict(run.sources),
        lookup.open_episodes(run, wanted)[-OPEN_LISTED:][::-1] if asked else [],
        sum(len(one.started) for one in run.sources.values() if one.closed is None),
    )


def _filters(known: _Known, wanted: Wanted) -> dict[str, list[Option]]:
    modes = {mode: sum(found.values()) for mode, found in known.counted.items()}
    outcomes: dict[str, int | None] = {}
    for mode, found in known.counted.items():
        if wanted.mode in (None, mode):
            for name, number in found.items():
                if name != OTHER or len(found) <= MAX_OUTCOMES:  # else it is several
                    outcomes[name] = (outcomes.get(name) or 0) + number
    ordered = sorted(outcomes, key=lambda name: -(outcomes[name] or 0))
    return {
        "mode": _options(modes, modes, wanted.mode),
        "outcome": [
            *_options(ordered, outcomes, wanted.outcome),
            Option(OPEN, "open, not ended yet", None, wanted.outcome == OPEN),
        ],
    }


def _options(names: Iterable[str], counts: Any, chosen: str | None) -> list[Option]:
    shown = [name for name in names if name != OPEN][:OPTIONS]
    if chosen is not None and chosen not in (*shown, OPEN):
        shown.append(chosen)
    return [Option(name, name, counts.get(name), name == chosen) for name in shown]


def _form(rows: Sequence[Json], now: float) -> str:
    """How times of a page are written: with their date, unless all are of today."""
    recent = all(now - (row["ended"] or now) < RECENT for row in rows)
    return "clock" if recent else "date"


def tone(row: Json, success: Sequence[str]) -> str:
    """The colour of an episode's outcome."""
    if row["outcome"] is None:
        return ""
    if row["success"]:
        return "good"
    found = view.outcome_tone(row["outcome"], success)
    return found if found or not row["error"] else "bad"


_BADGES = {"good": "live", "bad": "bad", "warn": "warn"}


def _badge(found: Json, success: Sequence[str]) -> tuple[str, str]:
    """The outcome, and the colour of its badge."""
    if found["outcome"] is None:
        return OPEN, "done"
    return found["outcome"], _BADGES.get(tone(found, success), "idle")


def _named(row: Row) -> Json:
    """An episode beside another: its trace id, and its number."""
    said = views.episode(row, None)
    return {"trace_id": said["trace_id"], "index": said["index"]}


def _open_after(source: Source, number: int) -> Json | None:
    """The open episode of a source that comes next."""
    following = min((n for n in source.started if n > number), default=None)
    found = (
        views.whole_open_episode(source, following) if following is not None else None
    )
    return {"trace_id": found["trace_id"], "index": found["index"]} if found else None


def _log_lines(run: Run, trace_id: str) -> list[Json]:
    """The lines of an episode that are among the run's newest."""
    found = [line for line in run.logs if line.trace == trace_id][-LOG_LINES:]
    return [views.log_line(line, run.sources.get(line.source)) for line in found]


def _drawn(found: Json) -> Json:
    """What an episode's record says, as it is drawn and listed."""
    phases, more_phases = timeline.in_order(found["phases"])
    steps, more_steps = timeline.thinned(found["sampled"], timeline.STEPS_LISTED)
    events, more_events = timeline.thinned(found["events"], timeline.EVENTS_LISTED)
    return {
        "timeline": timeline.timeline(found),
        "phases": phases,
        "more_phases": more_phases,
        "final": _final(found["scores"]),
        "steps": steps,
        "more_steps": more_steps,
        "events": events,
        "more_events": more_events,
    }


def _final(scores: dict[str, float]) -> list[Json]:
    """The final scores by whose they are, the highest first; the rest folds."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted(scores, key=lambda name: _height(scores[name]), reverse=True):
        whose, what = parted(name)
        found.setdefault(whose, {})[what] = scores[name]
    shown = []
    for whose, of_whom in sorted(found.items()):
        bars, zero, more = view.scores(of_whom, most=SCORES_LISTED)
        shown.append(
            {
                "whose": whose,
                "bars": bars[:SCORES_SHOWN],
                "rest": bars[SCORES_SHOWN:],
                "zero": zero,
                "more": more,
            }
        )
    return shown[:BELIEFS_LISTED]


def _height(value: float) -> tuple[bool, float]:
    return value == value, value
