"""``episight check``: would an experiment started here be seen, and if not, why.

It asks as an experiment would, with a hello of its own, and tells nothing more.
"""

import contextlib
import os
import platform
import socket
import sys
import time
from typing import Iterator, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import urlparse

import msgspec
import zmq

from experiment_hooks import wire
from experiment_hooks._version import __version__
from experiment_hooks.dial import Dialer, KeysError, Place
from experiment_hooks.settings import Settings
from experiment_hooks.spool import Folder

NO_RUN = "episight-check"


class Answer(NamedTuple):
    """What came back from an address: whether anybody is there, and who."""

    connects: bool
    detail: str = ""
    welcome: Optional[wire.Welcome] = None
    refused: Optional[wire.Refused] = None
    skew: float = 0.0

    @property
    def page(self) -> str:
        """The exporter's page, of which a welcome names a part; empty if unknown."""
        return self.welcome.url.partition("/runs/")[0] if self.welcome else ""


def dialer_of(settings: Settings) -> Dialer:
    """How the exporter of these settings is reached."""
    return Dialer(settings.endpoint, settings.server_key, settings.key_file)


def ask(
    dialer: Dialer, place: Place, run: Optional[str] = None, timeout: float = 3.0
) -> Answer:
    """Connect to the exporter's place and say hello, as if to join ``run``."""
    try:
        _probe(place, timeout)
    except (OSError, ValueError) as error:
        return Answer(False, str(error) or type(error).__name__)
    try:
        message, skew = _hello(dialer, place, run or NO_RUN, timeout)
    except KeysError as error:
        return Answer(True, str(error))
    except (zmq.ZMQError, wire.WireError) as error:
        return Answer(True, f"it does not talk like an exporter: {error}")
    if isinstance(message, wire.Welcome):
        return Answer(True, welcome=message, skew=skew)
    if isinstance(message, wire.Refused):
        return Answer(True, refused=message)
    return Answer(True, f"no answer to hello within {timeout:g} s")


def _probe(place: Place, timeout: float) -> None:
    """Connect and go in peace; raises OSError or ValueError where nobody listens."""
    probe = socket.create_connection(host_and_port(place.address), timeout=timeout)
    # Closed with what was not read, it would look like a handshake that failed.
    with probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        probe.shutdown(socket.SHUT_WR)
        while probe.recv(1024):
            pass


def _hello(
    dialer: Dialer, place: Place, run: str, timeout: float
) -> Tuple[Optional[wire.FromExporter], float]:
    sent = time.time()
    hello = wire.Hello(
        protocol=wire.PROTOCOL,
        source=os.urandom(16),
        run=run,
        role="shared",  # a question only: without a record it opens no run
        sent=sent,
        version=__version__,
        host=platform.node(),
        pid=os.getpid(),
    )
    with zmq.Context() as context, dialer.socket(context, place) as sock:
        sock.setsockopt(zmq.IMMEDIATE, 0)  # it is sent as soon as it can be
        sock.connect(place.address)
        sock.send(wire.encode(hello))
        deadline = time.monotonic() + timeout
        while sock.poll(int(max(0.0, deadline - time.monotonic()) * 1000)):
            message = wire.decode_from_exporter(sock.recv_multipart()[0])
            if isinstance(message, wire.Welcome):
                # The exporter's clock was read between the two readings of ours.
                return message, message.time - (sent + time.time()) / 2
            if isinstance(message, wire.Refused):
                return message, 0.0
    return None, 0.0


def host_and_port(address: str) -> Tuple[str, int]:
    """The two parts of ``tcp://host:port``; raises ValueError where it is none."""
    parsed = urlparse(address)
    if not parsed.hostname or not parsed.port:
        raise ValueError(f"{address} is not tcp://host:port")
    return parsed.hostname, parsed.port


def check(environ: Mapping[str, str]) -> int:
    """Print whether an experiment with this environment would be seen; 0 if so."""
    settings = Settings.from_environment(environ)
    dialer = dialer_of(settings)
    place = dialer.find()
    address = place.address if place else None
    answer = None if place is None else ask(dialer, place, settings.run_id)
    for name, value in _facts(settings, address, answer):
        print(f"{name:<12}{value}")
    obstacle = _obstacle(settings, address, answer)
    if obstacle:
        print(f"\nAn experiment started here would not be seen: {obstacle}")
        return 1
    print("\nAn experiment started here would be seen.")
    return 0


def _facts(
    settings: Settings, address: Optional[str], answer: Optional[Answer]
) -> Iterator[Tuple[str, str]]:
    yield "episight", f"{__version__}, protocol {wire.PROTOCOL}"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "pyzmq", f"{zmq.__version__}, libzmq {zmq.zmq_version()}"
    yield "msgspec", msgspec.__version__
    yield "endpoint", settings.endpoint
    if address != settings.endpoint:
        yield "address", address or "its file is not there, or holds no address"
    yield "run id", settings.run_id or "made by each run"
    yield "keys", "yes" if dialer_of(settings).encrypts else "no"
    yield "spool", _waiting(settings)
    for name in ("disabled", "thread", "strict", "private"):
        yield name, "yes" if getattr(settings, name) else "no"
    for problem in settings.problems:
        yield "problem", problem
    if answer is None:
        return
    yield "connects", "yes" if answer.connects else f"no: {answer.detail}"
    if answer.welcome is not None:
        yield "exporter", f"{answer.welcome.version or 'of no known version'}, welcomes"
        yield "its clock", f"differs by {abs(answer.skew):.1f} s"
        if answer.page:
            yield "page", answer.page
    elif answer.refused is not None:
        yield "exporter", f"refuses: {answer.refused.sentence}"
    elif answer.connects:
        yield "exporter", answer.detail


def _waiting(settings: Settings) -> str:
    if not settings.spool_dir:
        return "off"
    folder = Folder.of(settings.spool_dir, settings.endpoint)
    return f"{folder.path}, {len(folder.names())} files wait"


def _obstacle(
    settings: Settings, address: Optional[str], answer: Optional[Answer]
) -> str:
    if settings.disabled:
        return "EPISIGHT_DISABLED is set, so every hook does nothing."
    if answer is None or address is None:
        return f"{settings.endpoint} does not say where the exporter is."
    if answer.refused is not None:
        return answer.refused.sentence
    if not answer.connects:
        return (
            f"nothing listens at {address} (start an exporter with "
            "`python -m exporter`, or use `episight run`)."
        )
    if answer.welcome is None:
        return f"what listens at {address} is no exporter: {answer.detail}."
    return ""
