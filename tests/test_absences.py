"""Absences: who is gone for long is lost, and is back when it was heard again."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest

from experiment_hooks import wire
from exporter.absences import LOST_ERROR
from exporter.runs import ENDED_COUNTS_SECONDS
from exporter.verdict import verdict
from tests.making import NOON, Teller
from tests.test_state import told
from tests.test_writer import RULES, Bench, a_run_that_ended, a_source, benches_on


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with benches_on(tmp_path / "journal.sqlite") as make:
        yield make


@pytest.fixture
def bench(benches: Callable[..., Bench]) -> Bench:
    return benches()


# --- loss and return --------------------------------------------------------------


def test_a_source_whose_connection_is_gone_is_lost_and_its_episodes_are_closed(
    bench: Bench,
) -> None:
    teller = a_source(bench)
    bench.arrive(teller, teller.started(at=NOON + 1))
    shown = wire.OpenEpisode(0, "eval", steps=12, started=NOON + 1, last=NOON + 9)
    bench.sampled(teller, 1, 5.0, open=(shown,))
    bench.tick()
    bench.gone(teller)
    bench.tick(29)
    assert bench.journal.losses() == []
    bench.tick(1)
    assert bench.journal.losses() == [(teller.id, NOON + 30, 4)]
    bench.tick(59)
    assert bench.reader.episodes("run") == []
    bench.tick(1)
    (row,) = bench.reader.to_send(10)
    assert row.outcome is None
    assert row.episode.error == LOST_ERROR
    # As far as it was known.
    assert (row.episode.steps, row.episode.duration) == (12, 8.0)
    assert bench.state.runs["run"].modes["eval"].lost == 1
    bench.tick(1)
    assert bench.state.runs["run"].modes["eval"].lost == 1


def missing(bench: Bench, teller: Teller) -> int:
    return bench.state.sources[teller.id][1].missing


def test_what_a_lost_source_had_announced_is_missing_also_after_a_restart(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = a_source(bench)
    bench.links[teller.id].announced = 10  # by a heartbeat, say
    bench.gone(teller)
    bench.tick(30)
    assert missing(bench, teller) == 7
    again = benches()
    assert missing(again, teller) == 7
    again.arrive(teller, teller.log("found in its spool"))
    again.tick()
    assert missing(again, teller) == 6


def test_what_was_left_on_a_disk_and_cut_off_is_missing(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = Teller()
    bench.delivered(teller, teller.opened(), announced=5)
    bench.round()
    bench.tick()
    assert missing(bench, teller) == 4
    bench.delivered(teller, teller.log("in a later file"), announced=9)
    bench.round()
    bench.tick()
    assert missing(bench, teller) == 7
    assert missing(benches(), teller) == 7


def lost_with_an_episode(bench: Bench) -> Teller:
    teller = a_source(bench)
    bench.arrive(teller, teller.started())
    bench.round()
    bench.gone(teller)
    bench.tick(30)
    assert bench.state.sources[teller.id][1].lost_at is not None
    return teller


def test_a_source_that_returns_is_not_lost_and_keeps_its_episode(bench: Bench) -> None:
    teller = lost_with_an_episode(bench)
    bench.now += 100
    bench.peer(teller)  # it says hello
    bench.tick()
    source = bench.state.sources[teller.id][1]
    assert source.lost_at is None
    assert list(source.started) == [0]
    assert bench.journal.losses() == []


def test_an_end_that_comes_when_its_loss_is_decided_wins(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = lost_with_an_episode(bench)
    bench.now += 60
    link = bench.links[teller.id]
    bench.arrive(teller, teller.ended())
    link.gone_since = NOON  # and gone it is again
    bench.tick()
    assert bench.state.runs["run"].modes["eval"].outcomes == {"correct": 1}
    before = told(bench.state)
    assert told(benches().state) == before


def test_a_source_that_closes_when_its_loss_is_decided_is_not_lost(
    bench: Bench,
) -> None:
    teller = a_source(bench)
    bench.gone(teller)
    bench.now += 30
    gone_since = bench.links[teller.id].gone_since
    bench.arrive(teller, teller.closed([3.0]))
    bench.links[teller.id].gone_since = gone_since
    bench.tick()
    assert bench.state.sources[teller.id][1].lost_at is None
    assert bench.journal.losses() == []


def test_a_late_end_replaces_the_loss_also_after_a_restart(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = lost_with_an_episode(bench)
    bench.tick(60)
    bench.arrive(teller, teller.ended())
    bench.tick(1)
    mode = bench.state.runs["run"].modes["eval"]
    assert (mode.lost, mode.outcomes) == (1, {"correct": 1})
    (row,) = bench.reader.episodes("run")
    assert row.late
    mode = benches().state.runs["run"].modes["eval"]
    assert (mode.lost, mode.outcomes) == (1, {"correct": 1})


def test_a_source_that_did_not_come_back_after_a_restart_is_lost_then(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = a_source(bench)
    bench = benches()
    bench.now = NOON + 29
    bench.round(ticking=True)
    assert bench.state.sources[teller.id][1].lost_at is None
    bench.tick(1)
    assert bench.state.sources[teller.id][1].lost_at == NOON + 30


# --- of whom somebody delivers what they left -------------------------------------


def test_what_was_left_on_disk_is_of_then(bench: Bench) -> None:
    left = Teller(at=NOON - 5000)
    bench.delivered(left, left.opened(), left.run_opened(), left.started())
    bench.tick()
    bench.tick()
    run = bench.state.runs["run"]
    assert (run.started_at, run.last_record_at) == (NOON - 5000, NOON - 5000)
    judged = verdict(run, bench.now, RULES)
    assert (judged.state, judged.ended_at) == ("lost", NOON - 5000)


def test_its_open_episodes_are_closed_when_nothing_more_has_come_for_a_while(
    bench: Bench,
) -> None:
    left = Teller(at=NOON - 5000)
    bench.delivered(left, left.opened(), left.started(0), left.started(1))
    bench.tick(1)
    bench.tick(50)
    bench.delivered(left, left.ended(0))
    bench.tick(1)
    bench.tick(50)
    mode = bench.state.runs["run"].modes["eval"]
    assert (mode.lost, mode.outcomes) == (0, {"correct": 1})
    bench.tick(10)
    assert (mode.lost, mode.outcomes) == (1, {"correct": 1})


def test_one_that_ended_well_was_never_lost(bench: Bench) -> None:
    left = Teller(at=NOON - 5000)
    bench.delivered(left, left.opened(), left.started(0))
    bench.tick()
    bench.delivered(left, left.ended(0), left.run_closed(), left.closed())
    bench.tick()
    run = bench.state.runs["run"]
    assert verdict(run, bench.now, RULES).state == "completed"
    assert bench.journal.losses() == []


def test_a_source_that_lives_is_not_lost_because_somebody_delivers_for_it(
    bench: Bench,
) -> None:
    live = Teller()
    bench.arrive(live, live.opened(), live.run_opened())
    bench.delivered(live, live.started(0))
    bench.tick(20)
    assert bench.state.sources[live.id][1].lost_at is None


# --- forgetting -------------------------------------------------------------------


def test_links_that_nobody_asks_for_are_given_back(bench: Bench) -> None:
    over, lives, gone = a_run_that_ended(bench), a_source(bench, 2), a_source(bench, 3)
    stranger = Teller(4)
    bench.peer(stranger)  # said hello, and nothing else
    for teller in (over, gone, stranger):
        bench.gone(teller)
    bench.tick(ENDED_COUNTS_SECONDS + 1)
    bench.writer._absences._next_tidy = 0.0
    bench.tick(1)
    assert set(bench.forgotten) == {over.id, stranger.id}
    assert lives.id not in bench.forgotten
