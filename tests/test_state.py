"""The state: what records and samples, in whatever order they come, amount to."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_hooks import wire
from exporter.runs import ENDED_COUNTS_SECONDS, Run
from exporter.state import MAX_COMMANDS, State
from exporter.verdict import Rules, verdict
from tests.making import NOON, STEPS, Teller, counter, gauge, sample

OWNER, OTHER, CHILD = (bytes([n]) * 16 for n in (1, 2, 3))


def folded(
    records: Iterable[wire.AnyRecord], state: State | None = None, run: str = "run"
) -> State:
    """A state that has been told these records, each at its own time."""
    state = state or State()
    for record in records:
        state.apply(record, run, record.time)
    return state


def values(run: Run, now: float = NOON) -> dict[str, float]:
    """The run's merged series, as text and number."""
    return {
        f"{name}{dict(labels) or ''}": value
        for line in run.base.merged(run.contributions(now))
        for (name, labels), value in zip(line.keys, line.values)
    }


def told(state: State, now: float = NOON) -> dict[str, Any]:
    """All that is counted of all runs, to compare two states by."""
    return {
        run.id: {
            "experiment": run.experiment,
            "owner": run.owner,
            "closed": run.closed,
            "attempts": run.attempts,
            "progress": run.progress_at,
            "heard": run.last_record_at,
            "started": run.started_at,
            "series": values(run, now),
            "epochs": run.epochs(),
            "commands": run.commands,
            "sources": {
                one.id: (one.closed, one.missing, sorted(one.started), one.skew)
                for one in run.sources.values()
            },
            "modes": {
                name: (
                    mode.started,
                    mode.lost,
                    mode.successes,
                    sorted(mode.outcomes.items()),
                    mode.durations.counts,
                    mode.steps.counts,
                    sorted(mode.results),
                )
                for name, mode in sorted(run.modes.items())
            },
        }
        for run in state.runs.values()
    }


# --- which run --------------------------------------------------------------------


def place(state: State, source: bytes, role: str = "owner", **more: Any) -> str:
    said: dict[str, Any] = {"owner": b"", "resume": False, **more}
    return state.place(source, "run", role, **said)


def opened(state: State, source: int = 1, run: str = "run") -> Teller:
    """The owner of a run whose opening is committed."""
    teller = Teller(source)
    folded([teller.opened(), teller.run_opened()], state, run)
    return teller


def test_the_first_owner_gets_the_id_it_asks_for_and_keeps_it() -> None:
    state = State()
    assert place(state, OWNER) == "run"
    assert place(state, OWNER) == "run"


def test_a_second_live_owner_gets_a_run_of_its_own() -> None:
    state = State()
    assert [place(state, bytes([n]) * 16) for n in (1, 2, 3)] == [
        "run",
        "run-2",
        "run-3",
    ]


def test_a_second_owner_gets_no_ended_run_unless_it_resumes_it() -> None:
    state = State()
    place(state, OWNER)
    folded([opened(state).run_closed()], state)
    assert place(state, OTHER) == "run-2"
    assert place(state, CHILD, resume=True) == "run"


def test_of_two_that_resume_at_once_one_gets_the_run() -> None:
    state = State()
    place(state, OWNER)
    folded([opened(state).run_closed()], state)
    assert place(state, OTHER, resume=True) == "run"
    assert place(state, CHILD, resume=True) == "run-2"


def test_a_live_owner_keeps_its_run_from_one_that_resumes() -> None:
    state = State()
    place(state, OWNER)
    opened(state)
    assert place(state, OTHER, resume=True) == "run-2"


def test_a_run_whose_owner_is_lost_can_be_resumed() -> None:
    state = State()
    place(state, OWNER)
    opened(state)
    state.source_lost(OWNER, NOON)
    assert place(state, OTHER, resume=True) == "run"


def test_a_run_whose_owner_was_killed_a_moment_ago_can_be_resumed() -> None:
    """A requeued job does not wait until its first try counts as lost."""
    state = State()
    place(state, OWNER)
    opened(state)
    found = place(state, OTHER, resume=True, gone=lambda source: source == OWNER)
    assert found == "run"


