"""A damaged journal is set aside as it is, and what can be read of it is used."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from exporter import salvage
from exporter.journal import Batch, Journal, Kept, Totals
from tests.making import NOON, Teller
from tests.test_journal import an_order, batch, entry, lost

PAGE = 4096
TABLES = (
    "records", "episodes", "totals", "losses", "forgotten", "last_seen", "commands",
)  # fmt: skip
Rows = dict[str, list[tuple[Any, ...]]]
Damage = Callable[[Path], None]


def fill(journal: Journal) -> None:
    """Records of some sources, in so many commits that tables have many pages."""
    tellers = [Teller(number, f"run{number}") for number in range(1, 6)]
    for teller in tellers:
        journal.commit(batch(teller.opened(), teller.run_opened(), run=teller.run))
        totals = Totals(teller.id, teller.run, NOON, b"totals" * 60)
        journal.commit(Batch(totals=[totals], lost=[(teller.id, NOON, 1)]))
    for number in range(150):
        for teller in tellers:
            said = [teller.started(number), teller.ended(number, target="x" * 100)]
            journal.commit(batch(*said, run=teller.run))
    for number in range(40):
        kept = Kept("run1", tellers[0].id, f"{number:032x}", b"seen" * 600)
        journal.commit(Batch(last_seen=[kept]))
    for teller in tellers[:2]:
        journal.commit(Batch(orders=[an_order(f"stop-{teller.run}", teller.run)]))
    journal.commit(Batch(over=[(NOON, "stop-run2")]))
    started = tellers[0].started(150)
    journal.commit(batch(started, run="run1"))
    told = entry(lost(started).record, "run1")
    journal.commit(Batch(lost_episodes=[told]))


def rows(path: Path) -> Rows:
    with closing(sqlite3.connect(path)) as db:
        return {
            table: db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in TABLES
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal that ended well."""
    path = tmp_path_factory.mktemp("whole") / "journal.sqlite"
    with Journal(path, traces=True) as journal:
        fill(journal)
    return path


@pytest.fixture(scope="module")
def before(whole: Path) -> Rows:
    return rows(whole)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(whole, tmp_path / "journal.sqlite"))


def asides(path: Path) -> list[Path]:
    """The files that were set aside, without their -wal and -shm."""
    found = sorted(path.parent.glob(f"{path.name}.corrupt-*"))
    return [one for one in found if not one.name.endswith(("-wal", "-shm"))]


def open_and_read(path: Path) -> None:
    """As a start does: what shows only when it is read is mended, too."""
    with Journal(path, traces=True) as journal:
        try:
            list(journal.replay())
        except sqlite3.DatabaseError as error:
            journal.mend(str(error))
            list(journal.replay())


def kept(path: Path, before: Rows) -> Rows:
    """What is there after a start; all of it was there before, as it was."""
    open_and_read(path)
    found = rows(path)
    for table in TABLES:
        assert set(found[table]) <= set(before[table]), table
    assert sorted(path.parent.glob("*.mend*")) == []
    assert sorted(path.parent.glob("*.borrowed*")) == []
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return found


# --- where pages are ------------------------------------------------------------------


def number_of_pages(path: Path) -> int:
    return path.stat().st_size // PAGE


