"""The web's port under all sorts of clients: slow, silent, many, and too large."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import Callable, Iterator

import flask
import pytest

from exporter import server as server_module
from exporter.server import Server, listen
from tests.support import eventually

Start = Callable[..., "Bench"]
HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"


class Bench:
    """A server on a port of its own, whose application waits where it is told to."""

    def __init__(self, connections: int) -> None:
        self.app = flask.Flask("bench")
        self.waiting = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.app.get("/", endpoint="page")(lambda: "page")
        self.app.get("/metrics", endpoint="metrics")(lambda: "metrics")
        self.app.get("/wait", endpoint="wait")(self._wait)
        self.app.get("/stay", endpoint="stay")(self._stay)
        self.app.get("/large", endpoint="large")(lambda: b"x" * 50_000_000)
        self.app.get("/parts/<tells>", endpoint="parts")(self._parts)
        self.app.post("/body", endpoint="body")(self._body)
        self.app.post("/unread", endpoint="unread")(lambda: ("no", 401))
        self.server = Server(self.app, listen("127.0.0.1", 0), connections)
        self.server.start()
        self._stack = ExitStack()

    def _body(self) -> bytes:
        return flask.request.get_data()

    def _parts(self, tells: str) -> flask.Response:
        served = flask.request.environ["episight.served"]

        def parts() -> Iterator[str]:
            for number in range(6):
                self.go_on.wait(0.3)
                yield f"part {number} "
                if tells == "yes":
                    served.goes_on()

        return flask.Response(parts())

    def _wait(self) -> str:
        self.waiting.release()
        self.go_on.wait(30)
        return "waited"

    def _stay(self) -> str:
        environ = flask.request.environ
        environ["episight.served"].stay()
        environ["werkzeug.socket"].sendall(b"hello")
        self.go_on.wait(30)
        return "a second answer"

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.server.port), 10)
        self._stack.enter_context(connection)
        connection.sendall(sent)
        return connection

    def ask(self, path: str = "/") -> bytes:
        """The whole answer to a request that is not slow."""
        return rest(self.connect(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()))

    def wait_in_all(self, count: int) -> None:
        """Have so many requests under way."""
        for _ in range(count):
            self.connect(b"GET /wait HTTP/1.1\r\n\r\n")
        for _ in range(count):
            assert self.waiting.acquire(timeout=10)

    @property
    def served(self) -> int:
        return len(self.server._served)

    def close(self) -> None:
        self.go_on.set()
        self._stack.close()
        self.server.close()
        eventually(lambda: not self.served)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the end."""
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def is_over(connection: socket.socket) -> bool:
    """Whether the other side has let go."""
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def cannot_send(connection: socket.socket, data: bytes) -> bool:
    """Whether nobody takes this any more."""
    try:
        connection.sendall(data)
    except ConnectionError:
        return True
    return False


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Bench] = []

    def begin(connections: int = 512) -> Bench:
        made.append(Bench(connections))
        return made[-1]

    yield begin
    for bench in made:
        bench.close()


# --- what is served -------------------------------------------------------------------


def test_a_request_in_many_small_pieces_is_a_request(start: Start) -> None:
    connection = start().connect()
    for byte in HEAD + b"\r\n":
        connection.sendall(bytes([byte]))
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\npage")


