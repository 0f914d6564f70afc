"""What goes over the socket, in which order, and what never waits for it."""

import contextlib
import json
import logging
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
import zmq

import experiment_hooks as eh
from experiment_hooks import commands, dial, sender, window, wire
from experiment_hooks import line as lines
from experiment_hooks.testing import Heard, Listener
from tests.support import as_name, eventually, free_port

NOBODY = "nobody is listening"


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that does at once what otherwise takes it a second."""
    monkeypatch.setattr(lines, "TICK", 0.02)
    monkeypatch.setattr(lines, "WATCHED_TICK", 0.01)
    monkeypatch.setattr(lines, "HELLO_AGAIN", 0.1)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port on which nobody listens, yet."""
    port = free_port()
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"tcp://127.0.0.1:{port}")
    return port


@pytest.fixture(params=[True, False], ids=["thread", "inline"])
def thread(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def kinds(heard: List[Heard]) -> List[str]:
    return [type(one.message).__name__ for one in heard]


def logs(listener: Listener) -> List[str]:
    return [line.message for line in listener.records(wire.LogLine)]


def greeted(listener: Listener) -> None:
    listener.wait_for(listener.sources, what="a hello")


def answers(listener: Listener) -> List[str]:
    return [one.state for one in listener.records(wire.CommandAnswered)]


def warnings(caplog: pytest.LogCaptureFixture, text: str) -> List[str]:
    return [one.getMessage() for one in caplog.records if text in one.getMessage()]


def keep_calling(
    listener: Listener, call: Callable[[], Any], until: Callable[[], Any]
) -> None:
    """What a run without a thread needs: it sends when a hook is called."""

    def called() -> Any:
        call()
        return until()

    listener.wait_for(called)


# --- hello ---------------------------------------------------------------------------


def test_hello_comes_first_and_says_who_it_is(listener: Listener) -> None:
    with eh.open_run("mug", run_id="mug-1", resume=True) as run:
        pass
    first = listener.heard()[0].message
    assert isinstance(first, wire.Hello)
    assert (first.protocol, first.run, first.experiment) == (1, "mug-1", "mug")
    assert (first.source.hex(), first.version) == (run.token, eh.__version__)
    assert (first.role, first.resume, first.thread) == ("owner", True, True)
    assert abs(first.sent - time.time()) < 60
    assert kinds(listener.heard()).count("Hello") == 1


@pytest.mark.usefixtures("brisk")
def test_nothing_is_sent_before_the_welcome(listener: Listener) -> None:
    listener.fall_silent()
    run = eh.open_run("mug")
    for number in range(100):
        run.publish_log("info", str(number))
    listener.wait_for(lambda: len(listener.heard()) >= 3, what="it asks again")
    assert set(kinds(listener.heard())) == {"Hello"}
    listener.fall_silent(False)
    run.close()
    assert logs(listener) == [str(number) for number in range(100)]


def test_records_arrive_once_and_in_order(listener: Listener, thread: bool) -> None:
    with eh.open_run("mug", thread=thread) as run:
        for number in range(3000):
            run.publish_log("info", str(number))
    (source,) = listener.sources()
    assert logs(listener) == [str(number) for number in range(3000)]
    assert sorted(source.records) == list(range(1, len(source.records) + 1))
    arrived = [record.seq for record in listener.records()]
    assert arrived == sorted(arrived)
    assert listener.duplicates == 0
    assert type(listener.records()[-1]) is wire.SourceClosed


def test_the_sender_says_how_many_records_there_are(listener: Listener) -> None:
    with eh.open_run("mug") as run:
        run.publish_log("info", "x")
    (source,) = listener.sources()
    announced = [one.message.announced for one in listener.heard(wire.Records)]
    assert announced[-1] == max(source.records)


# --- reconnecting --------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_after_who_it_says_hello_again_and_what_was_not_acknowledged(
    listener: Listener, thread: bool
) -> None:
    run = eh.open_run("mug", thread=thread)
    keep_calling(listener, run.progress, lambda: len(listener.records()) >= 2)
    listener.withhold()
    run.publish_log("info", "not acknowledged")
    keep_calling(listener, run.progress, lambda: logs(listener))
    before = len(listener.heard())
    listener.restart()
    listener.release()
    keep_calling(listener, run.progress, lambda: listener.duplicates)
    run.close()
    (source,) = listener.sources()
    assert len(source.hellos) == 2
    after = listener.heard()[before:]
    resent = [one.message for one in after if isinstance(one.message, wire.Records)]
    log_line = listener.records(wire.LogLine)[0].seq
    assert log_line in resent[0].seqs
    assert 1 not in resent[0].seqs, "acknowledged before: not sent again"
    assert logs(listener) == ["not acknowledged"]


