"""SIGTERM as an interrupt of the main thread, where ``EPISIGHT_SIGTERM=1`` asks for it.

Owns the process's handler of that signal while a run is open. Runs on the main thread.
Never takes the place of somebody else's handler, and leaves none behind: not after the
last run, not in a forked child. No signal is lost that comes while the process forks,
unless it comes in a hook of a fork that was registered after this one's.
"""

import contextlib
import functools
import multiprocessing.process
import os
import signal
import threading
import time
from types import FrameType
from typing import Callable, Optional

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
    """The handler; ``wanted`` tells whether a run is open."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._fork = _Fork()
        self._watches_forks = False
        self._comes_again = False
        self._raised_at = -ONCE

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
        unblock = {
            "after_in_parent": self._unblock,
            "after_in_child": self._unblock_the_default,
        }
        # Twice: another signal's exception, such as Ctrl-C's, may end one of them.
        os.register_at_fork(before=self._block, **unblock)
        os.register_at_fork(**unblock)
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
        if signal.SIGTERM not in blocked:  # by a fork in the middle of which this is
            self._fork.blocks = True
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unblock(self) -> None:
        if self._fork.blocks:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            self._fork.blocks = False

    def _unblock_the_default(self) -> None:
        self._comes_again = False  # in the parent
        self.restore()
        self._unblock()

    def _is_the_handler(self) -> bool:
        return signal.getsignal(signal.SIGTERM) is self

    def restore(self) -> None:
        """Put the default action back, unless somebody has put a handler here."""
        if self._is_the_handler():
            with contextlib.suppress(ValueError):  # not the main thread: see __call__
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        """The signal has come.

        Raises:
            Terminated: in the main thread, wherever that is.
        """
        if self._fork.under_way or _warns(frame):  # what is raised there, nobody gets
            self._put_off(number)
            return
        if not self._wanted():  # another thread has closed the last run
            self.restore()
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if now - self._raised_at >= ONCE:
            self._raised_at = now
            raise Terminated("SIGTERM")

    def _put_off(self, number: int) -> None:
        # Once for all that come: a second one may come within this very start, whose
        # lock is not reentrant on Python 3.8.
        if self._comes_again:
            return
        self._comes_again = True
        again = threading.Timer(A_MOMENT, self._send, (number,))
        again.daemon = True
        try:
            again.start()
        except RuntimeError:  # no more threads are to be had: it is lost
            self._comes_again = False

    def _send(self, number: int) -> None:
        self._comes_again = False
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _warns(frame: Optional[FrameType]) -> bool:
    """Whether a warning is being shown, as there may be of a fork, after its hooks."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "warnings":
            return True
        frame = frame.f_back
    return False


class LastMoment:
    """Its end, with the interpreter's, may be the process's; nobody else may have it.

    Attributes:
        dies: the interrupt went up to the top: once all exit calls are made, and all
            output is written, the process ends as SIGTERM would have ended it.
    """

    def __init__(self) -> None:
        self.dies = False
        # In __del__ the modules are gone.
        self._die = functools.partial(signal.raise_signal, signal.SIGTERM)

    def __del__(self) -> None:
        if self.dies:
            self._die()
