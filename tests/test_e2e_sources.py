"""End to end, from real processes: one or many, long or short, with or without us."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from experiment_hooks import wire
from tests.support import Exporter, Pythons, clean_environment, eventually, once

# Prepended to what has to wait for the test: a file that it makes.
WAITING = """
import pathlib, time

def wait_for(name):
    end = time.monotonic() + 60
    while not pathlib.Path(name).exists():
        if time.monotonic() > end:
            raise SystemExit(f"{name} never came")
        time.sleep(0.005)
"""

# One process's work: so many episodes of so many steps, and a counter of tenths.
WORK = """
def work(run, seed, episodes, steps):
    tenths = run.counter("tenths", "Tenths.")
    load = run.gauge("load", "Load.", merge="sum")
    wait = run.histogram("wait_seconds", "Waits.", buckets=[0.1, 1])
    load.set(seed)
    for index in range(episodes):
        with run.episode(mode="eval", index=index, seed=seed) as ep:
            with ep.phase("looking"):
                for step in range(steps):
                    ep.step(state={"x": step})
                    tenths.inc(0.1)
                    wait.observe(0.5)
            ep.finish(outcome=("correct", "confused")[index % 2],
                      results={"return": index})
"""


def totals(exporter: Exporter, run: str) -> Dict[str, Any]:
    """What is counted of a run."""
    names = {
        "started": "experiment_episodes_started_total",
        "steps": "experiment_steps_total",
        "tenths": "experiment_tenths_total",
        "waits": "experiment_wait_seconds_count",
        "durations": "experiment_episode_duration_seconds_count",
        "step_durations": "experiment_step_duration_seconds_count",
        "phases": "experiment_phases_total",
    }
    found = {key: exporter.value(name, run=run) for key, name in names.items()}
    for one in exporter.samples("experiment_episodes_total", run=run):
        found[one.labels["outcome"]] = one.value
    return found


def expected(processes: int, episodes: int, steps: int) -> Dict[str, Any]:
    every = processes * episodes * steps
    return {
        "started": processes * episodes,
        "steps": every,
        "tenths": pytest.approx(every / 10, rel=1e-12),
        "waits": every,
        "durations": processes * episodes,
        "step_durations": every,
        "phases": processes * episodes,
        "correct": processes * ((episodes + 1) // 2),
        "confused": processes * (episodes // 2),
    }


# --- many processes ---------------------------------------------------------------


def test_four_processes_of_multiprocessing_are_one_run(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    code = f"""
import multiprocessing
import experiment_hooks as eh
{WORK}

def child(seed):
    with eh.open_run("fleet") as run:
        work(run, seed, 7, 30)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with eh.open_run("fleet", run_id="fleet") as run:
        children = [context.Process(target=child, args=(n,)) for n in range(1, 5)]
        for one in children:
            one.start()
        for one in children:
            one.join()
        assert [one.exitcode for one in children] == [0] * 4
"""
    run_python(code, env=exporter.env)
    eventually(lambda: exporter.run("fleet")["state"] == "completed")
    # They have exited: it is exact at once.
    assert totals(exporter, "fleet") == expected(4, 7, 30)
    found = exporter.run("fleet")
    assert found["sources"] == {"live": 0, "ended": 5, "lost": 0}
    assert found["missing"] == 0
    assert [run["run"] for run in exporter.runs()] == ["fleet"]
    seeds = {one["seed"] for one in exporter.episodes("fleet")}
    assert seeds == {1, 2, 3, 4}
    assert exporter.value("experiment_load", run="fleet") == 10


def test_four_commands_that_share_an_id_are_one_run(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process("run.grace_seconds=1")
    code = f"""
import sys
import experiment_hooks as eh
{WORK}
with eh.open_run("shared") as run:
    work(run, int(sys.argv[1]), 7, 30)
"""
    env = {**exporter.env, "EPISIGHT_RUN_ID": "night"}
    children = [run_python.start(code, str(n), env=env) for n in range(1, 5)]
    for child in children:
        assert child.wait() == 0, child.output
    eventually(lambda: exporter.run("night")["state"] == "completed")
    assert totals(exporter, "night") == expected(4, 7, 30)
    assert exporter.run("night")["sources"] == {"live": 0, "ended": 4, "lost": 0}
    assert len(exporter.runs()) == 1


# --- without an exporter ----------------------------------------------------------

LONELY = f"""
import logging, time
logging.basicConfig(level=logging.INFO)
import experiment_hooks as eh
{WAITING}{WORK}
with eh.open_run("lonely", run_id="lonely") as run:
    work(run, 1, 20, 50)
    wait_for("go")
    work(run, 2, 20, 50)
    leaving = time.monotonic()
