"""End to end: the link to the exporter is cut, refused, lossy and slow, then healed."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from experiment_hooks import cli
from tests import network
from tests.network import Link, Namespace
from tests.support import Child, Exporter, Pythons, Response, eventually, require
from tests.test_e2e_sources import WAITING

Steps = List[Tuple[float, float]]
"""Of each step all of it, and the hooks' part, in seconds."""

# Ends episodes all the time, and when it is told to go home says how many, and what
# each step took: half a millisecond of work and the hooks', and the hooks' alone.
WORKS = f"""
import json, pathlib, time
import experiment_hooks as eh
{WAITING}
with eh.open_run("far", run_id="far") as run:
    tenths = run.counter("tenths", "Tenths.")
    measured = []
    index = 0
    while not pathlib.Path("home").exists():
        with run.episode(mode="eval", index=index) as ep:
            for step in range(5):
                began = time.perf_counter()
                while time.perf_counter() < began + 0.0005:
                    pass
                hooks = time.perf_counter()
                ep.step(state={{"x": [step] * 10}}, scores={{"mug": 0.5}})
                tenths.inc(0.1)
                now = time.perf_counter()
                measured.append([time.monotonic(), now - began, now - hooks])
                time.sleep(0.001)
            ep.finish(outcome="correct")
        index += 1
        if index % 20 == 0:
            print("DID", index, flush=True)
print("DID", index, flush=True)
pathlib.Path("measured.json").write_text(json.dumps(measured))
"""

# Asks a page from within a namespace.
ASK = """
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    answer = opener.open(sys.argv[1], timeout=float(sys.argv[2]))
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, flush=True)
sys.stdout.buffer.write(answer.read())
"""

CONNECT = """
import socket, sys, time
began = time.perf_counter()
socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
print(time.perf_counter() - began)
"""


class FarExporter(Exporter):
    """A real one in a namespace, its web on the loopback there, asked from there."""

    def __init__(self, directory: Path, where: Namespace, *overrides: str) -> None:
        super().__init__(directory, *overrides, python=where.python)
        self._where = where

    def get(self, path: str, accept: str = "", deadline: float = 10.0) -> Response:
        assert not accept
        command = [self._where.python, "-c", ASK, self.web + path, str(deadline)]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        if done.returncode:
            raise ConnectionError(done.stderr.decode())
        status, _, body = done.stdout.partition(b"\n")
        return Response(int(status), {}, body)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    missing = network.why_not()
    require(not missing, missing)
    with Link(tmp_path) as made:
        yield made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    assert cli.main(["keys", str(path), "far"]) == 0
    return path


@pytest.fixture
def exporter(
    link: Link, keys: Path, tmp_path: Path, show_log: Callable[[Path], None]
) -> Iterator[FarExporter]:
    where = link.ends[0]
    made = FarExporter(
        tmp_path / "exporter",
        where,
        f"ingest.host={where.address}",
        f"security.curve_dir={keys}",
    )
    show_log(made.log)
    try:
        yield made.start()
    finally:
        made.stop()


class Experiment:
    """The one that works at the other end, and what its steps took, by condition."""

    def __init__(self, child: Child, exporter: Exporter) -> None:
        self.child = child
        self._exporter = exporter
        self._conditions: Dict[str, List[float]] = {}

    @property
    def episodes(self) -> int:
        found = re.findall(r"DID (\d+)\n", self.child.output)
        return int(found[-1]) if found else 0

    def works(self, condition: str, episodes: int) -> None:
        """Wait until it has done so many more, as it stands now."""
        began = time.monotonic()
        goal = self.episodes + episodes
        eventually(lambda: self.episodes >= goal, 30, f"{condition}: {goal} episodes")
        self._conditions[condition] = [began, time.monotonic()]

    def known(self) -> int:
        """The episodes that the exporter knows of."""
        return int(self._exporter.value("experiment_episodes_total") or 0)

    def is_seen(self) -> None:
        """Wait until the exporter knows of all that was done until now."""
        done = self.episodes
        eventually(lambda: self.known() >= done, 30, f"{done} episodes are seen")

    def steps(self, measured: List[Tuple[float, float, float]]) -> Dict[str, Steps]:
        """What the steps took, by condition."""
        return {
            name: [(all_, hooks) for at, all_, hooks in measured if first < at < last]
            for name, (first, last) in self._conditions.items()
        }


