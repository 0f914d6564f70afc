"""What became of a socket's newest attempts to connect.

Owns the socket's monitor; used by the thread that owns the socket.
"""

import sys
from typing import Any, Dict, Optional

import zmq

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
KEY_REFUSED = "key refused"
NOT_THE_SAME = "keys on one side only"
_REASONS: Dict[int, str] = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): KEY_REFUSED,
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): NOT_THE_SAME,
}


class Attempts:
    """Watches a socket that is about to connect.

    Attributes:
        accepted: somebody accepted a connection.
        turned_away: nobody was there; or somebody was, who does not talk as we do.
        reason: why the newest one failed, where that is known.
    """

    def __init__(self, socket: Any) -> None:
        self.accepted = False
        self.turned_away = False
        self.reason = ""
        self._socket = socket
        self._monitor: Optional[Any] = socket.get_monitor_socket(_EVENTS)

    def look(self) -> None:
        """Take note of what has happened since the last call."""
        while self._monitor is not None and self._monitor.poll(0):
            event = int.from_bytes(self._monitor.recv_multipart()[0][:2], sys.byteorder)
            if event == zmq.EVENT_CONNECTED:
                self.accepted = True
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.turned_away, self.reason = False, ""
            else:
                self.turned_away = True
                self.reason = _REASONS.get(event, self.reason)

    def close(self) -> None:
        """Look no more; before the socket is closed. Again: nothing."""
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None
