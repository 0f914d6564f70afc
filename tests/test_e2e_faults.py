"""End to end, with things going wrong: exporters and experiments that are killed.

In CI the sources of the storm pause often, so that it takes minutes only;
``EPISIGHT_STORM=1 python -m pytest -s tests/test_e2e_faults.py`` lets them end some
10,000 episodes a second. Without any pause they end more than is compared in an hour.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from tests.otlp_sink import OtlpSink
from tests.support import ROOT, Exporter, Pythons, eventually
from tests.test_e2e_restart import Watcher
from tests.test_e2e_sources import WAITING, WORK

KILLS = 20
STATUS_ERROR = 2
NOT_READY = 503
SOURCES = 8
FULL = bool(os.environ.get("EPISIGHT_STORM"))
PAUSE = 0.01 if FULL else 0.6
PATIENCE = 900 if FULL else 60

# So many processes at any time, each of a few seconds: what one of them did it prints
# when all of it is recorded, whether or not somebody heard it.
STORM = f"""
import pathlib, random, subprocess, sys, time
import experiment_hooks as eh

if len(sys.argv) == 1:
    working = []
    while working or not pathlib.Path("home").exists():
        working = [one for one in working if one.poll() is None]
        while len(working) < {SOURCES} and not pathlib.Path("home").exists():
            working.append(subprocess.Popen([sys.executable, __file__, "work"]))
        time.sleep(0.02)
else:
    chance = random.Random()
    with eh.open_run("storm") as run:
        hits = run.counter("hits", "Hits.")
        episodes = steps = 0
        end = time.monotonic() + chance.uniform(0.2, 10)
        while time.monotonic() < end:
            for _ in range(20):
                with run.episode(mode="eval") as ep:
                    for _ in range(chance.randrange(1, 4)):
                        ep.step()
                        hits.inc()
                        steps += 1
                    ep.finish(outcome=chance.choice(["correct", "confused"]))
                episodes += 1
            time.sleep({PAUSE})
    print(f"DID {{episodes}} {{steps}}", flush=True)
"""


def all_delivered(exporter: Exporter, run_python: Pythons) -> bool:
    """Whether ``episight replay`` finds nothing more, and leaves nothing to others."""
    cli = ROOT / "experiment_hooks" / "cli.py"
    said = run_python(cli, "replay", env=exporter.env, status=None, deadline=PATIENCE)
    return "nothing to deliver" in said.output and "left:" not in said.output


def all_episodes(exporter: Exporter, run: str) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    after = ""
    while True:
        page = exporter.get(f"/api/v1/runs/{run}/episodes?limit=1000{after}").json()
        found += page["episodes"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def answer(exporter: Exporter) -> Optional[int]:
    """What it says when it is asked whether it is ready; None while nobody listens."""
    try:
        return exporter.get("/-/ready").status
    except OSError:
        return None


@pytest.mark.timeout(300 + 3 * PATIENCE)
def test_an_exporter_killed_at_any_moment_loses_nothing_and_counts_nothing_twice(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    tmp_path: Path,
) -> None:
    chance = random.Random(KILLS)
    exporter = exporter_process()
    env = {**exporter.env, "EPISIGHT_RUN_ID": "storm"}
    child = run_python.start(STORM, env=env)
    with Watcher(exporter) as watcher:
        reading = 0
        for number in range(KILLS):
            time.sleep(chance.uniform(0.0, 1.0))  # any moment is meant
            exporter.kill()
            if number % 4 == 3:  # and again, while it reads its journal
                exporter.launch()
                reading += eventually(lambda: answer(exporter), 30) == NOT_READY
                exporter.kill()
            exporter.start()
        (tmp_path / "home").touch()
        assert child.wait(PATIENCE) == 0, child.output
        # What ended while nobody listened, and nobody has taken along.
        eventually(lambda: all_delivered(exporter, run_python), PATIENCE)
        did = [
            tuple(map(int, found))
            for found in re.findall(r"DID (\d+) (\d+)", child.output)
        ]
        episodes, steps = (sum(column) for column in zip(*did))
        eventually(
            lambda: exporter.value("experiment_steps_total", run="storm") == steps, 30
        )
    print(f"{len(did)} processes, {episodes} episodes, {watcher.scrapes} scrapes")
    print(f"{KILLS} kills, and {reading} more while it read its journal")
    assert watcher.wrong == []
    assert watcher.scrapes > KILLS
    assert reading > 0, "killed while it read its journal"

    ended = all_episodes(exporter, "storm")
    assert len(ended) == episodes
    assert len({one["trace_id"] for one in ended}) == episodes
    run = exporter.run("storm")
    assert run["missing"] == 0
    assert run["sources"] == {"live": 0, "ended": len(did), "lost": 0}
    counted = {
        outcome: sum(one["outcome"] == outcome for one in ended)
        for outcome in ("correct", "confused")
    }
    assert run["modes"]["eval"]["outcomes"] == counted
    assert exporter.value("experiment_hits_total", run="storm") == steps


VICTIM = """
import itertools, sys, time
import experiment_hooks as eh

