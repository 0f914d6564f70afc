"""The tap: what the exporter learns, said again to whoever listens, as JSON.

One thread of its own owns the XPUB socket. The writer hands over what is committed,
ingest what samples show; both return at once, and at the cost of a look at a tuple
while nobody listens. Nothing is kept for those who come later or read slowly: what does
not fit into their queue, or into the one before this thread, is not said to them.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from exporter import feed, jsonable
from exporter.changes import Changes
from exporter.complaints import Complaints
from exporter.inbox import Newest
from exporter.ingest import NOTICED_BY_THE_KERNEL, bound
from exporter.journal import Batch, Entry
from exporter.keys import Keyring
from exporter.state import State
from exporter.verdict import Rules

logger = logging.getLogger("exporter")

MAX_WAITING = 50_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""What waits for this thread at most; more is dropped, and counted."""
QUEUED = 2000
"""Messages that wait for one subscriber at most; ZeroMQ drops what is more."""
GATHERED, IDLE = 0.02, 0.2
"""Seconds for which it waits while somebody listens, and while nobody does."""
STRETCH, LAST_STRETCH = 0.1, 1.0
"""Seconds for which it speaks at a time, and before it closes."""
MAX_TOPIC = 1024
VERDICTS_EACH = 1.0
_AT_ONCE = int(zmq.NOBLOCK)
_MORE = _AT_ONCE | int(zmq.SNDMORE)
_Item = tuple[list[Entry] | feed.Seen, bool]