@pytest.mark.usefixtures("brisk")
def test_an_exporter_that_is_killed_and_comes_back_loses_nothing(
    nobody: int, thread: bool
) -> None:
    seen: List[str] = []
    run = None
    sent = 0
    for _ in range(3):
        with Listener(nobody) as listener:
            if run is None:
                run = eh.open_run("mug", thread=thread)
            for _ in range(50):
                run.publish_log("info", str(sent))
                sent += 1
            keep_calling(listener, run.progress, lambda: logs(listener))
            listener.withhold()
            run.publish_log("info", str(sent))
            sent += 1
        seen += logs(listener)
    assert run is not None
    with Listener(nobody) as listener:
        run.close()
        seen += logs(listener)
    assert sorted(set(map(int, seen))) == list(range(sent))


@pytest.mark.usefixtures("brisk")
def test_an_exporter_that_starts_later_gets_what_was_before(
    nobody: int, thread: bool
) -> None:
    run = eh.open_run("mug", thread=thread)
    with run.episode() as ep:
        for _ in range(10):
            ep.step()
        run.publish_log("info", "early")
    with Listener(nobody) as listener:
        keep_calling(listener, run.progress, lambda: logs(listener))
        run.close()
    assert [one.steps for one in listener.episodes()] == [10]
    assert listener.total("steps") == 10
    assert min(listener.sources()[0].records) == 1


@pytest.mark.usefixtures("brisk")
def test_what_is_never_acknowledged_is_sent_again_after_a_while(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, thread: bool
) -> None:
    monkeypatch.setattr(lines, "ACK_TIMEOUT", 0.1)
    listener.withhold(samples=False)
    run = eh.open_run("mug", thread=thread)
    keep_calling(listener, run.progress, lambda: listener.duplicates >= 2)
    listener.release()
    run.close()
    assert len(listener.records(wire.RunOpened)) == 1


