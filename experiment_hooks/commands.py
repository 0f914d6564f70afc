"""What a run can be told to do, and what it answers.

Owns who takes which command, and what was answered. Commands come on the thread that
pumps the line. Callbacks, which are the user's, may take as long as they like: they run
one after the other on a thread that is there while there are some, or, with
``thread=False``, in the hook call that pumps. What one raises is an answer, and goes no
further. A stop is only handed on: the experiment's own threads raise it, when they come
to the boundary that it names. What is known of commands is changed under the recorder's
lock, which no callback holds.

A command is ``delivered`` when it has come, which is sent before anything is done. A
stop's callback runs then, and only afterwards it is ``accepted``, so what a callback
saves is there before anybody sees that the run is stopping; it is ``done`` when it is
raised. Any other command is ``accepted`` and then ``done`` by its callback. What cannot
be done is ``failed``.
"""

import logging
import threading
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
LAST_SECONDS = 1.0
"""For so long an exit waits for a callback."""
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
        self._worker: Optional[threading.Thread] = None  # the one that does them
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
        with self._recorder.lock:
            self._stoppable = True
            early, self._early = self._early, None
            if early is not None:
                self._waiting.append(early)
        if early is not None:
            self._recorder.wake()

    def came(self, command: wire.Command) -> None:
        """Somebody gave a command: it is answered, and waits for :meth:`work`.

        One that came before is answered with the same words, and not done again.
        """
        with self._recorder.lock:
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
        if self._recorder.inline:
            self._work_off()
        elif self._waiting and not (self._worker and self._worker.is_alive()):
            worker = threading.Thread(
                target=self._work_off, name="episight-commands", daemon=True
            )
            with signals.as_before():  # what it calls may start a process
                worker.start()
            self._worker = worker

    def close(self) -> None:
        """The run ends: nothing more is begun or stopped.

        A callback that runs may come to its end, for a moment: cut off in the middle,
        a half-written file may be all that is left.
        """
        with self._recorder.lock:
            self._closed = True
            if self._early is not None:
                self._refuse(self._early)
            while self._waiting:
                self._too_late(self._waiting.popleft())
        worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(LAST_SECONDS)
        for command in self._no_longer_asked():
            self._too_late(command)

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

    def _work_off(self) -> None:
        # What comes when it has just ended waits until the line is pumped again.
        while True:
            command = self._next()
            if command is None:
                return
            self._do(command)

    def _next(self) -> Optional[wire.Command]:
        with self._recorder.lock:
            if not self._waiting:
                return None
            command = self._waiting.popleft()
            if command.name != STOP:
                self._answer(command, "accepted")
        return command

    def _do(self, command: wire.Command) -> None:
        stops = command.name == STOP
        # Who is impatient gives two: what the first has saved is not to be touched.
        trouble = "" if stops and self._recorder.stop else self._call(command)
        with self._recorder.lock:
            if trouble:
                self._answer(command, "failed", trouble)
            elif not stops:
                self._answer(command, "done")
            elif self._closed:
                self._too_late(command)
            else:
                self._answer(command, "accepted")
                self._asked.append(command)
                self._recorder.ask_stop(command)

    def _call(self, command: wire.Command) -> str:
        """What went wrong; empty: nothing."""
        callback = self._callbacks.get(command.name)
        try:
            if callback is not None:
                callback(command)
        except (Exception, SystemExit) as error:
            logger.warning("episight: %s failed", command.name, exc_info=True)
            return f"{type(error).__name__}: {error}"
        return ""

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

    def _too_late(self, command: wire.Command) -> None:
        self._answer(command, "failed", "the run ended before it came to that")

    def _answer(self, command: wire.Command, state: str, detail: str = "") -> None:
        if self._recorder.closed:  # by the callback itself, or it took too long
            return
        detail = plain.text(detail, 500)
        with self._recorder.lock:
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
