"""Records and samples as a source makes them, for tests of what becomes of them.

A :class:`Teller` is a source without a process: it numbers its records and keeps what
its schema says. Times are given, and start at :data:`NOON`.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from experiment_hooks import wire

NOON = 1_700_000_000.0
"""Unix seconds at which most tests begin."""

STEPS = wire.MetricSpec("steps", "counter", labels=("mode",))


def counter(name: str, *labels: str) -> wire.MetricSpec:
    return wire.MetricSpec(name, "counter", labels=labels)


def gauge(name: str, merge: str = "last", *labels: str) -> wire.MetricSpec:
    return wire.MetricSpec(name, "gauge", labels=labels, merge=merge)


def histogram(name: str, *buckets: float) -> wire.MetricSpec:
    return wire.MetricSpec(name, "histogram", buckets=buckets)


class Teller:
    """A source that says what a test wants it to say."""

    def __init__(self, number: int = 1, run: str = "run", at: float = NOON) -> None:
        self.id = bytes([number]) * 16
        self.run = run
        self.at = at
        self.seq = 0
        self.metrics = 0
        self.series = 0

    def _base(self, at: float | None) -> dict[str, Any]:
        self.seq += 1
        time = self.at if at is None else at
        return {"run": self.run, "source": self.id, "seq": self.seq, "time": time}

    def make(self, kind: Any, at: float | None = None, **fields: Any) -> Any:
        """A record of any kind, numbered."""
        return kind(**self._base(at), **fields)

    def opened(
        self, role: str = "owner", owner: bytes = b"", **more: Any
    ) -> wire.SourceOpened:
        found: wire.SourceOpened = self.make(
            wire.SourceOpened,
            host="host",
            pid=self.id[0],
            role=role,
            owner=owner,
            **more,
        )
        return found

    def run_opened(self, experiment: str = "demo", **more: Any) -> wire.RunOpened:
        found: wire.RunOpened = self.make(wire.RunOpened, experiment=experiment, **more)
        return found

    def started(
        self, number: int = 0, mode: str = "eval", **more: Any
    ) -> wire.EpisodeStarted:
        found: wire.EpisodeStarted = self.make(
            wire.EpisodeStarted, number=number, mode=mode, **more
        )
        return found

    def ended(
        self,
        number: int = 0,
        mode: str = "eval",
        outcome: str = "correct",
        **more: Any,
    ) -> wire.EpisodeEnded:
        said: dict[str, Any] = {
            "started": self.at,
            "duration": 2.0,
            "steps": 10,
            **more,
        }
        found: wire.EpisodeEnded = self.make(
            wire.EpisodeEnded, number=number, mode=mode, outcome=outcome, **said
        )
        return found

    def schema(
        self,
        metrics: Sequence[wire.MetricSpec],
        series: Sequence[tuple[int, tuple[str, ...]]],
    ) -> wire.Schema:
        """The next part of the schema; ``series`` are (number of a metric, values)."""
        found: wire.Schema = self.make(
            wire.Schema,
            first_metric=self.metrics,
            first_series=self.series,
            metrics=tuple(metrics),
            series=tuple(wire.SeriesSpec(*one) for one in series),
        )
        self.metrics += len(metrics)
        self.series += len(series)
        return found

    def closed(
        self,
        totals: Sequence[float] = (),
        ending: str = "completed",
        reason: str = "",
        **more: Any,
    ) -> wire.SourceClosed:
        found: wire.SourceClosed = self.make(
            wire.SourceClosed,
            ending=ending,
            reason=reason,
            totals=wire.pack_totals(totals),
            **more,
        )
        return found

    def run_closed(
        self, ending: str = "completed", reason: str = "", **more: Any
    ) -> wire.RunClosed:
        found: wire.RunClosed = self.make(
            wire.RunClosed, ending=ending, reason=reason, **more
        )
        return found

    def log(self, message: str, **more: Any) -> wire.LogLine:
        said: Mapping[str, Any] = {"level": "info", **more}
        found: wire.LogLine = self.make(wire.LogLine, message=message, **said)
        return found


def sample(
    number: int, totals: Sequence[float] = (), at: float = NOON, **more: Any
) -> wire.Sample:
    return wire.Sample(number=number, sent=at, totals=wire.pack_totals(totals), **more)
