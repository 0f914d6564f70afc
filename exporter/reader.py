"""What others than the writer read of the journal: episodes, and how they looked last.

Owns connections of its own, which cannot write. Any thread may ask: the page's, the
web's, the traces'. Sees what is committed, holds up no commit, and gives values that
are nobody else's.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiment_hooks import wire
from exporter.journalfile import decoded

LOST = "lost"
"""What is shown where an episode has no outcome, since the exporter closed it."""
MAX_IDLE = 8


@dataclass(frozen=True)
class Row:
    """One episode as the journal has it.

    ``outcome`` is None where it was lost; ``late`` whether its end came after it was
    closed as lost, ``told_lost`` whether its trace had been delivered as lost by then.
    """

    id: int
    run: str
    at: float
    late: bool
    outcome: str | None
    episode: wire.EpisodeEnded
    told_lost: bool = False


class Reader:
    """Reads the journal from any thread; its connections are lent to one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    @contextmanager
    def _db(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._idle.pop()
        except IndexError:
            db = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )
            db.execute("PRAGMA query_only=1")
        try:
            yield db
        finally:
            if self._closed or len(self._idle) >= MAX_IDLE:
                db.close()
            else:
                self._idle.append(db)

    def close(self) -> None:
        """Close the connections; one that is lent closes when it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def episodes(
        self,
        run: str,
        *,
        after: int = 0,
        limit: int = 100,
        mode: str | None = None,
        outcome: str | None = None,
    ) -> list[Row]:
        """Ended episodes of a run in the order in which their ends arrived.

        The outcome ``lost`` finds those that the exporter closed, too.
        """
        return self._select(
            "run = ?1 AND id > ?2 AND (?3 IS NULL OR mode = ?3)"
            f" AND (?4 IS NULL OR ifnull(outcome, '{LOST}') = ?4) ORDER BY id LIMIT ?5",
            (run, after, mode, outcome, limit),
        )

    def newest_episodes(self, run: str, limit: int) -> list[Row]:
        """The newest ended episodes of a run, newest first."""
        return self._select("run = ? ORDER BY id DESC LIMIT ?", (run, limit))

    def last_seen(self, run: str, trace_id: str) -> bytes | None:
        """What was seen last of an episode, where it is kept; see ``lastseen``."""
        with self._db() as db:
            row = db.execute(
                "SELECT data FROM last_seen WHERE run = ? AND trace_id = ?",
                (run, trace_id),
            ).fetchone()
        return bytes(row[0]) if row else None

    def newest_last_seen(self, run: str) -> tuple[str, bytes] | None:
        """What is kept of a run's newest failure, with the episode's trace id."""
        with self._db() as db:
            row = db.execute(
                "SELECT trace_id, data FROM last_seen"
                " WHERE id = (SELECT max(id) FROM last_seen WHERE run = ?)",
                (run,),
            ).fetchone()
        return (str(row[0]), bytes(row[1])) if row else None

    def seen(self, run: str) -> set[str]:
        """Trace ids of the run's episodes of which something is kept."""
        with self._db() as db:
            rows = db.execute("SELECT trace_id FROM last_seen WHERE run = ?", (run,))
            return {trace_id for (trace_id,) in rows}

    def to_send(self, limit: int) -> list[Row]:
        """Episodes whose traces have not been delivered, oldest first."""
        return self._select("trace = 1 ORDER BY id LIMIT ?", (limit,))

    def count_to_send(self) -> int:
        """How many traces wait."""
        with self._db() as db:
            row = db.execute("SELECT count(*) FROM episodes WHERE trace = 1").fetchone()
        return int(row[0])

    def _select(self, where: str, values: Sequence[object]) -> list[Row]:
        sql = f"SELECT id, run, at, late, outcome, data FROM episodes WHERE {where}"
        with self._db() as db:
            rows = db.execute(sql, values).fetchall()
        found = []
        for number, run, at, late, outcome, data in rows:
            record = decoded(data)
            if isinstance(record, wire.EpisodeEnded):
                found.append(Row(number, run, at, late > 0, outcome, record, late > 1))
        return found
