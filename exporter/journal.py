"""The exporter's disk: one SQLite file, written by one thread.

Owns the file. The writer thread calls :meth:`Journal.commit` and nobody else writes;
other threads read by a :class:`~exporter.reader.Reader`. What ``commit`` returned from
is on disk (WAL, ``synchronous=FULL``).

A damaged file is set aside when it is opened, and what can be read of it is kept.
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from experiment_hooks import wire
from exporter import journalfile, salvage
from exporter.journalfile import (
    LOST_OUTCOME,
    TRACE_DONE,
    TRACE_NONE,
    TRACE_PENDING,
    JournalError,
    decoded,
)
from exporter.orders import KEPT, STOP, Order
from exporter.ranges import Ranges

logger = logging.getLogger("exporter")

FORGOTTEN_SECONDS = 365 * 86400.0
MAX_FORGOTTEN = 1_000_000
"""For how long, and of how many sources, it is known what came of deleted runs."""
MAX_LAST_SEEN = 1000
MAX_LAST_SEEN_BYTES = 256 * 1024 * 1024
"""Of how many failed episodes, and in how many bytes, it is kept how they looked."""
_EPISODE = "run, source, number, mode, outcome, at, trace, data, late"
_NEW_EPISODES = f"INSERT OR IGNORE INTO episodes ({_EPISODE}) VALUES {{}}"
_ORDER = "command, run, at, name, boundary, reason, asker, source, sources, until"
_VALUES = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8"


class Entry(NamedTuple):
    """One record to commit: its place, its bytes, and what is in it.

    ``at`` is the record's time by the exporter's clock, Unix seconds.
    """

    run: str
    at: float
    data: bytes
    record: wire.AnyRecord


class Totals(NamedTuple):
    """A source's newest sample, without its moment, to commit: a row of the table."""

    source: bytes
    run: str
    at: float
    data: bytes


@dataclass(frozen=True)
class Deletion:
    """A run to delete at a time (Unix seconds), and what came of its sources."""

    run: str
    at: float
    received: dict[bytes, Ranges]


@dataclass(frozen=True)
class Kept:
    """What was seen last of an episode, to commit.

    ``newer`` says that it takes the place of what was kept of that episode before.
    """

    run: str
    source: bytes
    trace_id: str
    data: bytes
    newer: bool = True


