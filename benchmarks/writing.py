"""How fast a scrape is written: ``exporter.exposition`` against prometheus_client.

Run by hand, from the checkout: ``python -m benchmarks writing``.

Rules of this measurement:

- A series is a line of numbers, as Prometheus counts. Half of them are counters, the
  other half are the lines of histograms with 17 bounds: 18 buckets, count and sum.
- Both sides hold the same series and values, change them between the rounds, and must
  write the same bytes in every round; the rounds of the two alternate.
- Measured is all that a scrape does. For prometheus_client: ``generate_latest`` of a
  registry of real ``Counter`` and ``Histogram`` children, ``_created`` turned off. For
  ours: making the families from values and kept prefixes, and ``render``.
- The prefixes are kept over scrapes (warm). What it costs to make them is shown apart.
- ``counts`` are whole numbers below a million, as most counters are. ``mixed`` is what
  is harder to write: a third of the counters are fractions, a third are above a
  million, where the format has exponents, and so are a third of the histograms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest as their_text
from prometheus_client.openmetrics.exposition import (
    generate_latest as their_openmetrics,
)

from benchmarks.table import machine, say, table
from exporter.exposition import Buckets, Family, Prefix, prefix, render

FAMILIES = 10
# A step's duration: 1-3-10 from 10 us to 1,000 s.
BOUNDS = (*(float(f"{m}e{e}") for e in range(-5, 3) for m in (1, 3)), 1000.0)
LABELS = ("experiment", "mode", "outcome", "run")
LINES_OF_HISTOGRAM = len(BOUNDS) + 3


@dataclass
class Ours:
    """What a caller of the exposition keeps: by family, values by prepared series."""

    counters: dict[str, dict[Prefix, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Buckets, list[float]]] = field(default_factory=dict)
    """Counts per bucket, +Inf last, then the sum: as the totals come from a source."""

    def scrape(self, openmetrics: bool) -> bytes:
        return render(self._families(), openmetrics)

    def _families(self) -> Iterator[Family]:
        for name, values in self.counters.items():
            family = Family(name, "counter", "A counter.")
            family.extend([*values], [*values.values()])
            yield family
        for name, totals in self.histograms.items():
            family = Family(name, "histogram", "A histogram.")
            for buckets, numbers in totals.items():
                family.add_histogram(buckets, numbers[:-1], numbers[-1])
            yield family


class Theirs:
    """The same as children of prometheus_client, in the same order."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.counters: list[list[Counter]] = []
        self.histograms: list[list[Histogram]] = []

    def scrape(self, openmetrics: bool) -> bytes:
        return (their_openmetrics if openmetrics else their_text)(self.registry)


