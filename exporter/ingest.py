"""The exporter's side of the socket: who is there, what they send, what they are told.

One thread owns the ROUTER socket and never leaves its poll for long. Records go to the
inbox and are acknowledged when the writer says that they are committed; of samples only
the newest is kept. Anything that cannot be read is counted with its reason; the sender
of it is answered or dropped, everybody else is unaffected.
"""

import errno
import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import zmq

from experiment_hooks import wire
from exporter import checks
from exporter.complaints import Complaints
from exporter.inbox import OFFSET_WINDOW, Arrival, Counts, Inbox, Newest, Peer, Refusal
from exporter.keys import Keyring
from exporter.verdict import Link

logger = logging.getLogger("exporter")

TICK = 1.0
SILENT = 2.5
"""Seconds after which a silent connection is probed."""
ANSWERED_EACH = wire.CREDIT // 2
"""An answer costs as much as a sample does, so one answer is for so many samples."""
BUSY = 2000
"""Messages a second from which on they are gathered for a moment, and read together:
each waking of the thread costs as much as several messages."""
GATHERED = 0.002
AT_ONCE = 500
"""So many messages are read before anybody else is heard."""

# A peer that vanished without a word is noticed after some 20 s. Not by ZeroMQ's
# heartbeat: where a connection ends while so much of it waits that no more is read, its
# timer aborts the process (libzmq 4.3.5, "Assertion failed: !_io_error").
NOTICED_BY_THE_KERNEL = (
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 5),
    (zmq.TCP_KEEPALIVE_INTVL, 5),
    (zmq.TCP_KEEPALIVE_CNT, 2),
    (zmq.TCP_MAXRT, 15000),
)
_AT_ONCE = int(zmq.NOBLOCK)
_MORE = _AT_ONCE | int(zmq.SNDMORE)
_FAILED_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Ingest(threading.Thread):
    """The thread that owns the ROUTER socket.

    Args:
        host: the address to bind.
        port: 0 takes a free one; see :attr:`address`.
        inbox: where records and samples go.
        place: gives the shown id of the run that a hello belongs to.
        on_sample: called with each sample, for what is shown and not committed.
        page: the address of a run's page.
        keyring: whose keys may connect; None: whoever can reach the port.
        standing: gives the command that a source of a run is told with its welcome.
        clock: Unix seconds.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(  # noqa: PLR0913 (its surroundings, once)
        self,
        host: str,
        port: int,
        *,
        inbox: Inbox,
        place: Callable[[wire.Hello], str],
        on_sample: Callable[[str, bytes, Newest], None],
        page: Callable[[str], str],
        version: str,
        keyring: Keyring | None = None,
        standing: Callable[[str, wire.Hello], wire.Command | None] = (
            lambda run, hello: None
        ),
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name="ingest", daemon=True)
        self.counts = Counts()
        self.refusals: deque[Refusal] = deque(maxlen=20)
        self.links: dict[bytes, Link] = {}
        self._inbox = inbox
        self._place = place
        self._on_sample = on_sample
        self._page = page
        self._version = version
        self._standing = standing
        self._clock = clock
        self._peers: dict[bytes, Peer] = {}
        self._of_source: dict[bytes, Peer] = {}
        # Filled by other threads, emptied by this one after a byte on the wake socket.
        self._acks: deque[list[tuple[Peer, int]]] = deque()
        self._orders: deque[Callable[[], None]] = deque()
        self._watched: frozenset[str] = frozenset()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._closing = False
        self._deaf = False
        self._complaints = Complaints(logger)
        self._zmq = zmq.Context()
        self._zmq.set(zmq.MAX_SOCKETS, 4096)
        self._socket = self._zmq.socket(zmq.ROUTER)
        # Whose key a source's hello came with; others cannot speak for it.
        self._keys_of: dict[bytes, str] = {}
        self._authenticator = keyring.guard(self._socket) if keyring else None
        self._failures = self._socket.get_monitor_socket(_FAILED_HANDSHAKES)
        self.address = self._bind(host, port)

    def _bind(self, host: str, port: int) -> str:
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.LINGER, 200),
            (zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES),
            (zmq.RCVHWM, 3000),  # more than a source has under way
            (zmq.HANDSHAKE_IVL, 10000),
            (zmq.BACKLOG, 4096),
            *NOTICED_BY_THE_KERNEL,
        ):
            self._socket.setsockopt(option, value)
        try:
            return bound(self._socket, host, port)
        except OSError:
            self._shut()
            raise

    # --- called by other threads -----------------------------------------------------

    def acknowledge(self, committed: list[tuple[Peer, int]]) -> None:
        """The writer has committed these records."""
        self._acks.append(committed)
        self._wake()

    def acknowledge_sample(self, peer: Peer, number: int) -> None:
        """A sample that somebody delivered from disk is committed, or of no use."""
        self._order(lambda: self._send(peer.identity, wire.Ack(sample=number)))

    def watch(self, runs: Iterable[str]) -> None:
        """These runs, and no others, are looked at now."""
        wanted = frozenset(runs)
        self._order(lambda: self._set_watched(wanted))

    def command(
        self, run: str, sources: Iterable[bytes] | None, command: wire.Command
    ) -> None:
        """Give a command to those of these sources of a run that are connected.

        None: to all of its sources.
        """
        self._order(lambda: self._give(run, sources, command))

    def forget(self, sources: list[bytes]) -> None:
        """Nobody will ask any more for the links of these, where they are not here."""
        self._order(lambda: self._forget(sources))

    @property
    def healthy(self) -> bool:
        """Whether sources can connect."""
        guard = self._authenticator
        return self.is_alive() and (guard is None or guard.is_alive())

    def is_gone(self, source: bytes) -> bool:
        """Whether the connection of a source is known to be gone; from any thread."""
        link = self.links.get(source)
        return link is not None and link.gone_since is not None

    def stop_receiving(self) -> None:
        """Take nothing more from sources; what is committed is still acknowledged."""
        self._deaf = True
        self._wake()

    def close(self, timeout: float = 5.0) -> None:
        """Answer what is committed, close, end the thread; again: nothing."""
        if not self._closing:
            self._closing = True
            self._wake()
        if self.is_alive():
            self.join(timeout)
        elif not self._socket.closed:
            self._shut()

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:  # full: it will wake; closed: nothing to wake
            pass

    # --- the thread -------------------------------------------------------------------

    def run(self) -> None:
        """Receive, answer, probe, until closed."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        poller.register(self._failures, zmq.POLLIN)
        next_tick = time.monotonic()
        received, busy = 0, False
        try:
            while not self._closing:
                if self._deaf:
                    poller.modify(self._socket, 0)
                wait = max(0.0, next_tick - time.monotonic())
                ready = dict(poller.poll(int(wait * 1000) + 1))
                if self._socket in ready and not self._deaf:
                    received += self._receive()
                if self._failures in ready:
                    self._note_failures()
                if self._wake_read.fileno() in ready:
                    self._obey()
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + TICK
                    busy, received = received > BUSY, 0
                    self._probe()
                if busy:
                    time.sleep(GATHERED)
            self._obey()
        except Exception:
            logger.exception("ingest failed")
            raise
        finally:
            self._shut()

    def _shut(self) -> None:
        self._socket.disable_monitor()
        self._failures.close(linger=0)
        self._socket.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._zmq.term()
        self._wake_read.close()
        self._wake_write.close()

    def _receive(self) -> int:
        """Take what has come, but not for long; how many messages there were."""
        now = self._clock()
        for count in range(AT_ONCE):
            try:
                # The first part tells whose key the connection has.
                first = self._socket.recv(zmq.NOBLOCK, copy=self._authenticator is None)
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return count
            except zmq.ZMQError as error:
                self._reject("socket", "our own socket", str(error))
                return count
            identity, key = _who_from(first)
            try:
                self._dispatch(identity, parts, now, key)
            except wire.WireError as error:
                self._reject(error.reason, self._who(identity), str(error))
            except Exception as error:
                self._reject("internal", self._who(identity), repr(error))
        return AT_ONCE

    def _note_failures(self) -> None:
        """Connections that could not be made: wrong keys, or another protocol."""
        while self._failures.poll(0):
            frames = self._failures.recv_multipart()
            event = int.from_bytes(frames[0][:2], sys.byteorder)
            value = int.from_bytes(frames[0][2:6], sys.byteorder)
            if (event, value) == (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, errno.EPIPE):
                continue  # it left by itself: a probe that asks whether we listen
            reason = "keys" if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else "handshake"
            # ZeroMQ does not say from where; see Keyring for whose key it was.
            detail = f"a connection to {frames[1].decode()} could not be made"
            self._reject(reason, "a stranger", detail)

    def _dispatch(
        self, identity: bytes, parts: list[bytes], now: float, key: str = ""
    ) -> None:
        if not parts or len(parts) > wire.MAX_PARTS:
            raise wire.MalformedError(f"a message of {len(parts)} parts")
        peer = self._peers.get(identity)
        try:
            message = wire.decode_from_source(parts[0])
        except wire.WireError:
            if peer is None and self._refuse_other_protocol(identity, parts[0], now):
                return
            raise
        checks.check_head(message)
        if isinstance(message, wire.Hello):
            self._greet(identity, message, now, key)
            return
        if peer is None:
            self._send(identity, wire.Who())
            return
        peer.heard(now, message.sent, message.announced)
        if isinstance(message, wire.Records):
            self._take_records(peer, message, parts[1:], now)
        elif isinstance(message, wire.Sample):
            self._take_sample(peer, message, parts[1:], now)
        else:
            self.counts.samples["heartbeat"] += 1

    def _refuse_other_protocol(self, identity: bytes, head: bytes, now: float) -> bool:
        """A hello of another version may have another shape: see only its number."""
        value = wire.decode_plain(head)
        if not isinstance(value, dict) or value.get("kind") != "hello":
            return False
        number = value.get("protocol")
        if number == wire.PROTOCOL:
            return False
        self._refuse_protocol(identity, str(value.get("host", "")), number, now)
        return True

    def _refuse_protocol(
        self, identity: bytes, who: str, number: object, now: float
    ) -> None:
        sentence = (
            f"these hooks speak protocol {number!s:.10}, this exporter "
            f"{self._version} speaks {wire.PROTOCOL}: install the same version of "
            "episight on both sides"
        )
        self._refuse(identity, who, wire.Refused("protocol", sentence), now)

    def _refuse(
        self, identity: bytes, who: str, refused: wire.Refused, now: float
    ) -> None:
        who = who[:100] or "unknown host"
        self._reject(refused.reason, who, refused.sentence)
        self.refusals.append(Refusal(now, who, refused.sentence))
        self._send(identity, refused)

    def _greet(self, identity: bytes, hello: wire.Hello, now: float, key: str) -> None:
        if hello.protocol != wire.PROTOCOL:
            self._refuse_protocol(identity, hello.host, hello.protocol, now)
            return
        if not checks.is_run_id(hello.run):
            sentence = (
                f"{hello.run[:50]!r} cannot be a run's id: "
                "use letters, digits and ._:@+=- (at most 128)"
            )
            self._refuse(identity, hello.host, wire.Refused("run_id", sentence), now)
            return
        if not self._may_speak(hello, key):
            sentence = "another key has spoken for this source before"
            self._refuse(identity, hello.host, wire.Refused("keys", sentence), now)
            return
        run = self._place_of(hello)
        link = self._link_of(hello, now)
        link.announced = max(link.announced, hello.announced)
        here = self._peers.get(identity)
        if here is not None and here.hello.source != hello.source:
            self._gone(identity)  # this connection spoke for another source before
        peer = Peer(identity, hello, run, link, offset=now - hello.sent)
        peer.window_ends = now + OFFSET_WINDOW
        self._peers[identity] = peer
        if not hello.replay:
            before = self._of_source.get(hello.source)
            if before is not None and before.identity != identity:
                self._peers.pop(before.identity, None)  # an older connection of it
            self._of_source[hello.source] = peer
        self._send(
            identity,
            wire.Welcome(
                protocol=wire.PROTOCOL,
                time=now,
                version=self._version,
                run=run,
                url=self._page(run),
                watched=run in self._watched,
            ),
        )
        stands = None if hello.replay else self._standing(run, hello)
        if stands is not None:
            self._send(identity, stands)

    def _may_speak(self, hello: wire.Hello, key: str) -> bool:
        """Whether this key may speak for the source; the first that does keeps it.

        Who delivers for a source does not get it by that.
        """
        if not key:
            return True
        known = self._keys_of.get(hello.source)
        if known is None and not hello.replay:
            self._keys_of[hello.source] = key
        return known in (None, key)

    def _link_of(self, hello: wire.Hello, now: float) -> Link:
        if hello.replay:  # who delivers says nothing of whether the source lives
            return Link(now)
        link = self.links.setdefault(hello.source, Link(now))
        link.heard, link.gone_since = now, None
        return link

    def _place_of(self, hello: wire.Hello) -> str:
        if hello.resume and hello.source not in self._of_source:
            # Whoever had the run may have been killed a moment ago: ask now.
            for peer in list(self._peers.values()):
                if hello.run in (peer.run, peer.hello.run):
                    self._send(peer.identity, wire.Ping())
        return self._place(hello)

    def _take_records(
        self, peer: Peer, message: wire.Records, parts: list[bytes], now: float
    ) -> None:
        if len(parts) != len(message.seqs):
            raise wire.MalformedError("as many sequence numbers as records, please")
        if self._inbox.full:
            # Not acknowledged: the source keeps them and sends them again.
            self.counts.dropped["records_deferred"] += len(parts)
            return
        useless: list[tuple[Peer, int]] = []
        for seq, data in zip(message.seqs, parts, strict=True):
            try:
                record = wire.decode_record(data)
                if record.source != peer.hello.source or record.seq != seq:
                    raise wire.MalformedError("a record of another source or number")
                checks.check_record(record)
            except wire.WireError as error:
                # It will never get better: acknowledged, so that it is not sent again.
                self._reject(error.reason, self._who(peer.identity), str(error))
                useless.append((peer, seq))
                continue
            self.counts.records[str(record.__struct_config__.tag)] += 1
            self._inbox.put(Arrival(peer, seq, data, record, now))
        if useless:
            self._acknowledge(useless)

    def _take_sample(
        self, peer: Peer, sample: wire.Sample, parts: list[bytes], now: float
    ) -> None:
        checks.check_sample(sample)
        self.counts.samples["sample"] += 1
        if peer.hello.replay:
            at = min(now, sample.sent + peer.skew)
            newest = Newest(sample, parts, at, now, peer)
            self._inbox.put_sample(peer.hello.source, newest)
            return
        peer.sampled = max(peer.sampled, sample.number)
        if not peer.answered or sample.number - peer.answered >= ANSWERED_EACH:
            self._answer(peer)
        newest = Newest(sample, parts, now, now)
        if self._inbox.put_sample(peer.hello.source, newest):
            self.counts.dropped["replaced"] += 1
        if sample.moments or sample.streams:
            self.counts.seen["state"] += len(sample.moments)
            self.counts.seen["image"] += len(parts)
            self.counts.seen["stream"] += len(sample.streams)
            self._on_sample(peer.run, peer.hello.source, newest)

    def _obey(self) -> None:
        try:
            while len(self._wake_read.recv(4096)) == 4096:
                pass
        except OSError:
            pass
        while self._orders:
            try:
                self._orders.popleft()()
            except Exception as error:
                self._reject("internal", "an order of ours", repr(error))
        while self._acks:
            self._acknowledge(self._acks.popleft())

    def _acknowledge(self, committed: list[tuple[Peer, int]]) -> None:
        by_peer: dict[bytes, list[int]] = {}
        last: Peer | None = None
        for peer, seq in committed:
            if peer is not last:  # many come from one, one after the other
                last, replays = peer, peer.hello.replay
                # The source may have come back on another connection meanwhile.
                back = None if replays else self._of_source.get(peer.hello.source)
                seqs = by_peer.setdefault((back or peer).identity, [])
            seqs.append(seq)
        for identity, seqs in by_peer.items():
            self._send(identity, wire.Ack(records=wire.ranges(seqs)))

    def _set_watched(self, wanted: frozenset[str]) -> None:
        changed, self._watched = wanted ^ self._watched, wanted
        for peer in list(self._peers.values()):
            if peer.run in changed:
                self._send(peer.identity, wire.Watch(on=peer.run in wanted))

    def _give(
        self, run: str, sources: Iterable[bytes] | None, command: wire.Command
    ) -> None:
        for source in [*self._of_source] if sources is None else sources:
            peer = self._of_source.get(source)
            if peer is not None and peer.run == run:
                self._send(peer.identity, command)

    def _forget(self, sources: list[bytes]) -> None:
        for source in sources:
            if source not in self._of_source:
                self.links.pop(source, None)
                self._keys_of.pop(source, None)

    def _probe(self) -> None:
        """Find out which silent connections are gone: nothing can be sent there."""
        now = self._clock()
        for link in list(self.links.values()):
            link.clock_is(now)
        for peer in list(self._peers.values()):
            if now - peer.link.heard > SILENT and now - peer.probed > SILENT:
                peer.probed = now
                if peer.sampled > peer.answered:
                    self._answer(peer)
                else:
                    self._send(peer.identity, wire.Ping())

    def _answer(self, peer: Peer) -> None:
        """All its samples so far have come."""
        peer.answered = peer.sampled
        self._send(peer.identity, wire.Ack(sample=peer.sampled))

    def _send(self, identity: bytes, message: wire.FromExporter) -> None:
        data = wire.encode(message)
        try:
            # What send_multipart() does, for less.
            self._socket.send(identity, _MORE)
            self._socket.send(data, _AT_ONCE)
        except zmq.Again:  # it does not read: it will ask, or send again
            self.counts.dropped["slow_source"] += 1
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._gone(identity)
            else:
                self._reject("socket", self._who(identity), str(error))

    def _gone(self, identity: bytes) -> None:
        peer = self._peers.pop(identity, None)
        if peer is None:
            return
        if self._of_source.get(peer.hello.source) is peer:
            del self._of_source[peer.hello.source]
            peer.link.gone_since = peer.link.gone_since or self._clock()

    # --- saying what went wrong -------------------------------------------------------

    def _who(self, identity: bytes) -> str:
        peer = self._peers.get(identity)
        if peer is None:
            return "an unknown connection"
        return f"{peer.hello.host[:100]!r}, process {peer.hello.pid}, run {peer.run!r}"

    def _reject(self, reason: str, who: str, detail: str) -> None:
        self.counts.rejected[reason] += 1
        self._complaints.say(f"rejected: {reason}", who, detail)


def bound(socket_: zmq.Socket[bytes], host: str, port: int) -> str:
    """Bind a socket, to a free port for 0; the address. Raises OSError."""
    if ":" in host:
        socket_.setsockopt(zmq.IPV6, 1)
        host = f"[{host}]"
    try:
        socket_.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        raise OSError(error.errno, str(error)) from error
    return socket_.getsockopt_string(zmq.LAST_ENDPOINT)


def _who_from(first: bytes | zmq.Frame) -> tuple[bytes, str]:
    """A connection's identity, and whose key it has: empty where there are no keys."""
    if isinstance(first, bytes):
        return first, ""
    return first.bytes, str(first.get("User-Id"))
