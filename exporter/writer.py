"""The one writer: commits what came in groups, then acknowledges, then folds.

This thread owns the journal and is the only one that changes the state. Nothing is
told to anybody (acknowledged, counted in ``/metrics``, sent as a trace) before it is on
disk. When the disk refuses, nothing is acknowledged, and it is tried again with what
has come; the sources keep theirs, too.
"""

import logging
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from experiment_hooks import wire
from exporter import lastseen
from exporter.absences import FORGET_AFTER, Absences
from exporter.complaints import Complaints
from exporter.inbox import Arrival, Inbox, Newest, Peer
from exporter.journal import Batch, Deletion, Entry, Journal, Totals
from exporter.orders import Orders
from exporter.ranges import Ranges
from exporter.runs import Run, Tally
from exporter.salvage import means_damage
from exporter.state import State
from exporter.verdict import Link, Rules, deletable, verdict

logger = logging.getLogger("exporter")

TICK = 1.0
RETENTION_TICK = 3600.0
MAX_BATCH = 5000
DATA_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    ArithmeticError,
    TypeError,
    ValueError,
)
"""What SQLite and its module raise where not the disk but a value is at fault."""
COMMIT_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Writer(threading.Thread):
    """Commits, folds, acknowledges; ``close`` commits what is left.

    Args:
        journal: the disk; from now on this thread's.
        state: changed by this thread only.
        inbox: what ingest hands over.
        links: ingest's view of the sources' connections.
        acknowledge: tells ingest which records are committed.
        acknowledge_sample: likewise, of a sample that was delivered from disk.
        on_change: called after each commit that changed something to be seen.
        on_commit: called with each batch that is committed and folded.
        rules: of the verdict.
        lost_after: seconds after a source's loss when its episodes are closed.
        retention: seconds after its end when a run is deleted; 0 keeps all.
        max_traces: how many traces may wait in the journal; 0 is no bound.
        forget_links: tells ingest whose links are not asked for any more.
        present_of: a copy of what a source looks like, for what is kept of failures.
        orders: what people told runs to do.
        clock: Unix seconds.
    """

    def __init__(  # noqa: PLR0913 (its surroundings, once)
        self,
        *,
        journal: Journal,
        state: State,
        inbox: Inbox,
        links: dict[bytes, Link],
        acknowledge: Callable[[list[tuple[Peer, int]]], None],
        acknowledge_sample: Callable[[Peer, int], None] = lambda peer, number: None,
        on_change: Callable[[], None],
        rules: Rules,
        lost_after: float,
        retention: float = 0.0,
        max_traces: int = 0,
        forget_links: Callable[[list[bytes]], None] = lambda sources: None,
        present_of: lastseen.PresentOf = lambda source: None,
        orders: Orders | None = None,
        on_commit: Callable[[Batch], None] = lambda batch: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name="writer", daemon=True)
        self.trouble = ""
        self.traces_waiting = 0
        self.traces_given_up = Counter(backlog=0, deleted=0)
        self.commit_times = Tally(COMMIT_BUCKETS)
        self.duplicates = 0
        self.dropped: Counter[str] = Counter()
        self._journal = journal
        self._state = state
        self._inbox = inbox
        self._acknowledge = acknowledge
        self._acknowledge_sample = acknowledge_sample
        self._on_change = on_change
        self._on_commit = on_commit
        self._rules = rules
        self._retention = retention
        self._max_traces = max_traces
        self._present_of = present_of
        self._orders = orders or Orders(state, rules)
        self._clock = clock
        self._absences = Absences(
            state=state,
            links=links,
            forget_links=forget_links,
            rules=rules,
            lost_after=lost_after,
            born=clock(),
        )
        self._complaints = Complaints(logger)
        self._sent: deque[int] = deque()
        self._pending: dict[bytes, Newest] = {}
        self._deletions: deque[str] = deque()
        self._flushes: deque[threading.Event] = deque()
        # In this round: what came of sources before their runs were deleted.
        self._forgotten: dict[bytes, Ranges] = {}
        self._damaged = False
        # What the disk refused, the next to be committed; and whether this is that.
        self._held: list[Arrival] = []
        self._hold = self._again = False
        self._next_retention = 0.0  # monotonic, as the next
        self._next_bound = 0.0
        self._closing = False

    # --- called by other threads ------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether the journal can be written; else :attr:`trouble` says why not."""
        return not self.trouble

    def traces_sent(self, ids: list[int]) -> None:
        """The traces of these episodes have been delivered."""
        self._sent.extend(ids)

    def delete(self, run: str) -> None:
        """Forget an ended run."""
        self._deletions.append(run)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all that is in the inbox now has been committed."""
        done = threading.Event()
        self._flushes.append(done)
        self._inbox.wake()
        return self.is_alive() and done.wait(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Commit what is left and end the thread; again: nothing."""
        self._closing = True
        self._inbox.wake()
        if self.is_alive():
            self.join(timeout)

    # --- start ------------------------------------------------------------------------

    def restore(self) -> None:
        """Fold the whole journal, before the thread starts.

        What is damaged shows when it is read: then it is mended, and folded anew.

        Raises:
            JournalError: it is damaged, and could not be mended.
        """
        try:
            self._restore()
        except sqlite3.Error as error:
            if not means_damage(error):
                raise
            self._journal.mend(str(error))
            self._state.clear()
            self._restore()
        self._bound_traces()

    def _restore(self) -> None:
        self._replay()
        state = self._state
        for source, number in self._journal.lost_episodes():
            if source in state.sources:
                state.episode_lost(source, number)
        for run, mode, number in self._journal.late_episodes():
            if run in state.runs:
                state.runs[run].mode(mode).lost += number
        for totals in self._journal.totals():
            self._restore_totals(totals)
        for source, at, announced in self._journal.losses():
            if source in state.sources:
                state.source_lost(source, at, announced)
        for source in state.sources:
            state.heard_before(source, self._journal.forgotten(source))
        self._orders.restore(self._journal.orders())
        state.restored()
        state.fold_ended(self._clock())

    def _replay(self) -> None:
        sources = self._state.sources
        early: list[tuple[bytes, int]] = []
        for run, at, record, source, seq in self._journal.replay():
            if record is not None:
                self._fold(record, run, at)
            elif source in sources:  # an episode's end: its row comes later
                sources[source][1].received.add(seq)
            else:
                early.append((source, seq))
        for source, seq in early:
            if source in sources:
                sources[source][1].received.add(seq)

    def _restore_totals(self, totals: Totals) -> None:
        try:
            sample = wire.decode_from_source(totals.data)
            if isinstance(sample, wire.Sample):
                self._state.apply_sample(totals.source, sample, totals.at)
        except wire.WireError:  # of a newer version, or damaged
            return

    # --- the thread -------------------------------------------------------------------

    def run(self) -> None:
        """Commit in groups, at least once a second, until closed."""
        next_tick = time.monotonic() + TICK
        while True:
            wait = max(0.001, next_tick - time.monotonic())
            arrivals = self._take(wait)
            # Read after the waiting: who asks wakes it, and is served in this round.
            closing, flushes = self._closing, len(self._flushes)
            ticking = closing or time.monotonic() >= next_tick
            if ticking:
                next_tick = time.monotonic() + TICK
            try:
                self._round(arrivals, ticking)
            except Exception:  # a bug: nothing of it was acknowledged
                logger.exception("the writer failed at %d records", len(arrivals))
                self.dropped["internal"] += len(arrivals)
                time.sleep(0.2)
            if self._inbox.records.empty() or not self.healthy:
                for _ in range(flushes):
                    self._flushes.popleft().set()
                if closing:
                    return

    def _take(self, wait: float) -> list[Arrival]:
        return self._held or self._inbox.take(wait, MAX_BATCH)

    def _round(self, arrivals: list[Arrival], ticking: bool) -> None:
        batch = Batch()
        self._again, self._held = arrivals is self._held, []
        try:
            settled = self._sort(arrivals, batch)
            if ticking:
                self._tick(batch)
            lastseen.keep(batch, self._state, self._present_of)
            batch.orders = self._orders.asked()
        except sqlite3.Error as error:  # it cannot even be read
            self.dropped["journal"] += len(arrivals) - len(batch.entries)
            self._refused(batch, error)
        else:
            if batch or not self.healthy:
                self._commit(batch, settled)
            elif settled:
                self._acknowledge(settled)
        if self._hold:
            self._hold, self._held = False, arrivals
        elif ticking and self.healthy:
            self._bound_traces()
        if batch or ticking:
            self._on_change()

    def _sort(self, arrivals: list[Arrival], batch: Batch) -> list[tuple[Peer, int]]:
        """Put what is new into the batch; once that is committed, all is settled."""
        settled = []
        self._forgotten.clear()
        seen: set[tuple[bytes, int]] = set()
        last: Peer | None = None
        for arrival in arrivals:
            peer, seq, data, record, came = arrival
            settled.append((peer, seq))
            source = record.source
            if peer is not last:  # many come from one, one after the other
                last, skew = peer, peer.skew
                received = self._received(source)
            if peer.hello.replay:
                self._absences.replayed[source] = came, peer.link.announced
            key = (source, seq)
            if key in seen or seq in received:
                self.duplicates += not self._again
                continue
            seen.add(key)
            # By the exporter's clock, and never in its future.
            at = min(record.time + skew, came)
            batch.entries.append(Entry(peer.run, at, data, record))
            if isinstance(record, wire.SourceClosed):
                batch.closed.append(source)
        return settled

    def _received(self, source: bytes) -> Ranges:
        """What came of a source before; also of one whose run was deleted since."""
        known = self._state.sources.get(source)
        if known is not None:
            return known[1].received
        found = self._forgotten.get(source)
        if found is None:
            found = self._forgotten[source] = self._journal.forgotten(source)
        return found

    def _commit(self, batch: Batch, settled: list[tuple[Peer, int]]) -> None:
        started = time.perf_counter()
        try:
            if self._damaged:  # nothing is written to it any more
                raise sqlite3.DatabaseError("it is damaged")
            if not self.healthy:
                self._journal.probe()
            self.traces_given_up["deleted"] += self._journal.commit(batch)
        except DATA_ERRORS as error:
            self._sift(batch, settled, error)
            return
        except sqlite3.Error as error:
            self._refused(batch, error)
            return
        if not self.healthy:
            logger.warning("the journal can be written again")
        self.trouble = ""
        self.commit_times.add(time.perf_counter() - started)
        if settled:
            self._acknowledge(settled)
        with self._state.lock:
            self._apply(batch)
        self._on_commit(batch)

    def _sift(
        self, batch: Batch, settled: list[tuple[Peer, int]], error: Exception
    ) -> None:
        """Commit by halves, so that what cannot be stored costs only itself."""
        entries = batch.entries
        rest = replace(batch, entries=[])
        if not entries or (len(entries) == 1 and not rest):
            self._orders.refused(batch.orders, ())
            self.dropped["unwritable"] += 1
            whose = entries[0].run if entries else ""
            logger.warning("run %r: something cannot be kept: %s", whose, error)
            self._acknowledge(settled)  # it will never get better
            return
        middle = len(entries) // 2
        for part in (entries[:middle], entries[middle:]):
            theirs = {(one.record.source, one.record.seq) for one in part}
            mine = [one for one in settled if _key(one) in theirs]
            settled = [one for one in settled if _key(one) not in theirs]
            if part:
                self._commit(Batch(entries=part), mine)
        if rest:
            self._commit(rest, [])
        self._acknowledge(settled)  # what had come before

    def _refused(self, batch: Batch, error: sqlite3.Error) -> None:
        """The disk does not take it: all of it is kept, and tried again.

        Meanwhile nothing more is taken from the inbox, which bounds what waits. Of a
        damaged journal no try will be better: the sources keep what is theirs.
        """
        if self.healthy or (means_damage(error) and not self._damaged):
            self.trouble = self._words(error)
            logger.error(self.trouble)
        self.dropped["journal"] += len(batch.entries)
        self._orders.refused(batch.orders, batch.over)
        self._sent.extendleft(reversed(batch.sent))
        self._deletions.extendleft(one.run for one in reversed(batch.deleted))
        self._hold = not self._damaged
        time.sleep(0.2)  # no busy loop

    def _words(self, error: sqlite3.Error) -> str:
        if not means_damage(error):
            return f"the journal cannot be written, nothing is acknowledged: {error}"
        self._damaged = True
        self._journal.condemn(str(error))
        return (
            f"the journal is damaged ({error}), nothing is acknowledged: restart the "
            "exporter, which sets the file aside and keeps what can be read of it"
        )

    def _apply(self, batch: Batch) -> None:
        state = self._state
        for entry in batch.entries:
            self._fold(entry.record, entry.run, entry.at)
        for source, received in self._forgotten.items():
            state.heard_before(source, received)
        for totals in batch.totals:
            newest = self._pending.pop(totals.source, None)
            if newest is not None:
                state.apply_sample(totals.source, newest.sample, newest.received)
                self._settle_sample(newest)
        for source, at, announced in batch.lost:
            state.source_lost(source, at, announced)
        for source in batch.returned:
            state.source_returned(source)
        for entry in batch.lost_episodes:
            assert isinstance(entry.record, wire.EpisodeEnded)
            state.episode_lost(entry.record.source, entry.record.number)
        for order in batch.orders:
            self._orders.kept(order)
        for deletion in batch.deleted:
            state.forget(deletion.run)
            self._orders.forget(deletion.run)

    def _fold(self, record: wire.AnyRecord, run: str, at: float) -> None:
        # It is on disk, and comes again at each start: it may not end the thread.
        try:
            self._state.apply(record, run, at)
        except ValueError as error:
            self.dropped["contradiction"] += 1
            self._complaints.say("a contradiction", f"run {run!r}", str(error))
        except Exception:
            self.dropped["internal"] += 1
            logger.exception("run %r: a record could not be folded", run)

    # --- once a second ----------------------------------------------------------------

    def _tick(self, batch: Batch) -> None:
        now = self._clock()
        self._take_samples(batch, now)
        self._absences.judge(batch, now)
        while self._sent:
            batch.sent.append(self._sent.popleft())
        batch.over = self._orders.over()
        self._retain(now)
        busy = {entry.run for entry in batch.entries}
        for run_id in [self._deletions.popleft() for _ in range(len(self._deletions))]:
            known = self._state.runs.get(run_id)
            if run_id in busy:  # looked at again when this is folded
                self._deletions.append(run_id)
            # It may have been resumed since somebody asked.
            elif known is not None and deletable(known, now, self._rules):
                received = {one.id: one.received for one in known.sources.values()}
                batch.deleted.append(Deletion(run_id, now, received))
        with self._state.lock:
            self._state.clock_is(now)
            self._state.fold_ended(now)
        self._absences.tidy(now)

    def _take_samples(self, batch: Batch, now: float) -> None:
        for source_id, newest in self._inbox.take_samples().items():
            before = self._pending.get(source_id)
            if before is None or before.sample.number <= newest.sample.number:
                self._pending[source_id] = newest
        closing = set(batch.closed)
        for source_id, newest in list(self._pending.items()):
            useless = self._useless(source_id, newest, closing, now)
            if useless:
                del self._pending[source_id]
                self.dropped[useless] += 1
                if useless != "unknown_source":  # its records may come yet
                    self._settle_sample(newest)
            elif source_id in self._state.sources:
                run, _ = self._state.sources[source_id]
                batch.totals.append(_totals(run, source_id, newest))

    def _settle_sample(self, newest: Newest) -> None:
        if newest.replay is not None:
            self._acknowledge_sample(newest.replay, newest.sample.number)

    def _useless(
        self, source_id: bytes, newest: Newest, closing: set[bytes], now: float
    ) -> str:
        """Why a sample is dropped; empty if it is kept."""
        known = self._state.sources.get(source_id)
        if known is None:  # its first records are not committed yet
            if newest.replay is not None and self._received(source_id).count:
                return "closed_source"  # it has none: all came before, of a deleted run
            late = now - newest.came > FORGET_AFTER
            return "unknown_source" if late else ""
        source = known[1]
        if source.closed is not None or source_id in closing:
            return "closed_source"
        applied = source.sample
        if applied is not None and newest.sample.number <= applied.number:
            return "older"
        return ""

    # --- now and then -----------------------------------------------------------------

    def _retain(self, now: float) -> None:
        """Delete runs that ended longer ago than the retention."""
        if not self._retention or time.monotonic() < self._next_retention:
            return
        self._next_retention = time.monotonic() + RETENTION_TICK
        for run in list(self._state.runs.values()):
            ended = verdict(run, now, self._rules).ended_at or now
            if now - ended > self._retention and deletable(run, now, self._rules):
                logger.info("run %r ended long ago, and is forgotten", run.id)
                self._deletions.append(run.id)

    def _bound_traces(self) -> None:
        """Count the traces that wait, and give up the oldest of too many."""
        started = time.monotonic()
        if started < self._next_bound:
            return
        try:
            found = self._journal.bound_traces(self._max_traces)
        except sqlite3.Error:  # the next commit will tell
            return
        # Counting them all costs; it may cost a hundredth of this thread's time.
        self._next_bound = started + 100 * (time.monotonic() - started)
        self.traces_waiting, given_up = found
        # Once: the counter tells the rest.
        if given_up and not self.traces_given_up["backlog"]:
            logger.warning(
                "traces: more than %d episodes wait, the oldest are given up",
                self._max_traces,
            )
        self.traces_given_up["backlog"] += given_up

    def verdicts(self) -> dict[str, str]:
        """The verdict on every run, by its id."""
        now = self._clock()
        with self._state.lock:
            return {
                name: verdict(run, now, self._rules).state
                for name, run in self._state.runs.items()
            }


def _key(settled: tuple[Peer, int]) -> tuple[bytes, int]:
    peer, seq = settled
    return peer.hello.source, seq


def _totals(run: Run, source: bytes, newest: Newest) -> Totals:
    sample = newest.sample
    if sample.moments or sample.streams:
        # The moment is for who looks now; what is committed are the totals.
        sample = msgspec.structs.replace(sample, moments=(), streams={})
    return Totals(source, run.id, newest.received, wire.encode(sample))
