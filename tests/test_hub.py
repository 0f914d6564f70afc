"""The hub: who looks at what, and what each browser is sent."""

import json
import socket
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Callable, Dict, Iterator, List, Optional, Set

import pytest
from markupsafe import Markup

from exporter.live import hub as hub_module
from exporter.live import pages
from exporter.live.evidence import Chart
from exporter.live.hub import GoneError, Hub, Rendering, Subject
from exporter.live.view import Shown
from exporter.verdict import Rules
from tests.support import eventually

# --- stand-ins ------------------------------------------------------------------------


class Scene:
    """A subject that shows what it is told to."""

    def __init__(self) -> None:
        self.shown = shown(a="1")
        self.looks = 0
        self.fails = False

    def look(self, now: float) -> Shown:
        self.looks += 1
        if self.fails:
            raise ValueError("cannot be drawn")
        return self.shown


class Browser:
    """A browser that keeps all it is sent; ``reads`` is cleared: it is stuck."""

    def __init__(self) -> None:
        self.messages: SimpleQueue[Dict[str, Any]] = SimpleQueue()
        self.says: SimpleQueue[str] = SimpleQueue()
        self.reads = threading.Event()
        self.reads.set()
        self.sending = threading.Event()
        self.gone = threading.Event()
        self.hung_up = threading.Event()
        self.page: Dict[str, str] = {}

    def send(self, text: str) -> None:
        self.sending.set()
        while not self.reads.wait(0.01):
            if self.gone.is_set() or self.hung_up.is_set():
                raise GoneError("does not read")
        self.sending.clear()
        if self.gone.is_set():
            raise GoneError("has left")
        self.messages.put(json.loads(text))

    def heard(self) -> List[str]:
        if self.gone.is_set():
            raise GoneError("has left")
        return [] if self.says.empty() else [self.says.get()]

    def hang_up(self) -> None:
        self.hung_up.set()

    def next(self, deadline: float = 5.0) -> Dict[str, Any]:
        """The next message that is no heartbeat."""
        while True:
            try:
                message = self.messages.get(timeout=deadline)
            except Empty:
                raise AssertionError(f"no message within {deadline} s") from None
            if message:
                self.page.update(message.get("parts", {}))
                return message


def shown(rows: Optional[Dict[str, str]] = None, **parts: str) -> Shown:
    marked = {name: Markup(text) for name, text in (rows or {}).items()}
    lists = {} if rows is None else {"list": marked}
    return Shown({name: Markup(text) for name, text in parts.items()}, lists)


class Table:
    """A hub with browsers at it; each is served by a thread, as in real life."""

    def __init__(self) -> None:
        self.watched: List[Set[str]] = []
        self.threads: List[threading.Thread] = []
        self.browsers: List[Browser] = []
        nothing: Any = None
        self.hub = Hub(
            nothing,
            nothing,
            nothing,
            Rules(),
            time.time,
            self.watched.append,
            recent=nothing,
            linger=0.3,
        )

    def sit(self, subject: Subject) -> Browser:
        browser = Browser()
        thread = threading.Thread(target=self.hub.attend, args=(subject, browser))
        thread.start()
        self.browsers.append(browser)
        self.threads.append(thread)
        return browser

    def close(self) -> None:
        for browser in self.browsers:
            browser.gone.set()
        self.hub.close()
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    monkeypatch.setattr(hub_module, "BEAT", 0.1)  # so soon is it seen who has left
    made = Table()
    yield made
    made.close()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def subject(scene: Scene, key: str = "r", run: Optional[str] = "r") -> Subject:
    return Subject(key, lambda: scene, run)


# --- versions -------------------------------------------------------------------------


def messages(*found: Shown) -> Callable[[int], Any]:
    """Draw one after the other; then what a browser is sent that has number ``has``."""
    rendering = None
    for number, one in enumerate(found, 1):
        rendering = Rendering(number, one, rendering)
    assert rendering is not None
    last = rendering
    return lambda has: json.loads(last.message(has))


