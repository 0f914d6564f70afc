"""End to end: each verdict, of a run to which that really happens.

How runs end by themselves, by an exception, by Ctrl-C and by ``os._exit`` is in
``test_e2e_life.py``; a SIGKILL in the middle of an episode in ``test_e2e_sources.py``.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, Set

import pytest

from tests.support import ROOT, Exporter, Pythons, eventually
from tests.test_e2e_life import state_of
from tests.test_e2e_sources import WAITING, _Impostor

FLOOR = 0.5
"""Seconds, for ``verdict.promise_floor_seconds``: what takes minutes takes moments."""


@pytest.fixture(scope="module")
def shared_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    exporter = Exporter(
        tmp_path_factory.mktemp("exporter"),
        "verdict.lost_seconds=1",
        f"verdict.promise_floor_seconds={FLOOR}",
    )
    try:
        yield exporter.start()
    finally:
        exporter.stop()


@pytest.fixture
def exporter(shared_exporter: Exporter, show_log: Callable[[Path], None]) -> Exporter:
    show_log(shared_exporter.log)
    return shared_exporter


class Seen:
    """The states that some runs have gone through, as long as somebody looks."""

    def __init__(self, exporter: Exporter, *names: str) -> None:
        self._exporter = exporter
        self.of: Dict[str, Set[str]] = {name: set() for name in names}
        self.now: Dict[str, str] = {}

    def look(self) -> Dict[str, str]:
        for name, states in self.of.items():
            self.now[name] = state_of(self._exporter, name)
            states.add(self.now[name])
        return self.now

    def until(self, *, deadline: float = 15.0, **wanted: str) -> None:
        """Look until these runs are in these states."""
        eventually(lambda: wanted.items() <= self.look().items(), deadline, str(wanted))

    def until_written(self, path: Path, deadline: float = 30.0) -> None:
        """Look until an experiment has written this file."""
        eventually(lambda: self.look() and path.exists(), deadline, path.name)


# --- no progress ------------------------------------------------------------------

# A loop of short steps; in its middle does what the test wants, and says when it has.
LOOP = f"""
import ctypes, pathlib, time
import experiment_hooks as eh
{WAITING}

def loop(step, until):
    end = time.monotonic() + 60
    while not pathlib.Path(until).exists():
        assert time.monotonic() < end
        step()
        time.sleep(0.005)
"""
# 16 s stand for 40: longer than whatever waits for a source (lost_seconds is 1 here, an
# acknowledgement is waited for 10, ZeroMQ's heartbeat 15).
STUCK: Dict[str, str] = {
    "in_c": "ctypes.CDLL(None).sleep(16)",
    "holds_the_lock": "ctypes.PyDLL(None).sleep(16)",
}


def stuck(name: str) -> str:
    return f"""
{LOOP}
with eh.open_run("stuck", run_id="{name}") as run:
    with run.episode(mode="eval") as ep:
        loop(ep.step, "go")
        {STUCK[name]}
        pathlib.Path("{name}").touch()
        loop(ep.step, "end")
"""


METRICS = f"""
{LOOP}
with eh.open_run("metrics", run_id="metrics") as run:
    loop(lambda: run.publish_metric("loss", 0.5), "go")
    wait_for("again")
    loop(lambda: run.publish_metric("loss", 0.4), "end")
