"""The courier: one thread that carries ended episodes to the trace store.

It owns the transport, when to try again, and the counts of what went and what was
lost. The outbox is the journal's: ``pending`` and ``done`` are called from the
courier's thread only, never both at once, and never again once ``close`` has returned.

- Nothing is forgotten before the receiver has taken or refused it: a try that failed
  comes again after 1 to 60 s, or when the receiver asks for it.
- A batch that did not go through is halved, one that did is followed by a larger one:
  so a bad episode ends up alone and takes no other along, a receiver with a low limit
  gets small requests, and a slow line small ones.
- Sent twice is possible (an answer was lost), with the same ids.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.resources import Resource

from exporter.traces.otlp import Delivery, Transport
from exporter.traces.spans import EpisodeTrace, spans

MAX_EPISODES = 512
MAX_BYTES = 1024 * 1024
FIRST_EPISODES = 32
"""Asked for at first: a large outbox of large episodes is not read into memory."""

SHORTEST = 1.0
LONGEST = 60.0
LONGEST_ASKED = 3600.0
"""Seconds between tries: the first, the last, and the most a receiver can ask for."""

_log = logging.getLogger(__name__)

Pending = Callable[[int], list[tuple[int, EpisodeTrace]]]
Done = Callable[[list[int]], None]


class _ClosedError(Exception):
    """The outbox may not be touched any more."""


@dataclass
class _Batch:
    keys: list[int] = field(default_factory=list)
    spans: int = 0
    bytes: int = 0
    cut: bool = False  # there was more, and it would have been too large
    request: ExportTraceServiceRequest = field(
        default_factory=ExportTraceServiceRequest
    )

    def add(self, key: int, one: ExportTraceServiceRequest) -> None:
        """Put an episode to the others, under the same resource and scope."""
        self.keys.append(key)
        self.spans += len(one.resource_spans[0].scope_spans[0].spans)
        self.bytes += one.ByteSize()
        if self.request.resource_spans:
            all_spans = self.request.resource_spans[0].scope_spans[0].spans
            all_spans.extend(one.resource_spans[0].scope_spans[0].spans)
        else:
            self.request = one


class Courier:
    """Carries what is pending to a transport; a context manager that runs its thread.

    Attributes (plain numbers, read from anywhere):
        spans_exported: spans that the receiver took.
        spans_failed: spans lost, by reason: ``rejected`` (by a partial success),
            ``refused`` (with all their episode), ``unencodable`` (one an episode).
        failures: tries that have failed since the last that did not.
        last_error: what was said at the last failure; stays after a success.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        resource: Resource,
        pending: Pending,
        done: Done,
        period: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Make it; nothing runs before :meth:`start`.

        Args:
            transport: where to; the courier closes it.
            resource: who sends.
            pending: at most so many episodes that are not done, the oldest first,
                each with its key.
            done: these keys were taken, or will never be; ``pending`` does not give
                them again.
            period: seconds after which it looks into the outbox without being told.
            clock: monotonic seconds, for the end.
            chance: a random number from 0 to 1, for the waits.
        """
        self.spans_exported = 0
        self.spans_failed = {"rejected": 0, "refused": 0, "unencodable": 0}
        self.failures = 0
        self.last_error = ""
        self._transport = transport
        self._resource = resource
        self._pending = pending
        self._done = done
        self._period = period
        self._clock = clock
        self._chance = chance
        self._size = FIRST_EPISODES
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._deadline = 0.0  # set before _closing, read after
        self._outbox = threading.Lock()  # held while pending or done runs
        self._abandoned = False  # guarded by _outbox
        self._thread = threading.Thread(
            target=self._run, name="episight-traces", daemon=True
        )

    def start(self) -> "Courier":
        """Start the thread, once."""
        self._thread.start()
        return self

    def __enter__(self) -> "Courier":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def notify(self) -> None:
        """Say that something new is pending; from any thread, costs nothing."""
        self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Try a last time to carry what is pending, then stop; again is harmless.

        Returns within ``timeout`` seconds and a moment, whatever the receiver does.
        What could not go stays in the outbox.
        """
        if not self._closing.is_set():
            self._deadline = self._clock() + timeout
            self._closing.set()
            self._wake.set()
        if self.running:
            self._thread.join(timeout)
        with self._outbox:
            self._abandoned = True
        self._transport.close()
        if self.running:
            self._thread.join(1.0)

    # --- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            seconds = self.deliver()
            if self.failures:  # new episodes are no reason to try sooner
                self._closing.wait(seconds)
            elif seconds:
                self._wake.wait(seconds)
        while self._clock() < self._deadline and self.deliver() == 0.0:
            pass

    def deliver(self) -> float:
        """One try: take what is pending, send it, settle it.

        Returns:
            The seconds until the next try: 0 where more may be pending.
        """
        try:
            batch, more = self._batch()
            if not batch.keys:
                self.failures = 0
                return 0.0 if more else self._period
            sent = self._transport.send(batch.request, self._limit())
            self._settle(batch, sent)
        except _ClosedError:
            return self._period
        except Exception as error:  # of the outbox: the disk is full; or a bug
            if not self.failures:
                _log.exception("traces: a try failed on our side")
            self._failed(f"{type(error).__name__}: {error}")
            return self._pause(None)
        return 0.0 if not self.failures else self._pause(sent.retry_after)

    def _batch(self) -> tuple[_Batch, bool]:
        """What to send now, and whether the outbox may hold more."""
        batch = _Batch()
        found = self._ask(self._size)
        for key, trace in found:
            one = self._encoded(key, trace)
            if one is None:
                continue
            if batch.keys and batch.bytes + one.ByteSize() > MAX_BYTES:
                batch.cut = True
                break
            batch.add(key, one)
        return batch, bool(found)

    def _encoded(
        self, key: int, trace: EpisodeTrace
    ) -> ExportTraceServiceRequest | None:
        try:
            return encode_spans(spans(trace, self._resource))
        except Exception as error:  # a bug of ours: it may not hold up the others
            _log.exception("traces: episode %s of %s", trace.episode.number, trace.run)
            self._settled([key])
            self.spans_failed["unencodable"] += 1
            self.last_error = f"{type(error).__name__}: {error}"
            return None

    def _settle(self, batch: _Batch, sent: Delivery) -> None:
        if sent.kind == "retryable":
            self._failed(sent.message)
            self._halve(batch)
            return
        self._went()
        self.last_error = sent.message or self.last_error
        if sent.kind == "permanent" and len(batch.keys) > 1:
            self._halve(batch)
            return
        self._settled(batch.keys)
        if sent.kind == "permanent":
            self._lost("refused", batch.spans, sent.message)
            return
        rejected = min(sent.rejected, batch.spans)
        self._lost("rejected", rejected, sent.message)
        self.spans_exported += batch.spans - rejected
        self._grow(batch)

    def _halve(self, batch: _Batch) -> None:
        self._size = max(1, len(batch.keys) // 2)

    def _grow(self, batch: _Batch) -> None:
        if batch.cut or len(batch.keys) >= self._size:
            self._size = min(MAX_EPISODES, 2 * len(batch.keys))

    def _lost(self, reason: str, count: int, message: str) -> None:
        if count and not self.spans_failed[reason]:  # once; the counter tells the rest
            _log.warning("traces: the first spans were %s: %s", reason, message)
        self.spans_failed[reason] += count

    def _failed(self, message: str) -> None:
        self.failures += 1
        self.last_error = message
        if self.failures == 1:
            _log.warning("traces wait: %s", message)

    def _went(self) -> None:
        if self.failures:
            _log.info("traces go again, after %d tries", self.failures)
        self.failures = 0

    def _pause(self, asked: float | None) -> float:
        if asked is not None:
            # A little later than asked, each a little differently.
            return min(max(asked, SHORTEST), LONGEST_ASKED) * (1 + self._chance() / 10)
        ceiling = min(LONGEST, SHORTEST * 2.0 ** min(self.failures, 10))
        return SHORTEST + self._chance() * (ceiling - SHORTEST)

    def _limit(self) -> float | None:
        """How long a try may take: when closing, not beyond the end."""
        if not self._closing.is_set():
            return None
        return max(0.05, self._deadline - self._clock())

    # --- the outbox -------------------------------------------------------------------

    def _ask(self, limit: int) -> list[tuple[int, EpisodeTrace]]:
        with self._outbox:
            if self._abandoned:
                raise _ClosedError
            return self._pending(limit)

    def _settled(self, keys: list[int]) -> None:
        with self._outbox:
            if self._abandoned:
                raise _ClosedError
            self._done(keys)
