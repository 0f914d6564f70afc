"""The web's port: who is connected, and how much of what anybody may take.

One thread (``web``) accepts connections and reads the heads of their requests, of all
at once and waiting for none: a slow one costs some bytes, and no thread. A request
whose head is whole gets a thread of its own, in which werkzeug calls the application,
once: no connection is kept alive.

All is bounded: bytes, seconds, and connections. Of those a share is kept for
``/metrics`` and health, so that no number of pages can hide the exporter from
Prometheus. Nothing that was asked is logged: an address may hold a token.
"""

import errno
import io
import logging
import re
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

logger = logging.getLogger("exporter")

HEAD_SECONDS = 10.0
"""A request's head has to be whole so soon after the connection was made."""
REQUEST_SECONDS = 60.0
"""What follows may take so long: the body, the work, and that the client reads."""
LINGER_SECONDS = 1.0
"""Who is refused has so long to read why."""
MAX_HEAD = 32 * 1024
MAX_ADDRESS = 8 * 1024
MAX_REST = 1024 * 1024
"""Bytes after the head that are read at most, wanted or not."""
BACKLOG = 1024
MOST_KEPT = 16
"""Of all connections so many, and a quarter at most, are for these paths only."""
KEPT_FOR = frozenset({b"/metrics", b"/-/healthy", b"/-/ready"})