class Tap(threading.Thread):
    """The thread that owns the XPUB socket; ``close`` says what is left.

    Args:
        host: the address to bind.
        port: 0 takes a free one; see :attr:`address`.
        state: where processes and verdicts are known.
        rules: of the verdict.
        keyring: whose keys may connect; None: whoever can reach the port.
        clock: Unix seconds.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        state: State,
        rules: Rules,
        keyring: Keyring | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name="tap", daemon=True)
        self.messages = 0  # written by this thread
        self.dropped = 0  # under the lock
        self._state = state
        self._rules = rules
        self._clock = clock
        # What is wanted: beginnings of topics. Written by this thread, read by others.
        self._wanted: tuple[bytes, ...] = ()
        self._lock = threading.Lock()  # of the three below
        self._waiting: deque[tuple[_Item, int, int]] = deque()
        self._number = self._bytes = 0
        self._changes: Changes | None = None
        self._next_look = 0.0  # monotonic
        self._closing = threading.Event()
        self._complaints = Complaints(logger)
        self._zmq = zmq.Context()
        self._socket = self._zmq.socket(zmq.XPUB)
        self._authenticator = keyring.guard(self._socket) if keyring else None
        self.address = self._bind(host, port)

    def _bind(self, host: str, port: int) -> str:
        for option, value in (
            (zmq.LINGER, 500),
            (zmq.SNDHWM, QUEUED),
            (zmq.MAXMSGSIZE, MAX_TOPIC),
            (zmq.HANDSHAKE_IVL, 10000),
            *NOTICED_BY_THE_KERNEL,
        ):
            self._socket.setsockopt(option, value)
        try:
            return bound(self._socket, host, port)
        except OSError:
            self._shut()
            raise

    # --- called by other threads -----------------------------------------------------

    def committed(self, batch: Batch) -> None:
        """The writer has committed and folded these."""
        if not self._wanted:
            return
        for entries, lost in ((batch.entries, False), (batch.lost_episodes, True)):
            if entries:
                size = sum(len(entry.data) for entry in entries)
                self._put((entries, lost), len(entries), size)

    def sample(self, run: str, source: bytes, newest: Newest) -> None:
        """Ingest has a sample with something to be seen."""
        if self._wanted:
            seen = feed.Seen.of(run, source, newest)
            self._put((seen, False), 1, seen.size)

    def close(self, timeout: float = 2.0) -> None:
        """Say what is left, close, end the thread; again: nothing."""
        self._closing.set()
        if self.is_alive():
            self.join(timeout)
        elif not self._socket.closed:
            self._shut()

    def _put(self, item: _Item, number: int, size: int) -> None:
        with self._lock:
            if (
                self._number + number > MAX_WAITING
                or self._bytes + size > MAX_WAITING_BYTES
            ):
                self.dropped += number
                return
            self._waiting.append((item, number, size))
            self._number += number
            self._bytes += size

    def _take(self) -> _Item | None:
        with self._lock:
            if not self._waiting:
                return None
            item, number, size = self._waiting.popleft()
            self._number -= number
            self._bytes -= size
            return item

    # --- the thread -------------------------------------------------------------------

    def run(self) -> None:
        """Hear who listens, and say what there is, until closed."""
        try:
            while not self._closing.is_set():
                wait = GATHERED if self._wanted else IDLE
                if self._socket.poll(0 if self._waiting else int(wait * 1000)):
                    self._hear()
                self._say(STRETCH)
            self._say(LAST_STRETCH)
        except Exception:
            logger.exception("the tap failed")
            raise
        finally:
            self._wanted = ()
            self._shut()

    def _shut(self) -> None:
        self._socket.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._zmq.term()

    def _hear(self) -> None:
        """Note what is wanted now: ZeroMQ tells the first to want it, and the last."""
        wanted = dict.fromkeys(self._wanted)
        while self._socket.poll(0):
            said = self._socket.recv()
            if said[:1] == b"\x01":
                wanted[said[1:]] = None
            elif said[:1] == b"\x00":
                wanted.pop(said[1:], None)
        if not self._wanted and wanted:
            # Who listens is told of the runs that go on, as they are found.
            self._changes = Changes(self._state, self._rules, self._clock())
        self._wanted = (*wanted,)

    def _say(self, seconds: float) -> None:
        """What waits, but not for long: somebody may have come or left meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and (item := self._take()) is not None:
            what, lost = item
            if isinstance(what, feed.Seen):
                self._try(self._say_seen, what)
            else:
                for entry in what:
                    self._try(self._say_entry, entry, lost)
        if self._wanted and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + VERDICTS_EACH
            self._try(self._say_verdicts)

    def _try(self, say: Callable[..., None], *what: object) -> None:
        """One message that cannot be made is no reason to stop."""
        try:
            say(*what)
        except Exception as error:
            with self._lock:
                self.dropped += 1
            self._complaints.say("the tap", say.__name__, repr(error))

    def _say_entry(self, entry: Entry, lost: bool) -> None:
        topic = feed.topic(entry.run, str(entry.record.__struct_config__.tag))
        if not topic.startswith(self._wanted):
            return
        with self._state.lock:
            known = self._state.sources.get(entry.record.source)
            said = feed.of_record(entry, lost, known[1]) if known else None
        if said is not None:
            self._send(topic, said)

    def _say_seen(self, seen: feed.Seen) -> None:
        topic = feed.topic(seen.run, "state")
        if topic.startswith(self._wanted):
            with self._state.lock:
                known = self._state.sources.get(seen.source)
                asked = known[1].asked if known else seen.run
            for said in feed.of_sample(seen, asked):
                self._send(topic, said)

    def _say_verdicts(self) -> None:
        assert self._changes is not None  # made when the first has come
        now = self._clock()
        for change in self._changes.look(now):
            topic = feed.topic(change.run, "verdict")
            if topic.startswith(self._wanted):
                self._send(topic, feed.of_change(change, now))

    def _send(self, topic: bytes, said: feed.Json) -> None:
        text = _text(said)
        # What send_multipart() does, for less.
        self._socket.send(topic, _MORE)
        self._socket.send(text, _AT_ONCE)
        self.messages += 1


def _text(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)  # NaN and infinities are null
    except (TypeError, ValueError):
        return msgspec.json.encode(jsonable.plain(value))
