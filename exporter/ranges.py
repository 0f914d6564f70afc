"""Which numbers have come: of a source's records, and of its episodes that ended.

A set of numbers that keeps the first and the last of each range, since almost all come,
and almost all in order. Pure; whoever holds one looks after its threads.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of sequence numbers as ranges; small where they come without holes."""

    __slots__ = ("_found", "count")

    def __init__(self) -> None:
        self._found: list[list[int]] = []
        self.count = 0

    def __contains__(self, number: int) -> bool:
        found = self._found
        if not found or number > found[-1][1]:  # the usual case: it is new
            return False
        at = bisect_left(found, number, key=_last)
        return found[at][0] <= number

    def add(self, number: int) -> bool:
        """Add a number; False if it was there."""
        found = self._found
        if found and number == found[-1][1] + 1:  # the usual case: in order
            found[-1][1] = number
            self.count += 1
            return True
        at = bisect_left(found, number, key=_last)
        if at < len(found) and found[at][0] <= number:
            return False
        self.count += 1
        joins_next = at < len(found) and found[at][0] == number + 1
        joins_last = at > 0 and found[at - 1][1] == number - 1
        if joins_next and joins_last:
            found[at - 1][1] = found.pop(at)[1]
        elif joins_next:
            found[at][0] = number
        elif joins_last:
            found[at - 1][1] = number
        else:
            found.insert(at, [number, number])
        return True

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, first and last of each, in order."""
        return ((first, last) for first, last in self._found)

    def update(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Add whole ranges."""
        found: list[list[int]] = []
        for first, last in sorted([*self, *ranges]):
            if found and first <= found[-1][1] + 1:
                found[-1][1] = max(found[-1][1], last)
            else:
                found.append([first, last])
        self._found = found
        self.count = sum(last - first + 1 for first, last in found)


def _last(found: list[int]) -> int:
    return found[1]
