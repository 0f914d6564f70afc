"""Where traces go, and who says that it sends them: the ``OTEL_*`` variables as values.

Pure: the environment is given in, read once, and nothing is opened here. What is wrong
is a ``ValueError`` that names the variable and says what to write instead; the values
of headers (they hold tokens) are in no message and in no ``repr``.

Two decisions where the world disagrees:

- ``OTEL_EXPORTER_OTLP_TIMEOUT`` is in milliseconds, as the specification says and all
  SDKs but Python's read it (Python's takes seconds: opentelemetry-python#4044). It is
  held between 1 s and 60 s, so a ``10`` meant for Python's SDK waits a second and
  not ten milliseconds, and no try is without an end.
- A flag is true by ``true`` alone, in any case; anything else is false, as the
  specification demands, with a warning where it is not ``false``.
"""

import logging
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.sdk.resources import Resource

HTTP = "http/protobuf"
GRPC = "grpc"

_DEFAULT_TIMEOUT = 10.0
_TIMEOUT_BOUNDS = (1.0, 60.0)
_PATH = "/v1/traces"
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """One receiver of traces, and how to talk to it.

    Attributes:
        url: over HTTP the full URL to post to; over gRPC a URL or a gRPC target.
        protocol: ``http/protobuf`` or ``grpc``.
        headers: names (lower case) and values sent with every request.
        timeout: seconds that one try may take in all.
        gzip: whether requests are compressed.
        certificate: file of the authorities to trust instead of the system's.
        client_key: file of the key to show.
        client_certificate: file of the certificate to show.
        insecure: gRPC without TLS, where the URL does not say it.
    """

    url: str
    protocol: str = HTTP
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = _DEFAULT_TIMEOUT
    gzip: bool = False
    certificate: str = ""
    client_key: str = ""
    client_certificate: str = ""
    insecure: bool = False

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], endpoint: str | None = None
    ) -> "Endpoint | None":
        """The endpoint that the configuration or the environment names, if one does.

        Args:
            environ: the process's environment.
            endpoint: the configuration's ``traces.endpoint``. It wins over every
                variable that says where to or whether at all; ``none`` turns traces
                off. Without a path, ``/v1/traces`` is added to it over HTTP.

        Raises:
            ValueError: a value cannot be used; the message says what to change.
        """
        named = _named(environ, (endpoint or "").strip())
        if named is None:
            return None
        variable, text = named
        protocol = _protocol(environ)
        key, certificate = _client_pair(environ)
        return cls(
            url=_url(variable, text, protocol),
            protocol=protocol,
            headers=_headers(environ),
            timeout=_timeout(environ),
            gzip=_compression(environ) == "gzip",
            certificate=_setting(environ, "CERTIFICATE")[1],
            client_key=key,
            client_certificate=certificate,
            insecure=_flag(*_setting(environ, "INSECURE")),
        )

    @property
    def shown(self) -> str:
        """The endpoint for a message: without a query, which may hold a key."""
        return self.url.split("?", 1)[0]

    @property
    def parts(self) -> SplitResult:
        """The URL in parts."""
        return urlsplit(self.url)


