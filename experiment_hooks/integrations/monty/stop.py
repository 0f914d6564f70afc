"""A stop that somebody asked for: Monty ends as it does after its last episode.

An exception would leave Monty's loops in the middle: its results unmerged, its model
not saved, and ``run_parallel`` without the rest of what its other processes did. So the
experiment, this one object and never its class, is given methods that do nothing: the
episode that is open ends without a row, no further one begins, and all that Monty does
at its end it does.

The episode that is open ends by ``_recognition_complete`` (0.5x) or by the model's
being done (before).
"""

from typing import Any, Callable, List, Optional

from experiment_hooks.integrations.monty.stand_in import Made, StandIn, stand_in


def end_softly(experiment: Any, within: bool) -> List[Optional[StandIn]]:
    """Let ``experiment`` come to its end.

    Args:
        experiment: Monty's experiment, in the midst of ``run``.
        within: whether an episode is to be left in the middle.

    Returns:
        What stands in for its methods, to be given back when it has ended.
    """
    quiet = ["run_epoch", "train", "evaluate"]
    standing = [stand_in(experiment, "run_episode", _always(_NoEpisode(experiment)))]
    if within:
        quiet.append("post_episode")
        standing.append(stand_in(experiment, "_recognition_complete", _always(_yes)))
        for name in ("set_done", "set_is_done"):
            done = getattr(experiment.model, name, None)
            if done is not None:
                done()
    return standing + [stand_in(experiment, name, _always(_nothing)) for name in quiet]


def _always(call: Callable[..., Any]) -> Made:
    return lambda original: call


class _NoEpisode:
    """In place of ``run_episode``.

    Monty runs an epoch's episodes in a loop over objects, which ends by itself, or, of
    a camera's stream, for ever, until Ctrl-C: which this is then.
    """

    def __init__(self, experiment: Any) -> None:
        kinds = type(getattr(experiment, "env_interface", None)).__mro__
        self._stream = any("FromStream" in kind.__name__ for kind in kinds)

    def __call__(self) -> None:
        if self._stream:
            raise KeyboardInterrupt


def _nothing(*_: Any) -> None:
    pass


def _yes(*_: Any) -> bool:
    return True