def root(path: Path, name: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (found,) = db.execute(query, (name,)).fetchone()
    return int(found)


def leaves(path: Path, name: str) -> list[int]:
    """The leaf pages of a table or an index, in order."""
    data = path.read_bytes()

    def below(page: int) -> Iterator[int]:
        head = data[(page - 1) * PAGE : page * PAGE]
        if head[0] in (10, 13):
            yield page
            return
        (count,) = struct.unpack_from(">H", head, 3)
        for cell in struct.unpack_from(f">{count}H", head, 12):
            yield from below(*struct.unpack_from(">I", head, cell))
        yield from below(*struct.unpack_from(">I", head, 8))

    return list(below(root(path, name)))


def overwrite(path: Path, page: int, data: bytes = b"") -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(data or random.Random(page).randbytes(PAGE))


def condemned(path: Path) -> None:
    salvage.condemn(path, "a test says so")


# --- what can be kept -----------------------------------------------------------------


def test_all_is_kept_of_a_journal_that_is_whole(path: Path, before: Rows) -> None:
    condemned(path)
    assert kept(path, before) == before


def test_a_start_says_what_was_set_aside_and_what_was_kept(
    path: Path, before: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    overwrite(path, leaves(path, "records")[3])
    damaged = path.read_bytes()
    found = kept(path, before)
    (aside,) = asides(path)
    assert aside.read_bytes() == damaged
    said = caplog.messages[-1]
    assert f"set aside as {aside}" in said
    expected = f"{len(found['records'])} records and {len(found['episodes'])} episodes"
    assert f"{expected} were kept, some may be missing" in said
    caplog.clear()
    open_and_read(path)  # and from then on it is a journal like any other
    assert (asides(path), caplog.messages) == ([aside], [])


def no_database(path: Path) -> None:
    path.write_text("This is a letter, and no database at all. " * 500)


def noise(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(300_000))


def one_page(path: Path) -> None:
    os.truncate(path, PAGE)


@pytest.mark.parametrize("spoil", [no_database, noise, one_page])
def test_a_start_does_without_what_cannot_be_read_at_all(
    path: Path, before: Rows, spoil: Damage
) -> None:
    spoil(path)
    found = kept(path, before)
    assert {table: len(found[table]) for table in TABLES} == dict.fromkeys(TABLES, 0)
    assert len(asides(path)) == 1


def test_of_a_truncated_file_the_beginning_is_kept(path: Path, before: Rows) -> None:
    """And nothing of the page that is cut in two: its rows look whole, and are not."""
    os.truncate(path, path.stat().st_size // 2 + 1234)
    found = kept(path, before)
    assert len(found["records"]) > len(before["records"]) // 3
    ends = found["episodes"]
    assert ends == before["episodes"][: len(ends)]
    assert len(ends) > len(before["episodes"]) // 3


@pytest.mark.parametrize("table", ["records", "episodes"])
@pytest.mark.parametrize("where", ["first", "some", "last"])
def test_damage_in_a_table_costs_what_was_on_those_pages(
    path: Path, before: Rows, table: str, where: str
) -> None:
    pages = leaves(path, table)
    spoilt = {"first": pages[:1], "some": pages[5::7], "last": pages[-1:]}[where]
    for page in spoilt:
        overwrite(path, page)
    condemned(path)
    found = kept(path, before)
    gone = len(before[table]) - len(found[table])
    # A page of records has about 30 rows, one of episodes has 10.
    assert 0 < gone <= 60 * len(spoilt)
    for other in set(TABLES) - {"records", table}:
        assert found[other] == before[other]


def test_an_end_that_lost_its_episode_did_not_come(path: Path, before: Rows) -> None:
    """It counts as missing, and is not taken for a duplicate if it comes again."""
    overwrite(path, leaves(path, "episodes")[4])
    found = kept(path, before)
    episodes = len(before["episodes"]) - len(found["episodes"])
    gone = set(before["records"]) - set(found["records"])
    assert 0 < len(gone) == episodes
    assert {data for *_, data in gone} == {None}


@pytest.mark.parametrize(
    "index", ["sqlite_autoindex_records_1", "sqlite_autoindex_episodes_1"]
)
def test_damage_in_an_index_costs_nothing(path: Path, before: Rows, index: str) -> None:
    for page in {root(path, index), *leaves(path, index)}:
        overwrite(path, page)
    condemned(path)
    assert kept(path, before) == before


@pytest.mark.parametrize("data", [b"", bytes(PAGE)], ids=["noise", "zeros"])
def test_damage_in_the_first_page_costs_nothing(
    path: Path, before: Rows, data: bytes
) -> None:
    """It says where the tables begin, which is the same in all journals."""
    overwrite(path, 1, data)
    assert kept(path, before) == before


def test_a_table_that_has_lost_its_root_takes_no_other_along(
    path: Path, before: Rows
) -> None:
    overwrite(path, root(path, "records"))
    found = kept(path, before)
    assert found["records"] == []
    assert found["episodes"] == before["episodes"]


def test_the_work_is_bounded(
    path: Path, before: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(salvage, "MAX_FAILURES", 3)
    overwrite(path, leaves(path, "records")[4])
    found = kept(path, before)
    assert len(found["records"]) > 0
    assert found["totals"] == before["totals"]


def noise_over(path: Path, page: int) -> None:
    overwrite(path, page)


def zeros_over(path: Path, page: int) -> None:
    overwrite(path, page, bytes(PAGE))


def neighbour_over(path: Path, page: int) -> None:
    """A page that looks like one, and belongs elsewhere."""
    other = page % number_of_pages(path) * PAGE
    overwrite(path, page, path.read_bytes()[other : other + PAGE])


@pytest.mark.parametrize("spoil", [noise_over, zeros_over, neighbour_over])
def test_whatever_page_is_damaged_nothing_false_is_kept(
    whole: Path, before: Rows, tmp_path: Path, spoil: Callable[[Path, int], None]
) -> None:
    caught = logging.getLogger("exporter")
    caught.setLevel(logging.CRITICAL)
    try:
        for page in range(1, number_of_pages(whole) + 1, 3):
            path = tmp_path / str(page) / "journal.sqlite"
            path.parent.mkdir()
            shutil.copy(whole, path)
            spoil(path, page)
            condemned(path)
            kept(path, before)
    finally:
        caught.setLevel(logging.NOTSET)


def test_of_a_journal_of_an_older_version_all_is_kept(path: Path, before: Rows) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE forgotten; DROP TABLE last_seen; DROP TABLE commands;"
            "PRAGMA user_version=1;"
        )
    condemned(path)
    assert kept(path, before) == {**before, "last_seen": [], "commands": []}


# --- where it did not end well --------------------------------------------------------


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """What a killed exporter leaves: the file, and a -wal with the newest commits."""
    path = tmp_path / "alive" / "journal.sqlite"
    left = tmp_path / "killed" / "journal.sqlite"
    left.parent.mkdir()
    with Journal(path, traces=True) as journal:
        fill(journal)
        journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for teller in map(Teller, range(20, 30)):
            journal.commit(batch(teller.log("a"), teller.log("b")))
        for part in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{part}", f"{left}{part}")
    return left


def wal(path: Path) -> Path:
    return Path(f"{path}-wal")


def told(path: Path) -> int:
    """Open it; how many of the ten newest commits are there."""
    with Journal(path, traces=True) as journal:
        logs = [
            one for _, _, one, _, _ in journal.replay() if one and one.source[0] > 19
        ]
    assert len(logs) % 2 == 0, "a commit is all or nothing"
    return len(logs) // 2


def test_after_a_kill_all_that_was_committed_is_used(killed: Path) -> None:
    assert told(killed) == 10
    assert asides(killed) == []


def test_after_a_kill_damage_is_looked_for(killed: Path, before: Rows) -> None:
    """Nobody reads an index at a start: it would show at a commit."""
    overwrite(killed, root(killed, "sqlite_autoindex_episodes_1"))
    assert told(killed) == 10
    assert len(asides(killed)) == 1
    assert wal(asides(killed)[0]).exists()


def test_after_a_kill_the_first_page_may_be_gone(killed: Path) -> None:
    overwrite(killed, 1)
    assert told(killed) == 10


def test_a_wal_that_ends_in_mid_commit_is_as_a_crash_leaves_it(killed: Path) -> None:
    os.truncate(wal(killed), wal(killed).stat().st_size - 1000)
    assert told(killed) == 9
    assert asides(killed) == []


@pytest.mark.parametrize("size", [10, 10_000])
def test_a_wal_that_is_torn_before_its_end_is_set_aside(
    killed: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """SQLite stops reading there, and says nothing of what was behind."""
    data = bytearray(wal(killed).read_bytes())
    middle = len(data) // 2
    data[middle : middle + size] = bytes(size)
    wal(killed).write_bytes(data)
    assert 0 < told(killed) < 9
    (aside,) = asides(killed)
    assert wal(aside).read_bytes() == data
    assert "torn before the end" in caplog.text


def test_a_wal_without_its_head_is_set_aside(killed: Path) -> None:
    data = bytearray(wal(killed).read_bytes())
    data[:32] = bytes(32)
    wal(killed).write_bytes(data)
    assert told(killed) == 0
    (aside,) = asides(killed)
    assert wal(aside).read_bytes() == data


def test_a_wal_that_is_cut_to_nothing_holds_nobody_up(killed: Path) -> None:
    os.truncate(wal(killed), 20)
    assert told(killed) == 0


# --- putting it in its place ----------------------------------------------------------


def test_what_was_set_aside_before_is_never_overwritten(
    path: Path, before: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        salvage.time, "gmtime", lambda: (2026, 11, 25, 3, 37, 12, *[0] * 3)
    )
    for _ in range(3):
        condemned(path)
        with Journal(path, traces=True):
            pass
    assert [one.name for one in asides(path)] == [
        "journal.sqlite.corrupt-20261125-033712",
        "journal.sqlite.corrupt-20261125-033712-2",
        "journal.sqlite.corrupt-20261125-033712-3",
    ]
    assert rows(path) == before


@pytest.mark.parametrize("survives", range(6))
def test_a_mending_that_is_cut_off_is_finished_or_done_again(
    killed: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    real, left = Path.rename, [survives]

    def rename(self: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, target)

    overwrite(killed, root(killed, "sqlite_autoindex_records_1"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        try:
            with Journal(killed, traces=True):
                pass
        except KeyboardInterrupt:
            pass
    assert told(killed) == 10
    assert told(killed) == 10
    assert sorted(killed.parent.glob("*.mend*")) == []
    assert not list(killed.parent.glob("*.damaged"))


def test_without_room_for_a_new_one_nothing_is_lost(
    path: Path, before: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device")

    from exporter.journalfile import JournalError

    condemned(path)
    with monkeypatch.context() as patch:
        patch.setattr(salvage.os, "fsync", full)
        with pytest.raises(JournalError, match="No space left"):
            Journal(path, traces=True).open()
    assert rows(path) == before
    assert kept(path, before) == before
