"""The exporter's own metrics, ``episight_*``: read where the facts are, at scrape time.

A collector for prometheus_client: it owns no number itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from exporter.ingest import Ingest
from exporter.journal import Journal
from exporter.live.hub import Hub
from exporter.losses import UNUSED, spans_failed
from exporter.metrics import RunMetrics
from exporter.notify import Webhook
from exporter.reader import Reader
from exporter.state import State
from exporter.tap import Tap
from exporter.traces import Courier
from exporter.writer import Writer

SAMPLES = ("closed_source", "older", "unknown_source")
RECORDS = ("journal", *UNUSED)
"""Why the writer drops samples, and records."""


@dataclass(frozen=True)
class Parts:
    """Where the facts are."""

    version: str
    state: State
    ingest: Ingest
    writer: Writer
    journal: Journal
    reader: Reader
    metrics: RunMetrics
    hub: Hub
    courier: Courier | None
    tap: Tap | None = None
    webhook: Webhook | None = None


class SelfMetrics(Collector):
    """Collects the exporter's own metrics from its parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        """All families, as they are now."""
        parts = self._parts
        yield _gauge(
            "build_info", "The exporter's version.", [(1, {"version": parts.version})]
        )
        yield from self._ingest()
        yield from self._runs()
        yield from self._journal()
        yield from self._traces()
        yield from self._listeners()
        yield _one("browsers", "Browsers that look at a page now.", parts.hub.browsers)

    def _ingest(self) -> Iterable[Metric]:
        counts, writer = self._parts.ingest.counts, self._parts.writer
        yield _by("records", "Records received, by kind.", "kind", counts.records)
        yield _by("samples", "Samples received, by kind.", "kind", counts.samples)
        yield _by(
            "moments",
            "What sources showed of their present, by kind.",
            "kind",
            {kind: counts.seen[kind] for kind in ("state", "image", "stream")},
        )
        yield _by("rejected", "What could not be used.", "reason", counts.rejected)
        yield _by(
            "samples_dropped",
            "What newer samples or the state of the source made useless.",
            "reason",
            {**counts.dropped, **{why: writer.dropped[why] for why in SAMPLES}},
        )
        yield _count("records_duplicate", "Records that came again.", writer.duplicates)

    def _runs(self) -> Iterable[Metric]:
        parts = self._parts
        dropped = dict(self._parts.state.dropped_before)
        states = {"live": 0, "ended": 0, "lost": 0}
        missing = 0
        with parts.state.lock:
            for _, source in parts.state.sources.values():
                for reason, number in source.dropped.items():
                    dropped[reason] = dropped.get(reason, 0) + number
                ended = source.closed is not None
                lost = source.lost_at is not None
                states["ended" if ended else "lost" if lost else "live"] += 1
                missing += source.missing if ended or lost else 0
            runs = len(parts.state.runs)
        yield _by(
            "source_dropped", "What sources dropped themselves.", "reason", dropped
        )
        yield _one("records_missing", "Records announced that never came.", missing)
        yield _gauge(
            "sources",
            "Processes by their state.",
            [(number, {"state": state}) for state, number in states.items()],
        )
        yield _one("runs", "Runs that are known.", runs)
        metrics = parts.metrics
        yield _one("series", "Series of runs served.", metrics.series)
        text = "Series of runs that may be served."
        yield _one("series_budget", text, metrics.budget.max_series)
        yield _by(
            "series_refused",
            "Series that could not be served, by reason.",
            "reason",
            metrics.refused,
        )

    def _journal(self) -> Iterable[Metric]:
        writer = self._parts.writer
        yield _one("journal_bytes", "Size of the journal.", self._parts.journal.size)
        yield _one("journal_healthy", "1 while it can be written.", int(writer.healthy))
        yield _by(
            "records_unwritten",
            "Records not acknowledged, by reason.",
            "reason",
            {why: writer.dropped[why] for why in RECORDS},
        )
        commits = HistogramMetricFamily(
            "episight_journal_commit_seconds", "Time that a commit took."
        )
        commits.add_metric([], *writer.commit_times.cumulative())
        yield commits

    def _traces(self) -> Iterable[Metric]:
        courier = self._parts.courier
        if courier is None:
            return
        writer = self._parts.writer
        waiting = writer.traces_waiting
        yield _one("spans_pending", "Episodes whose trace waits.", waiting)
        yield _count("spans_exported", "Spans delivered.", courier.spans_exported)
        failed = spans_failed(courier, writer)
        yield _by("spans_failed", "Spans lost.", "reason", failed)

    def _listeners(self) -> Iterable[Metric]:
        tap, webhook = self._parts.tap, self._parts.webhook
        if tap is not None:
            yield _count("tap_messages", "Messages said on the tap.", tap.messages)
            yield _count("tap_dropped", "Messages too many for the tap.", tap.dropped)
        if webhook is not None:
            text = "Notifications, by what became of them."
            yield _by("notifications", text, "result", dict(webhook.counts))


def registry(parts: Parts) -> CollectorRegistry:
    """A registry of its own with the exporter's metrics."""
    made = CollectorRegistry()
    made.register(SelfMetrics(parts))
    return made


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"episight_{name}", text, value=value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"episight_{name}", text, value=value)


def _gauge(name: str, text: str, values: list[tuple[float, dict[str, str]]]) -> Metric:
    labels = list(values[0][1]) if values else ["reason"]
    family = GaugeMetricFamily(f"episight_{name}", text, labels=labels)
    for value, given in values:
        family.add_metric([given[label] for label in labels], value)
    return family


def _by(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"episight_{name}", text, labels=[label])
    for key, number in sorted(values.items()):
        family.add_metric([key], number)
    return family
