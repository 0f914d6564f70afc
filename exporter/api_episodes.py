"""The API of episodes: page by page, all of them as a file, one with all that is known.

Each request has a thread of its own. A file may be of a million episodes: it is read,
written and sent piece by piece, holds no more than one of them, keeps no transaction
open while a client reads, and there are few at a time.
"""

import csv
import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flask

from exporter import lastseen, views
from exporter.answers import (
    as_json,
    as_number,
    is_said,
    json_text,
    known_run,
    wanted_episodes,
)
from exporter.live import pictures
from exporter.lookup import Lookup, matching, open_episodes, outcomes
from exporter.present import Picture
from exporter.reader import Reader, Wanted
from exporter.state import State
from exporter.views import Json

MAX_PAGE = 1000
DOWNLOADS = 4
"""How many files are sent at a time."""
READ_AT_ONCE = 500
PIECE = 64 * 1024
MAX_COLUMNS = 100
"""Of results and of scores; what more there are has a column together."""

_PLAIN = (
    "source", "mode", "epoch", "index", "outcome", "steps", "started", "ended",
    "duration_seconds", "target", "trace_id", "success", "seed",
)  # fmt: skip


def add(app: flask.Flask, state: State, reader: Reader) -> None:
    """Add the routes."""
    routes = _Routes(state, reader)
    base = "/api/v1/runs/<run>/episodes"
    app.get(base, endpoint="episodes")(routes.episodes)
    one = f"{base}/<trace_id>"
    app.get(one, endpoint="episode")(routes.episode)
    app.get(f"{one}/last_seen", endpoint="last_seen")(routes.last_seen)
    # A name may have slashes in it, and two in a row are not one.
    image = f"{one}/last_seen/<path:name>.png"
    app.get(image, endpoint="last_image", merge_slashes=False)(routes.last_image)


class _Routes:
    """The routes; see :func:`add`."""

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader
        self._lookup = Lookup(state, reader)
        self._slots = threading.Semaphore(DOWNLOADS)

    def episodes(self, run: str) -> flask.Response:
        """Episodes of a run: a page of them, or all as a file."""
        wanted, args = wanted_episodes(), flask.request.args
        as_csv = args.get("format") == "csv"
        if is_said(args.get("all")):
            return self._file(run, wanted, as_csv)
        page = self._page(run, wanted)
        if not as_csv:
            return as_json(page)
        rows = page["episodes"]
        results, scores = (
            sorted({name for row in rows for name in row.get(kind, ())})
            for kind in ("results", "scores")
        )
        text = "".join(_csv(rows, results[:MAX_COLUMNS], scores[:MAX_COLUMNS]))
        return flask.Response(text, mimetype="text/csv")

    def episode(self, run: str, trace_id: str) -> flask.Response:
        """One episode with all that is known of it."""
        with self._state.lock:
            known_run(self._state, run)
        found = self._lookup.whole(run, trace_id)
        if found is None:
            flask.abort(404, "there is no such episode in this run")
        return as_json(found)

    def last_seen(self, run: str, trace_id: str) -> flask.Response:
        """What was seen last of an episode that failed."""
        found = self._last_seen(run, trace_id)
        with self._state.lock:
            source = known_run(self._state, run).sources.get(found.source)
            said = views.last_seen(found, trace_id, source)
        return as_json(said)

    def last_image(self, run: str, trace_id: str, name: str) -> flask.Response:
        """An image that was kept with it."""
        found = self._last_seen(run, trace_id).pictures
        picture = next((one for one in found if one.image.name == name), None)
        if picture is None:
            flask.abort(404, "there is no such image")
        return _png(picture)

    def _last_seen(self, run: str, trace_id: str) -> lastseen.LastSeen:
        data = self._reader.last_seen(run, trace_id)
        found = lastseen.decode(data) if data else None
        if found is None:
            flask.abort(404, "of such an episode nothing is kept")
        return found

    # --- a page ----------------------------------------------------------------------

    def _page(self, run: str, wanted: Wanted) -> Json:
        args = flask.request.args
        limit = as_number(args.get("limit", "100"), "limit", 1, MAX_PAGE)
        after = as_number(args.get("after") or "0", "after", 0, 2**62)
        with self._state.lock:
            found = known_run(self._state, run)
            sources = dict(found.sources)
            some = matching(outcomes(found), wanted) != 0
            still_open = open_episodes(found, wanted)
        rows = (
            self._reader.episodes(run, wanted, after=after, limit=limit) if some else []
        )
        seen = self._reader.seen(run)
        shown = [
            views.episode(row, sources.get(row.episode.source), seen) for row in rows
        ]
        more = len(rows) == limit
        if not more:
            # One may have ended since its run was looked at.
            ended = {one["trace_id"] for one in shown}
            shown += [
                {**one, "last_seen": one["trace_id"] in seen}
                for one in still_open
                if one["trace_id"] not in ended
            ]
        return {"episodes": shown, "next": str(rows[-1].id) if more else None}

    # --- all of them -----------------------------------------------------------------

    def _file(self, run: str, wanted: Wanted, as_csv: bool) -> flask.Response:
        with self._state.lock:
            known_run(self._state, run)
        if not self._slots.acquire(blocking=False):
            flask.abort(503, "too many files are being sent: try again in a moment")
        kind = "csv" if as_csv else "json"
        pieces = self._as_csv(run, wanted) if as_csv else self._as_json(run, wanted)
        answer = flask.Response(
            _sent(pieces, _progress()),
            mimetype="text/csv" if as_csv else "application/json",
        )
        answer.call_on_close(self._slots.release)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run)[:100].strip("-.") or "run"
        answer.headers["Content-Disposition"] = (
            f'attachment; filename="{name}-episodes.{kind}"'
        )
        return answer

    def _as_json(self, run: str, wanted: Wanted) -> Iterator[str]:
        before = '{"episodes": ['
        for one in self._all(run, wanted, self._reader.newest_row(run)):
            yield before + json_text(one)
            before = ",\n"
        yield ("" if before == ",\n" else before) + '], "next": null}\n'

    def _as_csv(self, run: str, wanted: Wanted) -> Iterator[str]:
        until = self._reader.newest_row(run)
        # Columns come first, and what there will be is only known after all the rows.
        results, scores = self._reader.names(run, wanted, until, MAX_COLUMNS)
        yield from _csv(self._all(run, wanted, until), sorted(results), sorted(scores))

    def _all(self, run: str, wanted: Wanted, until: int) -> Iterator[Json]:
        """The ended ones up to a row, as it was when asked for, and the open ones."""
        with self._state.lock:
            found = self._state.runs.get(run)
            sources = dict(found.sources) if found else {}
            some = found is not None and matching(outcomes(found), wanted) != 0
            still_open = open_episodes(found, wanted) if found else []
        seen = self._reader.seen(run)
        left = {one["trace_id"]: one for one in still_open}
        after = 0
        while some:
            rows = self._reader.episodes(
                run, wanted, after=after, until=until, limit=READ_AT_ONCE
            )
            for row in rows:
                one = views.episode(row, sources.get(row.episode.source), seen)
                left.pop(one["trace_id"], None)
                yield one
            some = len(rows) == READ_AT_ONCE
            after = rows[-1].id if rows else after
        for trace_id, one in left.items():
            yield {**one, "last_seen": trace_id in seen}


