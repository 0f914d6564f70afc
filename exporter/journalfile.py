"""The journal's file: its tables, what their columns say, its version, its lock.

Owns no connection and no thread: the journal opens, locks and writes the file by it,
the reader reads by it. A version is brought to the next by further steps; those that
are here never change, since files of all versions are about.

Tables: ``records`` recognises every record by (source, seq) and keeps the bytes of all
but episode ends; ``episodes`` keeps those, a row an episode, and is the outbox of
traces too; ``totals`` the newest totals of each source that has not closed; ``losses``
which sources are lost; ``forgotten`` which records of deleted runs had come;
``last_seen`` what was seen last of episodes that failed, within bounds of its own;
``commands`` what people told runs to do (see ``orders``; ``command`` is its id).
"""

import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path

from experiment_hooks import wire

_SCHEMA_1 = """
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
"""
_SCHEMA_2 = """
CREATE TABLE forgotten (
    source BLOB PRIMARY KEY,
    at REAL NOT NULL,
    ranges BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX forgotten_at ON forgotten (at);
"""
_SCHEMA_3 = """
CREATE TABLE last_seen (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    source BLOB NOT NULL,
    trace_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (run, trace_id)
) STRICT;
"""
_SCHEMA_4 = """
ALTER TABLE losses ADD COLUMN announced INTEGER NOT NULL DEFAULT 0;
"""
_SCHEMA_5 = """
CREATE TABLE commands (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    command TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL,
    at REAL NOT NULL,
    name TEXT NOT NULL,
    boundary TEXT NOT NULL,
    reason TEXT NOT NULL,
    asker TEXT NOT NULL,
    source BLOB,
    sources BLOB NOT NULL,
    until REAL
) STRICT;
"""
_STEPS = (_SCHEMA_1, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4, _SCHEMA_5)
"""What brings a file from each version to the next; a new one goes through all."""
VERSION = len(_STEPS)
TRACE_NONE, TRACE_PENDING, TRACE_DONE = 0, 1, 2
"""Of an episode's trace: none is wanted, it waits, it was delivered."""
LOST_OUTCOME = None
"""An episode that the exporter closed has no outcome: nobody said one."""


class JournalError(Exception):
    """The journal cannot be used; the message says what to do about it."""


def opened(path: Path) -> sqlite3.Connection:
    """The file, to be written by whoever holds its lock; made where there is none.

    Raises:
        JournalError: it is of a newer version.
        sqlite3.Error: it cannot be used.
    """
    with ExitStack() as stack:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        stack.callback(db.close)
        _make_ready(db, path)
        stack.pop_all()
        return db


def _make_ready(db: sqlite3.Connection, path: Path) -> None:
    """Let it be written as we need it, and be of our version."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA wal_autocheckpoint=4000")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise JournalError(
            f"the journal {path} is of version {version}, this exporter knows "
            f"{VERSION}: use a newer episight, or set journal.path to a new file"
        )
    if version < VERSION:
        migrate(db, version)
    with suppress(sqlite3.OperationalError):  # a full disk, for instance
        # So that what lies behind the end of the -wal is of this process.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def migrate(db: sqlite3.Connection, version: int = 0) -> None:
    """Bring the tables of a version to this one; those of an empty file: make them."""
    steps = " ".join(_STEPS[version:])
    db.executescript(f"BEGIN; {steps} PRAGMA user_version={VERSION}; COMMIT;")


def lock(path: Path) -> sqlite3.Connection:
    """Hold an exclusive lock beside the journal as long as this process lives.

    Raises:
        JournalError: another process holds it.
        sqlite3.Error: there can be none.
    """
    # SQLite's own locking is the one that works on every platform we meet.
    held = sqlite3.connect(f"{path}.lock", isolation_level=None, timeout=0.5)
    try:
        held.execute("PRAGMA locking_mode=EXCLUSIVE")
        held.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        held.close()
        code = getattr(error, "sqlite_errorcode", None)
        if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        raise JournalError(
            f"another exporter uses the journal {path}: stop it, or set journal.path"
        ) from None
    return held


def decoded(data: bytes) -> wire.AnyRecord | None:
    """The record in a row; None if it cannot be read any more."""
    try:
        return wire.decode_record(data)
    except wire.WireError:  # of a newer version, from before a downgrade
        return None