@pytest.mark.usefixtures("brisk")
def test_one_that_was_dropped_is_sent_again_while_newer_ones_are_acknowledged(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter drops what it has no room for, and takes what comes later."""
    monkeypatch.setattr(lines, "ACK_TIMEOUT", 0.3)
    run = eh.open_run("mug")
    listener.wait_for(lambda: run._line is not None and run._line.idle)
    listener.withhold(samples=False)
    run.publish_log("info", "dropped")
    listener.wait_for(lambda: logs(listener) == ["dropped"])
    listener.forget_debts()
    listener.release()
    newer = 0

    def again() -> int:
        nonlocal newer
        newer += 1
        run.publish_log("info", str(newer))
        return listener.duplicates

    listener.wait_for(again)
    run.close()
    assert set(logs(listener)) == {"dropped", *map(str, range(1, newer + 1))}


# --- windows -------------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_records_on_their_way_are_bounded_in_number(listener: Listener) -> None:
    listener.withhold()
    run = eh.open_run("mug")
    for number in range(5000):
        run.publish_log("info", str(number))
    listener.wait_for(lambda: len(listener.records()) >= window.WINDOW_RECORDS)
    listener.wait_for(lambda: kinds(listener.heard()).count("Heartbeat") > 5)
    assert len(listener.records()) <= window.WINDOW_RECORDS + 500
    listener.release()
    run.close()
    assert logs(listener) == [str(number) for number in range(5000)]


@pytest.mark.usefixtures("brisk")
def test_records_on_their_way_are_bounded_in_bytes(listener: Listener) -> None:
    listener.withhold()
    run = eh.open_run("mug")
    for _ in range(1000):
        run.publish_log("info", "x" * 4000)
    listener.wait_for(lambda: len(listener.records()) > 200)
    listener.wait_for(lambda: kinds(listener.heard()).count("Heartbeat") > 5)
    parts = [part for one in listener.heard(wire.Records) for part in one.parts]
    assert sum(map(len, parts)) < 1.3 * window.WINDOW_BYTES
    listener.release()
    run.close()
    assert len(logs(listener)) == 1000


@pytest.mark.usefixtures("brisk")
def test_at_most_four_samples_are_not_acknowledged(listener: Listener) -> None:
    listener.withhold(records=False)
    run = eh.open_run("mug")
    listener.wait_for(lambda: kinds(listener.heard()).count("Heartbeat") > 10)
    assert kinds(listener.heard()).count("Sample") == wire.CREDIT
    listener.release()
    listener.wait_for(lambda: kinds(listener.heard()).count("Sample") > 2 * wire.CREDIT)
    run.close()


@pytest.mark.usefixtures("brisk")
def test_samples_go_on_after_their_acknowledgements_were_lost(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "ACK_TIMEOUT", 0.2)
    listener.withhold(records=False)
    run = eh.open_run("mug")
    listener.wait_for(lambda: kinds(listener.heard()).count("Sample") == wire.CREDIT)
    listener.restart()  # owes nothing any more, and knows the connection no more
    listener.release()
    listener.wait_for(lambda: kinds(listener.heard()).count("Sample") > 2 * wire.CREDIT)
    run.close()


@pytest.mark.usefixtures("brisk")
def test_lost_acknowledgements_alone_are_cleared_up_by_another_hello(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "ACK_TIMEOUT", 0.2)
    listener.withhold(records=False)
    run = eh.open_run("mug")
    listener.wait_for(lambda: kinds(listener.heard()).count("Sample") > 2 * wire.CREDIT)
    assert kinds(listener.heard()).count("Hello") >= 2
    run.close()


def test_samples_are_numbered_and_their_totals_never_go_back(
    listener: Listener,
) -> None:
    listener.watch()
    with eh.open_run("mug") as run:
        wins = run.counter("wins")

        def enough() -> bool:
            wins.inc()
            return kinds(listener.heard()).count("Sample") >= 5

        listener.wait_for(enough)
    samples: List[Any] = [one.message for one in listener.heard(wire.Sample)]
    assert [one.number for one in samples] == list(range(1, len(samples) + 1))
    totals = [wire.unpack_totals(one.totals)[0] for one in samples]
    assert totals == sorted(totals)
    assert totals[-1] > totals[0]


def test_a_sample_that_is_too_large_goes_without_its_moment(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_HEAD_BYTES", 20_000)
    monkeypatch.setattr(lines, "TICK", 0.02)
    with eh.open_run("mug") as run:
        run.publish_state("x" * 50_000)
        listener.wait_for(lambda: run.dropped.get("too_large"))
        listener.wait_for(listener.sample)
    samples: List[Any] = [one.message for one in listener.heard(wire.Sample)]
    assert all(one.moments == () for one in samples)


def test_how_a_failed_episode_looked_goes_before_its_end(
    listener: Listener, thread: bool
) -> None:
    with eh.open_run("mug", thread=thread) as run:
        keep_calling(listener, run.progress, listener.sample)
        with contextlib.suppress(KeyError), run.episode() as ep:
            for number in range(1, 101):
                ep.step(state={"n": number})
            raise KeyError
    (end,) = listener.episodes()
    assert end.error is not None
    heard: List[Any] = listener.heard()
    steps = [
        [moment.step for moment in getattr(one.message, "moments", ())] for one in heard
    ]
    ends = [wire.encode(end) in one.parts for one in heard]
    assert steps.index([100]) < ends.index(True)


def test_a_loop_that_only_fails_sends_few_samples(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TICK", 60.0)
    monkeypatch.setattr(lines, "WATCHED_TICK", 60.0)
    with eh.open_run("mug") as run:
        for _ in range(200):
            with contextlib.suppress(KeyError), run.episode() as ep:
                ep.step()
                raise KeyError
        listener.wait_for(lambda: len(listener.episodes()) == 200)
    assert len(listener.heard(wire.Sample)) <= 3


# --- watching ------------------------------------------------------------------------


def test_whether_somebody_watches_is_known_from_the_welcome_on() -> None:
    with Listener(watched=True) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        with eh.open_run("mug") as run:
            eventually(lambda: run.watched)
            listener.watch(False)
            eventually(lambda: not run.watched)
            listener.watch(True)
            eventually(lambda: run.watched)


@pytest.mark.usefixtures("brisk")
def test_states_and_images_come_while_somebody_watches(
    listener: Listener, thread: bool
) -> None:
    numpy = pytest.importorskip("numpy")
    picture = numpy.zeros((4, 4), dtype="uint8")
    listener.watch()
    with eh.open_run("mug", thread=thread) as run, run.episode() as ep:

        def shown() -> bool:
            ep.step(state={"n": ep.steps}, images={"view": picture})
            return bool(listener.sources() and listener.sources()[0].parts)

        listener.watch()
        keep_calling(listener, run.progress, lambda: run.watched or listener.watch())
        listener.wait_for(shown)
    (source,) = listener.sources()
    assert picture.tobytes() in [
        part for one in listener.heard(wire.Sample) for part in one.parts
    ]
    assert source.sample is not None


# --- leaving -------------------------------------------------------------------------


def test_leaving_without_an_exporter_takes_a_moment(nobody: int, thread: bool) -> None:
    run = eh.open_run("mug", thread=thread)
    run.publish_log("info", "x")
    start = time.monotonic()
    run.close()
    assert time.monotonic() - start < sender.HOPEFUL_EXIT, "nominally 0.05"


def test_leaving_a_tunnel_without_an_exporter_behind_it_takes_a_moment(
    nobody: int, thread: bool
) -> None:
    """As ssh does: it accepts each connection, and hangs up when nobody is there."""
    done = threading.Event()
    hung_up: List[bool] = []

    def tunnel(server: socket.socket) -> None:
        server.settimeout(0.05)
        while not done.is_set():
            try:
                server.accept()[0].close()
            except OSError:
                continue
            hung_up.append(True)

    with socket.socket() as server:
        server.bind(("127.0.0.1", nobody))
        server.listen()
        tunnelling = threading.Thread(target=tunnel, args=(server,))
        tunnelling.start()
        run = eh.open_run("mug", thread=thread)
        eventually(lambda: run.progress() or len(hung_up) > 1)
        start = time.monotonic()
        run.close()
        took = time.monotonic() - start
        done.set()
        tunnelling.join(10)
    assert took < sender.HOPEFUL_EXIT, "nominally 0.05"


@pytest.mark.usefixtures("brisk")
def test_leaving_after_the_exporter_has_gone_takes_a_bounded_time(
    nobody: int, thread: bool
) -> None:
    with Listener(nobody) as listener:
        run = eh.open_run("mug", thread=thread)
        keep_calling(listener, run.progress, lambda: len(listener.records()) >= 2)
        listener.wait_for(lambda: run.url)
    run.publish_log("info", "x")
    start = time.monotonic()
    run.close()
    took = time.monotonic() - start
    assert 1.0 < took < 6.0, "nominally 1.8: it may come back"


def test_leaving_while_somebody_has_only_accepted_the_connection(
    nobody: int, thread: bool
) -> None:
    """A busy exporter, or a busy machine: its handshake is waited for, but not long."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", nobody))
        server.listen()
        run = eh.open_run("mug", thread=thread)
        start = time.monotonic()
        run.close()
        took = time.monotonic() - start
    assert sender.HOPEFUL_EXIT * 0.9 < took < sender.HOPEFUL_EXIT + 2.0


