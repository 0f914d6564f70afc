"""A source without a sender, for tests: its clock, and what would have been sent."""

from typing import Any, Dict, List, Optional, Tuple

import pytest

from experiment_hooks import episode as episodes
from experiment_hooks import recorder, wire
from experiment_hooks.episode import Episode
from experiment_hooks.recorder import Recorder


class Clock:
    """A clock that goes on when it is told to; stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1.7e9

    @classmethod
    def put_in(cls, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        """Let the hooks read their time from here."""
        found = cls()
        monkeypatch.setattr(episodes, "time", found)
        monkeypatch.setattr(recorder, "time", found)
        return found

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def go(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


def start(
    source: Recorder, mode: str = "train", index: Optional[int] = None, **more: Any
) -> Episode:
    """Open an episode."""
    given = {"epoch": None, "target": None, "seed": None, **more}
    opened = source.start_episode(mode, index=index, **given)
    assert opened is not None
    return opened


def taken_out(source: Recorder) -> List[Any]:
    """All records in the outbox, as the exporter would read them."""
    taken = source.take_records(10**6, 10**9)
    return [wire.decode_record(data) for _, data in taken]


def sample(source: Recorder, number: int = 1) -> wire.Sample:
    """The source's next sample, without its attachments."""
    return source.sample(number, 1.0)[0]


def series(source: Recorder) -> Dict[Tuple[str, Tuple[str, ...]], Tuple[float, ...]]:
    """The totals by name and label values, read as the exporter reads them."""
    totals = wire.unpack_totals(source.totals())
    found = {}
    at = 0
    for one, _ in source._catalogue._series:
        spec = source._catalogue._metrics[one.metric]
        found[spec.name, one.values] = totals[at : at + wire.slots(spec)]
        at += wire.slots(spec)
    assert at == len(totals)
    return found
