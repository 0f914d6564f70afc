"""Notifications: a real webhook is told of turns, once, whatever happens in between."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Callable, Iterator

import pytest

from experiment_hooks import wire
from exporter import notify
from exporter.changes import Change
from exporter.notify import Notifier, Webhook, message
from exporter.state import State
from exporter.verdict import Rules, Verdict
from tests.making import Teller
from tests.support import Exporter, Pythons, eventually, free_port
from tests.test_docs import section

SECRET = "s3cr3t-part"
STALLED = [("running", "stalled")]


class Answers(http.server.ThreadingHTTPServer):
    """A webhook that keeps what it is told; ``statuses`` are its next answers."""

    def __init__(self, port: int = 0) -> None:
        self.told: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.statuses: list[int] = []
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        super().__init__(("127.0.0.1", port), OneAnswer)
        self.url = (
            f"http://127.0.0.1:{self.server_address[1]}/hooks/{SECRET}?k={SECRET}"
        )

    def turns(self, run: str = "") -> list[tuple[Any, str]]:
        return [
            (one["before"], one["state"])
            for one in self.told
            if run in ("", one["run"])
        ]


class OneAnswer(http.server.BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        server = self.server
        server.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if server.hangs.is_set():
            server.goes_on.wait(60)
        status = server.statuses.pop(0) if server.statuses else 200
        if status == 200:
            assert self.headers["Content-Type"] == "application/json"
            server.told.append(body)
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:  # a redirect was followed
        self.server.paths.append(self.path)

    def log_message(self, *anything: object) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[Answers]:
    with Answers() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.goes_on.set()
        server.shutdown()
        thread.join()


Start = Callable[..., Exporter]


@pytest.fixture
def start(exporter_process: Start, webhook: Answers) -> Start:
    """An exporter that tells the webhook; faster than by default."""

    def make(*overrides: str, url: str = "") -> Exporter:
        env = {"EPISIGHT_NOTIFY_WEBHOOK_URL": url or webhook.url}
        return exporter_process("verdict.lost_seconds=1", *overrides, env=env)

    return make


ENDS = """
    import sys
    import experiment_hooks as eh

    with eh.open_run("grasping", run_id=sys.argv[1], stoppable=True) as run:
        with run.episode() as ep:
            ep.step()
            if sys.argv[2] == "failed":
                raise LookupError("no mug")
            if sys.argv[2] == "stopped":
                raise KeyboardInterrupt
            while sys.argv[2] == "never":
                ep.step()
                import time
                time.sleep(0.01)
