"""How a source reaches the exporter: the endpoint's address, and a socket for it.

Nothing is kept here. Whoever calls owns the socket, and uses it on one thread.
"""

import json
import os
from typing import Any, Optional
from urllib.parse import unquote, urlparse

import zmq

from experiment_hooks import wire

WINDOW_RECORDS = 2000
"""Records that may be on their way and not yet acknowledged."""

_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")
_OPTIONS = (
    (zmq.LINGER, 0),
    (zmq.IMMEDIATE, 1),
    # More than there ever are: the windows bound them. So a message that cannot be sent
    # means that there is no connection.
    (zmq.SNDHWM, 2 * WINDOW_RECORDS),
    (zmq.RCVHWM, 1000),
    (zmq.RECONNECT_IVL, 100),
    (zmq.RECONNECT_IVL_MAX, 1000),
    (zmq.HEARTBEAT_IVL, 5000),
    (zmq.HEARTBEAT_TIMEOUT, 15000),
    (zmq.MAXMSGSIZE, wire.MAX_HEAD_BYTES),
)


def resolve(endpoint: str) -> Optional[str]:
    """The ``tcp://`` address of an endpoint; None while its file is not there.

    The file holds JSON with the key ``ingest``, as the exporter writes it.
    """
    if not endpoint.startswith("file://"):
        return endpoint
    path = unquote(urlparse(endpoint).path)
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            address = json.loads(file.read(65536))["ingest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) else None


def is_loopback(address: str) -> bool:
    """Whether an address means this very machine, on whichever machine it is read."""
    return address.startswith(_LOOPBACK)


def dealer(context: Any, address: str) -> Any:
    """A DEALER socket for this address, not yet connected.

    It takes messages only while it is connected.

    Raises:
        zmq.ZMQError: there are too many sockets, or open files.
    """
    sock = context.socket(zmq.DEALER)
    for option, value in _OPTIONS:
        sock.setsockopt(option, value)
    # Only there: a name with both addresses would be tried with one of them.
    sock.setsockopt(zmq.IPV6, int("[" in address))
    return sock
