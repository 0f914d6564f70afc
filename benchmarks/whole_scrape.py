"""A whole scrape of 100,000 series against prometheus_client: verdicts, merging, text.

Run by hand, from the checkout: ``python -m benchmarks.whole_scrape [--sources N]``.

``benchmarks.scrape`` measures the writing alone; here is all that ``/metrics`` does for
runs: 50 of them, each with 1,000 counters and 50 histograms of 17 bounds (1,000 lines),
told by so many sources. Totals change between the rounds, which alternate with
``generate_latest`` of a registry of real ``Counter`` and ``Histogram`` children of the
same names, labels and numbers of lines.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest

from experiment_hooks import wire
from exporter.metrics import Budget, RunMetrics
from exporter.state import State
from exporter.verdict import Rules

RUNS, COUNTERS, HISTOGRAMS, ROUNDS = 50, 1000, 50, 9
BOUNDS = wire.STEP_DURATION_BUCKETS
NOON = 1_700_000_000.0


def ours(sources: int) -> tuple[Callable[[int], None], Callable[[], bytes]]:
    """What changes the totals, and what a scrape does."""
    state = State()
    metrics = RunMetrics(
        state,
        rules=Rules(),
        budget=Budget(max_series=10**6, max_series_per_run=10**5),
        clock=lambda: NOON,
        heard=lambda source: None,
    )
    specs = (
        wire.MetricSpec("hits", "counter", labels=("n",)),
        wire.MetricSpec("wait_seconds", "histogram", labels=("n",), buckets=BOUNDS),
    )
    series = [wire.SeriesSpec(0, (str(n),)) for n in range(COUNTERS)]
    series += [wire.SeriesSpec(1, (str(n),)) for n in range(HISTOGRAMS)]
    told = []
    for number in range(RUNS * sources):
        run, source = f"run{number % RUNS}", number.to_bytes(16, "big")
        base = {"run": run, "source": source, "time": NOON}
        schema = wire.Schema(
            seq=3,
            first_metric=0,
            first_series=0,
            metrics=specs,
            series=tuple(series),
            **base,
        )
        state.apply(wire.SourceOpened(seq=1, role="shared", **base), run, NOON)
        state.apply(wire.RunOpened(seq=2, experiment="demo", **base), run, NOON)
        state.apply(schema, run, NOON)
        told.append(source)
    width = COUNTERS + HISTOGRAMS * (len(BOUNDS) + 2)

    def change(number: int) -> None:
        totals = wire.pack_totals([float(number)] * width)
        for source in told:
            sample = wire.Sample(number=number, sent=NOON, totals=totals)
            state.apply_sample(source, sample, NOON)

    return change, lambda: metrics.render(False)


def theirs() -> tuple[Callable[[int], None], Callable[[], bytes]]:
    """The same for prometheus_client."""
    disable_created_metrics()
    registry = CollectorRegistry()
    labels = ["experiment", "run", "n"]
    hits = Counter("experiment_hits", "Hits.", labels, registry=registry)
    waits = Histogram(
        "experiment_wait_seconds", "Waits.", labels, buckets=BOUNDS, registry=registry
    )
    children = [
        hits.labels("demo", f"run{run}", str(n))
        for run in range(RUNS)
        for n in range(COUNTERS)
    ]
    others = [
        waits.labels("demo", f"run{run}", str(n))
        for run in range(RUNS)
        for n in range(HISTOGRAMS)
    ]

    def change(_: int) -> None:
        for child in children:
            child.inc()
        for other in others:
            other.observe(0.5)

    return change, lambda: generate_latest(registry)


def main() -> None:
    """Measures, and prints a line for each side, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=1, help="processes of each run")
    sides = {"ours": ours(parser.parse_args().sources), "prometheus_client": theirs()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(1, ROUNDS + 1):
        for side, (change, scrape) in sides.items():
            change(number)
            started = time.perf_counter()
            body = scrape()
            if number > 1:  # the first makes what the others keep
                seconds[side].append(time.perf_counter() - started)
            lines = sum(not line.startswith(b"#") for line in body.splitlines())
            assert lines > 100_000 - 1, lines
    medians = {side: statistics.median(found) for side, found in seconds.items()}
    for side, median in medians.items():
        sys.stdout.write(f"{side:18} {median * 1000:8.1f} ms\n")
    ratio = medians["prometheus_client"] / medians["ours"]
    sys.stdout.write(f"{'ratio':18} {ratio:8.1f}\n")


if __name__ == "__main__":
    main()