def test_nothing_is_lost_and_no_step_is_longer_whatever_the_link_does(
    link: Link,
    keys: Path,
    exporter: FarExporter,
    run_python: Pythons,
    tmp_path: Path,
) -> None:
    near, far = link.ends
    port = exporter.ingest.rsplit(":", 1)[1]
    env = {
        **exporter.env,
        "EPISIGHT_SERVER_KEY": str(keys / "server.key"),
        "EPISIGHT_KEY_FILE": str(keys / "clients" / "far.key_secret"),
    }
    child = run_python.start(WORKS, env=env, python=far.python)
    it = Experiment(child, exporter)
    eventually(lambda: it.known() > 0, 20)
    it.works("before", 200)

    link.cut()
    it.works("cut", 400)
    assert it.known() < it.episodes - 300
    link.mend()
    it.is_seen()

    near.rule(f"tcp dport {port}", "reject with tcp reset")
    it.works("refused", 300)
    assert it.known() < it.episodes - 200
    eventually(lambda: near.hits() > 5, 30, "it tries again and again")
    near.no_rule()
    it.is_seen()

    near.rule("numgen random mod 10 == 0", "drop")
    far.rule("numgen random mod 10 == 0", "drop")
    it.works("lossy", 400)
    eventually(lambda: near.hits() + far.hits() > 5, 30, "packets are lost")
    near.no_rule()
    far.no_rule()

    link.delay = 0.2
    it.works("slow", 400)
    assert float(network.run(far.python, "-c", CONNECT, near.address, port)) > 0.4
    it.is_seen()
    link.delay = 0.0
    it.works("healed", 200)

    (tmp_path / "home").touch()
    assert child.wait() == 0, child.output
    arrived_once(exporter, it.episodes)
    went_on(it.steps(json.loads((tmp_path / "measured.json").read_text())))


def arrived_once(exporter: Exporter, episodes: int) -> None:
    """All that was done is known, each once, and what was counted is exact."""
    eventually(lambda: exporter.run("far")["state"] == "completed", 20)
    assert exporter.indices("far") == list(range(episodes))
    assert exporter.run("far")["missing"] == 0
    steps = 5 * episodes
    assert exporter.value("experiment_episodes_total") == episodes
    assert exporter.value("experiment_steps_total") == steps
    tenths: Any = exporter.value("experiment_tenths_total")
    assert tenths == pytest.approx(steps / 10, rel=1e-9)


def went_on(conditions: Dict[str, Steps]) -> None:
    """No step was longer for what the link did; what they took is printed."""
    before = [list(part) for part in zip(*conditions["before"])]
    for condition, steps in conditions.items():
        whole, hooks = ([part[n] for part in steps] for n in (0, 1))
        medians = [ratio(whole, before[0], 50), ratio(hooks, before[1], 50)]
        tails = [ratio(whole, before[0], 99), ratio(hooks, before[1], 99)]
        print(
            f"{condition:8}{len(steps):5} steps, of before: median {medians[0]:.2f},"
            f" p99 {tails[0]:.2f}; the hooks' part: median {medians[1]:.2f},"
            f" p99 {tails[1]:.2f}; longest {max(whole):.3f} s"
        )
        assert len(steps) > 500
        assert medians[0] < 1.5
        assert medians[1] < 3
        assert max(whole) < 1


def ratio(steps: List[float], before: List[float], percent: int) -> float:
    def at(values: List[float]) -> float:
        return statistics.quantiles(values, n=100)[percent - 1]

    return at(steps) / at(before)
