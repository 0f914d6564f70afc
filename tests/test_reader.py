"""The reader: what was committed is found, in order, from any thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Iterator

import pytest

from exporter.journal import Batch, Journal
from exporter.reader import Reader, Wanted
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
