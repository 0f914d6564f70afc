"""How many sources one exporter holds: ``python -m benchmarks.ingest``.

Run by hand, from the checkout, on Linux. Rules of this measurement:

- The exporter is a process of its own, its journal on a disk, written through to it
  (``synchronous=FULL``). Sources are real connections of one load generator
  (:mod:`benchmarks.zmtp`) on another core; all of them say hello and introduce
  themselves, and their samples change every value of 50 series.
- ``CPU`` is all that the exporter's process uses, as a share of one core, while a
  second's samples are spread over the second. ``answered`` is how long after its
  sending a sample is acknowledged (every second one is). It keeps up where it has
  received all that was sent.
- Records are whole episodes (started and ended, with phases and results), as fast as
  they are acknowledged, which is after the commit.
- The peer of samples is what sends a message for each event: a PULL socket, JSON, one
  ``labels(...).inc()`` of prometheus_client (as statsd_exporter does, in its
  language); that of records is the bare insertion of the same bytes into SQLite.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

from benchmarks.fleet import (
    FEW,
    Crowd,
    Metrics,
    Used,
    acknowledged,
    batch,
    episodes_of,
    memory,
)
from benchmarks.table import machine, say, table
from benchmarks.zmtp import Connection
from experiment_hooks import wire
from tests.support import Exporter

SLICES = 100
"""Parts of a second in which so many of the sources send."""
WATCHED = 50
"""Connections whose acknowledgements are timed."""
BATCH = 500
UNDER_WAY = 2
"""Batches of a source that are not acknowledged yet, as the hooks have them."""


# --- samples -------------------------------------------------------------------------


class Answers:
    """How long some connections wait for an answer to a sample: every second one."""

    def __init__(self, connections: list[Connection]) -> None:
        self.seconds: list[float] = []
        self._sent: dict[Connection, float] = {}
        for one in connections:
            one.on_message = self._came

    def sent(self, connection: Connection) -> None:
        self._sent[connection] = time.monotonic()

    def _came(self, connection: Connection, parts: list[bytes]) -> None:
        ack = acknowledged(parts)
        if ack is not None and ack.sample and connection in self._sent:
            self.seconds.append(time.monotonic() - self._sent.pop(connection))


def pace(
    crowd: Crowd, rate: float, seconds: float, first: int, metrics: Metrics = FEW
) -> tuple[int, Answers]:
    """Each source sends so many samples a second; how many there were in all."""
    connections = crowd.connections
    answers = Answers(connections[:: max(1, len(connections) // WATCHED)])
    watched = set(connections[:: max(1, len(connections) // WATCHED)])
    slices = [connections[part::SLICES] for part in range(SLICES)]
    sent, start = 0, time.monotonic()
    for turn in range(int(seconds * rate * SLICES)):
        due = start + turn / (rate * SLICES)
        while True:
            left = due - time.monotonic()
            crowd.fleet.pump(max(0.0, left))
            if left <= 0:
                break
        if turn % SLICES == 0:
            framed = metrics.sample(first + turn // SLICES)
        for one in slices[turn % SLICES]:
            if one in watched:
                answers.sent(one)
            one.send(framed)
            sent += 1
    return sent, answers


def samples(sources: int, rate: float, seconds: float, runs: int) -> list[object]:
    """One row: so many sources, each with so many samples a second."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory), "metrics.max_series=1000000").start()
        try:
            crowd = Crowd(exporter.ingest, sources, runs)
            pid = exporter.process.pid
            pace(crowd, rate, min(3.0, seconds), first=1)  # it warms up
            before = received(exporter)
            used = Used(pid)
            first = int(4 * rate) + 4
            sent, answers = pace(crowd, rate, seconds, first)
            cpu, elapsed = used.seconds, used.elapsed
            behind = sent - (received(exporter) - before)
            now, _ = memory(pid)
            crowd.close()
        finally:
            exporter.stop()
    delays = sorted(answers.seconds) or [float("nan")]
    return [
        f"{sources:,}",
        f"{sent / elapsed:,.0f}",
        f"{sent * FEW.series / elapsed:,.0f}",
        f"{100 * cpu / elapsed:.0f} %",
        f"{cpu / sent * 1e6:.1f}",
        f"{cpu / sent / FEW.series * 1e6:.2f}",
        f"{statistics.median(delays) * 1e3:.1f}",
        f"{delays[int(len(delays) * 0.99)] * 1e3:.0f}",
        f"{now:,.0f}",
        "yes" if behind <= sent * 0.02 else f"no, {behind:,} behind",
    ]


def received(exporter: Exporter) -> int:
    """How many samples it says that it has received."""
    return int(exporter.value("episight_samples_total", kind="sample") or 0)


HEAD = (
    "sources", "samples/s", "series/s", "CPU", "us a sample", "us a series",
    "answered ms", "p99", "MiB", "keeps up",
)  # fmt: skip


# --- the peer of samples -------------------------------------------------------------

