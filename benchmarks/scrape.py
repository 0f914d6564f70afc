"""What a scrape of the whole exporter costs: ``python -m benchmarks scrape``.

Run by hand, from the checkout, on Linux. Rules of this measurement:

- Over HTTP, from a real exporter to whose every series a source has sent a new value
  since the scrape before, against a real server of ``prometheus_client`` with as many
  series of real ``Counter`` and ``Histogram`` children, each of which has grown, too.
  Half of the lines are counters, half of histograms with 17 bounds.
- ``ms`` is from the request to the last byte, the median of the rounds; ``CPU ms`` what
  the server's process used for it, all threads; ``first`` the scrape that makes what
  the others keep. Rounds of both alternate.
- Each run of ours has an episode, so that OpenMetrics has its exemplars, and its twenty
  or so series of its own, which are in the count.
- Ingest goes on meanwhile: the last table is how long a sample waits for its answer
  while the exporter is scraped without a pause, and while it is not.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.fleet import Crowd, Metrics, Used, memory
from benchmarks.ingest import pace
from benchmarks.table import machine, say, table
from tests.support import Exporter

PER_RUN = 1000
METRICS = Metrics(counters=PER_RUN // 2, histograms=PER_RUN // 40)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Scrape(NamedTuple):
    """One of them: milliseconds until the last byte, of a processor, and bytes."""

    ms: float
    cpu: float
    size: int


def scrape(
    url: str, pid: int, accept: str = "text/plain", zipped: bool = True
) -> Scrape:
    """As Prometheus does it.

    Raises:
        RuntimeError: it is refused.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    headers = {"Accept": accept, "Accept-Encoding": "gzip" if zipped else "identity"}
    used, start = Used(pid), time.perf_counter()
    connection.request("GET", "/metrics", headers=headers)
    response = connection.getresponse()
    body = response.read()
    taken, cpu = time.perf_counter() - start, used.seconds
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {body[:200]!r}")
    return Scrape(taken * 1e3, cpu * 1e3, len(body))


class Side(NamedTuple):
    """A server, and what gives each of its series a new value."""

    url: str
    pid: int
    change: Callable[[], object]


# --- the two sides -------------------------------------------------------------------


@contextmanager
def exporter_with(series: int) -> Iterator[tuple[Exporter, Crowd]]:
    """The exporter, with a run and a source for each thousand series."""
    runs = max(1, series // PER_RUN)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(
            Path(directory),
            "metrics.max_series=10000000",
            "metrics.max_series_per_run=100000",
        ).start()
        try:
            crowd = Crowd(exporter.ingest, runs, runs, METRICS, episodes=1)
            yield exporter, crowd
            crowd.close()
        finally:
            exporter.stop()


@contextmanager
def ours(series: int) -> Iterator[Side]:
    """The exporter."""
    with exporter_with(series) as (exporter, crowd):
        yield Side(exporter.web, exporter.process.pid, crowd.sample)


SERVER = """
import sys
from prometheus_client import (
    CollectorRegistry, Counter, Histogram, disable_created_metrics, start_http_server)
disable_created_metrics()
registry = CollectorRegistry()
runs, counters, histograms = map(int, sys.argv[1:4])
bounds = [float(word) for word in sys.argv[4].split(",")]
labels = ["experiment", "run", "finger"]
grasps = Counter("experiment_grasps", "", labels, registry=registry)
forces = Histogram("experiment_force_newtons", "", labels, buckets=bounds,
                   registry=registry)
names = [f"benchmark-{run}" for run in range(runs)]
some = [grasps.labels("benchmark", n, str(f)) for n in names for f in range(counters)]
others = [
    forces.labels("benchmark", n, str(f)) for n in names for f in range(histograms)]
server, _ = start_http_server(0, "127.0.0.1", registry)
print(server.server_port, flush=True)
for line in sys.stdin:
    for one in some:
        one.inc()
    for one in others:
        one.observe(0.5)
    print("changed", flush=True)
"""


@contextmanager
def theirs(series: int) -> Iterator[Side]:
    """prometheus_client's own server, in a process of its own."""
    runs = max(1, series // PER_RUN)
    bounds = ",".join(map(str, METRICS.bounds))
    numbers = [str(n) for n in (runs, METRICS.counters, METRICS.histograms)]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, *numbers, bounds],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    port = stdout.readline().strip()

    def change() -> object:
        stdin.write("change\n")
        stdin.flush()
        return stdout.readline()

    try:
        yield Side(f"http://127.0.0.1:{port}", process.pid, change)
    finally:
        process.kill()
        process.communicate()


# --- the tables ----------------------------------------------------------------------