def resource(environ: Mapping[str, str], version: str, instance: str = "") -> Resource:
    """Who sends the traces: the exporter, as the environment describes it.

    Args:
        environ: the process's environment. ``OTEL_SERVICE_NAME`` (default
            ``episight``) wins over ``OTEL_RESOURCE_ATTRIBUTES``.
        version: the exporter's.
        instance: its ``service.instance.id``, if the environment says none; a random
            one by default.
    """
    said = {
        "service.name": "episight",
        "service.version": version,
        "service.instance.id": instance or str(uuid.uuid4()),
        **_resource_attributes(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")),
    }
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        said["service.name"] = name
    return Resource.create(said)


def _resource_attributes(text: str) -> dict[str, str]:
    found = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = item.partition("=")
        if equals and name.strip():
            found[name.strip()] = unquote(value.strip())
        else:
            _log.warning("OTEL_RESOURCE_ATTRIBUTES: %r is not name=value", item)
    return found


# --- one variable each ----------------------------------------------------------------


def _named(environ: Mapping[str, str], endpoint: str) -> tuple[str, str] | None:
    """Who names an endpoint, and which; None when traces are off or nobody does."""
    if endpoint:
        return None if endpoint.lower() == "none" else ("traces.endpoint", endpoint)
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporters and "otlp" not in (name.strip() for name in exporters.split(",")):
        return None
    disabled = "OTEL_SDK_DISABLED"
    if _flag(disabled, environ.get(disabled, "").strip()):
        return None
    named = _setting(environ, "ENDPOINT")
    return named if named[1] else None


def _setting(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable's name and value: the one for traces before the general one.

    An empty value is as good as none, as the specification says.
    """
    variable = ""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        value = environ.get(variable, "").strip()
        if value:
            return variable, value
    return variable, ""


def _flag(variable: str, text: str) -> bool:
    if text.lower() not in {"", "true", "false"}:
        _log.warning("%s=%r is neither true nor false: taken as false", variable, text)
    return text.lower() == "true"


def _protocol(environ: Mapping[str, str]) -> str:
    variable, text = _setting(environ, "PROTOCOL")
    if text in {"", HTTP, GRPC}:
        return text or HTTP
    raise ValueError(f"{variable}={text!r} is not offered: write {HTTP} or {GRPC}")


def _compression(environ: Mapping[str, str]) -> str:
    variable, text = _setting(environ, "COMPRESSION")
    if text.lower() in {"", "none", "gzip"}:
        return text.lower()
    raise ValueError(f"{variable}={text!r} is not offered: write gzip or none")


def _timeout(environ: Mapping[str, str]) -> float:
    variable, text = _setting(environ, "TIMEOUT")
    if not text:
        return _DEFAULT_TIMEOUT
    try:
        seconds = float(text) / 1000
    except ValueError:
        seconds = -1.0
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{variable}={text!r}: write milliseconds, as in 10000")
    low, high = _TIMEOUT_BOUNDS
    held = min(max(seconds or high, low), high)  # 0: no limit, says the specification
    if held != seconds:
        _log.warning("%s=%s (milliseconds): using %g s", variable, text, held)
    return held


def _client_pair(environ: Mapping[str, str]) -> tuple[str, str]:
    variable, key = _setting(environ, "CLIENT_KEY")
    certificate = _setting(environ, "CLIENT_CERTIFICATE")[1]
    if key and not certificate:
        needed = variable.replace("_KEY", "_CERTIFICATE")
        raise ValueError(f"{variable} needs its certificate: set {needed} too")
    return key, certificate


def _headers(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    variable, text = _setting(environ, "HEADERS")
    found: dict[str, str] = {}
    for place, item in enumerate(text.split(","), 1):
        if item.strip():
            name, value = _header(variable, place, item)
            found[name] = value
    return tuple(found.items())


def _header(variable: str, place: int, item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    name, value = unquote(name).strip().lower(), unquote(value).strip()
    if not equals or not _HEADER_NAME.fullmatch(name):
        raise ValueError(
            f"{variable}: entry {place} is not name=value; separate them by commas, and"
            " write a comma inside a value as %2C"
        )
    if not (value.isascii() and (value.isprintable() or not value)):
        raise ValueError(
            f"{variable}: the value of {name} may hold printable ASCII characters only"
        )
    return name, value


def _url(variable: str, text: str, protocol: str) -> str:
    if protocol == GRPC and not re.match(r"https?://", text, re.IGNORECASE):
        return text  # host:port, unix:, dns: ... gRPC knows them
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        port = parts.port  # raises where it is none
    except ValueError:
        usable, port = False, None
    if not usable or port == 0:
        raise ValueError(
            f"{variable} is not a URL: write http://host:4318 or https://host:4318"
            f" (for host:4317 set OTEL_EXPORTER_OTLP_PROTOCOL={GRPC})"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{variable} holds a name or password: put it into"
            " OTEL_EXPORTER_OTLP_HEADERS, as in authorization=Basic%20..."
        )
    if protocol == GRPC:
        return text
    return parts._replace(path=_path(variable, parts.path), fragment="").geturl()


def _path(variable: str, path: str) -> str:
    if variable == "OTEL_EXPORTER_OTLP_ENDPOINT":  # a base: the signal's path is added
        return path.rstrip("/") + _PATH
    if variable == "traces.endpoint" and path in {"", "/"}:
        return _PATH
    return path or "/"