with eh.open_run("victim", run_id=sys.argv[1]) as run:
    for index in itertools.count():
        with run.episode(mode="eval", index=index, target="mug") as ep:
            for _ in range(50):
                ep.step()
                with ep.phase("looking"):
                    pass
            time.sleep(0.002)  # so that most kills fall into an episode
            ep.finish(outcome="correct")
        if index == 20:
            print("WORKS", flush=True)
"""


@pytest.mark.timeout(120)
def test_experiments_killed_at_any_moment_are_lost_and_their_traces_closed(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    chance = random.Random(8)
    with OtlpSink() as sink:
        exporter = exporter_process(
            "verdict.lost_seconds=0.5", "traces.lost_after=0.5", env=sink.environ
        )
        names = [f"victim-{number}" for number in range(6)]
        told: Dict[str, int] = {}
        for name in names:
            child = run_python.start(VICTIM, name, env=exporter.env)
            child.wait_for("WORKS")
            eventually(
                lambda one=name: exporter.value("experiment_episodes_total", run=one)
            )
            time.sleep(chance.uniform(0.0, 0.3))  # any moment is meant
            told[name] = exporter.run(name)["modes"]["eval"]["episodes"]
            child.kill()
        lost: List[Dict[str, Any]] = []
        for name in names:
            eventually(lambda one=name: exporter.run(one)["state"] == "lost", 20)

            def closed(one: str = name) -> bool:
                return not any(
                    row["outcome"] is None for row in exporter.episodes(one, "?limit=1")
                ) and not _open(exporter, one)

            eventually(closed, 20)
            mode = exporter.run(name)["modes"]["eval"]
            assert mode["episodes"] >= told[name], "what was acknowledged stays"
            assert mode["started"] == mode["episodes"] + mode["lost"]
            found = exporter.episodes(name, "?outcome=lost")
            assert len(found) == mode["lost"] <= 1
            lost += found
        assert lost, "of six, none was killed in an episode"
        # Thousands of traces may wait before those that were closed last.
        traces = {one["trace_id"] for one in lost}
        sink.wait_for(
            lambda sink: traces <= {root.trace_id for root in sink.named("episode")}, 60
        )
        roots = sink.named("episode")
        for one in lost:
            assert one["error"]["type"] == "source_lost"
            (root,) = [root for root in roots if root.trace_id == one["trace_id"]]
            assert root.span.status.code == STATUS_ERROR
            assert "source_lost" in str(root.events)


def _open(exporter: Exporter, run: str) -> List[Dict[str, Any]]:
    return [row for row in all_episodes(exporter, run) if row["outcome"] is None]


def test_what_ended_before_there_was_an_exporter_comes_with_the_next_experiment(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    assert exporter.terminate() == 0
    before = time.time()
    code = f"""
import sys
import experiment_hooks as eh
{WORK}
with eh.open_run("early", run_id=sys.argv[1]) as run:
    work(run, 1, 3, 4)
"""
    early = [f"early-{number}" for number in range(3)]
    for name in early:
        run_python(code, name, env=exporter.env)
    after = time.time()
    exporter.start()
    waits = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("next", run_id="next") as run:
    wait_for("home")
"""
    child = run_python.start(waits, env=exporter.env)
    for name in early:
        run = eventually(lambda one=name: exporter.run(one), 20)
        eventually(lambda one=name: exporter.run(one)["state"] == "completed")
        run = exporter.run(name)
        assert before <= run["started"] <= run["ended"] <= after
        mode = run["modes"]["eval"]
        assert (mode["episodes"], mode["steps"], run["missing"]) == (3, 12, 0)
        assert run["sources"] == {"live": 0, "ended": 1, "lost": 0}
    assert exporter.run("next")["state"] in ("starting", "running")
    (run_python.directory / "home").touch()
    assert child.wait() == 0
