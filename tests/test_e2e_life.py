"""End to end: how runs end, and how the exporter itself starts and ends."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from experiment_hooks import wire
from exporter.journal import Batch, Entry, Journal
from tests.making import Teller
from tests.support import Child, Exporter, Pythons, eventually, free_port, http
from tests.test_e2e_sources import WAITING, WORK

# --- verdicts ---------------------------------------------------------------------

ENDINGS: Dict[str, str] = {
    "completed": "",
    "failed": 'raise ValueError("no such mug")',
    "stopped": "os.kill(os.getpid(), signal.SIGINT); time.sleep(10)",
    "gone": 'wait_for("go"); os._exit(3)',
}


def run_that(does: str, name: str = "run") -> str:
    return f"""
import os, signal, time
import experiment_hooks as eh
{WAITING}{WORK}
with eh.open_run("ends", run_id="{name}") as run:
    work(run, 1, 2, 5)
    {does}
"""


def state_of(exporter: Exporter, run: str) -> str:
    """The run's state as the API says it, which is the one that the metrics say."""
    found = exporter.run(run)["state"]
    shown = {
        one.labels["state"]: one.value
        for one in exporter.samples("experiment_run_state", run=run)
    }
    assert sum(shown.values()) == 1
    assert shown[found] == 1  # else it is just changing: asked again
    return str(found)