_END = re.compile(rb"\n\r?\n")
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WHY = {
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def listen(host: str, port: int) -> socket.socket:
    """Take a port and keep it: whoever connects from now on waits to be served.

    Args:
        host: where to listen; with a colon, it is an address of IPv6.
        port: where to listen; 0 takes a free one.

    Raises:
        OSError: the port cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Bound alone, the port could be given to another one who asks for any.
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class Arriving:
    """A connection whose request's head is not whole yet; the web's thread only."""

    def __init__(self, connection: socket.socket, peer: Any, until: float) -> None:
        self.connection = connection
        self.peer = peer
        self.until = until
        self.head = bytearray()
        self.refused = False


class Served:
    """A request that has a thread; ``until`` is None for one that may stay."""

    def __init__(self, arrived: Arriving, kept: bool) -> None:
        self.connection = arrived.connection
        self.peer = arrived.peer
        self.head = bytes(arrived.head)
        self.kept = kept
        self.until: float | None = time.monotonic() + REQUEST_SECONDS

    def stay(self) -> None:
        """It has become a websocket, which has deadlines of its own."""
        self.until = None

    def goes_on(self) -> None:
        """A part of a long answer has been taken: the next one has its own time."""
        self.until = time.monotonic() + REQUEST_SECONDS

    def hang_up(self) -> None:
        """Nothing is sent or received any more; whoever waits stops waiting."""
        with suppress(OSError):  # it was over already
            self.connection.shutdown(socket.SHUT_RDWR)


class Server(threading.Thread):
    """Serves the application.

    Args:
        app: the application.
        listener: from :func:`listen`; the server's from now on.
        connections: how many requests are served at a time, websockets included; as
            many again may be on their way.
    """

    def __init__(
        self, app: flask.Flask, listener: socket.socket, connections: int = 512
    ) -> None:
        super().__init__(name="web", daemon=True)
        with listener:  # the server has it under another number
            host, port = listener.getsockname()[:2]
            self._server: BaseWSGIServer = make_server(
                host, port, app, threaded=True, fd=listener.fileno()
            )
        self._server.app = _without_second_answer(app)
        self._socket: socket.socket = self._server.socket
        self._socket.setblocking(False)
        self._most = connections
        self._kept = min(MOST_KEPT, connections // 4)
        self._selector = selectors.DefaultSelector()
        self._arriving: dict[socket.socket, Arriving] = {}  # the oldest first
        self._lock = threading.Lock()
        self._served: set[Served] = set()  # guarded by the lock
        self._closed = threading.Event()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.port)

    def close(self) -> None:
        """Stop listening; again: nothing."""
        self._closed.set()
        if self.is_alive():
            self.join(5.0)
        self._server.server_close()

    # --- the thread ------------------------------------------------------------------

    def run(self) -> None:
        """Serve until closed."""
        self._selector.register(self._socket, selectors.EVENT_READ)
        swept = time.monotonic()
        while not self._closed.is_set():
            for key, _ in self._selector.select(0.1):
                if key.data is None:
                    self._accept()
                elif key.data.connection in self._arriving:
                    self._read(key.data)
            if time.monotonic() - swept > 0.1:
                swept = time.monotonic()
                self._sweep(swept)
        for one in list(self._arriving.values()):
            self._drop(one)
        self._selector.close()

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                connection, peer = self._socket.accept()
            except OSError as error:
                if error.errno in _NO_ROOM and not self._drop_oldest():
                    self._closed.wait(0.1)
                return
            connection.setblocking(False)
            one = Arriving(connection, peer, time.monotonic() + HEAD_SECONDS)
            self._arriving[connection] = one
            self._selector.register(connection, selectors.EVENT_READ, one)
            if len(self._arriving) > self._most:
                self._drop_oldest()

    def _read(self, one: Arriving) -> None:
        try:
            data = one.connection.recv(MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(one)
        elif not one.refused:
            searched = max(0, len(one.head) - 2)
            one.head += data
            self._judge(one, _END.search(one.head, searched))

    def _judge(self, one: Arriving, end: re.Match[bytes] | None) -> None:
        """Begin what is whole, refuse what is too large, wait for the rest."""
        size = end.end() if end else len(one.head)
        line = one.head.find(b"\n")
        if (line if line >= 0 else size) > MAX_ADDRESS:
            self._refuse(one, 414, f"an address has at most {MAX_ADDRESS} bytes")
        elif size > MAX_HEAD:
            self._refuse(one, 431, f"the headers have at most {MAX_HEAD} bytes")
        elif end:
            self._begin(one)

    def _begin(self, one: Arriving) -> None:
        served = Served(one, kept=_path(one.head) in KEPT_FOR)
        with self._lock:
            room = self._has_room(served.kept)
            if room:
                self._served.add(served)
        if not room:
            self._refuse(one, 503, "too many connections: see web.max_connections")
            return
        self._forget(one)
        try:
            threading.Thread(target=self._serve, args=(served,), daemon=True).start()
        except RuntimeError:  # the system has no room for another thread
            self._end(served)

    def _has_room(self, kept: bool) -> bool:
        if kept:
            return len(self._served) < self._most
        others = sum(not one.kept for one in self._served)
        return others < self._most - self._kept

    def _refuse(self, one: Arriving, status: int, why: str) -> None:
        """Say why, and go on reading for a moment: else what is said would be lost."""
        head = (
            f"HTTP/1.1 {status} {_WHY[status]}\r\nContent-Type: text/plain\r\n"
            f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(why) + 1}\r\n"
            "Connection: close\r\n\r\n"
        )
        one.refused = True
        one.until = time.monotonic() + LINGER_SECONDS
        with suppress(OSError):
            one.connection.send(f"{head}{why}\n".encode())
            one.connection.shutdown(socket.SHUT_WR)

    def _sweep(self, now: float) -> None:
        """Let go of all that has taken too long."""
        for one in list(self._arriving.values()):
            if one.until < now:
                self._drop(one)
        with self._lock:
            late = [one for one in self._served if one.until and one.until < now]
        for served in late:
            served.hang_up()

    def _drop_oldest(self) -> bool:
        for one in self._arriving.values():
            self._drop(one)
            return True
        return False

    def _drop(self, one: Arriving) -> None:
        self._forget(one)
        one.connection.close()

    def _forget(self, one: Arriving) -> None:
        del self._arriving[one.connection]
        self._selector.unregister(one.connection)

    # --- a request's own thread ------------------------------------------------------

    def _serve(self, served: Served) -> None:
        try:
            Exchange(served, self._server)
        except Exception as error:  # what the application raises, werkzeug has answered
            logger.debug("a connection broke: %s", type(error).__name__)
        finally:
            self._end(served)

    def _end(self, served: Served) -> None:
        self._server.shutdown_request(served.connection)
        with self._lock:
            self._served.discard(served)


def _without_second_answer(app: Any) -> Any:
    """The application; a websocket that is over is not answered as a request too."""

    def apply(environ: dict[str, Any], start_response: Any) -> Any:
        answer = app(environ, start_response)
        if environ["episight.served"].until is None:
            answer.close()
            raise ConnectionAbortedError("a websocket is over")  # werkzeug says nothing
        return answer

    return apply


def _path(head: bytearray) -> bytes:
    words = bytes(head.partition(b"\n")[0]).split()
    return words[1].partition(b"?")[0] if len(words) > 1 else b""


class Exchange(WSGIRequestHandler):
    """One request and its answer; made, it is done (as socketserver has it)."""

    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def __init__(self, served: Served, server: BaseWSGIServer) -> None:
        self._served = served
        super().__init__(served.connection, served.peer, server)

    def setup(self) -> None:
        """Read on where the head ends."""
        super().setup()
        self.rfile.close()
        self.rfile = Heard(self._served)

    def handle(self) -> None:
        """Once: what comes after is not read as another request."""
        with suppress(ConnectionError, TimeoutError):
            self.handle_one_request()

    def parse_request(self) -> bool:
        """The head; who speaks HTTP/1.0 is answered so, for it knows no chunks."""
        understood = super().parse_request()
        if self.request_version == "HTTP/1.0":
            self.protocol_version = "HTTP/1.0"
        return understood

    def make_environ(self) -> dict[str, Any]:
        """Werkzeug's, and who is told that it has become a websocket."""
        return {**super().make_environ(), "episight.served": self._served}

    def send_response(self, code: int, message: str | None = None) -> None:
        """From here on what comes is read for its sender's sake only."""
        self.rfile.answered = True  # type: ignore[attr-defined]
        super().send_response(code, message)

    def version_string(self) -> str:
        """Nobody needs to know which libraries we have."""
        return "episight"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Requests are not worth a line each."""

    def log_error(self, format: str, *args: object) -> None:
        """Nor is what somebody sends in place of one."""


class Heard(io.BufferedReader):
    """What a client says: the head, which is here, and the rest as it comes."""

    def __init__(self, served: Served) -> None:
        super().__init__(_Source(served))
        self.answered = False

    def read(self, size: int | None = -1, /) -> bytes:
        """All of it; but after the answer (werkzeug reads on then) what has come."""
        return self.read1(MAX_HEAD) if self.answered else super().read(size)


class _Source(io.RawIOBase):
    def __init__(self, served: Served) -> None:
        self._head = memoryview(served.head)
        self._connection = served.connection
        self._left = MAX_REST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._head:
            size = min(len(buffer), len(self._head))
            buffer[:size] = self._head[:size]
            self._head = self._head[size:]
            return size
        size = min(len(buffer), self._left)
        got = self._connection.recv_into(buffer, size) if size else 0
        self._left -= got
        return got
