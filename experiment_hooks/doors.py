"""What may stand where a lock was, so that no call has to ask whether it should.

Entered by the experiment's threads, wherever they would have taken the lock: a metric
call, a record. Neither holds anything itself.
"""

from typing import Any, Callable


class Door:
    """Stands where a lock was, until the first call of a forked child goes through."""

    __slots__ = ("_lock", "_open")

    def __init__(self, open_door: Callable[[], Any]) -> None:
        self._open = open_door
        self._lock: Any = None

    def __enter__(self) -> None:
        self._lock = self._open()
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def _is_owned(self) -> bool:
        return False


class Halt:
    """Stands where a metric's lock was, once a stop is due at any hook call.

    So no metric call has to ask whether one is.
    """

    __slots__ = ("_boundary",)

    def __init__(self, boundary: Callable[[str], None]) -> None:
        self._boundary = boundary

    def __enter__(self) -> None:
        self._boundary("now")

    def __exit__(self, *exc: object) -> None:
        pass