def test_a_body_may_come_with_the_head_or_later_or_in_chunks(start: Start) -> None:
    bench = start()
    head = b"POST /body HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
    assert rest(bench.connect(head + b"hello")).endswith(b"\r\n\r\nhello")
    connection = bench.connect(head + b"he")
    connection.sendall(b"llo")
    assert rest(connection).endswith(b"\r\n\r\nhello")
    chunked = b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = bench.connect(chunked + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
    assert rest(connection).endswith(b"\r\n\r\nhello")


def test_a_connection_is_for_one_request(start: Start) -> None:
    answer = rest(start().connect(2 * (HEAD + b"\r\n")))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer


def test_who_sends_a_body_that_nobody_wants_is_answered_all_the_same(
    start: Start,
) -> None:
    head = b"POST /unread HTTP/1.1\r\nContent-Length: 500000\r\n\r\n"
    assert b" 401 " in rest(start().connect(head + b"x" * 500_000))


# --- what is too large ----------------------------------------------------------------

TOO_LARGE = [
    ("address", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
    ("address without an end", b"GET /" + b"a" * 100_000, b" 414 "),
    ("one header", HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", b" 431 "),
    ("headers without an end", HEAD + b"X: a\r\n" * 10_000, b" 431 "),
    ("number of headers", HEAD + b"X: a\r\n" * 101 + b"\r\n", b" 431 "),
]


@pytest.mark.parametrize(
    ("sent", "status"), [t[1:] for t in TOO_LARGE], ids=[t[0] for t in TOO_LARGE]
)
def test_what_is_too_large_is_refused_with_the_status_that_says_so(
    start: Start, sent: bytes, status: bytes
) -> None:
    bench = start()
    assert status in rest(bench.connect(sent)).split(b"\r\n")[0]
    assert bench.ask().endswith(b"page")


def test_of_a_body_no_more_is_read_than_anybody_may_send(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_REST", 100_000)
    bench = start()

    def sent(size: int) -> bytes:
        head = f"POST /body HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode()
        return rest(bench.connect(head + b"x" * size)).split(b"\r\n")[0]

    assert b" 200 " in sent(90_000)
    assert b" 400 " in sent(150_000)


def test_what_is_no_request_is_no_trouble(start: Start) -> None:
    bench = start()
    for sent in (b"\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 99):
        bench.connect(sent)
    assert bench.ask().endswith(b"page")


# --- who is too slow ------------------------------------------------------------------


def test_who_does_not_ask_in_time_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    bench = start()
    silent, slow = bench.connect(), bench.connect(HEAD)

    eventually(lambda: cannot_send(slow, b"X: a\r\n"))
    eventually(lambda: is_over(silent))


def test_who_does_not_send_a_body_in_time_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.5)
    bench = start()
    connection = bench.connect(b"POST /body HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
    eventually(lambda: bench.served)
    eventually(lambda: not bench.served)
    eventually(lambda: is_over(connection))


def test_who_does_not_read_the_answer_in_time_is_let_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.5)
    bench = start()
    bench.connect(b"GET /large HTTP/1.1\r\n\r\n")
    eventually(lambda: bench.served)
    eventually(lambda: not bench.served)


@pytest.mark.parametrize("tells", ["yes", "no"])
def test_a_long_answer_takes_its_time_while_it_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch, tells: str
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 1.2)
    answer = start().ask(f"/parts/{tells}")
    assert b"part 0" in answer
    whole = answer.endswith(b"\r\n0\r\n\r\n")
    assert whole == (b"part 5" in answer) == (tells == "yes")


def test_to_who_speaks_http_1_0_the_end_is_the_end_of_the_connection(
    start: Start,
) -> None:
    bench = start()
    bench.go_on.set()
    heads, bodies = zip(
        *(
            rest(bench.connect(f"GET /parts/yes HTTP/1.{n}\r\n\r\n".encode())).split(
                b"\r\n\r\n", 1
            )
            for n in (0, 1)
        ),
        strict=True,
    )
    assert bodies[0] == b"".join(b"part %d " % number for number in range(6))
    assert [b"chunked" in head for head in heads] == [False, True]


def test_who_goes_on_after_the_answer_is_let_go(start: Start) -> None:
    bench = start()
    head = b"POST /unread HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"
    connection = bench.connect(head)
    eventually(lambda: cannot_send(connection, b"x" * 65536))
    eventually(lambda: not bench.served)


def test_a_websocket_may_stay_and_is_not_answered_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.3)
    bench = start()
    stays = bench.connect(b"GET /stay HTTP/1.1\r\n\r\n")
    assert stays.recv(5) == b"hello"
    late = bench.connect(b"POST /body HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
    eventually(lambda: is_over(late))
    assert not is_over(stays)
    bench.go_on.set()
    stays.settimeout(10)
    assert rest(stays) == b""


def test_a_thousand_slow_ones_cost_no_thread_and_nobody_waits_for_them(
    start: Start,
) -> None:
    bench = start(1200)
    before = threading.active_count()
    slow = [bench.connect(HEAD) for _ in range(1000)]
    eventually(lambda: len(bench.server._arriving) == 1000)
    assert threading.active_count() == before
    for connection in slow:
        connection.sendall(b"X: a\r\n")
    assert bench.ask().endswith(b"page")
    for connection in slow[::100]:
        connection.sendall(b"\r\n")
        assert rest(connection).endswith(b"page")


# --- who are too many -----------------------------------------------------------------


def test_of_too_many_that_have_not_asked_the_oldest_go(start: Start) -> None:
    bench = start(8)
    slow = [bench.connect(HEAD) for _ in range(8)]
    eventually(lambda: len(bench.server._arriving) == 8)
    assert not is_over(slow[0])
    assert bench.ask().endswith(b"page")
    eventually(lambda: is_over(slow[0]))
    assert not is_over(slow[1])


def test_when_all_connections_are_taken_metrics_are_served_and_pages_refused(
    start: Start,
) -> None:
    bench = start(8)
    bench.wait_in_all(6)
    for _ in range(3):
        assert bench.ask("/metrics").endswith(b"metrics")
        answer = bench.ask()
        assert b" 503 " in answer.split(b"\r\n")[0]
        assert b"web.max_connections" in answer
    bench.go_on.set()
    eventually(lambda: not bench.served)
    assert bench.ask().endswith(b"page")


def test_a_close_does_not_wait_for_those_that_are_slow(start: Start) -> None:
    bench = start()
    slow = bench.connect(HEAD)
    bench.wait_in_all(1)
    bench.server.close()
    bench.server.close()
    eventually(lambda: is_over(slow))
    with pytest.raises(OSError, match="refused"):
        bench.connect()


def test_a_port_that_is_taken_is_an_error(start: Start) -> None:
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", start().server.port)


def test_a_port_is_kept_from_the_moment_it_is_told() -> None:
    """Not tried, let go and taken again: somebody else may have it by then."""
    with listen("127.0.0.1", 0) as listener, socket.socket() as other:
        port = listener.getsockname()[1]
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
