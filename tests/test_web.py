"""The API and its surroundings: shapes as promised, errors in JSON, nothing trusted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import sqlite3
import threading
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Iterator

import flask
import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, Gauge
from werkzeug.test import TestResponse

from experiment_hooks import wire
from exporter import web
from exporter.access import Access
from exporter.exposition import CONTENT_TYPE_OPENMETRICS, CONTENT_TYPE_TEXT
from exporter.inbox import Counts
from exporter.losses import Losses
from exporter.metrics import Budget, RunMetrics
from exporter.orders import KEPT, Orders
from tests.making import NOON, STEPS, Teller, counter, sample
from tests.test_writer import RULES
from tests.test_writer import Bench as WriterBench

TOKEN = "a-token-that-nobody-knows"


class Ears:
    """Stands for ingest: takes commands."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, list[bytes] | None, wire.Command]] = []
        self.alive = True
        self.counts = Counts()

    def command(self, run: str, sources: Any, command: wire.Command) -> None:
        self.commands.append((run, sources, command))

    @property
    def healthy(self) -> bool:
        return self.alive


class Bench(WriterBench):
    """A writer without a thread, and the API over its state and its journal."""

    def __init__(self, path: Path) -> None:
        self.ears = Ears()
        super().__init__(path)
        # Who gives a command waits for the writer, which has no thread here.
        self.inbox.wake = self.round  # type: ignore[method-assign]
        registry = CollectorRegistry()
        Gauge("episight_own", "Ours.", registry=registry).set(7)
        self.restored = threading.Event()
        self.restored.set()
        metrics = RunMetrics(
            self.state,
            rules=RULES,
            budget=Budget(),
            clock=lambda: self.now,
            heard=lambda source: None,
        )
        served: Any = web.Served(
            self.state,
            RULES,
            self.reader,
            metrics,
            Losses(self.ears, self.writer, metrics),  # type: ignore[arg-type]
            registry,
            self.ears,  # type: ignore[arg-type]
            self.writer,
            self.orders,
            lambda: self.now,
            self.restored,
        )
        self.app: flask.Flask = web.create_app(served, Access(TOKEN))
        self.client: FlaskClient = self.app.test_client()
        self.client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"

    def send(self, run: str, sources: Any, command: wire.Command) -> None:
        self.ears.command(run, sources, command)

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        """A JSON answer of the API."""
        answer = self.client.get(f"/api/v1/runs{path}", **options)
        return checked(answer, status)

    def commit(self, teller: Teller, *records: wire.AnyRecord) -> None:
        self.arrive(teller, *records)
        self.round()


def checked(answer: TestResponse, status: int) -> Any:
    assert answer.status_code == status, answer.data
    assert answer.mimetype == "application/json"
    return json.loads(answer.data, parse_constant=pytest.fail)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.close()


def open_run(bench: Bench, number: int = 1, **said: Any) -> Teller:
    teller = Teller(number)
    bench.commit(teller, teller.opened(), teller.run_opened(**said))
    return teller


def close_run(bench: Bench, teller: Teller, **said: Any) -> None:
    bench.commit(teller, teller.run_closed(**said), teller.closed(**said))


# --- shapes -----------------------------------------------------------------------


def test_a_run_of_the_list_has_the_promised_fields(bench: Bench) -> None:
    teller = open_run(bench)
    schema = teller.schema([STEPS], [(0, ("eval",))])
    end = teller.ended(success=True)
    bench.commit(teller, schema, teller.started(), end)
    bench.sampled(teller, 1, 30.0)
    bench.tick()
    (run,) = bench.get("")["runs"]
    assert {key: run[key] for key in ("run", "experiment", "state", "reason")} == {
        "run": "run",
        "experiment": "demo",
        "state": "running",
        "reason": "",
    }
    assert (run["error"], run["started"], run["ended"]) == (None, NOON, None)
    assert run["sources"] == {"live": 1, "ended": 0, "lost": 0}
    assert run["missing"] == 0
    (mode, said) = next(iter(run["modes"].items()))
    assert mode == "eval"
    assert {
        key: said[key] for key in ("steps", "episodes", "successes", "outcomes")
    } == {
        "steps": 30,
        "episodes": 1,
        "successes": 1,
        "outcomes": {"correct": 1},
    }


