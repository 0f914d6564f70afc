"""Signals are the experiment's: a thread of ours takes none of the process's.

Python runs a handler in the main thread, but nobody wakes that where it waits for a
lock and the system gave the signal to another thread: Ctrl-C would be heard late or
never, and only because we are there. A mask is the thread's own, and what it starts
inherits it; so what a user's callback starts is started without it.
"""

import contextlib
import signal
import threading
from typing import Iterator

_OF_THE_THREAD_ITSELF = {
    getattr(signal, name)
    for name in (
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGILL",
        "SIGSEGV",
        "SIGSYS",
        "SIGTRAP",
    )
    if hasattr(signal, name)
}
"""They say that this very thread has done something wrong, and stay."""

_threads = threading.local()


def take_none() -> None:
    """Leave the process's signals to its other threads, from now on."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        _threads.before = signal.pthread_sigmask(
            signal.SIG_BLOCK, signal.valid_signals() - _OF_THE_THREAD_ITSELF
        )


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Meanwhile this thread takes them again, if :func:`take_none` was called by it."""
    before = getattr(_threads, "before", None)
    if before is None:
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