def test_leaving_with_a_time_of_one_s_own(listener: Listener, thread: bool) -> None:
    run = eh.open_run("mug", thread=thread)
    keep_calling(listener, run.progress, listener.records)
    listener.withhold()
    run.publish_log("info", "x")
    start = time.monotonic()
    run.close(timeout=0.1)
    assert time.monotonic() - start < 1.5


def test_who_asks_to_wait_for_an_exporter_does_wait(nobody: int, thread: bool) -> None:
    run = eh.open_run("mug", thread=thread)
    run.publish_log("info", "x")
    closing = threading.Thread(target=run.close, args=(30.0,))
    closing.start()
    closing.join(0.5)
    assert closing.is_alive()
    with Listener(nobody) as listener:
        closing.join(20)
        assert not closing.is_alive()
    assert logs(listener) == ["x"]


@pytest.mark.parametrize("timeout", ["x", [], float("nan"), -5.0])
def test_an_odd_time_to_wait_is_none(timeout: Any, nobody: int, thread: bool) -> None:
    run = eh.open_run("mug", thread=thread)
    start = time.monotonic()
    run.close(timeout)
    assert time.monotonic() - start < 2.0
    assert eh.current_run() is None
    assert "internal_error" not in run.dropped


def test_an_exporter_that_comes_back_in_time_gets_the_end(nobody: int) -> None:
    with Listener(nobody) as listener:
        run = eh.open_run("mug")
        listener.wait_for(lambda: run.url)
    run.publish_log("info", "x")
    closing = threading.Thread(target=run.close, args=(30.0,))
    closing.start()
    with Listener(nobody) as listener:
        closing.join(20)
        assert not closing.is_alive()
    assert logs(listener) == ["x"]
    assert len(listener.records(wire.SourceClosed)) == 1