print("LEFT AFTER", time.monotonic() - leaving)
"""
NOBODY = "nobody is listening"


def test_without_an_exporter_the_experiment_runs_to_its_end_and_says_so_once(
    run_python: Pythons, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    nowhere = {"EPISIGHT_ENDPOINT": "tcp://127.0.0.1:1"}
    ended = run_python(LONELY, env=nowhere)
    lines = [line for line in ended.output.splitlines() if NOBODY in line]
    assert len(lines) == 1
    assert "python -m exporter" in lines[0]
    left = re.search(r"LEFT AFTER ([\d.]+)", ended.output)
    assert left is not None
    assert float(left[1]) < 1.0  # promised are 50 ms; this machine is busy


def test_an_exporter_that_comes_later_is_told_what_was_before(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    assert exporter.terminate() == 0  # its ports are known, nobody is there
    child = run_python.start(LONELY, env=exporter.env)
    child.wait_for(NOBODY)
    exporter.start()
    started = time.monotonic()
    eventually(lambda: exporter.value("experiment_episodes_started_total") == 20)
    print(f"seen {time.monotonic() - started:.2f} s after the start")
    (tmp_path / "go").touch()
    assert child.wait() == 0, child.output
    eventually(lambda: exporter.run("lonely")["state"] == "completed")
    assert totals(exporter, "lonely") == expected(1, 40, 50)
    assert exporter.run("lonely")["missing"] == 0
    assert child.output.count(NOBODY) == 1


# --- short lives ------------------------------------------------------------------

# It lives as long as it takes the exporter to answer once; then it is gone at once.
SHORT = f"""
import time
import experiment_hooks as eh
{WORK}
with eh.open_run("short") as run:
    work(run, 1, 1, 3)
    end = time.monotonic() + 10
    while not run.url and time.monotonic() < end:
        time.sleep(0.001)
"""


def test_a_process_that_lives_for_one_episode_is_counted(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    run_python(SHORT, env=exporter.env)
    # No waiting: what it closed with was committed before it left.
    (run,) = exporter.runs()
    assert run["state"] == "completed"
    assert totals(exporter, run["run"]) == {
        key: value for key, value in expected(1, 1, 3).items() if key != "confused"
    }


def a_hundred(directory: Path, env: Dict[str, str]) -> None:
    """A hundred processes one after another; two at a time, for there are two cores."""
    path = directory / "short.py"
    path.write_text(SHORT)
    environ = clean_environment(directory, env)
    waiting: List[subprocess.Popen[bytes]] = []
    for _ in range(100):
        child = subprocess.Popen(
            [sys.executable, str(path)], env=environ, stderr=subprocess.DEVNULL
        )
        waiting.append(child)
        if len(waiting) == 2:
            assert waiting.pop(0).wait(30) == 0
    assert waiting.pop().wait(30) == 0


@once
def test_a_hundred_short_processes_are_one_run_where_they_share_an_id(
    exporter_process: Callable[..., Exporter], tmp_path: Path
) -> None:
    exporter = exporter_process("run.grace_seconds=1")
    a_hundred(tmp_path, {**exporter.env, "EPISIGHT_RUN_ID": "many"})
    assert exporter.value("experiment_episodes_total", run="many") == 100
    assert exporter.value("experiment_steps_total", run="many") == 300
    assert exporter.value("experiment_tenths_total", run="many") == pytest.approx(30)
    found = exporter.run("many")
    assert found["sources"] == {"live": 0, "ended": 100, "lost": 0}
    assert len(exporter.runs()) == 1
    eventually(lambda: exporter.run("many")["state"] == "completed")


@once
def test_a_hundred_short_processes_are_a_hundred_runs_where_they_share_none(
    exporter_process: Callable[..., Exporter], tmp_path: Path
) -> None:
    # One after another: one that runs beside its like still has its own run.
    exporter = exporter_process("metrics.max_series_per_run=200")
    a_hundred(tmp_path, exporter.env)
    runs = exporter.runs()
    assert len({run["run"] for run in runs}) == 100
    assert {run["state"] for run in runs} == {"completed"}
    found = exporter.samples("experiment_episodes_total")
    assert sum(one.value for one in found) == 100
    assert exporter.value("episight_series_refused_total") in (None, 0)


# As people write it: nothing in it waits for anybody.
SHORTEST = f"""
import experiment_hooks as eh
{WORK}
with eh.open_run("short") as run:
    work(run, 1, 1, 3)
"""


@pytest.mark.parametrize("shared", [True, False], ids=["one_run", "a_run_each"])
def test_short_processes_one_after_another_are_counted_though_none_waits(
    exporter_process: Callable[..., Exporter], run_python: Pythons, shared: bool
) -> None:
    exporter = exporter_process()
    run_id = {"EPISIGHT_RUN_ID": "many"} if shared else {}
    for number in range(1, 21):
        ended = run_python(SHORTEST, env={**exporter.env, **run_id})
        found = exporter.samples("experiment_episodes_total")
        assert sum(one.value for one in found) == number, ended.output
    steps = exporter.samples("experiment_steps_total")
    assert sum(one.value for one in steps) == 20 * 3
    assert len(exporter.runs()) == (1 if shared else 20)
    assert [run["missing"] for run in exporter.runs() if run["missing"]] == []


# --- killed -----------------------------------------------------------------------


def test_a_killed_source_is_lost_and_its_episode_is_closed_as_lost(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process("verdict.lost_seconds=1", "traces.lost_after=1")
    code = f"""
