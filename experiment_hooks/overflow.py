"""What nobody takes goes to disk: when, and what of it first.

Called by the one that pumps the line, between two messages; never by the experiment,
unless there is no sender thread. While nobody answers for :data:`AFTER` seconds, or as
soon as much waits, the records that wait go to the spool; the totals so far, once a
minute; at the end, all that is left, which therefore is little. A disk that cannot be
written costs a complaint: then records wait in memory, within its bound.
"""

import time
from typing import Callable, List, Tuple

import msgspec

from experiment_hooks import wire
from experiment_hooks.recorder import Recorder
from experiment_hooks.spool import SEGMENT_BYTES, Spool

AFTER = 10.0
"""Seconds without an answer after which records go to disk, and between two times."""
SILENT = 2.0
"""Seconds without an answer after which :data:`MUCH` goes to disk."""
MUCH = SEGMENT_BYTES
"""Bytes of records that wait: more would hold up an exit."""
CROWDED = 1.0
"""Seconds between two times when that much waits, or memory is half full."""
TOTALS = 60.0

Records = List[Tuple[int, bytes]]


class Overflow:
    """Moves records from a recorder into its spool.

    Args:
        recorder: what waits in memory.
        spool: where it goes.
        hello: makes the hello for (time sent, newest sequence number).
        now: monotonic seconds.
    """

    def __init__(
        self,
        recorder: Recorder,
        spool: Spool,
        hello: Callable[[float, int], wire.Hello],
        now: float,
    ) -> None:
        self.spool = spool
        self._recorder = recorder
        self._hello = hello
        self._answered = now
        self._next = 0.0
        self._next_calm = 0.0
        self._next_totals = 0.0

    def answered(self, now: float) -> None:
        """Somebody takes what is sent."""
        self._answered = now

    def due(self, now: float) -> bool:
        """Whether records should go to disk now."""
        if now < self._next:
            return False
        if self._recorder.crowded:
            return True
        silent = now - self._answered
        if silent >= SILENT and self._recorder.held >= MUCH:
            return True
        return self._alone(now) and now >= self._next_calm

    def move(self, now: float, number: int) -> bool:
        """Put what waits on disk, and the totals so far if it is time for them.

        Args:
            now: monotonic seconds.
            number: of the sample that the totals would be.

        Returns:
            Whether that number is used.
        """
        alone = self._alone(now)
        self._next, self._next_calm = now + CROWDED, now + AFTER
        with_totals = alone and now >= self._next_totals
        # Taken first, for that tells what is new in the schema; written last: whoever
        # reads them knows the source and its schema by then.
        totals = self._totals(number) if with_totals else b""
        hello = self._hello(time.time(), self._recorder.seq)
        try:
            self._put_records(hello)
            if with_totals:
                self._next_totals = now + TOTALS
                self.spool.put_totals(hello, totals)
        except OSError as error:
            self._complain(error)
        return with_totals

    def move_all(self) -> bool:
        """The end: whether all that waits is on disk. The spool is closed."""
        spool = self.spool
        hello = self._hello(time.time(), self._recorder.seq)
        left = [one for found in self._recorder.take_all().values() for one in found]
        try:
            if left:
                # All alike: there is no later one for which one could be given up.
                spool.put(hello, {"essential": sorted(left)})
            spool.drop_totals()  # the last record has the final ones
        except OSError as error:
            self._complain(error)
            return False
        finally:
            spool.close()
        return True

    def _alone(self, now: float) -> bool:
        return now - self._answered >= AFTER

    def _put_records(self, hello: wire.Hello) -> None:
        ranked = self._recorder.take_all()
        sizes = {rank: _size(found) for rank, found in ranked.items()}
        try:
            self.spool.put(hello, ranked)
        finally:  # after an error, too, some of them may be on disk
            for rank, found in ranked.items():
                if found:
                    self._recorder.put_back(rank, found)
                else:
                    self._recorder.released(sizes[rank])

    def _totals(self, number: int) -> bytes:
        sample, _ = self._recorder.sample(number, time.time())
        return wire.encode(msgspec.structs.replace(sample, moments=(), streams={}))

    def _complain(self, error: OSError) -> None:
        path = self.spool.folder.path
        self._recorder.drop(
            "spool",
            f"records wait in memory only, since {path} cannot be written: {error}",
        )


def _size(records: Records) -> int:
    return sum(len(data) for _, data in records)