"""


def test_who_makes_no_progress_and_is_there_is_stalled_and_never_lost(
    exporter: Exporter, run_python: Pythons, tmp_path: Path
) -> None:
    """In C code, even with the interpreter's lock: its ZeroMQ thread needs none."""
    codes = {**{name: stuck(name) for name in STUCK}, "metrics": METRICS}
    children = [run_python.start(code, env=exporter.env) for code in codes.values()]
    seen = Seen(exporter, *codes)
    eventually(seen.look, 15)
    seen.until(**dict.fromkeys(codes, "running"))
    # Ten gaps are enough to learn from, and there are none longer than the floor's.
    eventually(lambda: all(exporter.run(name)["promise"] is not None for name in codes))
    (tmp_path / "go").touch()
    for name in codes:
        eventually(lambda one=name: seen.look()[one] and "stalled" in seen.of[one], 20)
        assert seen.of[name] <= {"starting", "running", "stalled"}
    for name in STUCK:
        seen.until_written(tmp_path / name)
    (tmp_path / "again").touch()
    seen.until(**dict.fromkeys(codes, "running"))
    (tmp_path / "end").touch()
    for child in children:
        assert child.wait() == 0, child.output
    seen.until(**dict.fromkeys(codes, "completed"))
    for name in codes:
        assert "lost" not in seen.of[name]


def pausing(name: str, pause: float) -> str:
    """Episodes of 5 ms steps with pauses between them; then a much longer pause."""
    return f"""
{LOOP}
with eh.open_run("{name}", run_id="{name}") as run:
    for index in range(4):
        with run.episode(mode="train", index=index) as ep:
            for _ in range(20):
                ep.step()
                time.sleep(0.005)
        time.sleep({pause})
    pathlib.Path("{name}").touch()
    wait_for("end")
"""


def test_a_pause_between_episodes_is_measured_by_the_pauses_before(
    exporter: Exporter, run_python: Pythons, tmp_path: Path
) -> None:
    """Long against steps of 5 ms, where it used to pause; else it is stalled."""
    pauses = {"pausing": 0.7, "steady": 0.0}
    children = [
        run_python.start(pausing(name, pause), env=exporter.env)
        for name, pause in pauses.items()
    ]
    seen = Seen(exporter, *pauses)
    eventually(seen.look, 15)
    for name in pauses:
        seen.until_written(tmp_path / name)
    # At the latest FLOOR + 2.5 s after its last step; it learned of less.
    seen.until(pausing="running", steady="stalled")
    begun = time.monotonic()
    eventually(lambda: seen.look() and time.monotonic() - begun > 1.0)
    assert seen.now == {"pausing": "running", "steady": "stalled"}
    assert "stalled" not in seen.of["pausing"]
    assert exporter.run("pausing")["promise"] >= 7.0
    assert exporter.run("steady")["promise"] < 7.0
    (tmp_path / "end").touch()
    for child in children:
        assert child.wait() == 0, child.output


# --- asleep -----------------------------------------------------------------------


def test_a_machine_that_sleeps_is_stalled_and_running_when_it_wakes(
    exporter: Exporter, run_python: Pythons, tmp_path: Path
) -> None:
    """A stopped process: what its machine has in hand is answered by nobody."""
    code = f"""
{LOOP}
with eh.open_run("asleep", run_id="asleep", promise=1) as run:
    with run.episode(mode="eval", index=0) as ep:
        loop(ep.step, "end")
        ep.finish(outcome="correct")
    print("STEPS", ep.steps)
"""
    child = run_python.start(code, env=exporter.env)
    seen = Seen(exporter, "asleep")
    eventually(seen.look, 15)
    seen.until(asleep="running")
    child.signal(signal.SIGSTOP)
    seen.until(asleep="stalled")
    assert "lost" not in seen.of["asleep"], "its connection stands"
    child.signal(signal.SIGCONT)
    seen.until(asleep="running")
    (tmp_path / "end").touch()
    assert child.wait() == 0, child.output
    seen.until(asleep="completed")
    found = exporter.run("asleep")
    (steps,) = re.findall(r"STEPS (\d+)", child.output)
    assert found["modes"]["eval"]["steps"] == int(steps)
    assert found["modes"]["eval"]["outcomes"] == {"correct": 1}
    assert (found["missing"], found["sources"]["lost"]) == (0, 0)


# --- clocks -----------------------------------------------------------------------

