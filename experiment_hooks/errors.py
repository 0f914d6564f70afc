"""What the hooks can raise, named by whose fault it is.

    EpisightError
    ├── UsageError      the code said something wrong: raised at ``open_run`` only
    └── SetupError      the machine lacks something: raised only with EPISIGHT_STRICT=1
    RunStopped          somebody asked the run to stop, and the run can be stopped
    Terminated          SIGTERM came, and EPISIGHT_SIGTERM=1: a KeyboardInterrupt

After ``open_run`` nothing but these last two ever reaches the experiment.
"""


class EpisightError(Exception):
    """Base of the errors that the hooks raise."""


class UsageError(EpisightError, ValueError):
    """An argument of ``open_run`` is wrong; the message says what to change."""


class SetupError(EpisightError, RuntimeError):
    """The machine lacks something, and EPISIGHT_STRICT=1 asks to be told."""


class RunStopped(Exception):  # noqa: N818 (a signal to the experiment, not an error)
    """The run was asked to stop; raised at the boundary that was asked for.

    Attributes:
        reason: what the person gave as reason, may be empty.
        by: who asked.
    """

    def __init__(self, reason: str = "", by: str = "") -> None:
        super().__init__(reason or "stop asked for")
        self.reason = reason
        self.by = by


class Terminated(KeyboardInterrupt):
    """SIGTERM came, and ``EPISIGHT_SIGTERM=1`` asks for an interrupt instead of death.

    Code that knows Ctrl-C knows what to do, so it has no public name of its own.
    """
