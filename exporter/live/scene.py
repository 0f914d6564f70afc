"""What a page is about: looks at state, presents, journal, and lets ``view`` draw it.

A scene is one page's subject: here a run, seen through one of its sources; the list of
runs is in ``listing``. The hub's thread looks at it, ten times a second at most, for
all browsers together. The state's lock is held only while plain values are copied out
of it, and such a copy is not made again while nothing has changed; what is drawn from
an unchanged copy is not drawn again either.
"""

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from markupsafe import Markup

from experiment_hooks import wire
from exporter import lastseen, views
from exporter.live import commands, custom, evidence, pictures, strip, trends, view
from exporter.live.aside import Drawing
from exporter.live.looks import OURS, Look, image_address
from exporter.live.recent import Recent
from exporter.live.strip import Strip
from exporter.live.tracks import Seen
from exporter.live.view import Json, Moment, Shown, ShownImage, ShownValue
from exporter.orders import Orders
from exporter.present import Picture, Present, Presents
from exporter.reader import Reader
from exporter.runs import Run, Source
from exporter.state import State
from exporter.verdict import ENDED, Rules

LOG_LINES = 200
EPISODES = 20
SOURCES_LISTED = 100
STATE, RUN_STATE = "State", "Run state"
REST = 20.0
"""A copy of the state that took t seconds is not made again for so many times t."""


class Scene(Protocol):
    """A page's subject."""

    def look(self, now: float) -> Shown:
        """What the page shows at ``now`` (Unix seconds, the exporter's clock)."""


@dataclass(frozen=True)
class Parts:
    """Where scenes look; see ``Hub``."""

    state: State
    presents: Presents
    reader: Reader
    rules: Rules
    trace_url: str
    recent: Recent
    orders: Orders


@dataclass(frozen=True)
class _Copy:
    """A run as it was under the lock: plain values, and what they were copied for."""

    mark: tuple[Any, ...]
    opened: wire.RunOpened | None
    run: Json
    sources: list[Json]
    more_sources: int
    logs: dict[int, Json]
    ends: int
    held: list[strip.Held]

    def of(self, source: str) -> Json | None:
        """What is said of a source, by its id."""
        return next((one for one in self.sources if one["source"] == source), None)


class Pace:
    """Keeps what is costly to a twentieth of the time."""

    def __init__(self) -> None:
        self._again = 0.0

    @property
    def due(self) -> bool:
        """Whether it may be done now."""
        return time.monotonic() >= self._again

    def spent(self, since: float) -> None:
        """It was done; it began at ``since``, by the monotonic clock."""
        now = time.monotonic()
        self._again = now + REST * (now - since)


