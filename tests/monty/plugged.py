"""What a user may have plugged into a Monty already; imported in Monty's process."""

import builtins
import os
import signal
from dataclasses import dataclass, field
from typing import Any, List

from tbp.monty.frameworks.experiments.object_recognition_experiments import (
    MontyObjectRecognitionExperiment,
)
from tbp.monty.frameworks.experiments.profile import ProfileExperimentMixin


@dataclass
class Counting:
    """A step hook that is a dataclass, and notes what it has seen.

    Alone in Monty's slot it could not be: OmegaConf would take it for a configuration.
    """

    path: str
    seen: List[str] = field(default_factory=list)

    def __call__(self, ctx: Any, monty: Any, *arguments: Any) -> Any:
        self.seen.append(f"{monty.episode_steps}")
        return arguments[-1]

    def close(self) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{len(self.seen)} steps\n")


class Failing:
    """A step hook that raises, or is sent a signal, at its nth call."""

    def __init__(self, at: int, raises: str = "", sends: int = 0) -> None:
        self._left = at
        self._raises = raises
        self._sends = sends

    def __call__(self, *arguments: Any) -> Any:
        self._left -= 1
        if not self._left:
            if self._sends:
                os.kill(os.getpid(), signal.Signals(self._sends))
            if self._raises:
                raise getattr(builtins, self._raises)("the arm is stuck")
        return arguments[-1]

    def close(self) -> None:
        pass


class Profiled(ProfileExperimentMixin, MontyObjectRecognitionExperiment):
    """An experiment that refuses to be subclassed."""
