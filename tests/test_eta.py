"""How far a mode is, and when it will be done: numbers in, numbers out."""

import math
import random
from bisect import bisect_right
from typing import Any, Dict, List, Tuple

import pytest

from exporter.live import eta, view
from exporter.live.eta import Progress
from exporter.live.tracks import POINTS, SECONDS, Curve, Speed
from tests.test_view import NOW, a_mode, a_run, said

NOTHING = Curve()


def test_progress_is_in_what_the_run_expects() -> None:
    def of(**expected: Any) -> Progress:
        kinds = {"episodes": {}, "steps": {}, "epochs": {}, **expected}
        speed = Speed(steady=50.0)
        return eta.progress(a_run(expected=kinds), "train", speed, NOW)

    episodes = of(episodes={"train": 20})
    assert (episodes.unit, episodes.done, episodes.total) == ("episode", 10, 20)
    steps = of(steps={"train": 1000})
    assert (steps.unit, steps.done, steps.total, steps.left) == (
        "step",
        500,
        1000,
        10.0,
    )
    assert of(epochs={"train": 30}) == Progress("epoch", 3, 30)
    assert of() == Progress("episode", 10, None)


def test_without_a_rate_nobody_knows_how_long_the_steps_take() -> None:
    run = a_run(expected={"episodes": {}, "steps": {"train": 1000}, "epochs": {}})
    for steady in (None, 0.0):
        assert eta.progress(run, "train", Speed(steady=steady), NOW).left is None


@pytest.mark.parametrize(
    ("left", "exact"), [(59, None), (61, 60), (3500, 60), (3700, 300), (9e6, None)]
)
def test_when_that_will_be_is_said_as_exactly_as_one_can_know(
    left: float, exact: Any
) -> None:
    run = a_run(expected={"episodes": {}, "steps": {"train": 501}, "epochs": {}})
    found = eta.progress(run, "train", Speed(steady=1 / left), NOW)
    assert found.left == pytest.approx(left)
    if exact is None:
        assert found.ends is None
    else:
        assert found.ends is not None
        assert abs(found.ends - NOW - left) <= exact / 2
        assert found.ends % exact == 0


TIME_LEFT: List[Tuple[str, Dict[str, Any], Any]] = [
    ("an end each 2 s, the last 2 s ago", {}, 18.0),
    ("only one end", {"recent_ends": [NOW]}, None),
    ("all at once", {"recent_ends": [NOW] * 10}, None),
    ("another mode has its turn", {"recent_ends": [NOW - 60, NOW - 59]}, None),
    ("all done", {"episodes": 20}, None),
    (
        "slower than it was eleven minutes ago",
        {"recent_ends": [NOW - 700, NOW - 690, NOW - 200, NOW - 100, NOW]},
        1000.0,
    ),
    ("none but old ones", {"recent_ends": [NOW - 1500, NOW - 800]}, 6300.0),
]


@pytest.mark.parametrize(("case", "mode", "left"), TIME_LEFT)
def test_the_time_left_follows_from_the_newest_ends(
    case: str, mode: Dict[str, Any], left: Any
) -> None:
    assert eta.episodes_left(a_mode(**mode), 20, NOTHING, NOW) == left, case


def test_a_mode_that_has_its_turn_now_and_then_gets_on_as_it_did_so_far() -> None:
    ends = [NOW - 2 + n / 10 for n in range(20)]  # ten a second, while it has its turn
    modes = {"train": a_mode(), "eval": a_mode(recent_ends=ends)}
    expected = {"episodes": {"eval": 20}, "steps": {}, "epochs": {}}
    run = a_run(modes=modes, expected=expected)
    left = eta.progress(run, "eval", Speed(), NOW).left
    assert left == pytest.approx(100)  # ten in a hundred seconds, ten to go
    alone = a_run(modes={"eval": modes["eval"]}, expected=expected)
    found = eta.progress(alone, "eval", Speed(), NOW).left
    assert found is not None
    assert found < 2


