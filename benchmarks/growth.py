"""What grows with what: ``python -m benchmarks growth``.

Run by hand, from the checkout, on Linux. Rules of this measurement:

- Start-up is from the start of the process to the first 200 of ``/-/ready``, with a
  journal that was written before, of runs that have ended. What is asked then is a
  median of five: a scrape (their time of grace is over, so its series are few), the
  list of runs, the page of all runs and of those that a filter lets through, and the
  last page of a run's episodes.
- Days: a thousand episodes of ten runs each day are committed, and what is older than
  30 days is deleted, as the retention does it; the file's size is looked at.
- Churn: runs come, are scraped, end and are deleted, in rounds, of one exporter.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fleet import FEW, Crowd, episodes_of, introduction, memory, source_id
from benchmarks.table import machine, say, table
from experiment_hooks import wire
from exporter.journal import Batch, Deletion, Entry, Journal
from exporter.ranges import Ranges
from tests.support import Exporter

BATCH = 5000
DAY = 86400.0


# --- a journal -----------------------------------------------------------------------


def story(run: str, number: int, episodes: int) -> list[wire.AnyRecord]:
    """All that a source says which has had so many episodes and has completed."""
    records = introduction(run, number, FEW)
    records += episodes_of(run, number, episodes, first=4)
    last, who, now = 4 + 2 * episodes, source_id(number), time.time()
    return [
        *records,
        wire.RunClosed(run, who, last, now, "completed"),
        wire.SourceClosed(run, who, last + 1, now, "completed"),
    ]


def write(journal: Journal, run: str, number: int, episodes: int, at: float) -> None:
    """Commit a whole run of one source."""
    entries = [
        Entry(run, at, wire.encode(record), record)
        for record in story(run, number, episodes)
    ]
    for first in range(0, len(entries), BATCH):
        journal.commit(Batch(entries=entries[first : first + BATCH]))


# --- start-up ------------------------------------------------------------------------


def start_ups(levels: list[tuple[int, int]]) -> Iterator[list[object]]:
    """Rows: (runs, episodes of each)."""
    for runs, episodes in levels:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
            exporter = Exporter(Path(directory))
            with Journal(exporter.journal, traces=False) as journal:
                for number in range(runs):
                    at = time.time() - 7200 - runs + number
                    write(journal, f"run-{number}", number, episodes, at)
                size = journal.size
            try:
                started = time.monotonic()
                exporter.start(deadline=600.0)
                ready = time.monotonic() - started
                after, _ = memory(exporter.process.pid)
                yield [
                    f"{runs:,} x {episodes:,} episodes",
                    f"{size / 2**20:,.0f}",
                    f"{ready:.1f}",
                    f"{after:,.0f}",
                    *(
                        f"{asked(exporter, path) * 1e3:,.1f}"
                        for path in (
                            "/metrics",
                            "/api/v1/runs",
                            "/",
                            "/?q=run-42&state=completed",
                            last_page(exporter, "run-0"),
                        )
                    ),
                ]
            finally:
                exporter.stop()


def asked(exporter: Exporter, path: str) -> float:
    """Median seconds of an answer."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert exporter.get(path, deadline=60.0).status == 200, path
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def last_page(exporter: Exporter, run: str) -> str:
    """The address of a run's last episodes."""
    path = f"/api/v1/runs/{run}/episodes?limit=1000"
    after = ""
    while True:
        following = exporter.get(path + after).json()["next"]
        if following is None:
            return path + after
        after = f"&after={following}"


# --- days ----------------------------------------------------------------------------


def days(shown: list[int], retention: int) -> Iterator[list[object]]:
    """Rows: how large the journal is after so many days."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        path = Path(directory) / "journal.sqlite"
        kept: list[tuple[int, str, int]] = []
        came = Ranges()
        came.update([(1, 204)])
        with Journal(path, traces=False) as journal:
            for day in range(1, max(shown) + 1):
                for one in range(10):
                    number = day * 10 + one
                    write(journal, f"run-{number}", number, 100, day * DAY)
                    kept.append((day, f"run-{number}", number))
                old = [one for one in kept if one[0] <= day - retention]
                kept = kept[len(old) :]
                gone = [
                    Deletion(run, day * DAY, {source_id(number): came})
                    for _, run, number in old
                ]
                if gone:
                    journal.commit(Batch(deleted=gone))
                if day in shown:
                    yield [
                        f"{day} days",
                        f"{len(kept):,}",
                        f"{journal.size / 2**20:.1f}",
                    ]


# --- churn ---------------------------------------------------------------------------


def churn(rounds: int, runs: int) -> Iterator[list[object]]:
    """Rows: what one exporter holds after rounds of runs that came and went."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory), "run.grace_seconds=1").start()
        try:
            for number in range(1, rounds + 1):
                crowd = Crowd(
                    exporter.ingest, runs, runs, episodes=10, first=number * runs
                )
                crowd.sample()
                crowd.end()
                crowd.close()
                scrape = asked(exporter, "/metrics")
                delete_all(exporter)
                now, _ = memory(exporter.process.pid)
                yield [
                    f"{number * runs:,} runs came and went",
                    f"{now:,.0f}",
                    f"{scrape * 1e3:.0f}",
                    f"{asked(exporter, '/metrics') * 1e3:.1f}",
                    f"{exporter.journal.stat().st_size / 2**20:.1f}",
                ]
        finally:
            exporter.stop()


def delete_all(exporter: Exporter) -> None:
    """Every run, as soon as it has ended, its grace included."""
    asked_for: set[str] = set()
    while True:
        there = exporter.runs()
        if not there:
            return
        for one in there:
            if one["ended"] and one["run"] not in asked_for:
                asked_for.add(one["run"])
                exporter.delete(f"/api/v1/runs/{one['run']}")
        time.sleep(0.2)


START_HEAD = (
    "a journal with", "MiB", "ready s", "RSS MiB", "scrape ms", "runs ms", "page ms",
    "filter ms", "episodes ms",
)  # fmt: skip
CHURN_HEAD = ("one exporter", "RSS MiB", "scrape ms", "empty ms", "journal MiB")


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="What grows with what.")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    levels = [(100, 100), (100, 1000), (100, 10_000)]
    levels += [(1000, 100), (5000, 20), (20_000, 5)]
    shown, rounds, runs = [10, 30, 40, 60, 90, 180], 6, 500
    if options.tiny:
        levels, shown, rounds, runs = [(3, 2)], [1, 2], 1, 3
    say(machine())
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    say(f"{free:.0f} GiB free where it writes")
    say()
    table(START_HEAD, start_ups(levels))
    say()
    retention = 1 if options.tiny else 30
    table(("kept for 30 days, after", "runs", "MiB"), days(shown, retention))
    say()
    table(CHURN_HEAD, churn(rounds, runs))


if __name__ == "__main__":
    main()