@dataclass
class Batch:
    """What one commit makes durable together.

    Attributes:
        entries: new records.
        totals: the newest totals of some sources.
        closed: sources whose last record is among the entries.
        lost: sources that are lost, since when, and how many records they announced.
        returned: lost sources that were heard again.
        lost_episodes: ends of open episodes, told by the exporter.
        sent: rows of episodes whose traces were delivered.
        deleted: runs to delete.
        last_seen: what is kept with episodes that failed.
        unseen: episodes (run, trace id) of which that is not wanted any more.
        orders: commands that people gave.
        over: since when orders stand no longer, and their ids.
    """

    entries: list[Entry] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)
    closed: list[bytes] = field(default_factory=list)
    lost: list[tuple[bytes, float, int]] = field(default_factory=list)
    returned: list[bytes] = field(default_factory=list)
    lost_episodes: list[Entry] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    deleted: list[Deletion] = field(default_factory=list)
    last_seen: list[Kept] = field(default_factory=list)
    unseen: list[tuple[str, str]] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    over: list[tuple[float, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Journal:
    """The writer's side: of this process alone when made, of use when opened.

    A context manager, which opens it; ``close`` may be called again.

    Args:
        path: the file; its directory is made.
        traces: whether ended episodes are to be sent as traces.

    Raises:
        JournalError: it is in use, or there can be none.
    """

    _db: sqlite3.Connection

    def __init__(self, path: Path, *, traces: bool) -> None:
        self.path = path
        self._traces = traces
        self._held = ExitStack()
        with self._usable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._held.callback(journalfile.lock(path).close)

    def open(self) -> None:
        """Make it ready; with a damaged one that takes minutes.

        Raises:
            JournalError: it cannot be read or written, or is of a newer version. It is
                closed then.
        """
        with ExitStack() as failed:
            failed.callback(self.close)
            with self._usable():
                self._db = self._opened()
            self._held.callback(self._close_file)
            failed.pop_all()

    def _close_file(self) -> None:
        self._db.close()  # mend() may have made it another one

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"the journal {self.path} cannot be used: {error}; "
                "set journal.path to a file that can be written"
            ) from error

    def _opened(self) -> sqlite3.Connection:
        """The file, ready to be written; a damaged one is set aside first."""
        salvage.finish(self.path)
        damage = salvage.damage(self.path)
        if not damage:
            try:
                return journalfile.opened(self.path)
            except sqlite3.Error as error:
                if not salvage.means_damage(error):
                    raise
                damage = str(error)
        return self._mended(damage)

    def mend(self, damage: str) -> None:
        """Set the file aside and go on with what can be read of it.

        Before anybody else reads it, and before anything is committed.

        Raises:
            JournalError: there is no room for a new one, for instance.
        """
        self._db.close()
        with self._usable():
            self._db = self._mended(damage)

    def _mended(self, damage: str) -> sqlite3.Connection:
        logger.error(
            "the journal %s is damaged (%s): what can be read is kept, "
            "which may take minutes",
            self.path,
            damage,
        )
        found = salvage.mend(self.path, journalfile.migrate)
        logger.error(
            "the journal %s was damaged (%s): it was set aside as %s; %d records and "
            "%d episodes were kept, some may be missing",
            self.path, damage, found.aside, found.records, found.episodes,
        )  # fmt: skip
        return journalfile.opened(self.path)

    def condemn(self, damage: str) -> None:
        """It was found damaged: it is set aside at the next start."""
        salvage.condemn(self.path, damage)

    def commit(self, batch: Batch) -> int:
        """Make a batch durable, all of it or nothing.

        Returns:
            How many traces that waited went with their deleted runs.

        Raises:
            sqlite3.Error: it could not be written; nothing of it is there.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            given_up = self._write(batch)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return given_up

    def _write(self, batch: Batch) -> int:
        db = self._db
        trace = TRACE_PENDING if self._traces else TRACE_NONE
        _insert(
            db,
            "INSERT INTO records (run, source, seq, at, data) VALUES {}",
            [_record_row(entry) for entry in batch.entries],
        )
        self._write_ends(
            [
                _episode_row(entry, entry.record.outcome, trace)
                for entry in batch.entries
                if isinstance(entry.record, wire.EpisodeEnded)
            ]
        )
        _insert(
            db,
            _NEW_EPISODES,
            [_episode_row(one, LOST_OUTCOME, trace) for one in batch.lost_episodes],
        )
        # In the table's own order, which is faster.
        _insert(
            db,
            "INSERT INTO totals (source, run, at, data) VALUES {} ON CONFLICT (source)"
            " DO UPDATE SET run = excluded.run, at = excluded.at, data = excluded.data",
            sorted(batch.totals),
        )
        _each(db, "DELETE FROM totals WHERE source = ?", batch.closed)
        db.executemany("INSERT OR REPLACE INTO losses VALUES (?, ?, ?)", batch.lost)
        _each(db, "DELETE FROM losses WHERE source = ?", batch.returned + batch.closed)
        _each(db, f"UPDATE episodes SET trace = {TRACE_DONE} WHERE id = ?", batch.sent)
        self._write_last_seen(batch)
        self._write_orders(batch)
        return sum(map(self._delete, batch.deleted))

    def _write_ends(self, ends: list[tuple[object, ...]]) -> None:
        db = self._db
        before = db.total_changes
        _insert(db, _NEW_EPISODES, ends)
        if db.total_changes - before == len(ends):
            return
        # A late end replaces the row of a lost episode: late is 1, or 2 where the lost
        # one's trace was delivered, which then gets a late root beside its first.
        # An episode that has ended stays as it is, whatever comes.
        db.executemany(
            f"INSERT OR REPLACE INTO episodes ({_EPISODE}) SELECT {_VALUES}, "
            f"ifnull((SELECT 1 + (trace = {TRACE_DONE}) FROM episodes"
            " WHERE source = ?2 AND number = ?3), 0) "
            "WHERE NOT EXISTS (SELECT 1 FROM episodes"
            " WHERE source = ?2 AND number = ?3 AND outcome IS NOT NULL)",
            [row[:-1] for row in ends],
        )

    def _write_last_seen(self, batch: Batch) -> None:
        db = self._db
        if batch.unseen:
            db.executemany(
                "DELETE FROM last_seen WHERE run = ? AND trace_id = ?", batch.unseen
            )
        for kept in batch.last_seen:
            db.execute(
                f"INSERT OR {'REPLACE' if kept.newer else 'IGNORE'} INTO last_seen"
                " (run, source, trace_id, size, data) VALUES (?, ?, ?, ?, ?)",
                (kept.run, kept.source, kept.trace_id, len(kept.data), kept.data),
            )
        if batch.last_seen:
            db.execute(
                "DELETE FROM last_seen WHERE id IN (SELECT id FROM (SELECT id,"
                " sum(size) OVER newest AS bytes, row_number() OVER newest AS place"
                " FROM last_seen WINDOW newest AS (ORDER BY id DESC))"
                " WHERE bytes > ? OR place > ?)",
                (MAX_LAST_SEEN_BYTES, MAX_LAST_SEEN),
            )

    def _write_orders(self, batch: Batch) -> None:
        db = self._db
        for order in batch.orders:
            db.execute(f"INSERT INTO commands ({_ORDER}) VALUES (?{', ?' * 9})", order)
            db.execute(
                "DELETE FROM commands WHERE run = ?1 AND id <= (SELECT id FROM commands"
                " WHERE run = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2) AND id <> ifnull("
                "(SELECT max(id) FROM commands WHERE run = ?1 AND name = ?3"
                " AND source IS NULL), 0)",
                (order.run, KEPT, STOP),
            )
        if batch.over:
            db.executemany(
                "UPDATE commands SET until = ? WHERE command = ?", batch.over
            )

    def _delete(self, deletion: Deletion) -> int:
        db = self._db
        (waiting,) = db.execute(
            f"SELECT count(*) FROM episodes WHERE run = ? AND trace = {TRACE_PENDING}",
            (deletion.run,),
        ).fetchone()
        for table in ("records", "totals", "losses"):
            _each(db, f"DELETE FROM {table} WHERE source = ?", [*deletion.received])
        for table in ("episodes", "last_seen", "commands"):
            db.execute(f"DELETE FROM {table} WHERE run = ?", (deletion.run,))
        db.executemany(
            "INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?)",
            [
                (source, deletion.at, wire.encode_plain([*ranges]))
                for source, ranges in deletion.received.items()
            ],
        )
        db.execute(
            "DELETE FROM forgotten WHERE at < max(?, ifnull((SELECT at FROM forgotten"
            " ORDER BY at DESC LIMIT 1 OFFSET ?), 0))",
            (deletion.at - FORGOTTEN_SECONDS, MAX_FORGOTTEN),
        )
        return int(waiting)

    def probe(self) -> None:
        """Find out whether it can be written.

        Raises:
            sqlite3.Error: it cannot.
        """
        self._db.execute(f"PRAGMA user_version={journalfile.VERSION}")

    def replay(self) -> Iterator[tuple[str, float, wire.AnyRecord | None, bytes, int]]:
        """Every record ever committed: (run, at, record, source, seq).

        All but episode ends come first, in the order of their commit, then those; a
        record whose bytes cannot be read any more is None.
        """
        for run, source, seq, at, data in self._db.execute(
            "SELECT run, source, seq, at, data FROM records ORDER BY id"
        ):
            yield run, at, None if data is None else decoded(data), source, seq
        for run, at, data, source in self._db.execute(
            "SELECT run, at, data, source FROM episodes"
            " WHERE outcome IS NOT NULL ORDER BY id"
        ):
            record = decoded(data)
            if record is not None:
                yield run, at, record, source, record.seq

    def forgotten(self, source: bytes) -> Ranges:
        """Which records of a source had come when its run was deleted."""
        found = Ranges()
        row = self._db.execute(
            "SELECT ranges FROM forgotten WHERE source = ?", (source,)
        ).fetchone()
        if row is not None:
            try:
                found.update(wire.decode_plain(row[0]))
            except (wire.WireError, TypeError, ValueError):  # damaged, once
                pass
        return found

    def bound_traces(self, most: int) -> tuple[int, int]:
        """Count the traces that wait, and give up the oldest beyond ``most`` (0: none).

        Takes 40 ms a million of them.

        Returns:
            How many wait now, and how many were given up.
        """
        db = self._db
        (waiting,) = db.execute(
            f"SELECT count(*) FROM episodes WHERE trace = {TRACE_PENDING}"
        ).fetchone()
        if not most or waiting <= most:
            return waiting, 0
        given_up = db.execute(
            f"UPDATE episodes SET trace = {TRACE_NONE} WHERE id IN (SELECT id FROM"
            f" episodes WHERE trace = {TRACE_PENDING} ORDER BY id LIMIT ?)",
            (waiting - most,),
        ).rowcount
        return waiting - given_up, given_up

    def lost_episodes(self) -> list[tuple[bytes, int]]:
        """Episodes that were closed for a lost source: (source, number)."""
        return self._db.execute(
            "SELECT source, number FROM episodes WHERE outcome IS NULL"
        ).fetchall()

    def late_episodes(self) -> list[tuple[str, str, int]]:
        """How many ends came after the episode was closed: (run, mode, number)."""
        return self._db.execute(
            "SELECT run, mode, count(*) FROM episodes"
            " WHERE late AND outcome IS NOT NULL GROUP BY run, mode"
        ).fetchall()

    def totals(self) -> list[Totals]:
        """The newest totals of the sources that have not closed, oldest first."""
        rows = self._db.execute("SELECT source, run, at, data FROM totals ORDER BY at")
        return [Totals(*row) for row in rows]

    def losses(self) -> list[tuple[bytes, float, int]]:
        """Lost sources, and since when."""
        return self._db.execute("SELECT source, at, announced FROM losses").fetchall()

    def orders(self) -> list[Order]:
        """The commands that people gave, oldest first."""
        rows = self._db.execute(f"SELECT {_ORDER} FROM commands ORDER BY id")
        return [Order(*row) for row in rows]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        total = 0
        for suffix in ("", "-wal"):
            try:
                total += Path(f"{self.path}{suffix}").stat().st_size
            except OSError:
                continue
        return total

    def close(self) -> None:
        """Close the file; again: nothing."""
        self._held.close()

    def __enter__(self) -> "Journal":
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _record_row(entry: Entry) -> tuple[object, ...]:
    record = entry.record
    is_end = isinstance(record, wire.EpisodeEnded)
    data = None if is_end else entry.data
    return entry.run, record.source, record.seq, entry.at, data


def _episode_row(entry: Entry, outcome: str | None, trace: int) -> tuple[object, ...]:
    record = entry.record
    assert isinstance(record, wire.EpisodeEnded)
    return (
        entry.run, record.source, record.number, record.mode, outcome,
        entry.at, trace, entry.data, 0,
    )  # fmt: skip


def _each(db: sqlite3.Connection, sql: str, values: Sequence[object]) -> None:
    if values:
        db.executemany(sql, [(value,) for value in values])


_AT_ONCE = 100


def _insert(
    db: sqlite3.Connection, sql: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows, many with each statement: two thirds of the time of one a row.

    ``sql`` has ``{}`` where their values go.
    """
    for first in range(0, len(rows), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        marks = f"({', '.join('?' * len(some[0]))})"
        db.execute(
            sql.format(", ".join([marks] * len(some))), [*chain.from_iterable(some)]
        )
