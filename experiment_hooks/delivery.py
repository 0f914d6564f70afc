"""Carries spool files to the exporter: what sources, this one or others, left on disk.

One file after another: claimed, said hello for, sent in small windows, and removed when
the exporter has committed all of it. Each on a connection of its own: what it delivers
is of another source, or of an earlier time, and an acknowledgement that comes late must
not be taken for one of the next file's. Never waits; whoever pumps a line pumps this
one too, and so does ``episight replay``.
"""

import logging
import os
import time
from collections import deque
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import msgspec
import zmq

from experiment_hooks import wire
from experiment_hooks.spool import TOUCH, Claim, Folder, Spool, touch

logger = logging.getLogger("experiment_hooks")

LOOK = 60.0
HELLO_AGAIN = 2.0
ACK_TIMEOUT = 10.0
SAMPLE_TRIES = 6
REFUSED_PAUSE = 600.0
WINDOW_RECORDS = 500
WINDOW_BYTES = 256 * 1024


class Delivery:
    """Delivers one file at a time.

    Args:
        folder: where files lie.
        connect: a connected DEALER socket, or None where none can be made.
        own: the spool of the source that this one belongs to; its files come first.
        foreign: whether to look for what others left behind.
        names: these files and no others, for who knows what is there.

    Attributes:
        socket: to be polled, None while there is nothing to deliver.
        files: how many files were delivered so far.
        records: how many records in them were not acknowledged to anybody before.
        refusal: why the exporter does not want them, or empty.
    """

    def __init__(
        self,
        folder: Folder,
        connect: Callable[[], Optional[Any]],
        own: Optional[Spool] = None,
        *,
        foreign: bool = True,
        names: Sequence[str] = (),
    ) -> None:
        self.socket: Optional[Any] = None
        self.files = 0
        self.records = 0
        self.refusal = ""
        self._folder = folder
        self._connect = connect
        self._own = own
        self._foreign = foreign
        self._claim: Optional[Claim] = None
        self._waiting: Deque[str] = deque(names)
        self._skipped: Set[str] = set()
        self._look_at = 0.0
        self._left: Deque[Tuple[int, bytes]] = deque()
        self._unacked: Dict[int, bytes] = {}
        self._sample = 0  # the number of the one that is to be acknowledged
        self._sample_tries = 0
        self._greeted = False
        self._hello_at = 0.0
        self._sent_at = 0.0
        self._touched = 0.0

    @property
    def busy(self) -> bool:
        """Whether a file is being delivered, or known to wait for it."""
        return self._claim is not None or bool(self._waiting)

    @property
    def own_left(self) -> bool:
        """Whether records of this very source are still on disk."""
        mine = self._claim is not None and self._claim.own
        return mine or (self._own is not None and self._own.count > 0)

    def pump(self) -> None:
        """Do what can be done now; a disk that fails costs the file at hand."""
        try:
            self._pump()
        except OSError as error:
            claim, self._claim = self._claim, None
            self._hang_up()
            path = claim.path if claim is not None else self._folder.path
            self._complain(path, error)
            self._skipped.add(os.path.basename(path))

    def _pump(self) -> None:
        now = time.monotonic()
        if self._claim is None and not self._next(now):
            return
        if self.socket is None:
            self.socket = self._connect()
            if self.socket is None:
                return
        self._receive()
        if self._claim is None:  # refused
            return
        now = time.monotonic()
        if now - self._touched > TOUCH:
            self._touched = now
            touch(self._claim.path)
        if self._greeted:
            self._send_on(now)
        else:
            self._greet(now)

    def close(self) -> None:
        """Give back what is not delivered, and hang up; again: nothing."""
        if self._claim is not None:
            self._folder.give_back(self._claim)
            self._claim = None
        self._hang_up()

    # --- which file -------------------------------------------------------------------

    def _next(self, now: float) -> bool:
        """Take up the next file; False when there is none."""
        while self._claim is None:
            claim = self._own.claim() if self._own is not None else None
            if claim is None:
                if not self._waiting and not self._look(now):
                    self._hang_up()
                    return False
                claim = self._try(self._waiting.popleft())
            if claim is not None:
                self._take(claim)
        return True

    def _look(self, now: float) -> bool:
        if not self._foreign or now < self._look_at:
            return False
        self._look_at = now + LOOK
        mine = self._own.names if self._own is not None else []
        try:
            found = self._folder.free(mine)
        except OSError as error:
            self._complain(self._folder.path, error)
            return False
        self._waiting.extend(name for name in found if name not in self._skipped)
        return bool(self._waiting)

    def _try(self, name: str) -> Optional[Claim]:
        try:
            return self._folder.claim(name)
        except OSError as error:
            self._complain(os.path.join(self._folder.path, name), error)
            self._skipped.add(name)
            return None

    def _take(self, claim: Claim) -> None:
        found = claim.contents
        if found.newer:
            logger.warning(
                "episight: %s was written by a newer episight: left there", claim.path
            )
            self._skip(claim)
        elif found.hello is None:  # nothing in it can be used
            self._folder.delivered(claim)
        else:
            self._claim = claim
            self._left = deque(found.records)
            self._unacked = {}
            self._sample = self._sample_tries = 0
            self._greeted, self._hello_at = False, 0.0

    def _skip(self, claim: Claim) -> None:
        """Leave it to another process: this one does not take it up again."""
        self._claim = None
        self._hang_up()
        self._skipped.add(self._folder.give_back(claim))

    # --- what is said -----------------------------------------------------------------

    def _greet(self, now: float) -> None:
        if now - self._hello_at < HELLO_AGAIN:
            return
        assert self._claim is not None
        hello = self._claim.contents.hello
        assert hello is not None
        hello = msgspec.structs.replace(
            hello, protocol=wire.PROTOCOL, sent=time.time(), replay=True
        )
        if self._send([wire.encode(hello)]):
            self._hello_at = now

    def _receive(self) -> None:
        for _ in range(100):
            if self.socket is None or self._claim is None:
                return
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.ZMQError:
                return
            try:
                self._handle(wire.decode_from_exporter(parts[0]))
            except wire.WireError:  # of a newer version: not needed here
                continue

    def _handle(self, message: wire.FromExporter) -> None:
        if isinstance(message, wire.Welcome):
            self._greeted, self.refusal = True, ""
            self._again()
        elif isinstance(message, wire.Who):
            self._greeted, self._hello_at = False, 0.0
        elif isinstance(message, wire.Refused):
            self._was_refused(message)
        elif isinstance(message, wire.Ack):
            self._acknowledged(message)

    def _was_refused(self, message: wire.Refused) -> None:
        assert self._claim is not None
        self.refusal = message.sentence
        self._skip(self._claim)
        if message.reason == "protocol":  # the others would be, too
            self._waiting.clear()
            self._look_at = time.monotonic() + REFUSED_PAUSE

    def _acknowledged(self, ack: wire.Ack) -> None:
        before = len(self._unacked)
        for first, last in ack.records:
            for seq in [seq for seq in self._unacked if first <= seq <= last]:
                del self._unacked[seq]
        self.records += before - len(self._unacked)
        if self._sample and ack.sample >= self._sample:
            self._sample = 0
            self._end()

    def _send_on(self, now: float) -> None:
        assert self._claim is not None
        if not self._left and not self._unacked:
            self._send_sample()
            return
        if self._unacked and now - self._sent_at > ACK_TIMEOUT:
            self._again()
        if self._unacked:
            return
        size = 0
        batch: List[Tuple[int, bytes]] = []
        while self._left and len(batch) < WINDOW_RECORDS and size < WINDOW_BYTES:
            batch.append(self._left.popleft())
            size += len(batch[-1][1])
        self._unacked = dict(batch)
        self._again()

    def _again(self) -> None:
        if not self._unacked:
            return
        assert self._claim is not None
        assert self._claim.contents.hello is not None
        self._sent_at = time.monotonic()
        head = wire.Records(
            seqs=tuple(self._unacked),
            sent=time.time(),
            announced=self._claim.contents.hello.announced,
        )
        self._send([wire.encode(head), *self._unacked.values()])

    def _send_sample(self) -> None:
        """The last totals of a source that died, after its records."""
        assert self._claim is not None
        if self._sample:
            if time.monotonic() - self._sent_at > ACK_TIMEOUT:
                self._sample = 0
            return
        if self._sample_tries >= SAMPLE_TRIES:  # its records are another file's
            self._skip(self._claim)
            return
        try:
            sample = wire.decode_from_source(self._claim.contents.sample)
        except wire.WireError:  # there is none
            sample = None
        if not isinstance(sample, wire.Sample):
            self._end()
        elif self._send([self._claim.contents.sample]):
            self._sample, self._sent_at = sample.number, time.monotonic()
            self._sample_tries += 1

    def _end(self) -> None:
        assert self._claim is not None
        self._folder.delivered(self._claim)
        self.files += 1
        self._claim = None
        self._hang_up()

    def _send(self, parts: List[bytes]) -> bool:
        assert self.socket is not None
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError:  # not connected: a hello as soon as it is again
            self._greeted, self._hello_at = False, 0.0
            return False
        return True

    def _hang_up(self) -> None:
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None

    def _complain(self, path: str, error: OSError) -> None:
        if path not in self._skipped:
            self._skipped.add(path)
            logger.warning("episight: %s cannot be delivered: %s", path, error)
