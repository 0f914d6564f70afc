"""The records that are on their way: sent, and not yet acknowledged.

Changed by the one that pumps the line and by nobody else; any thread may ask whether
there are any. Does no I/O, and has no clock.
"""

from typing import Dict, Iterable, List, Tuple

WINDOW_RECORDS = 2000
"""Records that may be on their way."""
WINDOW_BYTES = 1024 * 1024


class Window:
    """Records of one source, by number.

    Attributes:
        records: sequence -> bytes, and when they were sent last (monotonic seconds);
            the one that was not sent for longest comes first.
    """

    def __init__(self) -> None:
        self.records: Dict[int, Tuple[bytes, float]] = {}
        self._bytes = 0

    @property
    def room(self) -> bool:
        """Whether more records may be on their way."""
        return len(self.records) < WINDOW_RECORDS and self._bytes < WINDOW_BYTES

    def add(self, found: Iterable[Tuple[int, bytes]], now: float) -> None:
        """These are being sent for the first time."""
        for seq, data in found:
            self.records[seq] = data, now
            self._bytes += len(data)

    def again(self, before: float, now: float) -> List[Tuple[int, bytes]]:
        """What was not sent since ``before`` is sent again, in the same order."""
        longest = next(iter(self.records.values()), None)
        if longest is None or longest[1] > before:
            return []
        waiting = [
            (seq, data) for seq, (data, at) in self.records.items() if at <= before
        ]
        for seq, data in waiting:
            del self.records[seq]
            self.records[seq] = data, now
        return waiting

    def acknowledge(self, ranges: Iterable[Tuple[int, int]]) -> int:
        """These have arrived; returns how many bytes they were."""
        released = 0
        for first, last in ranges:
            if last - first > 4 * WINDOW_RECORDS:  # not from our exporter
                continue
            for seq in range(first, last + 1):
                released += len(self.records.pop(seq, (b"", 0.0))[0])
        self._bytes -= released
        return released

    def in_order(self) -> List[Tuple[int, bytes]]:
        """All of them, by number."""
        return sorted((seq, data) for seq, (data, _) in self.records.items())

    def clear(self) -> None:
        """They are on their way no longer: whoever has them now sends them anew."""
        self.records = {}
        self._bytes = 0
