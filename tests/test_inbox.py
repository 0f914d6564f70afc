"""The inbox: what waits for the writer is bounded; whose clock is how far off."""

from __future__ import annotations

import pytest

from experiment_hooks import wire
from exporter import inbox as module
from exporter.inbox import Arrival, Inbox, Peer
from exporter.verdict import Link
from tests.making import NOON, Teller


def peer(sent: float, now: float) -> Peer:
    said = wire.Hello(wire.PROTOCOL, Teller().id, "run", sent)
    return Peer(b"", said, "run", Link(now), now - sent, window_ends=now + 60)


# --- what waits -------------------------------------------------------------------


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def arrive(inbox: Inbox, *records: wire.AnyRecord) -> None:
    for one in records:
        data = wire.encode(one)
        inbox.put(Arrival(peer(NOON, NOON), one.seq, data, one, NOON))


def test_an_inbox_is_full_by_number_or_by_bytes(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = Teller()
    monkeypatch.setattr(module, "MAX_WAITING_RECORDS", 3)
    arrive(inbox, *(teller.log("x") for _ in range(3)))
    assert not inbox.full
    arrive(inbox, teller.log("x"))
    assert inbox.full
    assert len(inbox.take(0.01, 100)) == 4
    assert not inbox.full
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1000)
    arrive(inbox, teller.log("x" * 1000))
    assert inbox.full
    inbox.take(0.01, 1)
    assert not inbox.full


# --- the clocks of sources --------------------------------------------------------


def test_small_differences_of_clocks_are_no_skew() -> None:
    assert peer(sent=100.0, now=101.5).skew == 0.0
    assert peer(sent=1000.0, now=500.0).skew == -500.0


def test_the_least_delay_tells_the_skew() -> None:
    found = peer(sent=0.0, now=110.0)
    found.heard(now=115.0, sent=15.0, announced=7)
    assert found.skew == 100.0
    found.heard(now=130.0, sent=20.0, announced=3)
    assert found.skew == 100.0


def test_a_clock_that_was_set_right_is_believed_after_a_while() -> None:
    found = peer(sent=1000.0, now=0.0)
    for now in range(1, 300):
        found.heard(now=float(now), sent=float(now), announced=0)
    assert found.skew == 0.0