# Found by Python at its start: the clock is ahead by what a file says, at any time.
SHIFTED = """
import pathlib, time

_time, _file = time.time, pathlib.Path(__file__).with_name("ahead")
time.time = lambda: _time() + float(_file.read_text())
"""


def shifted(directory: Path, ahead: float = 0.0) -> Dict[str, str]:
    """The variable with which a Python has another clock; ``ahead`` says how far."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(SHIFTED)
    (directory / "ahead").write_text(str(ahead))
    return {"PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}


CLOCKED = f"""
import sys
{LOOP}
with eh.open_run("clocked", run_id=sys.argv[1], promise=1) as run:
    with run.episode(mode="eval", index=0) as ep:
        loop(ep.step, "between")
        ep.finish(outcome="correct")
    with run.episode(mode="eval", index=1) as ep:
        loop(ep.step, "rest")
        wait_for("end")
"""


def test_of_a_source_with_another_clock_times_are_the_exporters(
    exporter: Exporter, run_python: Pythons, tmp_path: Path
) -> None:
    clocks = {"behind": -30.0, "ahead": 30.0}
    begun = time.time()
    children = []
    for name, ahead in clocks.items():
        env = {**exporter.env, **shifted(tmp_path / name, ahead)}
        children.append(run_python.start(CLOCKED, name, env=env))
    seen = Seen(exporter, *clocks)
    eventually(seen.look, 15)
    seen.until(**dict.fromkeys(clocks, "running"))
    (tmp_path / "between").touch()
    for name, ahead in clocks.items():
        (episode,) = eventually(
            lambda one=name: exporter.episodes(one, "?outcome=correct")
        )
        found = exporter.run(name)
        (source,) = found["source_list"]
        assert source["clock_skew"] == pytest.approx(-ahead, abs=2)
        assert begun - 2 <= found["started"] <= episode["started"] + 2
        assert episode["started"] <= episode["ended"] <= time.time() + 2
    # Steps of now are of now: else it would be stalled, or would not be for too long.
    looked = time.monotonic()
    eventually(lambda: seen.look() and time.monotonic() - looked > 3.0)
    for name in clocks:
        assert seen.of[name] <= {"starting", "running"}
    (tmp_path / "rest").touch()
    seen.until(**dict.fromkeys(clocks, "stalled"))
    (tmp_path / "end").touch()
    for child in children:
        assert child.wait() == 0, child.output
    seen.until(**dict.fromkeys(clocks, "completed"))
    for name in clocks:
        assert begun <= exporter.run(name)["ended"] <= time.time() + 2


def test_a_clock_that_jumps_loses_nobody(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    """A laptop that slept for an hour with all of it, and then a clock set right."""
    env, ahead = shifted(tmp_path / "clock"), tmp_path / "clock" / "ahead"
    exporter = exporter_process("verdict.lost_seconds=1", env=env)
    code = f"""
{LOOP}
with eh.open_run("jumps", run_id="jumps", promise=2) as run:
    with run.episode(mode="eval") as ep:
        loop(ep.step, "rest")
        wait_for("end")
"""
    child = run_python.start(code, env={**exporter.env, **env})
    seen = Seen(exporter, "jumps")
    eventually(seen.look, 15)
    seen.until(jumps="running")
    for jump in ("3600", "0"):
        ahead.write_text(jump)
        begun = time.monotonic()
        eventually(lambda start=begun: seen.look() and time.monotonic() - start > 2.0)
        seen.until(jumps="running")
        assert "lost" not in seen.of["jumps"]
    # What was of the future is not taken for progress that was made just now.
    (tmp_path / "rest").touch()
    seen.until(jumps="stalled")
    (tmp_path / "end").touch()
    assert child.wait() == 0, child.output
    seen.until(jumps="completed")


# --- endings ----------------------------------------------------------------------


def test_sigterm_loses_a_run_unless_it_is_asked_to_stop_it(
    exporter: Exporter, run_python: Pythons
) -> None:
    asked = {"told": {"EPISIGHT_SIGTERM": "1"}, "untold": {}}
    children = {}
    for name, variable in asked.items():
        code = f"""
{LOOP}
with eh.open_run("term", run_id="{name}") as run:
    with run.episode(mode="eval") as ep:
        loop(ep.step, "never")