def test_the_list_has_the_newest_run_first(bench: Bench) -> None:
    for number, at in ((1, 5.0), (2, 9.0), (3, 1.0)):
        teller = Teller(number, f"run{number}", NOON + at)
        bench.now = NOON + 10
        bench.commit(teller, teller.opened())
    assert [run["run"] for run in bench.get("")["runs"]] == ["run2", "run1", "run3"]


def test_one_run_tells_what_it_said_of_itself_and_its_sources(bench: Bench) -> None:
    said = {
        "config": {"lr": 0.1, "nested": [1, {"a": None}]},
        "tags": {"user": "ada"},
        "facts": {"gpu": "none"},
        "launch": {"python": "3.11"},
    }
    teller = open_run(bench, **said)
    found = bench.get("/run")
    assert {key: found[key] for key in said} == said
    (source,) = found["source_list"]
    assert source["source"] == teller.id.hex()
    assert (source["host"], source["pid"], source["state"]) == ("host", 1, "live")


def test_how_a_run_ended_is_told(bench: Bench) -> None:
    teller = open_run(bench)
    error = wire.ErrorInfo("ValueError", "no", "Traceback ...")
    bench.now = NOON + 5
    teller.at = NOON + 5
    close_run(bench, teller, ending="failed", error=error)
    found = bench.get("/run")
    assert (found["state"], found["ended"]) == ("failed", NOON + 5)
    assert found["error"] == {
        "type": "ValueError",
        "message": "no",
        "traceback": "Traceback ...",
    }
    assert found["sources"] == {"live": 0, "ended": 1, "lost": 0}


def test_an_episode_has_the_promised_fields(bench: Bench) -> None:
    teller = open_run(bench)
    ended = teller.ended(
        3,
        epoch=2,
        index=7,
        target="mug",
        results={"return": 12.5},
        attributes={"color": "blue"},
        error=wire.ErrorInfo("KeyError", "x"),
    )
    bench.commit(teller, ended)
    page = bench.get("/run/episodes")
    (found,) = page["episodes"]
    expected = {
        "source": teller.id.hex(),
        "mode": "eval",
        "epoch": 2,
        "index": 7,
        "outcome": "correct",
        "results": {"return": 12.5},
        "steps": 10,
        "started": NOON,
        "ended": NOON + 2,
        "duration_seconds": 2.0,
        "trace_id": wire.trace_id("run", teller.id, 3),
        "target": "mug",
        "attributes": {"color": "blue"},
        "error": {"type": "KeyError", "message": "x", "traceback": ""},
    }
    assert {key: found[key] for key in expected} == expected
    assert page["next"] is None


# --- episodes ---------------------------------------------------------------------


def indices(page: dict[str, Any]) -> list[int | None]:
    return [one["index"] for one in page["episodes"]]


def with_episodes(bench: Bench, count: int, opened: int = 0) -> Teller:
    """A run with so many ended and so many open episodes, in two modes."""
    teller = open_run(bench)
    for index in range(count + opened):
        mode = "train" if index % 2 else "eval"
        started = teller.started(index, mode, index=index, at=NOON + index)
        bench.commit(teller, started)
    for index in range(count):
        mode = "train" if index % 2 else "eval"
        outcome = "correct" if index % 3 else "confused"
        bench.commit(teller, teller.ended(index, mode, outcome, index=index))
    return teller


def test_pages_follow_each_other_by_next_and_open_episodes_come_last(
    bench: Bench,
) -> None:
    with_episodes(bench, 5, opened=2)
    seen: list[int | None] = []
    query = "?limit=2"
    pages = 0
    while query:
        page = bench.get(f"/run/episodes{query}")
        seen += indices(page)
        pages += 1
        query = f"?limit=2&after={page['next']}" if page["next"] else ""
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    assert pages == 3
    last = bench.get("/run/episodes?limit=10")["episodes"][-2:]
    assert [one["outcome"] for one in last] == [None, None]
    assert [one["ended"] for one in last] == [None, None]


