"""The strip of live sources: who is slow, in an order that keeps still."""

from typing import Optional

from experiment_hooks import wire
from exporter.live import strip
from exporter.live.strip import MAX_SHOWN, Standing, Strip, shown
from exporter.merge import Schema


def standing(number: int, at: float, total: int, **more: object) -> Standing:
    found = Standing(f"s{number}", f"host:{number:03}", at, total, at)
    return found._replace(**more)


def rated(strip: Strip, seconds: float, *speeds: Optional[float]) -> list:
    found = [
        standing(number, seconds, int((speed or 0) * seconds))
        for number, speed in enumerate(speeds)
    ]
    return strip.seen(found)


def test_the_slowest_comes_first_once_that_is_known() -> None:
    strip = Strip()
    first = rated(strip, 0.0, 10.0, 2.0, 0.0)
    assert [(one.source, one.rate) for one in first] == [
        ("s0", None), ("s1", None), ("s2", None),
    ]  # fmt: skip
    later = rated(strip, 5.0, 10.0, 2.0, 0.0)
    assert [(one.source, one.rate) for one in later] == [
        ("s2", 0.0), ("s1", 2.0), ("s0", 10.0),
    ]  # fmt: skip


def test_those_that_are_about_as_fast_stay_where_they_are() -> None:
    strip = Strip()
    rated(strip, 0.0, 100.0, 101.0)
    for seconds, speeds in ((5.0, (100.0, 101.0)), (10.0, (101.0, 100.0))):
        assert [one.source for one in rated(strip, seconds, *speeds)] == ["s0", "s1"]


def test_a_rate_is_that_of_the_last_ten_seconds() -> None:
    strip = Strip()
    for second in range(31):
        total = 100 * min(second, 10)
        (found,) = strip.seen([standing(0, float(second), total)])
    assert found.rate == 0.0


def sampled(total: int, sent: float, progress: float) -> Standing:
    opened = wire.SourceOpened("r", b"s" * 16, 1, 0.0, host="host", pid=1)
    spec = wire.MetricSpec("steps", "counter", labels=("mode",))
    schema = Schema((spec,), (wire.SeriesSpec(0, ("eval",)),))
    sample = wire.Sample(number=1, sent=sent, progress=progress)
    return strip.standing(
        strip.Held(opened, sample, schema, (float(total),), 0.0, sent)
    )


def test_steps_count_by_their_own_time_and_not_by_that_of_the_sample() -> None:
    """One step a second; the first sample came late after it, the second right away."""
    of_one = Strip()
    of_one.seen([sampled(10, sent=10.9, progress=10.0)])
    (found,) = of_one.seen([sampled(12, sent=12.0, progress=12.0)])
    assert found.rate == 1.0


def test_the_rate_of_one_that_stands_still_falls() -> None:
    of_one = Strip()
    for second in range(30):
        (found,) = of_one.seen([sampled(10, sent=10.0 + second, progress=10.0)])
    assert found.rate == 0.0


def test_one_whose_clock_was_set_back_is_rated_all_the_same() -> None:
    strip = Strip()
    for second in range(20):
        strip.seen([standing(0, 4000.0 + second, 5 * second)])
    for second in range(20):
        (found,) = strip.seen([standing(0, 400.0 + second, 100 + 7 * second)])
        assert found.rate == (7.0 if second else None)


def test_the_chosen_one_is_shown_however_fast_it_is() -> None:
    found = [standing(number, 1.0, 0) for number in range(MAX_SHOWN + 6)]
    some, more = shown(found, f"s{MAX_SHOWN + 5}")
    assert [one.source for one in some][-2:] == [
        f"s{MAX_SHOWN - 2}",
        f"s{MAX_SHOWN + 5}",
    ]
    assert (len(some), more) == (MAX_SHOWN, 6)
    assert shown(found, "s0")[0] == found[:MAX_SHOWN]
    assert shown(found, "gone")[0] == found[:MAX_SHOWN]
    assert shown(found[:2], "s1") == (found[:2], 0)
