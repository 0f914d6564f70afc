"""End to end: the exporter is killed and started again, under the experiments' feet."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import pytest

from tests.support import Exporter, Pythons, eventually, parse_metrics
from tests.test_e2e_sources import WAITING, WORK, expected, totals

Series = Tuple[str, Tuple[Tuple[str, str], ...]]

# Works until it is told to go home, and then says what it did. Its child does the same.
BUSY = f"""
import pathlib, random, subprocess, sys, time
import experiment_hooks as eh
{WAITING}
def busy(run):
    hits = run.counter("hits", "Hits.")
    waits = run.histogram("wait_seconds", "Waits.", buckets=[0.1, 1])
    episodes = steps = 0
    while not pathlib.Path("home").exists():
        with run.episode(mode="eval") as ep:
            for _ in range(random.randrange(5, 40)):
                ep.step()
                hits.inc(0.1)
                waits.observe(0.5)
                steps += 1
                time.sleep(0.001)
            ep.finish(outcome="correct")
            episodes += 1
    print("DID", episodes, steps, flush=True)

with eh.open_run("busy", run_id="busy") as run:
    if len(sys.argv) == 1:
        # One that is over before the first kill, one that works beside us.
        short = subprocess.run([sys.executable, __file__, "short"])
        child = subprocess.Popen([sys.executable, __file__, "child"])
        busy(run)
        assert child.wait() == short.returncode == 0
    elif sys.argv[1] == "child":
        busy(run)
    else:
        with run.episode(mode="eval") as ep:
            ep.step()
            run.counter("hits", "Hits.").inc(0.1)
            ep.finish(outcome="correct")
        print("DID 1 1", flush=True)
"""

FINISHED = f"""
import experiment_hooks as eh
{WORK}
with eh.open_run("finished", run_id="finished") as run:
    work(run, 3, 5, 20)
"""


class Watcher(threading.Thread):
    """Scrapes all the time, and keeps what went down or away."""

    def __init__(self, exporter: Exporter) -> None:
        super().__init__(daemon=True)
        self.known: Dict[Series, float] = {}
        self.wrong: List[str] = []
        self.scrapes = 0
        self._exporter = exporter
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.03):
            try:
                answer = self._exporter.get("/metrics", deadline=5)
            except OSError:
                continue  # it is down at the moment
            if answer.status == 200:
                self._compare(answer.text)

    def _compare(self, text: str) -> None:
        found: Dict[Series, float] = {}
        for one in parse_metrics(text):
            counts = re.search(r"_(total|bucket|count|sum)$", one.name)
            if counts and one.name.startswith("experiment_"):
                found[one.name, tuple(sorted(one.labels.items()))] = one.value
        for key, value in self.known.items():
            if found.get(key, -1.0) < value:
                self.wrong.append(f"{key}: {value} -> {found.get(key)}")
        self.known.update(found)
        self.scrapes += 1

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join(10)


def counted(exporter: Exporter) -> Tuple[float, float]:
    """Episodes and steps of the busy run."""
    return (
        exporter.value("experiment_episodes_total", run="busy") or 0.0,
        exporter.value("experiment_steps_total", run="busy") or 0.0,
    )


def grows(exporter: Exporter, beyond: Tuple[float, float], sources: int = 2) -> float:
    """Seconds until both numbers are beyond those, and all live sources are seen."""
    started = time.monotonic()

    def grown() -> bool:
        now = counted(exporter)
        return now[0] > beyond[0] and now[1] > beyond[1]

    eventually(grown, 15, f"more than {beyond}")
    live = exporter.run("busy")["sources"]["live"]
    assert live == sources
    return time.monotonic() - started


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
def test_everything_is_seen_again_and_nothing_goes_down(
    end: str,
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    tmp_path: Path,
) -> None:
    exporter = exporter_process()
    run_python(FINISHED, env=exporter.env)
    before = eventually(lambda: totals(exporter, "finished"))
    assert before == expected(1, 5, 20)
    with Watcher(exporter) as watcher:
        child = run_python.start(BUSY, env=exporter.env)
        grows(exporter, (5, 50))
        for _ in range(3):
            last = counted(exporter)
            if end == "SIGKILL":
                exporter.kill()
            else:
                assert exporter.terminate() == 0
            stopped = time.monotonic()
            exporter.start()
            down = time.monotonic() - stopped
            seconds = grows(exporter, last)
            print(f"down for {down:.2f} s, all seen again {seconds:.2f} s later")
            assert totals(exporter, "finished") == before
            assert exporter.run("finished")["state"] == "completed"
            assert exporter.run("busy")["sources"] == {"live": 2, "ended": 1, "lost": 0}
        (tmp_path / "home").touch()
        assert child.wait() == 0, child.output
        eventually(lambda: exporter.run("busy")["state"] == "completed")
    print(f"{watcher.scrapes} scrapes of {len(watcher.known)} counters")
    assert watcher.wrong == []
    assert watcher.scrapes > 20

    did = [
        tuple(map(int, found)) for found in re.findall(r"DID (\d+) (\d+)", child.output)
    ]
    assert len(did) == 3
    episodes, steps = (sum(column) for column in zip(*did))
    assert counted(exporter) == (episodes, steps)
    hits = exporter.value("experiment_hits_total", run="busy")
    assert hits == pytest.approx(steps / 10, rel=1e-9)
    found = exporter.run("busy")
    assert (found["missing"], found["sources"]["ended"]) == (0, 3)
    assert len(exporter.episodes("busy", "?limit=1000")) == min(episodes, 1000)


def test_an_episode_that_ended_while_nobody_listened_is_told_afterwards(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("patient", run_id="patient") as run:
    with run.episode(mode="eval", index=0) as ep:
        ep.step()
        print("OPEN", flush=True)
        wait_for("down")
        ep.finish(outcome="correct")
    print("ENDED", flush=True)
    wait_for("home")
"""
    child = run_python.start(code, env=exporter.env)
    child.wait_for("OPEN")
    eventually(lambda: exporter.episodes("patient"))
    exporter.kill()
    (tmp_path / "down").touch()
    child.wait_for("ENDED")
    exporter.start()
    started = time.monotonic()
    # It is known as open at once, from the journal; and then as ended.
    assert len(exporter.episodes("patient")) == 1
    ended = eventually(lambda: exporter.episodes("patient", "?outcome=correct"), 15)
    print(f"told {time.monotonic() - started:.2f} s after the start")
    assert ended[0]["index"] == 0
    (tmp_path / "home").touch()
    assert child.wait() == 0, child.output
    eventually(lambda: exporter.run("patient")["state"] == "completed")


def test_what_was_lost_stays_lost_over_a_restart(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process("verdict.lost_seconds=0.5", "traces.lost_after=0.5")
    code = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("victim", run_id="victim") as run:
    with run.episode(mode="eval") as ep:
        print("OPEN", flush=True)
        wait_for("never")
"""
    child = run_python.start(code, env=exporter.env)
    child.wait_for("OPEN")
    eventually(lambda: exporter.episodes("victim"))
    child.kill()
    exporter.kill()  # it never heard of the death
    exporter.start()
    eventually(lambda: exporter.episodes("victim", "?outcome=lost"), 15)
    before = exporter.run("victim")
    assert before["state"] == "lost"
    assert exporter.terminate() == 0
    exporter.start()
    after = exporter.run("victim")
    same = ("state", "reason", "ended", "sources", "modes")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert exporter.value("experiment_episodes_lost_total") == 1
