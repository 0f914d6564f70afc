"""``StepHook``: Monty's own slot for who wants to see each step.

    +experiment.config.step_hook._target_=experiment_hooks.integrations.monty.StepHook

It needs nothing else, and gives back the actions that it was given. Another step hook
may be in front of it: ``first``.
"""

import multiprocessing
import sys
from typing import Any, Dict, List

from experiment_hooks.integrations.monty.options import read
from experiment_hooks.integrations.monty.say import say_once
from experiment_hooks.integrations.monty.watch import Watch


class StepHook:
    """Watches a Monty experiment; made by Hydra, called by Monty after each step.

    No dataclass: OmegaConf would take an instance for a configuration. Making one does
    nothing (``run_parallel`` makes one more than it uses), but in a process that
    multiprocessing has started: there it joins the run before the experiment is set up,
    and so knows of a stop before the first step.
    """

    def __init__(self, first: Any = None, told: bool = False, **options: Any) -> None:
        """Say how the experiment is watched.

        Args:
            first: another step hook. It is called before, with the same arguments, its
                actions are what Monty is given, and it is closed too.
            told: whether the callback has said what the run is.
            options: as in the config group ``episight``.
        """
        self._first = first
        self._told = told
        self._given = options
        self._options, problems = read(options)
        for problem in problems:
            say_once(problem)
        self._watch = Watch(self._options, told)
        if multiprocessing.parent_process() is not None:
            self._watch.open()

    def __call__(
        self,
        ctx: Any,
        monty: Any,
        supervised_lm_ids: List[str],
        step: int,
        observations: Any,
        actions: List[Any],
    ) -> List[Any]:
        """See a step; the arguments, and what is returned, are Monty's."""
        if self._first is not None:
            actions = self._first(
                ctx, monty, supervised_lm_ids, step, observations, actions
            )
        self._watch.step(monty, observations, actions)
        return actions

    def close(self) -> None:
        """The experiment is over: Monty calls this first, by whatever it ended."""
        # Called in a with statement's exit: what ended it is being handled.
        error = sys.exc_info()[1]
        # The experiment, and so the hook, may be used again.
        watch, self._watch = self._watch, Watch(self._options, self._told)
        try:
            if self._first is not None:
                self._first.close()
        finally:
            watch.close(error)

    def watch(self, experiment: Any) -> None:
        """See the steps of an experiment that calls no step hook; see ``build``."""
        self._watch.follow(experiment)

    def __getstate__(self) -> Dict[str, Any]:
        # Nobody is known to pickle one. If so, it is a new one that comes out.
        return {"first": self._first, "told": self._told, **self._given}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