def test_a_page_that_is_just_full_is_followed_by_the_open_ones(bench: Bench) -> None:
    with_episodes(bench, 4, opened=1)
    page = bench.get("/run/episodes?limit=4")
    assert indices(page) == [0, 1, 2, 3]
    page = bench.get(f"/run/episodes?limit=4&after={page['next']}")
    assert (indices(page), page["next"]) == ([4], None)


def test_episodes_that_end_between_two_pages_are_on_the_second(bench: Bench) -> None:
    teller = with_episodes(bench, 2, opened=1)
    page = bench.get("/run/episodes?limit=2")
    bench.commit(teller, teller.ended(2, index=2))
    page = bench.get(f"/run/episodes?after={page['next']}")
    assert indices(page) == [2]
    assert page["episodes"][0]["outcome"] == "correct"


FILTERS = [
    ("", [0, 1, 2, 3, 4, 5, 6, 7]),
    ("?mode=train", [1, 3, 5, 7]),
    ("?mode=eval", [0, 2, 4, 6]),
    ("?mode=nobody", []),
    ("?mode=", [0, 1, 2, 3, 4, 5, 6, 7]),
    ("?outcome=confused", [0, 3]),
    ("?mode=train&outcome=correct", [1, 5]),
    ("?outcome=", [0, 1, 2, 3, 4, 5, 6, 7]),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_episodes_are_found_by_mode_and_outcome(
    bench: Bench, query: str, expected: list[int]
) -> None:
    with_episodes(bench, 6, opened=2)
    assert indices(bench.get(f"/run/episodes{query}")) == expected


def test_an_episode_of_a_lost_source_is_lost(bench: Bench) -> None:
    teller = with_episodes(bench, 1, opened=1)
    bench.gone(teller)
    bench.tick(30)
    bench.tick(60)
    (found,) = bench.get("/run/episodes?outcome=lost")["episodes"]
    assert found["error"]["type"] == "source_lost"
    assert bench.get("/run")["modes"]["train"]["lost"] == 1
    assert indices(bench.get("/run/episodes")) == [0, 1]


def test_an_open_episode_tells_where_it_stands(bench: Bench) -> None:
    teller = with_episodes(bench, 0, opened=1)
    shown = wire.OpenEpisode(
        0, "eval", steps=12, started=NOON, last=NOON + 4, phase="matching", index=0
    )
    bench.sampled(teller, 1, open=(shown,))
    bench.tick()
    (found,) = bench.get("/run/episodes")["episodes"]
    assert (found["steps"], found["phase"]) == (12, "matching")
    assert found["trace_id"] == wire.trace_id("run", teller.id, 0)


def test_episodes_as_csv_have_a_column_for_each_result(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(
        teller,
        teller.ended(0, results={"return": 1.5}, target="=cmd|' /C calc'!A0"),
        teller.ended(1, outcome="a,b\n", results={"error": math.nan}),
        teller.started(2),
    )
    answer = bench.client.get("/api/v1/runs/run/episodes?format=csv")
    assert answer.mimetype == "text/csv"
    first, second, third = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert first["result_return"] == "1.5"
    assert first["target"] == "'=cmd|' /C calc'!A0", "no formula for a spreadsheet"
    assert (second["outcome"], second["result_error"]) == ("a,b\n", "nan")
    assert (third["outcome"], third["ended"]) == ("", "")


# --- what experiments say ---------------------------------------------------------


def test_numbers_that_json_does_not_have_are_null(bench: Bench) -> None:
    teller = open_run(bench, config={"x": math.nan, "y": [math.inf]})
    end = teller.ended(results={"a": math.nan, "b": -math.inf, "c": 1.0})
    bench.commit(teller, end)
    (found,) = bench.get("/run/episodes")["episodes"]
    assert found["results"] == {"a": None, "b": None, "c": 1.0}
    assert bench.get("/run")["config"] == {"x": None, "y": [None]}
    assert bench.get("")["runs"][0]["modes"]["eval"]["results"]["b"] is None


def test_values_that_json_does_not_have_are_text(bench: Bench) -> None:
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    config = {1: "one", b"key": b"value", "when": when, "none": {None: True}}
    open_run(bench, config=config)
    found = bench.get("/run")["config"]
    assert found["1"] == "one"
    assert found["b'key'"] == "b'value'"
    assert found["when"].startswith("2026-01-02")
    assert found["none"] == {"null": True}


def test_what_looks_like_html_stays_what_it_is(bench: Bench) -> None:
    nasty = "</script><script>alert(1)</script>"
    open_run(bench, experiment=nasty, tags={nasty: nasty})
    assert bench.get("/run")["experiment"] == nasty
    missing = bench.client.get("/api/v1/runs/<script>alert(1)<%2Fscript>")
    assert missing.mimetype in ("application/json", "text/plain")


# --- errors -----------------------------------------------------------------------

ERRORS: list[tuple[str, str, int, str]] = [
    ("GET", "/nobody", 404, "there is no run 'nobody'"),
    ("GET", "/nobody/episodes", 404, "there is no run 'nobody'"),
    ("GET", "/nobody/commands", 404, "there is no run 'nobody'"),
    ("DELETE", "/nobody", 404, "there is no run 'nobody'"),
    ("GET", "/run/nothing", 404, "not found"),
    ("GET", "/run/episodes?limit=many", 400, "limit has to be a number"),
    ("GET", "/run/episodes?after=now", 400, "after has to be a number"),
    ("DELETE", "/run", 409, "the run has not ended"),
    ("PUT", "/run", 405, "not allowed"),
    ("POST", "/run/episodes", 405, "not allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    ERRORS,
    ids=[f"{m} {p}" for m, p, *_ in ERRORS],
)
def test_errors_of_the_api_are_json_with_a_sentence(
    bench: Bench, method: str, path: str, status: int, sentence: str
) -> None:
    open_run(bench)
    answer = bench.client.open(f"/api/v1/runs{path}", method=method)
    assert sentence in checked(answer, status)["error"]


def test_a_bug_is_an_error_in_json_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*anything: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(web.views, "runs", fail)
    answer = bench.client.get("/api/v1/runs")
    assert "error" in checked(answer, 500)


def test_elsewhere_errors_are_text(bench: Bench) -> None:
    answer = bench.client.get("/nowhere")
    assert (answer.status_code, answer.mimetype) == (404, "text/plain")


@pytest.mark.parametrize("limit", ["0", "-5", "99999999999999999999"])
def test_limits_beyond_the_possible_are_bent_to_it(bench: Bench, limit: str) -> None:
    with_episodes(bench, 3)
    assert len(bench.get(f"/run/episodes?limit={limit}")["episodes"]) in (1, 3)


def test_what_could_not_be_used_is_told_by_reason(bench: Bench) -> None:
    bench.ears.counts.rejected["malformed"] += 3
    greedy = Teller(2, run="greedy")
    metrics = [counter(f"hits_{n}") for n in range(3000)]
    series = [(n, ()) for n in range(3000)]
    bench.commit(greedy, greedy.opened(), greedy.run_opened())
    bench.commit(greedy, greedy.schema(metrics, series))
    bench.sampled(greedy, 1, *[1.0] * 3000)
    bench.tick()
    bench.writer.dropped["contradiction"] += 2
    status = checked(bench.client.get("/api/v1/status"), 200)  # nobody has scraped
    assert status["rejected"] == {"malformed": 3}
    assert status["unused"] == {"contradiction": 2}
    assert status["series"]["refused"]["budget"] > 900
    assert "(budget)" in status["series"]["offenders"]["greedy"]
    assert (status["missing"], status["trouble"]) == (0, "")


# --- commands ---------------------------------------------------------------------


def post(bench: Bench, body: Any, run: str = "run", **options: Any) -> TestResponse:
    path = f"/api/v1/runs/{run}/commands"
    return bench.client.post(path, json=body, **options)


def takes(bench: Bench, teller: Teller, *names: str, number: int = 1) -> None:
    """The source says which commands it takes."""
    bench.sampled(teller, number, commands=names)
    bench.tick()


def two_processes(bench: Bench) -> tuple[Teller, Teller]:
    first, second = open_run(bench), Teller(2)
    bench.commit(second, second.opened("child", first.id))
    return first, second


def answer(teller: Teller, given: str, state: str, detail: str = "") -> Any:
    return teller.make(wire.CommandAnswered, command=given, state=state, detail=detail)


def test_a_command_goes_to_each_process_and_the_list_says_who_when_and_how(
    bench: Bench,
) -> None:
    first, second = two_processes(bench)
    body = {"command": "stop", "when": "episode", "source": None, "reason": "enough"}
    given = checked(post(bench, body), 202)["id"]
    ((run, sources, order),) = bench.ears.commands
    assert (run, sources) == ("run", None), "to all that are there by then"
    assert (order.id, order.name, order.when) == (given, "stop", "episode")
    assert (order.reason, order.by) == ("enough", "127.0.0.1")
    bench.commit(first, answer(first, given, "accepted"))
    bench.commit(second, answer(second, given, "failed", "cannot"))
    (listed,) = bench.get("/run/commands")["commands"]
    assert listed == {
        "id": given,
        "command": "stop",
        "when": "episode",
        "reason": "enough",
        "by": "127.0.0.1",
        "at": pytest.approx(bench.now),
        "source": None,
        "standing": True,
        "states": {"accepted": 1, "failed": 1},
        "sources": [
            {
                "source": first.id.hex(),
                "name": "host:1",
                "state": "accepted",
                "detail": "",
            },
            {
                "source": second.id.hex(),
                "name": "host:2",
                "state": "failed",
                "detail": "cannot",
            },
        ],
    }
    assert bench.get("/run")["state"] == "stopping"


def test_a_command_to_one_process_goes_to_no_other(bench: Bench) -> None:
    _, second = two_processes(bench)
    checked(post(bench, {"command": "stop", "source": second.id.hex()}), 202)
    ((_, sources, order),) = bench.ears.commands
    assert sources == [second.id]
    (listed,) = bench.get("/run/commands")["commands"]
    assert (listed["source"], listed["standing"]) == (second.id.hex(), False)
    assert [one["state"] for one in listed["sources"]] == ["sent"]
    bench.commit(second, second.started(), answer(second, order.id, "accepted"))
    assert bench.get("/run")["state"] == "running", "one of two stops"


def test_the_owners_stop_is_the_runs(bench: Bench) -> None:
    first, _ = two_processes(bench)
    given = checked(post(bench, {"command": "stop", "source": first.id.hex()}), 202)
    bench.commit(first, answer(first, given["id"], "accepted"))
    assert bench.get("/run")["state"] == "stopping"


def test_it_goes_to_those_that_take_it(bench: Bench) -> None:
    first, second = two_processes(bench)
    takes(bench, first, "save", "stop")
    takes(bench, second, "rest")
    checked(post(bench, {"command": "save"}), 202)
    ((_, sources, _),) = bench.ears.commands
    assert sources == [first.id]
    detail = bench.get("/run")
    assert detail["commands"] == ["rest", "save", "stop"]
    found = [one["commands"] for one in detail["source_list"]]
    assert found == [["save", "stop"], ["rest"]]
    body = {"command": "save", "source": second.id.hex()}
    said = checked(post(bench, body), 409)["error"]
    assert said == "nobody takes 'save'; taken are: rest"


def test_what_was_taken_by_who_has_left_is_not_taken(bench: Bench) -> None:
    _, second = two_processes(bench)
    takes(bench, second, "save")
    bench.commit(second, second.closed())
    assert bench.get("/run")["commands"] == []
    said = checked(post(bench, {"command": "save"}), 409)["error"]
    assert said == "nobody takes 'save'; taken are: none"
    body = {"command": "stop", "source": second.id.hex()}
    said = checked(post(bench, body), 409)["error"]
    assert said == "that process is not there any more"


def test_another_command_than_stop_stops_nothing(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(teller, teller.started())
    takes(bench, teller, "save")
    given = checked(post(bench, {"command": "save"}), 202)["id"]
    bench.commit(teller, answer(teller, given, "accepted"))
    assert bench.get("/run")["state"] == "running"
    assert not bench.get("/run/commands")["commands"][0]["standing"]


BAD_COMMANDS: list[tuple[str, Any, int, str]] = [
    ("no JSON object", [1], 400, "send JSON"),
    ("no command", {"when": "step"}, 400, "send JSON"),
    ("a command that is no text", {"command": 5}, 400, "send JSON"),
    ("a boundary", {"command": "stop", "when": "tomorrow"}, 400, "step, episode or"),
    ("a boundary that is no text", {"command": "stop", "when": []}, 400, "when is"),
    ("a reason", {"command": "stop", "reason": 5}, 400, "are texts"),
    ("a source", {"command": "stop", "source": ["a"]}, 400, "are texts"),
    (
        "a key",
        {"command": "stop", "resaon": "typo"},
        400,
        "'resaon' is not known; command, when, source, reason are",
    ),
    ("no process", {"command": "stop", "source": "beef"}, 404, "no source 'beef'"),
    ("an empty process", {"command": "stop", "source": ""}, 404, "no source ''"),
    ("nobody takes it", {"command": "save"}, 409, "nobody takes 'save'"),
    ("no name", {"command": ""}, 409, "nobody takes ''"),
]


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [b[1:] for b in BAD_COMMANDS],
    ids=[b[0] for b in BAD_COMMANDS],
)
def test_a_command_that_cannot_be_given_is_refused(
    bench: Bench, body: Any, status: int, why: str
) -> None:
    open_run(bench)
    assert why in checked(post(bench, body), status)["error"]
    assert bench.ears.commands == []
    assert bench.get("/run/commands")["commands"] == []


def test_a_form_of_another_site_gives_no_command(bench: Bench) -> None:
    """What a browser sends across sites without asking is no JSON."""
    open_run(bench)
    answer = bench.client.post(
        "/api/v1/runs/run/commands",
        data='{"command": "stop"}',
        content_type="text/plain",
    )
    checked(answer, 400)


def test_a_run_that_has_ended_takes_no_command(bench: Bench) -> None:
    close_run(bench, open_run(bench))
    assert "no process" in checked(post(bench, {"command": "stop"}), 409)["error"]


def test_half_a_character_can_be_said_to_nobody_and_harms_nothing(bench: Bench) -> None:
    teller = open_run(bench)
    takes(bench, teller, "x?")
    body = {"command": "x\ud800", "reason": "\udfff"}
    checked(post(bench, body), 202)
    _, _, order = bench.ears.commands[0]
    wire.encode(order)


def test_too_large_a_body_is_refused(bench: Bench) -> None:
    open_run(bench)
    assert post(bench, {"command": "x" * 100_000}).status_code in (400, 413)


ASKERS: list[tuple[str, str, str | None, str]] = [
    ("near", "127.0.0.1", None, "127.0.0.1"),
    (
        "by a proxy here",
        "127.0.0.1",
        "10.1.2.3, 10.0.0.1",
        "10.1.2.3, 10.0.0.1 (through 127.0.0.1)",
    ),
    ("by a proxy here, IPv6", "::1", "10.1.2.3", "10.1.2.3 (through ::1)"),
    ("a liar", "10.9.9.9", "127.0.0.1", "10.9.9.9"),
    ("odd", "127.0.0.1", "a\tb\x1b[1m", "a?b?[1m (through 127.0.0.1)"),
    ("long", "127.0.0.1", "x" * 900, f"{'x' * web.MAX_ASKER} (through 127.0.0.1)"),
]


@pytest.mark.parametrize(
    ("near", "far", "by"), [a[1:] for a in ASKERS], ids=[a[0] for a in ASKERS]
)
def test_who_asked_is_on_record_as_far_as_can_be_told(
    bench: Bench, near: str, far: str | None, by: str
) -> None:
    open_run(bench)
    headers = {} if far is None else {"X-Forwarded-For": far}
    base = {"REMOTE_ADDR": near}
    given = post(bench, {"command": "stop"}, headers=headers, environ_overrides=base)
    checked(given, 202)
    assert bench.get("/run/commands")["commands"][0]["by"] == by


def test_what_the_disk_refuses_is_not_given(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    open_run(bench)
    bench.journal.error = sqlite3.OperationalError("disk full")
    said = checked(post(bench, {"command": "stop"}), 503)["error"]
    assert "was not given" in said
    bench.journal.error = None
    bench.tick()
    assert bench.ears.commands == []
    assert bench.get("/run/commands")["commands"] == []
    checked(post(bench, {"command": "stop"}), 202)


def test_a_disk_that_takes_too_long_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(bench)
    bench.inbox.wake = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(Orders.give, "__defaults__", (0.01,))
    said = checked(post(bench, {"command": "stop"}), 503)["error"]
    assert "it may be given yet" in said
    bench.round()
    assert len(bench.get("/run/commands")["commands"]) == 1
    assert len(bench.ears.commands) == 1


def test_the_list_of_commands_keeps_the_newest_and_the_newest_stop(
    bench: Bench,
) -> None:
    teller = open_run(bench)
    takes(bench, teller, "save")
    for name in ("stop", "stop", *["save"] * (KEPT + 5)):
        checked(post(bench, {"command": name, "reason": str(bench.now)}), 202)
        bench.now += 1
    for _ in range(2):
        listed = bench.get("/run/commands")["commands"]
        assert [one["command"] for one in listed] == ["stop", *["save"] * KEPT]
        assert listed[0]["standing"]
        assert listed[0]["reason"] == str(NOON + 1)
        bench.writer.restore()


# --- deleting ---------------------------------------------------------------------


def test_deleting_an_ended_run_frees_its_id(bench: Bench) -> None:
    teller = with_episodes(bench, 3)
    checked(post(bench, {"command": "stop"}), 202)
    close_run(bench, teller)
    answer = bench.client.delete("/api/v1/runs/run")
    assert (answer.status_code, answer.data) == (204, b"")
    bench.tick()
    bench.get("/run", 404)
    assert bench.get("")["runs"] == []
    assert bench.state.place(Teller(2).id, "run", "owner", b"", False) == "run"
    open_run(bench, 2)
    assert bench.get("/run/episodes")["episodes"] == []
    assert bench.get("/run/commands")["commands"] == []


def test_a_run_is_not_deleted_while_a_process_of_it_lives(bench: Bench) -> None:
    owner, child = open_run(bench), Teller(2)
    bench.commit(child, child.opened("child", owner.id))
    close_run(bench, owner)
    answer = bench.client.delete("/api/v1/runs/run")
    assert "processes have not" in checked(answer, 409)["error"]


# --- health, metrics, headers -----------------------------------------------------


def test_before_the_journal_is_read_nothing_is_served_but_health(bench: Bench) -> None:
    bench.restored.clear()
    assert bench.client.get("/-/healthy").status_code == 200
    for path in ("/-/ready", "/metrics", "/api/v1/runs", "/nowhere"):
        answer = bench.client.get(path)
        assert answer.status_code == 503, path
        assert "the journal is being read" in answer.text
    bench.restored.set()
    assert bench.client.get("/metrics").status_code == 200


def test_it_is_ready_while_all_its_parts_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = [True]
    monkeypatch.setattr(bench.writer, "is_alive", lambda: alive[0])
    try:
        assert bench.client.get("/-/healthy").status_code == 200
        assert bench.client.get("/-/ready").status_code == 200
        bench.writer.trouble = "the journal cannot be written: disk full"
        answer = bench.client.get("/-/ready")
        assert (answer.status_code, answer.text) == (
            503,
            "the journal cannot be written: disk full\n",
        )
        bench.writer.trouble = ""
        bench.ears.alive = False
        assert bench.client.get("/-/ready").status_code == 503
        bench.ears.alive, alive[0] = True, False
        assert bench.client.get("/-/ready").status_code == 503
        assert bench.client.get("/-/healthy").status_code == 200
    finally:
        alive[0] = False


def test_metrics_are_text_or_openmetrics_as_asked_for(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(teller, teller.started(), teller.ended())
    plain = bench.client.get("/metrics")
    assert plain.headers["Content-Type"] == CONTENT_TYPE_TEXT
    assert 'experiment_run_state{experiment="demo"' in plain.text
    assert "episight_own 7.0" in plain.text
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    found = bench.client.get("/metrics", headers=accept)
    assert found.headers["Content-Type"] == CONTENT_TYPE_OPENMETRICS
    assert found.text.endswith("# EOF\n")
    assert found.text.count("# EOF") == 1
    assert "trace_id" in found.text


@pytest.mark.parametrize(
    "path", ["/metrics", "/-/ready", "/api/v1/runs", "/api/v1/runs/nobody", "/nowhere"]
)
def test_every_answer_has_the_headers_that_keep_browsers_from_harm(
    bench: Bench, path: str
) -> None:
    headers = bench.client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_steps_are_served_as_the_api_says_them(bench: Bench) -> None:
    """Metrics and API are two views of one state."""
    teller = open_run(bench)
    specs = [STEPS, counter("hits")]
    schema = teller.schema(specs, [(0, ("eval",)), (0, ("train",)), (1, ())])
    bench.commit(teller, schema)
    bench.state.apply_sample(teller.id, sample(1, [7.0, 9.0, 5.0]), NOON)
    modes = bench.get("/run")["modes"]
    assert {mode: said["steps"] for mode, said in modes.items()} == {
        "eval": 7,
        "train": 9,
    }
    text = bench.client.get("/metrics").text
    assert (
        'experiment_steps_total{experiment="demo",mode="train",run="run"} 9.0' in text
    )


@pytest.mark.parametrize(
    ("accepts", "zipped"),
    [("", False), ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False)],
)
@pytest.mark.parametrize("format_", ["text/plain", "application/openmetrics-text"])
def test_a_scrape_is_compressed_for_whoever_takes_it(
    bench: Bench, accepts: str, zipped: bool, format_: str
) -> None:
    open_run(bench)
    headers = {"Accept": format_, "Accept-Encoding": accepts}
    answer = bench.client.get("/metrics", headers=headers)
    assert answer.headers.get("Content-Encoding") == ("gzip" if zipped else None)
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert {*answer.headers["Vary"].split(", ")} >= {"Accept", "Accept-Encoding"}
    body = gzip.decompress(answer.data) if zipped else answer.data
    assert b"experiment_run_info{" in body
    assert body.endswith(b"# EOF\n") == ("openmetrics" in format_)


def test_pages_and_what_they_need_are_compressed_and_known_again(bench: Bench) -> None:
    open_run(bench)
    get = partial(bench.client.get, buffered=True)
    takes = {"Accept-Encoding": "gzip"}
    for path in ("/static/style.css", "/static/live.js", "/api/v1/runs/run"):
        plain = get(path).data
        answer = get(path, headers=takes)
        assert answer.headers["Vary"] == "Accept-Encoding"
        whole = len(plain) < 1024
        assert answer.headers.get("Content-Encoding") == (None if whole else "gzip")
        assert (answer.data if whole else gzip.decompress(answer.data)) == plain
    answer = get("/static/live.js", headers=takes)
    again = {**takes, "If-None-Match": answer.headers["ETag"]}
    assert get("/static/live.js", headers=again).status_code == 304
    part = get("/static/live.js", headers={**takes, "Range": "bytes=0-9"})
    assert (part.status_code, len(part.data)) == (206, 10)
