"""The run of ``EPISIGHT_DISABLED=1``: an object whose methods do nothing."""

import threading
from typing import Any, Awaitable, Callable, Dict

from experiment_hooks import process
from experiment_hooks.episode import Episode
from experiment_hooks.finished import FINISHED
from experiment_hooks.metrics import NO_SERIES, Series
from experiment_hooks.no_episode import NO_EPISODE
from experiment_hooks.run import Run


class NoRun(Run):
    """A run that takes every call and does nothing."""

    def __init__(self, name: str) -> None:
        self.id = ""
        self.name = name
        self.entered = False
        self._closed = False
        self._guests = None
        self._lock = threading.RLock()

    def episode(self, *args: Any, **kwargs: Any) -> Episode:
        return NO_EPISODE

    def progress(self) -> None:
        pass

    def counter(self, *args: Any, **kwargs: Any) -> Series:
        return NO_SERIES

    gauge = histogram = counter

    def publish_metric(self, name: str, value: float, **tags: Any) -> Awaitable[None]:
        return FINISHED

    def publish_data(self, name: str, value: Any) -> Awaitable[None]:
        return FINISHED

    def publish_log(self, level: str, message: str, **fields: Any) -> Awaitable[None]:
        return FINISHED

    def publish_state(self, state: Any) -> Awaitable[None]:
        return FINISHED

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass

    def drop(self, reason: str, detail: str = "") -> None:
        pass

    @property
    def watched(self) -> bool:
        return False

    def take_guests(self) -> Run:
        return self

    def add_guest(self, *args: Any, **kwargs: Any) -> Run:
        return self

    def on_command(self, name: str, callback: Callable[..., Any]) -> None:
        pass

    def heed_stop(self) -> None:
        pass

    def end(self, *args: Any, **kwargs: Any) -> None:
        self._closed = True
        process.leave(self)

    def forked(self) -> None:
        pass

    @property
    def url(self) -> str:
        return ""

    @property
    def token(self) -> str:
        return ""

    @property
    def owned(self) -> bool:
        return False

    @property
    def lock(self) -> Any:
        return self._lock

    @property
    def dropped(self) -> Dict[str, int]:
        return {}
