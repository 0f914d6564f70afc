"""What belongs to the process: which runs are open in it, and how it forks and ends.

The one place of the hooks with module state. A run's owner sets ``EPISIGHT_RUN_ID`` and
``EPISIGHT_OWNER`` while the run is open, so that child processes join it; handlers for
fork and exit are installed with the first run, not at import; one for SIGTERM only
where it is asked for, and only while a run is open.
"""

import atexit
import logging
import multiprocessing.util
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from experiment_hooks import endings
from experiment_hooks.errors import Terminated
from experiment_hooks.saying import saying
from experiment_hooks.sigterm import LastMoment, Sigterm

if TYPE_CHECKING:
    from experiment_hooks.run import Run

logger = logging.getLogger("experiment_hooks")

RUN_ID = "EPISIGHT_RUN_ID"
OWNER = "EPISIGHT_OWNER"

_open_runs: "List[Run]" = []
# What the two variables were before the first open run of this process set them.
_before: Dict[str, Optional[str]] = {}
_installed = False
_finalizer_of = 0
# The locks of all runs that ever were: a closed run's metrics may still be used.
_locks: "weakref.WeakSet[Any]" = weakref.WeakSet()
_sigterm = Sigterm(lambda: bool(_open_runs))
_last_moment = LastMoment()


def current_run() -> "Optional[Run]":
    """The run opened last in this process and not yet closed; None if there is none."""
    return _open_runs[-1] if _open_runs else None


def owns(token: str) -> bool:
    """Whether a run of this very process has this owner's token."""
    return any(run.owned and run.token == token for run in _open_runs)


def host(run_id: str) -> "Optional[Run]":
    """The open run of this id in this process that takes guests, if there is one."""
    for run in reversed(_open_runs):
        if run.id == run_id and run.takes_guests and not run.closed:
            return run
    return None


def enter(run: "Run") -> None:
    """The run is open from now on; an owner's is offered to child processes."""
    _install()
    belongs_here(run)
    _open_runs.append(run)
    if run.owned:
        if not _before:
            _before.update({key: os.environ.get(key) for key in (RUN_ID, OWNER)})
        _offer(run)


def leave(run: "Run") -> None:
    """The run is closed; the one opened before it is offered, or nothing of ours."""
    if run not in _open_runs:
        return
    _open_runs.remove(run)
    if not _open_runs:
        _sigterm.restore()
    if not run.owned:
        return
    owned = [one for one in _open_runs if one.owned]
    if owned:
        _offer(owned[-1])
        return
    for key, value in _before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    _before.clear()


def _offer(run: "Run") -> None:
    os.environ[RUN_ID] = run.id
    os.environ[OWNER] = run.token


def heed_sigterm() -> None:
    """While a run is open, SIGTERM is raised in the main thread."""
    why_not = _sigterm.install()
    if why_not:
        logger.warning("episight: EPISIGHT_SIGTERM=1 has no effect: %s", why_not)


def supersede(name: str) -> None:
    """In a notebook, a cell run again ends the run that it opened before."""
    if interactive():
        before = [one for one in _open_runs if one.name == name and not one.entered]
        for run in before:
            run.end("stopped", "user")


def interactive() -> bool:
    """Whether this is a notebook or a prompt, where an exception ends nothing."""
    if hasattr(sys, "ps1"):
        return True
    try:
        return sys.modules["IPython"].get_ipython() is not None
    except Exception:
        return False


def end_by_exit(run: "Run") -> None:
    """Close a run that nobody closed: the interpreter keeps what ended the process."""
    error = None if interactive() else getattr(sys, "last_value", None)
    run.end(*endings.of_run(error))


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    atexit.register(_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=_after_fork_in_child,
        )


def belongs_here(run: "Run") -> None:
    """The run is used by this process, a forked one too: it ends with it.

    A process of multiprocessing ends by ``os._exit``, without atexit; but it calls
    finalizers, its own ones only.
    """
    global _finalizer_of
    _locks.add(run.lock)
    if _finalizer_of != os.getpid():
        _finalizer_of = os.getpid()
        multiprocessing.util.Finalize(None, _exit, exitpriority=0)


def _exit() -> None:
    for run in reversed(list(_open_runs)):
        end_by_exit(run)
    if isinstance(getattr(sys, "last_value", None), Terminated) and not interactive():
        _last_moment.dies = True


# The locks are held over the fork, so that the child gets totals that nobody was
# changing, and locks that no thread of the parent holds. One fork at a time.
_forking = threading.RLock()
_held: List[Any] = []


def _before_fork() -> None:
    _forking.acquire()
    saying.before_fork()  # first: who says something may want a lock of a run
    for lock in list(_locks):
        lock.acquire()
        _held.append(lock)


def _after_fork_in_parent() -> None:
    _forked(in_child=False)


def _forked(in_child: bool) -> None:
    while _held:
        _held.pop().release()
    saying.after_fork(in_child)
    _forking.release()


def _after_fork_in_child() -> None:
    _forked(in_child=True)
    _before.clear()
    for run in _open_runs:
        run.forked()
