"""The verdict: named cases for every state that a run can be in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import pytest

from experiment_hooks import wire
from exporter.runs import Run
from exporter.state import State
from exporter.verdict import (
    ENDED,
    STATES,
    Link,
    Rules,
    deletable,
    episodes_to_close,
    links_of,
    source_lost,
    verdict,
)
from tests.making import NOON, Teller, sample

RULES = Rules(lost_seconds=30.0, promise_floor_seconds=60.0, grace_seconds=60.0)
WRONG = wire.ErrorInfo("ValueError", "no", "Traceback ...")


@dataclass
class Story:
    """Tells the state what sources say, at times after noon."""

    state: State = field(default_factory=State)
    tellers: dict[int, Teller] = field(default_factory=dict)

    def come(
        self, number: int = 1, at: float = 0.0, role: str = "owner", **said: object
    ) -> Story:
        """A source opens its part of the run."""
        teller = self.tellers[number] = Teller(number)
        owner = self.tellers[1].id if role == "child" else b""
        opened = teller.opened(role, owner), teller.run_opened(**said)
        return self._tell(at, *opened)

    def _tell(self, at: float, *records: wire.AnyRecord) -> Story:
        for record in records:
            self.state.apply(record, "run", NOON + at)
        return self

    def episode(self, number: int = 1, at: float = 0.0) -> Story:
        teller = self.tellers[number]
        return self._tell(at, teller.started(teller.seq))

    def sampled(
        self, source: int = 1, at: float = 0.0, number: int = 1, **more: object
    ) -> Story:
        self.state.apply_sample(
            self.tellers[source].id, sample(number, **more), NOON + at
        )
        return self

    def answer(self, command: str, state: str, at: float = 0.0) -> Story:
        teller = self.tellers[1]
        answered = teller.make(wire.CommandAnswered, command=command, state=state)
        return self._tell(at, answered)

    def end(
        self,
        number: int = 1,
        at: float = 0.0,
        ending: str = "completed",
        **more: object,
    ) -> Story:
        """An owner closes its run and its source."""
        teller = self.tellers[number]
        said = {"ending": ending, **more}
        return self._tell(at, teller.run_closed(**said), teller.closed(**said))

    def leave(
        self,
        number: int = 1,
        at: float = 0.0,
        ending: str = "completed",
        **more: object,
    ) -> Story:
        """A source closes; the run is not its own."""
        return self._tell(at, self.tellers[number].closed(ending=ending, **more))

    def lose(self, number: int = 1, at: float = 0.0) -> Story:
        self.state.source_lost(self.tellers[number].id, NOON + at)
        return self

    def back(self, number: int = 1) -> Story:
        self.state.source_returned(self.tellers[number].id)
        return self

    @property
    def run(self) -> Run:
        return self.state.runs["run"]


def story() -> Story:
    return Story()


# (what, the story, seconds after noon, the state, part of the reason)
CASES: list[tuple[str, Story, float, str, str]] = [
    ("a source is there, nothing done", story().come(), 5, "starting", ""),
    (
        "nothing done for hours, with a promise",
        story().come(promise=1.0),
        9999,
        "starting",
        "",
    ),
    ("an episode has started", story().come().episode(at=1), 5, "running", ""),
    (
        "progress of a loop without episodes",
        story().come().sampled(at=3, progress=NOON + 2),
        5,
        "running",
        "",
    ),
    (
        "within the promise given",
        story().come(promise=10.0).episode(at=1),
        13,
        "running",
        "",
    ),
    (
        "beyond the promise given",
        story().come(promise=10.0).episode(at=1),
        14,
        "stalled",
        "no progress for more than 10 s",
    ),
    (
        "nothing promised, nothing learned",
        story().come().episode(at=1).sampled(at=2, gaps=9, gap=1.0),
        9999,
        "running",
        "",
    ),
    (
        "learned, at the floor",
        story().come().episode(at=0).sampled(at=0, gaps=10, gap=1.0),
        62,
        "running",
        "",
    ),
    (
        "learned, beyond the floor",
        story().come().episode(at=0).sampled(at=0, gaps=10, gap=1.0),
        63,
        "stalled",
        "60 s",
    ),
    (
        "learned from long gaps",
        story().come().episode(at=0).sampled(at=0, gaps=10, gap=20.0),
        202,
        "running",
        "",
    ),
    (
        "beyond ten times the longest gap",
        story().come().episode(at=0).sampled(at=0, gaps=10, gap=20.0),
        203,
        "stalled",
        "200 s",
    ),
    (
        "a phase with a promise of its own",
        story().come(promise=10.0).episode(at=0).sampled(at=0, promise=500.0),
        502,
        "running",
        "",
    ),
    (
        "beyond the promise of a phase",
        story().come(promise=1000.0).episode(at=0).sampled(at=0, promise=5.0),
        8,
        "stalled",
        "5 s",
    ),
    (
        "one of two has promised more",
        story()
        .come(promise=10.0)
        .come(2, role="child", promise=10.0)
        .episode(at=0)
        .sampled(1, at=0, promise=100.0),
        90,
        "running",
        "",
    ),
    (
        "one of two has learned nothing yet",
        story()
        .come()
        .come(2, role="child")
        .episode(at=0)
        .sampled(1, at=0, gaps=99, gap=1.0),
        9999,
        "running",
        "",
    ),
    (
        "another process moves on",
        story().come(promise=10.0).come(2, role="child").episode(2, at=100),
        105,
        "running",
        "",
    ),
    (
        "a process that came a moment ago owes nothing yet",
        story().come(role="shared", promise=10.0).episode(at=0).come(2, 50, "shared"),
        55,
        "running",
        "",
    ),
    (
        "it went on after it stalled",
        story().come(promise=10.0).episode(at=0).episode(at=100),
        105,
        "running",
        "",
    ),
    (
        "a stop was accepted",
        story().come().episode(at=0).answer("stop-1", "accepted"),
        5,
        "stopping",
        "",
    ),
    (
        "a stop has been raised",
        story()
        .come()
        .episode(at=0)
        .answer("stop-1", "accepted")
        .answer("stop-1", "done"),
        5,
        "stopping",
        "",
    ),
    (
        "who was stopped has left, the others go on",
        story()
        .come(role="shared")
        .come(2, role="shared")
        .episode(2, at=0)
        .answer("stop-1", "done")
        .leave(1, ending="stopped"),
        5,
        "running",
        "",
    ),
    (
        "a stop has come, and its callback runs",
        story().come().episode(at=0).answer("stop-1", "delivered"),
        5,
        "running",
        "",
    ),
    (
        "a stop was refused",
        story().come().episode(at=0).answer("stop-1", "failed"),
        5,
        "running",
        "",
    ),
    (
        "another command was accepted",
        story().come().episode(at=0).answer("a1b2", "accepted"),
        5,
        "running",
        "",
    ),
    ("the owner completed", story().come().end(at=5), 6, "completed", ""),
    (
        "the owner failed",
        story().come().end(at=5, ending="failed", error=WRONG),
        6,
        "failed",
        "",
    ),
    (
        "the owner was stopped",
        story().come().end(at=5, ending="stopped", reason="time_limit"),
        6,
        "stopped",
        "time_limit",
    ),
    (
        "the owner ended while a child goes on",
        story().come().come(2, role="child").episode(2, at=1).end(at=5),
        6,
        "completed",
        "",
    ),
    (
        "the owner is lost, nobody is left",
        story().come().episode(at=1).lose(at=40),
        41,
        "lost",
        "host:1 was not heard again",
    ),
    (
        "the owner is lost, its child goes on",
        story().come().come(2, role="child").episode(2, at=1).lose(1, at=40),
        41,
        "running",
        "",
    ),
    (
        "the owner is lost, its children are done",
        story().come().come(2, role="child").leave(2, at=2).lose(1, at=40),
        9999,
        "lost",
        "host:1",
    ),
    (
        "a child is lost, the owner goes on",
        story().come().come(2, role="child").episode(at=1).lose(2, at=40),
        41,
        "running",
        "",
    ),
    (
        "it was lost and came back",
        story().come().episode(at=1).lose(at=40).back(),
        41,
        "running",
        "",
    ),
    (
        "lost, and ended after all",
        story().come().lose(at=40).end(at=50),
        60,
        "completed",
        "",
    ),
    (
        "shared: the last has closed, another may come",
        story().come(role="shared").episode(at=1).leave(at=2),
        61,
        "running",
        "",
    ),
    (
        "shared: none came for the time of grace",
        story().come(role="shared").episode(at=1).leave(at=2),
        62,
        "completed",
        "",
    ),
    (
        "shared: closed without having done anything",
        story().come(role="shared").leave(at=2),
        5,
        "starting",
        "",
    ),
    (
        "shared: one of them failed",
        story()
        .come(1, role="shared")
        .come(2, role="shared")
        .leave(1, at=2, ending="failed", error=WRONG)
        .leave(2, at=3),
        100,
        "failed",
        "",
    ),
    (
        "shared: one was stopped, none failed",
        story()
        .come(1, role="shared")
        .come(2, role="shared")
        .leave(1, at=2, ending="stopped", reason="user")
        .leave(2, at=3),
        100,
        "stopped",
        "user",
    ),
    (
        "shared: lost, nobody else was there",
        story().come(role="shared").episode(at=1).lose(at=40),
        41,
        "lost",
        "host:1",
    ),
    (
        "shared: one was lost, the next has just ended",
        story()
        .come(1, role="shared")
        .lose(1, at=40)
        .come(2, 41, role="shared")
        .episode(2, at=42)
        .leave(2, at=50),
        60,
        "running",
        "",
    ),
    (
        "shared: one was lost, and nobody comes any more",
        story()
        .come(1, role="shared")
        .lose(1, at=40)
        .come(2, 41, role="shared")
        .leave(2, at=50),
        111,
        "lost",
        "host:1",
    ),
    (
        "resumed, nothing done yet",
        story().come().episode(at=1).end(at=5, ending="failed").come(2, 9000),
        9001,
        "starting",
        "",
    ),
    (
        "resumed with a promise, long after",
        story()
        .come(promise=10.0)
        .episode(at=1)
        .end(at=5)
        .come(2, 9000, promise=10.0)
        .episode(2, at=9001),
        9005,
        "running",
        "",
    ),
]


@pytest.mark.parametrize(
    ("told", "after", "state", "reason"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_the_verdict_is(told: Story, after: float, state: str, reason: str) -> None:
    found = verdict(told.run, NOON + after, RULES)
    assert found.state == state
    assert reason in found.reason
    assert found.ended is (state in ENDED)
    assert (found.ended_at is not None) is found.ended


def test_every_state_has_a_case() -> None:
    assert {case[3] for case in CASES} == set(STATES)


def test_how_it_ended_is_told_with_when_and_why() -> None:
    found = verdict(
        story().come().end(at=5, ending="failed", error=WRONG).run, NOON, RULES
    )
    assert (found.ended_at, found.error) == (NOON + 5, WRONG)


def test_a_lost_run_ended_when_the_last_of_it_was_lost() -> None:
    told = story().come().come(2, role="child").lose(2, at=40).lose(1, at=50)
    assert verdict(told.run, NOON + 60, RULES).ended_at == NOON + 50


def test_a_run_whose_owner_was_lost_ended_when_its_last_source_did() -> None:
    told = story().come().come(2, role="child").lose(1, at=40).leave(2, at=9000)
    assert verdict(told.run, NOON + 9000, RULES).ended_at == NOON + 9000


def test_a_run_that_nobody_owns_ended_when_its_last_source_did() -> None:
    told = story().come(role="shared").leave(at=7)
    assert verdict(told.run, NOON + 1000, RULES).ended_at == NOON + 7


def test_the_promise_is_told_while_the_run_goes_on() -> None:
    told = story().come(promise=10.0).episode(at=0)
    assert verdict(told.run, NOON, RULES).promise == 10.0
    assert verdict(told.end(at=1).run, NOON, RULES).promise is None


# --- connections ------------------------------------------------------------------

LINKS: list[tuple[str, Link | None, bool]] = [
    ("never heard of", None, False),
    ("silent for an hour, but connected", Link(NOON - 3600), False),
    ("gone a moment ago", Link(NOON - 3600, NOON - 29), False),
    ("gone for long", Link(NOON - 40, NOON - 30), True),
]


@pytest.mark.parametrize(
    ("link", "lost"), [one[1:] for one in LINKS], ids=[one[0] for one in LINKS]
)
def test_a_source_is_lost_when_its_connection_is_gone_for_long(
    link: Link | None, lost: bool
) -> None:
    assert source_lost(link, NOON, RULES) is lost


def test_a_source_not_heard_since_the_exporters_start_is_gone_since_then() -> None:
    source = story().come().run.sources[bytes([1]) * 16]
    link = links_of({}, source, NOON)
    assert not source_lost(link, NOON + 29, RULES)
    assert source_lost(link, NOON + 30, RULES)
    known = Link(NOON)
    assert links_of({source.id: known}, source, NOON) is known


def test_a_clock_that_was_set_back_leaves_nothing_in_the_future() -> None:
    link = Link(NOON, NOON + 5)
    link.clock_is(NOON - 3600)
    assert (link.heard, link.gone_since) == (NOON - 3600, NOON - 3600)
    link.clock_is(NOON)
    assert link.heard == NOON - 3600


def test_progress_of_the_future_was_made_by_a_clock_that_was_set_back() -> None:
    run_of = story().come(promise=30.0).episode(at=3600)
    run_of.state.clock_is(NOON)
    assert verdict(run_of.run, NOON, RULES).state == "running"
    assert verdict(run_of.run, NOON + 30, RULES).state == "running"
    assert verdict(run_of.run, NOON + 40, RULES).state == "stalled"


def test_a_clock_that_was_set_back_does_not_start_a_run_anew() -> None:
    young = story().come(at=3600, promise=30.0)
    young.state.clock_is(NOON)
    assert verdict(young.run, NOON, RULES).state == "starting"
    young.episode(at=5)
    assert verdict(young.run, NOON + 10, RULES).state == "running"


def test_episodes_of_a_lost_source_are_closed_after_a_while() -> None:
    told = story().come().episode(at=1).episode(at=2)
    source = told.run.sources[bytes([1]) * 16]
    assert episodes_to_close(source, NOON + 999, 60.0) == []
    told.lose(at=30)
    assert episodes_to_close(source, NOON + 89, 60.0) == []
    assert len(episodes_to_close(source, NOON + 90, 60.0)) == 2


DELETABLE: list[tuple[str, Callable[[], Story], bool]] = [
    ("it goes on", lambda: story().come(), False),
    ("it has ended", lambda: story().come().end(at=1), True),
    ("it is lost", lambda: story().come().lose(at=1), True),
    (
        "its child has not ended",
        lambda: story().come().come(2, role="child").end(at=1),
        False,
    ),
]


@pytest.mark.parametrize(
    ("told", "can"), [one[1:] for one in DELETABLE], ids=[o[0] for o in DELETABLE]
)
def test_a_run_can_be_deleted_when(told: Callable[[], Story], can: bool) -> None:
    assert deletable(told().run, NOON + 10, RULES) is can