def test_a_child_goes_where_its_owner_was_put() -> None:
    state = State()
    place(state, OWNER)
    assert place(state, OTHER) == "run-2"
    assert place(state, CHILD, role="child", owner=OTHER) == "run-2"


def test_a_child_whose_owner_is_not_known_goes_where_it_asks() -> None:
    assert place(State(), CHILD, role="child", owner=OTHER) == "run"


def test_sources_that_share_an_id_share_the_run() -> None:
    state = State()
    assert {place(state, bytes([n]) * 16, role="shared") for n in range(4)} == {"run"}


def test_an_owner_may_take_a_run_that_nobody_owns() -> None:
    state = State()
    place(state, CHILD, role="shared")
    assert place(state, OWNER) == "run"


def test_a_source_that_never_sent_a_record_frees_the_id_when_it_is_gone() -> None:
    state = State()
    place(state, OWNER)
    state.unplace(lambda source: False)
    assert place(state, OTHER) == "run-2"
    state.unplace(lambda source: source == OWNER)
    assert place(state, CHILD) == "run"


def test_one_that_came_to_resume_and_went_leaves_the_run_to_the_next() -> None:
    state = State()
    place(state, OWNER)
    folded([opened(state).run_closed()], state)
    assert place(state, OTHER, resume=True) == "run"
    state.unplace(lambda source: source == OTHER)
    assert place(state, CHILD, resume=True) == "run"


def test_what_an_earlier_attempt_left_on_disk_goes_into_the_run_that_resumed() -> None:
    state = State()
    second = Teller(2)
    state.place(second.id, "run", "owner", b"", True)
    folded([second.opened(), second.run_opened(resume=True)], state)
    first = Teller(1, at=NOON - 100)
    assert state.place(first.id, "run", "owner", b"", False, replay=True) == "run"
    told = [first.opened(), first.run_opened(), first.started(), first.run_closed()]
    folded(told, state)
    run = state.runs["run"]
    assert run.owner == second.id, "the second attempt still is the run"
    assert run.closed is None
    assert (run.attempts, run.started_at) == (2, NOON - 100)
    assert run.modes["eval"].started == 1
    # It did not take the id from the one that lives.
    assert state.place(b"3" * 16, "run", "owner", b"", False) == "run-2"


def test_that_is_so_before_a_record_of_either_is_committed() -> None:
    state = State()
    state.place(OWNER, "run", "owner", b"", True)  # resumes, and delivers at once
    assert state.place(OTHER, "run", "owner", b"", False, replay=True) == "run"
    assert state.place(CHILD, "run", "owner", b"", True) == "run-2", "it still lives"

    state = State()
    assert state.place(OTHER, "run", "owner", b"", False, replay=True) == "run"
    assert state.place(OWNER, "run", "owner", b"", True) == "run"
    assert state.place(CHILD, "run", "owner", b"", False) == "run-2"


def test_an_earlier_attempt_of_this_machine_is_earlier_by_any_time() -> None:
    first, second = Teller(1, at=NOON), Teller(2, at=NOON + 0.5)
    state = folded([second.opened(), second.run_opened(resume=True)])
    folded([first.opened(), first.run_closed("failed")], state)
    folded([second.run_closed("completed")], state)
    run = state.runs["run"]
    assert run.owner == second.id
    assert run.closed is not None
    assert run.closed.ending == "completed"


def test_a_child_does_not_open_a_run_whose_owner_is_not_known_yet() -> None:
    owner, child = Teller(1), Teller(2)
    introduction = owner.opened()
    state = folded([owner.run_closed("completed")])
    folded([child.opened("child", owner.id), child.closed(ending="failed")], state)
    folded([introduction], state)
    run = state.runs["run"]
    assert run.closed is not None
    assert run.closed.ending == "completed"


