"""OTLP over gRPC: unary calls on the official service path.

One channel for the transport's life; gRPC's own threads keep it. It is told to
reconnect soon, because how often to try is the courier's business and not its own.
"""

import math

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from exporter.traces.endpoint import Endpoint
from exporter.traces.otlp import SLOWLY, Delivery, accepted, one_line, retry_delay

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

_OPTIONS = (
    ("grpc.primary_user_agent", "episight"),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_Code = grpc.StatusCode
_RETRYABLE = {
    _Code.CANCELLED, _Code.DEADLINE_EXCEEDED, _Code.ABORTED, _Code.OUT_OF_RANGE,
    _Code.UNAVAILABLE, _Code.DATA_LOSS,
}  # fmt: skip
_ADVICE = {
    _Code.UNAUTHENTICATED: "check the credentials in OTEL_EXPORTER_OTLP_HEADERS",
    _Code.PERMISSION_DENIED: "check the credentials in OTEL_EXPORTER_OTLP_HEADERS",
    _Code.UNIMPLEMENTED: "nothing there takes OTLP traces: check the endpoint",
}


class GrpcTransport:
    """Calls an endpoint; see :class:`~exporter.traces.otlp.Transport`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = endpoint.headers
        self._compression = (
            grpc.Compression.Gzip if endpoint.gzip else grpc.Compression.NoCompression
        )
        self._closed = False
        self._channel = _channel(endpoint)
        self._export = self._channel.unary_unary(
            METHOD, request_serializer=ExportTraceServiceRequest.SerializeToString
        )

    def send(
        self, request: ExportTraceServiceRequest, timeout: float | None = None
    ) -> Delivery:
        """Try once."""
        limit = min(self._endpoint.timeout, timeout or math.inf)
        try:
            answer = self._export(
                request,
                timeout=limit,
                metadata=self._metadata,
                compression=self._compression,
            )
        except grpc.RpcError as error:
            return self._failed(error, limit)
        except ValueError as error:  # a closed channel
            return Delivery("retryable", one_line(str(error)))
        return accepted(answer)

    def close(self) -> None:
        """End the call under way and make no other."""
        self._closed = True
        self._channel.close()

    def _failed(self, error: grpc.RpcError, limit: float) -> Delivery:
        if self._closed:
            return Delivery("retryable", "closed while sending")
        code = error.code()
        message = f"gRPC {code.name}: {one_line(error.details() or '')}"
        delay = _delay(error)
        if code is _Code.DEADLINE_EXCEEDED:
            message = f"{self._endpoint.shown}: no answer within {limit:g} s"
        if code in _RETRYABLE or (
            code is _Code.RESOURCE_EXHAUSTED and delay is not None
        ):
            return Delivery("retryable", message, retry_after=delay)
        if code in _ADVICE:
            message = f"{message} ({_ADVICE[code]})"
            return Delivery("retryable", message, retry_after=SLOWLY)
        return Delivery("permanent", message)


def _delay(error: grpc.RpcError) -> float | None:
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            return retry_delay(value)
    return None


def target(endpoint: Endpoint) -> tuple[str, bool]:
    """The endpoint in gRPC's own words, and whether TLS is spoken.

    A URL's scheme decides, for a target (``host:port``, ``unix:...``) ``insecure``.
    """
    scheme = endpoint.url.partition("://")[0].lower()
    if scheme not in _DEFAULT_PORTS:
        return endpoint.url, not endpoint.insecure
    place = endpoint.parts.netloc
    if endpoint.parts.port is None:
        place = f"{place.rstrip(':')}:{_DEFAULT_PORTS[scheme]}"
    return place, scheme == "https"


def _channel(endpoint: Endpoint) -> grpc.Channel:
    place, secure = target(endpoint)
    if secure:
        return grpc.secure_channel(place, _credentials(endpoint), _OPTIONS)
    return grpc.insecure_channel(place, _OPTIONS)


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials:
    # A certificate's file may hold its key too, as it may over HTTP.
    key = endpoint.client_key or endpoint.client_certificate
    return grpc.ssl_channel_credentials(
        _read("CERTIFICATE", endpoint.certificate),
        _read("CLIENT_KEY", key),
        _read("CLIENT_CERTIFICATE", endpoint.client_certificate),
    )


def _read(name: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_{name}={path!r} cannot be read: {error.strerror}"
        ) from None
