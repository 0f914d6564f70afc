"""``Listener``: a small exporter for tests of code that uses the hooks.

    def test_training_tells_how_its_episodes_ended(monkeypatch):
        with Listener() as listener:
            monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
            train(episodes=2)  # opens a run and closes it
        assert [episode.outcome for episode in listener.episodes()] == ["correct"] * 2
        assert listener.total("steps", mode="train") == 200

Rules of this module:

- It speaks the protocol as the exporter does (welcome, acknowledgements, ``who?``),
  keeps everything in memory, and may be asked from any thread, also when closed.
- A run's ``close`` returns when all its records are acknowledged, so afterwards they
  are here. For whatever comes by itself there is :meth:`Listener.wait_for`.
- It needs what the hooks need: pyzmq and msgspec.
"""

import socket
import threading
import time
from collections import deque
from types import TracebackType
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import zmq

from experiment_hooks import wire

T = TypeVar("T")
Kind = Union[None, str, type]


class Heard(NamedTuple):
    """One message as it came, whether it could be used or not.

    Attributes:
        connection: the ZeroMQ identity of the connection.
        message: the decoded head.
        parts: its attachments.
        at: when it came, by the monotonic clock.
    """

    connection: bytes
    message: wire.FromSource
    parts: List[bytes]
    at: float


class SeriesTotals(NamedTuple):
    """One series of one source, with its newest totals (see ``wire.Sample``)."""

    source: bytes
    spec: wire.MetricSpec
    labels: Dict[str, str]
    values: Tuple[float, ...]

    @property
    def total(self) -> float:
        """A counter's or gauge's value, a histogram's number of observations."""
        if self.spec.type == "histogram":
            return sum(self.values[:-1])
        return self.values[0]


class Source:
    """What one source has told so far.

    Attributes:
        id: its 16 bytes.
        hellos: in the order they came; one more with each connection.
        records: by sequence number, each once.
        sample: the newest one; None before the first.
        parts: the attachments of that sample.
    """

    def __init__(self, source: bytes) -> None:
        self.id = source
        self.hellos: List[wire.Hello] = []
        self.records: Dict[int, wire.AnyRecord] = {}
        self.sample: Optional[wire.Sample] = None
        self.parts: List[bytes] = []

    @property
    def closed(self) -> Optional[wire.SourceClosed]:
        """Its last record, if that has come."""
        for record in self.records.values():
            if isinstance(record, wire.SourceClosed):
                return record
        return None

    def series(self) -> List[SeriesTotals]:
        """Its series with its final totals, or else those of the newest sample."""
        metrics: List[wire.MetricSpec] = []
        series: List[wire.SeriesSpec] = []
        for _, record in sorted(self.records.items()):
            if isinstance(record, wire.Schema):
                metrics += record.metrics
                series += record.series
        last = self.closed or self.sample
        totals = wire.unpack_totals(last.totals) if last is not None else ()
        found = []
        start = 0
        for one in series:
            spec = metrics[one.metric]
            stop = start + wire.slots(spec)
            if stop > len(totals):
                break
            labels = dict(zip(spec.labels, one.values))
            found.append(SeriesTotals(self.id, spec, labels, totals[start:stop]))
            start = stop
        return found