import experiment_hooks as eh
{WAITING}{WORK}
with eh.open_run("victim", run_id="victim") as run:
    work(run, 1, 4, 25)
    with run.episode(mode="eval", index=4) as ep:
        print("TRACE", ep.trace_id, flush=True)
        for step in range(100_000):
            ep.step()
            time.sleep(0.005)
"""
    child = run_python.start(code, env=exporter.env)
    child.wait_for("TRACE")
    eventually(lambda: (exporter.value("experiment_steps_total") or 0) > 110)
    before = totals(exporter, "victim")
    child.signal(signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: exporter.run("victim")["state"] == "lost", 15)
    lost_after = time.monotonic() - killed
    found = eventually(lambda: exporter.episodes("victim", "?outcome=lost"), 15)
    closed_after = time.monotonic() - killed
    print(f"lost after {lost_after:.1f} s, closed after {closed_after:.1f} s")
    # A probe finds it when it has been silent for 2.5 s; then come the two settings.
    assert closed_after < 10

    (episode,) = found
    assert f"TRACE {episode['trace_id']}" in child.output
    assert episode["error"]["type"] == "source_lost"
    after = totals(exporter, "victim")
    assert {key: after[key] for key in after if after[key] < before[key]} == {}
    assert episode["steps"] == after["steps"] - 100 > 10
    assert after["correct"] + after["confused"] == after["durations"] == 4
    assert exporter.value("experiment_episodes_lost_total") == 1
    assert exporter.value("experiment_run_sources", state="lost") == 1
    assert "was not heard again" in exporter.run("victim")["reason"]
    state = {
        one.labels["state"]
        for one in exporter.samples("experiment_run_state")
        if one.value
    }
    assert state == {"lost"}


def test_a_source_that_was_only_stopped_comes_back_and_its_end_counts(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    """A laptop that slept: it says hello again, and its late end is the true one."""
    exporter = exporter_process("verdict.lost_seconds=1", "traces.lost_after=0")
    code = f"""
import experiment_hooks as eh
{WAITING}{WORK}
with eh.open_run("sleeper", run_id="sleeper") as run:
    with run.episode(mode="eval", index=0) as ep:
        ep.step()
        print("OPEN", flush=True)
        wait_for("go")
        ep.finish(outcome="correct")
"""
    child = run_python.start(code, env=exporter.env)
    child.wait_for("OPEN")
    eventually(lambda: exporter.value("experiment_steps_total") == 1)
    # Its connection goes, its process does not hear of it: another takes its place.
    child.signal(signal.SIGSTOP)
    found = exporter.run("sleeper")
    impostor = _Impostor(exporter.ingest, found["source_list"][0]["source"])
    impostor.hello("sleeper")
    impostor.close()
    eventually(lambda: exporter.run("sleeper")["state"] == "lost", 15)
    eventually(lambda: exporter.episodes("sleeper", "?outcome=lost"), 15)
    child.signal(signal.SIGCONT)
    eventually(lambda: exporter.run("sleeper")["state"] == "running", 15)
    (tmp_path / "go").touch()
    assert child.wait() == 0, child.output
    eventually(lambda: exporter.run("sleeper")["state"] == "completed")
    (episode,) = exporter.episodes("sleeper")
    assert (episode["outcome"], episode["late"]) == ("correct", True)
    assert exporter.value("experiment_episodes_total", outcome="correct") == 1
    assert exporter.value("experiment_episodes_lost_total") == 1


class _Impostor:
    """Says hello in the name of a source, and goes."""

    def __init__(self, address: str, source: str) -> None:
        import zmq

        self._source = bytes.fromhex(source)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def hello(self, run: str) -> None:
        said = wire.Hello(wire.PROTOCOL, self._source, run, time.time())
        self._socket.send(wire.encode(said))
        assert self._socket.poll(10_000)
        answer = wire.decode_from_exporter(self._socket.recv())
        assert isinstance(answer, wire.Welcome)

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


def test_a_job_that_was_killed_and_requeued_goes_on_with_its_run(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    """It does not wait until the first try counts as lost."""
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}{WORK}
with eh.open_run("job", run_id="job-7", resume=True) as run:
    work(run, 1, 3, 10)
    print("WORKED", flush=True)
    wait_for("go")
"""
    first = run_python.start(code, env=exporter.env)
    first.wait_for("WORKED")
    eventually(lambda: exporter.value("experiment_steps_total") == 30)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (tmp_path / "go").touch()
    run_python(code, env=exporter.env)
    found = eventually(lambda: exporter.run("job-7"))
    assert (found["state"], found["attempts"]) == ("completed", 2)
    assert exporter.value("experiment_episodes_started_total", run="job-7") == 6
    assert exporter.value("experiment_steps_total", run="job-7") == 60
    assert [run["run"] for run in exporter.runs()] == ["job-7"]
