"""Scores over steps: what is kept of them, and which lines a chart has."""

import itertools
import math
import random
from typing import Any, Dict, List, Optional, Tuple

import pytest

from experiment_hooks import wire
from exporter.live.evidence import (
    MAX_CHARTS,
    MAX_LINES,
    Belief,
    Evidence,
    Leader,
    of_now,
    parted,
)
from exporter.live.hub import DrawnChart
from exporter.trail import GAP, MAX_GLIMPSES, Trail


def seen(
    step: int, scores: Dict[str, float], episode: int = 0, target: Optional[str] = None
) -> wire.Moment:
    return wire.Moment(
        1.0, episode, step, scores=scores, mode="eval", index=episode, target=target
    )


def drawn(*moments: wire.Moment) -> List[Belief]:
    trail = Trail()
    for moment in moments:
        trail.add(moment)
    return Evidence().seen(trail.glimpses())


def values_of(belief: Belief) -> List[Tuple[int, int, Dict[str, Any]]]:
    """Points as (place, step, values by name)."""
    found = []
    for place, step, flat, *_ in belief.chart.points:
        names = [belief.chart.lines[line] for line in flat[::2]]
        found.append((place, step, dict(zip(names, flat[1::2]))))
    return found


# --- the trail ------------------------------------------------------------------------


def test_steps_are_apart_as_they_are_and_episodes_by_a_gap() -> None:
    trail = Trail()
    for step, episode in [(1, 0), (4, 0), (2, 1), (3, 1)]:
        trail.add(seen(step, {"a": 1.0}, episode))
    places = [glimpse.place for glimpse in trail.glimpses()]
    assert places == [0, 3, 3 + GAP, 4 + GAP]
    assert [one.visit.begin for one in trail.glimpses()] == [0, 0, 3 + GAP, 3 + GAP]


def test_a_step_that_is_seen_again_takes_the_place_of_itself() -> None:
    trail = Trail()
    for value in (1.0, 2.0):
        trail.add(seen(5, {"a": value}))
    (glimpse,) = trail.glimpses()
    assert list(glimpse.values) == [2.0]


def test_what_has_no_scores_or_no_episode_leaves_no_trail() -> None:
    trail = Trail()
    trail.add(seen(1, {}))
    trail.add(wire.Moment(1.0, scores={"a": 1.0}))
    assert trail.glimpses() == ()


@pytest.mark.parametrize("kinds", [1, 10**6], ids=["the same", "ever new"])
def test_names_count_for_a_trails_size_as_often_as_they_are_held(kinds: int) -> None:
    trail, draw = Trail(), random.Random(7)
    step = 0
    for number in range(3 * MAX_GLIMPSES):
        step += draw.choice([0, 1, 1])  # some are seen again
        kind = number // draw.choice([1, 5]) % kinds
        names = [f"{kind:07}/object_{at:03}" for at in range(50)]
        trail.add(seen(step, dict.fromkeys(names, 0.5)))
    held = {id(one.names): one.names for one in trail.glimpses()}
    names_held = sum(60 + len(name) for names in held.values() for name in names)
    assert trail.size == names_held + len(trail.glimpses()) * (200 + 8 * 50)


def test_a_trail_is_bounded_and_knows_its_size() -> None:
    trail = Trail()
    sizes = []
    for step in range(3 * MAX_GLIMPSES):
        trail.add(seen(step, {"a": 1.0, "b": 2.0}))
        sizes.append(trail.size)
    assert len(trail.glimpses()) == MAX_GLIMPSES
    assert trail.glimpses()[-1].step == 3 * MAX_GLIMPSES - 1
    assert max(sizes) == sizes[-1] < MAX_GLIMPSES * sizes[0]


# --- which lines ----------------------------------------------------------------------


def test_what_stands_before_a_slash_is_whose_score_it_is() -> None:
    assert parted("LM_0/mug") == ("LM_0", "mug")
    assert parted("LM_0/a/b") == ("LM_0", "a/b")
    for whole in ("mug", "/mug", "mug/", ""):
        assert parted(whole) == ("", whole)


def test_each_learning_module_has_a_chart_and_nothing_is_averaged() -> None:
    one, two = drawn(seen(1, {"LM_0/mug": 1.0, "LM_1/mug": 3.0, "LM_1/cup": 2.0}))
    assert (one.whose, values_of(one)) == ("LM_0", [(0, 1, {"mug": 1.0})])
    assert values_of(two) == [(0, 1, {"mug": 3.0, "cup": 2.0})]