def compare(series: int, rounds: int) -> Iterator[list[object]]:
    """Rows for so many series: ours in each format, theirs, the ratio."""
    ways = {
        "text": ("text/plain", False),
        "text, gzip": ("text/plain", True),
        "OpenMetrics": (OPENMETRICS, False),
    }
    with ExitStack() as stack:
        sides = {
            "ours": stack.enter_context(ours(series)),
            "theirs": stack.enter_context(theirs(series)),
        }
        first, found = {}, {}  # type: dict[str, Scrape], dict[tuple[str, str], list[Scrape]]
        for name, side in sides.items():
            side.change()
            first[name] = scrape(side.url, side.pid, *ways["text"])
        for _ in range(rounds):
            for way, (accept, zipped) in ways.items():
                for name, side in sides.items():
                    side.change()
                    one = scrape(side.url, side.pid, accept, zipped)
                    found.setdefault((way, name), []).append(one)
        for way in ways:
            mine, other = found[way, "ours"], found[way, "theirs"]
            ms = statistics.median(one.ms for one in mine)
            their_ms = statistics.median(one.ms for one in other)
            yield [
                f"{series:,}, {way}",
                f"{ms:,.0f}",
                f"{statistics.median(one.cpu for one in mine):,.0f}",
                f"{first['ours'].ms:,.0f}",
                f"{mine[-1].size / 1e6:.1f}",
                f"{memory(sides['ours'].pid)[1]:,.0f}",
                f"{their_ms:,.0f}",
                f"{memory(sides['theirs'].pid)[1]:,.0f}",
                f"{their_ms / ms:.1f}",
            ]


HEAD = (
    "series, format", "ms", "CPU ms", "first ms", "MB", "peak MiB", "theirs ms",
    "peak MiB", "times faster",
)  # fmt: skip


LAG_HEAD = ("samples are answered", "scrapes", "samples/s", "ms", "p99", "worst")
ENDED_HEAD = ("ended processes", "ms", "multiprocess ms", "times faster")


def lag(series: int, seconds: float) -> Iterator[list[object]]:
    """Rows: how samples are answered while nobody scrapes, and while somebody does."""
    with exporter_with(series) as (exporter, crowd):
        first = crowd.sample() + 1
        for name, scrapers in (("not scraped", 0), ("scraped without a pause", 1)):
            with scraped(exporter, scrapers) as times:
                sent, answers = pace(crowd, 2.0, seconds, first, METRICS)
            first += int(2.0 * seconds) + 1
            delays = sorted(answers.seconds)
            yield [
                name,
                len(times),
                f"{sent / seconds:,.0f}",
                f"{statistics.median(delays) * 1e3:.1f}",
                f"{delays[int(len(delays) * 0.99)] * 1e3:.0f}",
                f"{delays[-1] * 1e3:.0f}",
            ]


@contextmanager
def scraped(exporter: Exporter, scrapers: int) -> Iterator[list[Scrape]]:
    """Meanwhile so many threads scrape, each without a pause."""
    done, times = threading.Event(), []  # type: threading.Event, list[Scrape]

    def again() -> None:
        while not done.is_set():
            times.append(scrape(exporter.web, exporter.process.pid))

    threads = [threading.Thread(target=again) for _ in range(scrapers)]
    for thread in threads:
        thread.start()
    try:
        yield times
    finally:
        done.set()
        for thread in threads:
            thread.join()


# --- processes that have ended -------------------------------------------------------

DEAD = """
import os, sys, time
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
processes, counters = map(int, sys.argv[1:])
for number in range(processes):
    child = os.fork()
    if child == 0:
        registry = CollectorRegistry()
        labels = ["experiment", "run", "finger"]
        grasps = Counter("experiment_grasps", "", labels, registry=registry)
        for finger in range(counters):
            grasps.labels("benchmark", "benchmark-0", str(finger)).inc()
        os._exit(0)
    os.waitpid(child, 0)
registry = CollectorRegistry()
MultiProcessCollector(registry)
for _ in range(2):
    start = time.perf_counter()
    generate_latest(registry)
    print((time.perf_counter() - start) * 1e3, flush=True)
"""


def ended(processes: int, rounds: int) -> Iterator[list[object]]:
    """One row: a run of many processes that have all ended, each with 100 counters."""
    metrics = Metrics(counters=100, histograms=0)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        command = [sys.executable, "-c", DEAD, str(processes), str(metrics.counters)]
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": directory}
        output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
        theirs_ms = float(output.stdout.split()[-1])
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory)).start()
        try:
            crowd = Crowd(exporter.ingest, processes, 1, metrics)
            crowd.sample()
            crowd.end()
            scrapes = [
                scrape(exporter.web, exporter.process.pid) for _ in range(rounds + 1)
            ]
        finally:
            exporter.stop()
    ms = statistics.median(one.ms for one in scrapes[1:])
    yield [
        f"{processes:,} x 100",
        f"{ms:.1f}",
        f"{theirs_ms:,.0f}",
        f"{theirs_ms / ms:,.0f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="What a scrape costs.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--most", type=int, default=1_000_000, metavar="SERIES")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    rounds, most, seconds, processes = options.rounds, options.most, 15.0, 1000
    if options.tiny:
        rounds, most, seconds, processes = 1, 1000, 1.0, 3
    say(machine("prometheus_client"))
    say()
    sizes = [n for n in (1000, 10_000, 100_000, 1_000_000) if n <= most]
    table(HEAD, (row for n in sizes for row in compare(n, rounds if n < 10**6 else 3)))
    say()
    table(LAG_HEAD, lag(min(most, 100_000), seconds))
    say()
    table(ENDED_HEAD, ended(processes, rounds))


if __name__ == "__main__":
    main()
