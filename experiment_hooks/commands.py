"""What a run can be told to do, and what it answers.

Owns who takes which command. Commands come on the thread that pumps the line, and
callbacks, which are the user's, run there: what one raises is an answer, and goes no
further. A stop is only handed on: the experiment's own threads raise it, when they come
to the boundary that it names.
"""

import logging
import time
from typing import Any, Callable, Dict

from experiment_hooks import plain, signals, wire
from experiment_hooks.recorder import Recorder

logger = logging.getLogger("experiment_hooks")


class Commands:
    """The commands of one run.

    Args:
        recorder: takes the answers, and a stop.
        stoppable: whether a stop may be raised in the experiment.

    Attributes:
        stoppable: as given; or a callback for a stop came, or a guest that can be.
    """

    def __init__(self, recorder: Recorder, stoppable: bool) -> None:
        self.stoppable = stoppable
        self._recorder = recorder
        self._closed = False
        self._callbacks: Dict[str, Callable[..., Any]] = {}

    def take(self, name: str, callback: Callable[..., Any]) -> None:
        """From now on this callback takes the commands of this name."""
        self._callbacks[name] = callback
        if name == "stop":
            self.stoppable = True

    def came(self, command: wire.Command) -> None:
        """Somebody gave a command: it is answered and done."""
        callback = self._callbacks.get(command.name)
        if callback is None and not (command.name == "stop" and self.stoppable):
            self._answer(command, "failed", "this run does not take that command")
            return
        self._answer(command, "accepted")
        if callback is not None:
            try:
                with signals.as_before():  # it may start a process
                    callback(command)
            except (Exception, SystemExit) as error:
                logger.warning("episight: %s failed", command.name, exc_info=True)
                self._answer(command, "failed", f"{type(error).__name__}: {error}")
                return
        if self._closed:  # by the callback, say
            return
        if command.name == "stop":
            self._recorder.ask_stop(command)
        else:
            self._answer(command, "done")

    def close(self) -> None:
        """The run is closed: nothing is stopped any more, nor said to be done."""
        self._closed = True

    def _answer(self, command: wire.Command, state: str, detail: str = "") -> None:
        self._recorder.record(
            lambda **base: wire.CommandAnswered(
                command=command.id, state=state, detail=plain.text(detail, 500), **base
            ),
            time.time(),
        )
