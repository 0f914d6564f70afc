"""A real OTLP receiver for tests: the official classes on a free port of loopback.

It keeps every span that it was sent, with its resource and scope, and answers as it is
told: in turn (:meth:`OtlpSink.answer`), or by what a request holds
(:attr:`OtlpSink.rule`), else with yes. It never sleeps; whoever tests waits for what
has arrived (:meth:`OtlpSink.wait_for`). Closing lets go of everything that hangs.
"""

from __future__ import annotations

import gzip
import ssl
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Iterator

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

HTTP = "http/protobuf"
GRPC = "grpc"
SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"]
GARBAGE = b"\xff\xff\xff\xff no protobuf"
DEADLINE = 15.0
"""Seconds after which waiting for something is given up, and the test has failed."""


@dataclass(frozen=True)
class Answer:
    """What to say to one request. ``status`` is HTTP's, also where gRPC is spoken."""

    kind: str = "ok"
    status: int = 200
    retry_after: str | None = None
    rejected: int = 0
    message: str = ""


def ok() -> Answer:
    return Answer()


def partial(rejected: int, message: str = "") -> Answer:
    """Taken, but for some spans."""
    return Answer("partial", rejected=rejected, message=message)


def failure(
    status: int, message: str = "", retry_after: float | str | None = None
) -> Answer:
    """Not taken; 429 and 503 are UNAVAILABLE over gRPC, with a RetryInfo if wanted."""
    after = None if retry_after is None else str(retry_after)
    return Answer("failure", status, after, message=message)


def hang() -> Answer:
    """No answer at all, until the sink closes."""
    return Answer("hang")


def garbage() -> Answer:
    """A yes with a body that is no protobuf."""
    return Answer("garbage")


def noise() -> Answer:
    """Bytes that are no HTTP (over HTTP only)."""
    return Answer("noise")


def drip() -> Answer:
    """An answer that comes byte by byte and never ends (over HTTP only)."""
    return Answer("drip")


def page() -> Answer:
    """The friendly web page of something that is no receiver (over HTTP only)."""
    return Answer("page")


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived, with who sent it."""

    span: Span
    resource: dict[str, Any]
    scope: str
    scope_version: str

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return plain(self.span.attributes)

    @property
    def events(self) -> list[tuple[str, int, dict[str, Any]]]:
        return [
            (event.name, event.time_unix_nano, plain(event.attributes))
            for event in self.span.events
        ]


@dataclass(frozen=True)
class Received:
    """One request: its headers in lower case, its spans, and what it was answered."""

    headers: dict[str, str]
    path: str
    spans: list[ReceivedSpan]
    answer: Answer
    gzipped: bool = False

    @property
    def taken(self) -> bool:
        return self.answer.kind in {"ok", "partial", "garbage"}


@dataclass
class OtlpSink:
    """A receiver that is listening from its making until :meth:`close`.

    Attributes:
        protocol: ``http/protobuf`` or ``grpc``.
        certificate: files of a certificate and its key: then it speaks TLS.
        client_ca: file of the authority whose clients alone may come.
        listen: the port, where it has to be a certain one.
        rule: what to answer to a request, or None to leave it to the others.
        requests: what has arrived so far, in order.
    """

    protocol: str = HTTP
    certificate: tuple[str, str] | None = None
    client_ca: str | None = None
    listen: int = 0
    rule: Callable[[ExportTraceServiceRequest], Answer | None] | None = None
    requests: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._answers: deque[Answer] = deque()
        self._changed = threading.Condition()
        self.released = threading.Event()
        self._close: list[Callable[[], object]] = []
        self.port = (
            self._listen_grpc() if self.protocol == GRPC else self._listen_http()
        )

    def __enter__(self) -> OtlpSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables that send traces here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
        }

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans of the requests that were taken."""
        with self._changed:
            return [span for one in self.requests if one.taken for span in one.spans]

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def answer(self, *answers: Answer) -> None:
        """What to say to the next requests, in turn; after them it says yes."""
        self._answers.extend(answers)

    def wait_for(
        self, wanted: Callable[[OtlpSink], object], seconds: float = DEADLINE
    ) -> None:
        """Wait until something is true of what has arrived; asked at each arrival."""
        with self._changed:
            if not self._changed.wait_for(lambda: wanted(self), seconds):
                raise AssertionError(f"not within {seconds} s; {self.requests}")

    def close(self) -> None:
        """Stop and let go; again is harmless."""
        self.released.set()
        while self._close:
            self._close.pop()()

    # --- what both protocols share ---------------------------------------------------

    def take(
        self, body: bytes, headers: dict[str, str], path: str, gzipped: bool = False
    ) -> Answer:
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            answer = self.rule(request) if self.rule else None
            if answer is None:
                answer = self._answers.popleft() if self._answers else ok()
            spans = list(received(request))
            self.requests.append(Received(headers, path, spans, answer, gzipped))
            self._changed.notify_all()
        if answer.kind == "hang":
            self.released.wait(60)
        return answer

    @staticmethod
    def response(answer: Answer) -> bytes:
        if answer.kind == "garbage":
            return GARBAGE
        response = ExportTraceServiceResponse()
        if answer.kind == "partial":
            response.partial_success.rejected_spans = answer.rejected
            response.partial_success.error_message = answer.message
        return bytes(response.SerializeToString())

    # --- HTTP ------------------------------------------------------------------------

    def _listen_http(self) -> int:
        handler = type("Handler", (_HttpHandler,), {"sink": self})
        server = ThreadingHTTPServer(("127.0.0.1", self.listen), handler)
        server.daemon_threads = False
        if self.certificate:
            server.socket = self._tls().wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(
            target=server.serve_forever, args=(0.02,), name="otlp-sink", daemon=True
        )
        thread.start()
        self._close = [thread.join, server.server_close, server.shutdown]
        return int(server.server_address[1])

    def _tls(self) -> ssl.SSLContext:
        assert self.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    # --- gRPC ------------------------------------------------------------------------

    def _listen_grpc(self) -> int:
        pool = ThreadPoolExecutor(8, "otlp-sink")
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(self._export)  # bytes in and out
        handler = grpc.method_handlers_generic_handler(
            SERVICE.full_name, {SERVICE.methods[0].name: method}
        )
        server.add_generic_rpc_handlers((handler,))
        address = f"127.0.0.1:{self.listen}"
        if self.certificate:
            port = server.add_secure_port(address, self._credentials())
        else:
            port = server.add_insecure_port(address)
        server.start()
        self._close = [pool.shutdown, lambda: server.stop(0).wait(DEADLINE)]
        return int(port)

    def _credentials(self) -> grpc.ServerCredentials:
        assert self.certificate
        chain, key = (_read(path) for path in self.certificate)
        ca = _read(self.client_ca) if self.client_ca else None
        return grpc.ssl_server_credentials([(key, chain)], ca, bool(ca))

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        answer = self.take(body, headers, "")
        if answer.kind in {"failure", "hang"}:
            code = _GRPC_CODES.get(answer.status, grpc.StatusCode.UNAVAILABLE)
            if answer.retry_after is not None:
                details = retry_info(float(answer.retry_after), answer.message)
                context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(code, answer.message)
        return self.response(answer)


