"""The reader: what was committed is found, in order, from any thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Iterator

import pytest

from experiment_hooks import wire
from exporter.journal import Batch, Journal
from exporter.reader import Reader, Row, Wanted
from tests.making import Teller
from tests.test_journal import batch, lost, numbers


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite", traces=True) as opened:
        yield opened


@pytest.fixture
def reader(journal: Journal) -> Iterator[Reader]:
    made = Reader(journal.path)
    yield made
    made.close()


def test_episodes_are_read_page_by_page_in_the_order_of_their_ends(
    journal: Journal, reader: Reader
) -> None:
    teller, other = Teller(1), Teller(2)
    for number in (3, 1, 2):
        journal.commit(batch(teller.ended(number)))
        journal.commit(batch(other.ended(number), run="other"))
    first = reader.episodes("run", limit=2)
    assert numbers(first) == [3, 1]
    assert numbers(reader.episodes("run", after=first[-1].id)) == [2]
    assert numbers(reader.newest_episodes("run", 2)) == [2, 1]


def test_episodes_are_found_by_mode_and_outcome(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    started = teller.started(9)
    journal.commit(
        batch(
            started,
            teller.ended(0, "eval", "correct"),
            teller.ended(1, "train", "confused"),
            teller.ended(2, "eval", "confused"),
        )
    )
    journal.commit(Batch(lost_episodes=[lost(started)]))
    assert numbers(reader.episodes("run", Wanted("eval"))) == [0, 2, 9]
    assert numbers(reader.episodes("run", Wanted(outcome="confused"))) == [1, 2]
    assert numbers(reader.episodes("run", Wanted("eval", "confused"))) == [2]
    assert numbers(reader.episodes("run", Wanted(outcome="lost"))) == [9]
    assert numbers(reader.episodes("run", Wanted(outcome="nothing"))) == []


def test_readers_of_many_threads_share_few_connections(
    journal: Journal, reader: Reader
) -> None:
    journal.commit(batch(Teller().ended()))
    found: list[int] = []
    for _ in range(3):
        threads = [
            threading.Thread(target=lambda: found.append(len(reader.episodes("run"))))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1] * 48
    assert len(reader._idle) <= 8


# --- searching ------------------------------------------------------------------------


def ids(rows: list[Row]) -> list[int]:
    return [row.id for row in rows]


@pytest.fixture
def hundred(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Teller:
    """A run of a hundred episodes, number 3 of them rare, among those of another."""
    monkeypatch.setattr("exporter.reader.FIRST_LOOK", 8)
    monkeypatch.setattr("exporter.reader.LONGEST_LOOK", 16)
    teller, other = Teller(1), Teller(2)
    for number in range(100):
        outcome = "rare" if number == 3 else "usual"
        mode = "train" if number % 2 else "eval"
        journal.commit(batch(teller.ended(number, mode, outcome)))
        journal.commit(batch(other.ended(number, outcome="rare"), run="other"))
    return teller


def test_a_search_finds_the_newest_before_a_row_and_the_oldest_after_one(
    reader: Reader, hundred: Teller
) -> None:
    newest = reader.search("run", Wanted(), limit=3)
    assert numbers(newest.rows) == [99, 98, 97]
    at = newest.rows[-1].id
    older = reader.search("run", Wanted(), limit=3, before=at)
    assert numbers(older.rows) == [96, 95, 94]
    newer = reader.search("run", Wanted(), limit=2, after=older.rows[0].id)
    assert numbers(newer.rows) == [98, 97]
    assert {newest.searched, older.searched, newer.searched} == {None}


@pytest.mark.parametrize("where", [{}, {"after": 1}])
def test_what_is_rare_is_found_wherever_it_is(
    reader: Reader, hundred: Teller, where: dict[str, int]
) -> None:
    found = reader.search("run", Wanted(outcome="rare"), limit=5, seconds=60, **where)
    assert (numbers(found.rows), found.searched) == ([3], None)
    found = reader.search("run", Wanted("train", "usual"), limit=50, **where)
    assert numbers(found.rows) == [*range(99, 3, -2), 1]


@pytest.mark.parametrize("newer", [False, True])
def test_a_search_whose_time_is_over_goes_on_from_where_it_was(
    reader: Reader, hundred: Teller, newer: bool
) -> None:
    wanted = Wanted("train", "usual")
    found: list[int] = []
    at: int | None = 0 if newer else 2**62
    looks = 0
    while at is not None:
        place = {"after": at} if newer else {"before": at}
        some = reader.search("run", wanted, limit=500, seconds=-1.0, **place)
        found += ids(some.rows)
        at, looks = some.searched, looks + 1
    expected = ids(reader.search("run", wanted, limit=500).rows)
    assert sorted(found, reverse=True) == expected
    assert len(expected) == 49
    assert looks == 13, "eight rows a look, of a hundred"


def test_those_with_an_error_are_told_from_those_that_only_speak_of_one(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    error = wire.ErrorInfo("ValueError", "no")
    journal.commit(
        batch(
            teller.ended(0, attributes={"error": "none at all"}),
            teller.ended(1, error=error),
            teller.ended(2, results={"error": 1.0}),
            teller.ended(3, "train", outcome="error", error=error),
        )
    )
    assert numbers(reader.episodes("run", Wanted(failed=True))) == [1, 3]
    found = reader.search("run", Wanted("train", failed=True), limit=5)
    assert numbers(found.rows) == [3]


def test_names_are_those_of_all_rows_up_to_one_and_bounded(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    for number in range(4):
        results = {f"r{number}": 1.0, "same": 2.0}
        end = teller.ended(number, results=results, scores={f"s{number}": 0.5})
        journal.commit(batch(end))
    until = reader.newest_row("run")
    assert reader.names("run", Wanted(), until - 1, 100) == (
        ["r0", "same", "r1", "r2"],
        ["s0", "s1", "s2"],
    )
    assert reader.names("run", Wanted(), until, 2) == (["r0", "same"], ["s0", "s1"])
    assert reader.names("nobody", Wanted(), reader.newest_row("nobody"), 9) == ([], [])


def test_one_episode_and_those_beside_it(journal: Journal, reader: Reader) -> None:
    teller, other = Teller(1), Teller(2)
    for number in (7, 2, 4):
        journal.commit(batch(teller.ended(number), other.ended(number + 1)))
    found = reader.episode(teller.id, 4)
    assert found is not None
    assert found.episode.number == 4
    assert reader.episode(teller.id, 3) is None
    before, after = reader.beside(teller.id, 4)
    assert before is not None
    assert after is not None
    assert numbers([before, after]) == [2, 7]
    assert reader.beside(teller.id, 2)[0] is None
    assert reader.beside(teller.id, 7)[1] is None
