"""The writer: commits, then acknowledges, then folds; and survives what goes wrong."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiment_hooks import wire
from exporter import writer
from exporter.absences import FORGET_AFTER
from exporter.inbox import Arrival, Inbox, Newest, Peer
from exporter.journal import Batch, Journal
from exporter.orders import Orders
from exporter.reader import Reader
from exporter.runs import ENDED_COUNTS_SECONDS
from exporter.state import State
from exporter.verdict import Link, Rules
from exporter.writer import Writer
from tests.making import NOON, STEPS, Teller, counter, sample
from tests.support import eventually
from tests.test_state import told

RULES = Rules(lost_seconds=30.0, promise_floor_seconds=60.0, grace_seconds=60.0)


class Disk(Journal):
    """A journal whose disk can be full, and which says what was committed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, traces=True)
        self.error: Exception | None = None
        self.commits: list[Batch] = []
        self.before: Callable[[], None] = lambda: None

    def commit(self, batch: Batch) -> int:
        self.before()
        if self.error is not None:
            raise self.error
        self.commits.append(batch)
        return super().commit(batch)

    def probe(self) -> None:
        if self.error is not None:
            raise self.error
        super().probe()


class Bench:
    """A writer with all that it needs, and no thread unless it is started."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.now = NOON
        self.journal = Disk(path)
        self.journal.open()
        self.reader = Reader(path)
        self.state = State()
        self.inbox = Inbox()
        self.links: dict[bytes, Link] = {}
        self.acknowledged: list[tuple[bytes, int]] = []
        self.samples_acknowledged: list[tuple[bytes, int]] = []
        self.forgotten: list[bytes] = []
        self.changes = 0
        self.sent: list[tuple[str, Any, wire.Command]] = []
        self.orders = Orders(
            self.state,
            RULES,
            wake=self._wake,
            send=self.send,
            clock=lambda: self.now,
        )
        self.writer = Writer(
            journal=self.journal,
            state=self.state,
            inbox=self.inbox,
            links=self.links,
            acknowledge=self._acknowledge,
            acknowledge_sample=self._acknowledge_sample,
            on_change=self._change,
            rules=RULES,
            lost_after=60.0,
            forget_links=self.forgotten.extend,
            orders=self.orders,
            clock=lambda: self.now,
            **settings,
        )
        self.writer.restore()

    def _acknowledge(self, committed: list[tuple[Peer, int]]) -> None:
        self.acknowledged += [(peer.hello.source, seq) for peer, seq in committed]

    def _acknowledge_sample(self, peer: Peer, number: int) -> None:
        self.samples_acknowledged.append((peer.hello.source, number))

    def _change(self) -> None:
        self.changes += 1

    def _wake(self) -> None:
        self.inbox.wake()  # which a test may have replaced

    def send(self, run: str, sources: Any, command: wire.Command) -> None:
        self.sent.append((run, sources, command))

    def peer(self, teller: Teller) -> Peer:
        link = self.links.setdefault(teller.id, Link(self.now))
        link.gone_since = None
        hello = wire.Hello(wire.PROTOCOL, teller.id, teller.run, self.now)
        return Peer(b"identity", hello, teller.run, link, offset=0.0)

    def arrive(self, teller: Teller, *records: wire.AnyRecord) -> None:
        peer = self.peer(teller)
        for one in records:
            arrival = Arrival(peer, one.seq, wire.encode(one), one, self.now)
            self.inbox.put(arrival)

    def sampled(self, teller: Teller, number: int, *totals: float, **more: Any) -> None:
        self.peer(teller)
        newest = Newest(sample(number, totals, **more), [], self.now, self.now)
        self.inbox.put_sample(teller.id, newest)

    def delivered(
        self,
        teller: Teller,
        *records: wire.AnyRecord,
        number: int = 0,
        announced: int = 0,
        **more: Any,
    ) -> None:
        """Somebody delivers what a source has left on disk: records, and a sample."""
        hello = wire.Hello(wire.PROTOCOL, teller.id, teller.run, self.now, replay=True)
        link = Link(self.now, announced=announced)
        peer = Peer(b"carrier", hello, teller.run, link, offset=0.0)
        for one in records:
            arrival = Arrival(peer, one.seq, wire.encode(one), one, self.now)
            self.inbox.put(arrival)
        if number:
            newest = Newest(sample(number, **more), [], teller.at, self.now, peer)
            self.inbox.put_sample(teller.id, newest)

    def gone(self, teller: Teller) -> None:
        self.links[teller.id].gone_since = self.now

    def round(self, ticking: bool = False) -> None:
        """What the thread does once."""
        self.writer._round(self.writer._take(0.001), ticking)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.round(ticking=True)

    def hits(self) -> float | None:
        run = self.state.runs["run"]
        found = run.base.counted("hits", run.contributions(self.now))
        return found.get(())

    def close(self) -> None:
        if self.writer.is_alive():
            self.writer.close()
        self.reader.close()
        self.journal.close()


@contextmanager
def benches_on(path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches on one and the same journal: the next when one was closed."""
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        for before in made:
            before.close()
        made.append(Bench(path, **settings))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()


