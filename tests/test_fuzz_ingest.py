"""Fuzzed messages at the port of a real exporter, and what it serves between them.

Messages of real hooks and the golden frames of the wire are changed, at random but
with a seed, and sent on several connections. Nothing may break or grow; what an honest
experiment says meanwhile is applied, all of it, once. Some ten thousand in CI; by hand
as many as you like: ``EPISIGHT_FUZZ_FRAMES=1000000 python -m pytest -s
tests/test_fuzz_ingest.py``, with another ``EPISIGHT_FUZZ_SEED``.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
import zmq

import experiment_hooks as eh
from experiment_hooks import wire
from experiment_hooks.testing import Listener
from tests.support import Exporter, eventually, parse_metrics
from tests.test_wire import MESSAGES

# Read once, here: no test sees our variables (conftest.py).
FRAMES = int(os.environ.get("EPISIGHT_FUZZ_FRAMES") or 20_000)
SEED = int(os.environ.get("EPISIGHT_FUZZ_SEED") or 1)
ROUND = 100
"""Messages in one episode of the honest experiment."""
ROUNDS = max(20, FRAMES // ROUND)
REQUESTS = 1_000
GROWTH = 30.0
"""MB that the exporter may have more at the end than when it was warm."""
pytestmark = pytest.mark.timeout(FRAMES / 500 + 90)

Parts = List[bytes]


# --- what is changed ------------------------------------------------------------------


def golden() -> List[Parts]:
    """The frames of the wire's tests: records in a message, and heads without."""
    found = []
    for message in MESSAGES:
        data = wire.encode(message)
        found.append([data])
        if isinstance(message, wire.Record):
            head = wire.Records(seqs=(message.seq,), sent=time.time())
            found.append([wire.encode(head), data])
    return found


def real(monkeypatch: pytest.MonkeyPatch) -> List[Parts]:
    """What the hooks say of a run that uses most of them."""
    with Listener(watched=True) as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        with eh.open_run("fuzzed", config={"lr": 0.5}, success={"correct"}) as run:
            loss = run.gauge("loss", labels=["side"], merge="sum")
            for index in range(3):
                with run.episode(mode="eval", epoch=0, index=index, target="mug") as ep:
                    loss.labels(side="left").set(0.5)
                    with ep.phase("looking"):
                        ep.step(state={"x": [1, None]}, scores={"mug": 0.5})
                    ep.event("moved", to="left")
                    ep.finish(outcome="correct", results={"return": 1.5})
                run.publish_metric("accuracy", 0.5, epoch=1, step=100)
                run.publish_log("warning", "careful", n=1)
                listener.wait_for(lambda n=index: len(listener.heard("sample")) > n)
    return [[wire.encode(one.message), *one.parts] for one in listener.heard()]


ODD: List[Any] = [
    None, True, "", "x", "\x00", "ü" * 300, "x" * 70_000, b"", b"\xff" * 16, 0, -1,
    2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e-320, 1e308, math.nan,
    math.inf, -math.inf, [], {}, [[]], [None] * 1000, {"": None}, {1: 2}, {None: []},
    "run", "lost", "counter", "le", "__name__", "../../x", "<script>", [[0, 2**63]],
    [[5, 1]], {"a": "b"}, {"a": -1}, [{"name": "x", "type": "gauge"}], list(range(300)),
]  # fmt: skip
HEADERS = bytes([0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE0), 0xFF])