def test_a_run_ends_as_its_process_does(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process("verdict.lost_seconds=0.5")
    children = {
        name: run_python.start(run_that(does, name), env=exporter.env)
        for name, does in ENDINGS.items()
    }
    eventually(lambda: exporter.run("gone")["modes"])
    (tmp_path / "go").touch()
    for child in children.values():
        child.wait()
    for name in ("completed", "failed", "stopped"):
        eventually(lambda end=name: state_of(exporter, end) == end)
    eventually(lambda: state_of(exporter, "gone") == "lost", 15)

    error = exporter.run("failed")["error"]
    assert (error["type"], error["message"]) == ("ValueError", "no such mug")
    assert 'raise ValueError("no such mug")' in error["traceback"]
    assert exporter.run("stopped")["reason"] == "user"
    assert exporter.run("completed")["error"] is None
    assert "was not heard again" in exporter.run("gone")["reason"]
    for name in ENDINGS:
        found = exporter.run(name)
        assert found["started"] <= found["ended"] <= time.time()
        assert found["modes"]["eval"]["episodes"] == 2


def test_a_run_that_does_not_keep_its_promise_is_stalled_until_it_goes_on(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("slow", run_id="slow", promise=1) as run:
    wait_for("begin")
    with run.episode(mode="eval") as ep:
        for turn in range(2):
            ep.step()
            wait_for(f"go{{turn}}")
            deadline = time.monotonic() + 60
            while not pathlib.Path(f"rest{{turn}}").exists():
                assert time.monotonic() < deadline
                ep.step()
                time.sleep(0.02)
"""
    child = run_python.start(code, env=exporter.env)
    eventually(lambda: state_of(exporter, "slow") == "starting")
    (tmp_path / "begin").touch()
    for turn in range(2):
        eventually(lambda: state_of(exporter, "slow") == "stalled", 15)
        assert "no progress for more than 1 s" in exporter.run("slow")["reason"]
        assert exporter.value("experiment_run_progress_promise_seconds") == 1
        (tmp_path / f"go{turn}").touch()
        eventually(lambda: state_of(exporter, "slow") == "running", 15)
        (tmp_path / f"rest{turn}").touch()
    assert child.wait() == 0, child.output
    eventually(lambda: state_of(exporter, "slow") == "completed")


def test_a_stop_that_somebody_asked_for_is_stopping_and_then_stopped(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("stoppable", run_id="stoppable", stoppable=True) as run:
    for index in range(2):
        with run.episode(mode="eval", index=index) as ep:
            print("OPEN", flush=True)
            ep.step()
            wait_for("go")
            ep.step()
            ep.finish(outcome="correct")
"""
    child = run_python.start(code, env=exporter.env)
    child.wait_for("OPEN")
    eventually(lambda: state_of(exporter, "stoppable") == "running")
    body = {"command": "stop", "when": "episode", "reason": "enough"}
    answer = exporter.post("/api/v1/runs/stoppable/commands", body)
    assert answer.status == 202, answer
    eventually(lambda: state_of(exporter, "stoppable") == "stopping")
    (child.log.parent / "go").touch()
    child.wait()
    eventually(lambda: state_of(exporter, "stoppable") == "stopped")
    (listed,) = exporter.get("/api/v1/runs/stoppable/commands").json()["commands"]
    assert listed["id"] == answer.json()["id"]
    assert [one["state"] for one in listed["sources"]] == ["done"]
    assert [one["outcome"] for one in exporter.episodes("stoppable")] == ["correct"]


# --- deleting ---------------------------------------------------------------------


def test_an_ended_run_can_be_deleted_and_its_id_used_again(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    code = run_that("", "again")
    for _ in range(2):
        run_python(code, env=exporter.env)
        eventually(lambda: exporter.run("again")["state"] == "completed")
        assert len(exporter.episodes("again")) == 2
        assert exporter.delete("/api/v1/runs/again").status == 204
        eventually(lambda: exporter.get("/api/v1/runs/again").status == 404)
        assert exporter.samples("experiment_run_info", run="again") == []
    exporter.restart()
    assert exporter.runs() == []


def test_a_run_that_goes_on_is_not_deleted(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    child = run_python.start(run_that('wait_for("go")'), env=exporter.env)
    eventually(lambda: exporter.run("run"))
    refused = exporter.delete("/api/v1/runs/run")
    assert (refused.status, refused.json()) == (409, {"error": "the run has not ended"})
    (tmp_path / "go").touch()
    assert child.wait() == 0, child.output


# --- the exporter's own life ------------------------------------------------------


def test_sigterm_commits_all_that_has_come_and_leaves_with_0(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("flood", run_id="flood") as run:
    for index in range(3000):
        with run.episode(mode="eval", index=index) as ep:
            ep.finish(outcome="correct")
    wait_for("go")
"""
    child = run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.value("experiment_episodes_total"))
    started = time.monotonic()
    assert exporter.terminate() == 0
    assert time.monotonic() - started < 5
    assert "stopping" in exporter.output
    assert "Traceback" not in exporter.output
    exporter.start()
    eventually(lambda: exporter.value("experiment_episodes_total") == 3000, 15)
    (tmp_path / "go").touch()
    assert child.wait() == 0, child.output
    eventually(lambda: exporter.run("flood")["state"] == "completed")
    assert exporter.run("flood")["missing"] == 0
    assert exporter.value("experiment_episodes_total") == 3000


def test_it_leaves_nothing_where_it_was_started(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    run_python(run_that(""), env=exporter.env)
    assert exporter.terminate() == 0
    assert list(exporter.cwd.iterdir()) == []


def test_by_default_its_journal_lies_with_the_users_state(
    exporter_process: Callable[..., Exporter], tmp_path: Path
) -> None:
    exporter = exporter_process(
        "journal.path=${oc.env:XDG_STATE_HOME}/episight/journal.sqlite"
    )
    assert exporter.terminate() == 0
    state = exporter.directory / "state" / "episight"
    assert (state / "journal.sqlite").exists()
    assert list(exporter.cwd.iterdir()) == []


def one_line(child: Child, sentence: str) -> None:
    """It has ended with status 2, and says why in one line."""
    assert child.wait(30) == 2, child.output
    (line,) = child.output.strip().splitlines()
    assert line.startswith("episight: ")
    assert sentence in line


@pytest.mark.parametrize("key", ["web.port", "ingest.port"])
def test_a_port_that_is_taken_is_one_clear_line(
    key: str, exporter_process: Callable[..., Exporter]
) -> None:
    first = exporter_process()
    port = (first.web if key == "web.port" else first.ingest).rsplit(":", 1)[1]
    second = exporter_process(f"{key}={port}", wait=False)
    one_line(second.launch(), f"port {port} cannot be used")
    assert f"Choose another with {key}=..." in second.output
    assert first.get("/-/ready").status == 200


def test_a_second_exporter_on_one_journal_is_one_clear_line(
    exporter_process: Callable[..., Exporter],
) -> None:
    first = exporter_process()
    second = exporter_process(f"journal.path={first.journal}", wait=False)
    one_line(second.launch(), "another exporter uses the journal")
    assert first.get("/-/ready").status == 200
    # And none is left behind by one that was killed.
    first.kill()
    first.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_the_start_ends_it_too(
    number: int, exporter_process: Callable[..., Exporter]
) -> None:
    exporter = exporter_process(wait=False)
    child = exporter.launch()
    eventually(exporter.journal.exists)
    child.signal(number)
    assert child.wait(20) == 0, child.output


def threads_that_take_signals(pid: int) -> Iterator[int]:
    """But the main one; ZeroMQ's own block all."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            blocked = "SigBlk:\t0000000000000000" not in (task / "status").read_text()
        except OSError:  # it has just ended, as a request's does
            continue
        if not blocked and int(task.name) != pid:
            yield int(task.name)


def test_a_signal_is_heard_whichever_thread_it_comes_to(
    exporter_process: Callable[..., Exporter],
) -> None:
    """The system may give it to any of them, and the main one sleeps in C."""
    exporter = exporter_process()
    main = exporter.process.pid
    kill = ctypes.CDLL(None).tgkill
    assert any(
        kill(main, thread, signal.SIGTERM) == 0  # not one that has just ended
        for thread in threads_that_take_signals(main)
    )
    assert exporter.process.wait(20) == 0, exporter.output
    assert "stopping" in exporter.output


def test_while_it_reads_its_journal_it_says_so(
    exporter_process: Callable[..., Exporter],
) -> None:
    """So that no scrape ever sees less than there was."""
    exporter = exporter_process(wait=False)
    exporter.journal.parent.mkdir(parents=True, exist_ok=True)
    teller = Teller(run="long")
    with Journal(exporter.journal, traces=False) as journal:
        told = [teller.opened(), teller.run_opened()]
        for number in range(50_000):
            told += [teller.started(number), teller.ended(number)]
        entries = [Entry("long", one.time, wire.encode(one), one) for one in told]
        journal.commit(Batch(entries=entries))
    port = free_port()
    exporter = exporter_process(
        f"journal.path={exporter.journal}", f"web.port={port}", wait=False
    )
    exporter.launch()
    seen: Dict[str, int] = {}

    def ready() -> bool:
        answer = http(f"http://127.0.0.1:{port}/metrics")
        said = "50000.0" if "50000.0" in answer.text else answer.text
        seen[f"{answer.status} {said}"] = 1
        return answer.status == 200

    eventually(ready, 60)
    assert list(seen) == ["503 not ready: the journal is being read\n", "200 50000.0"]


def test_the_address_file_says_where_it_is(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    import json

    exporter = exporter_process()
    said: Dict[str, Any] = json.loads(exporter.address_file.read_text())
    assert said["ingest"].startswith("tcp://127.0.0.1:")
    assert said["web"] == exporter.web
    assert said["pid"] == exporter.process.pid
    env = {"EPISIGHT_ENDPOINT": f"file://{exporter.address_file}"}
    run_python(run_that(""), env=env)
    assert exporter.run("run")["state"] == "completed"
    assert os.listdir(exporter.address_file.parent).count("address.json") == 1