class RunScene:
    """A run, and the present moment of one of its sources.

    Args:
        run: the run's id.
        source: whose moment is shown; None: the one whose open episode is oldest when
            there first is something to be seen, and from then on always that one.
        parts: where to look.
        look: how it is drawn.
    """

    def __init__(
        self, run: str, source: bytes | None, parts: Parts, look: Look = OURS
    ) -> None:
        self._id = run
        self._look = look
        self._parts = parts
        self._source = source
        self._asked = source is not None
        self._pace = Pace()
        self._page = object()  # nobody else's, also when this scene is gone
        self._forget(None)

    def _forget(self, run: Run | None) -> None:
        """Know nothing: this is another run, under the id of one that was deleted."""
        self._run = weakref.ref(run) if run is not None else lambda: None
        self._settled = self._asked
        self._copy: _Copy | None = None
        self._lately = (-1, trends.Lately())
        self._drawn = Drawn()
        self._episode_rows: tuple[int, dict[int, Json]] = (-1, {})
        self._last_seen: tuple[object, Json | None] = (None, None)
        self._ended: dict[tuple[bytes, int], Json] = {}
        self._moments = Moments()
        self._evidence = evidence.Evidence()
        self._strip = Strip()
        self._stand: tuple[object, list[strip.Standing]] = (None, [])
        self._asked_for: object = None

    def look(self, now: float) -> Shown:
        """What the page shows now."""
        copy = self._refreshed(now)
        with self._look.in_use():
            return view.gone(self._id) if copy is None else self._draw(copy, now)

    def _draw(self, copy: _Copy, now: float) -> Shown:
        whole = float(int(now))  # ages change once a second
        run, draw, url = copy.run, self._drawn, self._parts.trace_url
        if not self._settled:
            self._source = self._pick(copy)
        rates, recent = self._recent(copy)
        speeds = recent.speeds if recent else {}
        rows = self._episodes(copy)
        moment, seen = self._moment(copy), self._seen_last(copy)
        if self._stand[0] is not copy:
            found = self._strip.seen(map(strip.standing, copy.held))
            self._stand = copy, found
        stand = self._stand[1]
        error = run["error"] or self._its_error(copy)
        shown, good, old = hexadecimal(self._source), run["success"], draw.rows("log")
        return (
            draw(
                "head",
                (copy.mark, whole),
                lambda: view.head({**run, "error": error}, whole),
            )
            | draw(
                "under-way",
                (copy.mark, whole),
                lambda: view.under_way(run, rates),
            )
            | draw("last-seen", (seen,), lambda: view.last_seen(self._id, seen))
            | draw(
                "modes",
                (copy.mark, whole),
                lambda: view.modes(run, rates, whole, speeds),
            )
            | self._trends(copy, recent)
            | draw(
                "strip",
                (copy.mark, shown, whole),
                lambda: view.sources_strip(stand, shown, whole),
            )
            | draw("moment", (moment, whole), lambda: view.moment(moment, now))
            | draw(
                "episodes",
                (copy.ends, good),
                lambda: view.episodes(self._id, rows, good, url),
            )
            | draw("log", tuple(copy.logs), lambda: view.log(copy.logs, url, old))
            | draw(
                "sources",
                (copy.mark, shown),
                lambda: view.sources(run, copy.sources, copy.more_sources, shown),
            )
            | draw("about", (copy.opened, run["hosts"]), lambda: view.about(run))
            | draw(
                "order", (copy.mark, shown), lambda: commands.form(run, copy.of(shown))
            )
            | draw("orders", (copy.mark,), lambda: commands.given(run))
            | self._own(copy, moment, now)
        )

    def _own(self, copy: _Copy, moment: Moment, now: float) -> Shown:
        """What a view of the user's own makes of it, as soon as it has drawn that."""
        aside, drawing = self._look.aside, Drawing()
        if aside is not None and self._asked_for != (copy.mark, moment):
            self._asked_for = (copy.mark, moment)
            present = self._parts.presents.of(self._source) if self._source else None
            aside.ask(self._page, _to_be_seen(copy.run, moment, present, now))
        if aside is not None:
            drawing = aside.newest(self._page)
        mark = (drawing, *self._look.mistakes)
        return self._drawn("own", mark, lambda: view.own(self._look, drawing))

    # --- the copy --------------------------------------------------------------------

    def _refreshed(self, now: float) -> _Copy | None:
        state = self._parts.state
        since = time.monotonic()
        with state.lock:
            run = state.runs.get(self._id)
            if run is not self._run():
                self._forget(run)
            if run is None:
                return None
            mark = (*_mark(run, now), self._parts.orders.changes)
            if self._copy is None or (mark != self._copy.mark and self._pace.due):
                self._copy = self._copied(run, mark, now)
                self._pace.spent(since)
        return self._copy

    def _copied(self, run: Run, mark: tuple[Any, ...], now: float) -> _Copy:
        listed, more = _listed(run.sources.values())
        if self._source in run.sources and self._settled:
            listed.setdefault(self._source, run.sources[self._source])
        opened = run.opened or wire.RunOpened(run.id, b"", 0, 0.0)
        return _Copy(
            mark,
            run.opened,
            {
                **views.run_summary(run, now, self._parts.rules),
                "success": opened.success or (),
                "config": opened.config,
                "facts": opened.facts,
                "info": opened.info,
                "launch": opened.launch,
                "hosts": views.hosts(run),
                "open_modes": views.open_modes(run),
                "dropped": views.dropped(run),
                "commands": commands.copied(
                    run, self._parts.orders, now, self._parts.rules
                ),
            },
            [views.source(one) for one in listed.values()],
            more,
            _log_lines(run, self._copy),
            sum(mode.ended + mode.lost for mode in run.modes.values()),
            strip.held(run),
        )

    def _episodes(self, copy: _Copy) -> dict[int, Json]:
        """The newest ended episodes; read again only when another has ended."""
        if self._episode_rows[0] != copy.ends:
            found = self._parts.reader.newest_episodes(self._id, EPISODES)
            # What waited in a spool comes after what is newer.
            found.sort(key=lambda row: row.at, reverse=True)
            with self._parts.state.lock:
                run = self._parts.state.runs.get(self._id)
                known = dict(run.sources) if run and found else {}
            kept = self._parts.reader.seen(self._id) if found else set()
            rows = {
                row.id: views.episode(row, known.get(row.episode.source), kept)
                for row in found
            }
            self._episode_rows = (copy.ends, rows)
            self._ended = {
                (row.episode.source, row.episode.number): rows[row.id] for row in found
            }
        return self._episode_rows[1]

    # --- how it went lately ----------------------------------------------------------

    def _recent(self, copy: _Copy) -> tuple[Mapping[str, float], Seen | None]:
        recent = self._parts.recent
        return recent.rates(self._id), recent.seen(self._id)

    def _trends(self, copy: _Copy, recent: Seen | None) -> Shown:
        """Small charts: those of a live run change with its recent points only."""
        run, ended = copy.run, copy.run["state"] in ENDED
        point = recent.number if recent else None
        mark = (point, ended, copy.ends if ended or recent is None else None)
        return self._drawn(
            "trends", mark, lambda: trends.modes(run, self._newest(copy), recent)
        ) | self._drawn("metrics", mark, lambda: trends.metrics(recent, ended))

    def _newest(self, copy: _Copy) -> trends.Lately:
        """What episodes came to; read again only when another has ended."""
        if self._lately[0] != copy.ends:
            rows = self._parts.reader.newest_episodes(self._id, trends.LOOKED_AT)
            rows.sort(key=lambda row: row.at)
            with self._parts.state.lock:
                run = self._parts.state.runs.get(self._id)
                results = {
                    name: {result: tuple(some) for result, some in mode.results.items()}
                    for name, mode in (run.modes.items() if run else ())
                }
            ended = [views.episode(row, None) for row in rows]
            self._lately = copy.ends, trends.Lately(results, ended)
        return self._lately[1]

    # --- why it failed ---------------------------------------------------------------

    def _its_error(self, copy: _Copy) -> Json | None:
        """The error of the source that was asked for."""
        shown = hexadecimal(self._source) if self._asked else ""
        found = (one["error"] for one in copy.sources if one["source"] == shown)
        return next(found, None)

    def _seen_last(self, copy: _Copy) -> Json | None:
        """What was seen last of the newest failed episode of a run that failed."""
        run = copy.run
        if run["state"] not in ("failed", "lost"):
            return None
        mark = (run["state"], run["sources"]["lost"], copy.ends)
        if self._last_seen[0] != mark:
            kept = self._parts.reader.newest_last_seen(self._id)
            found = lastseen.decode(kept[1]) if kept else None
            said = None
            if kept and found:
                with self._parts.state.lock:
                    _, source = self._parts.state.sources.get(found.source, (0, None))
                    said = views.last_seen(found, kept[0], source)
            self._last_seen = (mark, said)
        return self._last_seen[1]

    # --- the moment ------------------------------------------------------------------

    def _pick(self, copy: _Copy) -> bytes | None:
        """The source whose open episode is oldest; else one that was seen at all."""
        open_since = {
            one["source"]: min(episode["started"] for episode in one["open"])
            for one in copy.sources
            if one["open"]
        }
        order = [s["source"] for s in copy.sources]
        order.sort(key=lambda name: (name not in open_since, open_since.get(name, 0.0)))
        for name in order:
            source = bytes.fromhex(name)
            if name in open_since or self._parts.presents.of(source) is not None:
                self._settled = True
                return source
        return bytes.fromhex(order[0]) if order else None

    def _moment(self, copy: _Copy) -> Moment:
        shown = hexadecimal(self._source)
        source = copy.of(shown)
        present = self._parts.presents.of(self._source) if self._source else None
        if source is None or (present is not None and present.run != self._id):
            present = None  # also what is left of a run that was deleted
        seen = self._moments.seen(
            Moment(self._id, source), present, self._episode(present)
        )
        if not self._source or present is None:
            return seen
        drawn = self._evidence.seen(self._parts.presents.glimpses(self._source))
        return replace(seen, drawn=evidence.of_now(drawn, seen.scores))

    def _episode(self, present: Present | None) -> Json | None:
        """The moment's episode: as it stands, else as it started, else as it ended."""
        moment = present.moments.get(True) if present else None
        if not present or not self._source or moment is None or moment.episode is None:
            return None
        shown = next((s for s in present.open if s.number == moment.episode), None)
        with self._parts.state.lock:
            _, source = self._parts.state.sources.get(self._source, (None, None))
            if source is None:
                return None
            started = source.started.get(moment.episode)
            if shown is None and started is not None:
                shown = views.stands(started)
            if shown is not None:
                return views.open_episode(source, shown)
        return self._ended.get((self._source, moment.episode))