def test_a_new_browser_gets_all_one_that_has_it_gets_what_changed() -> None:
    sent = messages(shown(a="1", b="2"), shown(a="1", b="3"))
    assert sent(0) == {"parts": {"a": "1", "b": "3"}}
    assert sent(1) == {"parts": {"b": "3"}}
    assert sent(2) == {}


def test_a_browser_that_skipped_some_gets_all_that_changed_since() -> None:
    sent = messages(
        shown(a="1", b="1", c="1"),
        shown(a="2", b="1", c="1"),
        shown(a="2", b="2", c="1"),
        shown(a="1", b="2", c="1"),
    )
    assert sent(1) == {"parts": {"a": "1", "b": "2"}}
    assert sent(3) == {"parts": {"a": "1"}}


ROWS = [
    ({"x": "1", "y": "1"}, {"x": "1", "y": "2"}, {"rows": {"y": "2"}}),
    (
        {"x": "1"},
        {"w": "0", "x": "1"},
        {"order": ["w", "x"], "rows": {"w": "0"}},
    ),
    ({"x": "1", "y": "1"}, {"y": "1"}, {"order": ["y"]}),
    ({"x": "1", "y": "1"}, {"y": "1", "x": "1"}, {"order": ["y", "x"]}),
    ({"x": "1"}, {}, {"order": []}),
    ({"x": "1"}, {"x": "1"}, None),
]


@pytest.mark.parametrize(("before", "after", "sent"), ROWS)
def test_of_a_list_only_the_rows_that_changed_are_sent(
    before: Dict[str, str], after: Dict[str, str], sent: Any
) -> None:
    found = messages(shown(before), shown(after))(1)
    assert found == ({"lists": {"list": sent}} if sent else {})


def test_what_was_away_for_a_while_is_sent_again() -> None:
    sent = messages(shown(a="1", b="1"), shown(a="gone"), shown(a="1", b="1"))
    assert sent(2) == {"parts": {"a": "1", "b": "1"}}


def test_a_chart_that_had_no_place_for_a_while_is_sent_as_a_whole() -> None:
    place = {"scores": Markup('<div id="c1" data-chart></div>')}
    points = ((0, 1, (0, 0.5), ("", "e", -1)), (1, 2, (0, 0.75)), (2, 3, (0, 1.0)))
    charts = [Chart(("a",), (0,), points[:n], points[0][3]) for n in (1, 2, 3)]
    sent = messages(
        Shown(place, charts={"c1": charts[0]}),
        Shown({"scores": Markup()}, charts={"c1": charts[1]}),
        Shown(place, charts={"c1": charts[2]}),
    )
    for has in (1, 2):
        said = sent(has)["charts"]["c1"]
        assert (len(said["points"]), said["lines"]) == (3, ["a"])
        assert said["begin"] == ["", "e", -1]


def test_a_message_is_written_once_for_all_browsers_that_have_the_same() -> None:
    rendering = Rendering(1, shown(a="1"), None)
    assert rendering.message(0) is rendering.message(0)


# --- serving --------------------------------------------------------------------------


def test_a_browser_sees_what_changes_and_only_that(table: Table, scene: Scene) -> None:
    browser = table.sit(subject(scene))
    assert browser.next() == {"parts": {"a": "1"}}
    scene.shown = shown(a="1", b="2")
    table.hub.changed()
    assert browser.next() == {"parts": {"b": "2"}}


def test_browsers_that_look_at_the_same_share_its_drawing(
    table: Table, scene: Scene
) -> None:
    made: List[Scene] = []

    def make() -> Scene:
        made.append(scene)
        return scene

    browsers = [table.sit(Subject("r", make)) for _ in range(20)]
    for browser in browsers:
        browser.next()
    before = scene.looks
    scene.shown = shown(a="2")
    table.hub.changed()
    for browser in browsers:
        assert browser.next() == {"parts": {"a": "2"}}
    assert len(made) == 1
    assert scene.looks - before <= 3  # that change, and a second that began meanwhile