def test_of_too_many_the_first_of_the_newest_episode_have_a_chart() -> None:
    trail, evidence = Trail(), Evidence()
    for episode in range(20):
        for step in (1, 2):
            scores = {f"LM_{episode // 4 + n}/mug": 1.0 for n in range(MAX_CHARTS + 2)}
            trail.add(seen(step, scores, episode))
            found = evidence.seen(trail.glimpses())
            charted = {belief.whose for belief in found}
            assert charted == {parted(name)[0] for name in [*scores][:MAX_CHARTS]}


def test_few_scores_are_all_drawn_in_their_own_order() -> None:
    (belief,) = drawn(seen(1, {"b": 1.0, "a": 2.0}), seen(2, {"b": 1.0, "a": 2.0}))
    assert belief.chart.lines == ("b", "a")
    assert belief.colours == {"b": 0, "a": 1}


def test_of_many_the_highest_are_drawn_and_the_target() -> None:
    scores = {f"o{n}": float(n) for n in range(77)}
    (belief,) = drawn(seen(1, scores, target="o3"))
    assert set(belief.colours) == {"o3", "o72", "o73", "o74", "o75", "o76"}
    begin = belief.chart.begin
    assert (begin[0], belief.chart.lines[begin[2]]) == ("o3", "o3")


def test_a_line_once_shown_stays_for_its_episode_and_has_what_was_before() -> None:
    low = {f"o{n}": float(n) for n in range(20)}
    high = {**low, "o0": 100.0}
    (belief,) = drawn(seen(1, low), seen(2, high), seen(3, low), seen(1, low, 1))
    points = values_of(belief)
    assert [point[2].get("o0") for point in points] == [0.0, 100.0, 0.0, None]


def test_lines_are_as_many_as_there_are_colours_and_no_two_have_the_same() -> None:
    chance = random.Random(1)
    moments = [
        seen(step, {f"o{n}": chance.random() for n in range(50)}, step // 30)
        for step in range(200)
    ]
    (belief,) = drawn(*moments)
    assert len(belief.colours) == MAX_LINES
    assert len(set(belief.colours.values())) == MAX_LINES


def test_no_two_names_of_a_chart_ever_have_the_same_colour() -> None:
    evidence, trail = Evidence(), Trail()
    for episode in range(40):
        names = [f"o{(episode + n) % 12}" for n in range(6)]
        trail.add(seen(1, dict.fromkeys(names, 1.0), episode))
        (belief,) = evidence.seen(trail.glimpses())
        used = [colour for colour in belief.chart.colours if colour >= 0]
        assert len(used) == len(set(used)) <= MAX_LINES
        shown = dict(zip(belief.chart.lines, belief.chart.colours))
        assert {name: shown[name] for name in names} == belief.colours


def test_what_leads_is_told_since_when_and_by_how_much() -> None:
    scores = [{"mug": 1.0, "cup": 2.0}, {"mug": 3.0, "cup": 2.5}, {"mug": 4.0}]
    trail, evidence = Trail(), Evidence()
    found = []
    for step, values in enumerate(scores, 1):
        trail.add(seen(step, values, target="mug"))
        found.append(evidence.seen(trail.glimpses())[0].leader)
    assert found == [
        Leader("cup", 1, 1.0, "mug", False),
        Leader("mug", 2, 0.5, "cup", True),
        Leader("mug", 2, None, "", True),
    ]
    trail.add(seen(1, {"mug": math.nan, "cup": 2.0}, 1, target="table"))
    leader = evidence.seen(trail.glimpses())[0].leader
    assert leader == Leader("cup", 1, None, "", None), "of the new episode"


def test_nothing_leads_where_the_newest_step_has_no_scores() -> None:
    found = drawn(seen(1, {"LM_0/mug": 1.0, "LM_1/mug": 3.0}))
    leaders = [one.leader for one in of_now(found, {"LM_1/mug": 3.0})]
    assert leaders == [None, found[1].leader]
    assert [one.chart for one in of_now(found, {})] == [one.chart for one in found]


def test_a_name_keeps_its_colour_in_the_next_episode() -> None:
    evidence, trail = Evidence(), Trail()
    colours = []
    for episode, names in enumerate(["ab", "ba", "b"]):
        trail.add(seen(1, dict.fromkeys(names, 1.0), episode))
        colours.append(evidence.seen(trail.glimpses())[0].colours["b"])
    assert colours == [1, 1, 1]


def test_a_step_that_is_seen_again_changes_no_colour_and_no_point_before_it() -> None:
    evidence, trail = Evidence(), Trail()
    for episode in range(MAX_GLIMPSES + 40):
        names = [f"o{(episode + n) % 12}" for n in range(6)]
        trail.add(seen(1, dict.fromkeys(names, 1.0), episode))
        (before,) = evidence.seen(trail.glimpses())
        trail.add(seen(1, dict.fromkeys(names, 2.0), episode))
        (after,) = evidence.seen(trail.glimpses())
        assert after.chart.lines == before.chart.lines
        assert after.chart.colours == before.chart.colours
        assert after.chart.points[:-1] == before.chart.points[:-1]
        assert set(after.chart.points[-1][2][1::2]) == {2.0}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1.7e308])