"""


def end(exporter: Exporter, run_python: Pythons, run: str, how: str) -> None:
    run_python(ENDS, run, how, env=exporter.env, status=None)


# --- what is told ---------------------------------------------------------------------


def test_each_end_is_told_as_the_page_says(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start()
    end(exporter, run_python, "grasping-7", "failed")
    (told,) = eventually(lambda: webhook.told)
    (block,) = section("docs/notifications.md", "What is sent").blocks
    documented = json.loads(block.text.replace("http://127.0.0.1:8000", exporter.web))
    # It may have gone by in less than a second.
    assert told["before"] in (None, "running", "starting")
    ended = exporter.run("grasping-7")["ended"]
    assert told == {**documented, "before": told["before"], "at": ended}
    assert [*told] == [*documented]
    end(exporter, run_python, "well", "completed")
    end(exporter, run_python, "cut", "stopped")
    eventually(lambda: len(webhook.told) == 3)
    assert {one["run"]: one["state"] for one in webhook.told[1:]} == {
        "well": "completed",
        "cut": "stopped",
    }
    assert exporter.value("episight_notifications_total", result="sent") == 3
    assert exporter.value("episight_notifications_total", result="failed") == 0
    assert SECRET not in exporter.output
    assert SECRET not in exporter.get("/metrics").text


def test_a_run_that_stands_still_goes_on_and_is_killed(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start()
    run_python.start(
        """
        import os, time
        import experiment_hooks as eh

        with eh.open_run("slow", run_id="slow", promise=0.5) as run:
            with run.episode() as ep:
                ep.step()
                while not os.path.exists("go on"):
                    time.sleep(0.05)
                while not os.path.exists("die"):
                    ep.step()
                    time.sleep(0.05)
                os.kill(os.getpid(), 9)
        """,
        env=exporter.env,
    )
    eventually(lambda: webhook.turns() == STALLED, 20)
    (run_python.directory / "go on").touch()
    eventually(lambda: webhook.turns()[1:] == [("stalled", "running")], 20)
    (run_python.directory / "die").touch()
    # So short a promise is broken before it is sure that nobody is there.
    eventually(lambda: webhook.turns()[2:] == [*STALLED, ("stalled", "lost")], 20)
    stalled, goes_on, _, lost = [one["text"] for one in webhook.told]
    assert "run slow, stands still: no progress for more than 0.5 s" in stalled
    assert "run slow, goes on (it was stalled)." in goes_on
    assert "run slow, is lost: " in lost


def test_only_the_states_that_were_picked_are_told(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start("notify.states=[stopped,lost]")
    end(exporter, run_python, "well", "completed")
    end(exporter, run_python, "bad", "failed")
    child = run_python.start(ENDS, "gone", "never", env=exporter.env)
    eventually(lambda: exporter.run("gone")["state"] == "running")
    child.kill()
    eventually(lambda: webhook.told, 20)
    assert [(one["run"], one["state"]) for one in webhook.told] == [("gone", "lost")]


# --- restarts -------------------------------------------------------------------------


def test_a_restart_tells_nothing_that_was_told(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start("verdict.lost_seconds=8")  # stalled after 4.5
    child = run_python.start(
        ENDS.replace("stoppable", "promise=2, stoppable"),
        "alive",
        "never",
        env=exporter.env,
    )
    eventually(lambda: exporter.run("alive")["state"] == "running")
    end(exporter, run_python, "before", "failed")
    eventually(lambda: webhook.turns("before"))
    for stop in (exporter.kill, exporter.terminate):
        stop()
        exporter.start()
        eventually(lambda: exporter.run("alive")["state"] == "running")
    end(exporter, run_python, "after", "failed")
    eventually(lambda: webhook.turns("after"))
    assert [one["run"] for one in webhook.told] == ["before", "after"]
    child.kill()
    eventually(lambda: ("stalled", "lost") in webhook.turns("alive"), 20)
    assert webhook.turns("alive")[0] == ("running", "stalled")


def test_a_run_that_ended_while_the_exporter_was_away_is_told_once(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start("verdict.lost_seconds=60")
    child = run_python.start(ENDS, "away", "never", env=exporter.env)
    eventually(lambda: exporter.run("away")["state"] == "running")
    exporter.kill()
    child.signal(2)
    child.wait()
    exporter.start()
    replay = "from experiment_hooks import cli; raise SystemExit(cli.main(['replay']))"
    run_python(replay, env=exporter.env)
    eventually(lambda: webhook.turns() == [(None, "stopped")])
    exporter.restart()
    end(exporter, run_python, "after", "failed")
    eventually(lambda: webhook.turns("after"))
    assert [one["run"] for one in webhook.told] == ["away", "after"]


class Asked:
    """A notifier without its threads, asked what it would tell."""

    def __init__(self, states: Sequence[str] = ("completed", "stalled", "lost")):
        self.notifier = Notifier(
            State(), Rules(), url="http://127.0.0.1:9/", states=states, page=str
        )

    def __call__(self, before: str, state: str, *, ended: float = 0, last: float = 0):
        over = state in ("completed", "failed", "stopped", "lost")
        found = Verdict(state, ended_at=1e9 - ended if over else None)
        change = Change("run", "", before, found, 1e9 - last)
        return self.notifier._to_tell(change, 1e9)


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([("running", "completed", 5, 5)], ["running"]),
        ([("running", "completed", 599, 599)], ["running"]),
        # Delivered late: history.
        ([("running", "completed", 601, 601)], [None]),
        ([("", "completed", 3600, 3600)], [None]),
        ([("", "completed", 5, 5)], [""]),
        # Seen for the first time as lost: now, but nothing was heard of it for days.
        ([("", "lost", 0, 90000)], [None]),
        ([("", "lost", 0, 60)], [""]),
        # It hung for an hour, and then died.
        ([("stalled", "lost", 0, 3600)], ["stalled"]),
        # Nobody knows yet how far it is.
        ([("", "stalled", 0, 0)], [None]),
        ([("", "stalled", 0, 0), ("stalled", "running", 0, 0)], [None, None]),
        ([("lost", "starting", 0, 0)], [None]),
        (
            [
                ("running", "lost", 0, 0),
                ("lost", "starting", 0, 0),
                ("starting", "running", 0, 0),
                ("running", "stalled", 0, 0),
            ],
            ["running", None, "lost", "running"],
        ),
        (
            [("running", "stalled", 0, 0), ("stalled", "lost", 0, 0)],
            ["running", "stalled"],
        ),
        (
            [("running", "lost", 0, 0), ("lost", "completed", 60, 60)],
            ["running", "lost"],
        ),
        # Not picked, so its end is no news either.
        ([("running", "failed", 0, 0), ("failed", "running", 0, 0)], [None, None]),
    ],
)
def test_what_is_news(turns: list[Any], told: list[str | None]) -> None:
    asked = Asked()
    found = [
        asked(before, state, ended=ended, last=last)
        for before, state, ended, last in turns
    ]
    assert found == told


def test_a_replayed_run_is_not_told(webhook: Answers) -> None:
    state = State()
    found = Notifier(
        state, Rules(), url=webhook.url, states=["failed", "completed"], page=str
    )
    found.start()
    with closing(found):
        old = Teller(1, "old", time.time() - 3600)
        new = Teller(2, "new", time.time())
        with state.lock:
            for teller in (old, new):
                for record in (teller.opened(), teller.run_opened()):
                    state.apply(record, teller.run, record.time)
                ended = teller.run_closed("failed")
                state.apply(ended, teller.run, ended.time)
        eventually(lambda: webhook.told)
    assert [one["run"] for one in webhook.told] == ["new"]


def test_what_an_experiment_says_calls_nobody() -> None:
    error = wire.ErrorInfo("ValueError", "<!channel> @all\n& <https://evil|here>" * 99)
    change = Change("run", "a@b", "running", Verdict("failed", "", error, 5.0), 5.0)
    said = message(change, "running", "http://page", 6.0)
    line, _, page = said["text"].rpartition(" ")
    assert page == "http://page"
    assert "\n" not in line
    assert "<" not in line
    assert "@all" not in line
    assert "@\N{ZERO WIDTH SPACE}all" in line
    assert "&lt;!channel&gt;" in line
    assert len(said["error"]["message"]) == notify.MAX_TEXT


# --- a webhook that does not answer ---------------------------------------------------


@pytest.fixture
def hook(webhook: Answers) -> Iterator[Webhook]:
    found = Webhook(webhook.url)
    found.start()
    with closing_within(found, 5.0):
        yield found


def closing_within(one: Webhook, seconds: float) -> Any:
    class Closing:
        def close(self) -> None:
            one.close(seconds)

    return closing(Closing())


def test_what_is_not_taken_is_tried_again_in_order(
    hook: Webhook, webhook: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LEAST_PAUSE", 0.01)
    webhook.statuses += [500, 503, 429]
    for number in range(3):
        hook.put({"n": number})
    eventually(lambda: len(webhook.told) == 3)
    assert [one["n"] for one in webhook.told] == [0, 1, 2]
    assert len(webhook.paths) == 6
    eventually(lambda: hook.counts == {"sent": 3, "failed": 0})


@pytest.mark.parametrize("status", [302, 307, 308, 400, 404, 410])
def test_what_will_not_be_taken_costs_only_itself(
    status: int, hook: Webhook, webhook: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.statuses.append(status)
    hook.put({"n": 0})
    hook.put({"n": 1})
    eventually(lambda: webhook.told == [{"n": 1}])
    eventually(lambda: hook.counts == {"sent": 1, "failed": 1})
    assert len(webhook.paths) == 2
    assert f"127.0.0.1): HTTP {status}" in caplog.text
    assert SECRET not in caplog.text


def test_a_webhook_that_comes_later_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "LEAST_PAUSE", 0.01)
    monkeypatch.setattr(notify, "LONGEST_PAUSE", 0.1)
    port = free_port()
    hook = Webhook(f"http://127.0.0.1:{port}/")
    hook.start()
    with closing_within(hook, 5.0):
        hook.put({"n": 1})
        eventually(lambda: hook._failures > 1)
        with Answers(port) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            eventually(lambda: server.told == [{"n": 1}])
            server.shutdown()
            thread.join()


def test_what_is_not_taken_for_long_is_given_up(
    hook: Webhook, webhook: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LEAST_PAUSE", 0.01)
    monkeypatch.setattr(notify, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(notify, "KEPT_FOR", 0.3)
    webhook.statuses += [500] * 1000
    hook.put({"n": 1})
    eventually(lambda: hook.counts == {"sent": 0, "failed": 1})
    assert len(webhook.paths) > 2
    webhook.statuses.clear()
    hook.put({"n": 2})
    eventually(lambda: webhook.told == [{"n": 2}])


def test_too_many_push_the_oldest_out(
    hook: Webhook, webhook: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MAX_WAITING", 10)
    webhook.hangs.set()
    hook.put({"n": 0})
    eventually(lambda: webhook.paths)
    for number in range(1, 31):
        hook.put({"n": number})
    assert hook.counts == {"sent": 0, "failed": 21}
    webhook.hangs.clear()
    webhook.goes_on.set()
    eventually(lambda: len(webhook.told) == 10)
    assert [one["n"] for one in webhook.told] == [0, *range(22, 31)]


def test_a_webhook_that_hangs_holds_up_neither_verdicts_nor_the_end(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start()
    webhook.hangs.set()
    end(exporter, run_python, "one", "completed")
    eventually(lambda: webhook.paths)
    end(exporter, run_python, "two", "completed")
    assert exporter.run("two")["state"] == "completed"
    since = time.monotonic()
    assert exporter.terminate(deadline=10) == 0
    assert time.monotonic() - since < 5


def test_what_waits_at_the_end_is_tried_once_more(
    start: Start, webhook: Answers, run_python: Pythons
) -> None:
    exporter = start()
    webhook.statuses += [500]
    end(exporter, run_python, "one", "completed")
    eventually(lambda: webhook.paths)
    end(exporter, run_python, "two", "completed")
    assert exporter.terminate() == 0
    eventually(lambda: [one["run"] for one in webhook.told] == ["one", "two"])


def test_an_unreachable_host_is_named_and_nothing_else_of_the_address(
    exporter_process: Start, run_python: Pythons
) -> None:
    port = free_port()
    url = f"https://127.0.0.1:{port}/{SECRET}?{SECRET}"
    exporter = exporter_process(env={"EPISIGHT_NOTIFY_WEBHOOK_URL": url})
    end(exporter, run_python, "one", "completed")
    eventually(lambda: "a notification failed" in exporter.output)
    assert "notifications go to 127.0.0.1" in exporter.output
    assert "Connection refused" in exporter.output
    assert exporter.terminate() == 0
    assert SECRET not in exporter.output
