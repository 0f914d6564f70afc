"""One request of traces to one receiver, once: what the receiver says comes back.

The SDK's own exporters are not used: their retries block the caller, and they throw
away what a partial success says. Encoding is theirs (``encode_spans``), the two
transports are in ``over_http`` and ``over_grpc``; what an answer means is here and
follows the OTLP specification, with one addition: an answer that judges the sender and
not the data (credentials, a wrong address) is tried again slowly, because the outbox
is on disk and the mistake will be mended.

A transport belongs to the one thread that sends; only ``close`` may come from another,
and ends a try that is under way. Sending never raises and always ends in time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan

from exporter.traces.endpoint import GRPC, Endpoint

SLOWLY = 60.0
"""Seconds before another try where a person has to change something first."""

_MAX_MESSAGE = 300


@dataclass(frozen=True)
class Delivery:
    """What became of one try.

    Attributes:
        kind: ``delivered``; ``partial``: taken but for ``rejected`` spans, and not to
            be sent again; ``retryable``: nothing was taken, try again; ``permanent``:
            these data will never be taken.
        message: what the receiver or the network said; may come with ``delivered``.
        rejected: how many spans a partial success refused.
        retry_after: seconds to wait at least, where the receiver said so or a person
            has to mend something first.
    """

    kind: Literal["delivered", "partial", "retryable", "permanent"]
    message: str = ""
    rejected: int = 0
    retry_after: float | None = None


class Transport(Protocol):
    """A way to one receiver."""

    def send(
        self, request: ExportTraceServiceRequest, timeout: float | None = None
    ) -> Delivery:
        """Try once, within ``timeout`` seconds or the endpoint's own, if shorter."""

    def close(self) -> None:
        """End the try under way, if there is one, and let go; again is harmless."""


def open_transport(endpoint: Endpoint) -> Transport:
    """The transport for an endpoint; it connects when it sends.

    Raises:
        ValueError: a certificate or key cannot be read; the message says which.
    """
    if endpoint.protocol == GRPC:
        from exporter.traces.over_grpc import GrpcTransport

        return GrpcTransport(endpoint)
    from exporter.traces.over_http import HttpTransport

    return HttpTransport(endpoint)


def send(
    transport: Transport, spans: Sequence[ReadableSpan], timeout: float | None = None
) -> Delivery:
    """Encode spans and try to deliver them, once."""
    return transport.send(encode_spans(spans), timeout)


# --- what answers mean ----------------------------------------------------------------


def accepted(answer: bytes) -> Delivery:
    """A receiver's yes, with the small print of a partial success.

    A yes that cannot be read is one all the same: sending again what was taken would
    never end.
    """
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return Delivery("delivered", "taken, with an answer that is no OTLP")
    message = one_line(partial.error_message)
    if partial.rejected_spans <= 0:
        return Delivery("delivered", message)
    return Delivery("partial", message, rejected=partial.rejected_spans)


def status_message(status: bytes) -> str:
    """The message of an encoded ``google.rpc.Status`` (its field 2), or ``""``."""
    for number, value in _fields(status):
        if number == 2 and isinstance(value, bytes):
            return one_line(value.decode("utf-8", "replace"))
    return ""


def retry_delay(status: bytes) -> float | None:
    """Seconds said by a ``RetryInfo`` in an encoded ``google.rpc.Status``.

    The classes of ``google.rpc`` would be one more package for three fields: Status has
    ``details`` (3), each an Any: ``type_url`` (1) and ``value`` (2); RetryInfo has
    ``retry_delay`` (1), a Duration: ``seconds`` (1) and ``nanos`` (2).
    """
    for number, detail in _fields(status):
        parts = dict(_fields(detail)) if number == 3 else {}
        name = parts.get(1, b"")
        if not isinstance(name, bytes) or not name.endswith(b"/google.rpc.RetryInfo"):
            continue
        delay = dict(_fields(dict(_fields(parts.get(2))).get(1)))
        seconds, nanos = delay.get(1, 0), delay.get(2, 0)
        if isinstance(seconds, int) and isinstance(nanos, int):
            return seconds + nanos / 1e9
    return None


def _fields(data: bytes | int | None) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of a message's fields; nothing where it is none."""
    if not isinstance(data, bytes):
        return
    try:
        fields = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return
    for one in fields:
        if isinstance(one.data, (bytes, int)):
            yield one.field_number, one.data


def one_line(text: str) -> str:
    """Somebody else's words, fit for a log line and a page."""
    words = " ".join(text.split())
    plain = "".join(letter for letter in words if letter.isprintable())
    return plain if len(plain) <= _MAX_MESSAGE else plain[: _MAX_MESSAGE - 3] + "..."
