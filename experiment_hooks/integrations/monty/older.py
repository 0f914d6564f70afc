"""``build``: a Monty that has no step hooks (before 0.39), watched all the same.

The callback puts it in the place of ``experiment._target_``. It makes the experiment
that would have been made, and stands in for two methods of that one object: ``setup_
experiment``, after which there is a model to watch, and ``close``.
"""

import importlib
from typing import Any, Callable

from experiment_hooks.integrations.monty.hook import StepHook
from experiment_hooks.integrations.monty.stand_in import stand_in


def build(made: str, watched: Any, **config: Any) -> Any:
    """Make the experiment of class ``made``, and let ``watched`` see it.

    Args:
        made: the experiment's class, with its module.
        watched: the step hook.
        config: what the class is made with.
    """
    module, _, name = made.rpartition(".")
    experiment = getattr(importlib.import_module(module), name)(**config)
    if isinstance(watched, StepHook):
        stand_in(experiment, "setup_experiment", _after_setup(experiment, watched))
        stand_in(experiment, "close", _before_close(watched))
    return experiment


def _after_setup(experiment: Any, hook: StepHook) -> Callable[..., Any]:
    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        def setup_experiment(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            hook.watch(experiment)
            return result

        return setup_experiment

    return made


def _before_close(hook: StepHook) -> Callable[..., Any]:
    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        def close(*args: Any, **kwargs: Any) -> Any:
            hook.close()
            return original(*args, **kwargs)

        return close

    return made
