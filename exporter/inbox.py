"""What ingest hands to other threads: records, samples, and from whom they came.

Ingest's thread makes all of it, and alone changes a connection and the counts. The
writer alone takes what is in the inbox; the rest anybody may read. Nobody waits for
room: ingest asks whether it is full, and puts nothing more if it is.
"""

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple

from experiment_hooks import wire
from exporter.runs import SKEW_SHOWN
from exporter.verdict import Link

MAX_WAITING_RECORDS = 200_000
MAX_WAITING_BYTES = 256 * 1024 * 1024
OFFSET_WINDOW = 60.0
"""Seconds after which an older estimate of a source's clock is forgotten."""


@dataclass(slots=True)
class Peer:
    """One connection of a source that has said hello."""

    identity: bytes
    hello: wire.Hello
    run: str
    link: Link
    offset: float
    """The source's clock is behind ours by so much: the least delay seen in a while."""
    before: float = math.inf
    window_ends: float = 0.0
    probed: float = 0.0
    sampled: int = 0
    """The number of its newest sample, and the newest that was acknowledged."""
    answered: int = 0

    @property
    def skew(self) -> float:
        """Seconds to add to the source's clock; 0 where the clocks agree well."""
        least = min(self.offset, self.before)
        return least if abs(least) > SKEW_SHOWN else 0.0

    def heard(self, now: float, sent: float, announced: int) -> None:
        """A message has come that the source sent at a time of its own clock."""
        self.link.announced = max(self.link.announced, announced)
        self.link.heard = now
        self.link.gone_since = None
        offset = now - sent
        if 0.0 <= self.window_ends - now <= OFFSET_WINDOW:
            self.offset = min(self.offset, offset)
        else:  # either clock may have been set meanwhile
            self.before, self.offset = self.offset, offset
            self.window_ends = now + OFFSET_WINDOW


class Arrival(NamedTuple):
    """One record that came, not yet committed."""

    peer: Peer
    seq: int
    data: bytes
    record: wire.AnyRecord
    received: float


class Newest(NamedTuple):
    """A source's newest sample.

    ``received`` is when it was true, by the exporter's clock: when it came, or, of one
    that waited on a disk, when it was made. ``replay`` is who delivers that one: it is
    acknowledged when it is committed, since no other will come.
    """

    sample: wire.Sample
    parts: list[bytes]
    received: float
    came: float
    replay: Peer | None = None


@dataclass(frozen=True)
class Refusal:
    """A connection that was refused, for people to see."""

    at: float
    who: str
    sentence: str


@dataclass
class Counts:
    """What ingest has seen; written by its thread only, read by anybody."""

    records: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


class Inbox:
    """What ingest hands to the writer: records in order, and the newest samples."""

    def __init__(self) -> None:
        self.records: SimpleQueue[Arrival | None] = SimpleQueue()
        self._put_bytes = 0  # written by ingest
        self._taken_bytes = 0  # written by the writer
        self._newest: dict[bytes, Newest] = {}
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be put."""
        waiting = self._put_bytes - self._taken_bytes
        return waiting > MAX_WAITING_BYTES or self.records.qsize() > MAX_WAITING_RECORDS

    def put(self, arrival: Arrival) -> None:
        """Hand over a record."""
        self._put_bytes += len(arrival.data)
        self.records.put(arrival)

    def wake(self) -> None:
        """Let the writer look up, though there is no record."""
        self.records.put(None)

    def take(self, timeout: float, most: int) -> list[Arrival]:
        """The records that wait, at most so many; waits for the first."""
        found: list[Arrival] = []
        try:
            one = self.records.get(timeout=timeout)
            while True:
                if one is not None:
                    found.append(one)
                if len(found) >= most:
                    break
                one = self.records.get_nowait()
        except Empty:
            pass
        self._taken_bytes += sum(len(arrival.data) for arrival in found)
        return found

    def put_sample(self, source: bytes, newest: Newest) -> bool:
        """Keep a source's newest sample; whether one was dropped that was not taken."""
        with self._lock:
            known = self._newest.get(source)
            if known is None or known.sample.number <= newest.sample.number:
                self._newest[source] = newest
        return known is not None

    def take_samples(self) -> dict[bytes, Newest]:
        """The newest sample of each source that has sent one since the last call."""
        with self._lock:
            found, self._newest = self._newest, {}
        return found