def hexadecimal(source: bytes | None) -> str:
    """A source's id as it is written in addresses."""
    return source.hex() if source else ""


def _mark(run: Run, now: float) -> tuple[Any, ...]:
    """Differs when the run may look different; totals and losses by the second."""
    said = (run.opened, run.closed, run.attempts, run.log_count)
    return (int(now), run.last_record_at, *said)


def _listed(sources: Iterable[Source]) -> tuple[dict[bytes, Source], int]:
    """The sources that are listed, the live ones and then the newest first."""
    found = list(sources)
    found.sort(key=lambda one: (one.closed is not None, -one.opened_at))
    shown = found[:SOURCES_LISTED]
    return {one.id: one for one in shown}, len(found) - len(shown)


def _log_lines(run: Run, before: _Copy | None) -> dict[int, Json]:
    """The newest lines by their number in the run; those that are known stay."""
    known = before.logs if before else {}
    first = run.log_count - len(run.logs)
    start = max(first, run.log_count - LOG_LINES)
    lines = {}
    for number in range(start, run.log_count):
        line = known.get(number)
        if line is None:
            record = run.logs[number - first]
            line = views.log_line(record, run.sources.get(record.source))
        lines[number] = line
    return lines


class Drawn:
    """What was drawn last, by name, and what it was drawn from."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[object, Shown]] = {}

    def rows(self, name: str) -> Mapping[str, Markup]:
        """The rows of the list of that name, as they were drawn last."""
        last = self._last.get(name)
        return last[1].lists[name] if last else {}

    def __call__(self, name: str, mark: object, draw: Callable[[], Shown]) -> Shown:
        last = self._last.get(name)
        if last is None or last[0] != mark:
            last = self._last[name] = mark, draw()
        return last[1]


def _to_be_seen(
    run: Json, moment: Moment, present: Present | None, now: float
) -> custom.Seen:
    values = {one.name: one.value for one in moment.values}
    source = moment.source["source"] if moment.source else ""
    found = present.pictures if present is not None else {}
    return custom.Seen(
        run=run,
        source=moment.source,
        episode=moment.episode,
        step=moment.step,
        state=values.get(STATE),
        run_state=values.get(RUN_STATE),
        scores=moment.scores,
        streams={one.name: one.value for one in moment.streams},
        images={
            one.name: custom.SeenImage(
                one.shape,
                one.dtype,
                one.stride,
                found[one.name].data,
                one.at,
                image_address(moment.run, source, one.name, one.version),
                one.extent,
            )
            for one in moment.images
            if one.name in found
        },
        at=moment.at,
        now=now,
    )


class Moments:
    """Turns a source's present into a moment to show, beside the one before."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[object, ShownValue]] = {}
        self._extents: dict[str, tuple[Picture, tuple[float, float] | None]] = {}
        self._episode: tuple[int | None, Json | None] = (None, None)

    def seen(
        self, base: Moment, present: Present | None, episode: Json | None
    ) -> Moment:
        """The moment; ``base`` says whose, ``episode`` what is known of its episode."""
        if present is None:
            live = base.source["open"] if base.source else ()
            first = live[0] if live else None
            return replace(base, episode=first, step=first["steps"] if first else 0)
        moment = present.moments.get(True)
        number = moment.episode if moment else None
        if episode is None and self._episode[0] == number:
            episode = self._episode[1]  # it has ended; what it was is still known
        self._episode = (number, episode)
        states, streams = self._shown(present)
        return replace(
            base,
            episode=episode,
            step=moment.step if moment else 0,
            at=max(present.seen.values(), default=present.received),
            values=states,
            scores=dict(moment.scores) if moment else {},
            images=tuple(self._images(present)),
            streams=streams,
        )

    def _images(self, present: Present) -> Iterable[ShownImage]:
        known, self._extents = self._extents, {}
        for picture in present.pictures.values():
            image, at = picture.image, picture.received
            if len(image.shape) not in (2, 3):
                continue
            found = known.get(image.name)
            if found is None or found[0] is not picture:
                found = picture, pictures.extent(image, picture.data)
            self._extents[image.name] = found
            yield ShownImage(
                image.name,
                image.shape,
                image.dtype,
                image.stride,
                at,
                f"{at:.3f}",
                found[1],
            )

    def _shown(
        self, present: Present
    ) -> tuple[tuple[ShownValue, ...], tuple[ShownValue, ...]]:
        known, self._values = self._values, {}  # what has gone is forgotten
        states = []
        for of_step, name in ((True, STATE), (False, RUN_STATE)):
            moment = present.moments.get(of_step)
            if moment is not None and moment.state:
                at = present.seen.get(of_step, present.received)
                states.append(self._value(known, name, name, moment.state, at))
        streams = [
            self._value(known, f"stream {name}", name, data, at)
            for name, (data, at) in present.streams.items()
        ]
        return tuple(states), tuple(streams)

    def _value(
        self,
        known: Mapping[str, tuple[object, ShownValue]],
        key: str,
        name: str,
        data: bytes,
        at: float,
    ) -> ShownValue:
        last = known.get(key)
        if last is not None and last[0] is data:
            self._values[key] = last
            return last[1]
        value = _plain(data)
        before = last[1].value if last is not None else value
        found = ShownValue(name, value, before, at)
        self._values[key] = (data, found)
        return found


def _plain(data: bytes) -> Any:
    try:
        return wire.decode_plain(data)
    except wire.WireError as error:
        return f"... unreadable: {error}"