COLLECTOR = """
import json, sys, zmq
from prometheus_client import Counter
counters = {}
pull = zmq.Context().socket(zmq.PULL)
print(pull.bind_to_random_port("tcp://127.0.0.1"), flush=True)
count, wanted = 0, int(sys.argv[1])
while count < wanted:
    event = json.loads(pull.recv())
    name, labels = event["name"], event["labels"]
    if name not in counters:
        counters[name] = Counter(name, name, list(labels))
    counters[name].labels(**labels).inc(event["value"])
    count += 1
print("done", flush=True)
sys.stdin.read()
"""


def event_by_event(events: int) -> float:
    """Microseconds of a processor that one event costs a collector of single events."""
    process = subprocess.Popen(
        [sys.executable, "-c", COLLECTOR, str(events)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{port}")
    texts = [
        json.dumps(
            {
                "name": "grasps",
                "labels": {
                    "experiment": "benchmark",
                    "run": f"benchmark-{number % 100}",
                    "finger": str(number % 30),
                },
                "value": 1,
            }
        ).encode()
        for number in range(3000)
    ]
    push.send(texts[0])
    used = Used(process.pid)
    for number in range(1, events):
        push.send(texts[number % len(texts)])
    process.stdout.readline()
    spent = used.seconds
    process.communicate()
    context.destroy(linger=0)
    return spent / events * 1e6


# --- records -------------------------------------------------------------------------


class Pusher:
    """Sends a source's batches as they are acknowledged."""

    def __init__(self, connection: Connection, batches: list[bytes]) -> None:
        self.left = len(batches) * BATCH
        self._connection = connection
        self._batches = iter(batches)
        connection.on_message = self._came
        self._under_way = 0

    def push(self) -> None:
        while self._under_way < UNDER_WAY * BATCH:
            framed = next(self._batches, None)
            if framed is None:
                return
            self._under_way += BATCH
            self._connection.send(framed)

    def _came(self, connection: Connection, parts: list[bytes]) -> None:
        ack = acknowledged(parts)
        if ack is not None:
            taken = sum(last - first + 1 for first, last in ack.records)
            self.left -= taken
            self._under_way -= taken
            self.push()


def records(sources: int, batches: int) -> tuple[list[object], list[bytes]]:
    """One row, and the records themselves; all are acknowledged."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory)).start()
        try:
            crowd = Crowd(exporter.ingest, sources)
            pushers, encoded = [], []
            for number, connection in enumerate(crowd.connections):
                framed = []
                for part in range(batches):
                    made = episodes_of(
                        "benchmark-0", number, BATCH // 2, 4 + part * BATCH
                    )
                    framed.append(batch(made))
                    encoded += [wire.encode(record) for record in made]
                pushers.append(Pusher(connection, framed))
            used = Used(exporter.process.pid)
            for pusher in pushers:
                pusher.push()
            while any(pusher.left for pusher in pushers):
                crowd.fleet.pump(1.0)
            cpu, elapsed = used.seconds, used.elapsed
            crowd.close()
        finally:
            exporter.stop()
    total = sources * batches * BATCH
    row: list[object] = [
        f"{sources}",
        f"{total:,}",
        f"{total / elapsed:,.0f}",
        f"{cpu / total * 1e6:.1f}",
        f"{100 * cpu / elapsed:.0f} %",
    ]
    return row, encoded


def bare_insertion(encoded: list[bytes]) -> float:
    """Records a second that SQLite takes, with nothing else to do."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        database = sqlite3.connect(Path(directory) / "bare.sqlite")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, data BLOB)")
        start = time.monotonic()
        for first in range(0, len(encoded), 5000):
            with database:
                rows = [(one,) for one in encoded[first : first + 5000]]
                database.executemany("INSERT INTO record (data) VALUES (?)", rows)
        taken = time.monotonic() - start
        database.close()
    return len(encoded) / taken


# --- the tables ----------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="How much one exporter takes.")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="N")
    parser.add_argument("--sources", type=int, default=10_000, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    say(machine("prometheus_client"))
    seconds, most = options.seconds, options.sources
    levels = [(most // 10, 1.0), (most // 5, 1.0), (most // 2, 1.0), (most, 1.0)]
    levels += [(most // 10, rate) for rate in (10.0, 20.0, 30.0)]
    if options.tiny:
        seconds, levels = 1.0, [(20, 5.0)]
    say()
    table(HEAD, (samples(n, rate, seconds, max(1, n // 100)) for n, rate in levels))
    say()
    events = 2000 if options.tiny else 200_000
    say(f"a message for each event: {event_by_event(events):.1f} us an event")
    say()
    rows, bare = [], 0.0
    for sources in (1,) if options.tiny else (1, 8, 64):
        batches = 2 if options.tiny else 512 // sources
        row, encoded = records(sources, batches)
        bare = bare_insertion(encoded)
        rows.append([*row, f"{bare:,.0f}"])
    head = ("sources", "records", "records/s", "us a record", "CPU", "bare SQLite/s")
    table(head, rows)


if __name__ == "__main__":
    main()