def test_at_most_ten_renderings_a_second(table: Table, scene: Scene) -> None:
    browser = table.sit(subject(scene))
    browser.next()
    since = time.monotonic()
    for number in range(6):
        scene.shown = shown(a=f"n{number}")
        table.hub.changed()
        browser.next()
    assert time.monotonic() - since > 4 * hub_module.TICK


def test_when_nothing_changes_there_is_a_heartbeat(table: Table, scene: Scene) -> None:
    browser = table.sit(subject(scene))
    browser.next()
    assert browser.messages.get(timeout=5) == {}


def test_a_stuck_browser_changes_nothing_for_the_others(
    table: Table, scene: Scene
) -> None:
    stuck = table.sit(subject(scene))
    other = table.sit(subject(scene))
    stuck.next(), other.next()
    stuck.reads.clear()
    for number in range(5):
        scene.shown = shown(a=f"n{number}")
        table.hub.changed()
        assert other.next() == {"parts": {"a": f"n{number}"}}
    assert stuck.sending.wait(5)
    # Nothing has queued up for it: it goes on with the newest.
    stuck.reads.set()
    got = [stuck.next()]
    while stuck.page["a"] != "n4":
        got.append(stuck.next())
    while not stuck.messages.empty():
        got.append(stuck.messages.get())
    assert sum("parts" in one for one in got) <= 2
    assert stuck.page["a"] == "n4"


def test_a_browser_that_leaves_is_not_served_any_more(
    table: Table, scene: Scene
) -> None:
    browser = table.sit(subject(scene))
    browser.next()
    assert table.hub.browsers == 1
    browser.gone.set()
    eventually(lambda: table.hub.browsers == 0)
    table.threads[0].join(5)
    assert not table.threads[0].is_alive()


def test_what_nobody_looks_at_is_not_drawn(table: Table, scene: Scene) -> None:
    browser = table.sit(subject(scene))
    browser.next()
    browser.gone.set()
    eventually(lambda: table.hub.browsers == 0)
    other = Scene()
    alone = table.sit(subject(other, "other"))
    alone.next()
    looks = scene.looks
    for number in range(3):
        other.shown = shown(a=f"n{number}")
        table.hub.changed()
        alone.next()
    assert scene.looks == looks