def _png(picture: Picture) -> flask.Response:
    try:
        body = pictures.png(picture.image, picture.data)
    except pictures.PictureError as error:
        flask.abort(404, str(error))
    headers = {"Cache-Control": "no-store"}
    return flask.Response(body, mimetype="image/png", headers=headers)


def _progress() -> Callable[[], None]:
    """What tells the server that an answer goes on, and may take its time."""
    served = flask.request.environ.get("episight.served")
    return served.goes_on if served is not None else lambda: None


def _sent(pieces: Iterable[str], goes_on: Callable[[], None]) -> Iterator[bytes]:
    """Small pieces as larger ones; asked for the next, the last has been taken."""
    text = io.StringIO()
    for piece in pieces:
        text.write(piece)
        if text.tell() >= PIECE:
            yield text.getvalue().encode("utf-8", "replace")
            goes_on()
            text = io.StringIO()
    yield text.getvalue().encode("utf-8", "replace")


# --- tables ---------------------------------------------------------------------------


def _csv(
    rows: Iterable[Json], results: Sequence[str], scores: Sequence[str]
) -> Iterator[str]:
    """A table, line by line."""
    named = {"results": results, "scores": scores}
    yield _line(
        [
            *_PLAIN,
            "error_type",
            "attributes",
            *(f"result_{name}" for name in results),
            *(f"score_{name}" for name in scores),
            *(f"more_{kind}" for kind, names in named.items() if _is_full(names)),
        ]
    )
    for row in rows:
        error = row["error"]
        cells = [row.get(name) for name in _PLAIN]
        cells.append(error["type"] if error else None)
        cells.append(_as_text(row["attributes"]))
        for kind, names in named.items():
            cells += [row.get(kind, _NOTHING).get(name) for name in names]
        for kind, names in named.items():
            if _is_full(names):
                cells.append(_as_text(_others(row.get(kind, _NOTHING), names)))
        yield _line(cells)


_NOTHING: Json = {}


def _is_full(names: Sequence[str]) -> bool:
    return len(names) == MAX_COLUMNS


def _others(values: Json, names: Sequence[str]) -> Json:
    return {name: value for name, value in values.items() if name not in names}


def _as_text(values: Json) -> str | None:
    return json_text(values) if values else None


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(_cell(cell) for cell in cells)
    return text.getvalue()


def _cell(value: Any) -> Any:
    # A spreadsheet would run text that begins so as a formula.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
