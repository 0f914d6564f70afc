"""What watching costs a real Monty: ``python -m benchmarks monty``.

Run by hand, from the checkout, on a quiet machine; ``./run.sh --setup monty`` makes the
Monty. Rules of this measurement:

- The experiment is that of ``./run.sh monty``: one learning module, two sensors, drawn
  in software. It runs in a process of its own, and so does the exporter.
- ``us a step`` is all that the hook does on the experiment's thread within an episode,
  mean over all steps but the first, which opens the run and is told apart. ``p50``,
  ``p99``: of the hook's calls alone. ``ms an episode``: at its beginning and its end.
- ``watched`` is with a browser's connection to the run's page, so that state and images
  are taken ten times a second.
- The peer does what one would write first: each step as JSON and, ten times a second,
  its images as PNG, by a PUB socket.
- Of several rounds the median is told, and of each round another order.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from benchmarks.live import Viewer
from benchmarks.table import machine, say, table
from tests.support import ROOT, Exporter, clean_environment, eventually

PYTHON = ROOT / ".venvs" / "monty" / "bin" / "python"
START = ROOT / "experiments" / "monty" / "start.sh"
KINDS = {
    "no hook": ("Nothing", False),
    "Episight": ("Ours", False),
    "Episight, watched": ("Ours", True),
    "JSON and PNG by PUB": ("Publishing", False),
}


@contextmanager
def watched(exporter: Exporter) -> Iterator[None]:
    """Each run of this exporter is looked at, as soon as it is there."""
    over = threading.Event()

    def look(run: str) -> None:
        viewer = Viewer(exporter.web, f"/runs/{run}/live")
        with suppress(ConnectionError, OSError):
            while not over.is_set():
                viewer.readable()

    def find() -> None:
        (run,) = eventually(exporter.runs, 120.0)
        look(run["run"])

    thread = threading.Thread(target=find, daemon=True)
    thread.start()
    yield
    over.set()


def measured(python: str, kind: str, epochs: int) -> dict[str, float]:
    """One run of Monty, with one kind of hook; microseconds."""
    hook, is_watched = KINDS[kind]
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        exporter = Exporter(home / "exporter").start()
        node = "+experiment.config.step_hook"
        command = [
            str(START), python, str(home / "results"), "quick",
            f"experiment.config.n_train_epochs={epochs}",
            f"{node}._target_=benchmarks.monty_hooks.Timed",
            f"{node}.first._target_=benchmarks.monty_hooks.{hook}",
            f"{node}.path={home / 'measured'}",
        ]  # fmt: skip
        try:
            with watched(exporter) if is_watched else nullcontext():
                done = subprocess.run(
                    command,
                    env=clean_environment(home, exporter.env),
                    capture_output=True,
                    text=True,
                    check=False,
                )
        finally:
            exporter.stop()
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found = json.loads((home / "measured").read_text())
    first, *calls = found["calls"]
    calls.sort()
    beside = {name: sum(times) for name, times in found["beside"].items()}
    episodes = max(1, len(found["beside"].get("_end", ())))
    around = sum(beside.get(name, 0.0) for name in ("_begin", "_finish", "_end"))
    return {
        "step": 1e3 * statistics.mean(found["between"]),
        "mean": 1e6 * (sum(calls) + beside.get("_timed", 0.0)) / len(calls),
        "episode": 1e3 * around / episodes,
        "p50": 1e6 * statistics.median(calls),
        "p99": 1e6 * calls[int(len(calls) * 0.99)],
        "first": 1e3 * first,
        "steps": len(calls),
    }


def rows(python: str, rounds: int, epochs: int) -> Iterator[list[str]]:
    """A row for each kind of hook."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        order = list(KINDS)[number % len(KINDS) :] + list(KINDS)[: number % len(KINDS)]
        for kind in order:
            found[kind].append(measured(python, kind, epochs))
    for kind, several in found.items():
        middle = {
            key: statistics.median(one[key] for one in several) for key in several[0]
        }
        yield [
            kind, f"{middle['steps']:.0f}", f"{middle['step']:.1f}",
            f"{middle['mean']:.1f}", f"{middle['p50']:.1f}", f"{middle['p99']:.0f}",
            f"{middle['episode']:.1f}", f"{middle['first']:.1f}",
        ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="What watching costs a real Monty.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--epochs", type=int, default=10, metavar="N")
    parser.add_argument("--python", default=str(PYTHON), help="one that has Monty")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    if not Path(options.python).exists():
        sys.exit(f"no Monty in {options.python}: ./run.sh --setup monty makes it")
    if options.tiny:
        options.rounds = options.epochs = 1
    say(machine())
    say()
    head = (
        "hook", "steps", "ms between", "us a step", "p50", "p99", "ms an episode",
        "first ms",
    )  # fmt: skip
    table(head, rows(options.python, options.rounds, options.epochs))


if __name__ == "__main__":
    main()
