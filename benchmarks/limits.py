"""What the machine itself does at best: ``python -m benchmarks limits``.

Run by hand, from the checkout. Rules of this measurement:

- What no program can go below here, to see how much of our figures is the machine's:
  medians of many rounds of the bare operation, in plain Python.
- A commit is a page appended to a file and ``fsync``; of SQLite, a row in a transaction
  of its own (WAL, ``synchronous=FULL``), as the journal has it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.table import machine, say, table

BODY = b"x" * 10_000_000
"""As a scrape of 100,000 series."""
SAMPLE = b"x" * 500


def microseconds(rounds: int, action: Callable[[], object]) -> float:
    """The median of what one takes."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def disk(rounds: int) -> list[list[object]]:
    """Rows: a page and a row, on the disk of the current directory."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        file = os.open(Path(directory) / "page", os.O_WRONLY | os.O_CREAT)

        def append() -> None:
            os.write(file, b"x" * 4096)
            os.fsync(file)

        page = microseconds(rounds, append)
        os.close(file)
        database = sqlite3.connect(Path(directory) / "row", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE row (data BLOB)")
        row = microseconds(
            rounds, lambda: database.execute("INSERT INTO row VALUES (?)", (SAMPLE,))
        )
        database.close()
    return [["a page, fsync", f"{page:,.0f}"], ["a row of SQLite", f"{row:,.0f}"]]


def loopback(rounds: int) -> list[list[object]]:
    """Rows: bytes through a TCP connection of this machine."""
    listening = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(listening.getsockname())
    other, _ = listening.accept()
    listening.close()

    def small() -> None:
        one.send(SAMPLE)
        other.recv(4096)

    def body() -> None:
        reader = threading.Thread(
            target=other.recv, args=(len(BODY), socket.MSG_WAITALL)
        )
        reader.start()
        one.sendall(BODY)
        reader.join()

    with one, other:
        return [
            ["500 bytes, sent and received", f"{microseconds(10 * rounds, small):.1f}"],
            ["10 MB, sent and received", f"{microseconds(rounds // 5, body):,.0f}"],
        ]


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="What the machine does at best.")
    parser.add_argument("--rounds", type=int, default=200, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    rounds = 5 if options.tiny else options.rounds
    say(machine())
    say()
    copy = microseconds(rounds, lambda: bytearray(BODY))
    rows = [*disk(rounds), *loopback(rounds)]
    table(("at best", "us"), [*rows, ["10 MB, copied", f"{copy:,.0f}"]])


if __name__ == "__main__":
    main()
