"""Ingest: a real ROUTER against raw DEALER sockets, well-behaved and other ones."""

from __future__ import annotations

import math
import socket
import time
from typing import Any, Callable, Iterator, TypeVar

import pytest
import zmq

from experiment_hooks import wire
from exporter import inbox
from exporter import ingest as module
from exporter.inbox import Inbox, Newest
from exporter.ingest import ANSWERED_EACH, Ingest
from tests.making import Teller, sample
from tests.support import eventually

M = TypeVar("M")
DEADLINE = 10.0


class Raw:
    """A DEALER socket that says whatever a test wants said."""

    def __init__(self, context: zmq.Context[Any], address: str, **options: int) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(address)

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    def say(self, message: wire.FromSource, *parts: bytes) -> None:
        self.send(wire.encode(message), *parts)

    def receive(self, deadline: float = DEADLINE) -> Any:
        if not self.socket.poll(int(deadline * 1000)):
            return None
        return wire.decode_from_exporter(self.socket.recv())

    def expect(self, kind: type[M]) -> M:
        """The next message, which is of this kind; pings are for nobody."""
        found = self.receive()
        while isinstance(found, wire.Ping):
            found = self.receive()
        assert isinstance(found, kind), found
        return found

    def hello(self, teller: Teller, **more: Any) -> wire.Welcome:
        self.say(hello(teller, **more))
        return self.expect(wire.Welcome)

    def tell(self, *records: wire.AnyRecord) -> None:
        """Send records in one message."""
        head = wire.Records(tuple(one.seq for one in records), sent=time.time())
        self.say(head, *map(wire.encode, records))

    def close(self) -> None:
        self.socket.close(0)


def hello(teller: Teller, **more: Any) -> wire.Hello:
    said: dict[str, Any] = {"protocol": wire.PROTOCOL, "sent": time.time(), **more}
    return wire.Hello(source=teller.id, run=teller.run, **said)


