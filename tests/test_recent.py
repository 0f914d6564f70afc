"""Ten minutes of what live runs count: what is kept, for how long, and what it says."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from experiment_hooks import wire
from exporter.live import recent as recent_module
from exporter.live import tracks
from exporter.live.recent import Recent
from exporter.live.tracks import Seen, Series, means, per_second
from exporter.state import State
from exporter.verdict import Rules
from tests.making import NOON, STEPS, Teller, counter, gauge, histogram, sample
from tests.support import eventually

NAN = math.nan


class World:
    """Runs with one source each or more, told by hand, and looked at by hand."""

    def __init__(self) -> None:
        self.state = State()
        self.recent = Recent(self.state, Rules(), lambda: NOON)
        self.samples: dict[bytes, int] = {}

    def open(self, teller: Teller, *specs: wire.MetricSpec, **labels: Any) -> Teller:
        """A source with one series of each metric; of ``STEPS`` for the mode train."""
        series = [
            (number, tuple(labels.get(label, "train") for label in spec.labels))
            for number, spec in enumerate(specs)
        ]
        role = "owner" if teller.id[0] == 1 else "child"
        self.tell(teller, teller.opened(role=role))
        if role == "owner":
            self.tell(teller, teller.run_opened())
        self.tell(teller, teller.schema(specs, series))
        return teller

    def tell(self, teller: Teller, record: Any, at: float = NOON) -> None:
        self.state.apply(record, teller.run, at)

    def count(
        self, teller: Teller, at: float, *totals: float, late: float = 0.0, **more: Any
    ) -> None:
        """A sample that was made ``late`` seconds before it comes, by its own clock."""
        number = self.samples[teller.id] = self.samples.get(teller.id, 0) + 1
        found = sample(number, totals, at - late, **more)
        assert self.state.apply_sample(teller.id, found, at)

    def look(self, at: float) -> None:
        self.recent.look(at)

    def seen(self, run: str = "run") -> Seen:
        found = self.recent.seen(run)
        assert found is not None
        return found

    def series(self, name: str) -> Series:
        return next(one for one in self.seen().series if one.spec.name == name)


@pytest.fixture
def world() -> World:
    return World()


def same(found: Any, wanted: list[float]) -> bool:
    return [*found] == pytest.approx(wanted, nan_ok=True)


# --- numbers --------------------------------------------------------------------------


def test_a_rate_is_over_so_many_seconds_or_since_the_first() -> None:
    times = [0.0, 5.0, 10.0, 15.0, 20.0]
    totals = [0.0, 10.0, 10.0, 40.0, 40.0]
    assert same(per_second(times, totals, 10.0), [NAN, 2.0, 1.0, 3.0, 3.0])
    assert same(per_second(times, totals, 1.0), [NAN, 2.0, 0.0, 6.0, 0.0])
    assert same(per_second(times, totals, math.inf), [NAN, 2.0, 1.0, 40 / 15, 2.0])


def test_what_is_missing_has_no_rate_and_hides_none() -> None:
    times = [0.0, 5.0, 10.0, 15.0]
    assert same(per_second(times, [NAN, 1.0, NAN, 11.0], 5.0), [NAN, NAN, NAN, 1.0])
    assert same(per_second(times, [NAN] * 4, 5.0), [NAN] * 4)
    # Where no time has passed, nobody knows.
    assert same(per_second([0.0, 0.5, 0.4], [0.0, 5.0, 9.0], 5.0), [NAN] * 3)


def test_a_mean_is_of_what_was_observed_meanwhile() -> None:
    times, counts = [0.0, 5.0, 10.0, 15.0], [0.0, 4.0, 4.0, 5.0]
    sums = [0.0, 8.0, 8.0, 3.0]
    assert same(means(times, counts, sums, 5.0), [NAN, 2.0, NAN, -5.0])


# --- steps per second -----------------------------------------------------------------


def test_steps_per_second_are_right_however_seldom_or_often_samples_come(
    world: World,
) -> None:
    one = world.open(Teller(), STEPS)
    for second in range(1, 40):
        now = NOON + second
        # 50 steps a second. Nobody looks until the 20th second: a sample tells of what
        # was taken nearly a second before; then of what was just taken.
        age = 0.9 if second < 20 else 0.02
        world.count(one, now, 50.0 * (second - age), progress=now - age)
        world.look(now + 0.4)
        if second > 3:
            assert world.recent.rates("run") == {"train": pytest.approx(50.0)}
    curve = world.seen().speeds["train"].steps
    known = [value for value in curve.values if value == value]
    assert len(known) > 8
    assert known == pytest.approx([50.0] * len(known))


@pytest.mark.parametrize("behind", [-1.5, 0.0, 1.5])
def test_samples_that_come_late_change_no_rate(world: World, behind: float) -> None:
    one = world.open(Teller(), STEPS)
    for second in range(1, 40):
        now, delay = NOON + second, 0.4 * (second % 3)
        made = now - delay - 0.1
        total = 50.0 * (second - delay - 0.1)
        # Its clock is behind ours; or ahead, as far as clocks may differ unsaid.
        world.count(one, now, total, late=delay + 0.1 + behind, progress=made - behind)
        world.look(now + (0.4, -0.2)[second % 2])  # it may come while it is looked at
        if second > 4:
            assert world.recent.rates("run") == {"train": pytest.approx(50.0)}


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_sources_clock_that_is_set_says_little(world: World, jump: float) -> None:
    one = world.open(Teller(), STEPS)
    for second in range(1, 60):
        now, ahead = NOON + second, jump if second > 20 else 0.0
        world.count(one, now, 50.0 * second, late=-ahead, progress=now + ahead)
        world.look(now)
        if second > 3:
            rate = world.recent.rates("run")["train"]
            assert rate == pytest.approx(50.0, rel=0.0 if not 20 < second < 36 else 1.0)
    assert world.seen().speeds["train"].steady == pytest.approx(50.0, rel=0.05)


def test_a_loop_with_few_steps_has_an_even_line(world: World) -> None:
    one = world.open(Teller(), STEPS)
    for second in range(1, 120):
        now = NOON + second
        steps, last = divmod(second, 8)
        world.count(one, now, float(steps), progress=now - last if steps else 0.0)
        world.look(now)
    values = world.seen().speeds["train"].steps.values
    known = [value for value in values if value == value]
    assert known == pytest.approx([1 / 8] * len(known))
    assert len(known) > 15


def test_when_a_source_stops_the_rate_goes_to_nothing(world: World) -> None:
    one = world.open(Teller(), STEPS)
    for second in range(1, 61):
        now = NOON + second
        steps = min(second, 30)
        world.count(one, now, 100.0 * steps, progress=NOON + steps)
        world.look(now)
    assert world.recent.rates("run") == {"train": 0.0}
    speed = world.seen().speeds["train"]
    assert speed.steps.values[-1] == 0.0
    assert speed.steady == pytest.approx(50.0, rel=0.15)


def test_the_times_of_several_sources_count_by_their_mean(world: World) -> None:
    tellers = [world.open(Teller(n), STEPS) for n in (1, 2, 3, 4)]
    for second in range(1, 30):
        now = NOON + second
        for place, one in enumerate(tellers):
            # Each tells at another moment; and from the 15th second on at once.
            age = 0.05 if second >= 15 else 0.3 * place
            world.count(one, now - age, 10.0 * (second - age), progress=now - age)
        world.look(now)
        if second > 3:
            assert world.recent.rates("run")["train"] == pytest.approx(40.0)


def test_modes_are_bounded_and_a_mode_without_steps_has_no_rate(world: World) -> None:
    one = Teller()
    world.open(one)
    names = [f"m{n}" for n in range(tracks.MAX_MODES + 5)]
    world.tell(one, one.schema([STEPS], [(0, (name,)) for name in names]))
    for second in (1, 3, 5):
        totals = [10.0 * second * (n != 2) for n in range(len(names))]
        world.count(one, NOON + second, *totals)
        world.look(NOON + second)
    assert len(world.seen().speeds) == tracks.MAX_MODES
    assert "m2" not in world.recent.rates("run")
    assert world.recent.rates("run")["m1"] == pytest.approx(10.0)


# --- the run's own series -------------------------------------------------------------


def test_each_kind_says_what_it_is_now_and_how_it_went(world: World) -> None:
    kinds = (counter("points"), gauge("loss"), histogram("took", 1.0, 2.0))
    one = world.open(Teller(), *kinds)
    for place, second in enumerate(range(0, 60, 5)):
        at = NOON + second
        took = (2.0 * place, 0.0, 0.0, 5.0 * place)  # two more of 2.5 each
        world.count(one, at, 10.0 * place, 0.5 + place, place + 1.0, *took)
        world.look(at)
    points, loss, took_ = (world.series(name) for name in ("points", "loss", "took"))
    assert (points.newest, points.rate) == (110.0, pytest.approx(2.0))
    assert (loss.newest, loss.rate) == (11.5, None)
    assert (took_.newest, took_.rate) == (pytest.approx(2.5), pytest.approx(0.4))
    assert same(loss.curve.values, [0.5 + place for place in range(12)])
    assert points.curve.values[1:] == pytest.approx([2.0] * 11)
    assert took_.curve.values[1:] == pytest.approx([2.5] * 11)
    assert same(loss.curve.times, [NOON + 5 * place for place in range(12)])


def test_an_age_is_since_it_was_set_and_not_since_it_differs(world: World) -> None:
    one = world.open(Teller(), gauge("same"), gauge("stale"), counter("points"))
    for second in range(0, 60, 5):
        sets = second + 1.0
        world.count(one, NOON + second, 7.0, sets, 7.0, 1.0, min(second, 20))
        world.look(NOON + second)
    assert world.series("same").changed == NOON + 55
    assert world.series("points").changed == NOON + 20
    assert (world.series("stale").changed, world.series("stale").sure) == (NOON, False)


def test_nan_is_a_value_that_leaves_a_gap_and_does_not_change_by_itself(
    world: World,
) -> None:
    one = world.open(Teller(), gauge("loss", "per_source"))
    for place, value in enumerate([1.0, NAN, NAN, NAN, 4.0, 4.0]):
        world.count(one, NOON + 5 * place, value, 1.0)
        world.look(NOON + 5 * place)
        changed = world.seen().series[0].changed - NOON
        assert changed == [0, 5, 5, 5, 20, 20][place]
    assert same(world.seen().series[0].curve.values, [1.0, NAN, NAN, NAN, 4.0, 4.0])


def test_a_series_that_comes_late_or_goes_has_gaps(world: World) -> None:
    one = world.open(Teller(1), gauge("loss", "per_source"))
    two = world.open(Teller(2), gauge("loss", "per_source"))
    world.count(one, NOON, 1.0, 1.0)
    world.look(NOON)
    world.count(two, NOON + 5, 2.0, 1.0)
    world.look(NOON + 5)
    world.tell(two, two.closed((2.0, 1.0)), NOON + 6)
    world.look(NOON + 66)
    found = {dict(one.labels)["source"]: one for one in world.seen().series}
    assert same(found["host:1"].curve.values, [1.0, 1.0, 1.0])
    assert same(found["host:2"].curve.values, [NAN, 2.0, NAN])
    assert found["host:2"].sure


def test_totals_of_sources_that_ended_and_were_folded_stay(world: World) -> None:
    one = world.open(Teller(1), STEPS, counter("points"))
    two = world.open(Teller(2), STEPS, counter("points"))
    world.count(one, NOON + 1, 10.0, 1.0)
    world.tell(two, two.closed((10.0, 5.0)), NOON + 1)
    world.look(NOON + 2)
    world.state.fold_ended(NOON + 100)
    assert world.state.runs["run"].sources[two.id].folded
    world.count(one, NOON + 102, 10.0, 1.0)
    world.look(NOON + 102)
    assert world.series("points").newest == 6.0
    assert world.series("points").rate == 0.0


# --- for how long, and how much -------------------------------------------------------


def test_a_point_is_taken_each_five_seconds_and_sooner_at_first(world: World) -> None:
    one = world.open(Teller(), gauge("loss"))
    for tick in range(200):
        world.count(one, NOON + 0.2 * tick, float(tick), tick + 1.0)
        world.look(NOON + 0.2 * tick)
    times = [time - NOON for time in world.series("loss").curve.times]
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert gaps[:5] == pytest.approx([0.8] * 5)
    assert gaps[5:] == pytest.approx([4.8] * len(gaps[5:]))


def test_ten_minutes_are_kept_and_no_more(world: World) -> None:
    one = world.open(Teller(), gauge("loss"))
    for second in range(0, 2000, 5):
        world.count(one, NOON + second, float(second), second + 1.0)
        world.look(NOON + second)
    curve = world.series("loss").curve
    assert len(curve.values) == tracks.POINTS == len(curve.times)
    assert curve.values[-1] == 1995.0
    assert curve.times[0] - NOON == curve.values[0] == 1995.0 - 5.0 * 119


def test_points_that_came_slowly_reach_no_further_back(world: World) -> None:
    one = world.open(Teller(), gauge("loss"))
    for place in range(100):
        world.count(one, NOON + 20 * place, float(place), place + 1.0)
        world.look(NOON + 20 * place)
    seen = world.seen()
    assert seen.since == seen.at - tracks.KEPT
    assert len(world.series("loss").curve.values) == 31


def test_a_run_that_has_ended_keeps_its_history_for_ten_minutes(world: World) -> None:
    one = world.open(Teller(), STEPS, gauge("loss"))
    for second in range(10):
        now = NOON + second
        world.count(one, now, 10.0 * second, float(second), 1.0 + second, progress=now)
        world.look(now)
    assert world.recent.rates("run") == {"train": pytest.approx(10.0)}
    world.tell(one, one.run_closed(), NOON + 10)
    world.tell(one, one.closed((100.0, 42.0, 11.0)), NOON + 10)
    world.look(NOON + 11)
    last = world.seen()
    assert world.series("loss").newest == 42.0  # the last of it is there
    assert world.recent.rates("run") == {}
    world.look(NOON + 600)
    assert world.recent.seen("run") is last
    world.look(NOON + 612)
    assert world.recent.seen("run") is None


def test_runs_that_ended_before_are_not_looked_at(world: World) -> None:
    one = world.open(Teller(), STEPS)
    world.count(one, NOON, 1.0)
    world.state.source_lost(one.id, NOON)  # lost, but never closed
    world.look(NOON + 100)
    assert world.recent.seen("run") is None
    world.state.source_returned(one.id)
    world.count(one, NOON + 101, 2.0)
    world.look(NOON + 101)
    assert world.recent.seen("run") is not None


def test_a_deleted_run_goes_and_its_room_is_free(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_module, "MAX_SERIES", 3)
    specs = [gauge(name) for name in "abcd"]
    first = world.open(Teller(run="first"), *specs)
    world.count(first, NOON, *[1.0] * 8)
    world.look(NOON)
    assert [one.spec.name for one in world.seen("first").series] == ["a", "b", "c"]
    assert world.seen("first").more == 1
    world.state.forget("first")
    second = world.open(Teller(run="second"), *specs)
    world.count(second, NOON, *[1.0] * 8)
    world.look(NOON + 5)
    assert world.recent.seen("first") is None
    assert len(world.seen("second").series) == 3


def test_a_run_that_has_the_id_of_a_deleted_one_has_no_history(world: World) -> None:
    for second, name in ((0, "first"), (1, "second")):
        now = NOON + second
        one = world.open(Teller(), gauge(name))
        world.count(one, now, 1.0, 1.0)
        world.look(now)
        world.tell(one, one.run_closed(), now)
        world.tell(one, one.closed((1.0, 1.0)), now)
        world.look(now)
        seen = world.seen()
        assert [series.spec.name for series in seen.series] == [name]
        assert seen.since == now
        world.state.forget("run")


def test_of_very_many_series_a_hundred_are_kept(world: World) -> None:
    one = Teller()
    world.open(one)
    many = [(0, (str(n),)) for n in range(250)]
    world.tell(one, one.schema([counter("points", "n")], many))
    for second in (0, 5):
        world.count(one, NOON + second, *map(float, range(250)))
        world.look(NOON + second)
    seen = world.seen()
    assert (len(seen.series), seen.more) == (tracks.MAX_SERIES, 150)
    assert [one.newest for one in seen.series] == [float(n) for n in range(100)]
    assert len({one.number for one in seen.series}) == 100


def test_a_series_without_values_for_ten_minutes_makes_room(world: World) -> None:
    one = world.open(Teller(1), STEPS)
    world.count(one, NOON, 1.0)
    two = world.open(Teller(2), gauge("loss", "per_source"))
    world.count(two, NOON, 1.0, 1.0)
    world.look(NOON)
    assert len(world.seen().series) == 1
    world.tell(two, two.closed((1.0, 1.0)), NOON)
    for second in range(61, 61 + 5 * tracks.POINTS, 5):
        assert len(world.seen().series) == 1
        world.look(NOON + second)
    assert len(world.seen().series) == 0


def test_a_clock_that_is_set_back_begins_anew(world: World) -> None:
    one = world.open(Teller(), STEPS)
    for second in (0, 5, 10, 2, 7):
        world.count(one, NOON + second, 10.0 + second)
        world.look(NOON + second)
    assert [*world.seen().speeds["train"].steps.times] == [NOON + 2, NOON + 7]


def test_what_is_seen_is_made_once_for_all_who_look(world: World) -> None:
    one = world.open(Teller(), STEPS)
    world.count(one, NOON, 1.0)
    world.look(NOON)
    first = world.seen()
    assert world.seen() is first
    world.look(NOON + 5)
    assert world.seen() is not first
    assert world.recent.seen("other") is None


# --- the thread -----------------------------------------------------------------------


def test_the_thread_looks_by_itself_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_module, "TICK", 0.01)
    world = World()
    broken = world.open(Teller(run="broken"), STEPS)
    world.count(broken, NOON, 1.0)
    world.state.runs["broken"].base = None  # type: ignore[assignment]
    fine = world.open(Teller(2, run="fine"), STEPS)
    world.count(fine, NOON, 1.0)
    world.recent.start()
    eventually(lambda: world.recent.seen("fine") is not None)
    assert world.recent.seen("broken") is None
    world.recent.close()
    world.recent.close()
    assert "recent" not in [thread.name for thread in threading.enumerate()]


def test_what_takes_long_is_followed_by_a_long_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    rests: list[float] = []
    world = World()
    for number in range(5):
        one = world.open(Teller(number + 1, run=f"run-{number}"), STEPS)
        world.count(one, NOON, 1.0)

    class Closed:
        """Says that it is closed when there was a rest after a rest."""

        def wait(self, seconds: float) -> bool:
            rests.append(seconds)
            return len(rests) > 5

    def slow(run: Any, now: float) -> None:
        clock[0] += 0.25

    monkeypatch.setattr(recent_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(world.recent, "_take", slow)
    monkeypatch.setattr(world.recent, "_closed", Closed())
    world.recent._serve()
    assert rests == [recent_module.TICK, 5.0, 5.0, 5.0, 5.0, 5.0]
