"""Where there is no episode: an object that takes every call and does nothing.

It costs a call, and owns nothing; so one is enough for all threads.
"""

from typing import Any, Mapping, Optional

from experiment_hooks.episode import Episode


class NoEpisode(Episode):
    """Takes every call and does nothing: hooks disabled, or a bound is reached."""

    __slots__ = ()

    def __init__(self) -> None:
        self.number = self.steps = 0
        self.mode = ""
        self.epoch = self.index = self.target = self.seed = None
        self.started = self.start = 0.0
        self._closed = True

    def step(self, state: Any = None, scores: Any = None, images: Any = None) -> None:
        pass

    def event(self, name: str, **attributes: Any) -> None:
        pass

    def finish(
        self,
        outcome: str = "ended",
        results: Optional[Mapping[str, float]] = None,
        **attributes: Any,
    ) -> None:
        pass

    def phase(self, name: str, promise: Optional[float] = None) -> Any:
        return self

    def close(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def __enter__(self) -> "NoEpisode":
        return self

    @property
    def trace_id(self) -> str:
        return "0" * 32

    @property
    def traceparent(self) -> str:
        return ""


NO_EPISODE = NoEpisode()
