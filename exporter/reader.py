"""What others than the writer read of the journal: episodes, and how they looked last.

Owns connections of its own, which cannot write. Any thread may ask: the page's, the
web's, the traces'. Sees what is committed, holds up no commit, and gives values that
are nobody else's.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from experiment_hooks import wire
from exporter.journalfile import decoded

LOST = "lost"
"""What is shown where an episode has no outcome, since the exporter closed it."""
MAX_IDLE = 8
FIRST_LOOK, LONGEST_LOOK = 1_000, 16_000
"""How many episodes a search looks at before it looks at the clock again."""


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


@dataclass(frozen=True)
class Wanted:
    """Which of a run's episodes: all, but for what is said.

    The outcome ``lost`` finds those that the exporter closed, too. ``failed``: with an
    error.
    """

    mode: str | None = None
    outcome: str | None = None
    failed: bool = False


_ALL = Wanted()
_LAST = 2**62
# Without an error there is no such key, and that is found out quickly; where there is
# one, it may be of something else, an attribute for instance.
_IS_WANTED = (
    "(:mode IS NULL OR mode = :mode)"
    f" AND (:outcome IS NULL OR ifnull(outcome, '{LOST}') = :outcome)"
    " AND (NOT :failed OR (instr(data, x'a56572726f72') AND has_error(data)))"
)


@dataclass(frozen=True)
class Found:
    """What a search has found, newest first.

    ``searched`` is the id beyond which it has not looked, since its time was over; None
    where it found as many as were asked for, or all there are.
    """

    rows: list[Row]
    searched: int | None = None


class _Named(msgspec.Struct):
    """Of an episode's record what has names: the rest is not decoded."""

    results: dict[str, float] = {}
    scores: dict[str, float] = {}


_names = msgspec.msgpack.Decoder(_Named)


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
            db.create_function("has_error", 1, _has_error, deterministic=True)
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
        wanted: Wanted = _ALL,
        *,
        after: int = 0,
        until: int | None = None,
        limit: int = 100,
    ) -> list[Row]:
        """Ended episodes of a run in the order in which their ends arrived.

        Those of rows after ``after``, up to and with ``until``; fewer than ``limit`` of
        them are the last there are.
        """
        return self._select(
            "run = :run AND id > :after AND (:until IS NULL OR id <= :until)"
            f" AND {_IS_WANTED} ORDER BY id LIMIT :limit",
            {**_said(run, wanted), "after": after, "until": until, "limit": limit},
        )

    def search(
        self,
        run: str,
        wanted: Wanted,
        *,
        limit: int,
        before: int | None = None,
        after: int | None = None,
        seconds: float = 0.2,
    ) -> Found:
        """The newest episodes of a run before a row, or the oldest ones after one.

        What is rare is looked for row by row: 0.5 us each, and more from a cold disk.
        An index would cost each episode something, for a question that few ask; so a
        search takes about ``seconds`` at most, and can go on from where it was.
        """
        newer = after is not None
        at = after if after is not None else _LAST if before is None else before
        found: list[Row] = []
        until, size = time.monotonic() + seconds, FIRST_LOOK
        while True:
            edge = self._edge(run, at, size, newer)
            found += self._select(
                f"run = :run AND id BETWEEN :low AND :high AND {_IS_WANTED}"
                f" ORDER BY id {'ASC' if newer else 'DESC'} LIMIT :limit",
                {
                    **_said(run, wanted),
                    "low": at + 1 if newer else edge or 0,
                    "high": (edge or _LAST) if newer else at - 1,
                    "limit": limit - len(found),
                },
            )
            if edge is None or len(found) >= limit or time.monotonic() > until:
                break
            at, size = edge, min(2 * size, LONGEST_LOOK)
        found.sort(key=lambda row: row.id, reverse=True)
        return Found(found, edge if len(found) < limit else None)

    def _edge(self, run: str, at: int, size: int, newer: bool) -> int | None:
        """The row of a run so many rows further; None where there are fewer."""
        rest = "id > ? ORDER BY id" if newer else "id < ? ORDER BY id DESC"
        sql = f"SELECT id FROM episodes WHERE run = ? AND {rest} LIMIT 1 OFFSET ?"
        with self._db() as db:
            row = db.execute(sql, (run, at, size - 1)).fetchone()
        return int(row[0]) if row else None

    def names(
        self, run: str, wanted: Wanted, until: int, most: int
    ) -> tuple[list[str], list[str]]:
        """The names of results and of scores, at most so many, up to a row."""
        results: dict[str, None] = {}
        scores: dict[str, None] = {}
        after: int | None = 0
        sql = (
            "SELECT id, data FROM episodes WHERE run = :run AND id > :after"
            f" AND id <= :until AND {_IS_WANTED} ORDER BY id LIMIT {LONGEST_LOOK}"
        )
        said = {**_said(run, wanted), "until": until}
        while after is not None and min(len(results), len(scores)) < most:
            with self._db() as db:
                rows = db.execute(sql, {**said, "after": after}).fetchall()
            for _, data in rows:
                with suppress(msgspec.MsgspecError):  # see decoded()
                    found = _names.decode(data)
                    results.update(dict.fromkeys(found.results))
                    scores.update(dict.fromkeys(found.scores))
            after = rows[-1][0] if rows else None
        return [*results][:most], [*scores][:most]

    def newest_row(self, run: str) -> int:
        """The id of a run's newest episode; 0 where none has ended."""
        with self._db() as db:
            row = db.execute(
                "SELECT max(id) FROM episodes WHERE run = ?", (run,)
            ).fetchone()
        return int(row[0] or 0)

    def episode(self, source: bytes, number: int) -> Row | None:
        """One ended episode of a source."""
        rows = self._select("source = ? AND number = ?", (source, number))
        return rows[0] if rows else None

    def beside(self, source: bytes, number: int) -> tuple[Row | None, Row | None]:
        """The ended episodes of a source before and after one."""
        before, after = (
            self._select(f"source = ? AND number {rest} LIMIT 1", (source, number))
            for rest in ("< ? ORDER BY number DESC", "> ? ORDER BY number")
        )
        return before[0] if before else None, after[0] if after else None

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

    def _select(
        self, where: str, values: Sequence[object] | Mapping[str, object]
    ) -> list[Row]:
        sql = f"SELECT id, run, at, late, outcome, data FROM episodes WHERE {where}"
        with self._db() as db:
            rows = db.execute(sql, values).fetchall()
        found = []
        for number, run, at, late, outcome, data in rows:
            record = decoded(data)
            if isinstance(record, wire.EpisodeEnded):
                found.append(Row(number, run, at, late > 0, outcome, record, late > 1))
        return found


def _said(run: str, wanted: Wanted) -> dict[str, object]:
    return {
        "run": run,
        "mode": wanted.mode,
        "outcome": wanted.outcome,
        "failed": wanted.failed,
    }


def _has_error(data: bytes) -> bool:
    record = decoded(data)
    return isinstance(record, wire.EpisodeEnded) and record.error is not None