_GRPC_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class _HttpHandler(BaseHTTPRequestHandler):
    sink: OtlpSink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        gzipped = self.headers.get("Content-Encoding") == "gzip"
        headers = {name.lower(): value for name, value in self.headers.items()}
        plain_body = gzip.decompress(body) if gzipped else body
        answer = self.sink.take(plain_body, headers, self.path, gzipped)
        try:
            self._say(answer)
        except OSError:
            pass  # the other side has gone

    def _say(self, answer: Answer) -> None:
        if answer.kind == "hang":
            return
        if answer.kind == "noise":
            self.wfile.write(b"SSH-2.0-not-http\r\n")
            return
        if answer.kind == "failure":
            self._respond(answer.status, _status(answer.message), answer.retry_after)
        elif answer.kind == "page":
            self._respond(200, b"<html>Welcome</html>", kind="text/html")
        elif answer.kind == "drip":
            self._drip()
        else:
            self._respond(200, self.sink.response(answer))

    def _respond(
        self,
        status: int,
        body: bytes,
        retry_after: str | None = None,
        kind: str = "application/x-protobuf",
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while not self.sink.released.wait(0.02):
            self.wfile.write(b"x")

    def log_message(self, *args: object) -> None:
        pass


# --- the official messages as plain values -------------------------------------------


def plain(attributes: Any) -> dict[str, Any]:
    """OTLP attributes as a dict; lists and maps come out as their text."""
    found = {}
    for attribute in attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key] = getattr(attribute.value, kind) if kind else None
    return found


def received(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    """The spans of a request, each with who sent it."""
    for of_resource in request.resource_spans:
        resource = plain(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            scope = of_scope.scope
            for span in of_scope.spans:
                yield ReceivedSpan(span, resource, scope.name, scope.version)


def _status(message: str, *details: bytes) -> bytes:
    """A ``google.rpc.Status`` by hand: ``message`` is field 2, ``details`` field 3."""
    text = message.encode()
    found = _sized(2, text) if text else b""
    return found + b"".join(_sized(3, detail) for detail in details)


def retry_info(seconds: float, message: str = "") -> bytes:
    """A ``google.rpc.Status`` with a ``google.rpc.RetryInfo`` in it."""
    delay = Duration()
    delay.FromMicroseconds(round(seconds * 1e6))
    detail = AnyMessage(
        type_url="type.googleapis.com/google.rpc.RetryInfo",
        value=_sized(1, delay.SerializeToString()),
    )
    return _status(message, detail.SerializeToString())


def _sized(number: int, data: bytes) -> bytes:
    """A field of bytes: its tag, its length as a varint, itself."""
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
