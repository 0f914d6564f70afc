"""How a source reaches the exporter: the endpoint's address, the keys, a socket.

Whoever calls owns the socket, and uses it on one thread. Keys are read when a socket is
made, and are in no message, no ``repr`` and no log.
"""

import json
import os
from typing import Any, NamedTuple, Optional, Tuple
from urllib.parse import unquote, urlparse

import zmq

from experiment_hooks import wire
from experiment_hooks.window import WINDOW_RECORDS

_KEY_LENGTH = 40

_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")
_OPTIONS = (
    (zmq.LINGER, 0),
    (zmq.IMMEDIATE, 1),
    # More than there ever are: the windows bound them. So a message that cannot be sent
    # means that there is no connection.
    (zmq.SNDHWM, 2 * WINDOW_RECORDS),
    # No bound: where one stops the reading and the connection ends, the heartbeat
    # aborts the process (libzmq 4.3.5, "Assertion failed: !_io_error"). What comes is
    # bounded by what we send, and a ping in 3 s while the interpreter's lock is held.
    (zmq.RCVHWM, 0),
    (zmq.RECONNECT_IVL, 100),
    (zmq.RECONNECT_IVL_MAX, 1000),
    (zmq.HEARTBEAT_IVL, 5000),
    (zmq.HEARTBEAT_TIMEOUT, 15000),
    (zmq.MAXMSGSIZE, wire.MAX_HEAD_BYTES),
)


class KeysError(ValueError):
    """The keys for CURVE cannot be used; the message says what to do."""


class Place(NamedTuple):
    """Where the exporter listens: its address, and its public key where it says it."""

    address: str
    server_key: str = ""


class Dialer:
    """Knows how to reach one exporter; makes sockets for it.

    Args:
        endpoint: as ``EPISIGHT_ENDPOINT`` says it.
        server_key: the exporter's public key, or the file that holds it; empty: the one
            in the endpoint's file, if there is one.
        key_file: the file with this side's own keys.
    """

    def __init__(self, endpoint: str, server_key: str = "", key_file: str = "") -> None:
        self.endpoint = endpoint
        self._server_key = server_key
        self._key_file = key_file

    def find(self) -> Optional[Place]:
        """Where the exporter is; None while the endpoint's file is not there."""
        place = resolve(self.endpoint)
        if place is not None and self._server_key:
            return place._replace(server_key=self._server_key)
        return place

    def socket(self, context: Any, place: Place) -> Any:
        """A DEALER socket for this place, not yet connected.

        It takes messages only while it is connected.

        Raises:
            zmq.ZMQError: there are too many sockets, or open files.
            KeysError: keys are wanted that are not there, or are none.
        """
        keys = self._keys(place)
        sock = context.socket(zmq.DEALER)
        for option, value in _OPTIONS:
            sock.setsockopt(option, value)
        # Only there: a name with both addresses would be tried with one of them.
        sock.setsockopt(zmq.IPV6, int("[" in place.address))
        if keys is not None:
            sock.curve_serverkey, sock.curve_publickey, sock.curve_secretkey = keys
        return sock

    @property
    def in_file(self) -> bool:
        """Whether the exporter's address is in a file, and so may change."""
        return self.endpoint.startswith("file://")

    @property
    def encrypts(self) -> bool:
        """Whether keys are set, and so nothing is said without them."""
        return bool(self._server_key or self._key_file)

    def check(self) -> None:
        """Raises KeysError where keys are set that cannot be used."""
        place = self.find()
        if place is not None:
            self._keys(place)

    def _keys(self, place: Place) -> Optional[Tuple[bytes, bytes, bytes]]:
        if not place.server_key:
            if self._key_file:
                raise KeysError(
                    "EPISIGHT_KEY_FILE is set, and the exporter's key is not known: set"
                    " EPISIGHT_SERVER_KEY to what `episight keys` has printed"
                )
            return None
        if not self._key_file:
            raise KeysError(
                "the exporter wants keys: set EPISIGHT_KEY_FILE to a file that"
                " `episight keys` has made"
            )
        public, secret = _certificate(self._key_file)
        if secret is None:
            raise KeysError(
                f"EPISIGHT_KEY_FILE={self._key_file} holds no secret key: name the file"
                " that ends in .key_secret"
            )
        return _public_key(place.server_key), public, secret


def resolve(endpoint: str) -> Optional[Place]:
    """The place that an endpoint names; None while its file is not there.

    The file holds JSON with the keys ``ingest`` and ``server_key``, as the exporter
    writes it.
    """
    if not endpoint.startswith("file://"):
        return Place(endpoint)
    path = unquote(urlparse(endpoint).path)
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            said = json.loads(file.read(65536))
        address, key = said["ingest"], said.get("server_key") or ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(address, str) or not isinstance(key, str):
        return None
    return Place(address, key)


def is_loopback(address: str) -> bool:
    """Whether an address means this very machine, on whichever machine it is read."""
    return address.startswith(_LOOPBACK)


def _public_key(text: str) -> bytes:
    """A public key: as it is (40 characters of Z85), or in a file."""
    if len(text) != _KEY_LENGTH or os.path.exists(text):
        return _certificate(text)[0]
    return text.encode("ascii", "replace")


def _certificate(path: str) -> Tuple[bytes, Optional[bytes]]:
    from zmq.auth.certs import load_certificate  # it costs 30 ms

    try:
        public, secret = load_certificate(os.path.expanduser(path))
    except (OSError, ValueError, IndexError) as error:
        raise KeysError(
            f"{path} holds no keys: {error}; `episight keys` makes such files"
        ) from None
    if len(public) != _KEY_LENGTH or len(secret or public) != _KEY_LENGTH:
        raise KeysError(f"{path} holds no keys: `episight keys` makes such files")
    return public, secret
