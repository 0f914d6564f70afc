"""What one source has to tell: totals, gaps, its newest moment, its bounded outbox."""

import logging
import math
from typing import Any, Callable, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_hooks import catalogue, outbox, recorder, wire
from experiment_hooks import episode as episodes
from experiment_hooks.errors import RunStopped
from experiment_hooks.recorder import Recorder
from tests.sources import Clock, sample, series, start, taken_out
from tests.support import as_name


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.put_in(monkeypatch)


@pytest.fixture
def source(clock: Clock) -> Recorder:
    return Recorder("run")


def say(source: Recorder, text: str = "x") -> None:
    source.log("info", text, "", {}, 1.0)


# --- records -------------------------------------------------------------------------


def test_records_are_numbered_from_one_and_say_whose_they_are(source: Recorder) -> None:
    for text in "abc":
        say(source, text)
    found = taken_out(source)
    assert [record.seq for record in found] == [1, 2, 3]
    assert {record.source for record in found} == {source.source}
    assert {record.run for record in found} == {"run"}
    assert len(source.source) == 16
    assert Recorder("run").source != source.source


def test_records_leave_in_the_order_they_came_whatever_their_rank(
    source: Recorder,
) -> None:
    say(source)
    start(source).close()
    say(source)
    found = taken_out(source)
    assert [record.seq for record in found] == list(range(1, 5))
    assert [type(record).__name__ for record in found] == [
        "LogLine", "EpisodeStarted", "EpisodeEnded", "LogLine",
    ]  # fmt: skip


def test_records_are_taken_in_batches_of_bounded_number_and_size(
    source: Recorder,
) -> None:
    for _ in range(10):
        say(source, "x" * 1000)
    assert len(source.take_records(3, 10**6)) == 3
    assert len(source.take_records(100, 2500)) == 2
    assert len(source.take_records(100, 1)) == 1, "one at least, or it would never go"
    assert source.unsent == 4