def test_one_page_that_cannot_be_drawn_stops_no_other(
    table: Table, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Scene()
    broken.fails = True
    waits = table.sit(subject(broken, "broken"))
    browser = table.sit(subject(scene))
    browser.next()
    eventually(lambda: broken.looks > 1 or table.hub.changed())
    assert "cannot be drawn" in caplog.text
    assert waits.next() == {"broken": True}
    broken.fails = False
    table.hub.changed()
    eventually(lambda: waits.next() == {"parts": {"a": "1"}})
    assert waits.messages.get(timeout=5) == {}


def test_the_first_sight_of_a_page_is_what_its_browsers_see(
    table: Table, scene: Scene
) -> None:
    assert table.hub.shown(subject(scene)) is scene.shown
    table.sit(subject(scene)).next()
    looks = scene.looks
    table.hub.shown(subject(scene))
    assert scene.looks - looks <= 1


# --- watching -------------------------------------------------------------------------


def test_runs_that_are_looked_at_are_watched(table: Table, scene: Scene) -> None:
    table.sit(subject(scene)).next()
    table.sit(subject(scene, "same run, another source")).next()
    table.sit(subject(Scene(), "other", run="other")).next()
    table.sit(subject(Scene(), "list", run=None)).next()
    eventually(lambda: table.watched and table.watched[-1] == {"r", "other"})
    assert table.watched in ([{"r"}, {"r", "other"}], [{"r", "other"}])


def test_a_run_is_watched_a_little_longer_than_it_is_looked_at(
    table: Table, scene: Scene
) -> None:
    browser = table.sit(subject(scene))
    browser.next()
    eventually(lambda: table.watched == [{"r"}])
    since = time.monotonic()
    browser.gone.set()
    eventually(lambda: table.watched == [{"r"}, set()])
    assert time.monotonic() - since > 0.25


def test_a_reload_does_not_end_the_watching(table: Table, scene: Scene) -> None:
    for _ in range(3):
        browser = table.sit(subject(scene))
        browser.next()
        browser.gone.set()
        eventually(lambda: table.hub.browsers == 0)
    assert table.watched == [{"r"}]


def test_a_page_in_the_background_does_not_watch(table: Table, scene: Scene) -> None:
    browser = table.sit(subject(scene))
    browser.next()
    browser.says.put("hidden")
    eventually(lambda: table.watched == [{"r"}, set()] or table.hub.changed())
    assert table.hub.browsers == 1
    browser.says.put("visible")
    eventually(lambda: table.watched[-1] == {"r"} or table.hub.changed())


# --- the end --------------------------------------------------------------------------


def test_close_lets_all_go_at_once_the_stuck_ones_too(
    table: Table, scene: Scene
) -> None:
    browsers = [table.sit(subject(scene)) for _ in range(5)]
    for browser in browsers:
        browser.next()
    browsers[0].reads.clear()
    scene.shown = shown(a="2")
    table.hub.changed()
    assert browsers[0].sending.wait(5)
    since = time.monotonic()
    table.hub.close()
    for thread in table.threads:
        thread.join(5)
        assert not thread.is_alive()
    assert time.monotonic() - since < 2
    assert browsers[0].hung_up.is_set()
    assert table.hub.browsers == 0
    assert table.watched[-1] == set()
    table.hub.close()
    table.hub.changed()
    assert table.hub.full


def test_after_the_end_nobody_is_served(table: Table, scene: Scene) -> None:
    table.hub.close()
    browser = table.sit(subject(scene))
    table.threads[0].join(5)
    assert browser.messages.empty()


# --- the line to one browser ----------------------------------------------------------


def test_a_line_gives_up_a_browser_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "SEND_SECONDS", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = pages.Line(ours)
        since = time.monotonic()
        with pytest.raises(TimeoutError):
            line.send(b"x" * 10_000_000)
        assert 0.1 < time.monotonic() - since < 3
        with pytest.raises(
            BrokenPipeError
        ):  # half a message was sent: nothing may follow it
            line.send(b"x")


def test_two_threads_do_not_write_into_each_others_messages() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = pages.Line(ours)
        size = 300_000
        threads = [
            threading.Thread(target=line.send, args=(letter * size,))
            for letter in (b"a", b"b", b"c")
        ]
        for thread in threads:
            thread.start()
        found = b""
        while len(found) < 3 * size:
            found += theirs.recv(65536)
        for thread in threads:
            thread.join(5)
        assert sorted([found[i : i + size] for i in range(0, 3 * size, size)]) == [
            letter * size for letter in (b"a", b"b", b"c")
        ]


def test_hanging_up_ends_a_send_that_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = pages.Line(ours)
        failed = threading.Event()

        def send() -> None:
            try:
                line.send(b"x" * 10_000_000)
            except OSError:
                failed.set()

        thread = threading.Thread(target=send)
        thread.start()
        theirs.recv(1)  # it is on its way
        line.shutdown()
        assert failed.wait(5)
        thread.join(5)


def test_a_browser_that_reads_slowly_is_told_that_it_is_behind() -> None:
    class Slow:
        """Takes as long for each message as it is told to."""

        def __init__(self) -> None:
            self.takes = 0.0
            self.said: List[str] = []

        def send(self, text: str) -> None:
            self.said.append(text)
            clock[0] += self.takes

        def heard(self) -> List[str]:
            return []

        def hang_up(self) -> None:
            pass

    clock = [0.0]
    slow = Slow()
    paced = hub_module.Paced(slow, clock=lambda: clock[0])
    for takes in (0.0, 2.0, 2.0, 0.0, 0.0):
        slow.takes = takes
        paced.send("{}")
    behind, well = '{"behind":true}', '{"behind":false}'
    assert slow.said == ["{}", "{}", behind, "{}", "{}", well, "{}"]