def test_the_experiment_s_thread_does_not_wait_for_a_frozen_exporter(
    listener: Listener,
) -> None:
    run = eh.open_run("mug")
    greeted(listener)
    with listener._changed:  # it cannot receive
        start = time.monotonic()
        for number in range(20_000):
            run.publish_log("info", str(number))
        took = time.monotonic() - start
    run.close(timeout=60)  # a slow machine takes longer than a close usually waits
    assert took < 10.0
    assert logs(listener) == [str(number) for number in range(20_000)]


@pytest.mark.usefixtures("brisk")
def test_many_small_messages_to_a_frozen_exporter_are_no_lost_connection(
    listener: Listener,
) -> None:
    run = eh.open_run("mug", thread=False)
    keep_calling(listener, run.progress, listener.records)
    with listener._changed:  # it cannot receive
        for number in range(1000):
            run.publish_log("info", str(number))
    run.close()
    assert logs(listener) == [str(number) for number in range(1000)]
    assert kinds(listener.heard()).count("Hello") == 1
    assert listener.duplicates == 0


def test_without_a_thread_nothing_is_sent_while_a_lock_is_held(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads would wait for the socket."""
    run = eh.open_run("mug", thread=False)
    keep_calling(listener, run.progress, listener.records)
    assert run._line is not None
    held: List[bool] = []
    pump, lock = run._line.pump, run._recorder.lock

    def watched(timeout: float) -> None:
        held.append(lock._is_owned())
        pump(timeout)

    monkeypatch.setattr(run._line, "pump", watched)
    wins = run.counter("wins", labels=["n"])
    for number in range(200):
        with run.episode() as ep, ep.phase("a"):
            ep.step()
        wins.labels(number).inc()
        run.publish_log("info", "x")
    run.close()
    assert len(held) > 200
    assert not any(held)


# --- nobody there --------------------------------------------------------------------


def test_that_nobody_listens_is_said_once(
    nobody: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "PATIENCE", 0.05)
    monkeypatch.setattr(lines, "TICK", 0.02)
    run = eh.open_run("mug")
    eventually(lambda: warnings(caplog, NOBODY))
    run.close()
    (line,) = warnings(caplog, NOBODY)
    assert f"127.0.0.1:{nobody}" in line
    assert "python -m exporter" in line


def test_what_listens_and_does_not_talk_is_not_called_nobody(
    nobody: int, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", nobody))
        server.listen()

        def hang_up() -> None:
            server.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        run = eh.open_run("mug")
        hanging_up.join(10)

        def noticed() -> bool:
            tried = run._line._attempts if run._line else None
            return tried is not None and tried.turned_away

        eventually(noticed)
    run.close()
    assert warnings(caplog, NOBODY) == []
    assert len(warnings(caplog, "does not talk to us")) == 1


def test_a_short_run_says_it_when_it_leaves(
    nobody: int, thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    eh.open_run("mug", thread=thread).close()
    assert len(warnings(caplog, NOBODY)) == 1


def test_it_is_not_said_where_somebody_listens(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    eh.open_run("mug").close()
    assert warnings(caplog, NOBODY) == []


def test_without_an_exporter_a_run_without_a_thread_looks_for_one_now_and_then(
    nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at every step: that would cost each of them system calls."""
    run = eh.open_run("mug", thread=False)
    assert run._line is not None
    pumped: List[float] = []
    pump = run._line.pump
    monkeypatch.setattr(
        run._line, "pump", lambda timeout: (pumped.append(timeout), pump(timeout))
    )
    monkeypatch.setattr(lines, "LOOK_AGAIN", 3600.0)
    with run.episode() as ep:
        for _ in range(10_000):
            ep.step(state=1)
    monkeypatch.setattr(lines, "LOOK_AGAIN", 0.02)
    assert len(pumped) < 20, "once a second, not at each of 10,000 steps"
    run.close()


# --- bounded memory ------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_what_went_for_lack_of_memory_is_announced_when_somebody_listens(
    nobody: int,
) -> None:
    run = eh.open_run("mug")
    run._recorder._outbox._most = 20_000
    for number in range(500):
        with run.episode() as ep:
            ep.step()
        run.publish_log("info", str(number))
    with Listener(nobody) as listener:
        greeted(listener)
        run.close()
    (source,) = listener.sources()
    ranges = [pair for one in listener.records(wire.GivenUp) for pair in one.ranges]
    gone = {n for first, last in ranges for n in range(first, last + 1)}
    assert gone | set(source.records) == set(range(1, max(source.records) + 1))
    assert not gone & set(source.records)
    assert source.closed is not None
    assert len(gone) > 1000
    dropped = run.dropped
    assert dropped["memory_log_lines"] > 450, "log lines went first"
    assert dropped["memory_log_lines"] + dropped["memory_episodes"] == len(gone)
    assert listener.total("steps") == 500, "totals are exact all the same"


