"""The outbox: what was sent and comes back is what it was before."""

from typing import Any, Callable, Dict, List

from experiment_hooks import wire
from experiment_hooks.outbox import RANKS, Outbox, by_rank

BASE: Dict[str, Any] = {"run": "mug", "source": bytes(16), "time": 1.0}


def records() -> Dict[str, wire.AnyRecord]:
    end: Dict[str, Any] = {"started": 1.0, "duration": 1.0, "steps": 1, "outcome": ""}
    return {
        "essential": wire.RunClosed(seq=1, ending="completed", **BASE),
        "end": wire.EpisodeEnded(seq=2, number=0, mode="eval", **end, **BASE),
        "start": wire.EpisodeStarted(seq=3, number=0, mode="eval", **BASE),
        "log": wire.LogLine(seq=4, level="info", message="x", **BASE),
    }


def test_each_record_is_known_by_what_it_is() -> None:
    found = by_rank((one.seq, wire.encode(one)) for one in records().values())
    assert {rank: [seq for seq, _ in got] for rank, got in found.items()} == {
        rank: [one.seq] for rank, one in records().items()
    }
    assert tuple(found) == RANKS


def test_log_lines_that_were_sent_and_come_back_are_the_first_to_go() -> None:
    dropped: List[str] = []
    outbox = Outbox("mug", bytes(16), 2000, dropped.append)

    def log(size: int) -> Callable[..., wire.AnyRecord]:
        return lambda **base: wire.LogLine(level="info", message="x" * size, **base)

    for _ in range(5):
        outbox.record(log(1), 1.0, "log")
    for rank, back in by_rank(outbox.take(5, 10_000)).items():
        outbox.put_back(rank, back)
    outbox.record(log(1650), 1.0, "end")
    assert dropped == ["memory_log_lines"] * 5
    assert [seq for seq, _ in outbox.take(9, 10_000)] == [6]
