"""A stop that somebody asked for: Monty ends as it does after its last episode.

An exception would leave Monty's loops in the middle: its results unmerged, its model
not saved, and ``run_parallel`` without the rest of what its other processes did. So the
experiment, this one object and never its class, is given methods that do nothing: the
episode that is open ends without a row, no further one begins, and all that Monty does
at its end it does.

The episode that is open ends by ``_recognition_complete`` (0.5x) or by the model's
being done (before).
"""

from typing import Any


def end_softly(experiment: Any, within: bool) -> None:
    """Let ``experiment`` come to its end.

    Args:
        experiment: Monty's experiment, in the midst of ``run``.
        within: whether an episode is to be left in the middle.
    """
    if within:
        experiment.post_episode = _nothing
        experiment._recognition_complete = _yes
        for name in ("set_done", "set_is_done"):
            done = getattr(experiment.model, name, None)
            if done is not None:
                done()
    experiment.run_episode = _NoEpisode(experiment)
    experiment.run_epoch = _nothing
    experiment.train = _nothing
    experiment.evaluate = _nothing


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