def test_what_is_no_number_is_a_hole(odd: float) -> None:
    (belief,) = drawn(seen(1, {"a": odd, "b": 1.0}))
    assert values_of(belief) == [(0, 1, {"a": None, "b": 1.0})]


def test_what_comes_bit_by_bit_is_drawn_as_what_comes_at_once() -> None:
    chance, trail, evidence = random.Random(2), Trail(), Evidence()
    for number in range(2 * MAX_GLIMPSES):
        scores = {f"o{n}": chance.random() for n in range(9)}
        trail.add(seen(number % 40, scores, number // 40, target=f"o{number % 9}"))
        last = evidence.seen(trail.glimpses())
    (once,) = Evidence().seen(trail.glimpses())
    assert [point[:2] for point in last[0].chart.points] == [
        point[:2] for point in once.chart.points
    ]
    whole = [p for p in values_of(once) if p[0] >= once.chart.points[80][0]]
    assert [p for p in values_of(last[0]) if p[0] >= whole[0][0]] == whole


def test_another_sources_trail_is_another_chart() -> None:
    evidence = Evidence()
    for name in ("a", "b"):
        trail = Trail()
        trail.add(seen(1, {name: 1.0}))
        (belief,) = evidence.seen(trail.glimpses())
        assert belief.chart.lines == (name,)
    assert evidence.seen(()) == []


# --- what a page is sent --------------------------------------------------------------


def test_a_page_that_has_some_is_sent_the_rest_and_ends_up_with_the_same() -> None:
    """Played as the page's script does it, from whatever rendering it has."""
    chance, trail, evidence = random.Random(3), Trail(), Evidence()
    pages: Dict[int, List[Any]] = {n: [] for n in range(4)}
    has = dict.fromkeys(pages, 0)
    before, lines = None, ()
    for number in range(1, 700):
        scores = {f"o{n}": chance.random() for n in range(30)}
        trail.add(seen(number % 25, scores, number // 25))
        chart = evidence.seen(trail.glimpses())[0].chart
        before = DrawnChart(number, chart, before)
        for page, pace in zip(pages, itertools.count(1)):
            if number % (pace * pace):
                continue
            said = before.since(has[page])
            has[page] = number
            lines = said.get("lines", lines)
            pages[page] = patched(pages[page], said)
            assert [p[:3] for p in pages[page]] == [p[:3] for p in chart.points]
            assert lines == chart.lines
    assert before is not None
    assert before.since(699) == {}


def patched(points: List[Any], said: Dict[str, Any]) -> List[Any]:
    if "begin" in said:
        points = []
    points = [p for p in points if p[0] >= said.get("from", 0)]
    if said["points"]:
        points = [p for p in points if p[0] < said["points"][0][0]]
    return points + list(said["points"])


def test_a_page_is_sent_little_for_each_step() -> None:
    trail, evidence, before = Trail(), Evidence(), None
    for number in range(1, 101):
        trail.add(seen(number, {"a": 0.5, "b": 0.25}))
        chart = evidence.seen(trail.glimpses())[0].chart
        before = DrawnChart(number, chart, before)
    assert before is not None
    said = before.since(99)
    assert said == {"points": ((99, 100, (0, 0.5, 1, 0.25)),), "from": 0}