def test_what_another_run_of_that_id_left_on_disk_is_another_run() -> None:
    state = State()
    live, left = Teller(1), Teller(2, at=NOON - 100)
    state.place(live.id, "run", "owner", b"", False)
    folded([live.opened(), live.run_opened()], state)
    assert state.place(left.id, "run", "owner", b"", False, replay=True) == "run-2"


def test_a_forgotten_run_frees_its_id() -> None:
    state = State()
    place(state, OWNER)
    folded([opened(state).run_closed()], state)
    state.forget("run")
    assert place(state, OTHER) == "run"
    assert OWNER not in state.sources
    state.forget("run")  # of what is not there, nothing


def test_resuming_reopens_the_run_and_its_counts_go_on() -> None:
    state = State()
    first = opened(state)
    folded([first.started(), first.ended(), first.run_closed("failed")], state)
    run = state.runs["run"]
    assert run.closed is not None
    second = Teller(2, at=NOON + 100)
    folded([second.opened(), second.run_opened(resume=True)], state)
    folded([second.started(), second.ended()], state)
    assert run.closed is None
    assert run.attempts == 2
    assert run.modes["eval"].outcomes == {"correct": 2}
    assert run.owner == OTHER


def test_a_stop_of_the_first_attempt_does_not_stop_the_second() -> None:
    state = State()
    first = opened(state)
    answer = first.make(wire.CommandAnswered, command="stop-1", state="accepted")
    folded([answer, first.run_closed("stopped")], state)
    opened(state, 2)
    assert verdict(state.runs["run"], NOON, Rules()).state == "starting"
    assert [*state.runs["run"].commands] == ["stop-1"], "but is still known"


ANSWERS = [
    (["delivered", "accepted", "done"], "done"),
    (["done", "accepted", "delivered"], "done"),
    (["accepted", "delivered"], "accepted"),
    (["failed", "accepted"], "failed"),
    (["failed", "done"], "failed"),
    (["half done", "accepted", "half done"], "accepted"),
]


@pytest.mark.parametrize(("come", "stays"), ANSWERS)
def test_what_a_source_answers_never_goes_back(come: list[str], stays: str) -> None:
    state = State()
    teller = opened(state)
    said = [teller.make(wire.CommandAnswered, command="c", state=one) for one in come]
    folded(said, state)
    assert state.runs["run"].commands["c"][OWNER].state == stays


def test_answers_to_so_many_commands_are_known() -> None:
    state = State()
    teller = opened(state)
    told = [
        teller.make(wire.CommandAnswered, command=str(number), state="done")
        for number in range(MAX_COMMANDS + 50)
    ]
    folded(told, state)
    known = [*state.runs["run"].commands]
    assert known == [str(number) for number in range(50, MAX_COMMANDS + 50)]


def test_the_word_of_an_owner_that_was_replaced_ends_nothing() -> None:
    state = State()
    first = opened(state)
    state.source_lost(OWNER, NOON)
    opened(state, 2)
    folded([first.run_closed()], state)
    assert state.runs["run"].closed is None


# --- records, in any order --------------------------------------------------------


def a_life(number: int = 1) -> list[wire.AnyRecord]:
    """A whole source: two episodes, a schema in two parts, totals."""
    teller = Teller(number)
    return [
        teller.opened(),
        teller.run_opened(success=("correct",)),
        teller.schema([STEPS], [(0, ("eval",))]),
        teller.started(0, index=0),
        teller.ended(0, success=True, results={"error": 0.5}),
        teller.log("half way"),
        teller.started(1, "train"),
        teller.schema([counter("hits")], [(0, ("train",)), (1, ())]),
        teller.ended(1, "train", outcome="confused", success=False),
        teller.run_closed(),
        teller.closed([20.0, 7.0, 3.0], epochs={"train": 4}),
    ]


@given(st.randoms(use_true_random=False))
def test_records_of_a_source_mean_the_same_in_any_order(order: random.Random) -> None:
    records = a_life()
    expected = told(folded(records))
    shuffled = list(records)
    order.shuffle(shuffled)
    assert told(folded(shuffled)) == expected
    assert expected["run"]["series"] == {
        "steps{'mode': 'eval'}": 20.0,
        "steps{'mode': 'train'}": 7.0,
        "hits": 3.0,
    }


