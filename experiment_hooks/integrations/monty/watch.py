"""One experiment under watch: its run, its episodes, what is counted of them.

It is told of each step, and finds out the rest by itself: the experiment, by who calls;
an episode's beginning, by the model's first step after an end; its end, by the model's
own update of its long-term memory, which every kind of experiment does exactly once an
episode, at every log level, after its logger has written the episode's row. For that it
stands in for methods of that one model (never of its class), which then do what they
did.

All of it runs on the experiment's thread. Nothing is raised but what Monty raises; what
goes wrong in here is logged once, and the experiment goes on unwatched. No random
number is drawn, and nothing that Monty keeps is changed.
"""

import contextlib
import logging
import os
import sys
import time
import weakref
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

import experiment_hooks as eh
from experiment_hooks.disabled import NoRun
from experiment_hooks.errors import RunStopped
from experiment_hooks.integrations.monty import facts, outcome, stop
from experiment_hooks.integrations.monty.belief import Belief
from experiment_hooks.integrations.monty.former import Broadcaster
from experiment_hooks.integrations.monty.lines import Lines
from experiment_hooks.integrations.monty.numbers import Numbers
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.integrations.monty.stand_in import Made, StandIn, stand_in
from experiment_hooks.integrations.monty.view import (
    View,
    phase_of,
    target_name,
    target_of,
)
from experiment_hooks.no_episode import NO_EPISODE

logger = logging.getLogger("experiment_hooks")

MAX_FRAMES = 10
"""So far up the experiment is looked for: another step hook may be between."""
MAX_MISSED = 1000
"""So many steps before the first that is seen are counted, and no more."""

_watching: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def current() -> "Optional[Watch]":
    """The watch of this process that has an episode open, if there is one."""
    return next((one for one in _watching if one.in_episode), None)


