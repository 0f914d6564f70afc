"""What Episight holds in memory: ``python -m benchmarks memory``.

Run by hand, from the checkout, on Linux. Rules of this measurement:

- Resident memory of processes of their own. The experiment's side is what it is more
  than a bare interpreter, in steps: imported, a run open, a million steps later, and
  that without an exporter; peers are imported and used once.
- The exporter's is what it is more than an empty one, after a scrape: with connected
  sources of 50 series in few runs, and with series that are all of runs of their own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fleet import FEW, Crowd, Metrics, memory
from benchmarks.hooks import ListenerProcess
from benchmarks.table import machine, say, table
from tests.support import Exporter

_OURS = """
import experiment_hooks as eh
run = eh.open_run("memory")
ep = run.episode()
for number in range({steps}):
    ep.step({{"number": number}}, {{"left": 0.5}})
"""
USES = {
    "pyzmq and msgspec alone": "import zmq, msgspec; zmq.Context().socket(zmq.PUB)",
    "experiment_hooks, imported": "import experiment_hooks",
    "a run open, one step": _OURS.format(steps=1),
    "a million steps later": _OURS.format(steps=1_000_000),
    "the same, nobody there": _OURS.format(steps=1_000_000),
    "prometheus_client": (
        "import prometheus_client as p; p.Counter('a', 'b').inc();"
        "p.start_http_server(0, '127.0.0.1')"
    ),
    "OpenTelemetry SDK": (
        "from opentelemetry.sdk.metrics import MeterProvider as M\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "M().get_meter('a').create_counter('b').add(1)"
    ),
    "tensorboardX": (
        "import tensorboardX as t; t.SummaryWriter('board').add_scalar('a', 1, 1)"
    ),
    "wandb, offline": (
        "import wandb; wandb.init(project='a', mode='offline').log({'a': 1})"
    ),
}
_MEASURED = """
import os, sys, time
start = time.perf_counter()
{code}
spent = time.perf_counter() - start
with open("/proc/self/status") as status:
    found = dict(line.split(":", 1) for line in status)
print("MEASURED", found["VmRSS"].split()[0], spent, flush=True)
os._exit(0)
"""


def used(code: str, **environ: str) -> tuple[float, float] | None:
    """Resident MiB after this code, and its seconds; None where it cannot run."""
    with tempfile.TemporaryDirectory() as directory:
        finished = subprocess.run(
            [sys.executable, "-c", _MEASURED.format(code=code)],
            cwd=directory,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": directory,
                "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
                "WANDB_SILENT": "true",
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
    for line in finished.stdout.splitlines():
        word, *numbers = line.split()
        if word == "MEASURED":
            return float(numbers[0]) / 1024, float(numbers[1])
    return None


def experiment(rounds: int, steps: int) -> Iterator[list[object]]:
    """Rows for the experiment's own process."""
    with ListenerProcess() as endpoint:
        bare = statistics.median(_all("pass", rounds, "")[0])
        for name, code in USES.items():
            there = "tcp://127.0.0.1:9" if "nobody" in name else endpoint
            sizes, seconds = _all(code.replace("1000000", str(steps)), rounds, there)
            if not sizes:
                yield [name, "not installed", ""]
                continue
            more, took = statistics.median(sizes) - bare, statistics.median(seconds)
            yield [name, f"{more:.1f}", f"{took * 1e3:,.0f}"]


def _all(code: str, rounds: int, endpoint: str) -> tuple[list[float], list[float]]:
    found = [used(code, EPISIGHT_ENDPOINT=endpoint) for _ in range(rounds)]
    there = [one for one in found if one is not None]
    return [one[0] for one in there], [one[1] for one in there]


def exporter(levels: list[tuple[str, int, int, Metrics]]) -> Iterator[list[object]]:
    """Rows for the exporter: name, sources, runs, what each source counts."""
    for name, sources, runs, metrics in levels:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
            served = Exporter(
                Path(directory),
                "metrics.max_series=10000000",
                "metrics.max_series_per_run=100000",
            ).start()
            try:
                served.get("/metrics")
                empty, _ = memory(served.process.pid)
                crowd = Crowd(served.ingest, sources, runs, metrics)
                crowd.sample()
                served.get("/metrics", deadline=120.0)
                full, peak = memory(served.process.pid)
                crowd.close()
            finally:
                served.stop()
        more = (full - empty) * 1024
        series = sources * metrics.series
        yield [
            name,
            f"{full:,.0f}",
            f"{peak:,.0f}",
            f"{more / sources:.1f}",
            f"{more * 1024 / series:,.0f}",
        ]


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="What is held in memory.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    rounds, steps = options.rounds, 1_000_000
    thousand = Metrics(counters=500, histograms=25)
    levels = [
        ("1,000 sources x 50, 10 runs", 1000, 10, FEW),
        ("10,000 sources x 50, 100 runs", 10_000, 100, FEW),
        ("100 runs x 1,000 series", 100, 100, thousand),
        ("1,000 runs x 1,000 series", 1000, 1000, thousand),
    ]
    if options.tiny:
        rounds, steps, levels = 1, 100, [("10 sources x 50, 1 run", 10, 1, FEW)]
    say(machine("prometheus_client", "opentelemetry-sdk", "tensorboardX", "wandb"))
    say()
    table(("in the experiment's process", "MiB more", "ms"), experiment(rounds, steps))
    say()
    head = ("exporter with", "MiB", "peak MiB", "KiB a source", "bytes a series")
    table(head, exporter(levels))


if __name__ == "__main__":
    main()