class Bench:
    """An ingest with an inbox, and as many sockets as a test wants."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.samples: list[tuple[str, bytes, Newest]] = []
        self.placed: dict[bytes, str] = {}
        self.ahead = 0.0
        self.ingest = Ingest(
            "127.0.0.1",
            0,
            inbox=self.inbox,
            place=lambda said: self.placed.get(said.source, said.run),
            on_sample=lambda *told: self.samples.append(told),
            page=lambda run: f"http://here/runs/{run}",
            version="1.2.3",
            clock=lambda: time.time() + self.ahead,
        )
        self._context: zmq.Context[Any] = zmq.Context()
        self._raws: list[Raw] = []
        self.ingest.start()

    def raw(self, **options: int) -> Raw:
        self._raws.append(Raw(self._context, self.ingest.address, **options))
        return self._raws[-1]

    def source(self, number: int = 1, **more: Any) -> tuple[Raw, Teller]:
        """A source that has been welcomed."""
        raw, teller = self.raw(), Teller(number)
        raw.hello(teller, **more)
        return raw, teller

    def arrivals(self, count: int) -> list[Any]:
        found: list[Any] = []

        def enough() -> bool:
            found.extend(self.inbox.take(0.01, 1000))
            return len(found) >= count

        eventually(enough, DEADLINE)
        return found

    def rejected(self, reason: str, count: int = 1) -> None:
        """Wait until so many were rejected for that reason."""
        eventually(
            lambda: self.ingest.counts.rejected[reason] == count,
            DEADLINE,
            f"{count} {reason}: {self.ingest.counts.rejected}",
        )

    def close(self) -> None:
        for raw in self._raws:
            raw.close()
        self._context.term()
        self.ingest.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()
    assert not made.ingest.is_alive()


# --- hello ------------------------------------------------------------------------


def test_a_source_says_hello_and_is_welcomed(bench: Bench) -> None:
    raw, teller = bench.raw(), Teller()
    bench.placed[teller.id] = "run-2"
    before = time.time()
    welcome = raw.hello(teller)
    assert welcome.protocol == wire.PROTOCOL
    assert before <= welcome.time <= time.time()
    assert (welcome.version, welcome.run) == ("1.2.3", "run-2")
    assert welcome.url == "http://here/runs/run-2"
    assert not welcome.watched


def test_one_that_did_not_say_hello_is_asked_who_it_is(bench: Bench) -> None:
    raw, teller = bench.raw(), Teller()
    raw.say(wire.Heartbeat(sent=time.time()))
    raw.expect(wire.Who)
    raw.tell(teller.opened())
    raw.expect(wire.Who)
    raw.say(sample(1))
    raw.expect(wire.Who)
    assert bench.inbox.take(0.01, 10) == []


def test_another_protocol_is_refused_with_a_sentence(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    raw, teller = bench.raw(), Teller()
    raw.say(hello(teller, protocol=99, host="node7"))
    refused = raw.expect(wire.Refused)
    assert refused.reason == "protocol"
    assert (
        "speak protocol 99, this exporter 1.2.3 speaks 1: install" in refused.sentence
    )
    (shown,) = bench.ingest.refusals
    assert (shown.who, shown.sentence) == ("node7", refused.sentence)
    assert f"1 so far of node7): {refused.sentence}" in caplog.text
    raw.tell(teller.opened())
    raw.expect(wire.Who)


def test_a_hello_of_a_later_shape_is_refused_by_its_number(bench: Bench) -> None:
    raw = bench.raw()
    shape = {"kind": "hello", "protocol": 2, "who": ["a", "b"], "host": 7}
    raw.send(wire.encode_plain(shape))
    assert "speak protocol 2" in raw.expect(wire.Refused).sentence
    raw.send(wire.encode_plain({**shape, "protocol": "x" * 5000}))
    assert len(raw.expect(wire.Refused).sentence) < 200


@pytest.mark.parametrize("run", ["", "a/b", "../x", "a b", "ü", "x" * 129, "a\nb"])
def test_a_run_that_has_no_usable_id_is_refused_with_a_sentence(
    bench: Bench, run: str
) -> None:
    raw = bench.raw()
    raw.say(hello(Teller(run=run)))
    refused = raw.expect(wire.Refused)
    assert refused.reason == "run_id"
    assert "cannot be a run's id: use letters" in refused.sentence


def test_a_source_on_a_new_connection_is_answered_there(bench: Bench) -> None:
    first, teller = bench.source()
    second = bench.raw()
    second.hello(teller)
    first.tell(teller.log("x"))
    first.expect(wire.Who)
    second.tell(teller.log("y"))
    (arrival,) = bench.arrivals(1)
    bench.ingest.acknowledge([(arrival.peer, arrival.seq)])
    assert second.expect(wire.Ack).records == ((2, 2),)


def test_a_connection_that_speaks_for_another_source_leaves_the_first(
    bench: Bench,
) -> None:
    """Else nobody would ever find out that the first is gone."""
    raw, first = bench.source(1)
    raw.hello(Teller(2))
    link = bench.ingest.links[first.id]
    assert link.gone_since is not None
    assert bench.ingest.is_gone(first.id)
    assert not bench.ingest.is_gone(Teller(2).id)


# --- records ----------------------------------------------------------------------


def test_records_are_handed_over_and_acknowledged_when_they_are_committed(
    bench: Bench,
) -> None:
    raw, teller = bench.source()
    records = [teller.opened(), teller.started(), teller.ended(), teller.log("x")]
    raw.tell(*records)
    arrivals = bench.arrivals(4)
    assert [one.record for one in arrivals] == records
    assert [one.data for one in arrivals] == list(map(wire.encode, records))
    assert raw.receive(0.05) is None
    done = [(one.peer, one.seq) for one in arrivals]
    bench.ingest.acknowledge([done[0], done[3], done[1]])
    assert raw.expect(wire.Ack).records == ((1, 2), (4, 4))
    assert bench.ingest.counts.records == {
        "source_opened": 1,
        "episode_started": 1,
        "episode_ended": 1,
        "log": 1,
    }


def test_a_source_that_came_back_is_acknowledged_on_its_new_connection(
    bench: Bench,
) -> None:
    first, teller = bench.source()
    first.tell(teller.opened())
    (arrival,) = bench.arrivals(1)
    first.close()
    second = bench.raw()
    second.hello(teller)
    bench.ingest.acknowledge([(arrival.peer, 1)])
    assert second.expect(wire.Ack).records == ((1, 1),)


def test_a_record_of_another_source_is_refused_and_never_asked_for_again(
    bench: Bench,
) -> None:
    raw, teller = bench.source(1)
    foreign = Teller(2).opened()
    raw.tell(foreign)
    bench.rejected("malformed")
    assert raw.expect(wire.Ack).records == ((1, 1),)
    raw.tell(teller.opened())
    assert [one.record.source for one in bench.arrivals(1)] == [teller.id]


def of(kind: Any, **fields: Any) -> Callable[[Teller], wire.AnyRecord]:
    return lambda teller: teller.make(kind, **fields)


END: dict[str, Any] = {
    "number": 0,
    "mode": "m",
    "started": 1.0,
    "duration": 1.0,
    "steps": 1,
    "outcome": "",
}
IMPOSSIBLE: list[tuple[str, Callable[[Teller], wire.AnyRecord]]] = [
    ("no time", of(wire.LogLine, at=math.nan, level="info", message="x")),
    ("no end of time", of(wire.LogLine, at=math.inf, level="info", message="x")),
    ("a negative number", of(wire.EpisodeStarted, number=-1, mode="m")),
    ("too large a number", of(wire.EpisodeEnded, **{**END, "number": 2**63})),
    ("an endless duration", of(wire.EpisodeEnded, **{**END, "duration": math.inf})),
    ("a start that is none", of(wire.EpisodeEnded, **{**END, "started": math.nan})),
    ("before there was time", of(wire.LogLine, at=-1e18, level="info", message="x")),
    ("the far future", of(wire.LogLine, at=1e18, level="info", message="x")),
    ("a mode too long", of(wire.EpisodeStarted, number=1, mode="m" * 300)),
    ("an outcome too long", of(wire.EpisodeEnded, **{**END, "outcome": "o" * 300})),
    ("a result too long", of(wire.EpisodeEnded, **END, results={"r" * 300: 1.0})),
    ("an experiment too long", of(wire.RunOpened, experiment="E" * 400_000)),
    ("a process too long", of(wire.SourceOpened, name="p" * 300)),
    (
        "a label too long",
        of(
            wire.Schema,
            first_metric=0,
            first_series=0,
            series=(wire.SeriesSpec(0, ("v" * 300,)),),
        ),
    ),
    (
        "less than nothing was dropped",
        of(wire.SourceClosed, ending="completed", dropped={"series": -7}),
    ),
    (
        "dropped for no reason",
        of(wire.SourceClosed, ending="completed", dropped={"no reason": 7}),
    ),
    (
        "dropped for any reason",
        of(
            wire.SourceClosed,
            ending="completed",
            dropped={f"reason_{n}": 1 for n in range(100)},
        ),
    ),
    ("half a double", of(wire.SourceClosed, ending="completed", totals=b"1234")),
    (
        "buckets that fall",
        of(wire.RunOpened, episode_steps_buckets=(2.0, 1.0)),
    ),
    (
        "buckets without a number",
        of(wire.RunOpened, episode_duration_buckets=(math.nan,)),
    ),
]


@pytest.mark.parametrize(
    "make", [one[1] for one in IMPOSSIBLE], ids=[one[0] for one in IMPOSSIBLE]
)
def test_a_record_with_values_that_cannot_be_is_refused_for_good(
    bench: Bench, make: Callable[[Teller], wire.AnyRecord]
) -> None:
    raw, teller = bench.source()
    bad, good = make(teller), teller.opened()
    raw.tell(bad, good)
    assert raw.expect(wire.Ack).records == ((1, 1),)
    assert [one.record for one in bench.arrivals(1)] == [good]
    assert bench.ingest.counts.rejected == {"malformed": 1}


def test_a_sequence_number_that_no_disk_can_hold_is_refused(bench: Bench) -> None:
    raw, teller = bench.source()
    teller.seq = 2**63 - 1
    raw.tell(teller.opened())
    assert raw.expect(wire.Ack).records == ((2**63, 2**63),)
    assert bench.inbox.take(0.01, 1) == []


def test_when_too_much_waits_records_are_deferred_and_not_acknowledged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, teller = bench.source()
    monkeypatch.setattr(inbox, "MAX_WAITING_RECORDS", 2)
    raw.tell(*(teller.log("x") for _ in range(3)))
    raw.tell(*(teller.log("y") for _ in range(3)))
    eventually(lambda: bench.ingest.counts.dropped["records_deferred"] == 3)
    assert len(bench.arrivals(3)) == 3
    raw.tell(teller.log("z"))
    bench.arrivals(1)


# --- samples ----------------------------------------------------------------------


def test_of_samples_the_newest_is_kept(bench: Bench) -> None:
    raw, _ = bench.source()
    for number in (1, 3, 2):
        raw.say(sample(number, [float(number)]))
    eventually(lambda: bench.ingest.counts.dropped["replaced"] == 2)
    (found,) = bench.inbox.take_samples().values()
    assert found.sample.number == 3
    assert bench.inbox.take_samples() == {}
    assert bench.samples == []


def test_every_second_sample_is_acknowledged(bench: Bench) -> None:
    raw, _ = bench.source()
    for number in range(1, 8):
        raw.say(sample(number))
    assert [raw.expect(wire.Ack).sample for _ in range(4)] == [1, 3, 5, 7]
    # A source may have CREDIT of them under way: it never waits for the next answer.
    assert ANSWERED_EACH < wire.CREDIT


def test_a_sample_that_stays_the_last_is_acknowledged_a_little_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK", 0.02)
    monkeypatch.setattr(module, "SILENT", 0.05)
    raw, _ = bench.source()
    raw.say(sample(1))
    raw.say(sample(2))
    assert [raw.expect(wire.Ack).sample for _ in range(2)] == [1, 2]
    assert isinstance(raw.receive(), wire.Ping), "there is nothing more to be told"


def test_where_much_comes_it_is_gathered_and_nothing_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK", 0.02)
    monkeypatch.setattr(module, "BUSY", 0)
    raw, teller = bench.source()
    answered = 0
    for number in range(1, 300):
        raw.say(sample(number))
        raw.tell(teller.log("a line"))
        if number % 2:
            answered = raw.expect(wire.Ack).sample
    assert answered == 299
    assert len(bench.arrivals(299)) == 299


def test_a_sample_with_something_to_see_is_shown_at_once(bench: Bench) -> None:
    raw, teller = bench.source()
    moment = wire.Moment(time=1.0, state=b"")
    raw.say(sample(1, moments=(moment,)), b"image bytes")
    raw.expect(wire.Ack)
    ((run, source, newest),) = eventually(lambda: bench.samples)
    assert (run, source, newest.parts) == ("run", teller.id, [b"image bytes"])


def test_heartbeats_are_heard_and_counted(bench: Bench) -> None:
    raw, teller = bench.source()
    bench.ahead = 100.0
    said = 0

    def heard() -> bool:
        nonlocal said
        raw.say(wire.Heartbeat(sent=time.time()))
        said += 1
        return bench.ingest.links[teller.id].heard > time.time() + 90

    eventually(heard)  # the first may be read with those before the clock went ahead
    eventually(lambda: bench.ingest.counts.samples["heartbeat"] == said)


def test_what_a_source_speaks_of_is_known_whatever_it_says(bench: Bench) -> None:
    raw, teller = bench.source()
    raw.say(wire.Heartbeat(sent=time.time(), announced=5))
    eventually(lambda: bench.ingest.links[teller.id].announced == 5)
    head = wire.Records(seqs=(1,), sent=time.time(), announced=7)
    raw.say(head, wire.encode(teller.opened()))
    eventually(lambda: bench.ingest.links[teller.id].announced == 7)
    raw.say(wire.Heartbeat(sent=time.time(), announced=2**63))
    eventually(lambda: bench.ingest.counts.rejected == {"malformed": 1})
    raw.say(wire.Hello(wire.PROTOCOL, teller.id, "run", time.time(), announced=9))
    eventually(lambda: bench.ingest.links[teller.id].announced == 9)


# --- garbage ----------------------------------------------------------------------


def deep(levels: int) -> bytes:
    return b"\x81\xa4kind" * 1 + b"\x91" * levels + b"\xc0"


HEARTBEAT = wire.encode(wire.Heartbeat(sent=1.0))


def odd_sample(**said: Any) -> list[bytes]:
    return [wire.encode(wire.Sample(1, 1.0, **said))]


GARBAGE: list[tuple[str, list[bytes], str]] = [
    ("nothing", [b""], "malformed"),
    ("no msgpack", [b"\xc1\xff\xfe"], "malformed"),
    ("text", [b"GET / HTTP/1.1\r\n\r\n"], "malformed"),
    ("a list", [wire.encode_plain([1, 2, 3])], "malformed"),
    ("no kind", [wire.encode_plain({"sent": 1.0})], "malformed"),
    ("a kind that is no text", [wire.encode_plain({"kind": 5})], "malformed"),
    ("a later kind", [wire.encode_plain({"kind": "telepathy"})], "unknown_kind"),
    ("a kind for the other side", [wire.encode(wire.Who())], "unknown_kind"),
    ("fields missing", [wire.encode_plain({"kind": "sample"})], "malformed"),
    (
        "wrong types",
        [wire.encode_plain({"kind": "heartbeat", "sent": "soon"})],
        "malformed",
    ),
    ("bytes after the end", [HEARTBEAT + b"\x00"], "malformed"),
    ("cut short", [HEARTBEAT[:-3]], "malformed"),
    ("nested deep", [deep(100_000)], "malformed"),
    ("a key that is a map", [b"\x81\x81\xa1a\x01\x01"], "malformed"),
    ("too large a head", [b"\x00" * (wire.MAX_HEAD_BYTES + 1)], "malformed"),
    ("too many parts", [HEARTBEAT] + [b""] * wire.MAX_PARTS, "malformed"),
    (
        "more numbers than records",
        [wire.encode(wire.Records((1, 2), sent=1.0)), b""],
        "malformed",
    ),
    (
        "a record that is none",
        [wire.encode(wire.Records((1,), sent=1.0)), b"nonsense"],
        "malformed",
    ),
    (
        "a record of a later kind",
        [
            wire.encode(wire.Records((1,), sent=1.0)),
            wire.encode_plain({"kind": "dream"}),
        ],
        "unknown_kind",
    ),
    ("half a double", odd_sample(totals=b"123"), "malformed"),
    ("progress of the far future", odd_sample(progress=1e300), "malformed"),
    ("less than nothing dropped", odd_sample(dropped={"series": -7}), "malformed"),
    (
        "dropped for any reason",
        odd_sample(dropped={f"reason_{n}": 1 for n in range(40_000)}),
        "malformed",
    ),
    (
        "a phase too long",
        odd_sample(open=(wire.OpenEpisode(0, "eval", phase="p" * 300),)),
        "malformed",
    ),
    (
        "a moment's mode too long",
        odd_sample(moments=(wire.Moment(1.0, 0, mode="m" * 300),)),
        "malformed",
    ),
    (
        "a moment's target too long",
        odd_sample(moments=(wire.Moment(1.0, 0, target="t" * 300),)),
        "malformed",
    ),
    ("a time of no century", [wire.encode(wire.Heartbeat(sent=1e18))], "malformed"),
    (
        "an episode below zero",
        [wire.encode(wire.Sample(1, 1.0, open=(wire.OpenEpisode(-1, "m"),)))],
        "malformed",
    ),
    ("sent never", [wire.encode(wire.Heartbeat(sent=math.nan))], "malformed"),
    (
        "a source of three bytes",
        [wire.encode(wire.Hello(wire.PROTOCOL, b"abc", "run", 1.0))],
        "malformed",
    ),
]


@pytest.mark.parametrize(
    ("parts", "reason"), [one[1:] for one in GARBAGE], ids=[o[0] for o in GARBAGE]
)
def test_garbage_is_counted_with_its_reason_and_harms_no_neighbour(
    bench: Bench, parts: list[bytes], reason: str
) -> None:
    neighbour, teller = bench.source(2)
    bad, _ = bench.source(1)
    bad.send(*parts)
    bench.rejected(reason)
    neighbour.tell(teller.opened())
    neighbour.say(sample(1, [1.0]))
    assert len(bench.arrivals(1)) == 1
    assert neighbour.expect(wire.Ack).sample == 1
    bench.raw().hello(Teller(3))


def test_garbage_of_strangers_is_counted_too(bench: Bench) -> None:
    raw = bench.raw()
    raw.send(b"\xc1")
    bench.rejected("malformed")
    raw.send(wire.encode_plain({"kind": "hello", "protocol": wire.PROTOCOL}))
    bench.rejected("malformed", 2)
    raw.hello(Teller())


def test_who_only_asks_whether_it_listens_is_not_rejected_for_it(bench: Bench) -> None:
    where = ("127.0.0.1", int(bench.ingest.address.rsplit(":", 1)[1]))
    for _ in range(5):
        with socket.create_connection(where, timeout=5) as probe:
            probe.shutdown(socket.SHUT_WR)
            while probe.recv(1024):  # to the end, so that it knows that we have gone
                pass
    with socket.create_connection(where, timeout=5) as web:
        web.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert web.recv(1)  # and leaves the rest, so that it is reset
    bench.rejected("handshake")
    bench.raw().hello(Teller())
    assert bench.ingest.counts.rejected == {"handshake": 1}


def test_a_message_too_large_to_read_costs_only_its_own_connection(
    bench: Bench,
) -> None:
    neighbour, teller = bench.source(2)
    bad, _ = bench.source(1)
    bad.send(b"x" * (wire.MAX_MESSAGE_BYTES + 1))
    neighbour.tell(teller.opened())
    bench.arrivals(1)


def test_complaints_grow_rarer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    raw, _ = bench.source(host="evil\nhost")
    for _ in range(100):
        raw.send(b"\xc1")
    bench.rejected("malformed", 100)
    told = [text for text in caplog.messages if "rejected" in text]
    assert len(told) == 7
    assert all("\n" not in text for text in told)


# --- watch and command ------------------------------------------------------------


def test_watching_is_told_to_the_sources_of_that_run(bench: Bench) -> None:
    one, _ = bench.source(1)
    other = bench.raw()
    other.hello(Teller(2, "other"))
    bench.ingest.watch(["run"])
    assert one.expect(wire.Watch).on
    late = bench.raw()
    assert late.hello(Teller(3)).watched
    bench.ingest.watch(["other"])
    assert not one.expect(wire.Watch).on
    assert not late.expect(wire.Watch).on
    assert other.expect(wire.Watch).on
    bench.ingest.watch(["other"])
    assert other.receive(0.05) is None


def test_a_command_is_given_to_its_source_and_to_no_other(bench: Bench) -> None:
    one, teller = bench.source(1)
    other, _ = bench.source(2)
    order = wire.Command(id="1", name="stop", when="episode", reason="why", by="me")
    bench.ingest.command("run", [teller.id, b"nobody".ljust(16)], order)
    bench.ingest.command("other", [Teller(2).id], order)
    assert one.expect(wire.Command) == order
    assert other.receive(0.05) is None


def test_a_command_for_a_run_is_given_to_all_of_its_sources(bench: Bench) -> None:
    ours = [bench.source(number)[0] for number in (1, 2)]
    other = bench.raw()
    other.hello(Teller(3, "other"))
    order = wire.Command(id="1", name="stop")
    bench.ingest.command("run", None, order)
    assert [one.expect(wire.Command) for one in ours] == [order, order]
    assert other.receive(0.05) is None


def test_what_stands_is_said_right_after_each_welcome(bench: Bench) -> None:
    asked: list[tuple[str, bytes]] = []

    def standing(run: str, said: wire.Hello) -> wire.Command | None:
        asked.append((run, said.source))
        return wire.Command("1", "stop") if said.source == Teller(1).id else None

    bench.ingest._standing = standing
    one, _ = bench.source(1)
    assert one.expect(wire.Command).id == "1"
    other, _ = bench.source(2)
    assert other.receive(0.05) is None
    one.hello(Teller(1))
    assert one.expect(wire.Command).id == "1"
    assert asked == [("run", number * 16) for number in (b"\1", b"\2", b"\1")]


def test_who_delivers_what_a_source_left_is_told_nothing_that_stands(
    bench: Bench,
) -> None:
    bench.ingest._standing = lambda run, said: wire.Command("1", "stop")
    carrier, _ = bench.source(1, replay=True)
    assert carrier.receive(0.05) is None


def test_an_order_that_cannot_be_said_does_not_end_the_thread(bench: Bench) -> None:
    raw, teller = bench.source()
    impossible = wire.Command(id="1", name="stop", reason="\ud800")
    bench.ingest.command("run", [teller.id], impossible)
    bench.rejected("internal")
    bench.ingest.command("run", [teller.id], wire.Command(id="2", name="stop"))
    assert raw.expect(wire.Command).id == "2"


# --- gone, slow, back -------------------------------------------------------------


def test_a_connection_that_is_gone_is_found_out_by_a_probe(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT", 0.0)
    monkeypatch.setattr(module, "TICK", 0.02)
    raw, teller = bench.source()
    bench.source(2)
    raw.close()
    eventually(lambda: bench.ingest.is_gone(teller.id))
    assert not bench.ingest.is_gone(Teller(2).id)
    again = bench.raw()
    again.hello(teller)
    assert not bench.ingest.is_gone(teller.id)


def test_who_resumes_a_run_finds_out_at_once_that_its_owner_is_gone(
    bench: Bench,
) -> None:
    """No probe is due for seconds, and none is waited for."""
    raw, teller = bench.source()
    raw.close()

    numbers = iter(range(2, 256))

    def placed() -> bool:
        bench.raw().hello(Teller(next(numbers)), resume=True)
        return bench.ingest.is_gone(teller.id)

    eventually(placed, 2.0)


def test_a_clock_that_was_set_back_does_not_stop_the_probes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK", 0.02)
    monkeypatch.setattr(module, "SILENT", 0.05)
    bench.ahead = 3600.0
    raw, teller = bench.source()
    bench.ahead = 0.0
    raw.close()
    eventually(lambda: bench.ingest.is_gone(teller.id))
    gone_since = bench.ingest.links[teller.id].gone_since
    assert gone_since is not None
    assert gone_since <= time.time()


def test_one_that_does_not_read_holds_up_nobody(bench: Bench) -> None:
    slow, stuck = bench.raw(RCVHWM=1, RCVBUF=1024), Teller(1)
    slow.hello(stuck)
    other, _ = bench.source(2)
    order = wire.Command(id="1", name="x", reason="long" * 1000)
    for number in range(1, 100):
        for _ in range(200):
            bench.ingest.command("run", [stuck.id], order)
        newest = 1 + ANSWERED_EACH * number
        other.say(sample(newest))
        assert other.expect(wire.Ack).sample == newest
        if bench.ingest.counts.dropped["slow_source"]:
            break
    assert bench.ingest.counts.dropped["slow_source"]
    assert not bench.ingest.is_gone(stuck.id)
    assert slow.expect(wire.Command) == order


def test_links_are_given_back_when_nobody_asks_for_them_but_not_of_who_is_here(
    bench: Bench,
) -> None:
    _, here = bench.source(1)
    raw, gone = bench.source(2)
    raw.hello(Teller(3))  # the connection speaks for another now
    bench.ingest.forget([here.id, gone.id, b"nobody".ljust(16)])
    eventually(lambda: gone.id not in bench.ingest.links)
    assert here.id in bench.ingest.links


# --- its life ---------------------------------------------------------------------


def test_it_stops_receiving_and_still_acknowledges(bench: Bench) -> None:
    raw, teller = bench.source()
    raw.tell(teller.opened())
    (arrival,) = bench.arrivals(1)
    bench.ingest.stop_receiving()
    bench.ingest.watch(["run"])
    raw.expect(wire.Watch)
    raw.tell(teller.log("too late"))
    bench.ingest.acknowledge([(arrival.peer, 1)])
    assert raw.expect(wire.Ack).records == ((1, 1),)
    assert bench.inbox.take(0.05, 1) == []


def test_what_was_committed_last_is_acknowledged_before_it_closes(
    bench: Bench,
) -> None:
    raw, teller = bench.source()
    raw.tell(teller.opened())
    (arrival,) = bench.arrivals(1)
    bench.ingest.acknowledge([(arrival.peer, 1)])
    bench.ingest.close()
    assert raw.expect(wire.Ack).records == ((1, 1),)
    bench.ingest.close()  # again: nothing
    bench.ingest.watch(["run"])
    bench.ingest.acknowledge([(arrival.peer, 1)])


def test_a_port_that_is_taken_is_an_os_error(bench: Bench) -> None:
    port = int(bench.ingest.address.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        Ingest(
            "127.0.0.1",
            port,
            inbox=Inbox(),
            place=lambda said: said.run,
            on_sample=lambda *told: None,
            page=str,
            version="",
        )


def test_one_that_never_ran_can_be_closed() -> None:
    made = Ingest(
        "::1",
        0,
        inbox=Inbox(),
        place=lambda said: said.run,
        on_sample=lambda *told: None,
        page=str,
        version="",
    )
    assert made.address.startswith("tcp://[::1]:")
    made.close()
    made.close()


# --- what somebody delivers from disk -----------------------------------------------


def test_who_delivers_for_a_source_does_not_stand_for_it(bench: Bench) -> None:
    raw, teller = bench.source()
    link = bench.ingest.links[teller.id]
    carrier = bench.raw()
    carrier.hello(teller, replay=True)
    bench.ingest.command("run", [teller.id], wire.Command("c", "stop"))
    assert raw.expect(wire.Command).id == "c"
    dead = Teller(2)
    carrier = bench.raw()
    carrier.hello(dead, replay=True)
    assert bench.ingest.links == {teller.id: link}, "it is not heard from"


def test_each_is_acknowledged_what_it_has_sent(bench: Bench) -> None:
    raw, teller = bench.source()
    carrier = bench.raw()
    carrier.hello(teller, replay=True)
    old, new = teller.log("old"), teller.log("new")
    carrier.tell(old)
    raw.tell(new)
    found = {one.seq: one for one in bench.arrivals(2)}
    bench.ingest.acknowledge([(found[seq].peer, seq) for seq in (old.seq, new.seq)])
    assert carrier.expect(wire.Ack).records == ((old.seq, old.seq),)
    assert raw.expect(wire.Ack).records == ((new.seq, new.seq),)


def test_totals_from_a_disk_are_acknowledged_when_they_are_committed(
    bench: Bench,
) -> None:
    teller = Teller()
    carrier = bench.raw()
    carrier.hello(teller, replay=True)
    carrier.say(sample(7, [1.0], at=time.time() - 3600))
    newest = eventually(bench.inbox.take_samples)[teller.id]
    assert newest.replay is not None
    assert 3500 < time.time() - newest.received < 3700, "they are of then"
    assert bench.samples == [], "and not shown as the present"
    assert carrier.receive(0.2) is None
    bench.ingest.acknowledge_sample(newest.replay, newest.sample.number)
    assert carrier.expect(wire.Ack).sample == 7
