"""Sources for the exporter's benchmarks: what they say, and who drives them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from benchmarks.zmtp import Connection, Fleet, frames
from experiment_hooks import wire

COMMITTED_WITHIN = 2.5
"""Seconds after which a received sample is on disk: the writer's tick, twice."""


@dataclass(frozen=True)
class Metrics:
    """What a source counts: counters, and histograms of 17 bounds, by a label."""

    counters: int
    histograms: int
    bounds: ClassVar[tuple[float, ...]] = wire.STEP_DURATION_BUCKETS

    @property
    def series(self) -> int:
        """As Prometheus counts them: a histogram is its buckets, count and sum."""
        return self.counters + self.histograms * (len(self.bounds) + 3)

    def schema(self, run: str, source: bytes, seq: int) -> wire.Schema:
        named = ("finger",)
        metrics = (
            wire.MetricSpec("grasps", "counter", labels=named),
            wire.MetricSpec(
                "force_newtons", "histogram", labels=named, buckets=self.bounds
            ),
        )
        columns = [(0, finger) for finger in range(self.counters)]
        columns += [(1, finger) for finger in range(self.histograms)]
        series = tuple(wire.SeriesSpec(one, (str(n),)) for one, n in columns)
        return wire.Schema(
            run, source, seq, time.time(), 0, 0, metrics=metrics, series=series
        )

    def sample(self, number: int) -> bytes:
        """One moment, every total another, framed: any source may say it."""
        now = time.time()
        slots = self.counters + self.histograms * (len(self.bounds) + 2)
        message = wire.Sample(
            number=number,
            sent=now,
            totals=wire.pack_totals([float(number)] * slots),
            progress=now,
            gaps=number,
        )
        return frames([wire.encode(message)])


FEW = Metrics(counters=30, histograms=1)
"""50 series, as a source has."""


def source_id(number: int) -> bytes:
    """Of 16 bytes."""
    return b"benchmark" + number.to_bytes(7, "big")


def hello(run: str, number: int) -> bytes:
    """The message with which a source begins, framed."""
    message = wire.Hello(
        protocol=wire.PROTOCOL,
        source=source_id(number),
        run=run,
        sent=time.time(),
        experiment="benchmark",
        role="shared",
    )
    return frames([wire.encode(message)])


def introduction(run: str, number: int, metrics: Metrics) -> list[wire.AnyRecord]:
    """The first three records of a source: itself, its run, its metrics."""
    now, who = time.time(), source_id(number)
    return [
        wire.SourceOpened(run, who, 1, now, host="node", pid=number, role="shared"),
        wire.RunOpened(run, who, 2, now, experiment="benchmark"),
        metrics.schema(run, who, 3),
    ]


def episodes_of(run: str, number: int, count: int, first: int) -> list[wire.AnyRecord]:
    """So many whole episodes of a source, two records each, from this number on."""
    found: list[wire.AnyRecord] = []
    now, who = time.time(), source_id(number)
    for seq in range(first, first + 2 * count, 2):
        index = (seq - 4) // 2
        found += [
            wire.EpisodeStarted(
                run, who, seq, now, number=index, mode="eval", target="mug"
            ),
            wire.EpisodeEnded(
                run,
                who,
                seq + 1,
                now,
                number=index,
                mode="eval",
                started=now,
                duration=1.5,
                steps=146,
                outcome="correct",
                target="mug",
                results={"return": 12.5, "rotation_error": 0.25},
                attributes={"grip": "pinch"},
                phases=(
                    wire.PhaseSpan("matching", 0.0, 1.0, 100),
                    wire.PhaseSpan("exploratory", 1.0, 0.5, 46),
                ),
            ),
        ]
    return found


def batch(records: list[wire.AnyRecord]) -> bytes:
    """Records of one source as one message, framed."""
    head = wire.Records(
        seqs=tuple(record.seq for record in records),
        sent=time.time(),
        announced=records[-1].seq,
    )
    return frames([wire.encode(head), *(wire.encode(record) for record in records)])


def acknowledged(parts: list[bytes]) -> wire.Ack | None:
    """The Ack in a message from the exporter, if it is one."""
    message = wire.decode_from_exporter(parts[0])
    return message if isinstance(message, wire.Ack) else None


class Crowd:
    """So many connected sources, whose introductions are committed.

    Args:
        endpoint: the exporter's ingest address.
        sources: how many.
        runs: of how many runs they are, evenly.
        metrics: what each of them counts.
        episodes: how many each of them has had.
        first: number of the first source; they and their runs are numbered from it.
    """

    def __init__(
        self,
        endpoint: str,
        sources: int,
        runs: int = 1,
        metrics: Metrics = FEW,
        episodes: int = 0,
        first: int = 0,
    ) -> None:
        parts = urlsplit(endpoint)
        address = (str(parts.hostname), int(parts.port or 0))
        self._metrics, self._runs, self._first = metrics, runs, first
        self._waiting, self._newest = sources, 3 + 2 * episodes
        self._sampled, self._number = 0, 0
        connections = []
        for number in range(first, first + sources):
            run = self._run(number)
            one = Connection(address, self._on_introduced)
            records = introduction(run, number, metrics)
            records += episodes_of(run, number, episodes, first=4)
            one.send(hello(run, number) + batch(records))
            connections.append(one)
        self.fleet = Fleet(connections)
        self._until(lambda: not self._waiting)

    @property
    def connections(self) -> list[Connection]:
        return self.fleet.connections

    def _on_introduced(self, connection: Connection, parts: list[bytes]) -> None:
        ack = acknowledged(parts)
        if ack is not None and any(last >= self._newest for _, last in ack.records):
            connection.on_message = None
            self._waiting -= 1

    def sample(self) -> int:
        """Each source says new totals, and they are committed; which sample it was."""
        self._number += 1
        self._sampled = len(self.connections)
        framed = self._metrics.sample(self._number)
        for one in self.connections:
            one.on_message = self._on_sampled
            one.send(framed)
        self._until(lambda: not self._sampled)
        time.sleep(COMMITTED_WITHIN)
        return self._number

    def _on_sampled(self, connection: Connection, parts: list[bytes]) -> None:
        ack = acknowledged(parts)
        if ack is not None and ack.sample >= self._number:
            connection.on_message = None
            self._sampled -= 1

    def end(self) -> None:
        """Each source says that it has completed; that is committed."""
        self._newest += 1
        self._waiting = len(self.connections)
        for number, one in enumerate(self.connections, self._first):
            closed = wire.SourceClosed(
                self._run(number),
                source_id(number),
                self._newest,
                time.time(),
                "completed",
            )
            one.on_message = self._on_introduced
            one.send(batch([closed]))
        self._until(lambda: not self._waiting)

    def _run(self, number: int) -> str:
        return f"benchmark-{self._first + (number - self._first) % self._runs}"

    def _until(self, done: Callable[[], bool], seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError("the exporter did not take all of it")
            self.fleet.pump(0.1)

    def close(self) -> None:
        self.fleet.close()


class Used:
    """What a process has used since this was made: processor time, wall time.

    Of ``/proc``: Linux only.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu, self._at = self._seconds(), time.monotonic()

    def _seconds(self) -> float:
        stat = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def seconds(self) -> float:
        """Of a processor, user and system."""
        return self._seconds() - self._cpu

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._at


def memory(pid: int) -> tuple[float, float]:
    """Resident MiB of a process: now, and at its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (int(found[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak
