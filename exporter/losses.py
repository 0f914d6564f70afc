"""What could not be used or delivered since the exporter's start, by reason.

Read from the parts that count it, for API and page, on whose thread asks. Owns nothing.
"""

from typing import Any

from exporter.ingest import Ingest
from exporter.metrics import RunMetrics
from exporter.traces.courier import Courier
from exporter.writer import Writer

UNUSED = ("contradiction", "unwritable", "internal")
"""Why a record that came is not in what is shown."""


def spans_failed(courier: Courier, writer: Writer) -> dict[str, int]:
    """Spans that were not delivered and never will be, by reason."""
    return {**courier.spans_failed, **writer.traces_given_up}


class Losses:
    """Asks the parts.

    Args:
        ingest: counts messages that were rejected.
        writer: counts records that it could not use, and traces that were given up.
        metrics: counts series that were refused.
        courier: counts spans that were not taken; None where no traces are sent.
    """

    def __init__(
        self,
        ingest: Ingest,
        writer: Writer,
        metrics: RunMetrics,
        courier: Courier | None = None,
    ) -> None:
        self._ingest = ingest
        self._writer = writer
        self._metrics = metrics
        self._courier = courier

    def found(self, *, wait: bool = True) -> dict[str, Any]:
        """Numbers by reason, as plain values.

        Args:
            wait: for what has to be found out, where nobody has scraped for a while.

        Returns:
            ``rejected`` messages, ``unused`` records, ``refused`` series with
            ``offenders`` (by run, the first of them), ``spans`` lost, and
            ``trace_error``, what the trace store said last while it takes none.
        """
        self._metrics.look(wait=wait)
        dropped = self._writer.dropped
        return {
            "rejected": dict(self._ingest.counts.rejected),
            "unused": {why: dropped[why] for why in UNUSED if dropped[why]},
            "refused": dict(self._metrics.refused),
            "offenders": dict(self._metrics.offenders),
            "spans": self._spans(),
            "trace_error": self._trace_error(),
        }

    def _spans(self) -> dict[str, int]:
        if self._courier is None:
            return {}
        every = spans_failed(self._courier, self._writer)
        return {reason: number for reason, number in every.items() if number}

    def _trace_error(self) -> str:
        courier = self._courier
        return courier.last_error if courier is not None and courier.failures else ""
