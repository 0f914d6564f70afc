"""What happened when in an episode, drawn within bounds whatever was said."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from exporter.live import timeline as drawn
from exporter.live.timeline import EVENTS_LISTED, MAX_LANES, NEAR, timeline, top


def phase(name: str, start: float, duration: float, steps: int = 0) -> dict[str, Any]:
    return {"name": name, "start": start, "duration_seconds": duration, "steps": steps}


def an_episode(duration: float = 10.0, **said: Any) -> dict[str, Any]:
    return {
        "duration_seconds": duration,
        "phases": [],
        "sampled": [],
        "events": [],
        "omitted": {},
        **said,
    }


def test_a_lane_has_all_of_a_phase_and_the_longest_comes_first() -> None:
    phases = [phase("short", 0, 1), phase("long", 1, 4), phase("long", 6, 3)]
    found = timeline(an_episode(phases=phases))
    long, short = found.lanes
    assert (long.name, long.count, long.seconds) == ("long", 2, 7.0)
    assert [(bar.start, bar.width) for bar in long.bars] == [(10, 40), (60, 30)]
    assert (short.name, short.count, short.seconds) == ("short", 1, 1.0)
    assert found.idle == 2.0


def test_time_in_nested_phases_is_covered_once() -> None:
    phases = [phase("inner", 2, 3), phase("outer", 1, 5), phase("inner", 4, 1)]
    assert timeline(an_episode(phases=phases)).idle == 5.0


@pytest.mark.parametrize("said", [{}, {"phases": [phase("a", 0, 1)]}])
def test_where_phases_are_missing_nobody_knows_what_was_in_none(
    said: dict[str, Any],
) -> None:
    assert timeline(an_episode(omitted={"phases": 3}, **said)).idle is None


def test_what_is_too_near_to_be_told_apart_is_one_bar_that_says_so() -> None:
    phases = [phase("tiny", n * 0.001, 0.0005) for n in range(1000)]
    (lane,) = timeline(an_episode(phases=phases)).lanes
    (bar,) = lane.bars
    assert lane.count == 1000
    assert "1,000 times" in bar.says
    assert 9.9 < bar.width < 10.1


def test_events_are_marks_with_their_names() -> None:
    events = [{"name": "<b>", "at": 2.5, "attributes": {}}]
    (lane,) = timeline(an_episode(events=events)).lanes
    assert (lane.kind, lane.count) == ("events", 1)
    assert [(one.start, one.width) for one in lane.bars] == [(25.0, NEAR)]
    assert lane.bars[0].says == "2.5 s: <b>"


def test_there_are_as_many_lanes_and_marks_as_a_person_looks_at() -> None:
    phases = [phase(f"p{n}", 0, n) for n in range(100)]
    events = [{"name": "e", "at": n, "attributes": {}} for n in range(1000)]
    found = timeline(an_episode(1000.0, phases=phases, events=events))
    assert len(found.lanes) == MAX_LANES + 1
    assert found.lanes[0].name == "p99"
    assert found.more == 100 - MAX_LANES
    assert len(found.lanes[-1].bars) == EVENTS_LISTED


odd = some.floats() | some.sampled_from([0.0, -1.0, 1e308, math.inf, math.nan])


@example(1.7e306, [(0.0, 1.7e306)], [1.7e306])
@given(odd, some.lists(some.tuples(odd, odd), max_size=6), some.lists(odd, max_size=4))
def test_whatever_was_said_lies_inside(
    duration: float, spans: list[tuple[float, float]], at: list[float]
) -> None:
    phases = [phase("p", *span) for span in spans]
    events = [{"name": "e", "at": one, "attributes": {}} for one in at]
    found = timeline(an_episode(duration, phases=phases, events=events))
    bars = [bar for lane in found.lanes for bar in lane.bars]
    assert all(0.0 <= bar.start <= 100.0 for bar in bars)
    assert all(0.0 < bar.width <= 100.0 for bar in bars)
    assert all(bar.start + bar.width <= 100.001 for bar in bars)
    assert found.idle is None or 0.0 <= found.idle <= found.duration


def test_phases_are_listed_as_they_began_and_not_without_end() -> None:
    phases = [phase(f"p{n}", 1000 - n, 1) for n in range(500)]
    found, more = drawn.in_order(phases)
    assert [one["name"] for one in found[:2]] == ["p499", "p498"]
    assert len(found) + more == 500
    assert more > 0


def test_of_many_those_shown_are_spread_evenly() -> None:
    assert drawn.thinned(range(10), 10) == ([*range(10)], 0)
    assert drawn.thinned(range(10), 5) == ([0, 2, 4, 6, 8], 5)


def test_the_top_score_is_a_number() -> None:
    assert top({"a": math.nan, "b": -1.0, "c": -0.5}) == ("c", -0.5)
    assert top({"a": math.nan}) is None
    assert top({}) is None
