"""OTLP over HTTP with protobuf bodies, by the standard library.

One connection a try, closed after it: a kept one may have died unnoticed, and one
every few seconds costs nothing. Redirects are not followed (a POST would become a
GET). Proxy variables are not honoured: ``http.client`` knows none.

A try ends in time whatever the receiver does: connecting and each read have the
timeout, and a timer cuts the connection where a receiver sends a byte now and then.
"""

import gzip
import http.client
import math
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from exporter.traces.endpoint import Endpoint
from exporter.traces.otlp import SLOWLY, Delivery, accepted, one_line, status_message

_MAX_ANSWER = 64 * 1024
# The specification's four, and the one that HTTP itself says to repeat.
_RETRYABLE = {408, 429, 502, 503, 504}
_ADVICE = {
    401: "check the credentials in OTEL_EXPORTER_OTLP_HEADERS",
    403: "check the credentials in OTEL_EXPORTER_OTLP_HEADERS",
    404: "check the path: OTLP over HTTP usually ends in /v1/traces",
    405: "check the path: OTLP over HTTP usually ends in /v1/traces",
    407: "a proxy wants credentials",
}
_PORT_ADVICE = "port 4317 usually speaks gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"


class HttpTransport:
    """Posts requests to an endpoint; see :class:`~exporter.traces.otlp.Transport`."""

    def __init__(self, endpoint: Endpoint) -> None:
        parts = endpoint.parts
        self._endpoint = endpoint
        self._host = parts.hostname or ""
        self._port = parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = _tls(endpoint) if parts.scheme == "https" else None
        self._headers = {
            "user-agent": "episight",
            **dict(endpoint.headers),
            "content-type": "application/x-protobuf",
            "connection": "close",
        }
        if endpoint.gzip:
            self._headers["content-encoding"] = "gzip"
        # Guards the two below: close() and the timer cut the sending thread's socket.
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = False

    def send(
        self, request: ExportTraceServiceRequest, timeout: float | None = None
    ) -> Delivery:
        """Try once."""
        limit = min(self._endpoint.timeout, timeout or math.inf)
        deadline = time.monotonic() + limit
        body = request.SerializeToString()
        if self._endpoint.gzip:
            body = gzip.compress(body, 6, mtime=0)
        try:
            if self._closed:
                raise ConnectionError("closed")
            return _meaning(*self._post(body, limit))
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._closed:
                return Delivery("retryable", "closed while sending")
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                message = f"{self._endpoint.shown}: no answer within {limit:g} s"
            else:
                message = f"{self._endpoint.shown}: {_words(error)}"
            return Delivery("retryable", message + explained(self._port, error))

    def close(self) -> None:
        """End the try under way and make no other."""
        with self._lock:
            self._closed = True
        self._cut()

    def _post(self, body: bytes, limit: float) -> tuple[int, Message, bytes]:
        timer = threading.Timer(limit, self._cut)
        timer.daemon = True
        timer.start()
        connection = self._connection(limit)
        try:
            connection.connect()
            self._watch(connection.sock)
            connection.request("POST", self._target, body, self._headers)
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER)
            if response.length and len(answer) < _MAX_ANSWER:  # else no word of it
                raise http.client.IncompleteRead(answer, response.length)
            return response.status, response.headers, answer
        finally:
            timer.cancel()
            self._watch(None)
            connection.close()

    def _connection(self, limit: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=limit)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=limit, context=self._tls
        )

    def _watch(self, connected: socket.socket | None) -> None:
        with self._lock:
            self._socket = connected
            if connected is not None and self._closed:
                raise ConnectionError("closed")

    def _cut(self) -> None:
        """Wake the sending thread from whatever it waits for on its socket."""
        with self._lock:
            if self._socket is None:
                return
            try:
                # Not SSLSocket's own: it would forget its TLS under the reader's feet.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # gone already


def explained(port: int | None, error: Exception) -> str:
    """The usual reason for an answer that is no HTTP, to add to a message."""
    no_http = isinstance(error, (http.client.HTTPException, ConnectionResetError))
    return f" ({_PORT_ADVICE})" if no_http and port == 4317 else ""


def _meaning(status: int, headers: Message, body: bytes) -> Delivery:
    kind = headers.get_content_type()
    if 200 <= status < 300 and kind == "text/html":
        message = "answered with a web page: this is no OTLP receiver"
        return Delivery("retryable", message, retry_after=SLOWLY)
    if 200 <= status < 300:
        return accepted(body)
    said = status_message(body) if "protobuf" in kind else _text(body)
    message = f"HTTP {status}" + (f": {said}" if said else "")
    if status in _RETRYABLE:
        return Delivery("retryable", message, retry_after=_retry_after(headers))
    if status in _ADVICE or 300 <= status < 400:
        advice = _ADVICE.get(status, "redirects are not followed: write the final URL")
        return Delivery("retryable", f"{message} ({advice})", retry_after=SLOWLY)
    return Delivery("permanent", message)


def _retry_after(headers: Message) -> float | None:
    """Seconds from now, said as a number or as a date."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isdecimal() and text.isascii():
        return float(text[:10])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _text(body: bytes) -> str:
    text = body[:2000].decode("utf-8", "replace")
    return "" if "\ufffd" in text or text.lstrip().startswith("<") else one_line(text)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(str(error))}"


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=endpoint.certificate or None)
    except OSError as error:
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_CERTIFICATE={endpoint.certificate!r} cannot be used:"
            f" {error}"
        ) from None
    if endpoint.client_certificate:
        try:
            context.load_cert_chain(
                endpoint.client_certificate, endpoint.client_key or None
            )
        except OSError as error:
            raise ValueError(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY cannot be used:"
                f" {error}"
            ) from None
    return context
