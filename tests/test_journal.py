"""The journal: what was committed is there, all of it or nothing, and once."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from experiment_hooks import wire
from exporter import journal as journal_module
from exporter.journal import Batch, Deletion, Entry, Journal, Totals
from exporter.journalfile import JournalError
from exporter.orders import KEPT, Order
from exporter.ranges import Ranges
from exporter.reader import Reader, Row
from tests.making import NOON, Teller, sample


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, traces=True) as opened:
        yield opened


@pytest.fixture
def reader(journal: Journal) -> Iterator[Reader]:
    made = Reader(journal.path)
    yield made
    made.close()


def entry(record: wire.AnyRecord, run: str = "run", at: float | None = None) -> Entry:
    when = record.time if at is None else at
    return Entry(run, when, wire.encode(record), record)


def batch(*records: wire.AnyRecord, run: str = "run") -> Batch:
    return Batch(entries=[entry(record, run) for record in records])


def lost(started: wire.EpisodeStarted) -> Entry:
    """The end of an episode that the exporter tells."""
    told = wire.EpisodeEnded(
        run=started.run,
        source=started.source,
        seq=started.seq,
        time=started.time,
        number=started.number,
        mode=started.mode,
        started=started.time,
        duration=1.0,
        steps=0,
        outcome="",
    )
    return entry(told)


def replayed(journal: Journal) -> list[tuple[str, str, int]]:
    return [
        (run, type(record).__name__, seq)
        for run, _, record, _, seq in journal.replay()
        if record is not None
    ]


def ranges(*found: tuple[int, int]) -> Ranges:
    made = Ranges()
    made.update(found)
    return made


def deletion(number: int, at: float = NOON, run: str = "gone") -> Batch:
    """One that deletes the run of one source, of which three records came."""
    return Batch(deleted=[Deletion(run, at, {Teller(number).id: ranges((1, 3))})])


def numbers(rows: list[Row]) -> list[int]:
    return [row.episode.number for row in rows]


# --- commits ----------------------------------------------------------------------


def test_records_come_back_in_the_order_of_their_commit_and_ends_last(
    journal: Journal,
) -> None:
    teller = Teller()
    records = [teller.opened(), teller.started(), teller.ended(), teller.log("x")]
    journal.commit(batch(*records))
    found = [record for _, _, record, _, _ in journal.replay() if record is not None]
    assert found == [records[0], records[1], records[3], records[2]]


def test_a_commit_is_all_or_nothing(journal: Journal, reader: Reader) -> None:
    teller = Teller()
    first = teller.opened()
    journal.commit(batch(first))
    again = batch(teller.started(), teller.ended(), first)
    again.totals.append(Totals(teller.id, "run", NOON, b""))
    with pytest.raises(sqlite3.IntegrityError):
        journal.commit(again)
    assert replayed(journal) == [("run", "SourceOpened", 1)]
    assert journal.totals() == []
    assert reader.episodes("run") == []
    journal.commit(batch(teller.log("it goes on")))


def test_what_was_committed_survives_the_exporter(path: Path) -> None:
    teller = Teller()
    with Journal(path, traces=False) as journal:
        journal.commit(batch(teller.opened(), teller.started()))
        journal.commit(
            Batch(
                totals=[Totals(teller.id, "run", NOON, wire.encode(sample(3, [1.0])))],
                lost=[(teller.id, NOON + 5, 9)],
            )
        )
    with Journal(path, traces=False) as journal:
        assert [kind for _, kind, _ in replayed(journal)] == [
            "SourceOpened",
            "EpisodeStarted",
        ]
        (totals,) = journal.totals()
        assert wire.decode_from_source(totals.data) == sample(3, [1.0])
        assert journal.losses() == [(teller.id, NOON + 5, 9)]


def test_the_newest_totals_of_a_source_replace_the_ones_before(
    journal: Journal,
) -> None:
    for at in (NOON, NOON + 1):
        journal.commit(Batch(totals=[Totals(b"a" * 16, "run", at, b"%f" % at)]))
    assert [totals.at for totals in journal.totals()] == [NOON + 1]


def test_totals_of_many_sources_are_written_together(journal: Journal) -> None:
    sources = [number.to_bytes(16, "big") for number in range(250)]
    for at, some in ((NOON, sources), (NOON + 1, sources[::-3])):
        totals = [Totals(one, f"run-{one[-1]}", at, one * 3) for one in some]
        journal.commit(Batch(totals=totals))
    found = {totals.source: totals for totals in journal.totals()}
    assert sorted(found) == sources
    for one, totals in found.items():
        at = NOON + (one in sources[::-3])
        assert totals == (one, f"run-{one[-1]}", at, one * 3)


def test_a_closed_source_has_neither_totals_nor_a_loss(journal: Journal) -> None:
    source = Teller()
    said = Batch(
        totals=[Totals(source.id, "run", NOON, b"")], lost=[(source.id, NOON, 1)]
    )
    journal.commit(said)
    journal.commit(Batch(entries=[entry(source.closed())], closed=[source.id]))
    assert (journal.totals(), journal.losses()) == ([], [])


def test_a_source_that_returned_is_not_lost(journal: Journal) -> None:
    journal.commit(Batch(lost=[(b"a" * 16, NOON, 1), (b"b" * 16, NOON, 2)]))
    journal.commit(Batch(returned=[b"a" * 16]))
    assert journal.losses() == [(b"b" * 16, NOON, 2)]


def test_an_empty_batch_is_false() -> None:
    assert not Batch()
    assert Batch(sent=[1])


def test_whether_it_can_be_written_can_be_asked(journal: Journal) -> None:
    journal.probe()
    journal._db.execute("PRAGMA query_only=1")
    with pytest.raises(sqlite3.Error):
        journal.probe()


def test_a_record_of_a_newer_version_is_kept_and_skipped(
    journal: Journal, path: Path
) -> None:
    record = Teller().log("x")
    strange = Entry("run", NOON, b"\x81\xa4kind\xa6future", record)
    journal.commit(Batch(entries=[strange]))
    assert [found for _, _, found, _, _ in journal.replay()] == [None]


# --- episodes ---------------------------------------------------------------------


def test_a_late_end_replaces_the_row_of_a_lost_episode(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    started = teller.started(7)
    journal.commit(batch(started))
    journal.commit(Batch(lost_episodes=[lost(started)]))
    (row,) = reader.episodes("run")
    assert (row.outcome, row.late) == (None, False)
    assert journal.lost_episodes() == [(teller.id, 7)]
    journal.commit(batch(teller.ended(7)))
    (row,) = reader.episodes("run")
    assert (row.outcome, row.late) == ("correct", True)
    assert journal.lost_episodes() == []
    assert journal.late_episodes() == [("run", "eval", 1)]


def test_an_end_that_comes_with_its_loss_wins(journal: Journal, reader: Reader) -> None:
    teller = Teller()
    started = teller.started()
    both = batch(started, teller.ended())
    both.lost_episodes.append(lost(started))
    journal.commit(both)
    (row,) = reader.episodes("run")
    assert (row.outcome, row.late) == ("correct", False)
    assert journal.lost_episodes() == []


def test_an_episode_that_has_ended_stays_as_it_is(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    journal.commit(batch(teller.started(), teller.ended()))
    before = reader.episodes("run")
    journal.commit(batch(teller.ended(outcome="confused")))
    assert reader.episodes("run") == before
    assert journal.late_episodes() == []


def test_the_outbox_holds_each_ended_episode_until_it_is_sent(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    journal.commit(batch(*(teller.ended(n) for n in range(3))))
    rows = reader.to_send(10)
    assert numbers(rows) == [0, 1, 2]
    assert numbers(reader.to_send(2)) == [0, 1]
    journal.commit(Batch(sent=[rows[1].id, 999]))
    assert numbers(reader.to_send(10)) == [0, 2]
    assert reader.count_to_send() == 2


def test_of_too_many_traces_the_oldest_are_given_up(
    journal: Journal, reader: Reader
) -> None:
    teller = Teller()
    journal.commit(batch(*(teller.ended(n) for n in range(10))))
    rows = reader.to_send(10)
    journal.commit(Batch(sent=[rows[0].id]))
    assert journal.bound_traces(0) == (9, 0)
    assert journal.bound_traces(9) == (9, 0)
    assert journal.bound_traces(4) == (4, 5)
    assert numbers(reader.to_send(10)) == [6, 7, 8, 9]
    assert journal.bound_traces(4) == (4, 0)
    assert numbers(reader.episodes("run")) == list(range(10))


def test_without_a_trace_store_there_is_no_outbox(path: Path) -> None:
    with Journal(path, traces=False) as journal:
        journal.commit(batch(Teller().ended()))
        reader = Reader(path)
        assert reader.to_send(10) == []
        reader.close()


# --- commands that people gave ----------------------------------------------------


def an_order(id: str, run: str = "run", name: str = "stop", **said: Any) -> Order:
    values: dict[str, Any] = {
        "at": NOON,
        "when": "step",
        "reason": "why \u00e9",
        "by": "ann",
        "source": None,
        "sources": Teller(1).id + Teller(2).id,
        **said,
    }
    return Order(id, run, name=name, **values)


def test_what_people_gave_survives_the_exporter(path: Path) -> None:
    given = [an_order("stop-1"), an_order("a", name="save", source=Teller(1).id)]
    with Journal(path, traces=False) as journal:
        journal.commit(Batch(orders=given))
        assert given[0].addressed == [Teller(1).id, Teller(2).id]
    with Journal(path, traces=False) as journal:
        assert journal.orders() == given
        journal.commit(Batch(over=[(NOON + 5, "stop-1"), (NOON, "unknown")]))
        assert [one.until for one in journal.orders()] == [NOON + 5, None]


def test_of_each_run_the_newest_commands_stay_and_the_newest_stop(
    journal: Journal,
) -> None:
    def given(run: str) -> list[str]:
        return [one.id for one in journal.orders() if one.run == run]

    one = an_order("single", source=Teller(1).id)
    saves = [an_order(f"save-{n}", name="save") for n in range(KEPT)]
    for order in (an_order("stop-1"), an_order("stop-2"), one, *saves):
        journal.commit(Batch(orders=[order]))
        other = order._replace(id=f"{order.id}-b", run="other")
        journal.commit(Batch(orders=[other]))
    assert given("run") == ["stop-2", *(one.id for one in saves)]
    assert len(given("other")) == KEPT + 1


# --- deleting ---------------------------------------------------------------------


def test_a_deleted_run_leaves_nothing_and_its_neighbour_everything(
    journal: Journal, reader: Reader
) -> None:
    for number, run in ((1, "gone"), (2, "stays")):
        teller = Teller(number, run)
        journal.commit(batch(teller.opened(), teller.ended(), run=run))
        totals = [Totals(teller.id, run, NOON, b"")]
        journal.commit(Batch(totals=totals, lost=[(teller.id, NOON, 1)]))
        journal.commit(Batch(orders=[an_order(f"stop-{run}", run)]))
    journal.commit(deletion(1))
    for table, count in (("records", 2), ("episodes", 1), ("totals", 1), ("losses", 1)):
        (left,) = journal._db.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert left == count, table
    assert [one.run for one in journal.orders()] == ["stays"]
    assert reader.episodes("gone") == []
    assert {run for run, _, _ in replayed(journal)} == {"stays"}


def test_which_records_of_a_deleted_run_had_come_stays_known(path: Path) -> None:
    came = ranges((1, 7), (9, 9), (12, 2**62))
    with Journal(path, traces=False) as journal:
        journal.commit(Batch(deleted=[Deletion("gone", NOON, {b"a" * 16: came})]))
    with Journal(path, traces=False) as journal:
        assert list(journal.forgotten(b"a" * 16)) == list(came)
        assert journal.forgotten(b"b" * 16).count == 0


def test_of_a_run_that_is_deleted_again_all_that_ever_came_is_known(
    journal: Journal,
) -> None:
    journal.commit(deletion(1))
    more = {Teller(1).id: ranges((1, 5))}
    journal.commit(Batch(deleted=[Deletion("gone", NOON, more)]))
    assert list(journal.forgotten(Teller(1).id)) == [(1, 5)]


def test_after_a_year_it_is_forgotten_what_came_of_deleted_runs(
    journal: Journal,
) -> None:
    journal.commit(deletion(1, NOON))
    journal.commit(deletion(2, NOON + 1000))
    journal.commit(deletion(3, NOON + journal_module.FORGOTTEN_SECONDS + 1))
    assert [journal.forgotten(Teller(n).id).count for n in (1, 2, 3)] == [0, 3, 3]


def test_what_came_of_deleted_runs_is_known_of_so_many_sources(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_FORGOTTEN", 3)
    for number in range(1, 8):
        journal.commit(deletion(number, NOON + number))
    known = [n for n in range(1, 8) if journal.forgotten(Teller(n).id).count]
    assert known == [4, 5, 6, 7]


def test_what_came_of_deleted_runs_may_be_unreadable(journal: Journal) -> None:
    journal.commit(deletion(1))
    for said in (b"\xc1", wire.encode_plain(7), wire.encode_plain([["a"]])):
        journal._db.execute("UPDATE forgotten SET ranges = ?", (said,))
        assert journal.forgotten(Teller(1).id).count == 0


# --- opening ----------------------------------------------------------------------


def test_a_second_exporter_is_refused_with_a_sentence(
    journal: Journal, path: Path
) -> None:
    with pytest.raises(JournalError, match="another exporter uses the journal"):
        Journal(path, traces=False)
    journal.commit(batch(Teller().opened()))  # the first is not disturbed


def test_a_journal_is_free_again_when_it_was_closed(path: Path) -> None:
    for _ in range(2):
        with Journal(path, traces=False) as journal:
            pass
        journal.close()


def test_a_journal_of_a_newer_version_is_refused_with_a_sentence(path: Path) -> None:
    with Journal(path, traces=False):
        pass
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(JournalError, match=r"version 7.*newer episight.*journal\.path"):
        Journal(path, traces=False).open()
    with pytest.raises(JournalError, match="version 7"):  # it was let go
        Journal(path, traces=False).open()


def a_directory(path: Path) -> None:
    path.mkdir(parents=True)


def below_a_file(path: Path) -> None:
    path.parent.write_text("")


@pytest.mark.parametrize("spoil", [a_directory, below_a_file])
def test_a_file_that_cannot_be_used_is_refused_with_what_to_change(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    with pytest.raises(JournalError, match=r"cannot be used.*set journal\.path"):
        Journal(path, traces=False).open()


# The tables of the first version, as its files have them.
VERSION_1 = """
CREATE TABLE records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    source BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    data BLOB,
    UNIQUE (source, seq)
) STRICT;
CREATE TABLE episodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    source BLOB NOT NULL,
    number INTEGER NOT NULL,
    mode TEXT NOT NULL,
    outcome TEXT,
    at REAL NOT NULL,
    trace INTEGER NOT NULL,
    late INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (source, number)
) STRICT;
CREATE INDEX episodes_of_run ON episodes (run, id);
CREATE INDEX episodes_to_send ON episodes (id) WHERE trace = 1;
CREATE TABLE totals (
    source BLOB PRIMARY KEY,
    run TEXT NOT NULL,
    at REAL NOT NULL,
    data BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE losses (
    source BLOB PRIMARY KEY,
    at REAL NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version=1;
"""


def test_a_journal_of_the_first_version_is_brought_to_this_one(path: Path) -> None:
    teller = Teller()
    records = [teller.opened(), teller.ended()]
    path.parent.mkdir()
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(f"PRAGMA journal_mode=WAL; {VERSION_1}")
    for one, data in zip(records, (wire.encode(records[0]), None), strict=True):
        row = ("run", one.source, one.seq, NOON, data)
        old.execute(
            "INSERT INTO records (run, source, seq, at, data) VALUES (?, ?, ?, ?, ?)",
            row,
        )
    row = ("run", teller.id, 0, "eval", "correct", NOON, 1, 0, wire.encode(records[1]))
    old.execute(
        "INSERT INTO episodes (run, source, number, mode, outcome, at, trace, late,"
        " data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    old.close()
    for _ in range(2):
        with Journal(path, traces=True) as journal:
            assert [r for _, _, r, _, _ in journal.replay() if r] == records
            assert journal.bound_traces(0) == (1, 0)
            assert journal._db.execute("PRAGMA user_version").fetchone() == (5,)
            assert journal.orders() == []
            journal.commit(deletion(7, run="other"))
            assert journal.forgotten(Teller(7).id).count == 3


def test_its_size_is_what_lies_on_the_disk(journal: Journal, path: Path) -> None:
    before = journal.size
    teller = Teller()
    journal.commit(batch(*(teller.log("x" * 1000) for _ in range(500))))
    on_disk = path.stat().st_size + Path(f"{path}-wal").stat().st_size
    assert journal.size == on_disk > before + 400_000
