"""Monty's log lines on the page, and its telemetry events in the episodes.

Handlers that are added to Monty's loggers while an experiment is watched, and taken
away with it: ``experiment.config`` knows nothing of them.
"""

import contextlib
import logging
import time
from typing import Any, Callable, Dict, List, Tuple

from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.logs import LogHandler
from experiment_hooks.process import current_run
from experiment_hooks.run import Run

LOGS = "tbp.monty"
TELEMETRY = "telemetry.tbp.monty"
EVERY_STEP = frozenset({"GlobalMatchingStep"})
"""Events that say no more than that there was a step, which is known."""

Told = Callable[[str, Dict[str, Any]], None]


def _to_the_run(kind: str, fields: Dict[str, Any]) -> None:
    run = current_run()
    if run is not None:
        run.log("info", kind, TELEMETRY, fields, time.time())


class TelemetryHandler(logging.Handler):
    """Turns Monty's telemetry events (0.5x) into calls of ``told``.

    Args:
        told: takes an event's kind and its fields. By default an event is a log line of
            the run, as where the handler is named in Monty's configuration.
    """

    def __init__(self, told: Told = _to_the_run) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of one event; what is none, or cannot be told, is left out."""
        event = record.msg
        with contextlib.suppress(Exception):
            # Its fields as they are: they are made plain where they are recorded.
            fields = {**vars(event), **(getattr(event, "model_extra", None) or {})}
            kind = str(fields.pop("kind"))
            if kind not in EVERY_STEP:
                self._told(kind, fields)


class Lines:
    """The handlers of one experiment.

    Args:
        run: where log lines go.
        options: which handlers there are.
        told: where telemetry events go.
    """

    def __init__(self, run: Run, options: Options, told: Told) -> None:
        self._added: List[Tuple[logging.Logger, logging.Handler, int]] = []
        if options.logs:
            self._add(logging.getLogger(LOGS), LogHandler(run, rate=options.log_rate))
        if options.telemetry:
            events = TelemetryHandler(told)
            for telemeter in _telemeters():
                self._add(telemeter, events)
                # Monty leaves them at the root's level, which is mostly WARNING.
                if telemeter.level == logging.NOTSET:
                    telemeter.setLevel(logging.INFO)

    def _add(self, target: logging.Logger, handler: logging.Handler) -> None:
        self._added.append((target, handler, target.level))
        target.addHandler(handler)

    def close(self) -> None:
        """Take the handlers away, and leave the loggers as they were."""
        for target, handler, level in self._added:
            target.removeHandler(handler)
            target.setLevel(level)
        self._added = []


def _telemeters() -> List[logging.Logger]:
    """Monty's telemetry loggers that hand on to no other of them.

    None does, unless telemetry has been configured: then the first does for all.
    """
    known = logging.Logger.manager.loggerDict.items()
    return [
        one
        for name, one in sorted(known)
        if isinstance(one, logging.Logger)
        and (name == TELEMETRY or name.startswith(TELEMETRY + "."))
        and not one.propagate
    ]
