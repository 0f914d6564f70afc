"""The listener that ships with the hooks, for users' own tests."""

import threading
from typing import Any

import pytest
import zmq

import experiment_hooks as eh
from experiment_hooks import wire
from experiment_hooks.testing import Listener


def train(episodes: int) -> None:
    """Stands for somebody's code."""
    with eh.open_run("mug") as run:
        for _ in range(episodes):
            with run.episode() as ep:
                for _ in range(100):
                    ep.step()
                ep.finish("correct")
        run.counter("wins", labels=["side"]).labels(side="left").inc(3)
        run.gauge("rate").set(0.5)
        run.histogram("seconds").observe(1.0)


def test_training_tells_how_its_episodes_ended(monkeypatch: Any) -> None:
    """The example of the module's own text."""
    with Listener() as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        train(episodes=2)  # opens a run and closes it
    assert [episode.outcome for episode in listener.episodes()] == ["correct"] * 2
    assert listener.total("steps", mode="train") == 200


def test_what_it_heard_may_be_asked_for_in_several_ways(listener: Listener) -> None:
    train(1)
    (source,) = listener.sources()
    assert listener.records(wire.RunOpened) == listener.records("run_opened")
    assert listener.records()[0] == source.records[1]
    assert [one.message for one in listener.heard("hello")] == source.hellos
    assert source.closed is listener.records(wire.SourceClosed)[0]
    assert listener.episodes("eval") == []
    assert len(listener.episodes("train")) == 1
    (wins,) = listener.series("wins", side="left")
    assert (wins.labels, wins.values, wins.total) == ({"side": "left"}, (3.0,), 3.0)
    assert listener.series("wins", side="right") == []
    assert (listener.total("rate"), listener.total("seconds")) == (0.5, 1.0)
    assert listener.total("none") == 0
    assert listener.complaints == []


def test_of_several_sources_each_has_its_own_sample(listener: Listener) -> None:
    assert listener.sample() is None
    with eh.open_run("one"), eh.open_run("two"):
        listener.wait_for(
            lambda: [one.sample is not None for one in listener.sources()] == [True] * 2
        )
    with pytest.raises(LookupError, match="2 sources"):
        listener.sample()


def test_waiting_in_vain_says_what_was_heard(listener: Listener) -> None:
    train(1)
    with pytest.raises(AssertionError, match=r"a miracle: not within 0.05 s.*hello"):
        listener.wait_for(lambda: False, deadline=0.05, what="a miracle")


def test_waiting_returns_what_was_waited_for(listener: Listener) -> None:
    assert listener.wait_for(lambda: [5]) == [5]


def test_it_complains_as_an_exporter_would(listener: Listener) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(listener.endpoint)
    hello = wire.Hello(protocol=1, source=b"s" * 16, run="r", sent=1.0)
    other = wire.LogLine("r", b"x" * 16, 1, 1.0, "info", "m")
    for parts in (
        [b"\xc1"],
        [wire.encode(wire.Heartbeat(sent=1.0))],
        [wire.encode(hello)],
        [wire.encode(wire.Records(seqs=(1,), sent=1.0)), wire.encode(other)],
        [wire.encode(wire.Records(seqs=(2, 3), sent=1.0)), b"\xc1"],
    ):
        dealer.send_multipart(parts)
    kinds = [wire.decode_from_exporter(dealer.recv()) for _ in range(4)]
    dealer.close()
    context.term()
    assert [type(one).__name__ for one in kinds] == ["Who", "Welcome", "Ack", "Ack"]
    assert [one.partition(":")[0] for one in listener.complaints] == [
        "malformed",
        "a record of another source or number",
        "not as many records as sequence numbers",
        "malformed",
    ]
    listener.complaints.clear()  # the fixture looks at them


def test_it_may_be_closed_twice_and_another_take_its_place() -> None:
    with Listener() as first:
        first.close()
    assert not [one for one in threading.enumerate() if one.name == "episight-listener"]
    with Listener(first.port) as second:
        assert second.endpoint == first.endpoint
        with pytest.raises(zmq.ZMQError):
            Listener(first.port)