class Listener:
    """Listens like an exporter, in a thread of its own; a context manager.

    Args:
        port: 0 takes a free one.
        watched: whether somebody seems to look at every run, from its welcome on.
        protocol: the version that it speaks in a welcome.

    Attributes:
        endpoint: the value for ``EPISIGHT_ENDPOINT``.
        complaints: what a real exporter would have rejected, as text.
        duplicates: how many records came again.
    """

    def __init__(
        self, port: int = 0, *, watched: bool = False, protocol: int = wire.PROTOCOL
    ) -> None:
        self.complaints: List[str] = []
        self.duplicates = 0
        self._protocol = protocol
        self._watched = watched
        self._refusal: Optional[wire.Refused] = None
        self._silent = False
        self._withheld: Set[str] = set()
        # Guards all that follows; notified after every message.
        self._changed = threading.Condition()
        self._heard: List[Heard] = []
        self._records: List[wire.AnyRecord] = []
        self._sources: Dict[bytes, Source] = {}
        self._peers: Dict[bytes, Source] = {}
        self._owed: List[Tuple[bytes, wire.Ack]] = []
        self._commands = 0
        self._closing = False
        # Called by the thread, which alone uses the socket.
        self._orders: Deque[Callable[[], None]] = deque()
        self._wake_read, self._wake_write = socket.socketpair()
        self._context = zmq.Context()
        self._socket: Any = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 100)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        try:
            self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        except zmq.ZMQError:
            self._shut()
            raise
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(
            target=self._run, name="episight-listener", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self.endpoint.rsplit(":", 1)[1])

    def close(self) -> None:
        """Stop listening; what was heard stays. Closing again does nothing."""
        self._closing = True
        self._wake()
        self._thread.join(10)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    # --- what was heard ---------------------------------------------------------------

    def heard(self, kind: Kind = None) -> List[Heard]:
        """All messages in the order they came; ``kind`` as for :meth:`records`."""
        with self._changed:
            return [one for one in self._heard if _is(one.message, kind)]

    def records(self, kind: Kind = None) -> List[Any]:
        """The records of all sources in the order they came, each once.

        Args:
            kind: only these: a class such as ``wire.LogLine``, or its kind, "log".
        """
        with self._changed:
            return [record for record in self._records if _is(record, kind)]

    def episodes(self, mode: Optional[str] = None) -> List[wire.EpisodeEnded]:
        """The episodes that have ended, in the order their ends came."""
        ended: List[wire.EpisodeEnded] = self.records(wire.EpisodeEnded)
        return [episode for episode in ended if mode in (None, episode.mode)]

    def sources(self) -> List[Source]:
        """All sources that have said hello, in that order."""
        with self._changed:
            return list(self._sources.values())

    def sample(self) -> Optional[wire.Sample]:
        """The newest sample of the one source; None if none has come."""
        found = self.sources()
        if len(found) > 1:
            raise LookupError(f"{len(found)} sources: ask one of sources()")
        return found[0].sample if found else None

    def series(self, name: str, **labels: str) -> List[SeriesTotals]:
        """The series of a metric that have these labels, of every source.

        Args:
            name: without prefix and without ``_total``.
            labels: those that matter.
        """
        with self._changed:
            found = [one for each in self._sources.values() for one in each.series()]
        return [
            one
            for one in found
            if one.spec.name == name and labels.items() <= one.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of these series over all sources; 0 where there is none."""
        return sum(one.total for one in self.series(name, **labels))

    def wait_for(
        self, predicate: Callable[[], T], deadline: float = 10.0, what: str = ""
    ) -> T:
        """Wait until ``predicate()`` is true, and return what it returned.

        It is called after every message, and now and then.

        Raises:
            AssertionError: it was not true within ``deadline`` seconds.
        """
        end = time.monotonic() + deadline
        while True:
            with self._changed:
                seen = len(self._heard)
            found = predicate()  # not with the lock held: it may call a hook that waits
            if found:
                return found
            left = end - time.monotonic()
            if left <= 0:
                kinds = [_kind(one.message) for one in self.heard()]
                raise AssertionError(
                    f"{what or 'what was waited for'}: not within {deadline} s; "
                    f"heard {kinds[-50:]}; last: {found!r}"
                )
            with self._changed:
                if len(self._heard) == seen:
                    self._changed.wait(min(left, 0.05))

    # --- what it tells the sources ----------------------------------------------------

    def watch(self, on: bool = True) -> None:
        """From now on somebody looks at every run, or nobody does."""
        self._watched = on
        self.send(wire.encode(wire.Watch(on=on)))

    def command(
        self, name: str, when: str = "step", reason: str = "", by: str = "test"
    ) -> str:
        """Give a command to every source, and return its id."""
        self._commands += 1
        given = wire.Command(f"command-{self._commands}", name, when, reason, by)
        self.send(wire.encode(given))
        return given.id

    def refuse(self, sentence: str = "not here", reason: str = "test") -> None:
        """Refuse every source that says hello from now on, and all that are here."""
        self._refusal = wire.Refused(reason, sentence)
        self.send(wire.encode(self._refusal))
        self._order(self._forget)

    def accept(self) -> None:
        """Refuse no longer."""
        self._refusal = None

    def withhold(self, records: bool = True, samples: bool = True) -> None:
        """Keep what comes, but do not acknowledge it, until :meth:`release`."""
        wanted = {"records"} if records else set()
        self._withheld = wanted | {"samples"} if samples else wanted

    def release(self) -> None:
        """Acknowledge what was withheld, and whatever comes."""
        self._withheld = set()
        self._order(self._pay)

    def forget_debts(self) -> None:
        """What was withheld is never acknowledged, unless it comes again."""
        self._order(self._owed.clear)

    def fall_silent(self, silent: bool = True) -> None:
        """Receive, but answer nothing at all; hellos neither."""
        self._silent = silent

    def restart(self) -> None:
        """Behave like an exporter killed and started again with its journal.

        It knows no connection any more, owes no acknowledgement, and keeps the records.
        """
        self._order(self._forget)

    def send(self, data: bytes) -> None:
        """Send any bytes as a message to every source."""

        def send() -> None:
            for connection in self._peers:
                self._send(connection, data)

        self._order(send)

    # --- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        try:
            while not self._closing:
                ready = dict(poller.poll(1000))
                if self._wake_read.fileno() in ready:
                    self._wake_read.recv(4096)
                self._obey()
                if self._socket in ready:
                    self._receive()
        finally:
            self._shut()

    def _shut(self) -> None:
        self._socket.close()
        self._context.term()
        self._wake_read.close()
        self._wake_write.close()

    def _order(self, order: Callable[[], object]) -> None:
        self._orders.append(lambda: self._locked(order))
        self._wake()

    def _obey(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def _locked(self, order: Callable[[], object]) -> None:
        with self._changed:
            order()
            self._changed.notify_all()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:  # closed
            pass

    def _receive(self) -> None:
        for _ in range(200):
            try:
                connection, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.ZMQError:
                return
            self._obey()  # what was ordered before this was sent comes before it
            with self._changed:
                self._handle(connection, parts)
                self._changed.notify_all()

    def _handle(self, connection: bytes, parts: List[bytes]) -> None:
        try:
            message = wire.decode_from_source(parts[0] if parts else b"")
        except wire.WireError as error:
            self.complaints.append(f"{error.reason}: {error}")
            return
        self._heard.append(Heard(connection, message, parts[1:], time.monotonic()))
        if self._silent:
            return
        source = self._peers.get(connection)
        if isinstance(message, wire.Hello):
            self._greet(connection, message)
        elif source is None:
            self._tell(connection, wire.Who())
        elif isinstance(message, wire.Records):
            self._keep(connection, source, message, parts[1:])
        elif isinstance(message, wire.Sample):
            self._show(connection, source, message, parts[1:])

    def _greet(self, connection: bytes, hello: wire.Hello) -> None:
        if self._refusal is not None:
            self._tell(connection, self._refusal)
            return
        source = self._sources.setdefault(hello.source, Source(hello.source))
        source.hellos.append(hello)
        self._peers[connection] = source
        self._tell(
            connection,
            wire.Welcome(
                protocol=self._protocol,
                time=time.time(),
                version="test",
                run=hello.run,
                url=f"http://127.0.0.1/runs/{hello.run}",
                watched=self._watched,
            ),
        )

    def _keep(
        self,
        connection: bytes,
        source: Source,
        message: wire.Records,
        parts: List[bytes],
    ) -> None:
        if len(parts) != len(message.seqs):
            self.complaints.append("not as many records as sequence numbers")
        for seq, data in zip(message.seqs, parts):
            try:
                record = wire.decode_record(data)
            except wire.WireError as error:
                self.complaints.append(f"{error.reason}: {error}")
                continue
            if record.source != source.id or record.seq != seq:
                self.complaints.append("a record of another source or number")
            elif seq in source.records:
                self.duplicates += 1
            else:
                source.records[seq] = record
                self._records.append(record)
        owed = wire.Ack(records=wire.ranges(message.seqs))
        self._acknowledge(connection, owed, "records")

    def _show(
        self,
        connection: bytes,
        source: Source,
        sample: wire.Sample,
        parts: List[bytes],
    ) -> None:
        if source.sample is None or sample.number > source.sample.number:
            source.sample, source.parts = sample, parts
        self._acknowledge(connection, wire.Ack(sample=sample.number), "samples")

    def _acknowledge(self, connection: bytes, owed: wire.Ack, what: str) -> None:
        if what in self._withheld:
            self._owed.append((connection, owed))
        else:
            self._tell(connection, owed)

    def _pay(self) -> None:
        owed, self._owed = self._owed, []
        for connection, ack in owed:
            self._tell(connection, ack)

    def _forget(self) -> None:
        self._peers.clear()
        self._owed.clear()

    def _tell(self, connection: bytes, message: wire.FromExporter) -> None:
        self._send(connection, wire.encode(message))

    def _send(self, connection: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([connection, data], zmq.NOBLOCK)
        except zmq.ZMQError:  # it is gone
            pass


def _kind(message: Any) -> Any:
    return message.__struct_config__.tag


def _is(message: Any, kind: Kind) -> bool:
    if kind is None:
        return True
    return (
        _kind(message) == kind if isinstance(kind, str) else isinstance(message, kind)
    )
