"""Log lines about what others got wrong: who it was is named, at a bounded rate.

Used by one thread at a time. The first complaint of each offender is logged, then his
2nd, 4th, 8th and so on, and of all offenders together a few lines a minute: what is not
logged is counted where it was found.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

MAX_A_MINUTE = 30
MAX_OFFENDERS = 1000


class Complaints:
    """Says them.

    Args:
        logger: where.
        clock: monotonic seconds.
    """

    def __init__(
        self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._seen: Counter[tuple[str, str]] = Counter()
        self._minute = clock()
        self._said = 0

    def say(self, what: str, who: str, detail: str) -> None:
        """Somebody's fault, again or for the first time.

        Args:
            what: the kind of fault, as it is counted.
            who: names the offender.
            detail: what is wrong with what he sent.
        """
        if len(self._seen) >= MAX_OFFENDERS and (what, who) not in self._seen:
            self._seen.clear()
        self._seen[what, who] += 1
        seen = self._seen[what, who]
        if seen & (seen - 1) == 0 and self._room():
            self._logger.warning(
                "%s (%d so far of %s): %s", what, seen, who, detail[:500]
            )

    def _room(self) -> bool:
        now = self._clock()
        if now - self._minute >= 60:
            left_out = self._said - MAX_A_MINUTE
            if left_out > 0:
                self._logger.warning("%d more complaints were not logged", left_out)
            self._minute, self._said = now, 0
        self._said += 1
        return self._said <= MAX_A_MINUTE
