"""What a run can be told to do, and what it answers.

Owns who takes which command, and what was answered. Commands come on the thread that
pumps the line, and callbacks, which are the user's, run there: what one raises is an
answer, and goes no further. A stop is only handed on: the experiment's own threads
raise it, when they come to the boundary that it names.

A command is ``delivered`` when it has come, which is sent before anything is done: a
callback may take long. A stop's callback runs then, and only afterwards it is
``accepted``, so what a callback saves is there before anybody sees
that the run is stopping; it is ``done`` when it is raised. Any other command is
``accepted`` and then ``done`` by its callback. What cannot be done is ``failed``.
"""

import logging
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from experiment_hooks import plain, signals, wire
from experiment_hooks.recorder import Recorder

logger = logging.getLogger("experiment_hooks")

STOP = "stop"
EARLY = 3.0
"""Seconds within which a run says that it can be stopped; a stop that comes before that
waits for it: it may come with the welcome."""
MAX_REMEMBERED = 200
"""Commands that are known again: what is said twice is done once."""


class Commands:
    """The commands of one run.

    Args:
        recorder: takes the answers, and a stop.
        stoppable: whether a stop may be raised in the experiment.
    """

    def __init__(self, recorder: Recorder, stoppable: bool) -> None:
        self._stoppable = stoppable
        self._recorder = recorder
        self._closed = False
        self._callbacks: Dict[str, Callable[..., Any]] = {}
        self._start_over()
        recorder.taken_commands = self._names
        recorder.stopping = self._raised

    def _start_over(self) -> None:
        self._since = time.monotonic()
        self._answers: Dict[str, Tuple[str, str]] = {}
        self._waiting: Deque[wire.Command] = deque()  # delivered, and to be done
        self._asked: List[wire.Command] = []  # stops that are to be raised
        self._early: Optional[wire.Command] = None

    def take(self, name: str, callback: Callable[..., Any]) -> None:
        """From now on this callback takes the commands of this name."""
        name = plain.text(name, wire.MAX_COMMAND_NAME)
        known = {STOP, name, *self._callbacks}
        if len(known) > wire.MAX_COMMANDS:
            said = f"more than {wire.MAX_COMMANDS} commands, at {name!r}"
            self._recorder.drop("commands", said)
            return
        self._callbacks[name] = callback
        if name == STOP:
            self.allow_stop()

    def allow_stop(self) -> None:
        """From now on the run can be stopped."""
        self._stoppable = True
        early, self._early = self._early, None
        if early is not None:
            self._waiting.append(early)
            self._recorder.wake()

    def came(self, command: wire.Command) -> None:
        """Somebody gave a command: it is answered, and waits for :meth:`work`.

        One that came before is answered with the same words, and not done again.
        """
        known = self._answers.get(command.id)
        if self._closed:
            return
        if known is not None:
            self._say(command.id, *known)
        elif self._takes(command.name):
            self._answer(command, "delivered")
            self._waiting.append(command)
        elif command.name == STOP and time.monotonic() - self._since < EARLY:
            self._answer(command, "delivered")
            self._early = command
        else:
            self._refuse(command)

    def work(self) -> None:
        """Do what came; called by whoever pumps, once its answers are on their way."""
        while self._waiting and not self._closed:
            self._do(self._waiting.popleft())

    def close(self) -> None:
        """The run is closed: nothing is stopped any more, nor said to be done."""
        self._closed = True
        if self._early is not None:
            self._refuse(self._early)
        for command in self._no_longer_asked():
            self._answer(command, "failed", "the run ended before it came to that")

    def forked(self) -> None:
        """In a forked child: what the parent was told is no business of its own."""
        self._start_over()

    # --- inside -------------------------------------------------------------------

    def _takes(self, name: str) -> bool:
        return name in self._callbacks or (name == STOP and self._stoppable)

    def _names(self) -> Tuple[str, ...]:
        """What it takes, sorted; asked with each sample, so about once a second."""
        early = self._early
        if early is not None and time.monotonic() - self._since >= EARLY:
            self._early = None
            self._refuse(early)
        names = {*self._callbacks}
        if self._stoppable:
            names.add(STOP)
        return tuple(sorted(names))

    def _do(self, command: wire.Command) -> None:
        stops = command.name == STOP
        if not stops:
            self._answer(command, "accepted")
        callback = self._callbacks.get(command.name)
        if callback is not None and not self._called(callback, command):
            return
        if self._closed:  # by the callback, say
            return
        if not stops:
            self._answer(command, "done")
            return
        self._answer(command, "accepted")
        with self._recorder.lock:
            self._asked.append(command)
        self._recorder.ask_stop(command)

    def _called(self, callback: Callable[..., Any], command: wire.Command) -> bool:
        try:
            with signals.as_before():  # it may start a process
                callback(command)
        except (Exception, SystemExit) as error:
            logger.warning("episight: %s failed", command.name, exc_info=True)
            self._answer(command, "failed", f"{type(error).__name__}: {error}")
            return False
        return True

    def _raised(self) -> None:
        """A stop is raised, now: so is every one that was asked for before."""
        for command in self._no_longer_asked():
            self._answer(command, "done")

    def _no_longer_asked(self) -> List[wire.Command]:
        with self._recorder.lock:
            asked, self._asked = self._asked, []
        return asked

    def _refuse(self, command: wire.Command) -> None:
        self._answer(command, "failed", "this run does not take that command")

    def _answer(self, command: wire.Command, state: str, detail: str = "") -> None:
        detail = plain.text(detail, 500)
        self._answers.pop(command.id, None)  # the newest is the last
        self._answers[command.id] = state, detail
        while len(self._answers) > MAX_REMEMBERED:
            del self._answers[next(iter(self._answers))]
        self._say(command.id, state, detail)

    def _say(self, command: str, state: str, detail: str) -> None:
        self._recorder.record(
            lambda **base: wire.CommandAnswered(
                command=command, state=state, detail=detail, **base
            ),
            time.time(),
        )