class Watch:
    """Watches one experiment.

    Args:
        options: how.
        told: whether the run is another's who has said what it is, the callback's.
    """

    def __init__(self, options: Options, told: bool) -> None:
        self._options = options
        self._told = told
        self._off = options.disabled
        self._run: Optional[eh.Run] = None
        self._experiment: Any = None
        self._monty: Any = None
        self._episode: eh.Episode = NO_EPISODE
        self._phase: Any = None
        self._step_type: Any = None
        self._terminal: Dict[int, Any] = {}
        self._stopped: Optional[RunStopped] = None
        # An experiment may run while an error is handled: a second try, say.
        self._handled: Optional[BaseException] = None
        self._stepping = False
        self._hookless = False
        self._finished = False
        self._left = 0.0  # when the hook was left last; 0: not in this episode
        self._numbers: Optional[Numbers] = None
        self._lines: Optional[Lines] = None
        self._view = View(options, self._seen)
        self._stand_ins: List[Optional[StandIn]] = []

    @property
    def in_episode(self) -> bool:
        """Whether an episode is open."""
        return not self._episode.closed

    # --- what the hook says -----------------------------------------------------------

    def open(self) -> None:
        """Join the run before there is an experiment."""
        if not self._off:
            with self._guarded():
                run = self._opened({})
                # Where the callback is in this process too, the run is the callback's.
                self._run = run if run.takes_guests else run.take_guests()

    def step(self, monty: Any, observations: Any, actions: Any) -> None:
        """A step was made; Monty has chosen its actions.

        Raises:
            RunStopped: a stop was asked for, and there is no experiment that can be
                brought to its end.
        """
        if self._off:
            return
        with self._guarded():
            if monty is not self._monty:
                self._attach(monty)
                self._begin()
                # Until 0.46 there may have been motor-only steps before this one.
                missed = getattr(monty, "episode_steps", 1) - 1
                for _ in range(min(missed, MAX_MISSED)):
                    self._episode.step()
            self._step(monty, observations, actions)
        if self._stopped is not None:
            self._stop(within=True)

    def follow(self, experiment: Any) -> None:
        """Watch an experiment that calls no step hook, by its model's steps alone."""
        if not self._off:
            with self._guarded():
                self._hookless = True
                self._experiment = experiment
                self._attach(experiment.model)

    def close(self, error: Optional[BaseException]) -> None:
        """The experiment is over, by ``error`` or at its end; again: nothing."""
        run, self._run = self._run, None
        self._off = True
        if run is None:
            return
        if error is self._handled:
            error = None
        with contextlib.suppress(Exception):
            self._detach()
        ending = error if error is not None else self._stopped
        kind = None if ending is None else type(ending)
        trace = None if ending is None else ending.__traceback__
        with contextlib.suppress(RunStopped):
            self._episode.__exit__(kind, ending, trace)
        run.__exit__(kind, ending, trace)
        self._experiment = self._handled = None

    def report(self, stats: Dict[str, Any]) -> None:
        """Monty's logger has computed the statistics of the episode that is open."""
        with self._guarded():
            self._finish(stats)

    # --- the run ----------------------------------------------------------------------

    def _opened(self, said: Dict[str, Any]) -> eh.Run:
        options = self._options
        config = getattr(self._experiment, "config", None)
        name = options.name or facts.run_name(config) or "monty"
        with environment(options):
            return eh.open_run(name, stoppable=True, promise=options.promise, **said)

    def _introduced(self) -> eh.Run:
        """The run, when it has been said what it is."""
        said = self._said()
        if self._run is None:
            return self._opened(said)
        self._opened(said).close()  # as a guest: it adds what it says
        return self._run

    def _said(self) -> Dict[str, Any]:
        """What the experiment is, as far as nobody else has said so."""
        said: Dict[str, Any] = {
            "success": outcome.SUCCESS if self._succeeds() else None
        }
        if not self._told:
            said["tags"] = {"kind": "monty", **self._options.tags}
            config = getattr(self._experiment, "config", None)
            kind = _kind(self._experiment)
            said["facts"] = {"monty": facts.facts(config, kind)}
            if not facts.is_part(config):
                said["expected_episodes"] = facts.expected_episodes(config)
        return said

    def _succeeds(self) -> bool:
        return facts.success_is_told(_kind(self._experiment))

    # --- the model --------------------------------------------------------------------

    def _attach(self, monty: Any) -> None:
        """The first step of an experiment, or of a model that has replaced another."""
        self._detach()
        self._monty, self._handled = monty, sys.exc_info()[1]
        if not self._hookless:
            self._experiment = _experiment_of(monty) or self._experiment
        if self._lines is None:
            run = self._run = self._introduced()
            if not hasattr(self._experiment, "broadcaster"):
                with contextlib.suppress(AttributeError):  # none, or it takes nothing
                    self._experiment.broadcaster = Broadcaster(run)
            if isinstance(run, NoRun):
                self._off = True
                return
            self._numbers = Numbers(run, self._options)
            self._lines = Lines(run, self._options, self._event)
        self._stand_in(monty, "step", self._model_step)
        self._stand_in(monty, "motor_only_step", self._motor_only_step)
        end = "update_ltm" if hasattr(monty, "update_ltm") else "post_episode"
        self._stand_in(monty, end, self._episode_ends)
        _watching.add(self)

    def _stand_in(self, owner: Any, name: str, made: Made) -> None:
        self._stand_ins.append(stand_in(owner, name, made))

    def _detach(self) -> None:
        while self._stand_ins:
            standing = self._stand_ins.pop()
            if standing is not None:
                standing.give_back()
        self._monty = None
        self._view.forget()
        if self._off and self._lines is not None:
            self._lines.close()

    def _model_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self._off:
                return original(*args, **kwargs)
            began = time.perf_counter()
            with self._guarded():
                self._begin()
            self._stepping = True
            try:
                result = original(*args, **kwargs)
            finally:
                self._stepping = False
            with self._guarded():
                self._timed(began, time.perf_counter())
            if self._hookless:
                self.step(self._monty, args[0] if args else {}, [])
            return result

        return step

    def _motor_only_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Until 0.46 the experiment itself makes such steps, and no hook hears of them.
        def motor_only_step(*args: Any, **kwargs: Any) -> Any:
            if not self._stepping and not self._off:
                with self._guarded():
                    self._begin()
                    self._episode.step()
            return original(*args, **kwargs)

        return motor_only_step

    def _episode_ends(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update_ltm(*args: Any, **kwargs: Any) -> Any:
            with self._guarded():
                self._finish(None)
            result = original(*args, **kwargs)
            with self._guarded():
                self._end()
            if self._stopped is not None:
                self._stop(within=False)
            return result

        return update_ltm

    # --- an episode -------------------------------------------------------------------

    def _begin(self) -> None:
        """An episode begins, unless one is open."""
        if not self._episode.closed or self._run is None or self._stopped is not None:
            return
        monty, experiment = self._monty, self._experiment
        mode = getattr(monty, "experiment_mode", None) or "train"
        mode = str(getattr(mode, "value", mode))
        self._run.heed_stop()
        counters = _counters(experiment)
        self._left, self._finished, self._phase = 0.0, False, None
        self._terminal = {}
        self._episode = self._run.episode(
            mode=mode,
            epoch=None if _is_part(experiment) else counters.get(f"{mode}_epochs"),
            index=counters.get(f"{mode}_episodes"),
            target=target_of(monty) or target_name(counters.get("target")),
            seed=counters.get("episode_seed"),
        )
        self._enter_phase(monty)

    def _step(self, monty: Any, observations: Any, actions: Any) -> None:
        self._begin()
        episode, view = self._episode, self._view
        view.show(monty, observations, actions)
        if getattr(monty, "step_type", None) != self._step_type:
            self._enter_phase(monty)
        for number, lm in enumerate(monty.learning_modules):
            reached = getattr(lm, "terminal_state", None)
            if reached != self._terminal.get(number):
                self._reached(number, lm, reached)
        episode.step(view.state, view.scores, view.images)
        self._left = time.perf_counter()

    def _enter_phase(self, monty: Any) -> None:
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
        self._step_type = getattr(monty, "step_type", None)
        self._phase = self._episode.phase(phase_of(monty))
        self._phase.__enter__()

    def _reached(self, number: int, lm: Any, state: Any) -> None:
        """A learning module has come to, or left, a terminal state."""
        self._terminal[number] = state
        said = {"learning_module": f"LM_{number}", "state": state}
        if getattr(lm, "detected_object", None) is not None:
            said["object"] = lm.detected_object
        self._episode.event("terminal state", **said)

    def _finish(self, stats: Optional[Dict[str, Any]]) -> None:
        """Say how the episode came out, once: Monty's logger is the first to know."""
        if self._episode.closed or self._finished:
            return
        monty = self._monty
        if stats is None:
            stats = self._stats()
        found = outcome.outcome_of(stats, self._view.beliefs(), monty, self._succeeds())
        self._finished = True
        self._episode.finish(found.outcome, found.results, **found.attributes)
        if self._numbers is not None:
            self._numbers.ended(self._episode.mode, self._episode.target, found)

    def _stats(self) -> Dict[str, Any]:
        counters = _counters(self._experiment)
        target = counters.get("target") or getattr(self._monty, "primary_target", None)
        try:
            return outcome.stats_of(self._monty, target, counters.get("episode_seed"))
        except Exception as error:
            # A model of one's own: the episode is told all the same, without them.
            assert self._run is not None
            kind = type(error).__name__
            self._run.drop("monty_stats", f"no statistics of an episode: {kind}")
            return {}

    def _end(self) -> None:
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
            self._phase = None
        episode, self._episode = self._episode, NO_EPISODE
        episode.close()

    def _timed(self, began: float, ended: float) -> None:
        if self._numbers is not None and not self._episode.closed:
            environment = began - self._left if self._left else 0.0
            self._numbers.step(ended - began, environment)

    def _seen(self, beliefs: Dict[str, Belief]) -> None:
        # A stop that comes here is raised again where the episode is told of it.
        with contextlib.suppress(RunStopped):
            if self._numbers is not None:
                self._numbers.seen(self._episode.mode, beliefs)

    def _event(self, name: str, fields: Dict[str, Any]) -> None:
        # Called from within Monty's logging: a stop has to wait for the hook.
        with self._guarded():
            renamed = {_SAID_ALREADY.get(key, key): fields[key] for key in fields}
            self._episode.event(name, **renamed)

    # --- a stop -----------------------------------------------------------------------

    def _stop(self, within: bool) -> None:
        """Bring the experiment to its end.

        Raises:
            RunStopped: where it cannot be brought there.
        """
        stopped, experiment = self._stopped, self._experiment
        assert stopped is not None
        with contextlib.suppress(RunStopped):
            self._episode.__exit__(type(stopped), stopped, None)
        self._episode = NO_EPISODE
        self._off = True
        # In parallel W&B logging each process owes the whole a row of numbers.
        owes = facts.get(getattr(experiment, "config", None), _OWES)
        if experiment is None or (owes and within):
            raise stopped
        self._stand_ins += stop.end_softly(experiment, within)
        with contextlib.suppress(Exception):
            logger.warning("episight: asked to stop: Monty comes to its end")

    # --- what goes wrong --------------------------------------------------------------

    def _guarded(self) -> "Watch":
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> bool:
        if error is None:
            return False
        if isinstance(error, RunStopped):
            self._stopped = error
            return True
        if not isinstance(error, Exception):
            return False
        self._off = True
        with contextlib.suppress(Exception):
            self._end()
        with contextlib.suppress(Exception):  # somebody's log handler has raised, say
            logger.warning("episight: Monty goes on unwatched", exc_info=error)
        return True


_SAID_ALREADY = {"name": "its_name", "self": "itself"}
_OWES = "logging.log_parallel_wandb"


@contextlib.contextmanager
def environment(options: Options) -> Iterator[None]:
    """What the options say, as the environment says it to ``open_run``.

    The endpoint stays, for processes that are started later.
    """
    if options.endpoint:
        os.environ["EPISIGHT_ENDPOINT"] = options.endpoint
    said = os.environ.get("EPISIGHT_RUN_ID")
    if options.run_id and not said:
        os.environ["EPISIGHT_RUN_ID"] = options.run_id
    try:
        yield
    finally:
        if options.run_id and not said:
            os.environ.pop("EPISIGHT_RUN_ID", None)


def _experiment_of(monty: Any) -> Any:
    """The experiment that has this model: it is among the callers; None if it is not.

    Monty hands a step hook the model, and nothing that leads from it to the experiment.
    """
    frame = sys._getframe(1)
    for _ in range(MAX_FRAMES):
        found = frame.f_locals.get("self")
        if getattr(found, "model", None) is monty and hasattr(found, "run_episode"):
            return found
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def _kind(experiment: Any) -> Optional[str]:
    return None if experiment is None else type(experiment).__name__


def _counters(experiment: Any) -> Dict[str, Any]:
    try:
        return dict(experiment.logger_args)
    except Exception:  # no experiment, or one of one's own
        return {}


def _is_part(experiment: Any) -> bool:
    return facts.is_part(getattr(experiment, "config", None))
