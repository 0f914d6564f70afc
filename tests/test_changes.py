"""Changes of verdicts: all of them, once, and nothing is paid for what has ended."""

from __future__ import annotations

from typing import Any

import pytest

from exporter import changes
from exporter.changes import Changes
from exporter.state import State
from exporter.verdict import Rules
from tests.making import NOON, Teller, sample

RULES = Rules(lost_seconds=30, promise_floor_seconds=60, grace_seconds=60)


class Bench:
    """A state, a time that is given, and who looks at the verdicts."""

    def __init__(self) -> None:
        self.state = State()
        self.now = NOON
        self.number = 0
        self.changes: Changes

    def begin(self) -> None:
        self.changes = Changes(self.state, RULES, self.now)

    def told(self, teller: Teller, *records: Any) -> None:
        for record in records:
            self.state.apply(record, teller.run, record.time)

    def heard(self, teller: Teller, **more: Any) -> None:
        self.number += 1
        self.state.apply_sample(
            teller.id, sample(self.number, at=self.now, **more), self.now
        )

    def look(self) -> list[tuple[str, str, str]]:
        found = self.changes.look(self.now)
        return [(one.run, one.before, one.verdict.state) for one in found]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def opened(bench: Bench, run: str = "run", number: int = 1, **more: Any) -> Teller:
    teller = Teller(number, run, bench.now)
    bench.told(teller, teller.opened(), teller.run_opened(**more))
    return teller


def test_a_run_that_begins_goes_on_and_ends_is_told_turn_by_turn(bench: Bench) -> None:
    bench.begin()
    teller = opened(bench)
    assert bench.look() == [("run", "", "starting")]
    assert bench.look() == []
    bench.now += 1
    bench.told(teller, teller.started(at=bench.now))
    assert bench.look() == [("run", "starting", "running")]
    bench.told(teller, teller.run_closed("failed", at=bench.now))
    assert bench.look() == [("run", "running", "failed")]
    assert bench.look() == []


def test_a_run_that_ends_between_two_looks_is_told(bench: Bench) -> None:
    bench.begin()
    teller = opened(bench)
    bench.told(teller, teller.run_closed(), teller.closed())
    assert bench.look() == [("run", "", "completed")]
    assert bench.look() == []


def test_what_had_ended_before_is_known_without_a_word(bench: Bench) -> None:
    teller = opened(bench)
    bench.told(teller, teller.run_closed(), teller.closed())
    bench.begin()
    assert bench.look() == []


def test_a_run_of_before_is_unknown_until_it_is_heard(bench: Bench) -> None:
    """After a restart it would look stalled, since nobody was there to hear it."""
    teller = opened(bench, promise=5.0)
    bench.told(teller, teller.started())
    bench.now += 600
    bench.begin()
    assert bench.look() == []
    bench.heard(teller, progress=bench.now - 1)
    assert bench.look() == [("run", "", "running")]


def test_the_end_of_a_run_of_before_is_told(bench: Bench) -> None:
    teller = opened(bench)
    bench.now += 600
    bench.begin()
    assert bench.look() == []
    bench.told(teller, teller.run_closed("stopped", at=bench.now))
    assert bench.look() == [("run", "", "stopped")]


def test_a_run_that_is_replayed_is_told_only_by_its_end(bench: Bench) -> None:
    bench.begin()
    teller = Teller(at=NOON - 3600)
    opening = teller.opened(), teller.run_opened(promise=5.0), teller.started()
    bench.told(teller, *opening)
    assert bench.look() == []
    bench.told(teller, teller.run_closed())
    assert bench.look() == [("run", "", "completed")]


def test_standing_still_and_going_on(bench: Bench) -> None:
    bench.begin()
    teller = opened(bench, promise=5.0)
    bench.told(teller, teller.started())
    assert bench.look() == [("run", "", "running")]
    bench.now += 10
    assert bench.look() == [("run", "running", "stalled")]
    bench.heard(teller, progress=bench.now)
    assert bench.look() == [("run", "stalled", "running")]


def test_a_lost_run_that_comes_back(bench: Bench) -> None:
    bench.begin()
    teller = opened(bench)
    bench.told(teller, teller.started())
    bench.look()
    bench.state.source_lost(teller.id, bench.now)
    assert bench.look() == [("run", "running", "lost")]
    assert bench.look() == []
    bench.state.source_returned(teller.id)
    assert bench.look() == [("run", "lost", "running")]


def test_a_run_that_is_resumed_says_what_it_was_before(bench: Bench) -> None:
    bench.begin()
    teller = opened(bench)
    bench.told(teller, teller.run_closed(), teller.closed())
    bench.look()
    bench.now += 5
    opened(bench, number=2, resume=True)
    assert bench.look() == [("run", "completed", "starting")]


def test_ended_and_lost_runs_cost_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.begin()
    for number in range(200):
        teller = opened(bench, f"run-{number}", number)
        if number % 2:
            bench.told(teller, teller.run_closed(), teller.closed())
        else:
            bench.state.source_lost(teller.id, bench.now)
    alive = opened(bench, "alive", 201)
    assert len(bench.look()) == 201
    judged: list[str] = []
    real = changes.verdict

    def counted(run: Any, now: float, rules: Rules) -> Any:
        judged.append(run.id)
        return real(run, now, rules)

    monkeypatch.setattr(changes, "verdict", counted)
    assert bench.look() == []
    assert judged == ["alive"]
    bench.told(alive, alive.run_closed())
    assert bench.look() == [("alive", "starting", "completed")]
    assert bench.look() == []
    assert judged == ["alive", "alive"]


def test_deleted_runs_are_forgotten(bench: Bench) -> None:
    bench.begin()
    for number in range(250):
        teller = opened(bench, f"run-{number}", number)
        bench.told(teller, teller.run_closed(), teller.closed())
        bench.look()
        bench.state.forget(teller.run)
    assert len(bench.changes._known) <= 101
    again = opened(bench, "run-249", 1)
    bench.state.forget("run-249")
    assert bench.look() == []
    bench.told(again)
    assert bench.state.turned_since(0)[1] == []
