"""SIGTERM as an interrupt of the main thread, where ``EPISIGHT_SIGTERM=1`` asks for it.

Owns the process's handler of that signal while a run is open. Runs on the main thread.
Never takes the place of somebody else's handler, and leaves none behind: not after the
last run, not in a forked child. No signal is lost that comes while the process forks.
"""

import contextlib
import functools
import multiprocessing.process
import os
import signal
import threading
import time
from typing import Callable

from experiment_hooks.errors import Terminated

ONCE = 1.0
"""Seconds in which a further SIGTERM is the same one: ``timeout`` sends it to the
process and then to its group, and a scheduler to each process and to the job."""

A_MOMENT = 0.01
"""Seconds until a signal that came in the middle of a fork comes again."""


class _Fork(threading.local):
    """How far this thread is with a fork."""

    under_way = False
    blocks = False


class Sigterm:
    """The handler; ``wanted`` tells whether a run is open.

    Attributes:
        ends_the_process: the interrupt went up to the top: once all exit calls are
            made, the process ends as SIGTERM would have ended it.
    """

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.ends_the_process = False
        self._wanted = wanted
        self._fork = _Fork()
        self._watches_forks = False
        self._raised_at = -ONCE
        # In __del__ the modules are gone.
        self._die = functools.partial(signal.raise_signal, signal.SIGTERM)

    def install(self) -> str:
        """Take the default action's place; says why not, where that cannot be."""
        if multiprocessing.process.parent_process() is not None:
            return ""  # its parent ends it, a pool by SIGTERM
        found = signal.getsignal(signal.SIGTERM)
        if found is self:
            return ""
        if found != signal.SIG_DFL:
            return "SIGTERM has another handler"
        if threading.current_thread() is not threading.main_thread():
            return "the run was not opened by the main thread"
        self._watch_forks()
        signal.signal(signal.SIGTERM, self)
        return ""

    def _watch_forks(self) -> None:
        """Once; after whoever else has hooks of a fork in which a signal may come."""
        if self._watches_forks or not hasattr(os, "register_at_fork"):
            return
        self._watches_forks = True
        os.register_at_fork(
            before=self._block,
            after_in_parent=self._unblock,
            after_in_child=self._unblock_the_default,
        )
        # The first hook before a fork and the last one after it: with no line of Python
        # in them, so no handler can be called within.
        under_way = functools.partial(setattr, self._fork, "under_way")
        os.register_at_fork(
            before=functools.partial(under_way, True),
            after_in_parent=functools.partial(under_way, False),
            after_in_child=functools.partial(under_way, False),
        )

    def _block(self) -> None:
        # A handler is called some time after the signal, and a new child forgets those
        # that are still to be called. What is blocked the kernel keeps for it.
        if not self._is_the_handler():
            return
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._fork.blocks = signal.SIGTERM not in blocked
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unblock(self) -> None:
        if self._fork.blocks:
            self._fork.blocks = False
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _unblock_the_default(self) -> None:
        self.restore()
        self._unblock()

    def _is_the_handler(self) -> bool:
        return signal.getsignal(signal.SIGTERM) is self

    def restore(self) -> None:
        """Put the default action back, unless somebody has put a handler here."""
        if self._is_the_handler():
            with contextlib.suppress(ValueError):  # not the main thread: see __call__
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, number: int, frame: object) -> None:
        """The signal has come.

        Raises:
            Terminated: in the main thread, wherever that is.
        """
        if self._fork.under_way:  # what a hook of a fork raises, nobody gets
            again = threading.Timer(A_MOMENT, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        if not self._wanted():  # another thread has closed the last run
            self.restore()
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if now - self._raised_at >= ONCE:
            self._raised_at = now
            raise Terminated("SIGTERM")

    def __del__(self) -> None:
        # The interpreter's last moments: exit calls are made, its output is written.
        if self.ends_the_process:
            self._die()