@pytest.mark.parametrize("state", ["starting", "stalled", "stopping", "failed", "lost"])
def test_nobody_is_told_when_a_run_ends_that_does_not_go_on(state: str) -> None:
    kinds: List[Dict[str, Any]] = [
        {"episodes": {"train": 20}, "steps": {}, "epochs": {}},
        {"episodes": {}, "steps": {"train": 900}, "epochs": {}},
    ]
    speed = Speed(steady=5.0)
    for expected in kinds:
        run = a_run(state=state, ended=NOW, expected=expected)
        assert eta.progress(run, "train", speed, NOW).left is None
        shown = said(view.modes(run, {"train": 5.0}, NOW, {"train": speed}))
        assert "left" not in shown
        live = a_run(expected=expected)
        assert "left" in said(view.modes(live, {}, NOW, {"train": speed}))


# --- many at once ---------------------------------------------------------------------


def played(
    parallel: int, seconds: float, jitter: float, until: float, at_once: bool = True
) -> Tuple[Dict[str, Any], Curve]:
    """A mode whose ``parallel`` workers take so many seconds for an episode each."""
    rng = random.Random(7)
    begun = NOW - until
    ends: List[float] = []
    for worker in range(parallel):
        at = begun if at_once else begun - seconds * worker / parallel
        while (at := at + seconds + rng.uniform(-jitter, jitter)) <= NOW:
            ends += [at] if at > begun else []
    ends.sort()
    points = int(min(POINTS, until / SECONDS))
    times = [NOW - SECONDS * back for back in range(points, -1, -1)]
    counts = [float(bisect_right(ends, at)) for at in times]
    mode = a_mode(
        episodes=len(ends), started=len(ends) + parallel, recent_ends=ends[-20:]
    )
    return mode, Curve(times, counts)


@pytest.mark.parametrize("until", [70.0, 200.0, 1000.0])
@pytest.mark.parametrize("seconds", [1.0, 5.0, 30.0])
@pytest.mark.parametrize("parallel", [1, 2, 4, 12, 64])
def test_many_that_end_at_once_are_not_taken_for_fast_ones(
    parallel: int, seconds: float, until: float
) -> None:
    for jitter in (0.0, 0.05, 0.2):
        for at_once in (True, False):
            mode, counted = played(parallel, seconds, jitter * seconds, until, at_once)
            total = mode["episodes"] + 20 * parallel
            run = a_run(
                modes={"train": mode},
                started=NOW - until,
                expected={"episodes": {"train": total}, "steps": {}, "epochs": {}},
            )
            left = eta.progress(run, "train", Speed(ended=counted), NOW).left
            expected = pytest.approx(20 * seconds, rel=0.3, abs=seconds)
            assert left == expected, (jitter, at_once)


def test_of_one_moment_nothing_follows_but_the_usual_pace() -> None:
    mode, counted = played(parallel=64, seconds=900.0, jitter=1.0, until=1000.0)
    total = 640
    assert eta.episodes_left(mode, total, counted, NOW) is None
    run = a_run(
        modes={"train": mode},
        started=NOW - 1000.0,
        expected={"episodes": {"train": total}, "steps": {}, "epochs": {}},
    )
    left = eta.progress(run, "train", Speed(ended=counted), NOW).left
    assert left == pytest.approx(9 * 1000.0)
    again = {**run, "attempts": 2}  # what came before this attempt took its own time
    assert eta.progress(again, "train", Speed(ended=counted), NOW).left is None


def test_between_the_moments_of_many_the_time_left_stays_and_goes_down() -> None:
    mode, counted = played(parallel=64, seconds=30.0, jitter=0.0, until=610.0)
    lefts = [eta.episodes_left(mode, 10_000, counted, NOW + n) for n in range(0, 20, 4)]
    assert None not in lefts
    steps = [before - after for before, after in zip(lefts, lefts[1:])]
    assert all(step == pytest.approx(4.0, abs=0.01) for step in steps)


def test_where_points_are_missing_counts_are_none() -> None:
    times = [NOW - SECONDS * back for back in range(30, -1, -1)]
    counts = [math.nan if n % 3 else 10.0 * n for n in range(31)]
    mode = a_mode(episodes=300, started=301, recent_ends=[NOW - n for n in (3, 2, 1)])
    left = eta.episodes_left(mode, 400, Curve(times, counts), NOW)
    assert left == pytest.approx(50.0, rel=0.1)
