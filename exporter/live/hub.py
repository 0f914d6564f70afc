"""The hub: which browsers look at what, and what each of them is sent.

One thread of its own (``hub``) draws each scene that is looked at, as often as things
change and ten times a second at most, once for all its browsers. Each browser is served
by a thread of its own, which takes the newest rendering, sends what has changed since
the one that its browser has, and waits. Nothing queues: a browser that reads slowly
skips renderings, one that does not read holds up its own thread only, and is dropped.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup

from exporter.live import looks
from exporter.live.evidence import Chart, Point
from exporter.live.recent import Recent
from exporter.live.scene import Parts, Scene
from exporter.live.view import Shown
from exporter.orders import Orders
from exporter.present import Presents
from exporter.reader import Reader
from exporter.state import State
from exporter.verdict import Rules

logger = logging.getLogger("exporter")

TICK = 0.1
"""Seconds between two renderings, at least."""
BEAT = 2.0
"""Seconds of silence at most: the page knows by them that it is still connected."""
HIDDEN_PACE = 1.0
BEHIND = 0.5
"""Seconds that a message may take before its browser is told that it is behind."""
LINGER = 5.0
"""Seconds for which a run counts as looked at after its last browser has left."""
MAX_BROWSERS = 1000


class GoneError(Exception):
    """The browser has left, or does not read what it is sent."""


class Browser(Protocol):
    """The connection to one browser; used by one thread, but for ``hang_up``."""

    def send(self, text: str) -> None:
        """Send a message whole; raises GoneError if it cannot be, after a deadline."""

    def heard(self) -> list[str]:
        """What the browser has said since the last call; raises GoneError."""

    def hang_up(self) -> None:
        """End the connection at once, even while another thread sends."""


@dataclass(frozen=True)
class Subject:
    """What a page is about: equal for browsers that look at the same.

    Attributes:
        key: what makes it equal.
        scene: makes its scene.
        run: the run whose sources are to be told that somebody looks; None: none.
    """

    key: Hashable
    scene: Callable[[], Scene]
    run: str | None = None


class Paced:
    """A browser that is told when it reads too slowly for what it is sent."""

    def __init__(
        self, browser: Browser, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._browser = browser
        self._clock = clock
        self._behind = False

    def send(self, text: str) -> None:
        """Send a message whole, and before the next one whether that took long."""
        since = self._clock()
        self._browser.send(text)
        behind = self._clock() - since > BEHIND
        if behind != self._behind:
            self._behind = behind
            self._browser.send('{"behind":true}' if behind else '{"behind":false}')


_Versions = dict[str, tuple[int, Markup]]


class Rendering:
    """One subject as it was drawn; not changed once it is published.

    A fragment's version is the number of the rendering in which it changed last.
    """

    def __init__(self, number: int, shown: Shown, before: "Rendering | None") -> None:
        self.number = number
        self.shown = shown
        old_parts = before.parts if before else {}
        old_rows = before.rows if before else {}
        old_orders = before.orders if before else {}
        self.parts: _Versions = _versions(number, shown.parts, old_parts)
        self.rows: dict[str, _Versions] = {
            name: _versions(number, rows, old_rows.get(name, {}))
            for name, rows in shown.lists.items()
        }
        self.orders: dict[str, tuple[int, list[str]]] = {}
        for name, rows in shown.lists.items():
            order = [*rows]
            known = old_orders.get(name)
            same = known is not None and known[1] == order
            self.orders[name] = known if known and same else (number, order)
        old_charts = before.charts if before else {}
        self.charts: dict[str, DrawnChart] = {
            name: DrawnChart(number, chart, old_charts.get(name))
            for name, chart in shown.charts.items()
            if _has_place(name, shown.parts)
        }
        # Most browsers have the same rendering before this one: written once for all.
        self._messages: dict[int, str] = {}

    def changed(self, before: "Rendering") -> bool:
        """Whether anything differs from the one before."""
        return bool(self._since(before.number))

    def message(self, has: int) -> str:
        """What a browser is sent that has the rendering number ``has`` (0: nothing)."""
        text = self._messages.get(has)
        if text is None:
            text = json.dumps(self._since(has), separators=(",", ":"))
            self._messages[has] = text
        return text

    def _since(self, has: int) -> dict[str, object]:
        said: dict[str, object] = {}
        parts = _newer(self.parts, has)
        if parts:
            said["parts"] = parts
        lists = {}
        for name, rows in self.rows.items():
            version, order = self.orders[name]
            changes: dict[str, object] = {}
            if version > has:
                changes["order"] = order
            if fresh := _newer(rows, has):
                changes["rows"] = fresh
            if changes:
                lists[name] = changes
        if lists:
            said["lists"] = lists
        charts = {
            name: newer
            for name, chart in self.charts.items()
            if (newer := chart.since(has))
        }
        if charts:
            said["charts"] = charts
        return said


class DrawnChart:
    """A chart, and in which rendering each of its points came."""

    def __init__(self, number: int, chart: Chart, before: "DrawnChart | None") -> None:
        self._chart = chart
        self._head = chart.lines, chart.colours
        self._number = number
        self._versions: list[int] = []
        if before is None:
            self._versions = [number] * len(chart.points)
        elif before._chart is chart:
            self._number, self._versions = before._number, before._versions
        else:
            known = dict(zip(before._chart.points, before._versions, strict=True))
            self._versions = [known.get(point, number) for point in chart.points]
        self._lines: int = number
        if before is not None and before._head == self._head:
            self._lines = before._lines

    def since(self, has: int) -> dict[str, object]:
        """What a page draws anew that has the rendering ``has``.

        All points from the first new one on: the page drops those it has from there on.
        """
        if self._number <= has:
            return {}
        points: Sequence[Point] = self._chart.points
        first = next((n for n, v in enumerate(self._versions) if v > has), len(points))
        said: dict[str, object] = {"points": points[first:]}
        if self._lines > has:
            said["lines"], said["colours"] = self._head
        if first == 0:
            said["begin"] = self._chart.begin
        elif points:
            said["from"] = points[0][0]
        return said


def _has_place(chart: str, parts: dict[str, Markup]) -> bool:
    """Whether a page has the element in which a chart is drawn.

    Where it has not, the chart is gone from the page as well: when it comes again, it
    comes as a whole.
    """
    return any(chart in html for html in parts.values())


def _versions(number: int, found: dict[str, Markup], before: _Versions) -> _Versions:
    versions = {}
    for name, html in found.items():
        known = before.get(name)
        versions[name] = known if known and known[1] == html else (number, html)
    return versions


def _newer(found: _Versions, has: int) -> dict[str, Markup]:
    return {name: html for name, (version, html) in found.items() if version > has}


class Room:
    """A subject and its browsers.

    Guarded by ``fresh``: rendering; by the hub's lock: browsers, looking, left. While
    it is ``broken`` it cannot be drawn, and what its browsers show is old.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.fresh = threading.Condition()
        self.rendering: Rendering | None = None
        self.browsers: dict[int, Browser] = {}
        self.looking = 0
        self.left = time.monotonic()
        self.broken = False
        self.failures = 0
        self._scene = subject.scene()
        self._number = 0

    def look(self, now: float) -> None:
        """Draw the subject; publish it if it differs. The hub's thread only."""
        shown = self._scene.look(now)
        before = self.rendering
        if before is not None and before.shown is shown:
            return
        rendering = Rendering(self._number + 1, shown, before)
        if before is None or rendering.changed(before):
            self._number += 1
            with self.fresh:
                self.rendering = rendering
                self.fresh.notify_all()

    def newest(self, has: int, timeout: float) -> Rendering | None:
        """A newer rendering than the number ``has``, None if none comes in time."""
        with self.fresh:
            if self.rendering is None or self.rendering.number <= has:
                self.fresh.wait(timeout)
            found = self.rendering
        return found if found is not None and found.number > has else None

    def wake(self) -> None:
        """Let its browsers' threads look around."""
        with self.fresh:
            self.fresh.notify_all()


