"""What is said to people about how Monty is watched: each sentence once a process."""

import contextlib
import logging
from typing import Set

logger = logging.getLogger("experiment_hooks")

MAX_SAID = 100
_said: Set[str] = set()


def say_once(sentence: str) -> None:
    """Warn of something that has no effect, with what to do instead.

    Of sentences that are never the same only so many are said.
    """
    if sentence not in _said and len(_said) < MAX_SAID:
        _said.add(sentence)
        with contextlib.suppress(Exception):  # somebody's log handler has raised, say
            logger.warning("episight: %s", sentence)
