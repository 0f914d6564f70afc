"""The records that wait to be sent: numbered, encoded, in order, within a bound.

Not locked: whoever calls holds the recorder's lock. Beyond its bound the oldest log
lines go first, then episodes' starts, then their ends; what went is counted and
remembered by number, so that the exporter can be told that it will never come.
"""

import itertools
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Tuple

from experiment_hooks import wire

RANKS = ("essential", "end", "start", "log")
"""What goes first comes last; the first never goes."""
_RANK_OF = {
    wire.EpisodeEnded: "end",
    wire.EpisodeStarted: "start",
    wire.LogLine: "log",
}
_MAX_RANGES = 10_000
"""So many ranges of numbers go into one record: it stays below its limit."""

Make = Callable[..., wire.AnyRecord]
"""Makes a record, given the fields that all have."""


def by_rank(records: Iterable[Tuple[int, bytes]]) -> Dict[str, List[Tuple[int, bytes]]]:
    """Records by what they are, each list in their order."""
    found: Dict[str, List[Tuple[int, bytes]]] = {}
    for seq, data in records:
        rank = _RANK_OF.get(type(wire.decode_record(data)), "essential")
        found.setdefault(rank, []).append((seq, data))
    return found


class Outbox:
    """One source's records by rank, see :data:`RANKS`.

    Args:
        run: the run's id.
        source: the source's id.
        most: bytes that may wait, sent ones not yet acknowledged included.
        drop: counts one that went, under its reason.

    Attributes:
        seq: the number of the newest record; 0 before the first.
        held: bytes that wait, sent ones not yet acknowledged included.
    """

    def __init__(
        self, run: str, source: bytes, most: int, drop: Callable[..., None]
    ) -> None:
        self.seq = 0
        self.held = 0
        self._run = run
        self._source = source
        self._seqs = itertools.count(1)
        self._most = most
        self._drop = drop
        # By rank, each in the order of the sequence numbers.
        self._queues: Dict[str, Deque[Tuple[int, bytes]]] = {
            rank: deque() for rank in RANKS
        }
        self._gone: List[Tuple[int, int]] = []
        self._most_ranges = 2 * _MAX_RANGES

    @property
    def count(self) -> int:
        """How many records wait here."""
        return sum(map(len, self._queues.values()))

    def record(
        self,
        make: Make,
        at: float,
        rank: str = "essential",
        smaller: Optional[Make] = None,
    ) -> int:
        """Number a record, encode it, and take it in.

        Args:
            make: gives the record its sequence number and the other common fields.
            at: Unix seconds.
            rank: one of :data:`RANKS`: which goes first when there are too many.
            smaller: makes a smaller one, in case the first is too large.

        Returns:
            Its sequence number.
        """
        # Not +=: a signal handler that records something, too, may come in between.
        self.seq = seq = next(self._seqs)
        base: Dict[str, Any] = {
            "run": self._run,
            "source": self._source,
            "seq": seq,
            "time": at,
        }
        data = self._encode(make, base)
        if data is None and smaller is not None:
            data = self._encode(smaller, base)
        if data is None:
            # The number is taken, so it is said that what it stood for will not come.
            gone = wire.GivenUp(ranges=((seq, seq),), reason="lost", **base)
            data = wire.encode(gone)
        self.put(rank, seq, data)
        return seq

    def _encode(self, make: Make, base: Dict[str, Any]) -> Optional[bytes]:
        try:
            data = wire.encode(make(**base))
        except wire.WireError as error:
            self._drop("unencodable", str(error))
            return None
        if len(data) > wire.MAX_RECORD_BYTES:
            self._drop("too_large", f"a record of {len(data)} bytes")
            return None
        return data

    def put(self, rank: str, seq: int, data: bytes) -> None:
        """Take in an encoded record; others may have to go for it."""
        self._queues[rank].append((seq, data))
        self.held += len(data)
        if self.held > self._most:
            self._make_room()

    def take(self, most: int, most_bytes: int) -> List[Tuple[int, bytes]]:
        """Move the oldest records out, at least one; they stay in :attr:`held`."""
        found: List[Tuple[int, bytes]] = []
        size = 0
        while len(found) < most:
            queues = [queue for queue in self._queues.values() if queue]
            if not queues:
                break
            queue = min(queues, key=_first)
            size += len(queue[0][1])
            if found and size > most_bytes:
                break
            found.append(queue.popleft())
        return found

    def take_all(self) -> Dict[str, List[Tuple[int, bytes]]]:
        """Move all records out, by rank; they stay in :attr:`held`."""
        found = {rank: list(queue) for rank, queue in self._queues.items()}
        for queue in self._queues.values():
            queue.clear()
        return found

    def put_back(self, rank: str, records: Iterable[Tuple[int, bytes]]) -> None:
        """Records that were moved out come back, before the others."""
        back = list(records)
        self._queues[rank].extendleft(reversed(back))

    def gone(self) -> Tuple[Tuple[int, int], ...]:
        """Ranges of numbers that will never come, to be told; some of very many."""
        told = wire.joined(self._gone)
        self._gone = list(told[_MAX_RANGES:])
        return told[:_MAX_RANGES]

    def _make_room(self) -> None:
        """Give up to seven eighths of the bound, so as not to do so at every record."""
        aim = self._most * 7 // 8
        for rank in reversed(RANKS[1:]):
            queue = self._queues[rank]
            while queue and self.held > aim:
                seq, data = queue.popleft()
                self.held -= len(data)
                self.forget(seq, seq)
                self._drop("memory_log_lines" if rank == "log" else "memory_episodes")

    def forget(self, first: int, last: int) -> None:
        """Records of these numbers will never come."""
        gone = self._gone
        if gone and gone[-1][1] + 1 == first:
            gone[-1] = (gone[-1][0], last)
            return
        gone.append((first, last))
        if len(gone) > self._most_ranges:  # for days nobody may ask for them
            self._gone = list(wire.joined(gone))
            self._most_ranges = 2 * max(len(self._gone), _MAX_RANGES)


def _first(queue: Deque[Tuple[int, bytes]]) -> int:
    return queue[0][0]
