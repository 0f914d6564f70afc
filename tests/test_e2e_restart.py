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
Counts = Dict[Tuple[str, str], float]
COUNTED = ("experiment_episodes_total", "experiment_steps_total")

AGAIN = 3.0
"""Seconds after an exporter is ready again until all is seen again.

The hooks try to connect once a second and tell their totals with the welcome; the
exporter commits totals once a second. So it takes two at most, mostly one, and the
third is for a machine that is busy.
"""

# Works until it is told to go home, and then says what it did. Its child does the same,
# in a mode of its own: so what is counted of each can be told apart.
BUSY = f"""
import pathlib, random, subprocess, sys, time
import experiment_hooks as eh
{WAITING}
def busy(run, mode):
    hits = run.counter("hits", "Hits.")
    waits = run.histogram("wait_seconds", "Waits.", buckets=[0.1, 1])
    episodes = steps = 0
    while not pathlib.Path("home").exists():
        with run.episode(mode=mode) as ep:
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
        busy(run, "train")
        assert child.wait() == short.returncode == 0
    elif sys.argv[1] == "child":
        busy(run, "eval")
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

    def __init__(self, exporter: Exporter, *prefixes: str) -> None:
        super().__init__(daemon=True)
        self._prefixes = prefixes or ("experiment_",)
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
            if counts and one.name.startswith(self._prefixes):
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


def counted(exporter: Exporter) -> Counts:
    """Episodes and steps of the busy run, by mode and so by process."""
    return {
        (one.name, one.labels["mode"]): one.value
        for one in parse_metrics(exporter.get("/metrics").text)
        if one.name in COUNTED and one.labels["run"] == "busy"
    }


def grown(exporter: Exporter, beyond: Counts, within: float) -> float:
    """Seconds until each of the four numbers has grown: both processes are seen."""
    started = time.monotonic()

    def grew() -> bool:
        now = counted(exporter)
        return len(now) == 4 and all(now[key] > beyond.get(key, 5) for key in now)

    eventually(grew, within, f"more than {beyond}")
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
        grown(exporter, {}, within=15)
        for _ in range(3):
            if end == "SIGKILL":
                exporter.kill()
            else:
                assert exporter.terminate() == 0
            stopped = time.monotonic()
            exporter.start()
            down = time.monotonic() - stopped
            # What the journal knew is not enough: something new has to come.
            seconds = grown(exporter, counted(exporter), within=AGAIN)
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
    for name, done in zip(COUNTED, (episodes, steps)):
        assert sum(one.value for one in exporter.samples(name, run="busy")) == done
    hits = exporter.value("experiment_hits_total", run="busy")
    assert hits == pytest.approx(steps / 10, rel=1e-9)
    run = exporter.run("busy")
    assert (run["missing"], run["sources"]["ended"]) == (0, 3)
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
    ended = eventually(lambda: exporter.episodes("patient", "?outcome=correct"), AGAIN)
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
