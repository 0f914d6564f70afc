"""Traces: one per episode, made here and delivered here.

- ``spans`` says what a trace is: a pure function of an :class:`EpisodeTrace`.
- ``endpoint`` reads the standard ``OTEL_*`` variables into a value.
- ``otlp`` with ``over_http`` and ``over_grpc`` sends one request, once.
- ``courier`` owns the one thread, and says when and what to try again.

The outbox (which episodes still have to go) is the journal's; it is given in as two
functions. Nothing here reads a clock, an environment or a file at import.
"""

from exporter.traces.courier import Courier
from exporter.traces.endpoint import Endpoint, resource
from exporter.traces.otlp import Delivery, Transport, open_transport, send
from exporter.traces.spans import EpisodeTrace, spans

__all__ = [
    "Courier",
    "Delivery",
    "Endpoint",
    "EpisodeTrace",
    "Transport",
    "open_transport",
    "resource",
    "send",
    "spans",
]
