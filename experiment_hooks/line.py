"""The hooks' side of the socket: hello, records until acknowledged, samples.

One DEALER socket and its context, made in :meth:`Line.pump` by whoever pumps: the
sender thread, which never leaves its poll for long, or, with ``thread=False``, the hook
calls themselves. A :class:`Line` never raises into its caller and never waits longer
than it is told. Nothing but hello is sent before the welcome, and the socket takes
messages only while it is connected, so nothing piles up in it.
"""

import logging
import socket
import time
from typing import Any, Callable, List, Optional, Tuple

import msgspec
import zmq

from experiment_hooks import wire
from experiment_hooks.attempts import KEY_REFUSED, Attempts
from experiment_hooks.delivery import Delivery
from experiment_hooks.dial import Dialer, Place, is_loopback
from experiment_hooks.outbox import by_rank
from experiment_hooks.overflow import Overflow
from experiment_hooks.recorder import Recorder
from experiment_hooks.spool import Spool
from experiment_hooks.window import WINDOW_BYTES, Window

logger = logging.getLogger("experiment_hooks")

TICK = 1.0
WATCHED_TICK = 0.1
HELLO_AGAIN = 2.0
ACK_TIMEOUT = 10.0
LOOK_AGAIN = 0.02
SAVED_A_SECOND = 8 * 1024 * 1024
"""Bytes of records that a disk takes in a second, at a guess."""
PATIENCE = 3.0
"""Seconds without an answer after which it is said, once, that nobody listens."""

Hello = Callable[[float, int], wire.Hello]