# --- refusals ------------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_a_refusal_is_logged_once_with_its_sentence(
    listener: Listener, caplog: pytest.LogCaptureFixture, thread: bool
) -> None:
    listener.refuse("install the same version")
    run = eh.open_run("mug", thread=thread)
    keep_calling(
        listener, run.progress, lambda: warnings(caplog, "install the same version")
    )
    run.publish_log("info", "x")
    start = time.monotonic()
    run.close()
    assert time.monotonic() - start < 1.5, "nothing to wait for"
    (line,) = warnings(caplog, "refuses this run")
    assert "install the same version" in line
    assert listener.records() == []
    assert warnings(caplog, NOBODY) == []


@pytest.mark.usefixtures("brisk")
def test_an_exporter_that_refused_once_may_take_it_later(listener: Listener) -> None:
    listener.refuse()
    run = eh.open_run("mug")
    assert run._line is not None
    eventually(lambda: run._line is not None and run._line.refused)
    listener.accept()
    run._line._hello_at = 0.0  # "at leisure" is 20 seconds
    eventually(lambda: run.url, what="its page")
    run.close()
    assert len(listener.records(wire.SourceClosed)) == 1


def test_an_exporter_of_another_protocol_is_refused_by_the_hooks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Listener(protocol=2) as listener:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", listener.endpoint)
        run = eh.open_run("mug")
        eventually(lambda: warnings(caplog, "protocol 2"))
        run.close()
    (line,) = warnings(caplog, "protocol 2")
    assert "install" in line
    assert set(kinds(listener.heard())) == {"Hello"}


ODD_MESSAGES: Dict[str, bytes] = {
    "unknown_kind": wire.encode_plain({"kind": "of_version_9"}),
    "malformed": b"\xc1 no message",
}


@pytest.mark.parametrize("reason", ODD_MESSAGES)
def test_an_odd_message_is_counted_and_no_more(listener: Listener, reason: str) -> None:
    with eh.open_run("mug") as run:
        greeted(listener)
        listener.send(ODD_MESSAGES[reason])
        eventually(lambda: run.dropped == {reason: 1})
        run.publish_log("info", "x")
    assert logs(listener) == ["x"]


def test_acknowledgements_of_what_was_never_sent_change_nothing(
    listener: Listener,
) -> None:
    with eh.open_run("mug") as run:
        greeted(listener)
        far = wire.Ack(records=((1, 2**62), (5, 1), (7, 7)), sample=2**62)
        listener.send(wire.encode(far))
        run.publish_log("info", "x")
    assert logs(listener) == ["x"]
    assert len(listener.records(wire.SourceClosed)) == 1


@pytest.mark.usefixtures("brisk")
def test_a_sender_that_fails_once_goes_on(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with eh.open_run("mug") as run:
        greeted(listener)
        recorder = run._recorder
        once = iter([OSError("ours")])
        sample = recorder.sample

        def failing(*args: Any) -> Any:
            for error in once:
                raise error
            return sample(*args)

        monkeypatch.setattr(recorder, "sample", failing)
        eventually(lambda: run.dropped.get("internal_error"))
        before = len(listener.heard(wire.Sample))
        listener.wait_for(lambda: len(listener.heard(wire.Sample)) > before)


def test_an_exporter_that_started_again_is_told_the_totals_at_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, thread: bool
) -> None:
    monkeypatch.setattr(lines, "TICK", 60.0)
    with eh.open_run("mug", thread=thread) as run:
        keep_calling(listener, run.progress, lambda: run.url)
        assert listener.heard(wire.Sample) == []
        listener.restart()
        run.publish_log("info", "is anybody there?")  # answered by "who?"
        keep_calling(listener, run.progress, lambda: listener.heard(wire.Sample))
    assert kinds(listener.heard()).count("Hello") == 2


