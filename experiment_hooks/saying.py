"""What is said to people, in the log or on stderr: no fork comes in between.

A fork while another thread writes leaves its child with a stream whose lock nobody
holds any more: CPython gives the locks of logging back, those of streams it does not.
multiprocessing's children flush stderr at their end, and waited for good (seen on 3.13,
where a pool was made while the sender told the run's page). So whatever our threads say
they say under a lock, for which a fork waits.

The experiment's own threads do not take it: one that holds a logging handler's lock,
and is in a hook call there, would wait for a sender that waits for that very handler.
"""

import logging
import threading
from typing import Any

LONGEST = 1.0
"""Seconds for which a fork waits at most: who reads what is said may have stopped."""


class _Thread(threading.local):
    """Whether the thread is one of ours."""

    ours = False


class Saying:
    """The lock; ``with saying:`` around whatever writes to a stream."""

    def __init__(self) -> None:
        # Reentrant: a handler of signals may say something, in the middle of another.
        self._lock = threading.RLock()
        self._held = False
        self._thread = _Thread()

    def adopt(self) -> None:
        """From now on this thread, one of ours, says nothing while there is a fork."""
        self._thread.ours = True

    def __enter__(self) -> None:
        if self._thread.ours:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        if self._thread.ours:
            self._lock.release()

    def before_fork(self) -> None:
        """Nobody says anything until the fork is done."""
        # By tenths: a process that was stopped meanwhile has not waited for long.
        tenth = LONGEST / 10
        self._held = any(self._lock.acquire(timeout=tenth) for _ in range(10))

    def after_fork(self, in_child: bool) -> None:
        """The fork is done."""
        if self._held:
            self._held = False
            self._lock.release()
        elif in_child:  # a thread that is not here has it
            self._lock = threading.RLock()


saying = Saying()


def _guard(logger: logging.Logger) -> None:
    handle = logger.handle

    def guarded(record: Any) -> None:
        with saying:
            handle(record)

    logger.handle = guarded  # type: ignore[method-assign]


_guard(logging.getLogger("experiment_hooks"))
