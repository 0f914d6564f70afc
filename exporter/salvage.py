"""A damaged journal: is it one, setting it aside, keeping what can be read of it.

Owns the files beside the journal that this takes, and no thread: the journal calls it
while it opens, before anybody else reads. Never changes the damaged file, only its
name. A new file is complete before it takes the old one's place, so the exporter may be
killed at any moment of it; and the work is bounded, however bad the damage is.
"""

import os
import shutil
import sqlite3
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from experiment_hooks import wire

PARTS = ("", "-wal", "-shm")
CHUNK = 4096
MAX_CHUNKS = 2**18
MAX_FAILURES = 50_000
"""How many reads of a table may fail: about as many rows around the damage."""
_PAGE = 4096
_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

Make = Callable[[sqlite3.Connection], None]
Row = tuple[object, ...]


@dataclass
class Kept:
    """What became of a damaged journal.

    Attributes:
        aside: where it is now.
        records: records that the new one has, episode ends among them.
        episodes: episodes that the new one has.
    """

    aside: Path
    records: int
    episodes: int


# --- is it damaged? -------------------------------------------------------------------


def means_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file is at fault, and not the disk or a value."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _CODES


def condemn(path: Path, damage: str) -> None:
    """Leave word that the journal is damaged, for the next start."""
    with suppress(OSError):  # the disk may be full, too
        _beside(path, ".damaged").write_text(damage)


def damage(path: Path) -> str:
    """What is wrong with a journal that did not end well; empty where nothing is.

    One that ended well left no -wal, and is not looked at: reading it will tell.
    """
    with suppress(OSError):
        return _beside(path, ".damaged").read_text() or "it was found damaged"
    if not path.exists() or not _beside(path, "-wal").exists():
        return ""
    try:
        with closing(_read_only(path)) as db:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found == "ok" and _cut_off(path):
                return "its -wal is torn before the end of what was committed"
            return "" if found == "ok" else f"quick_check: {found}"
    except sqlite3.Error as error:
        if not means_damage(error):
            raise
        return str(error)


def _cut_off(path: Path) -> bool:
    """Whether the -wal has commits beyond the one at which SQLite stops reading it.

    A crash may leave one, that nobody was told of: the next is written only after it
    is safe on the disk. Two or more are commits that somebody was told of.
    Source: https://www.sqlite.org/walformat.html
    """
    with _beside(path, "-wal").open("rb") as wal:
        head = wal.read(32)
        if len(head) < 32:
            return False
        if not _is_wal(head):
            return True
        shm = _beside(path, "-shm").read_bytes()
        (valid,) = struct.unpack_from("=I", shm, 16)
        commits, at = 0, 32 + valid * (24 + _PAGE)
        while commits < 2:
            wal.seek(at)
            frame = wal.read(24)
            if len(frame) < 24:
                return False
            if frame[8:16] == head[16:24]:  # else of an earlier round, or damaged
                commits += frame[4:8] != bytes(4)
            at += 24 + _PAGE
    return True


def _is_wal(head: bytes) -> bool:
    magic, _, size, _, _, _, *expected = struct.unpack(">8I", head)
    words = struct.unpack(">6I" if magic & 1 else "<6I", head[:24])
    one = other = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + other) & 0xFFFFFFFF
        other = (other + second + one) & 0xFFFFFFFF
    return magic >> 1 == 0x377F0682 >> 1 and size == _PAGE and [one, other] == expected


# --- setting it aside -----------------------------------------------------------------


def mend(path: Path, make: Make) -> Kept:
    """Put a new journal in the place of a damaged one, with what can be read of it.

    Args:
        path: the journal; nobody has it open.
        make: makes the tables of an empty journal.

    Raises:
        OSError: there is no room for a new one beside it, for instance.
        sqlite3.Error: the same, in SQLite's words.
    """
    made = _beside(path, ".mending")
    _remove(made)
    with closing(sqlite3.connect(made, isolation_level=None)) as new:
        new.execute("PRAGMA journal_mode=OFF")  # it is thrown away if it is not ready
        new.execute("PRAGMA synchronous=OFF")
        new.execute("PRAGMA cache_size=-65536")  # KiB
        make(new)
        _copy(path, made, new)
        records, episodes = (
            new.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("records", "episodes")
        )
    _to_disk(made)
    made.rename(_beside(path, ".mended"))  # from here on it is known to be whole
    return Kept(_swap(path), records, episodes)


def finish(path: Path) -> None:
    """Finish a mending that was cut off when all was read; mostly there is none."""
    if _beside(path, ".mended").exists():
        _swap(path)