# --- addresses -----------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_the_address_may_lie_in_a_file_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread: bool
) -> None:
    file = tmp_path / "where it is"
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"file://{file}")
    run = eh.open_run("mug", thread=thread)
    run.publish_log("info", "early")
    with Listener() as listener:
        file.write_text("half a fi")
        run.progress()
        file.write_text(json.dumps({"ingest": listener.endpoint, "web": "http://x"}))
        keep_calling(listener, run.progress, lambda: logs(listener))
        run.close()
    assert logs(listener) == ["early"]


def test_leaving_while_the_file_is_not_there_takes_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread: bool
) -> None:
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"file://{tmp_path}/none")
    run = eh.open_run("mug", thread=thread)
    start = time.monotonic()
    run.close()
    assert time.monotonic() - start < 2.0


FILES: Dict[str, str] = {
    "empty": "",
    "no JSON": "{",
    "no mapping": "[1]",
    "without the address": '{"web": "x"}',
    "the address is none": '{"ingest": 5}',
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_without_an_address_is_no_address_yet(what: str, tmp_path: Path) -> None:
    file = tmp_path / "a b"
    file.write_text(FILES[what])
    assert dial.resolve(f"file://{tmp_path}/a%20b") is None
    file.write_text('{"ingest": "tcp://x:1"}')
    assert dial.resolve(f"file://{tmp_path}/a%20b") == dial.Place("tcp://x:1")
    assert dial.resolve(f"file://{tmp_path}/none") is None
    assert dial.resolve("tcp://y:2") == dial.Place("tcp://y:2")


@pytest.mark.parametrize("address", ["tcp://a b:1", "tcp://\u00e9:1", "tcp://x:\ud800"])
def test_an_address_that_is_none_is_told_once(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    thread: bool,
) -> None:
    file = tmp_path / "address"
    file.write_text(json.dumps({"ingest": address}))
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"file://{file}")
    monkeypatch.setattr(lines, "TICK", 0.02)
    run = eh.open_run("mug", thread=thread)

    def told() -> bool:
        run.progress()
        return run.dropped.get("endpoint", 0) > 2

    eventually(told)
    run.close()
    assert len(warnings(caplog, "cannot connect")) == 1


def test_the_address_may_be_of_version_6(monkeypatch: pytest.MonkeyPatch) -> None:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.IPV6, 1)
    router.setsockopt(zmq.LINGER, 0)
    try:
        port = router.bind_to_random_port("tcp://[::1]")
    except zmq.ZMQError:
        pytest.skip("no IPv6 here")
    else:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", f"tcp://[::1]:{port}")
        run = eh.open_run("mug")
        assert router.poll(10_000), "hello"
        run.close(timeout=0.0)
    finally:
        router.close()
        context.term()


# --- commands ------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["step", "episode", "now"])
def test_a_stop_arrives_where_it_was_asked_for(
    when: str, listener: Listener, thread: bool
) -> None:
    run = eh.open_run("mug", stoppable=True, thread=thread)

    def work() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with run.episode() as ep:
                for _ in range(20):
                    ep.step()
                ep.finish("correct")
            if listener.sources() and not listener._commands:
                listener.command("stop", when, "late", "ann")
            time.sleep(0.001)

    with pytest.raises(eh.RunStopped) as caught, run:
        work()
    assert (caught.value.reason, caught.value.by) == ("late", "ann")
    (closed,) = listener.records(wire.RunClosed)
    assert (closed.ending, closed.reason) == ("stopped", "user")
    if when == "episode":
        assert {one.outcome for one in listener.episodes()} == {"correct"}
    assert answers(listener) == ["delivered", "accepted", "done"]


def test_a_run_that_is_not_stoppable_goes_on(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "EARLY", 0.0)
    with eh.open_run("mug") as run:
        greeted(listener)
        given = listener.command("stop", "now")
        listener.wait_for(lambda: answers(listener))
        with run.episode() as ep:
            ep.step()
            run.publish_log("info", "x")
    (answer,) = listener.records(wire.CommandAnswered)
    assert (answer.command, answer.state) == (given, "failed")
    assert "does not take" in answer.detail


@pytest.fixture
def caught_logs() -> Iterator[None]:
    """What a failing callback logs is wanted, but not in the report."""
    log = logging.getLogger("experiment_hooks")
    before = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(before)