@given(st.randoms(use_true_random=False), st.sets(st.integers(1, 11), max_size=10))
def test_records_that_do_not_come_are_missing_and_harm_nothing(
    order: random.Random, holes: set[int]
) -> None:
    records = [record for record in a_life() if record.seq not in holes]
    order.shuffle(records)
    state = folded(records)
    if records:
        source = state.runs["run"].sources[OWNER]
        newest = max(record.seq for record in records)
        assert source.missing == newest - len(records)
        told(state)
        state.fold_ended(NOON + 1000)
        told(state)


@given(st.randoms(use_true_random=False))
def test_replaying_the_same_records_gives_the_same_state(order: random.Random) -> None:
    records = [record for n in range(1, 5) for record in a_life(n)]
    order.shuffle(records)
    live = folded(records)
    # The journal gives all but the ends first, then those, in the order of arrival.
    ends = [one for one in records if isinstance(one, wire.EpisodeEnded)]
    others = [one for one in records if not isinstance(one, wire.EpisodeEnded)]
    assert told(folded(others + ends)) == told(live)


def test_totals_that_came_before_their_schema_count_when_it_comes() -> None:
    teller, state = Teller(), State()
    opening, schema = teller.opened(), teller.schema([counter("hits")], [(0, ())])
    folded([opening], state)
    assert state.apply_sample(teller.id, sample(1, [5.0]), NOON)
    assert values(state.runs["run"]) == {}
    folded([schema], state)
    assert values(state.runs["run"]) == {"hits": 5.0}


def test_a_gauge_that_came_before_its_schema_is_the_last_only_if_it_is_new() -> None:
    state, first, second = State(), Teller(1), Teller(2)
    both = [gauge("loss")], [(0, ())]
    folded([first.schema(*both), second.schema(*both)], state)
    state.apply_sample(first.id, sample(1, [1.0, 1.0]), NOON)
    state.apply_sample(second.id, sample(1, [2.0, 1.0]), NOON)
    # The first declares more; its loss is as old as it was.
    folded([first.schema([counter("hits")], [(1, ())])], state)
    assert values(state.runs["run"])["loss"] == 2.0


def test_a_schema_that_contradicts_itself_is_refused() -> None:
    teller = Teller()
    with pytest.raises(ValueError, match="unknown metric"):
        folded([teller.opened(), teller.schema([], [(3, ())])])
    with pytest.raises(ValueError, match="label values"):
        folded([Teller().schema([counter("a", "side")], [(0, ())])])


def test_an_episode_that_ends_twice_counts_once() -> None:
    teller, state = Teller(), State()
    folded([teller.opened(), teller.started(), teller.ended()], state)
    with pytest.raises(ValueError, match="has ended already"):
        folded([teller.ended(outcome="confused")], state)
    assert state.runs["run"].modes["eval"].outcomes == {"correct": 1}


def test_sequence_numbers_that_were_given_up_stay_missing() -> None:
    teller, state = Teller(), State()
    folded([teller.opened()], state)
    folded([teller.make(wire.GivenUp, ranges=())], state)
    assert state.runs["run"].sources[OWNER].missing == 0
    folded([teller.make(wire.GivenUp, ranges=((4, 6), (9, 9)))], state)
    assert state.runs["run"].sources[OWNER].missing == 6


def test_more_outcomes_than_fit_are_counted_as_other() -> None:
    teller = Teller()
    ends = [teller.ended(n, outcome=f"o{n}") for n in range(40)]
    mode = folded(ends).runs["run"].modes["eval"]
    assert mode.ended == 40
    assert len(mode.outcomes) == 33
    assert mode.outcomes["other"] == 8


def test_more_results_than_fit_go_under_other() -> None:
    teller = Teller()
    end = teller.ended(results={f"r{n}": float(n) for n in range(20)})
    mode = folded([end]).runs["run"].modes["eval"]
    assert len(mode.results) == 17
    assert list(mode.results["other"]) == [16.0, 17.0, 18.0, 19.0]


