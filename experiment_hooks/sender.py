"""Who pumps a line until it is closed, a thread or the hook calls; and an exit's bound.

A :class:`Sender` owns its thread; with ``thread=False`` an :class:`Inline` pumps on the
threads of the hook calls, one of them at a time. Neither raises into the experiment.
"""

import logging
import threading
import time
from typing import Optional

from experiment_hooks import signals
from experiment_hooks.line import TICK, Line
from experiment_hooks.recorder import Recorder
from experiment_hooks.saying import saying

logger = logging.getLogger("experiment_hooks")

ANSWERED_EXIT = 1.8
HOPEFUL_EXIT = 1.0
"""Seconds for the handshake, at an exit, with who has accepted the connection or has
not yet turned it away on this machine: a busy one takes longer than it should."""
UNANSWERED_EXIT = 0.04
GATHERED = 0.02
"""Seconds after a sending until the next: each takes the interpreter's lock from the
experiment, for 0.1 to 0.3 ms. A loop with 3,000 episodes a second had half of its speed
on Python 3.8 while each was sent by itself. What comes after a pause goes at once."""
SAVING_EXIT = 2.0
"""Seconds more that an exit waits for a slow disk, where something is left to write."""


class Sender(threading.Thread):
    """The thread that pumps a line until it is closed. Started last, a daemon."""

    def __init__(self, line: Line) -> None:
        super().__init__(name="episight-sender", daemon=True)
        self._line = line
        self._closing = threading.Event()
        self._timeout: Optional[float] = None
        self._done = threading.Event()

    def run(self) -> None:
        """Pump; at closing, until all is acknowledged or the time is up."""
        line = self._line
        try:
            signals.take_none()
            saying.adopt()
            while not self._closing.is_set():
                self._pump()
                if line.greeted or not line.hopeful:
                    self._closing.wait(GATHERED)
            drain(line, self._timeout)
        except Exception:
            logger.warning("episight: the sender failed", exc_info=True)
        finally:
            line.shut()
            self._done.set()

    def _pump(self) -> None:
        try:
            self._line.pump(TICK)
        except Exception as error:
            # One bad message or sample must not silence the run for good.
            self._line.failed(error)
            time.sleep(0.1)

    def close(self, timeout: Optional[float]) -> bool:
        """Send what is left, within ``timeout`` seconds or the default bound.

        Returns:
            Whether everything was acknowledged.
        """
        line, start = self._line, time.monotonic()
        try:
            self._timeout = timeout
            self._closing.set()
            line.wake()
            # A little more than the bound: the thread itself keeps to it.
            while time.monotonic() < start + exit_bound(line, timeout) + 0.3:
                if self._done.wait(0.05):
                    break
            self._await_disk(start + exit_bound(line, timeout) + 0.3 + SAVING_EXIT)
        except BaseException:  # a second Ctrl-C: what is left still goes to disk
            line.hurried = True
            self._closing.set()
            line.wake()
            self._done.wait(0.3)
            raise
        return line.idle

    def _await_disk(self, until: float) -> None:
        """What is left is being written: the process's end would cut that off."""
        while self._line.unsaved and time.monotonic() < until:
            if self._done.wait(0.05):
                return
        if self._line.unsaved and not self._done.is_set():
            logger.warning(
                "episight: of the last %d records of this process some may be lost:"
                " they were not written to the spool's disk in time",
                self._line.unsaved,
            )


class Inline:
    """The hook calls that pump a line, where there is no thread that does."""

    def __init__(self, line: Line, recorder: Recorder) -> None:
        self._line: Optional[Line] = line
        self._recorder = recorder
        self._pumping = threading.Lock()
        self._pumper: Optional[int] = None  # the thread that holds it

    def pump(self) -> None:
        """Send what is due."""
        line = self._line
        if line is None or self._recorder.lock._is_owned() or not line.due():
            return
        # Another thread that pumps at the moment will send what this one wants sent.
        if not self._pumping.acquire(blocking=False):
            return
        self._pumper = threading.get_ident()
        try:
            self._recorder.guard(line.pump, 0.0)
            if self._line is None:  # closed in there, by a command's callback
                self._recorder.guard(drain, line, None)
                line.shut()
        finally:
            self._pumper = None
            self._pumping.release()

    def close(self, timeout: Optional[float]) -> None:
        """Send what is left, within ``timeout`` seconds or the default bound."""
        line = self._line
        if line is not None and self._pumper != threading.get_ident():
            with self._pumping:
                try:
                    drain(line, timeout)
                finally:
                    line.shut()
        self._line = None


def exit_bound(line: Line, timeout: Optional[float]) -> float:
    """How long an exit may take: as asked, else by what is known of the exporter."""
    if line.hurried:
        return 0.0
    if timeout is not None:
        return max(0.0, min(timeout, 60.0))
    if line.reached:
        return ANSWERED_EXIT
    return HOPEFUL_EXIT if line.hopeful else UNANSWERED_EXIT


def drain(line: Line, timeout: Optional[float]) -> None:
    """Pump until every record is acknowledged or the time is up."""
    start = time.monotonic()
    try:
        while not line.idle and not line.refused:
            bound = exit_bound(line, timeout)
            # What may have to go to disk takes its time, too.
            left = start + bound - min(line.saving_takes, bound) - time.monotonic()
            if left <= 0:
                break
            line.pump(min(0.05, left))
    finally:  # whatever it was: what is left has to be on disk
        line.hang_up()
