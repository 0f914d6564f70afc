"""The composition root: starts all or nothing, stops in order, says where it is."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from experiment_hooks import wire
from exporter import app, salvage
from exporter.app import App, Outbox, StartError, write_atomically
from exporter.journal import Journal
from exporter.journalfile import JournalError
from exporter.settings import Settings
from tests.making import NOON, Teller
from tests.support import free_port, http
from tests.test_writer import Bench


def settings(directory: Path, **more: Any) -> Settings:
    return Settings.of(
        {
            "web": {"port": 0},
            "ingest": {"port": 0, "address_file": str(directory / "where" / "a.json")},
            "journal": {"path": str(directory / "journal.sqlite")},
            **more,
        }
    )


# --- its life -------------------------------------------------------------------------


def test_it_runs_and_says_where_and_frees_everything_when_it_closes(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        running = App(settings(tmp_path), {})
        said = json.loads((tmp_path / "where" / "a.json").read_text())
        assert (said["web"], said["ingest"]) == (running.web, running.ingest)
        assert http(f"{running.web}/-/ready").status == 200
        running.close()
        running.close()
        with pytest.raises(OSError, match="refused"):
            http(f"{running.web}/-/ready")
    with Journal(tmp_path / "journal.sqlite", traces=False):
        pass  # it was let go


def test_while_a_damaged_journal_is_mended_it_says_that_it_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes may pass, in which an orchestrator must not take it for dead."""
    with Journal(tmp_path / "journal.sqlite", traces=False) as journal:
        journal.condemn("a test says so")
    port = free_port()
    said: list[int] = []
    real = salvage.mend

    def mend(*given: Any) -> salvage.Kept:
        paths = ("/-/healthy", "/-/ready", "/metrics", "/")
        said.extend(http(f"http://127.0.0.1:{port}{path}").status for path in paths)
        return real(*given)

    monkeypatch.setattr(salvage, "mend", mend)
    with App(settings(tmp_path, web={"port": port}), {}) as running:
        assert said == [200, 503, 503, 503]
        assert http(f"{running.web}/-/ready").status == 200


@pytest.mark.parametrize("key", ["web", "ingest"])
def test_one_that_cannot_start_leaves_nothing_behind(tmp_path: Path, key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            StartError, match=f"port {port} cannot be used.*{key}.port="
        ):
            App(settings(tmp_path, **{key: {"port": port}}), {})
    App(settings(tmp_path), {}).close()  # the journal and the ports are free


def test_a_trace_store_that_cannot_be_understood_is_said_at_the_start(
    tmp_path: Path,
) -> None:
    with pytest.raises(StartError, match="OTEL_EXPORTER_OTLP"):
        App(settings(tmp_path), {"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense"})
    App(settings(tmp_path), {}).close()


def test_a_second_one_on_the_same_journal_is_refused(tmp_path: Path) -> None:
    with App(settings(tmp_path), {}), pytest.raises(JournalError, match="another"):
        App(settings(tmp_path), {})


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


# --- where it is ----------------------------------------------------------------------

ADDRESSES = [
    ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
    ("tcp://[::1]:5555", "tcp://[::1]:5555"),
    ("tcp://10.0.0.7:1", "tcp://10.0.0.7:1"),
    ("tcp://0.0.0.0:5555", "tcp://here:5555"),
    ("tcp://[::]:5555", "tcp://here:5555"),
]


@pytest.mark.parametrize(("bound", "told"), ADDRESSES)
def test_what_it_says_can_be_connected_to(
    bound: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(app.socket, "getaddrinfo", lambda *anything: [])
    assert app._reachable(bound) == told


def test_a_host_that_has_no_address_is_reached_from_here_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app.socket, "gethostname", lambda: "nowhere.invalid")

    def unknown(*anything: object) -> None:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(app.socket, "getaddrinfo", unknown)
    assert app._reachable("tcp://0.0.0.0:5") == "tcp://127.0.0.1:5"


# --- the outbox -----------------------------------------------------------------------


def test_what_was_delivered_is_not_handed_out_again_before_its_commit(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal.sqlite")
    try:
        teller = Teller()
        bench.arrive(teller, teller.opened(name="worker"), teller.run_opened())
        bench.arrive(teller, *(teller.ended(number) for number in range(5)))
        bench.round()
        outbox = Outbox(bench.reader, bench.state, bench.writer)
        first = outbox.pending(2)
        assert [trace.episode.number for _, trace in first] == [0, 1]
        outbox.done([key for key, _ in first])
        rest = outbox.pending(10)
        assert [trace.episode.number for _, trace in rest] == [2, 3, 4]
        outbox.done([key for key, _ in rest])
        assert outbox.pending(10) == []
        assert bench.reader.count_to_send() == 5
        bench.tick()
        assert bench.reader.count_to_send() == 0
        assert outbox.pending(10) == []
        assert outbox._done == set()
    finally:
        bench.close()


def test_a_trace_knows_its_run_its_source_and_the_episode_before(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal.sqlite")
    try:
        teller = Teller(run="asked")
        bench.arrive(teller, teller.opened(), teller.run_opened("demo"))
        bench.arrive(teller, teller.ended(0), teller.ended(1))
        bench.round()
        outbox = Outbox(bench.reader, bench.state, bench.writer)
        (_, first), (_, second) = outbox.pending(10)
        assert (first.run, first.experiment, first.host) == ("asked", "demo", "host")
        assert (first.previous, first.lost, first.late) == (None, False, False)
        assert second.previous == wire.trace_id("asked", teller.id, 0)
        assert second.episode.started == NOON
    finally:
        bench.close()