@pytest.fixture
def benches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(writer.time, "sleep", lambda seconds: None)
    with benches_on(tmp_path / "journal.sqlite") as make:
        yield make


@pytest.fixture
def bench(benches: Callable[..., Bench]) -> Bench:
    return benches()


def a_source(bench: Bench, number: int = 1, **said: Any) -> Teller:
    """A source with a counter ``hits``, committed."""
    teller = Teller(number)
    schema = teller.schema([counter("hits")], [(0, ())])
    bench.arrive(teller, teller.opened(), teller.run_opened(**said), schema)
    bench.round()
    return teller


# --- commit, acknowledge, fold ----------------------------------------------------


def test_records_are_acknowledged_after_their_commit_and_folded_after_that(
    bench: Bench,
) -> None:
    seen: list[tuple[int, int]] = []
    bench.journal.before = lambda: seen.append(
        (len(bench.acknowledged), len(bench.state.runs))
    )
    teller = Teller()
    bench.arrive(teller, teller.opened(), teller.started())
    bench.round()
    assert seen == [(0, 0)]
    assert bench.acknowledged == [(teller.id, 1), (teller.id, 2)]
    assert bench.state.runs["run"].modes["eval"].started == 1
    assert bench.changes == 1


def test_records_that_come_again_are_acknowledged_again_and_applied_once(
    bench: Bench,
) -> None:
    teller = Teller()
    records = [teller.opened(), teller.started(), teller.ended()]
    bench.arrive(teller, *records, *records)
    bench.round()
    bench.arrive(teller, *records)
    bench.round()
    assert len(bench.acknowledged) == 9
    assert bench.writer.duplicates == 6
    assert bench.state.runs["run"].modes["eval"].outcomes == {"correct": 1}
    assert len(bench.journal.commits) == 1


def test_a_disk_that_refuses_gets_nothing_acknowledged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    teller = a_source(bench)
    known = list(bench.acknowledged)
    bench.journal.error = sqlite3.OperationalError("database or disk is full")
    episode = [teller.started(), teller.ended()]
    for _ in range(3):  # the source sends it again and again
        bench.arrive(teller, *episode)
        bench.round()
    assert not bench.writer.healthy
    assert bench.acknowledged == known
    assert bench.state.runs["run"].modes == {}
    assert bench.writer.dropped["journal"] == 6
    assert sum("cannot be written" in text for text in caplog.messages) == 1

    bench.journal.error = None
    bench.arrive(teller, *episode)
    bench.round()
    assert bench.writer.healthy
    assert bench.acknowledged == [*known, (teller.id, 4), (teller.id, 5)]
    assert bench.state.runs["run"].modes["eval"].ended == 1
    assert any("can be written again" in text for text in caplog.messages)


def test_it_finds_out_by_itself_that_the_disk_is_well_again(bench: Bench) -> None:
    """And what has come meanwhile need not be sent again."""
    teller = a_source(bench)
    bench.journal.error = sqlite3.OperationalError("disk I/O error")
    bench.arrive(teller, teller.log("x"))
    bench.round()
    bench.arrive(teller, teller.log("y"))
    bench.round()
    bench.journal.error = None
    bench.tick(1)
    assert bench.writer.healthy
    bench.round()
    assert bench.acknowledged[-2:] == [(teller.id, 4), (teller.id, 5)]
    assert (bench.writer.duplicates, bench.state.runs["run"].log_count) == (0, 2)