class Line:
    """What is said on the socket, and in which order; no thread of its own.

    Args:
        recorder: where records and samples come from.
        dialer: makes sockets to the exporter.
        hello: makes the hello for (time sent, newest sequence number).
        on_welcome: called with each welcome.
        on_command: called with each command.
        work: called when what is to be said of commands has been sent: does them.
        spool: where records go that nobody takes; None: nowhere.
    """

    def __init__(
        self,
        recorder: Recorder,
        dialer: Dialer,
        hello: Hello,
        on_welcome: Callable[[wire.Welcome], None],
        on_command: Callable[[wire.Command], None],
        work: Callable[[], None],
        spool: Optional[Spool] = None,
    ) -> None:
        self._recorder = recorder
        self._dialer = dialer
        self._endpoint = dialer.endpoint
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_command = on_command
        self._work = work
        self._delivery: Optional[Delivery] = None
        self._overflow: Optional[Overflow] = None
        self._context: Optional[Any] = None
        self._socket: Optional[Any] = None
        self._attempts: Optional[Attempts] = None
        self._place: Optional[Place] = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._woken = False
        self._window = Window()
        self._hello_at = 0.0
        self._next_tick = 0.0
        self._next_urgent = 0.0
        self._connect_at = 0.0
        self._number = 0
        self._acked_sample = 0
        self._pumped_at = 0.0
        self._credited_at = 0.0
        self._opened_at = time.monotonic()
        if spool is not None:
            self._overflow = Overflow(recorder, spool, hello, self._opened_at)
        self._said_nobody = False
        self._local = False
        self._behind = False  # greeted again, and no sample was sent since
        self.greeted = False
        self.refused = False
        self.reached = False  # a connection stood at least once, and took a message
        self.answered = False  # a welcome came at least once
        self.hurried = False  # the exit may not wait for anybody
        self._saving = 0  # records that are left at the end, while they go to disk

    # --- called by any thread -----------------------------------------------------

    def wake(self) -> None:
        """Something is to be sent; costs a system call only if it was asleep."""
        if not self._woken:
            self._woken = True
            try:
                self._wake_write.send(b"\0")
            except OSError:  # full: it will wake; closed: nothing to wake
                pass

    # --- called by the one that pumps ---------------------------------------------

    def pump(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for something to do, and do what there is."""
        now = self._pumped_at = time.monotonic()
        if self._socket is None:
            self._connect(now)
        self._wait(max(0.0, min(timeout, self._next_tick - now)))
        if self._socket is not None:
            self._talk()
        now = time.monotonic()
        if now >= self._next_tick:
            self._tick(now)
        elif self._behind and self.greeted:
            self._send_newest(now)

    def _talk(self) -> None:
        if self._turned_away():
            return
        self._receive()
        if not self.greeted:
            self._greet(time.monotonic())
        else:
            self._send_records(time.monotonic())
        self._work()
        if self._delivery is not None and self.greeted:
            self._delivery.pump()

    @property
    def idle(self) -> bool:
        """Whether every record of this source has been acknowledged."""
        if self._delivery is not None and self._delivery.own_left:
            return False
        return not self._window.records and not self._recorder.unsent

    @property
    def unsaved(self) -> int:
        """How many records of this source could be on disk, and are not yet."""
        if self._overflow is None:
            return 0
        return self._saving or self._left

    @property
    def saving_takes(self) -> float:
        """Seconds, about, to write what is left to disk."""
        if self._overflow is None:
            return 0.0
        return self._recorder.held / SAVED_A_SECOND

    def due(self) -> bool:
        """Whether a line without a thread wants to be pumped."""
        now = time.monotonic()
        if now >= self._next_tick:
            return True
        if self.greeted and self._recorder.unsent and self._window.room:
            return True
        # Waiting for somebody to answer: looked for now and then, not at every step.
        waiting = not self.greeted or bool(self._window.records)
        return waiting and now - self._pumped_at > LOOK_AGAIN

    def shut(self) -> None:
        """Close the socket and its context; what is not acknowledged is not sent."""
        if self._delivery is not None:
            self._delivery.close()
            self._delivery = None
        if self._socket is not None:
            self._stop_watching()
            # What was sent last is an answer that nobody waits for: no lingering.
            self._socket.close(linger=0)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
        self._wake_read.close()
        self._wake_write.close()

    def failed(self, error: Exception) -> None:
        """Count a failure of our own, and log it once."""
        kind = type(error).__name__
        self._recorder.drop("internal_error", f"sender: {kind}: {error}")

    def say_nobody(self, kept: str = "") -> None:
        """Tell once that nobody has answered, and what becomes of the records."""
        if self._said_nobody or self.answered or self.refused:
            return
        self._said_nobody = True
        tried = self._attempts
        if tried is not None and tried.accepted and tried.turned_away:
            what = f"what listens at {self._endpoint} does not talk to us"
            advice = "a wrong port, or wrong keys? `episight check` tells"
        else:
            what = f"nobody is listening at {self._endpoint}"
            advice = "start an exporter with `python -m exporter`"
        logger.warning(
            "episight: %s; the experiment goes on unwatched (%s)%s", what, advice, kept
        )

    def hang_up(self) -> None:
        """The end: what nobody took goes to disk, and it is told where that is."""
        left = self._left
        kept = False
        if self._overflow is not None:
            self._saving = left
            self._take_back()
            if self._delivery is not None:
                self._delivery.close()
            kept = self._overflow.move_all()
            self._saving = 0
        if not left:
            return
        where = self._kept_where() if kept else "; what they say is lost"
        if not self._said_nobody:
            self.say_nobody(where if kept else "")
        if self.answered or not kept:
            logger.warning(
                "episight: the exporter at %s did not acknowledge the last %d records"
                " of this process%s",
                self._endpoint,
                left,
                where,
            )

    @property
    def _left(self) -> int:
        return len(self._window.records) + self._recorder.unsent

    def _kept_where(self) -> str:
        """Where records go that nobody takes, as far as that is possible."""
        if self._overflow is None or self._recorder.dropped.get("spool"):
            return ""
        return f"; its records are kept in {self._overflow.spool.folder.path}"

    # --- inside -------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        if now < self._connect_at:
            return
        self._connect_at = now + TICK
        place = self._dialer.find()
        if place is None:
            return
        sock = None
        try:
            self._context = self._context or zmq.Context(io_threads=1)
            sock = self._dialer.socket(self._context, place)
            self._attempts = Attempts(sock)
            self._local = is_loopback(place.address)
            sock.connect(place.address)
        # A ValueError: of keys, or an address of no ASCII.
        except (zmq.ZMQError, ValueError) as error:
            if sock is not None:
                self._stop_watching()
                sock.close(linger=0)
            self._cannot_connect(place.address, error)
            return
        self._socket, self._place = sock, place
        if self._overflow is not None:
            spool = self._overflow.spool
            self._delivery = Delivery(
                spool.folder,
                lambda: self._another(place),
                spool,
                # Where there is no thread, hook calls would wait for others' files.
                foreign=not self._recorder.inline,
            )

    def _another(self, place: Place) -> Optional[Any]:
        """One more connection, for what is delivered from disk."""
        try:
            assert self._context is not None
            sock = self._dialer.socket(self._context, place)
            sock.connect(place.address)
        except (zmq.ZMQError, ValueError) as error:
            self._cannot_connect(place.address, error)
            return None
        return sock

    def _cannot_connect(self, address: str, error: Exception) -> None:
        self._recorder.drop("endpoint", f"cannot connect to {address!r}: {error}")

    def _turned_away(self) -> bool:
        """Look how connecting goes; whether this socket will not try again."""
        assert self._attempts is not None
        self._attempts.look()
        reason = self._attempts.reason
        if not reason:
            return False
        if reason == KEY_REFUSED:
            sentence = "it does not know the key of EPISIGHT_KEY_FILE"
        elif self._dialer.encrypts:
            sentence = "it speaks without keys: unset EPISIGHT_SERVER_KEY and _KEY_FILE"
        else:
            sentence = "it wants keys: set EPISIGHT_SERVER_KEY and EPISIGHT_KEY_FILE"
        self._was_refused(wire.Refused("keys", sentence))
        # ZeroMQ does not try again after that; it may be let in later.
        self._dial_again(HELLO_AGAIN)
        return True

    def _dial_again(self, seconds: float) -> None:
        """Another socket, in so many seconds."""
        assert self._socket is not None
        self._stop_watching()
        self._socket.close(linger=0)
        self._socket = None
        if self._delivery is not None:
            self._delivery.close()
            self._delivery = None
        self._ask_anew()
        self._connect_at = time.monotonic() + seconds

    def _look_for_another_place(self) -> None:
        """An exporter that was started anew has written its new address."""
        moved = self._socket is not None and not self.greeted and self._dialer.in_file
        if moved and self._dialer.find() not in (None, self._place):
            self._dial_again(0.0)

    @property
    def hopeful(self) -> bool:
        """Whether an answer may come soon.

        Somebody accepted the connection, or nobody has turned it away yet on this very
        machine: then who listens is only busy. A tunnel without an exporter behind it
        accepts too, and hangs up at once: that is no hope.
        """
        tried = self._attempts
        if tried is None or tried.turned_away:
            return False
        return tried.accepted or self._local

    def _stop_watching(self) -> None:
        if self._attempts is not None:
            self._attempts.close()

    def _wait(self, timeout: float) -> None:
        polled: List[Tuple[Any, int]] = [(self._wake_read.fileno(), zmq.POLLIN)]
        if self._socket is not None:
            waits = self.greeted or self._hello_sent
            polled.append((self._socket, zmq.POLLIN if waits else _IN_OR_OUT))
        if self._delivery is not None and self._delivery.socket is not None:
            polled.append((self._delivery.socket, zmq.POLLIN))
        if self._woken:
            timeout = 0.0
        zmq.zmq_poll(polled, int(timeout * 1000 + 0.999))
        if self._woken:
            self._woken = False
            try:
                while len(self._wake_read.recv(64)) == 64:
                    pass
            except OSError:
                pass

    @property
    def _hello_sent(self) -> bool:
        return time.monotonic() - self._hello_at < HELLO_AGAIN

    def _receive(self) -> None:
        assert self._socket is not None
        for _ in range(100):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.ZMQError:
                return
            try:
                self._handle(wire.decode_from_exporter(parts[0]))
            except wire.WireError as error:
                self._recorder.drop(error.reason, f"from the exporter: {error}")

    def _handle(self, message: wire.FromExporter) -> None:
        if isinstance(message, wire.Ack):
            self._acknowledged(message)
        elif isinstance(message, wire.Welcome):
            self._welcomed(message)
        elif isinstance(message, wire.Who):
            self._ask_anew()
        elif isinstance(message, wire.Watch):
            self._watch(message.on)
        elif isinstance(message, wire.Command):
            self._on_command(message)
        elif isinstance(message, wire.Refused):
            self._was_refused(message)

    def _welcomed(self, message: wire.Welcome) -> None:
        if message.protocol != wire.PROTOCOL:
            self._was_refused(
                wire.Refused(
                    "protocol",
                    f"the exporter speaks protocol {message.protocol}, these hooks "
                    f"{wire.PROTOCOL}: install one version of episight on both sides",
                )
            )
            return
        # Not at the next tick: who was not heard for a while is seen again at once.
        self._behind = self.answered
        self.greeted = self.answered = True
        self.refused = False
        self._acked_sample = self._number
        if self._overflow is not None:
            self._overflow.spool.drop_totals()
        self._send_again(time.monotonic())
        self._watch(message.watched)
        self._on_welcome(message)

    def _ask_anew(self) -> None:
        """Say hello as soon as that is possible; nobody watches meanwhile."""
        self.greeted, self._hello_at = False, 0.0
        self._watch(False)

    def _was_refused(self, message: wire.Refused) -> None:
        self._ask_anew()
        # Asked again at leisure: the exporter may be replaced by one that fits.
        self._hello_at = time.monotonic() + 10 * HELLO_AGAIN
        if not self.refused:
            self.refused = True
            logger.warning(
                "episight: the exporter at %s refuses this run: %s; the experiment goes"
                " on unwatched",
                self._endpoint,
                message.sentence,
            )

    def _watch(self, on: bool) -> None:
        self._recorder.watch(on)
        if on:
            self._next_tick = min(self._next_tick, time.monotonic() + WATCHED_TICK)

    def _acknowledged(self, ack: wire.Ack) -> None:
        if ack.sample > self._acked_sample:
            self._acked_sample = min(ack.sample, self._number)
            self._credited_at = time.monotonic()
        released = self._window.acknowledge(ack.records)
        if released:
            self._recorder.released(released)

    def _greet(self, now: float) -> None:
        if self._hello_sent:
            return
        hello = wire.encode(self._hello(time.time(), self._recorder.seq))
        if self._send([hello]):
            self._hello_at = now
            self.reached = True

    def _send(self, parts: List[bytes]) -> bool:
        assert self._socket is not None
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError:  # not connected: a hello as soon as it is again
            self._ask_anew()
            return False
        return True

    def _send_urgent(self, now: float) -> None:
        """The sample that shows how an episode failed, before the record of its end.

        Ten times a second at most: some loops only fail.
        """
        if self._recorder.urgent and now >= self._next_urgent:
            self._next_urgent = now + WATCHED_TICK
            self._send_newest(now)

    def _send_records(self, now: float) -> None:
        # An exporter that has too much to do acknowledges some, and drops others.
        self._send_again(now - ACK_TIMEOUT)
        while self._window.room:
            found = self._recorder.take_records(500, WINDOW_BYTES // 4)
            if not found:
                return
            self._window.add(found, now)
            self._send_urgent(now)  # asked now: the record of its end may be among them
            if not self._send_batch(found):
                return

    def _send_again(self, before: float) -> None:
        """What was not sent since then and is not acknowledged, in the same order."""
        waiting = self._window.again(before, time.monotonic())
        for start in range(0, len(waiting), 500):
            if not self._send_batch(waiting[start : start + 500]):
                return

    def _send_batch(self, batch: List[Tuple[int, bytes]]) -> bool:
        head = wire.Records(
            seqs=tuple(seq for seq, _ in batch),
            sent=time.time(),
            announced=self._recorder.seq,
        )
        return self._send([wire.encode(head), *(data for _, data in batch)])

    def _tick(self, now: float) -> None:
        self._next_tick = now + (WATCHED_TICK if self._recorder.watched else TICK)
        if self.greeted:
            self._send_newest(now)
        self._look_for_another_place()
        self._notice_silence(now)
        if self._overflow is not None:
            self._spool(self._overflow, now)
        self._recorder.raise_flags()
        self._recorder.tell()

    def _spool(self, overflow: Overflow, now: float) -> None:
        overflow.spool.keep(now)
        if self.greeted:
            overflow.answered(now)
        if overflow.due(now):
            if not self.greeted:
                self._take_back()
            if overflow.move(now, self._number + 1):
                self._number += 1

    def _take_back(self) -> None:
        """What was sent and not acknowledged waits again, as what it was."""
        for rank, records in by_rank(self._window.in_order()).items():
            self._recorder.put_back(rank, records)
        self._window.clear()

    def _send_newest(self, now: float) -> None:
        unacknowledged = self._number - self._acked_sample
        if unacknowledged and now - self._credited_at > ACK_TIMEOUT:
            # Samples, or what answers them, are lost: another hello clears it up.
            self._ask_anew()
        elif unacknowledged < wire.CREDIT:
            self._credited_at = self._credited_at if unacknowledged else now
            self._send_sample()
        else:
            beat = wire.Heartbeat(sent=time.time(), announced=self._recorder.seq)
            self._send([wire.encode(beat)])

    def _send_sample(self) -> None:
        sample, parts = self._recorder.sample(self._number + 1, time.time())
        head = wire.encode(sample)
        if len(head) > wire.MAX_HEAD_BYTES:
            self._recorder.drop("too_large", f"a sample of {len(head)} bytes")
            bare = msgspec.structs.replace(sample, moments=(), streams={})
            head, parts = wire.encode(bare), []
        if self._send([head, *parts]):
            self._number += 1
            self._behind = False

    def _notice_silence(self, now: float) -> None:
        if now - self._opened_at > PATIENCE:
            self.say_nobody(self._kept_where())


_IN_OR_OUT = zmq.POLLIN | zmq.POLLOUT
