"""SIGTERM as an interrupt of the main thread, where ``EPISIGHT_SIGTERM=1`` asks for it.

Owns the process's handler of that signal while a run is open. Runs on the main thread.
Never takes the place of somebody else's handler, and leaves none behind: not after the
last run, not in a forked child.
"""

import contextlib
import functools
import multiprocessing.process
import signal
import threading
import time
from typing import Callable

from experiment_hooks.errors import Terminated

ONCE = 1.0
"""Seconds in which a further SIGTERM is the same one: ``timeout`` sends it to the
process and then to its group, and a scheduler to each process and to the job."""


class Sigterm:
    """The handler; ``wanted`` tells whether a run is open.

    Attributes:
        ends_the_process: the interrupt went up to the top: once all exit calls are
            made, the process ends as SIGTERM would have ended it.
    """

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.ends_the_process = False
        self._wanted = wanted
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
        signal.signal(signal.SIGTERM, self)
        return ""

    def restore(self) -> None:
        """Put the default action back, unless somebody has put a handler here."""
        if signal.getsignal(signal.SIGTERM) is self:
            with contextlib.suppress(ValueError):  # not the main thread: see __call__
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, number: int, frame: object) -> None:
        """The signal has come.

        Raises:
            Terminated: in the main thread, wherever that is.
        """
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