def test_a_disk_that_refuses_holds_up_neither_who_waits_nor_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = a_source(bench)
    bench.journal.error = sqlite3.OperationalError("database or disk is full")
    bench.writer.start()
    bench.arrive(teller, *(teller.log(str(n)) for n in range(10)))
    eventually(lambda: not bench.writer.healthy)
    bench.arrive(teller, *(teller.log(str(n)) for n in range(10)))
    assert bench.writer.flush(timeout=10)
    bench.writer.close()
    assert not bench.writer.is_alive()


def damage_of(path: Path) -> sqlite3.Error:
    """What SQLite raises where a file is damaged."""
    path.write_text("no database" * 1000)
    with closing(sqlite3.connect(path)) as db:
        try:
            db.execute("SELECT * FROM sqlite_master")
        except sqlite3.Error as error:
            return error
    raise AssertionError("it can be read")


def test_a_journal_that_shows_damage_is_let_alone_until_the_restart(
    benches: Callable[..., Bench], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = benches()
    teller = a_source(bench)
    known = list(bench.acknowledged)
    more = teller.log("x")
    bench.journal.error = damage_of(tmp_path / "other")
    for _ in range(4):
        bench.arrive(teller, more)
        bench.round()
    bench.journal.error = None  # it would go well again, but what is in it?
    bench.arrive(teller, more)
    bench.tick(1)
    assert (bench.writer.healthy, bench.acknowledged) == (False, known)
    assert bench.writer.dropped["journal"] == 5
    (said,) = [text for text in caplog.messages if "restart the exporter" in text]
    assert bench.writer.trouble == said

    bench = benches()
    assert any("was set aside as" in text for text in caplog.messages)
    bench.arrive(teller, more)
    bench.round()
    assert bench.writer.healthy
    assert bench.acknowledged == [(teller.id, 4)]
    assert bench.state.runs["run"].log_count == 1


def test_one_that_cannot_even_be_read_for_what_came_is_no_bug(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: bytes) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(bench.journal, "forgotten", broken)
    teller = Teller()
    bench.arrive(teller, teller.opened(), teller.log("x"))
    bench.round()
    assert not bench.writer.healthy
    assert bench.writer.dropped["journal"] == 2
    assert bench.acknowledged == []


def test_what_no_source_sends_again_outlives_a_refusing_disk(bench: Bench) -> None:
    teller = a_source(bench)
    bench.arrive(teller, teller.started(), teller.ended(), teller.run_closed())
    bench.arrive(teller, teller.closed([1.0]))
    bench.round()
    (row,) = bench.reader.to_send(10)
    bench.journal.error = sqlite3.OperationalError("database or disk is full")
    bench.writer.traces_sent([row.id])
    bench.tick(1)
    bench.writer.delete("run")
    bench.tick(1)
    bench.journal.error = None
    bench.tick(1)
    assert bench.reader.count_to_send() == 0
    assert bench.state.runs == {}


def test_a_record_that_cannot_be_kept_costs_only_itself(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """What ingest lets through may still be more than SQLite can store."""
    good, bad = Teller(1), Teller(2)
    huge = bad.make(wire.EpisodeStarted, number=2**63, mode="eval")
    timeless = bad.make(wire.LogLine, at=float("nan"), level="info", message="x")
    ends = [good.ended(n) for n in range(5)]
    impossible = bad.ended(2**63)
    bench.arrive(good, good.opened(), *ends[:2])
    bench.arrive(bad, bad.opened(), huge, impossible, timeless)
    bench.arrive(good, *ends[2:])
    bench.sampled(good, 1, 5.0)
    bench.round(ticking=True)
    assert bench.writer.healthy
    # None of them comes again for ever, and the good ones count.
    assert {seq for source, seq in bench.acknowledged if source == bad.id} == {
        1,
        2,
        3,
        4,
    }
    assert len([1 for source, _ in bench.acknowledged if source == good.id]) == 6
    assert bench.state.runs["run"].modes["eval"].outcomes == {"correct": 5}
    assert bench.writer.dropped["unwritable"] == 2
    assert len(bench.reader.episodes("run")) == 5
    bench.tick(1)
    assert bench.journal.totals() != []


def test_a_record_that_is_in_the_journal_already_holds_nobody_up(
    benches: Callable[..., Bench],
) -> None:
    """A record of a newer version: this one cannot read it, but it is there."""
    bench = benches()
    teller = Teller()
    record = teller.log("x")
    bench.arrive(teller, record)
    bench.round()
    bench.journal._db.execute("UPDATE records SET data = x'c1'")
    bench = benches()
    assert bench.state.sources == {}
    bench.arrive(teller, record, teller.log("y"))
    bench.round()
    assert bench.writer.healthy
    assert sorted(seq for _, seq in bench.acknowledged) == [1, 2]
    assert bench.state.runs["run"].log_count == 1


def test_a_record_that_contradicts_is_counted_and_the_rest_goes_on(
    bench: Bench,
) -> None:
    teller = a_source(bench)
    strange = teller.schema([], [(99, ())])
    bench.arrive(teller, strange, teller.started())
    bench.round()
    assert bench.writer.dropped["contradiction"] == 1
    assert bench.state.runs["run"].modes["eval"].started == 1


def test_the_thread_survives_a_bug(
    benches: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = benches()
    real, broken = bench.writer._tick, [True]

    def tick(batch: Batch) -> None:
        if broken:
            broken.pop()
            raise KeyError("a bug")
        real(batch)

    monkeypatch.setattr(bench.writer, "_tick", tick)
    monkeypatch.setattr(writer, "TICK", 0.01)
    bench.writer.start()
    eventually(lambda: not broken)
    teller = Teller()
    bench.arrive(teller, teller.opened())
    eventually(lambda: bench.acknowledged)
    assert bench.writer.is_alive()


# --- samples ----------------------------------------------------------------------


def test_the_newest_totals_are_committed_once_a_second_and_then_served(
    bench: Bench,
) -> None:
    teller = a_source(bench)
    bench.sampled(teller, 1, 5.0)
    bench.sampled(teller, 2, 6.0)
    bench.round()
    assert bench.hits() is None
    bench.tick()
    assert bench.hits() == 6.0
    assert len(bench.journal.totals()) == 1


def test_totals_that_could_not_be_committed_are_not_served(bench: Bench) -> None:
    teller = a_source(bench)
    bench.sampled(teller, 1, 5.0)
    bench.journal.error = sqlite3.OperationalError("database or disk is full")
    bench.tick()
    assert bench.hits() is None
    bench.journal.error = None
    bench.tick(1)
    assert bench.hits() == 5.0


def test_a_sample_that_comes_before_its_source_waits_for_it(bench: Bench) -> None:
    teller = Teller()
    bench.sampled(teller, 1, 5.0)
    bench.tick()
    opened = teller.opened(), teller.schema([counter("hits")], [(0, ())])
    bench.arrive(teller, *opened)
    bench.tick(1)
    bench.tick(1)
    assert bench.hits() == 5.0


def test_a_sample_of_nobody_does_not_wait_for_ever(bench: Bench) -> None:
    bench.sampled(Teller(), 1, 5.0)
    bench.tick()
    bench.tick(FORGET_AFTER + 1)
    assert bench.writer._pending == {}
    assert bench.writer.dropped["unknown_source"] == 1


def test_samples_of_closed_sources_are_dropped(bench: Bench) -> None:
    teller = a_source(bench)
    bench.sampled(teller, 1, 5.0)
    bench.arrive(teller, teller.closed([8.0]))
    bench.tick()  # closed in this very batch
    bench.sampled(teller, 2, 7.0)
    bench.tick(1)
    assert bench.writer.dropped["closed_source"] == 2
    assert bench.hits() == 8.0
    assert bench.journal.totals() == []


def test_a_sample_that_was_overtaken_is_dropped(bench: Bench) -> None:
    teller = a_source(bench)
    bench.sampled(teller, 2, 7.0)
    bench.sampled(teller, 1, 5.0)  # of an older connection
    bench.tick()
    assert bench.hits() == 7.0
    bench.sampled(teller, 1, 5.0)
    bench.tick(1)
    assert bench.writer.dropped["older"] == 1
    assert bench.hits() == 7.0


# --- restarts ---------------------------------------------------------------------


def test_a_restart_arrives_at_the_same_state(benches: Callable[..., Bench]) -> None:
    bench = benches()
    ended, lives, dies = (Teller(number) for number in (1, 2, 3))
    for teller in (ended, lives, dies):
        role = "owner" if teller is ended else "child"
        schema = teller.schema([STEPS, counter("hits")], [(0, ("eval",)), (1, ())])
        bench.arrive(teller, teller.opened(role, ended.id), teller.run_opened(), schema)
        bench.arrive(teller, teller.started(0), teller.ended(0, success=True))
        bench.arrive(teller, teller.started(1, "train"), teller.log("x"))
    bench.sampled(lives, 1, 10.0, 0.1)
    bench.sampled(dies, 1, 20.0, 0.2)
    bench.tick()
    bench.gone(dies)
    bench.arrive(ended, ended.ended(1, "train", "confused"))
    bench.arrive(ended, ended.run_closed("failed"), ended.closed([30.0, 0.3]))
    bench.tick(30)
    bench.tick(60)
    bench.tick(ENDED_COUNTS_SECONDS)
    assert bench.state.sources[ended.id][1].folded
    assert bench.state.runs["run"].modes["train"].lost == 1
    now, before = bench.now, told(bench.state, bench.now)
    assert before["run"]["series"] == {
        "steps{'mode': 'eval'}": 60.0,
        "hits": 0.6,
    }
    again = benches()
    again.state.fold_ended(now)
    assert told(again.state, now) == before
    # And what was applied is known again.
    again.arrive(ended, ended.make(wire.LogLine, level="info", message="new"))
    again.round()
    assert again.writer.duplicates == 0


def test_a_crash_between_commit_and_acknowledgement_applies_nothing_twice(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = Teller()
    records = [teller.opened(), teller.started(), teller.ended(), teller.closed()]
    bench.arrive(teller, *records)
    bench.round()
    bench = benches()
    bench.arrive(teller, *records)  # it was not told
    bench.round()
    assert bench.writer.duplicates == 4
    assert len(bench.acknowledged) == 4
    assert bench.state.runs["run"].modes["eval"].outcomes == {"correct": 1}


@pytest.mark.parametrize(
    "data",
    [b"\xc1", wire.encode(wire.Sample(number=1, sent=NOON, totals=b"seven b"))],
)
def test_totals_that_cannot_be_read_do_not_stop_a_start(
    data: bytes, benches: Callable[..., Bench]
) -> None:
    bench = benches()
    teller = a_source(bench)
    bench.sampled(teller, 1, 5.0)
    bench.tick()
    bench.journal._db.execute("UPDATE totals SET data = ?", (data,))
    assert benches().hits() is None


def a_long_story(bench: Bench) -> None:
    """Sources that work, are lost, come back and close, over many pages."""
    tellers = [a_source(bench, number) for number in (1, 2, 3)]
    for number in range(100):
        for teller in tellers:
            bench.arrive(teller, teller.started(number), teller.log("x" * 50))
            bench.arrive(teller, teller.ended(number, target="x" * 100))
        bench.round()
    for number, teller in enumerate(tellers):
        bench.arrive(teller, teller.started(100))
        bench.sampled(teller, 1, float(number))
    bench.tick(1)
    bench.gone(tellers[1])
    bench.gone(tellers[2])
    bench.tick(30)
    bench.tick(60)
    bench.arrive(tellers[2], tellers[2].ended(100))
    bench.arrive(tellers[0], tellers[0].run_closed(), tellers[0].closed([7.0]))
    bench.tick(1)


def test_damage_that_shows_at_the_start_is_mended_and_nothing_counts_twice(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = benches()
    a_long_story(bench)
    bench.close()
    path = tmp_path / "journal.sqlite"
    # The last page of episodes: all before it is folded when it is read.
    with closing(sqlite3.connect(path)) as db:
        (newest,) = db.execute("SELECT data FROM episodes WHERE id = 280").fetchone()
    data = path.read_bytes()
    page = data.index(newest) // 4096 * 4096
    path.write_bytes(data[:page] + bytes(4096) + data[page + 4096 :])
    bench = benches()
    mode = bench.state.runs["run"].modes["eval"]
    assert 280 < mode.ended < 300
    assert mode.started == 303
    missing = [source.missing for _, source in bench.state.sources.values()]
    assert sum(missing) == 301 - mode.ended
    before = told(bench.state)
    assert told(benches().state) == before


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(chance=st.randoms(use_true_random=False), share=st.sampled_from([1, 10, 50, 90]))
def test_whatever_rows_are_lost_a_start_gets_along_without_them(
    chance: Random, share: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    bench = Bench(path)
    teller = Teller(1)
    schema = teller.schema([counter("hits")], [(0, ())])
    child = Teller(2)
    bench.arrive(teller, teller.opened(), teller.run_opened(), schema)
    bench.arrive(child, child.opened("child", teller.id))
    for number in range(5):
        for one in (teller, child):
            bench.arrive(one, one.started(number), one.ended(number), one.log("x"))
    for one in (teller, child):
        bench.arrive(one, one.started(5))
        bench.sampled(one, 1, 5.0)
    bench.tick()
    bench.gone(child)
    bench.tick(30)
    bench.tick(60)
    bench.arrive(teller, teller.run_closed(), teller.closed([6.0]))
    bench.tick(1)
    for table in ("records", "episodes", "totals", "losses"):
        key = "id" if table in ("records", "episodes") else "source"
        rows = bench.journal._db.execute(f"SELECT {key} FROM {table}").fetchall()
        gone = [row for row in rows if chance.randrange(100) < share]
        bench.journal._db.executemany(f"DELETE FROM {table} WHERE {key} = ?", gone)
    bench.close()
    again = Bench(path)
    try:
        assert again.writer.dropped["internal"] == 0
        again.now = NOON + 1000
        again.tick()
        again.arrive(child, child.log("and it goes on"))
        again.round()
        assert again.writer.healthy
        assert again.acknowledged == [(child.id, child.seq)]
    finally:
        again.close()


# --- deleting ---------------------------------------------------------------------


def a_run_that_ended(bench: Bench, number: int = 1) -> Teller:
    teller = a_source(bench, number)
    bench.arrive(teller, teller.run_closed(), teller.closed([3.0]))
    bench.tick()
    return teller


def test_a_deleted_run_is_gone_also_after_a_restart(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    a_run_that_ended(bench)
    bench.writer.delete("run")
    bench.writer.delete("nobody")
    bench.tick()
    assert bench.state.runs == {}
    assert benches().state.runs == {}


def test_what_comes_again_of_a_deleted_run_does_not_raise_it(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = Teller()
    story = [teller.opened(), teller.run_opened(), teller.started(), teller.ended()]
    story += [teller.run_closed(), teller.closed()]
    bench.arrive(teller, *story)
    bench.tick()
    bench.writer.delete("run")
    bench.tick()
    for _ in range(2):  # a file of the spool is delivered late, and again
        bench.arrive(teller, *story)
        bench.round()
        assert bench.writer.duplicates == 6
        assert bench.acknowledged[-6:] == [(teller.id, seq) for seq in range(1, 7)]
        assert bench.state.runs == {}
        bench = benches()
    assert bench.journal._db.execute("SELECT count(*) FROM records").fetchone() == (0,)


def test_who_delivers_totals_of_a_deleted_run_does_not_wait(bench: Bench) -> None:
    teller = a_source(bench)
    opened = Teller().opened()
    bench.gone(teller)
    bench.tick(30)
    bench.writer.delete("run")
    bench.tick()
    bench.delivered(teller, opened, number=7)
    bench.tick(1)
    assert bench.state.runs == {}
    assert bench.samples_acknowledged == [(teller.id, 7)]


def test_what_never_came_of_a_deleted_run_makes_it_anew(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    teller = Teller()
    opened, late, started = teller.opened(), teller.ended(7), teller.started(8)
    closed = teller.closed()
    bench.arrive(teller, opened, closed)
    bench.tick()
    bench.tick(RULES.grace_seconds)
    bench.writer.delete("run")
    bench.tick()
    assert bench.state.runs == {}
    bench.arrive(teller, opened, late, closed)
    bench.round()
    assert bench.writer.duplicates == 2
    run, source = bench.state.sources[teller.id]
    assert run.modes["eval"].outcomes == {"correct": 1}
    assert source.missing == 1  # the start that is still to come
    before = told(bench.state)
    bench = benches()
    assert told(bench.state) == before
    bench.arrive(teller, opened, late, started, closed)
    bench.round()
    assert bench.writer.duplicates == 3
    assert bench.state.sources[teller.id][1].missing == 0
    # And when that is deleted, too, all of it is known.
    bench.gone(teller)
    bench.tick(30)
    bench.writer.delete("run")
    bench.tick(1)
    bench = benches()
    bench.arrive(teller, opened, late, started, closed)
    bench.round()
    assert (bench.writer.duplicates, bench.state.runs) == (4, {})


def test_a_run_that_was_resumed_meanwhile_is_not_deleted(bench: Bench) -> None:
    a_run_that_ended(bench)
    bench.writer.delete("run")
    a_source(bench, 2)
    bench.tick()
    assert "run" in bench.state.runs


def test_runs_that_ended_longer_ago_than_the_retention_are_forgotten(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benches(retention=86400.0)
    a_run_that_ended(bench)
    bench.tick(86000)
    assert "run" in bench.state.runs
    bench = benches(retention=86400.0)
    bench.now = NOON + 86401
    bench.tick()  # it looks at start
    assert bench.state.runs == {}
    assert bench.journal._db.execute("SELECT count(*) FROM records").fetchone() == (0,)


def test_a_run_that_goes_on_is_kept_however_old_it_is(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(retention=86400.0)
    a_source(bench)
    bench.tick(10 * 86400)
    bench.writer._next_retention = 0.0
    bench.tick(1)
    assert "run" in bench.state.runs


def test_without_retention_runs_are_kept_for_good(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(retention=0.0)
    a_run_that_ended(bench)
    bench.tick(1000 * 86400)
    assert "run" in bench.state.runs


# --- the traces that wait ---------------------------------------------------------


def test_of_too_many_traces_the_oldest_are_given_up_and_counted(
    benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = benches(max_traces=5)
    teller = a_source(bench)
    bench.arrive(teller, *(teller.ended(n) for n in range(5)))
    bench.writer._next_bound = 0.0
    bench.tick()
    assert (bench.writer.traces_waiting, bench.writer.traces_given_up["backlog"]) == (
        5,
        0,
    )
    for first in (5, 8):
        bench.arrive(teller, *(teller.ended(n) for n in range(first, first + 3)))
        bench.writer._next_bound = 0.0
        bench.tick(1)
    assert (bench.writer.traces_waiting, bench.writer.traces_given_up["backlog"]) == (
        5,
        6,
    )
    assert [row.episode.number for row in bench.reader.to_send(99)] == [6, 7, 8, 9, 10]
    assert sum("more than 5 episodes wait" in text for text in caplog.messages) == 1
    assert len(bench.reader.episodes("run")) == 11  # as episodes they are all there
    # A restart with a lower bound holds it from the beginning.
    bench = benches(max_traces=2)
    assert (bench.writer.traces_waiting, bench.writer.traces_given_up["backlog"]) == (
        2,
        3,
    )


def test_traces_that_wait_when_their_run_is_deleted_are_counted(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(max_traces=5)
    teller = a_source(bench)
    ends = (teller.ended(number=n) for n in range(3))
    bench.arrive(teller, *ends, teller.run_closed(), teller.closed())
    bench.round()
    bench.writer.traces_sent([row.id for row in bench.reader.to_send(1)])
    bench.tick()
    bench.writer.delete("run")
    bench.tick()
    assert "run" not in bench.state.runs
    assert bench.writer.traces_given_up["deleted"] == 2


def test_delivered_traces_leave_room_for_others(bench: Bench) -> None:
    teller = a_source(bench)
    bench.arrive(teller, *(teller.ended(n) for n in range(5)))
    bench.tick()
    bench.writer.traces_sent([row.id for row in bench.reader.to_send(3)])
    bench.writer._next_bound = 0.0
    bench.tick(1)
    assert (bench.writer.traces_waiting, bench.writer.traces_given_up["backlog"]) == (
        2,
        0,
    )


def test_counting_traces_may_cost_a_hundredth_of_the_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, counts = [1000.0], [0]

    def slow(most: int) -> tuple[int, int]:
        counts[0] += 1
        now[0] += 0.5
        return 12_000_000, 0

    monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bench.journal, "bound_traces", slow)
    bench.writer._next_bound = 0.0
    for _ in range(200):
        now[0] += 1
        bench.writer._bound_traces()
    assert counts == [4]


# --- the thread -------------------------------------------------------------------


def test_flushing_waits_until_what_waits_is_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_BATCH", 7)
    release = threading.Event()
    bench.journal.before = lambda: release.wait(5) and None
    bench.writer.start()
    teller = Teller()
    bench.arrive(teller, *(teller.log(str(n)) for n in range(100)))
    assert not bench.writer.flush(timeout=0.05)
    release.set()
    assert bench.writer.flush(timeout=10)
    assert len(bench.acknowledged) == 100


def test_closing_commits_what_is_left(bench: Bench) -> None:
    teller = Teller()
    bench.writer.start()
    bench.arrive(teller, teller.opened(), *(teller.log(str(n)) for n in range(10_000)))
    bench.sampled(teller, 1, 5.0)
    bench.writer.close()
    assert not bench.writer.is_alive()
    assert len(bench.acknowledged) == 10_001
    bench.writer.close()  # again: nothing
    assert not bench.writer.flush(timeout=0.01)


# --- what somebody delivers from disk -----------------------------------------------


def test_totals_from_a_disk_are_acknowledged_after_their_commit(bench: Bench) -> None:
    left = Teller(at=NOON - 5000)
    bench.delivered(
        left, left.opened(), left.schema([counter("hits")], [(0, ())]), number=3,
        totals=[7.0], at=NOON - 5000,
    )  # fmt: skip
    bench.journal.error = sqlite3.OperationalError("disk I/O error")
    bench.tick()
    assert bench.samples_acknowledged == []
    bench.journal.error = None
    bench.delivered(left, *_again(left))
    bench.tick()
    bench.tick()
    assert bench.hits() == 7.0
    assert bench.samples_acknowledged == [(left.id, 3)]
    bench.delivered(left, number=3, totals=[7.0])  # its acknowledgement was lost
    bench.tick()
    assert bench.samples_acknowledged == [(left.id, 3)] * 2


def _again(left: Teller) -> list[wire.AnyRecord]:
    """The same records, as a source that got no acknowledgement sends them."""
    twin = Teller(at=left.at)
    return [twin.opened(), twin.schema([counter("hits")], [(0, ())])]


def test_totals_of_a_source_that_is_not_known_are_not_acknowledged(
    bench: Bench,
) -> None:
    left = Teller()
    bench.delivered(left, number=3, totals=[7.0])
    bench.tick()
    bench.tick(100)
    assert bench.samples_acknowledged == []
    assert bench.writer.dropped["unknown_source"] == 1


def test_an_older_sample_from_a_disk_does_not_replace_a_newer_one(
    bench: Bench,
) -> None:
    live = Teller()
    bench.arrive(live, live.opened(), live.schema([counter("hits")], [(0, ())]))
    bench.round()
    bench.journal.error = sqlite3.OperationalError("disk I/O error")
    bench.sampled(live, 9, 90.0)
    bench.tick()
    bench.delivered(live, number=3, totals=[30.0])
    bench.journal.error = None
    bench.tick()
    assert bench.hits() == 90.0