def _swap(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside, number = _beside(path, f".corrupt-{stamp}"), 1
    while any(_beside(aside, part).exists() for part in PARTS):
        number += 1
        aside = _beside(path, f".corrupt-{stamp}-{number}")
    for part in PARTS:
        with suppress(FileNotFoundError):
            _beside(path, part).rename(_beside(aside, part))
    _beside(path, ".mended").rename(path)
    _beside(path, ".damaged").unlink(missing_ok=True)
    _to_disk(path.parent)
    return aside


def _to_disk(path: Path) -> None:
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:  # a directory, on Windows
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    for part in PARTS:
        _beside(path, part).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# --- keeping what can be read ---------------------------------------------------------


def _copy(path: Path, made: Path, new: sqlite3.Connection) -> None:
    """Copy each row that can be read."""
    borrowed = _beside(path, ".borrowed")
    try:
        with closing(_readable(path, made, borrowed)) as old:
            new.execute(
                "CREATE TEMP TABLE ends (source BLOB, seq INTEGER,"
                " PRIMARY KEY (source, seq)) WITHOUT ROWID"
            )
            new.execute("BEGIN")
            for table in _tables(new):
                _copy_table(old, new, table)
            # An end whose episode is gone did not come: it is counted as missing, and
            # applied if it comes again.
            new.execute(
                "DELETE FROM records WHERE data IS NULL AND NOT EXISTS (SELECT 1 FROM"
                " ends WHERE source = records.source AND seq = records.seq)"
            )
            new.execute("COMMIT")
    finally:
        _remove(borrowed)


def _readable(path: Path, made: Path, borrowed: Path) -> sqlite3.Connection:
    """The damaged file; with another first page, where its own is not readable.

    And without its last page, where only a part of that is there: SQLite would take
    the rest of it for zeros.
    """
    cut = path.stat().st_size % _PAGE
    db = _read_only(path)
    readable = False
    with suppress(sqlite3.Error):
        readable = "records" in _tables(db)
    if readable and not cut:
        return db
    db.close()
    for part in ("", "-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(_beside(path, part), _beside(borrowed, part))
    with made.open("rb") as empty, borrowed.open("r+b") as copy:
        copy.truncate(path.stat().st_size - cut)
        if not readable:
            _lend_first_page(empty, copy)
    return _read_only(borrowed)


def _lend_first_page(empty: BinaryIO, copy: BinaryIO) -> None:
    # Which tables there are and where they begin is the same in all journals.
    first = bytearray(empty.read(_PAGE))
    first[18:20] = b"\2\2"  # it has a -wal
    first[28:40] = bytes(12)  # as large as the file is, and no page of it is free
    copy.write(first)


def _read_only(path: Path) -> sqlite3.Connection:
    # Nothing of it is changed: no -wal is taken into the file, not even at the end.
    address = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(address, uri=True, isolation_level=None)


def _tables(db: sqlite3.Connection) -> list[str]:
    found = db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
    return [name for (name,) in found if not name.startswith("sqlite_")]


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> None:
    """Copy a table's rows as far as they can be read."""
    try:
        theirs = _columns(old, table)
    except sqlite3.Error:  # it does not even say what tables it has
        return
    columns = [name for name in _columns(new, table) if name in theirs]
    if not columns:  # of an older version
        return
    names = ", ".join(columns)
    values = ", ".join("?" * len(columns))
    insert = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({values})"
    reading = Reading(old, table, names)
    for row in reading.by_ids() if "id" in columns else reading.from_both_ends():
        # Bytes of another place may look like a row: it has to be what it says.
        with suppress(sqlite3.IntegrityError, OverflowError, wire.WireError):
            said = _said(table, dict(zip(columns, row, strict=True)))
            new.execute(insert, row)
            if table == "episodes":
                new.execute("INSERT OR IGNORE INTO ends VALUES (?, ?)", said)


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _said(table: str, row: dict[str, object]) -> tuple[object, object]:
    """Source and sequence of the record that a row holds.

    Raises:
        WireError: it holds none, or another's.
    """
    data = row.get("data")
    if table not in ("records", "episodes") or data is None:
        return row["source"], row.get("seq")
    # Not as a record: one of a newer version is one, too.
    record = wire.decode_plain(data) if isinstance(data, bytes) else None
    key = "seq" if table == "records" else "number"
    if not isinstance(record, dict) or not isinstance(record.get("seq"), int):
        raise wire.MalformedError("no record")
    if record.get("source") != row["source"] or record.get(key) != row[key]:
        raise wire.MalformedError("another's record")
    return record["source"], record["seq"]


class Reading:
    """Reads a table around its damage."""

    def __init__(self, db: sqlite3.Connection, table: str, columns: str) -> None:
        self._db = db
        self._table = table
        self._select = f"SELECT {columns} FROM {table}"
        self._failures = 0

    def by_ids(self) -> Iterator[Row]:
        """The rows of a table with ids: in chunks, halved around what cannot be read.

        The column ``id`` is the first.
        """
        sql = f"{self._select} WHERE id BETWEEN ? AND ? ORDER BY id"
        chunks = self._chunks()
        while chunks and self._failures < MAX_FAILURES:
            first, last = chunks.popleft()
            read = first - 1
            try:
                for row in self._db.execute(sql, (first, last)):
                    if read < row[0] <= last:
                        read = row[0]
                        yield row
            except sqlite3.Error:
                if read == last:
                    continue
                if read >= first:  # it goes on behind what could be read
                    chunks.append((read + 1, last))
                    continue
                self._failures += 1
                middle = (first + last) // 2
                if first < last:
                    chunks.extend([(first, middle), (middle + 1, last)])

    def _chunks(self) -> deque[tuple[int, int]]:
        last = self._last_id()
        size = max(CHUNK, last // MAX_CHUNKS + 1)
        return deque(
            (first, min(last, first + size - 1)) for first in range(1, last + 1, size)
        )

    def _last_id(self) -> int:
        questions = (
            f"SELECT max(id) FROM {self._table}",
            f"SELECT seq FROM sqlite_sequence WHERE name = '{self._table}'",
        )
        for sql in questions:
            try:
                found = self._db.execute(sql).fetchone()
                return int(found[0] or 0) if found else 0
            except (sqlite3.Error, ValueError):
                continue
        # No row is smaller than that, and few were ever deleted.
        return self._size() // 16

    def _size(self) -> int:
        ((_, _, path),) = self._db.execute("PRAGMA database_list")
        return Path(path).stat().st_size

    def from_both_ends(self) -> Iterator[Row]:
        """The rows of a table without ids: up to the damage from either side."""
        for order in ("", "DESC"):
            try:
                yield from self._db.execute(f"{self._select} ORDER BY source {order}")
                return
            except sqlite3.Error:
                continue
