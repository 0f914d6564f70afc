"""The records that wait to be sent: encoded, in order, within a bound.

Not locked: whoever calls holds the recorder's lock. Beyond its bound the oldest log
lines go first, then episodes; what went is counted and remembered by number, so that
the exporter can be told that it will never come.
"""

from collections import deque
from typing import Callable, Deque, List, Tuple

from experiment_hooks import wire

_RANKS = ("essential", "episode", "log")
_MAX_RANGES = 10_000
"""So many ranges of numbers go into one record: it stays below its limit."""


class Outbox:
    """Records by rank: ``essential`` ones never go, ``log`` lines go first.

    Args:
        most: bytes that may wait, sent ones not yet acknowledged included.
        drop: counts one that went, under its reason.

    Attributes:
        count: how many records wait here.
        held: bytes that wait, sent ones not yet acknowledged included.
    """

    def __init__(self, most: int, drop: Callable[[str], None]) -> None:
        self.count = 0
        self.held = 0
        self._most = most
        self._drop = drop
        # By rank, each in the order of the sequence numbers.
        self._queues: Tuple[Deque[Tuple[int, bytes]], ...] = (deque(), deque(), deque())
        self._gone: List[Tuple[int, int]] = []
        self._most_ranges = 2 * _MAX_RANGES

    def put(self, rank: str, seq: int, data: bytes) -> None:
        """Take in a record; others may have to go for it."""
        self._queues[_RANKS.index(rank)].append((seq, data))
        self.count += 1
        self.held += len(data)
        if self.held > self._most:
            self._make_room()

    def take(self, most: int, most_bytes: int) -> List[Tuple[int, bytes]]:
        """Move the oldest records out, at least one; they stay in :attr:`held`."""
        found: List[Tuple[int, bytes]] = []
        size = 0
        while len(found) < most:
            queues = [queue for queue in self._queues if queue]
            if not queues:
                break
            queue = min(queues, key=_first)
            size += len(queue[0][1])
            if found and size > most_bytes:
                break
            found.append(queue.popleft())
        self.count -= len(found)
        return found

    def gone(self) -> Tuple[Tuple[int, int], ...]:
        """Ranges of numbers that will never come, to be told; some of very many."""
        told = wire.joined(self._gone)
        self._gone = list(told[_MAX_RANGES:])
        return told[:_MAX_RANGES]

    def _make_room(self) -> None:
        """Give up to seven eighths of the bound, so as not to do so at every record."""
        aim = self._most * 7 // 8
        for rank in (2, 1):
            queue = self._queues[rank]
            while queue and self.held > aim:
                seq, data = queue.popleft()
                self.count -= 1
                self.held -= len(data)
                self._forget(seq)
                self._drop("memory_log_lines" if rank == 2 else "memory_episodes")

    def _forget(self, seq: int) -> None:
        gone = self._gone
        if gone and gone[-1][1] + 1 == seq:
            gone[-1] = (gone[-1][0], seq)
            return
        gone.append((seq, seq))
        if len(gone) > self._most_ranges:  # for days nobody may ask for them
            self._gone = list(wire.joined(gone))
            self._most_ranges = 2 * max(len(self._gone), _MAX_RANGES)


def _first(queue: Deque[Tuple[int, bytes]]) -> int:
    return queue[0][0]
