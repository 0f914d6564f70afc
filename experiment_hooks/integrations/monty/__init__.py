"""Monty: what the Thousand Brains Project's experiments live through, as runs.

``+episight=monty`` on Monty's command line does it all. Its parts are usable alone, by
their names in a configuration:

- ``StepHook``: sees each step, and from there the whole experiment.
- ``Callback``: Hydra's; says what the run is, how it ends, and puts the hook in place.
- ``EpisodeHandler``: sees each episode's results; for a Monty without step hooks.
- ``TelemetryHandler``: a ``logging.Handler`` for Monty's telemetry events.
- ``build``: makes a Monty without step hooks (before 0.39) call us.

Needs no more than the hooks do until one of them is used: ``Callback`` imports Hydra,
``EpisodeHandler`` Monty. Nothing of Monty is changed, no random number is drawn, and
what Monty saves knows nothing of us.
"""

import importlib
from typing import Any

from experiment_hooks.integrations.monty.hook import StepHook
from experiment_hooks.integrations.monty.lines import TelemetryHandler

__all__ = ["Callback", "EpisodeHandler", "StepHook", "TelemetryHandler", "build"]

_IN = {"Callback": "callback", "EpisodeHandler": "handler", "build": "older"}


def __getattr__(name: str) -> Any:
    if name not in _IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_IN[name]}"), name)
