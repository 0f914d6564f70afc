"""One episode: what it counts, what it keeps, how it ends, and that it never hurts."""

import contextlib
import functools
import threading
from typing import Any, Callable, Dict, List

import pytest

from experiment_hooks import episode as episodes
from experiment_hooks import wire
from experiment_hooks.endings import error_info
from experiment_hooks.episode import Episode
from experiment_hooks.errors import RunStopped
from experiment_hooks.no_episode import NO_EPISODE
from experiment_hooks.recorder import Recorder
from tests.sources import Clock, sample, series, start, taken_out
from tests.support import as_name


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.put_in(monkeypatch)


@pytest.fixture
def source(clock: Clock) -> Recorder:
    return Recorder("run")


def ended(source: Recorder) -> wire.EpisodeEnded:
    """The one episode that has ended."""
    (found,) = [one for one in taken_out(source) if isinstance(one, wire.EpisodeEnded)]
    return found


# --- what it counts ------------------------------------------------------------------


def test_steps_and_their_durations_are_counted(source: Recorder, clock: Clock) -> None:
    with start(source) as ep:
        for seconds in (0.5, 0.25, 2.0):
            clock.go(seconds)
            ep.step()
    assert ep.steps == 3
    assert series(source)["steps", ("train",)] == (3.0,)
    *counts, total = series(source)["step_duration_seconds", ("train",)]
    assert sum(counts) == 3
    assert total == pytest.approx(2.75)
    at = {bound: count for bound, count in zip(source.step_bounds, counts) if count}
    assert at == {0.3: 1, 1.0: 1, 3.0: 1}


def test_the_sum_of_the_durations_is_the_time_up_to_the_last_step(
    source: Recorder, clock: Clock
) -> None:
    for _ in range(3):
        with start(source) as ep:
            for _ in range(7):
                clock.go(0.125)
                ep.step()
            clock.go(50.0)  # after the last one
    assert series(source)["step_duration_seconds", ("train",)][-1] == 3 * 7 * 0.125


def test_an_episode_without_steps_adds_nothing(source: Recorder, clock: Clock) -> None:
    with start(source):
        clock.go(5.0)
    assert series(source)["steps", ("train",)] == (0.0,)
    assert set(series(source)["step_duration_seconds", ("train",)]) == {0}


def test_the_record_of_its_end_says_all_of_it(source: Recorder, clock: Clock) -> None:
    source.success = {"correct"}
    with start(source, "eval", epoch=1, index=3, target="mug", seed=7) as ep:
        clock.go(1.5)
        ep.step(scores={"mug": 0.75})
        clock.go(0.5)
        ep.finish("correct", results={"return": 12.5}, note="fine")
    found = ended(source)
    assert (found.mode, found.epoch, found.index) == ("eval", 1, 3)
    assert (found.target, found.seed, found.number) == ("mug", 7, 0)
    assert (found.outcome, found.success) == ("correct", True)
    assert (found.started, found.duration, found.steps) == (1.7e9, 2.0, 1)
    assert found.time == 1.7e9 + 2.0
    assert found.results == {"return": 12.5}
    assert found.attributes == {"note": "fine"}
    assert found.scores == {"mug": 0.75}
    assert found.sampled == (wire.StepSpan(1, 0.0, 1.5),)
    assert found.error is None


def test_whether_it_is_a_success_is_unknown_unless_the_run_said_what_is(
    source: Recorder,
) -> None:
    start(source).close()
    assert ended(source).success is None
    source.success = {"correct"}
    start(source).close()
    assert ended(source).success is False


def test_several_are_open_at_once_each_with_its_own_time(
    source: Recorder, clock: Clock
) -> None:
    opened = [start(source, mode) for mode in ("train", "eval", "train")]
    for turn in range(6):
        clock.go(1.0)
        opened[turn % 3].step()
    for ep in opened:
        ep.close()
    assert series(source)["steps", ("train",)] == (4.0,)
    assert series(source)["steps", ("eval",)] == (2.0,)
    assert series(source)["step_duration_seconds", ("eval",)][-1] == 5.0
    assert [one.number for one in opened] == [0, 1, 2]