def test_bounds_of_histograms_are_the_owners_until_something_is_counted() -> None:
    owner, child, state = Teller(1), Teller(2), State()
    said = child.opened("child", owner.id), child.run_opened()
    folded([*said, child.ended()], state)
    bounds = (1.0, 2.0)
    folded([owner.opened(), owner.run_opened(episode_duration_buckets=bounds)], state)
    folded([owner.ended(0, "train")], state)
    modes = state.runs["run"].modes
    assert modes["train"].durations.bounds == bounds
    # One that has only ends counts too: nothing is forgotten.
    assert modes["eval"].outcomes == {"correct": 1}


def test_an_ending_that_nobody_knows_is_no_success() -> None:
    teller = Teller()
    run = folded([teller.opened(), teller.run_closed("exploded")]).runs["run"]
    assert run.closed is not None
    assert run.closed.ending == "failed"


def test_exemplar_times_never_go_back() -> None:
    state = State()
    for number, at in enumerate((NOON + 10, NOON + 5, NOON + 20)):
        state.apply(Teller(number + 1).ended(), "run", at)
    mode = state.runs["run"].modes["eval"]
    assert [at for _, _, at in mode.durations.exemplars.values()] == [NOON + 20]
    late = Teller(9)
    state.apply(late.ended(), "run", NOON)
    assert [at for _, _, at in mode.durations.exemplars.values()] == [NOON + 20]


def test_ends_that_come_late_are_put_where_they_belong() -> None:
    teller = Teller()
    ends = [teller.ended(n, at=NOON + n) for n in range(30)]
    state = folded([teller.opened(), *ends[3:25], *ends[:3], *ends[25:]])
    assert list(state.runs["run"].modes["eval"].ends) == [
        NOON + n for n in range(10, 30)
    ]


# --- samples ----------------------------------------------------------------------


def hits(totals: float, at: float = NOON) -> tuple[State, Teller]:
    """A source with one counter, at that value by its first sample."""
    teller, state = Teller(), State()
    folded([teller.opened(), teller.schema([counter("hits")], [(0, ())])], state)
    state.apply_sample(teller.id, sample(1, [totals]), at)
    return state, teller


def test_a_sample_older_than_what_was_applied_is_dropped() -> None:
    state, teller = hits(5.0)
    assert state.apply_sample(teller.id, sample(3, [9.0]), NOON)
    assert not state.apply_sample(teller.id, sample(2, [7.0]), NOON)
    assert not state.apply_sample(teller.id, sample(3, [7.0]), NOON)
    assert values(state.runs["run"]) == {"hits": 9.0}


def dropped(state: State) -> dict[str, int]:
    """As ``episight_source_dropped_total`` tells it."""
    found = Counter(state.dropped_before)
    for _, source in state.sources.values():
        found.update(source.dropped)
    return {reason: number for reason, number in found.items() if number}


def test_what_a_source_has_dropped_only_grows_and_starts_anew_after_a_restart() -> None:
    state, teller = State(), Teller()
    folded([teller.opened(), teller.run_opened()], state)
    state.apply_sample(teller.id, sample(1, dropped={"series": 5}), NOON)
    state.apply_sample(teller.id, sample(2, dropped={"series": 3, "modes": 1}), NOON)
    assert dropped(state) == {"series": 5, "modes": 1}
    state.restored()
    assert dropped(state) == {}
    state.apply_sample(teller.id, sample(3, dropped={"series": 7}), NOON)
    assert dropped(state) == {"series": 2}
    state.forget("run")
    assert dropped(state) == {"series": 2}


def test_a_sample_of_a_closed_source_is_dropped() -> None:
    state, teller = hits(5.0)
    folded([teller.closed([8.0])], state)
    assert not state.apply_sample(teller.id, sample(9, [6.0]), NOON)
    assert values(state.runs["run"]) == {"hits": 8.0}


def test_a_sample_of_nobody_is_dropped() -> None:
    assert not State().apply_sample(OTHER, sample(1), NOON)