def test_after_its_end_a_source_records_nothing(
    source: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    source.close("completed", "", None)
    source.close("failed", "", None)
    say(source)
    say(source)
    assert source.start_episode("train", None, None, None, None) is None
    source.tell()
    found = taken_out(source)
    assert [type(record) for record in found] == [wire.SourceClosed]
    assert found[0].ending == "completed"
    assert source.dropped == {"closed": 2, "open_episodes": 1}
    assert len(caplog.messages) == 2, "each said once"


def test_a_record_that_cannot_be_encoded_leaves_its_number_as_given_up(
    source: Recorder,
) -> None:
    source.log("info", "x", "", {"bad": object()}, 1.0)
    say(source, "good")
    lost, good = taken_out(source)
    assert isinstance(lost, wire.GivenUp)
    assert (lost.ranges, lost.reason) == (((1, 1),), "lost")
    assert good.seq == 2
    assert source.dropped == {"unencodable": 1}


def test_a_record_that_is_too_large_is_replaced_by_the_smaller_one(
    source: Recorder,
) -> None:
    def of_size(size: int) -> Any:
        return lambda **base: wire.LogLine(level="info", message="x" * size, **base)

    source.record(of_size(10**6), 1.0)
    source.record(of_size(10**6), 1.0, smaller=of_size(5))
    source.record(of_size(10**6), 1.0, smaller=of_size(10**6))
    found = taken_out(source)
    assert [type(one).__name__ for one in found] == ["GivenUp", "LogLine", "GivenUp"]
    assert [one.seq for one in found] == [1, 2, 3]
    assert source.dropped == {"too_large": 4}


# --- the outbox's bound ---------------------------------------------------------------


def test_of_too_many_records_the_oldest_log_lines_go_first_then_episodes() -> None:
    source = Recorder("run", max_bytes=20_000)
    source.record(lambda **base: wire.RunOpened(experiment="x", **base), 1.0)
    for _ in range(20):
        start(source).close()
    for _ in range(50):
        say(source, "x" * 500)
    assert source.dropped["memory_log_lines"] > 10
    assert "memory_episodes" not in source.dropped
    for _ in range(200):
        start(source).close()
    assert source.dropped["memory_log_lines"] == 50, "all of them before any episode"
    assert source.dropped["memory_episodes"] > 20
    held = source._outbox.held
    found = taken_out(source)
    assert held <= 20_000
    assert isinstance(found[0], wire.RunOpened), "what is essential stays"
    kept = [record.seq for record in found if isinstance(record, wire.EpisodeEnded)]
    assert kept == sorted(kept)
    assert kept[-1] == source.seq - 1, "the newest stay"


def test_what_went_is_counted_and_announced_by_number() -> None:
    source = Recorder("run", max_bytes=5000)
    for _ in range(100):
        say(source, "x" * 100)
    found = taken_out(source)
    (given_up,) = [record for record in found if isinstance(record, wire.GivenUp)]
    gone = {n for first, last in given_up.ranges for n in range(first, last + 1)}
    here = {record.seq for record in found}
    assert given_up.reason == "memory"
    assert gone | here == set(range(1, source.seq + 1))
    assert not gone & here
    assert source.dropped == {"memory_log_lines": len(gone)}
    assert taken_out(source) == [], "announced once"


def test_what_went_is_announced_though_the_source_has_closed() -> None:
    source = Recorder("run", max_bytes=5000)
    for _ in range(100):
        say(source, "x" * 100)
    source.close("completed", "", None)
    found = taken_out(source)
    assert [type(one).__name__ for one in found[-2:]] == ["SourceClosed", "GivenUp"]
    assert found[-1].seq == source.seq


def test_records_on_their_way_count_until_they_are_acknowledged() -> None:
    source = Recorder("run", max_bytes=5000)
    for _ in range(25):
        say(source, "x" * 100)
    assert not source.dropped
    on_their_way = source.take_records(100, 10**6)
    for _ in range(5):
        say(source, "x" * 100)
    assert source.dropped, "the exporter has acknowledged none of them"
    before = source._outbox.held
    size = sum(len(data) for _, data in on_their_way)
    source.released(size)
    assert source._outbox.held == before - size


@given(st.lists(st.sampled_from(outbox.RANKS), max_size=80))
def test_whatever_comes_is_either_there_or_announced(ranks: List[str]) -> None:
    dropped: List[str] = []
    box = outbox.Outbox("run", b"s" * 16, 1000, dropped.append)
    for seq, rank in enumerate(ranks, 1):
        box.put(rank, seq, b"x" * 100)
    gone = [n for first, last in box.gone() for n in range(first, last + 1)]
    here = [seq for seq, _ in box.take(1000, 10**6)]
    assert sorted(gone + here) == list(range(1, len(ranks) + 1))
    assert here == sorted(here)
    assert len(dropped) == len(gone)
    by_rank = {
        rank: [seq for seq, one in enumerate(ranks, 1) if one == rank]
        for rank in outbox.RANKS
    }
    assert set(by_rank["essential"]) <= set(here)
    for rank in outbox.RANKS[1:]:  # of each the oldest go first
        lost = [seq for seq in by_rank[rank] if seq in gone]
        assert lost == by_rank[rank][: len(lost)]


def test_log_lines_go_before_starts_and_those_before_ends() -> None:
    box = outbox.Outbox("run", b"s" * 16, 1000, lambda reason: None)
    for seq, rank in enumerate([*outbox.RANKS] * 2, 1):
        box.put(rank, seq, b"x" * 100)
    for seq in (9, 10, 11):
        box.put("essential", seq, b"x" * 100)
    assert box.gone() == ((3, 4), (8, 8)), "the log lines, and a start"
    for seq in (12, 13, 14):
        box.put("essential", seq, b"x" * 100)
    assert box.gone() == ((2, 2), (6, 7)), "the other start, and then the ends"


def test_what_was_moved_out_and_comes_back_is_in_its_place() -> None:
    box = outbox.Outbox("run", b"s" * 16, 1000, lambda reason: None)
    for seq in (1, 2, 3):
        box.put("end", seq, b"x")
    moved = box.take_all()
    assert (box.count, box.held) == (0, 3), "still held, until it is somewhere else"
    box.put("end", 4, b"x")
    box.put_back("end", moved["end"])
    assert box.count == 4
    assert [seq for seq, _ in box.take(100, 10**6)] == [1, 2, 3, 4]


def test_a_source_that_nobody_hears_for_days_remembers_ranges_and_no_numbers() -> None:
    box = outbox.Outbox("run", b"s" * 16, 1000, lambda reason: None)
    for seq in range(1, 200_001):
        box.put("log", seq, b"x" * 100)
    assert len(box._gone) == 1
    for seq in range(200_001, 300_001):  # every second one stays
        box.put("essential" if seq % 2 else "log", seq, b"")
        box.held = 1001
    assert len(box._gone) <= 50_002
    told = box.gone()
    assert len(told) == 10_000
    largest = wire.GivenUp("r" * 128, b"s" * 16, 2**62, 1.0, ranges=told)
    assert len(wire.encode(largest)) < wire.MAX_RECORD_BYTES
    assert told[0] == (1, 200_000)
    assert box.gone()[0][0] > told[-1][1], "the others come next"


# --- totals --------------------------------------------------------------------------


def test_a_mode_has_its_totals_from_its_first_episode_on(source: Recorder) -> None:
    start(source, "eval")
    assert series(source)["steps", ("eval",)] == (0.0,)
    assert ("steps", ("train",)) not in series(source)


def test_totals_are_of_ended_and_open_episodes_together(
    source: Recorder, clock: Clock
) -> None:
    ended, opened = start(source), start(source)
    for one in (ended, opened, opened):
        clock.go(0.5)
        one.step()
    ended.close()
    opened.raise_due()
    clock.go(0.5)
    opened.step()
    found = series(source)
    assert found["steps", ("train",)] == (4.0,)
    durations = found["step_duration_seconds", ("train",)]
    assert sum(durations[:-1]) == 4
    assert durations[-1] == pytest.approx(0.5 + 2.0)


def test_the_schema_is_told_before_the_totals_that_need_it_and_once(
    source: Recorder,
) -> None:
    start(source)
    sample(source)
    sample(source)
    schemas = [one for one in taken_out(source) if isinstance(one, wire.Schema)]
    assert [one.name for one in schemas[0].metrics] == [
        "steps", "step_duration_seconds",
    ]  # fmt: skip
    assert len(schemas) == 1
    start(source, "eval")
    source.define(wire.MetricSpec("reward", "gauge"))
    sample(source)
    (more,) = [one for one in taken_out(source) if isinstance(one, wire.Schema)]
    assert (more.first_metric, more.first_series) == (2, 2)
    assert [one.name for one in more.metrics] == ["reward"]
    assert [one.metric for one in more.series] == [0, 1, 2]


def test_the_last_record_has_the_final_totals(source: Recorder) -> None:
    wins = source.define(wire.MetricSpec("wins", "counter"))
    start(source, epoch=4).close()
    wins.inc(3)
    source.drop("value", "something")
    source.close("failed", "user", wire.ErrorInfo("ValueError"))
    last = taken_out(source)[-1]
    assert isinstance(last, wire.SourceClosed)
    assert wire.unpack_totals(last.totals)[0] == 3.0
    assert (last.ending, last.reason, last.epochs) == ("failed", "user", {"train": 4})
    assert last.dropped == {"value": 1}
    assert last.error == wire.ErrorInfo("ValueError")


# --- modes, indices, phases ----------------------------------------------------------


def test_indices_are_counted_in_each_mode_and_go_on_from_a_given_one(
    source: Recorder,
) -> None:
    found = [start(source, mode).index for mode in ("train", "train", "eval", "train")]
    assert found == [0, 1, 0, 2]
    assert start(source, "eval", index=10).index == 10
    assert start(source, "eval").index == 11


def test_modes_beyond_the_bound_are_other(source: Recorder) -> None:
    modes = [start(source, f"m{n}").mode for n in range(catalogue.MAX_MODES + 3)]
    assert modes[catalogue.MAX_MODES - 1] == f"m{catalogue.MAX_MODES - 1}"
    assert set(modes[catalogue.MAX_MODES :]) == {"other"}
    assert source.dropped == {"modes": 3}
    assert start(source, "m0").mode == "m0", "what is known stays"


def test_phases_beyond_the_bound_are_other(source: Recorder) -> None:
    names = [source.phase_name(f"p{n}") for n in range(recorder.MAX_PHASES + 3)]
    assert names[: recorder.MAX_PHASES] == [f"p{n}" for n in range(recorder.MAX_PHASES)]
    assert set(names[recorder.MAX_PHASES :]) == {"other"}
    assert source.dropped == {"phases": 3}


@pytest.mark.parametrize("name", ["x" * 10_000, "\ud800", None, object(), 5])
def test_any_phase_name_is_a_short_text(source: Recorder, name: Any) -> None:
    found = source.phase_name(name)
    assert len(found) <= 100
    wire.encode_plain(found)


def test_more_open_episodes_than_the_bound_are_none(source: Recorder) -> None:
    opened = [start(source) for _ in range(recorder.MAX_OPEN_EPISODES)]
    assert source.start_episode("train", None, None, None, None) is None
    assert source.dropped == {"open_episodes": 1}
    opened[0].close()
    assert source.start_episode("train", None, None, None, None) is not None


# --- progress and its gaps -----------------------------------------------------------


def test_without_progress_there_is_none(source: Recorder) -> None:
    assert sample(source).progress == 0.0
    assert (sample(source).gap, sample(source).gaps) == (0.0, 0)


def test_the_gap_of_an_episode_is_that_between_its_steps(
    source: Recorder, clock: Clock
) -> None:
    """And not the time that the whole episode took."""
    with start(source) as one:
        for _ in range(100):
            clock.go(1.0)
            one.step()
        clock.go(0.5)
    assert sample(source).gap == 1.0


def test_the_time_between_episodes_is_a_gap(source: Recorder, clock: Clock) -> None:
    start(source).close()
    clock.go(7.0)
    start(source).close()
    assert sample(source).gap == 7.0


def test_the_time_before_the_first_episode_is_none(
    source: Recorder, clock: Clock
) -> None:
    clock.go(100.0)
    start(source).close()
    assert sample(source).gap == 0.0


def test_the_time_from_the_last_step_to_the_end_is_a_gap(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as one:
        one.step()
        clock.go(5.0)
    assert sample(source).gap == 5.0


def test_a_phase_s_change_ends_a_gap(source: Recorder, clock: Clock) -> None:
    with start(source) as one:
        clock.go(3.0)
        with one.phase("a"):
            clock.go(2.0)
        clock.go(1.0)
        one.step()
    assert sample(source).gap == 3.0


def test_what_a_phase_promised_is_not_learned_from(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as one:
        with one.phase("long", promise=600.0):
            clock.go(300.0)
            one.step()
            clock.go(200.0)
        clock.go(2.0)
        one.step()
    assert sample(source).gap == 2.0


def test_a_loop_without_episodes_has_gaps_too(source: Recorder, clock: Clock) -> None:
    for seconds in (100.0, 1.0, 4.0, 2.0):
        clock.go(seconds)
        source.progress()
    assert (sample(source).gap, sample(source).gaps) == (4.0, 4)
    assert sample(source).progress == clock.wall


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_progress_is_told_by_the_clock_as_it_is_now(
    seconds: float, source: Recorder, clock: Clock
) -> None:
    """The machine slept in the middle of an episode, or its clock was set."""
    one = start(source)
    clock.wall += seconds
    clock.go(1.0)
    one.raise_due()
    one.step()
    clock.go(0.5)
    found = sample(source)
    assert found.progress == pytest.approx(clock.wall - 0.5)
    assert found.open[0].last == pytest.approx(clock.wall - 0.5)
    assert found.open[0].started == pytest.approx(clock.wall - 1.5 - seconds)


def test_progress_within_an_episode_is_its_newest_step_s(
    source: Recorder, clock: Clock
) -> None:
    one = start(source)
    clock.go(10.0)
    one.raise_due()
    one.step()
    assert sample(source).progress == clock.wall
    assert sample(source).gaps == 2, "its start and its step"


def test_the_open_phase_s_promise_is_told(source: Recorder) -> None:
    one = start(source)
    with one.phase("long", promise=600.0):
        assert sample(source).promise == 600.0
    one.raise_due()
    one.step()
    assert sample(source).promise is None


@pytest.mark.parametrize("promise", [0, -1, math.nan, math.inf, "x", None, [1]])
def test_a_promise_that_is_none_is_none(source: Recorder, promise: Any) -> None:
    with start(source).phase("long", promise=promise):
        assert sample(source).promise is None


# --- the newest moment ---------------------------------------------------------------


def moment_of(source: Recorder) -> Optional[wire.Moment]:
    moments = [one for one in sample(source).moments if one.episode is not None]
    assert len(moments) < 2
    return moments[0] if moments else None


def test_the_moment_is_taken_when_it_was_asked_for(source: Recorder) -> None:
    one = start(source)
    one.step(state={"n": 1}, scores={"mug": 0.5})
    found = moment_of(source)
    assert found is not None
    assert wire.decode_plain(found.state) == {"n": 1}
    assert (found.scores, found.step, found.episode) == ({"mug": 0.5}, 1, 0)
    one.step(state={"n": 2})
    assert moment_of(source) is None, "nobody asked"
    source.raise_flags()
    one.step()
    found = moment_of(source)
    assert found is not None
    assert wire.decode_plain(found.state) == {"n": 2}, (
        "given before, and still the last"
    )


def test_the_moment_is_the_oldest_open_episode_s(source: Recorder) -> None:
    old, new = start(source), start(source)
    new.step(state="new")
    assert moment_of(source) is None
    old.step(state="old")
    found = moment_of(source)
    assert found is not None
    assert found.episode == 0
    old.close()
    source.raise_flags()
    moment_of(source)
    new.step()
    found = moment_of(source)
    assert found is not None
    assert found.episode == 1


def test_a_moment_that_is_not_asked_for_again_does_not_go_twice(
    source: Recorder,
) -> None:
    start(source).step(state=1)
    assert moment_of(source) is not None
    assert moment_of(source) is None


def test_images_are_taken_only_while_somebody_watches(source: Recorder) -> None:
    numpy = pytest.importorskip("numpy")
    picture = numpy.arange(12, dtype="uint8").reshape(2, 2, 3)
    one = start(source)
    one.step(images={"view": picture})
    found, parts = source.sample(1, 1.0)
    assert found.moments[0].images == ()
    assert parts == []
    source.watched = True
    source.raise_flags()
    one.step()
    found, parts = source.sample(2, 1.0)
    assert found.moments[0].images == (wire.Image("view", (2, 2, 3), "|u1", 0),)
    assert parts == [picture.tobytes()]


def test_all_images_of_a_moment_together_are_bounded(source: Recorder) -> None:
    numpy = pytest.importorskip("numpy")
    source.watched = True
    picture = numpy.zeros((1000, 1000, 3), dtype="uint8")
    start(source).step(images={f"view{n}": picture for n in range(30)})
    found, parts = source.sample(1, 1.0)
    assert len(parts) == len(found.moments[0].images) == episodes.MAX_IMAGES
    assert sum(map(len, parts)) <= wire.MAX_IMAGE_BYTES
    assert all(image.stride > 1 for image in found.moments[0].images)
    assert [image.part for image in found.moments[0].images] == list(range(16))


class Odd(Dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


ODD_IMAGES = [5, "x", [1, 2], {"a": "no image"}, {5: None}, Odd(a=1)]


@pytest.mark.parametrize("images", ODD_IMAGES, ids=as_name)
def test_what_is_no_image_spares_the_rest_of_the_moment(
    source: Recorder, images: Any
) -> None:
    source.watched = True
    start(source).step(state=1, images=images)
    found = moment_of(source)
    assert found is not None
    assert (found.images, wire.decode_plain(found.state)) == ((), 1)


def test_the_run_s_own_state_is_a_moment_without_an_episode(source: Recorder) -> None:
    source.state({"n": 1})
    source.state({"n": 2})  # it was asked for once
    (moment,) = sample(source).moments
    assert moment.episode is None
    assert wire.decode_plain(moment.state) == {"n": 1}
    assert sample(source).moments == ()
    source.state({"n": 3})
    assert len(sample(source).moments) == 1


def test_streams_are_taken_only_while_somebody_watches(source: Recorder) -> None:
    source.stream("sensor", [1])
    assert sample(source).streams == {}
    source.watched = True
    source.stream("sensor", [2])
    source.stream("sensor", [3])
    found = sample(source).streams
    assert {name: wire.decode_plain(data) for name, data in found.items()} == {
        "sensor": [2]
    }
    assert sample(source).streams == {}


def test_streams_are_bounded_in_number_and_in_size(source: Recorder) -> None:
    source.watched = True
    for number in range(recorder.MAX_STREAMS + 5):
        source.stream(f"s{number}", 1)
    assert source.dropped == {"streams": 5}
    assert len(sample(source).streams) == recorder.MAX_STREAMS
    for number in range(10):
        source.stream(f"s{number}", "x" * 60_000)
    found = sample(source).streams
    assert sum(map(len, found.values())) <= recorder.MAX_STREAM_BYTES


def test_the_largest_sample_fits_into_its_message(source: Recorder) -> None:
    numpy = pytest.importorskip("numpy")
    source.watched = True
    scores = {f"{n}" + "\U0001f600" * 120: float(n) for n in range(1000)}
    for _ in range(recorder.MAX_OPEN_EPISODES):
        start(source, target="\U0001f600" * 200)
    fill(source)
    state = {str(n): "x" * 1000 for n in range(100)}
    picture = numpy.zeros((1000, 1000, 3), dtype="uint8")
    source.raise_flags()
    next(iter(source.open.values())).step(state, scores, {"view": picture})
    source.state(state)
    for number in range(20):
        source.stream(f"s{number}", state)
    found, parts = source.sample(2**60, 1.7e9)
    assert len(found.moments) == 2
    assert len(found.open) == recorder.MAX_SHOWN_EPISODES
    assert len(wire.encode(found)) < wire.MAX_HEAD_BYTES
    assert sum(map(len, parts)) <= wire.MAX_IMAGE_BYTES


def fill(source: Recorder) -> None:
    """As many totals as there may be."""
    bounds = tuple(map(float, range(98)))
    seconds: Any = source.define(
        wire.MetricSpec("seconds", "histogram", labels=("n",), buckets=bounds)
    )
    for number in range(catalogue.MAX_SERIES):
        seconds.labels(number).observe(1)


def test_a_sample_says_what_is_open_and_what_was_dropped(
    source: Recorder, clock: Clock
) -> None:
    one = start(source, "eval", epoch=2, index=5, target="mug")
    clock.go(1.0)
    with one.phase("match"):
        one.step()
        source.raise_flags()
        one.step()
        source.drop("value")
        found = sample(source, 7)
    assert found.number == 7
    assert found.announced == source.seq
    assert found.epochs == {"eval": 2}
    assert found.dropped == {"value": 1}
    assert found.open == (
        wire.OpenEpisode(
            0, "eval", 2, clock.wall - 1.0, clock.wall, "match", 2, 5, "mug"
        ),
    )


# --- stopping ------------------------------------------------------------------------

BOUNDARIES = ("step", "episode", "now")


@pytest.mark.parametrize("when", ["step", "episode", "now"])
@pytest.mark.parametrize("at", BOUNDARIES)
def test_a_stop_arrives_at_the_boundary_that_was_asked_for(
    source: Recorder, when: str, at: str
) -> None:
    source.stop = wire.Command("c", "stop", when, "late", "ann")
    if when in (at, "now"):
        with pytest.raises(RunStopped) as caught:
            source.boundary(at)
        assert (caught.value.reason, caught.value.by) == ("late", "ann")
    else:
        source.boundary(at)


CALLS: Dict[str, Callable[[Dict[str, Any]], None]] = {
    "inc": lambda made: made["counter"].inc(),
    "set": lambda made: made["gauge"].set(1),
    "dec": lambda made: made["gauge"].dec(1),
    "observe": lambda made: made["histogram"].observe(1),
    "a bound child": lambda made: made["left"].inc(),
    "labels that are new": lambda made: made["labelled"].labels("right"),
}


def metrics(source: Recorder) -> Dict[str, Any]:
    labelled = source.define(wire.MetricSpec("d", "counter", labels=("side",)))
    return {
        "counter": source.define(wire.MetricSpec("a", "counter")),
        "gauge": source.define(wire.MetricSpec("b", "gauge")),
        "histogram": source.define(wire.MetricSpec("c", "histogram", buckets=(1.0,))),
        "labelled": labelled,
        "left": labelled.labels("left"),
    }


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_stop_at_once_reaches_a_loop_that_only_counts(
    source: Recorder, call: Callable[[Dict[str, Any]], None]
) -> None:
    made = metrics(source)
    source.ask_stop(wire.Command("c", "stop", "now", "late", "ann"))
    for _ in range(2):  # swallowed, it comes again
        with pytest.raises(RunStopped, match="late"):
            call(made)
    assert source.totals() == wire.pack_totals([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    source.mute()  # the run has ended
    call(made)


@pytest.mark.parametrize("when", ["step", "episode"])
def test_a_stop_at_a_boundary_leaves_metrics_alone(source: Recorder, when: str) -> None:
    made = metrics(source)
    source.ask_stop(wire.Command("c", "stop", when))
    for call in CALLS.values():
        call(made)
    assert not source.dropped


# --- guarding the experiment ---------------------------------------------------------


def test_a_failure_of_ours_is_counted_told_once_and_swallowed(
    source: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise KeyError("ours")

    assert source.guard(broken) is None
    assert source.guard(broken) is None
    assert source.guard(lambda: 5) == 5
    assert source.dropped == {"internal_error": 2}
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "KeyError" in warnings[0].getMessage()


@pytest.mark.parametrize("error", [RunStopped, KeyboardInterrupt, SystemExit])
def test_what_is_no_failure_goes_on(source: Recorder, error: Any) -> None:
    def stopped() -> None:
        raise error

    with pytest.raises(error):
        source.guard(stopped)
    assert not source.dropped


def test_complaints_are_bounded(
    source: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        source.drop("value", f"number {number}")
    assert source.dropped == {"value": 1000}
    assert len(caplog.messages) == recorder._MAX_COMPLAINTS


def test_the_trace_of_a_log_line_is_this_thread_s_newest_open_episode_s(
    source: Recorder,
) -> None:
    start(source)
    newest = start(source)
    elsewhere = start(source)
    elsewhere.thread = -1
    say(source)
    assert taken_out(source)[-1].trace == newest.trace_id
    for one in list(source.open.values()):
        one.close()
    say(source)
    assert taken_out(source)[-1].trace == ""