class Fuzzer:
    """Makes messages that nobody should send, the same ones for the same seed."""

    def __init__(self, seed: int, corpus: List[Parts]) -> None:
        self._random = random.Random(seed)
        self._corpus = corpus
        self._seq = 1000
        self._changes: List[Callable[[Parts], None]] = [
            self._flip, self._flip, self._cut, self._splice, self._header,
            self._header, self._retype, self._retype, self._retype, self._new,
            self._new, self._new, self._nest, self._more_parts, self._empty,
            self._unknown, self._newer, self._noise, self._swap,
        ]  # fmt: skip

    def message(self) -> Parts:
        parts = list(self._random.choice(self._corpus))
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._random.choice(self._changes)(parts)
        return parts or [b""]

    def _at(self, parts: Parts) -> int:
        return self._random.randrange(len(parts))

    def _flip(self, parts: Parts) -> None:
        """Turn some bits around."""
        at = self._at(parts)
        data = bytearray(parts[at])
        for _ in range(self._random.randint(1, 8) if data else 0):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        parts[at] = bytes(data)

    def _cut(self, parts: Parts) -> None:
        at = self._at(parts)
        parts[at] = parts[at][: self._random.randrange(len(parts[at]) + 1)]

    def _splice(self, parts: Parts) -> None:
        """The head of one and the tail of another."""
        other = self._random.choice(self._random.choice(self._corpus))
        at = self._at(parts)
        mine, its = len(parts[at]), len(other)
        start = parts[at][: self._random.randint(0, mine)]
        parts[at] = start + other[self._random.randint(0, its) :]

    def _header(self, parts: Parts) -> None:
        """Put a type or a length of msgpack where there was another, or none."""
        at = self._at(parts)
        data = bytearray(parts[at])
        if data:
            place = self._random.randrange(len(data))
            data[place : place + 1] = bytes(
                [self._random.choice(HEADERS), *self._random.choice(_LENGTHS)]
            )
        parts[at] = bytes(data)

    def _retype(self, parts: Parts) -> None:
        """Valid msgpack, with something else in one of its places."""
        at = self._at(parts)
        value = _plain(parts[at])
        if isinstance(value, dict) and value:
            self._change(value)
            parts[at] = _encoded(value, parts[at])

    def _change(self, value: Any) -> None:
        keys = list(value if isinstance(value, dict) else range(len(value)))
        key = self._random.choice(keys)
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and self._random.random() < 0.5:
            self._change(inner)
        else:
            value[key] = self._random.choice(ODD)

    def _new(self, parts: Parts) -> None:
        """A record that did not come before, of what it likes: it comes to the end."""
        head = _plain(parts[0])
        record = _plain(parts[-1])
        if len(parts) < 2 or not isinstance(head, dict) or "seqs" not in head:
            return
        if isinstance(record, dict):
            self._seq += 1
            record["seq"] = self._seq
            if len(record) > 5:
                fields = [key for key in record if key not in _BASE]
                key = self._random.choice(fields or ["kind"])
                record[key] = self._random.choice(ODD)
            head["seqs"] = [self._seq]
            parts[:] = [
                _encoded(head, parts[0]),
                _encoded(record, parts[-1]),
            ]

    def _nest(self, parts: Parts) -> None:
        opening = self._random.choice((b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"))
        parts[self._at(parts)] = opening * self._random.choice((10, 1000, 100_000))

    def _more_parts(self, parts: Parts) -> None:
        part = self._random.choice((b"", parts[-1][:100]))
        parts.extend([part] * self._random.choice((1, 2, 10, 10, 100, 2048)))

    def _empty(self, parts: Parts) -> None:
        parts[self._at(parts)] = b""

    def _unknown(self, parts: Parts) -> None:
        kinds = ("", "hellO", "of_tomorrow", "x" * 1000, "ack", "welcome", 7)
        self._with(parts, kind=self._random.choice(kinds))

    def _newer(self, parts: Parts) -> None:
        numbers = (0, 2, 99, -1, 2**64 - 1, "2", None)
        shape = {"kind": "hello", "protocol": self._random.choice(numbers)}
        if self._random.random() < 0.5:
            self._with(parts, **shape)
        else:
            parts[0] = wire.encode_plain({**shape, "of": [self._random.choice(ODD)]})

    def _with(self, parts: Parts, **fields: Any) -> None:
        at = self._at(parts)
        value = _plain(parts[at])
        if isinstance(value, dict):
            parts[at] = _encoded({**value, **fields}, parts[at])

    def _noise(self, parts: Parts) -> None:
        size = self._random.choice((1, 2, 5, 20, 200, 5000))
        parts[self._at(parts)] = self._random.getrandbits(8 * size).to_bytes(
            size, "big"
        )

    def _swap(self, parts: Parts) -> None:
        self._random.shuffle(parts)


_BASE = ("kind", "run", "source", "seq", "time")
_LENGTHS = (b"", b"\x00", b"\xff", b"\xff\xff", b"\x00\x10", b"\xff\xff\xff\xff")


def _plain(data: bytes) -> Any:
    try:
        return wire.decode_plain(data)
    except wire.MalformedError:
        return None


def _encoded(value: Any, otherwise: bytes) -> bytes:
    try:
        return wire.encode_plain(value)
    except wire.MalformedError:
        return otherwise


# --- who sends it ---------------------------------------------------------------------


class Rogue:
    """One connection; some have said a proper hello before, some never did."""

    def __init__(self, context: Any, address: str, hello: wire.Hello | None) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, 20_000)
        self._socket.connect(address)
        self._asked = 1_000_000
        if hello is not None:
            self._socket.send(wire.encode(hello))

    def send(self, parts: Parts) -> None:
        self._socket.send_multipart(parts)

    def ask(self) -> None:
        """Say what is always answered, in a way that nothing else is."""
        self._asked += 1
        said = wire.Hello(self._asked, SOURCES[0], "mug-1", time.time())
        self._socket.send(wire.encode(said))

    def is_answered(self) -> None:
        """All that it has sent was read: what was asked last is answered."""
        answer = f"speak protocol {self._asked},"
        while True:
            assert self._socket.poll(20_000), "no answer"
            found = wire.decode_from_exporter(self._socket.recv())
            if isinstance(found, wire.Refused) and answer in found.sentence:
                return

    def close(self) -> None:
        self._socket.close()


class Rogues:
    """Several, of which now and then one hangs up and comes again."""

    def __init__(self, address: str, seed: int) -> None:
        self._address = address
        self._random = random.Random(seed)
        self._context: Any = zmq.Context()
        self._all = [self._another() for _ in range(6)]

    def _another(self) -> Rogue:
        hello = wire.Hello(
            protocol=wire.PROTOCOL,
            source=self._random.choice(SOURCES),
            run="mug-1",
            sent=time.time(),
            replay=self._random.random() < 0.3,
        )
        greets = self._random.random() < 0.7
        return Rogue(self._context, self._address, hello if greets else None)

    def send(self, messages: Iterator[Parts]) -> None:
        """Send them, by whomever, and wait until they have been read."""
        for parts in messages:
            self._random.choice(self._all).send(parts)
        for one in self._all:
            one.ask()
        for one in self._all:
            one.is_answered()
        if self._random.random() < 0.1:
            at = self._random.randrange(len(self._all))
            self._all[at].close()
            self._all[at] = self._another()

    def close(self) -> None:
        for one in self._all:
            one.close()
        self._context.term()


SOURCES = [bytes(range(16)), bytes(range(1, 17))]
"""Those of which the corpus has records: the golden one, and see :func:`corpus`."""


def corpus(monkeypatch: pytest.MonkeyPatch) -> List[Parts]:
    """All of it, by sources that the rogues' hellos name."""
    found = golden()
    messages = real(monkeypatch)
    source = wire.decode_from_source(messages[0][0]).source  # type: ignore[union-attr]
    for parts in messages:
        found.append([part.replace(source, SOURCES[1]) for part in parts])
    return found


# --- what it is asked -----------------------------------------------------------------


def memory(exporter: Exporter) -> float:
    """What the exporter's process has in memory, MB."""
    status = Path(f"/proc/{exporter.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def serves(exporter: Exporter) -> None:
    """It is ready, and every page can be made of what it was told."""
    assert exporter.get("/-/ready").status == 200
    parse_metrics(exporter.get("/metrics").text)
    for run in exporter.runs():
        for path in (f"/api/v1/runs/{run['run']}", f"/runs/{run['run']}"):
            assert exporter.get(path).status == 200, path


def by_reason(exporter: Exporter, name: str) -> Dict[str, float]:
    return {one.labels["reason"]: one.value for one in exporter.samples(name)}


def told(exporter: Exporter) -> str:
    """What became of all that, for people."""
    kinds = exporter.samples("episight_records_total")
    return (
        f"rejected: {by_reason(exporter, 'episight_rejected_total')}; "
        f"records: { {one.labels['kind']: one.value for one in kinds} }; "
        f"not kept: {by_reason(exporter, 'episight_records_unwritten_total')}"
    )


def test_fuzzed_messages_harm_nobody(
    exporter_process: Callable[..., Exporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    fuzzer = Fuzzer(SEED, corpus(monkeypatch))
    exporter = exporter_process()
    monkeypatch.setenv("EPISIGHT_ENDPOINT", exporter.ingest)
    rogues = Rogues(exporter.ingest, SEED)
    had: List[float] = []
    began = time.monotonic()
    with contextlib.closing(rogues), eh.open_run("honest", run_id="honest") as run:
        tenths = run.counter("tenths", "Tenths.")
        for index in range(ROUNDS):
            with run.episode(mode="eval", index=index) as ep:
                rogues.send(fuzzer.message() for _ in range(ROUND))
                ep.step()
                tenths.inc(0.1)
                ep.finish(outcome="correct")
            if index % (ROUNDS // 10) == 0:
                serves(exporter)
                had.append(memory(exporter))
        run.close(timeout=60)
    took = time.monotonic() - began
    serves(exporter)
    had.append(memory(exporter))
    print(f"\n{ROUNDS * ROUND} messages, {ROUNDS * ROUND / took:.0f} a second; MB:")
    print([round(one) for one in had], told(exporter), sep="\n")
    honest_is_whole(exporter)
    rejected = by_reason(exporter, "episight_rejected_total")
    assert {"malformed", "unknown_kind", "protocol", "run_id"} <= rejected.keys()
    assert rejected.keys().isdisjoint({"internal", "socket"})
    unwritten = by_reason(exporter, "episight_records_unwritten_total")
    assert unwritten["internal"] == unwritten["unwritable"] == 0
    assert "Traceback" not in exporter.output
    assert max(had) - had[1] < GROWTH, had


def honest_is_whole(exporter: Exporter) -> None:
    """What the honest experiment did is there, each once, and nothing else."""
    eventually(lambda: exporter.run("honest")["state"] == "completed")
    assert exporter.run("honest")["missing"] == 0
    assert exporter.indices("honest") == list(range(ROUNDS))
    assert exporter.value("experiment_steps_total", run="honest") == ROUNDS
    tenths = exporter.value("experiment_tenths_total", run="honest")
    assert tenths == pytest.approx(ROUNDS / 10, rel=1e-9)


# --- the web --------------------------------------------------------------------------

PIECES = [
    "", "/", "runs", "api", "v1", "episodes", "commands", "metrics", "-", "ready",
    "live", "sources", "images", "static", "honest", "..", "%2e%2e", "%00", "%ff",
    "%c3%bc", "*", "a" * 3000, "<script>", "honest%2Fepisodes", "\xff", "0",
]  # fmt: skip
QUERIES = [
    "", "limit=1", "limit=0", "limit=1e9", "limit=-1", "limit=\xff", "after=x",
    f"after={2**70}", "after=-1", "format=csv", "format=x", "mode=%00", "outcome=a%20b",
    "token=x", "q=%3Cscript%3E", "state=x", "&&&", "=", "source=" + "0" * 5000,
]  # fmt: skip
LINES = [
    "Accept: application/openmetrics-text", "Accept: \xff", "Accept-Encoding: gzip",
    "Content-Type: application/json", "Content-Length: 5", "Content-Length: -1",
    "Content-Length: x", "Transfer-Encoding: chunked", "Range: bytes=0-", "no header",
    "Upgrade: websocket", "Connection: upgrade", "Cookie: \xff=;;=", "Host: evil",
    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x", "Origin: null", "X: " * 2000,
    "If-None-Match: *", "Expect: 100-continue", "Authorization: Bearer \xff",
]  # fmt: skip
BODIES = [
    "", "{", "[]", "null", "12345", '{"command": 7}', '{"command": "stop", "when": []}',
    '{"command": "stop", "when": "step", "source": {}}', "\xff" * 100, "[" * 5000,
]  # fmt: skip


def odd_request(chance: random.Random, token: str) -> bytes:
    """A request as nobody sends it; with the token, so that more is read of it."""
    method = chance.choice(("GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "\xff"))
    path = "/".join(["", *(chance.choice(PIECES) for _ in range(chance.randint(1, 5)))])
    if chance.random() < 0.4:
        path = chance.choice(("/api/v1/runs/honest/commands", "/metrics", "/"))
    body = chance.choice(BODIES)
    lines = [
        f"{method} {path}?{chance.choice(QUERIES)} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        "Connection: close",
    ]
    if chance.random() < 0.7:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [chance.choice(LINES) for _ in range(chance.randint(0, 2))]
    return "\r\n".join([*lines, "", body]).encode("latin-1")


def answer_to(exporter: Exporter, request: bytes) -> int:
    """The status of the answer; 0 where it just hangs up, or waits for more."""
    host, port = exporter.web.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            found = re.match(rb"HTTP/1.\d (\d+)", connection.recv(100))
            return int(found[1]) if found else 0
    return 0


def test_odd_requests_are_answered_and_nothing_breaks(
    exporter_process: Callable[..., Exporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = exporter_process()
    monkeypatch.setenv("EPISIGHT_ENDPOINT", exporter.ingest)
    with eh.open_run("honest", run_id="honest") as run, run.episode(mode="eval") as ep:
        ep.finish(outcome="correct")
    chance = random.Random(SEED)
    statuses: Counter[int] = Counter()
    for _ in range(REQUESTS):
        request = odd_request(chance, exporter.token)
        status = answer_to(exporter, request)
        assert status != 500, request
        statuses[status] += 1
    print(f"\n{statuses}")
    assert statuses[200] > 20
    assert statuses[400] > 20
    assert statuses[404] > 20
    assert "Traceback" not in exporter.output
    serves(exporter)