"""
        children[name] = run_python.start(code, env={**exporter.env, **variable})
    for name in asked:
        eventually(lambda one=name: state_of(exporter, one) == "running", 15)
        assert children[name].terminate() == -signal.SIGTERM
    eventually(lambda: state_of(exporter, "told") == "stopped")
    eventually(lambda: state_of(exporter, "untold") == "lost", 15)
    found = exporter.run("told")
    assert (found["reason"], found["error"]) == ("signal", None)
    assert found["modes"]["eval"]["outcomes"] == {"stopped": 1}
    assert "was not heard again" in exporter.run("untold")["reason"]


# --- workers ----------------------------------------------------------------------

FLEET = f"""
import os, subprocess, sys
{LOOP}
if len(sys.argv) == 1:
    with eh.open_run("fleet", run_id="fleet", promise=2) as run:
        workers = [subprocess.Popen([sys.executable, __file__, name])
                   for name in ("leaves", "dies", "returns", "stays")]
        for one in workers:
            one.wait()
else:
    name, steps = sys.argv[1], 0
    with eh.open_run("fleet") as run:
        done = run.counter("done", labels=["who"]).labels(who=name)
        print("PID", name, os.getpid(), flush=True)
        with run.episode(mode="train") as ep:
            loop(lambda: (ep.step(), done.inc()), f"{{name}}-home")
    print("DID", name, ep.steps, flush=True)
"""


def test_workers_may_end_die_and_come_back_while_the_run_goes_on(
    exporter: Exporter, run_python: Pythons, tmp_path: Path
) -> None:
    child = run_python.start(FLEET, env=exporter.env)
    eventually(lambda: len(re.findall(r"PID \w+ \d+", child.output)) == 4, 20)
    pids = {who: int(pid) for who, pid in re.findall(r"PID (\w+) (\d+)", child.output)}
    eventually(lambda: len(exporter.samples("experiment_done_total", run="fleet")) == 4)
    seen = Seen(exporter, "fleet")

    def live(state: str) -> int:
        seen.look()
        return int(exporter.run("fleet")["sources"][state])

    (tmp_path / "leaves-home").touch()
    eventually(lambda: live("ended") == 1)
    os.kill(pids["dies"], signal.SIGKILL)
    eventually(lambda: live("lost") == 1, 15)

    # Its connection goes, and it does not hear of it.
    os.kill(pids["returns"], signal.SIGSTOP)
    (source,) = [
        one["source"]
        for one in exporter.run("fleet")["source_list"]
        if one["pid"] == pids["returns"]
    ]
    impostor = _Impostor(exporter.ingest, source)
    impostor.hello("fleet")
    impostor.close()
    eventually(lambda: live("lost") == 2, 15)
    before = exporter.value("experiment_done_total", run="fleet", who="returns")
    os.kill(pids["returns"], signal.SIGCONT)
    eventually(lambda: live("lost") == 1, 15)
    eventually(
        lambda: (
            exporter.value("experiment_done_total", run="fleet", who="returns")
            > (before or 0)
        )
    )
    assert seen.of["fleet"] == {"running"}

    for who in ("returns", "stays"):
        (tmp_path / f"{who}-home").touch()
    assert child.wait() == 0, child.output
    seen.until(fleet="completed")
    did = dict(re.findall(r"DID (\w+) (\d+)", child.output))
    for who in ("leaves", "returns", "stays"):
        counted = exporter.value("experiment_done_total", run="fleet", who=who)
        assert counted == int(did[who])
    assert exporter.run("fleet")["sources"] == {"live": 0, "ended": 4, "lost": 1}