def test_a_callback_gets_its_command(listener: Listener, thread: bool) -> None:
    got: List[Any] = []
    with eh.open_run("mug", thread=thread) as run:
        run.on_command("checkpoint", got.append)
        keep_calling(listener, run.progress, listener.sources)
        listener.command("checkpoint", "now", "please", "ann")
        keep_calling(listener, run.progress, lambda: len(answers(listener)) == 3)
    (command,) = got
    assert (command.name, command.reason, command.by) == ("checkpoint", "please", "ann")
    assert answers(listener) == ["delivered", "accepted", "done"]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="POSIX alone has it")
def test_what_a_callback_starts_takes_signals_as_any_process(
    listener: Listener, thread: bool
) -> None:
    """The sender's thread takes none, and what a thread starts inherits that."""
    blocked: List[Any] = []

    def look(command: Any) -> None:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    with eh.open_run("mug", thread=thread) as run:
        run.on_command("submit", look)
        keep_calling(listener, run.progress, listener.sources)
        for times in (1, 2):
            listener.command("submit")
            keep_calling(
                listener, run.progress, lambda n=3 * times: len(answers(listener)) == n
            )
    assert blocked == [signal.pthread_sigmask(signal.SIG_BLOCK, ())] * 2


ERRORS = [ValueError("no disk"), SystemExit(3), eh.RunStopped()]


@pytest.mark.usefixtures("caught_logs")
@pytest.mark.parametrize("error", ERRORS, ids=as_name)
def test_a_callback_that_raises_is_answered_and_the_run_goes_on(
    error: Any, listener: Listener, thread: bool
) -> None:
    def fail(command: Any) -> None:
        raise error

    with eh.open_run("mug", thread=thread) as run:
        run.on_command("checkpoint", fail)
        keep_calling(listener, run.progress, listener.sources)
        listener.command("checkpoint")
        keep_calling(listener, run.progress, lambda: len(answers(listener)) == 3)
        run.publish_log("info", "still here")
    assert answers(listener) == ["delivered", "accepted", "failed"]
    assert type(error).__name__ in listener.records(wire.CommandAnswered)[2].detail
    assert logs(listener) == ["still here"]


def test_a_callback_of_stop_makes_the_run_stoppable_and_comes_first(
    listener: Listener,
) -> None:
    saved: List[str] = []
    run = eh.open_run("mug")
    run.on_command("stop", lambda command: saved.append(command.reason))
    greeted(listener)
    listener.command("stop", "now", "late")

    def work() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            run.publish_metric("loss", 1)

    with pytest.raises(eh.RunStopped), run:
        work()
    assert saved == ["late"]


def test_a_callback_may_close_the_run(listener: Listener, thread: bool) -> None:
    run = eh.open_run("mug", thread=thread)
    run.publish_log("info", "before")
    took: List[float] = []

    def close(command: Any) -> None:
        start = time.monotonic()
        run.close()
        took.append(time.monotonic() - start)

    run.on_command("stop", close)
    keep_calling(listener, run.progress, listener.sources)
    listener.command("stop")
    keep_calling(listener, run.progress, lambda: took)
    listener.wait_for(lambda: listener.records(wire.SourceClosed))
    assert took[0] < 1.5, "it does not wait for itself"
    run.progress()
    assert logs(listener) == ["before"]


# --- many threads --------------------------------------------------------------------


def test_records_of_many_threads_all_arrive(listener: Listener, thread: bool) -> None:
    def tell(run: eh.Run, number: int) -> None:
        for turn in range(200):
            run.publish_log("info", f"{number} {turn}")
            with run.episode() as ep:
                ep.step()

    with eh.open_run("mug", thread=thread) as run:
        threads = [threading.Thread(target=tell, args=(run, n)) for n in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
            assert not one.is_alive()
    assert len(logs(listener)) == len(set(logs(listener))) == 800
    assert len(listener.episodes()) == listener.total("steps") == 800
    (source,) = listener.sources()
    assert sorted(source.records) == list(range(1, len(source.records) + 1))


def test_many_runs_after_each_other_leave_nothing_behind(listener: Listener) -> None:
    import os

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    eh.open_run("mug").close()
    files, threads = open_files(), threading.active_count()
    for _ in range(20):
        eh.open_run("mug").close()
        eh.open_run("mug", thread=False).close()
    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: open_files() <= files + 2)