class Hub:
    """Serves browsers; ``close`` lets all of them go.

    Args:
        state: what is true.
        presents: what sources look like.
        reader: of ended episodes.
        rules: of the verdict.
        clock: Unix seconds.
        watch: is told the ids of the runs that are looked at, whenever that changes.
        recent: the last minutes of live runs.
        trace_url: where a trace is looked at, with ``{trace_id}`` in it; or empty.
        orders: what people told runs to do.
        linger: seconds for which a run counts as looked at after the last browser left.
    """

    def __init__(  # noqa: PLR0913 (its surroundings, once)
        self,
        state: State,
        presents: Presents,
        reader: Reader,
        rules: Rules,
        clock: Callable[[], float],
        watch: Callable[[set[str]], None],
        recent: Recent,
        trace_url: str = "",
        *,
        orders: Orders | None = None,
        linger: float = LINGER,
    ) -> None:
        orders = orders or Orders(state, rules)
        self.parts = Parts(state, presents, reader, rules, trace_url, recent, orders)
        self.clock = clock
        self._watch = watch
        self._linger = linger
        self._lock = threading.Lock()
        self._rooms: dict[Hashable, Room] = {}
        self._watched: frozenset[str] = frozenset()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="hub", daemon=True)
        self._thread.start()

    # --- called by other threads -----------------------------------------------------

    def changed(self) -> None:
        """Something was committed, or a moment has come; returns at once."""
        self._changed.set()

    @property
    def browsers(self) -> int:
        """How many browsers are connected."""
        with self._lock:
            return sum(len(room.browsers) for room in self._rooms.values())

    @property
    def full(self) -> bool:
        """Whether no further browser is served."""
        return self._closed.is_set() or self.browsers >= MAX_BROWSERS

    def shown(self, subject: Subject) -> Shown:
        """What a subject looks like now: as its browsers see it, else drawn afresh."""
        with self._lock:
            room = self._rooms.get(subject.key)
        if room is not None and room.rendering is not None and room.browsers:
            return room.rendering.shown
        return subject.scene().look(self.clock())

    def attend(self, subject: Subject, browser: Browser) -> None:
        """Serve one browser, in its own thread, until it leaves or the hub closes."""
        room = self._enter(subject, browser)
        paced = Paced(browser)
        visible = True
        try:
            has = 0
            while not self._closed.is_set():
                if _visible(browser.heard(), visible) is not visible:
                    visible = not visible
                    self._looking(room, 1 if visible else -1)
                rendering = room.newest(has, BEAT)
                if rendering is None:
                    paced.send('{"broken":true}' if room.broken else "{}")
                else:
                    paced.send(rendering.message(has))
                    has = rendering.number
                if not visible:
                    self._closed.wait(HIDDEN_PACE)
        except GoneError:
            pass
        finally:
            self._leave(room, browser, visible)

    def close(self) -> None:
        """Let all browsers go; again: nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._changed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)
        with self._lock:
            rooms = list(self._rooms.values())
        for room in rooms:
            room.wake()
        self._hang_up(rooms)

    def _hang_up(self, rooms: list[Room]) -> None:
        # Those that read what they are sent are gone in a moment; the others would hold
        # up their threads until a deadline.
        deadline = time.monotonic() + 0.5
        while self.browsers and time.monotonic() < deadline:
            time.sleep(0.01)
        for room in rooms:
            for browser in list(room.browsers.values()):
                browser.hang_up()

    # --- rooms -----------------------------------------------------------------------

    def _enter(self, subject: Subject, browser: Browser) -> Room:
        with self._lock:
            room = self._rooms.get(subject.key)
            if room is None:
                room = self._rooms[subject.key] = Room(subject)
            room.browsers[id(browser)] = browser
            room.looking += 1
        self._changed.set()
        return room

    def _leave(self, room: Room, browser: Browser, visible: bool) -> None:
        with self._lock:
            room.browsers.pop(id(browser), None)
        if visible:
            self._looking(room, -1)

    def _looking(self, room: Room, more: int) -> None:
        with self._lock:
            room.looking += more
            room.left = time.monotonic()
        self._changed.set()

    def _sweep(self) -> list[Room]:
        """Forget rooms that were left for long; tell whose runs are looked at."""
        since = time.monotonic() - self._linger
        with self._lock:
            for key, room in list(self._rooms.items()):
                if not room.browsers and room.left < since:
                    del self._rooms[key]
            rooms = list(self._rooms.values())
            watched = frozenset(
                room.subject.run
                for room in rooms
                if room.subject.run is not None and (room.looking or room.left >= since)
            )
        if watched != self._watched:
            self._watched = watched
            self._watch(set(watched))
        return rooms

    # --- the thread ------------------------------------------------------------------

    def _serve(self) -> None:
        looks.warm()
        while not self._closed.is_set():
            since = time.monotonic()
            rooms = self._sweep()
            for room in rooms:
                if room.browsers:
                    self._look(room)
            # Half of the time at most, however many pages there are.
            if self._closed.wait(max(TICK, time.monotonic() - since)):
                break
            self._changed.wait(_to_next_second(self.clock()) if rooms else None)
            self._changed.clear()
        if self._watched:
            self._watch(set())

    def _look(self, room: Room) -> None:
        try:
            room.look(self.clock())
            room.broken = False
        except Exception:  # the other pages can be drawn all the same
            room.broken = True
            room.failures += 1
            if room.failures & (room.failures - 1) == 0:  # the 1st, 2nd, 4th, ...
                logger.exception("a page cannot be drawn: %r", room.subject.key)


def _visible(said: list[str], visible: bool) -> bool:
    """Whether the page is to be seen, after what it said of that."""
    for word in said:
        visible = {"hidden": False, "visible": True}.get(word, visible)
    return visible


def _to_next_second(now: float) -> float:
    return max(0.05, 1.0 - now % 1.0)
