"""How an exception ends an episode, or a run; and what of it is told.

Values only, and no rule but the words: any thread may ask. Never raises: not every
exception has a text.
"""

import traceback
from typing import Optional, Tuple

from experiment_hooks import plain, wire
from experiment_hooks.errors import RunStopped, Terminated

MAX_TRACEBACK = 16 * 1024


def of_episode(error: BaseException) -> Tuple[str, Optional[wire.ErrorInfo]]:
    """Outcome and error of an episode that ``error`` went through."""
    if isinstance(error, (KeyboardInterrupt, RunStopped)):
        return "stopped", None
    if isinstance(error, GeneratorExit):
        return "ended", None
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return "ended", None
    return "error", error_info(error)


def of_run(
    error: Optional[BaseException],
) -> Tuple[str, str, Optional[wire.ErrorInfo]]:
    """Ending, reason and error of a run that ends by ``error`` (None: normally)."""
    if error is None or isinstance(error, GeneratorExit):
        return "completed", "", None
    if isinstance(error, Terminated):
        return "stopped", "signal", None
    if isinstance(error, (KeyboardInterrupt, RunStopped)):
        return "stopped", "user", None
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return "completed", "", None
        return "failed", "", wire.ErrorInfo("SystemExit", plain.text(error.code, 500))
    return "failed", "", error_info(error)


def error_info(error: BaseException) -> wire.ErrorInfo:
    """An exception as text; of a long traceback the end is kept."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        text = "".join(lines)
    except Exception:
        text = "(the traceback could not be formatted)"
    try:
        message = str(error)
    except Exception:
        message = "(the message could not be formatted)"
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    return wire.ErrorInfo(
        plain.text(name, 200),
        plain.text(message, 2000),
        plain.text(text[-MAX_TRACEBACK:], MAX_TRACEBACK),
    )