def test_a_source_whose_clock_runs_ahead_makes_no_progress_in_the_future() -> None:
    state, teller = hits(5.0)
    state.apply_sample(teller.id, sample(2, [6.0], progress=NOON + 3600), NOON + 2)
    assert state.runs["run"].progress_at == NOON + 2


def test_times_of_a_source_are_shifted_by_what_its_clock_is_wrong() -> None:
    state, teller = State(), Teller(at=NOON + 100)  # its clock is ahead
    state.apply(teller.opened(), "run", NOON)
    state.apply_sample(teller.id, sample(1, progress=NOON + 95), NOON + 50)
    assert state.runs["run"].sources[teller.id].skew == -100
    assert state.runs["run"].progress_at == NOON - 5


def test_the_last_word_of_a_run_never_goes_back() -> None:
    state, teller = hits(5.0, at=NOON + 9)
    state.apply(teller.log("said offline, long ago"), "run", NOON - 500)
    assert state.runs["run"].last_record_at == NOON + 9


# --- loss and return --------------------------------------------------------------


def test_an_episode_closed_for_a_lost_source_is_counted_as_lost_once() -> None:
    teller, state = Teller(), State()
    folded([teller.opened(), teller.started(0), teller.started(1)], state)
    state.source_lost(teller.id, NOON)
    state.episode_lost(teller.id, 0)
    state.episode_lost(teller.id, 0)
    run = state.runs["run"]
    assert run.modes["eval"].lost == 1
    assert list(run.sources[teller.id].started) == [1]


def test_a_late_end_counts_under_its_outcome_and_the_loss_stays_counted() -> None:
    teller, state = Teller(), State()
    folded([teller.opened(), teller.started()], state)
    state.source_lost(teller.id, NOON)
    state.episode_lost(teller.id, 0)
    state.source_returned(teller.id)
    folded([teller.ended()], state)
    mode = state.runs["run"].modes["eval"]
    assert (mode.lost, mode.outcomes) == (1, {"correct": 1})


# --- folding sources into the base ------------------------------------------------


def test_a_source_that_ended_long_ago_is_folded_and_nothing_changes() -> None:
    state, teller = hits(5.0)
    folded([teller.closed([8.0])], state)
    source = state.runs["run"].sources[teller.id]
    state.fold_ended(NOON + ENDED_COUNTS_SECONDS / 2)
    assert not source.folded
    state.fold_ended(NOON + ENDED_COUNTS_SECONDS + 1)
    assert source.folded
    assert values(state.runs["run"]) == {"hits": 8.0}
    state.fold_ended(NOON + 1000)
    assert values(state.runs["run"]) == {"hits": 8.0}


def test_a_source_is_not_folded_while_a_part_of_its_schema_is_missing() -> None:
    teller, state = Teller(), State()
    first = teller.schema([counter("hits")], [(0, ())])
    later = teller.schema([counter("misses")], [(1, ())])
    folded([teller.opened(), first, teller.closed([1.0, 2.0])], state)
    state.fold_ended(NOON + 1000)
    folded([later], state)
    state.fold_ended(NOON + 1000)
    assert state.runs["run"].sources[teller.id].folded
    assert values(state.runs["run"]) == {"hits": 1.0, "misses": 2.0}


def test_a_source_that_lost_log_lines_is_folded_like_any_other() -> None:
    state, teller = hits(5.0)
    teller.log("this one never comes")
    folded([teller.closed([8.0])], state)
    state.fold_ended(NOON + 1000)
    source = state.runs["run"].sources[teller.id]
    assert source.folded
    assert source.missing == 1


def test_sources_that_declare_the_same_share_one_schema_while_they_have_it() -> None:
    state, tellers = State(), [Teller(n) for n in range(1, 4)]
    for teller in tellers:
        steps = [teller.schema([counter(f"c{n}")], [(n, ())]) for n in range(20)]
        folded([teller.opened(), *steps], state)
    found = {id(source.schema) for _, source in state.sources.values()}
    assert len(found) == 1
    assert len(state._schemas) == 1, "the steps on the way are kept by nobody"
