"""``LogHandler``: the experiment's ``logging`` records, on the run's page.

Bounded in rate by a token bucket: a loop that logs at every step costs the run nothing
but the lines that are left out, which are counted.
"""

import logging
import time
from typing import Optional

from experiment_hooks import process
from experiment_hooks.run import Run

RATE = 50.0
BURST = 200.0
_OWN = "experiment_hooks"


class LogHandler(logging.Handler):
    """Sends log records to the run; add it to any logger.

    Args:
        run: the run; the one opened last when left out.
        level: as of :class:`logging.Handler`.
        rate: lines a second in the long run; up to 200 at once.
    """

    def __init__(
        self,
        run: Optional[Run] = None,
        level: int = logging.NOTSET,
        rate: float = RATE,
    ) -> None:
        super().__init__(level)
        self._run = run
        self._rate = rate
        self._tokens = BURST
        self._at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Record one line; never raises, never blocks."""
        run = self._run or process.current_run()
        # Our own warnings would come back to us, for ever.
        if run is None or run.closed or record.name.split(".")[0] == _OWN:
            return
        try:
            if self._spend():
                message = record.getMessage()
                if record.exc_info and record.exc_info[1] is not None:
                    message = f"{message}\n{self._formatted(record)}"
                run.log(record.levelname, message, record.name, {}, record.created)
            else:
                run.drop("log_rate")
        except Exception:
            run.drop("log_record", f"a record of {record.name} could not be formatted")

    def _spend(self) -> bool:
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @staticmethod
    def _formatted(record: logging.LogRecord) -> str:
        assert record.exc_info
        return logging.Formatter().formatException(record.exc_info)
