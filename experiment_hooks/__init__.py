"""Hooks for experiments that run in episodes; ``import experiment_hooks as eh``.

They publish to an exporter and never block, never raise into and never slow the
experiment. See :func:`open_run`.
"""

from experiment_hooks._version import __version__
from experiment_hooks.episode import Episode, Phase
from experiment_hooks.errors import EpisightError, RunStopped, SetupError, UsageError
from experiment_hooks.logs import LogHandler
from experiment_hooks.metrics import Series
from experiment_hooks.opening import open_run
from experiment_hooks.process import current_run
from experiment_hooks.run import Run

__all__ = [
    "EpisightError",
    "Episode",
    "LogHandler",
    "Phase",
    "Run",
    "RunStopped",
    "Series",
    "SetupError",
    "UsageError",
    "__version__",
    "current_run",
    "open_run",
]
