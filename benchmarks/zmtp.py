"""Thousands of sources from one process: ZMTP 3.0 over plain sockets.

A load generator has to cost less than what it loads. Thousands of DEALER sockets do
not: each is an object with threads, a pipe and a mailbox. One connection here is one
TCP socket and a few bytes; a message for all of them is framed once.

Only what a DEALER without keys needs: the greeting, READY, messages, PONG
(https://rfc.zeromq.org/spec/23/).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable, Iterable

_MORE, _LONG, _COMMAND = 1, 2, 4
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def frames(parts: Iterable[bytes]) -> bytes:
    """A message as it travels; good for any connection."""
    found = []
    parts = list(parts)
    for number, part in enumerate(parts):
        more = _MORE if number + 1 < len(parts) else 0
        found += [_header(more, len(part)), part]
    return b"".join(found)


def _header(flags: int, size: int) -> bytes:
    if size < 256:
        return bytes((flags, size))
    return bytes((flags | _LONG,)) + size.to_bytes(8, "big")


def _command(name: bytes, data: bytes) -> bytes:
    body = bytes((len(name),)) + name + data
    return _header(_COMMAND, len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


_OPENING = _GREETING + _command(
    b"READY", _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b"")
)


class Connection:
    """One DEALER. ``on_message`` gets the parts of each message that comes.

    Raises:
        OSError: the address cannot be connected to.
    """

    def __init__(
        self,
        address: tuple[str, int],
        on_message: Callable[[Connection, list[bytes]], None] | None = None,
    ) -> None:
        self.on_message = on_message
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_OPENING)
        self.socket.setblocking(False)
        self.behind: set[Connection] = set()
        """Where it is while the other side does not take all; a fleet's is shared."""
        self._unsent = b""
        self._came = bytearray()
        self._greeted = self._ready = False
        self._parts: list[bytes] = []

    def send(self, framed: bytes) -> None:
        """Send what :func:`frames` made: now, or when the other side takes it."""
        data = self._unsent + framed if self._unsent else framed
        sent = 0
        if data and self._ready:  # libzmq takes no message before it has said READY
            with contextlib.suppress(BlockingIOError):
                sent = self.socket.send(data)
        self._unsent = data[sent:]
        if self._unsent:
            self.behind.add(self)
        else:
            self.behind.discard(self)

    def readable(self) -> None:
        """Read what came.

        Raises:
            ConnectionError: the other side has closed the connection.
        """
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the exporter closed a connection")
        if self.on_message is None and self._greeted:
            return  # nobody wants to know
        self._came += data
        self._take()

    def _take(self) -> None:
        came, start = self._came, 0
        if not self._greeted:
            if len(came) < len(_GREETING):
                return
            self._greeted, start = True, len(_GREETING)
        while len(came) - start >= 2:
            flags, head = came[start], 9 if came[start] & _LONG else 2
            if len(came) - start < head:
                break
            size = int.from_bytes(came[start + 1 : start + head], "big")
            if len(came) - start < head + size:
                break
            body = bytes(came[start + head : start + head + size])
            start += head + size
            self._frame(flags, body)
        del came[:start]

    def _frame(self, flags: int, body: bytes) -> None:
        if flags & _COMMAND:
            if body.startswith(b"\x05READY"):
                self._ready = True
                self.send(b"")
            elif body.startswith(b"\x04PING"):
                self.send(_command(b"PONG", body[7:]))
            return
        self._parts.append(body)
        if not flags & _MORE:
            parts, self._parts = self._parts, []
            if self.on_message is not None:
                self.on_message(self, parts)

    def close(self) -> None:
        self.socket.close()


class Fleet:
    """Many connections, read by whoever calls :meth:`pump`."""

    def __init__(self, connections: Iterable[Connection]) -> None:
        self.connections = list(connections)
        self._behind: set[Connection] = set()
        self._selector = selectors.DefaultSelector()
        for one in self.connections:
            self._behind |= one.behind
            one.behind = self._behind
            self._selector.register(one.socket, selectors.EVENT_READ, one)

    def pump(self, timeout: float) -> None:
        """Read what comes within so many seconds; returns with the first of it."""
        for one in list(self._behind):
            one.send(b"")
            timeout = min(timeout, 0.001)
        for key, _ in self._selector.select(timeout):
            key.data.readable()

    def close(self) -> None:
        self._selector.close()
        for one in self.connections:
            one.close()