def test_trace_ids_follow_from_run_source_and_number(source: Recorder) -> None:
    first, second = start(source), start(source)
    assert first.trace_id == wire.trace_id("run", source.source, 0)
    assert second.trace_id == wire.trace_id("run", source.source, 1)
    span = wire.span_id(first.trace_id, "episode")
    assert first.traceparent == f"00-{first.trace_id}-{span}-01"
    first.close()
    assert first.trace_id == wire.trace_id("run", source.source, 0)


# --- how it ends ---------------------------------------------------------------------


def test_without_finish_it_has_ended(source: Recorder) -> None:
    start(source).close()
    assert ended(source).outcome == "ended"


def test_it_ends_with_the_block_and_not_with_finish(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as ep:
        ep.finish("correct")
        clock.go(1.0)
        ep.step()
        assert not ep.closed
        assert taken_out(source)[-1].seq == 1
    assert ep.closed
    assert (ended(source).steps, ended_again(source)) == (1, [])


def ended_again(source: Recorder) -> List[Any]:
    return [one for one in taken_out(source) if isinstance(one, wire.EpisodeEnded)]


def test_what_finish_said_last_holds(source: Recorder) -> None:
    with start(source) as ep:
        ep.finish("first", results={"a": 1}, one=1)
        ep.finish("last", two=2)
    found = ended(source)
    assert (found.outcome, found.results) == ("last", {"a": 1.0})
    assert found.attributes == {"one": 1, "two": 2}


def test_it_ends_once(source: Recorder) -> None:
    with start(source) as ep:
        ep.close()
        ep.close()
    ep.__exit__(None, None, None)
    assert ended(source).outcome == "ended"


def test_an_exception_is_told_and_goes_on(source: Recorder) -> None:
    error = ValueError("no mug")
    ep = start(source)
    ep.finish("correct")
    with pytest.raises(ValueError, match="no mug") as caught, ep:
        raise error
    assert caught.value is error
    found = ended(source)
    assert found.outcome == "error"
    assert found.error is not None
    assert (found.error.type, found.error.message) == ("ValueError", "no mug")
    assert "test_an_exception_is_told_and_goes_on" in found.error.traceback


STOPS = [KeyboardInterrupt, functools.partial(RunStopped, "late", "ann")]


@pytest.mark.parametrize("make", STOPS, ids=["Ctrl-C", "a stop"])
def test_a_stop_is_no_error(
    source: Recorder, make: Callable[[], BaseException]
) -> None:
    with pytest.raises(BaseException) as caught, start(source):  # noqa: PT011
        raise make()
    assert isinstance(caught.value, (KeyboardInterrupt, RunStopped))
    found = ended(source)
    assert (found.outcome, found.error) == ("stopped", None)


def test_a_system_exit_is_an_error_of_the_episode(source: Recorder) -> None:
    with pytest.raises(SystemExit), start(source):
        raise SystemExit(3)
    found = ended(source)
    assert found.outcome == "error"
    assert found.error is not None
    assert found.error.type == "SystemExit"


def test_a_generator_that_is_closed_has_ended_its_episode(source: Recorder) -> None:
    def steps() -> Any:
        with start(source) as ep:
            while True:
                yield ep.step()

    generator = steps()
    next(generator)
    generator.close()
    assert (ended(source).outcome, series(source)["steps", ("train",)]) == (
        "ended",
        (1.0,),
    )


def test_what_is_left_open_ends_with_the_run(source: Recorder) -> None:
    left = [start(source), start(source)]
    left[0].finish("correct")
    source.abandon_episodes()
    assert all(ep.closed for ep in left)
    found = ended_again(source)
    assert [one.outcome for one in found] == ["correct", "ended"]


def test_what_is_left_open_when_the_run_fails_is_the_same_error(
    source: Recorder,
) -> None:
    """The exception came past episodes that no block of the user's closes."""
    left = [start(source), start(source)]
    left[0].finish("correct")
    source.abandon_episodes("error", error_info(KeyError("lost")))
    found = ended_again(source)
    assert [one.outcome for one in found] == ["correct", "error"]
    assert [one.error and one.error.type for one in found] == [None, "KeyError"]


def test_another_thread_that_ends_it_does_not_read_what_the_user_gave(
    source: Recorder,
) -> None:
    """The user's own thread may be changing it."""
    read: List[str] = []
    ep = start(source)
    ep.step(scores=lambda: read.append("scores"), state=lambda: read.append("state"))
    read.clear()
    source.raise_flags()
    thread = threading.Thread(target=source.abandon_episodes)
    thread.start()
    thread.join(20)
    assert ep.closed
    assert read == []
    assert ended(source).scores == {}


# --- after the end -------------------------------------------------------------------


def test_after_its_end_every_call_is_harmless(source: Recorder) -> None:
    ep = start(source)
    ep.step()
    ep.close()
    taken_out(source)
    before = series(source)
    for _ in range(3):
        ep.step(state=1, scores={"a": 1}, images={})
    ep.event("late")
    with ep.phase("late"):
        ep.step()
    ep.finish("correct")
    ep.close()
    source.raise_flags()
    ep.step()
    assert series(source) == before
    kinds = {type(one) for one in taken_out(source)} - {wire.Schema}
    assert kinds == set()
    assert source.dropped == {"usage": 1}, "finish() after the end is a slip"


def test_a_phase_that_is_left_after_the_end_is_harmless(source: Recorder) -> None:
    ep = start(source)
    with ep.phase("outer"):
        ep.close()
    (phase,) = ended(source).phases
    assert phase.name == "outer"
    assert not source.dropped


# --- phases --------------------------------------------------------------------------


def phases(source: Recorder) -> Dict[str, Any]:
    """Seconds and how often, by phase."""
    return {
        labels[1]: (values[0], series(source)["phases", labels][0])
        for (name, labels), values in series(source).items()
        if name == "phase_seconds"
    }


def test_a_phase_is_timed_and_counted(source: Recorder, clock: Clock) -> None:
    with start(source) as ep:
        for _ in range(2):
            clock.go(1.0)
            with ep.phase("match"):
                clock.go(0.25)
                ep.step()
    assert phases(source) == {"match": (0.5, 2.0)}
    assert ended(source).phases == (
        wire.PhaseSpan("match", 1.0, 0.25, 1),
        wire.PhaseSpan("match", 2.25, 0.25, 1),
    )


def test_phases_may_be_nested(source: Recorder, clock: Clock) -> None:
    with start(source) as ep, ep.phase("outer"):
        clock.go(1.0)
        with ep.phase("inner"):
            clock.go(2.0)
            ep.step()
        clock.go(4.0)
    assert phases(source) == {"outer": (7.0, 1.0), "inner": (2.0, 1.0)}
    assert [one.name for one in ended(source).phases] == ["inner", "outer"]


def test_an_open_phase_counts_with_the_time_it_has_taken_so_far(
    source: Recorder, clock: Clock
) -> None:
    ep = start(source)
    with ep.phase("long"):
        clock.go(10.0)
        source.raise_flags()
        ep.step()
        assert phases(source) == {"long": (10.0, 0.0)}
        assert sample(source).open[0].phase == "long"
        clock.go(5.0)
    assert phases(source) == {"long": (10.0, 0.0)}, "not taken again yet"
    ep.close()
    assert phases(source) == {"long": (15.0, 1.0)}


def test_phase_totals_never_go_back(source: Recorder, clock: Clock) -> None:
    seen: List[float] = []
    ep = start(source)
    for turn in range(30):
        with ep.phase("a"), ep.phase("b" if turn % 2 else "a"):
            clock.go(0.1)
            if turn % 3 == 0:
                source.raise_flags()
            ep.step()
        seen.append(phases(source).get("a", (0.0, 0.0))[0])
    assert seen == sorted(seen)


def test_leaving_a_phase_twice_counts_once(source: Recorder, clock: Clock) -> None:
    with start(source) as ep:
        phase = ep.phase("a")
        phase.__enter__()
        clock.go(1.0)
        phase.__exit__(None, None, None)
        clock.go(1.0)
        phase.__exit__(None, None, None)
    assert phases(source) == {"a": (1.0, 1.0)}
    assert not source.dropped


def test_a_phase_that_is_never_left_ends_with_the_episode(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as ep:
        ep.phase("outer").__enter__()
        clock.go(1.0)
        ep.phase("inner").__enter__()
        clock.go(1.0)
    assert phases(source) == {"inner": (1.0, 1.0), "outer": (2.0, 1.0)}


def test_leaving_an_outer_phase_leaves_those_within(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as ep:
        outer, inner = ep.phase("outer"), ep.phase("inner")
        outer.__enter__()
        inner.__enter__()
        clock.go(1.0)
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        source.raise_flags()
        ep.step()
        assert sample(source).open[0].phase == ""
    assert phases(source)["outer"] == (1.0, 1.0)


def test_a_phase_that_raises_is_left_and_raises_on(source: Recorder) -> None:
    ep = start(source)
    with pytest.raises(KeyError), ep.phase("a"):
        raise KeyError
    ep.close()
    assert phases(source) == {"a": (0.0, 1.0)}
    assert ended(source).outcome == "ended"


# --- bounds --------------------------------------------------------------------------


def test_spans_of_an_episode_are_bounded_and_what_is_left_out_is_counted(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as ep:
        for turn in range(3000):
            source.raise_flags()
            clock.go(1.0)
            ep.step()
            with ep.phase("a"):
                pass
            ep.event("turn", number=turn)
    found = ended(source)
    assert len(found.phases) == episodes.MAX_PHASE_SPANS
    assert len(found.events) == episodes.MAX_EVENTS
    assert len(found.phases) + len(found.sampled) + len(found.events) < 2000
    assert found.omitted == {"phases": 2000, "events": 3000 - episodes.MAX_EVENTS}
    assert phases(source) == {"a": (0.0, 3000.0)}, "counted all the same"


def test_sampled_steps_are_spread_over_the_whole_episode(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as ep:
        for _ in range(5000):
            source.raise_flags()
            clock.go(1.0)
            ep.step()
    steps = [span.step for span in ended(source).sampled]
    assert 100 < len(steps) <= episodes.MAX_STEP_SPANS
    assert steps == sorted(set(steps))
    gaps = {b - a for a, b in zip(steps, steps[1:])}
    assert len(gaps) == 1, f"evenly: {gaps}"
    assert steps[0] < 100
    assert steps[-1] > 4900


def test_steps_are_sampled_however_they_fall_on_the_sender_s_ticks(
    source: Recorder,
) -> None:
    """Were they chosen by their own number, all looks at odd ones might be left out."""
    with start(source) as ep:
        for number in range(3, 2003):
            if number % 2:
                source.raise_flags()
            ep.step()
    found = ended(source).sampled
    assert len(found) >= episodes.MAX_STEP_SPANS // 2
    assert found[-1].step > 1900


def test_a_sampled_step_says_when_it_was_and_how_long(
    source: Recorder, clock: Clock
) -> None:
    with start(source) as ep:
        clock.go(1.0)
        ep.step()
        clock.go(2.0)
        ep.step()
        source.raise_flags()
        clock.go(4.0)
        ep.step()
    assert ended(source).sampled == (
        wire.StepSpan(1, 0.0, 1.0),
        wire.StepSpan(3, 3.0, 4.0),
    )


def test_events_say_when_they_were(source: Recorder, clock: Clock) -> None:
    with start(source) as ep:
        clock.go(1.5)
        ep.event("hypothesis changed", to="mug", score=0.5)
    assert ended(source).events == (
        wire.Event("hypothesis changed", 1.5, {"to": "mug", "score": 0.5}),
    )


def test_results_are_numbers_and_at_most_sixteen(source: Recorder) -> None:
    with start(source) as ep:
        ep.finish(results={**{f"r{n}": n for n in range(20)}, "bad": "x"})
    found = ended(source)
    assert found.results == {f"r{n}": float(n) for n in range(16)}
    assert found.omitted == {"results": 5}


def test_the_largest_episode_still_ends(source: Recorder) -> None:
    """What does not fit into its record is left out of it, and counted."""
    wide = "\U0001f600"
    with start(source, target=wide * 10_000, mode=wide[:1]) as ep:
        for number in range(1000):
            with ep.phase(wide * 100):
                ep.event(wide * 300, text=wide * 1000, number=number)
        ep.step(scores={wide * 100 + str(n): 1.0 for n in range(1000)})
        ep.finish(wide * 500, results={wide * 100: 1.0}, text=wide * 100_000)
    found = ended(source)
    assert found.steps == 1
    assert found.outcome.startswith(wide)
    assert found.results
    assert found.omitted["events"] == 1000
    assert found.omitted["phases"] == 1000
    assert source.dropped["too_large"] == 1


# --- what the user gives -------------------------------------------------------------


class Called:
    """Counts how often it is called, and returns what it was made with."""

    def __init__(self, value: Any) -> None:
        self.times = 0
        self._value = value

    def look(self) -> Any:
        self.times += 1
        return self._value


def test_functions_are_called_only_when_somebody_will_see_it(source: Recorder) -> None:
    source.watched = True
    state, scores, images = Called({"n": 1}), Called({"mug": 1}), Called({})
    ep = start(source)
    for _ in range(100):
        ep.step(state.look, scores.look, images.look)
    assert (state.times, scores.times, images.times) == (1, 1, 1)
    (moment,) = sample(source).moments
    assert (wire.decode_plain(moment.state), moment.scores) == ({"n": 1}, {"mug": 1.0})


def test_images_are_not_called_for_while_nobody_watches(source: Recorder) -> None:
    images = Called({})
    start(source).step(images=images.look)
    assert images.times == 0


def test_a_failed_episode_takes_its_last_step(source: Recorder) -> None:
    ep = start(source)
    with contextlib.suppress(KeyError), ep:
        for number in range(100):
            ep.step(state={"n": number})
        raise KeyError
    assert source.urgent
    (moment,) = sample(source).moments
    assert wire.decode_plain(moment.state) == {"n": 99}
    assert not source.urgent


def test_one_that_ends_well_is_not_urgent(source: Recorder) -> None:
    with start(source) as ep:
        ep.step(state={"n": 1})
    assert not source.urgent


def test_of_an_episode_of_another_thread_nothing_is_taken_at_its_end(
    source: Recorder,
) -> None:
    ep = start(source)
    ep.step(state={"n": 1})
    sample(source)
    source.raise_flags()
    ender = threading.Thread(
        target=source.abandon_episodes, args=("error", wire.ErrorInfo("KeyError"))
    )
    ender.start()
    ender.join()
    assert sample(source).moments == ()
    assert not source.urgent


FUNCTIONS: Dict[str, Any] = {
    "a lambda": lambda: {"n": 1},
    "a method": Called({"n": 1}).look,
    "a partial": functools.partial(dict, n=1),
    "a builtin": {"n": 1}.copy,
}


@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_function_may_be(source: Recorder, what: str) -> None:
    start(source).step(state=FUNCTIONS[what])
    (moment,) = sample(source).moments
    assert wire.decode_plain(moment.state) == {"n": 1}


class Model:
    def __call__(self) -> Any:
        raise AssertionError("a model is a value, however callable it is")


def test_a_model_is_not_called(source: Recorder) -> None:
    start(source).step(state=Model(), scores=Model())
    assert len(sample(source).moments) == 1
    assert not source.dropped


def fail() -> Any:
    raise RuntimeError("evidence is gone")


@pytest.mark.parametrize("given", ["state", "scores", "images"])
def test_a_function_that_raises_costs_its_value_only(
    source: Recorder, given: str
) -> None:
    source.watched = True
    values: Dict[str, Any] = {"state": 1, "scores": {"mug": 1}, "images": {}}
    with start(source) as ep:
        ep.step(**{**values, given: fail})
        (moment,) = sample(source).moments
        assert given == "state" or wire.decode_plain(moment.state) == 1
        assert moment.scores == ({} if given == "scores" else {"mug": 1.0})
        source.raise_flags()
        ep.finish("correct")
    found = ended(source)
    assert (found.outcome, found.steps) == ("correct", 1)
    assert series(source)["steps", ("train",)] == (1.0,)
    assert source.open == {}
    assert source.dropped["value"] >= 1


ODD_SCORES: List[Any] = [5, "x", None, [1, 2], {"a": "b"}, {1: 2}, object(), fail]


@pytest.mark.parametrize("scores", ODD_SCORES, ids=as_name)
def test_odd_scores_hurt_nothing(source: Recorder, scores: Any) -> None:
    with start(source) as ep:
        ep.step(state=1, scores=scores)
    assert ended(source).steps == 1


ODD_WORDS: List[Any] = [None, 5, object(), "x" * 100_000, "\ud800", b"x", [1]]


@pytest.mark.parametrize("word", ODD_WORDS, ids=as_name)
def test_odd_words_hurt_nothing(source: Recorder, word: Any) -> None:
    with start(source) as ep:
        ep.event(word, value=word)
        with ep.phase(word):
            ep.step()
        ep.finish(word, results=word, value=word)
    found = ended(source)
    assert found.steps == 1
    assert len(found.outcome) <= 100
    assert "internal_error" not in source.dropped


def test_an_interrupt_while_it_ends_does_not_lose_it(source: Recorder) -> None:
    """Ctrl-C may come anywhere; the run's end then ends the episode."""

    def interrupt() -> Any:
        raise KeyboardInterrupt

    ep = start(source)
    ep.step()
    ep.step(state=interrupt)
    source.raise_flags()
    with pytest.raises(KeyboardInterrupt):
        ep.close()
    ep.step(state=1)
    source.abandon_episodes()
    assert ended(source).steps == 3


# --- stopping ------------------------------------------------------------------------


def ask_to_stop(source: Recorder, when: str) -> None:
    source.stop = wire.Command("c", "stop", when, "late", "ann")
    source.raise_flags()


def test_a_stop_arrives_at_the_next_step_and_at_each_one_after_it(
    source: Recorder,
) -> None:
    ep = start(source)
    ep.step()
    ask_to_stop(source, "step")
    for _ in range(3):
        with pytest.raises(RunStopped, match="late"):
            ep.step()
    ep.close()
    assert ended(source).steps == 4


def test_a_phase_in_between_does_not_lose_the_stop(source: Recorder) -> None:
    ep = start(source)
    ep.step()
    ask_to_stop(source, "step")
    with ep.phase("a"):
        pass
    with pytest.raises(RunStopped):
        ep.step()


def test_a_stop_after_the_episode_lets_it_come_to_its_end(source: Recorder) -> None:
    ep = start(source)
    ask_to_stop(source, "episode")
    with ep.phase("a"):
        ep.step()
    ep.event("x")
    ep.finish("correct")
    with pytest.raises(RunStopped):
        ep.close()
    assert ended(source).outcome == "correct"
    with pytest.raises(RunStopped), start(source):
        pass
    assert ended(source).outcome == "ended"


def test_waiting_for_the_episode_s_end_does_not_take_it_at_every_step(
    source: Recorder,
) -> None:
    ep = start(source)
    ask_to_stop(source, "episode")
    for _ in range(100):
        ep.step()
    assert ep.taken.steps == 1


NOW: Dict[str, Callable[[Episode], Any]] = {
    "step": lambda ep: ep.step(),
    "phase": lambda ep: ep.phase("a").__enter__(),
    "event": lambda ep: ep.event("x"),
    "close": lambda ep: ep.close(),
}


@pytest.mark.parametrize("call", NOW)
def test_a_stop_now_arrives_at_the_next_call(source: Recorder, call: str) -> None:
    ep = start(source)
    ask_to_stop(source, "now")
    with pytest.raises(RunStopped):
        NOW[call](ep)


def test_an_exception_is_not_replaced_by_a_stop(source: Recorder) -> None:
    ask_to_stop(source, "now")
    with pytest.raises(KeyError), start(source):
        raise KeyError
    assert ended(source).outcome == "error"


# --- the episode that is none --------------------------------------------------------


def test_no_episode_takes_every_call_and_does_nothing() -> None:
    with NO_EPISODE as ep:
        ep.step(1, {"a": 1}, {})
        with ep.phase("a", promise=5.0):
            ep.event("x", y=1)
        ep.finish("correct", results={"a": 1}, b=2)
        ep.close()
    assert (ep.steps, ep.closed, ep.mode) == (0, True, "")
    assert ep.trace_id == "0" * 32
    assert ep.traceparent == ""


def test_no_episode_lets_exceptions_pass() -> None:
    with pytest.raises(KeyError), NO_EPISODE, NO_EPISODE.phase("a"):
        raise KeyError


def test_no_episode_has_every_public_name_of_an_episode() -> None:
    for name in (name for name in dir(Episode) if not name.startswith("_")):
        if name not in ("taken", "thread"):  # between recorder and episode
            getattr(NO_EPISODE, name)