class Subject:
    """Both sides with one set of series, and how their values grow."""

    def __init__(self, series: int, mixed: bool) -> None:
        self.ours, self.theirs = Ours(), Theirs()
        self.mixed = mixed
        self._random = random.Random(1)
        self._labels = [_labels(i) for i in range(series // 2 // FAMILIES)]
        for number in range(FAMILIES):
            self._add_counters(f"experiment_benchmark_{number}")
        for number in range(FAMILIES):
            self._add_histograms(f"experiment_benchmark_{number}_seconds")
        self._start()

    def _add_counters(self, name: str) -> None:
        ours = self.ours.counters[name] = {}
        parent = Counter(name, "A counter.", LABELS, registry=self.theirs.registry)
        self.theirs.counters.append([parent.labels(*ls) for ls in self._labels])
        for labels in self._labels:
            ours[prefix(name, "counter", zip(LABELS, labels, strict=True))] = 0.0

    def _add_histograms(self, name: str) -> None:
        labels = self._labels[: len(self._labels) // LINES_OF_HISTOGRAM]
        ours = self.ours.histograms[name] = {}
        parent = Histogram(
            name,
            "A histogram.",
            LABELS,
            buckets=BOUNDS,
            registry=self.theirs.registry,
        )
        self.theirs.histograms.append([parent.labels(*ls) for ls in labels])
        for values in labels:
            pairs = zip(LABELS, values, strict=True)
            ours[Buckets(name, pairs, BOUNDS)] = [0.0] * (len(BOUNDS) + 2)

    def _start(self) -> None:
        """Gives each series the size that it keeps."""
        for number, children in enumerate(self.theirs.counters):
            starts = [self._first_value(i) for i in range(len(children))]
            self._count(number, starts)
        for number, histograms in enumerate(self.theirs.histograms):
            for i in range(len(histograms)):
                large = self.mixed and i % 3 == 0
                for bucket in range(len(BOUNDS) + 1):
                    count = self._random.randrange(10**6 if large else 10**4)
                    self._observe(number, i, bucket, count)

    def _first_value(self, i: int) -> float:
        whole = self._random.randrange(10**5)
        if not self.mixed or i % 3 == 0:
            return whole
        return whole + (10**6 if i % 3 == 1 else self._random.random())

    def grow(self) -> None:
        """What happens between two scrapes: every series has a new value."""
        for number, children in enumerate(self.theirs.counters):
            # Fractions stay fractions and whole numbers whole ones.
            self._count(number, [self._random.randrange(1, 10) for _ in children])
        for number, histograms in enumerate(self.theirs.histograms):
            for i in range(len(histograms)):
                self._observe(number, i, self._random.randrange(3), 5)

    def _count(self, family: int, amounts: list[float]) -> None:
        ours = list(self.ours.counters.values())[family]
        children = self.theirs.counters[family]
        for line, child, amount in zip(ours, children, amounts, strict=True):
            ours[line] += amount
            child.inc(amount)

    def _observe(self, family: int, child: int, bucket: int, count: int) -> None:
        totals = list(list(self.ours.histograms.values())[family].values())[child]
        theirs = self.theirs.histograms[family][child]
        spent = count * self._random.random()
        totals[bucket] += count
        totals[-1] += spent
        # As observe() does, but a million times at once.
        theirs._buckets[bucket].inc(count)
        theirs._sum.inc(spent)


def _labels(number: int) -> tuple[str, ...]:
    return (
        "object-recognition",
        ("train", "eval")[number % 2],
        ("correct", "confused", "timeout")[number % 3],
        f"object-recognition-20260101-{number:06d}",
    )


def _seconds(scrape: Callable[[bool], bytes], openmetrics: bool) -> tuple[float, bytes]:
    before = time.perf_counter()
    body = scrape(openmetrics)
    return time.perf_counter() - before, body


def _measure(subject: Subject, openmetrics: bool, rounds: int) -> tuple[float, float]:
    """Returns both medians in seconds: theirs, ours."""
    theirs, ours = [], []
    for number in range(rounds + 1):
        subject.grow()
        their_seconds, their_body = _seconds(subject.theirs.scrape, openmetrics)
        our_seconds, our_body = _seconds(subject.ours.scrape, openmetrics)
        if their_body != our_body:
            raise SystemExit("the two do not write the same: nothing to compare")
        if number:  # the first warms both up
            theirs.append(their_seconds)
            ours.append(our_seconds)
    return statistics.median(theirs), statistics.median(ours)


def _preparation(series: int) -> float:
    """Returns the seconds that making all prefixes takes, as at a first scrape."""
    labels = [_labels(i) for i in range(series // 2)]
    pairs = [tuple(zip(LABELS, values, strict=True)) for values in labels]
    before = time.perf_counter()
    kept: list[object] = [prefix("experiment_benchmark", "counter", p) for p in pairs]
    few = pairs[: len(pairs) // LINES_OF_HISTOGRAM]
    kept += [Buckets("experiment_benchmark_seconds", p, BOUNDS) for p in few]
    return time.perf_counter() - before


HEAD = ("values, format", "series", "theirs ms", "ours ms", "times faster")


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="How fast a scrape is written.")
    parser.add_argument("--series", type=int, default=100_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.series, options.rounds = 1000, 1
    disable_created_metrics()  # type: ignore[no-untyped-call]
    say(machine("prometheus_client"))
    say(f"medians of {options.rounds} rounds, milliseconds; warm, all values changed")
    say()
    table(HEAD, _rows(options.series, options.rounds))
    say()
    say(f"making all prefixes, once: {_preparation(options.series) * 1e3:.0f} ms")


def _rows(series: int, rounds: int) -> Iterator[list[object]]:
    for values, mixed in (("counts", False), ("mixed", True)):
        subject = Subject(series, mixed)
        body = subject.ours.scrape(openmetrics=False)
        lines = body.count(b"\n") - body.count(b"\n#") - 1
        for form, openmetrics in (("text", False), ("OpenMetrics", True)):
            theirs, ours = _measure(subject, openmetrics, rounds)
            yield [
                f"{values}, {form}",
                f"{lines:,}",
                f"{theirs * 1e3:,.1f}",
                f"{ours * 1e3:.1f}",
                f"{theirs / ours:.1f}",
            ]


if __name__ == "__main__":
    main()
