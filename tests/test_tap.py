"""The tap: real listeners of a real exporter hear what is committed; harm nobody."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import simple_websocket
import zmq
from zmq.auth import load_certificate

from experiment_hooks import cli, wire
from exporter import feed
from exporter import tap as taps
from exporter.inbox import Newest
from exporter.journal import Batch, Entry
from exporter.keys import Keyring
from exporter.state import State
from exporter.tap import Tap
from exporter.verdict import Rules
from tests.making import NOON, Teller, sample
from tests.support import Exporter, Pythons, eventually, free_port
from tests.test_docs import rows, section, words


class Listener:
    """A SUB socket; ``heard`` has all messages so far, with their topics."""

    def __init__(self, context: Any, address: str, *topics: str, **options: Any):
        self.socket = context.socket(zmq.SUB)
        for name, value in options.items():
            setattr(self.socket, name, value)
        for topic in topics or ("run/",):
            self.socket.subscribe(topic)
        self.socket.connect(address)
        self._heard: list[tuple[str, dict[str, Any]]] = []

    @property
    def heard(self) -> list[tuple[str, dict[str, Any]]]:
        while self.socket.poll(0):
            topic, text = self.socket.recv_multipart()
            self._heard.append((topic.decode(), json.loads(text)))
        return self._heard

    def kinds(self, run: str = "") -> list[str]:
        return [said["kind"] for _, said in self.heard if run in ("", said["run"])]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [said for _, said in self.heard if said["kind"] == kind]


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """``listen(address, "run/a/")``."""
    with zmq.Context() as context, ExitStack() as stack:

        def make(address: str, *topics: str, **options: Any) -> Listener:
            found = Listener(context, address, *topics, **options)
            stack.callback(found.socket.close, 0)
            return found

        yield make


EXPERIMENT = """
    import math, sys, time
    import numpy as np
    import experiment_hooks as eh

    with eh.open_run("demo", run_id=sys.argv[1], config={"lr": 0.1}) as run:
        run.publish_log("info", "hello", where="here")
        image = {"i": np.zeros((4, 6, 3), np.uint8)}
        with run.episode(mode="eval", seed=3) as ep:
            end = time.monotonic() + float(sys.argv[2])
            while True:
                ep.step(state={"n": math.nan}, scores={"mug": math.inf}, images=image)
                run.publish_data("sensor", [1, 2])
                if time.monotonic() >= end:
                    break
                time.sleep(0.05)
            ep.finish("correct", results={"return": 1.0})
"""


def connected(listener: Listener, exporter: Exporter, run_python: Pythons) -> None:
    """Wait until a listener that hears all hears something."""

    def hears() -> bool:
        run_python(EXPERIMENT, "probe", "0", env=exporter.env)
        return bool(listener.heard)

    eventually(hears)


# --- what is said ---------------------------------------------------------------------


def test_a_listener_hears_a_run_from_its_beginning_to_its_end(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    listen: Callable[..., Listener],
) -> None:
    exporter = exporter_process("tap.port=0")
    one = listen(exporter.tap)
    other = listen(exporter.tap, "run/mine/episode_", "run/nobody/")
    connected(one, exporter, run_python)
    run_python.start(EXPERIMENT, "mine", "3", env=exporter.env)
    eventually(lambda: exporter.run("mine")["sources"]["live"])
    with closing(simple_websocket.Client(f"ws{exporter.web[4:]}/runs/mine/live")):
        eventually(lambda: any(said["streams"] for said in one.of("state")))
    eventually(
        lambda: (
            {"run_closed", "source_closed", "state"} <= {*one.kinds("mine")}
            and [v["state"] for v in one.of("verdict") if v["run"] == "mine"][-1:]
            == ["completed"]
        )
    )
    for topic, said in one.heard:
        assert topic == f"run/{said['run']}/{said['kind']}"
    (ended,) = [said for said in one.of("episode_ended") if said["run"] == "mine"]
    (row,) = exporter.episodes("mine")
    assert ended == {
        **{name: row[name] for name in row if name not in ("late", "last_seen")},
        **{name: ended[name] for name in ("kind", "run", "time")},
    }
    assert ended["scores"] == {"mug": None}
    states = [said for said in one.of("state") if said["run"] == "mine"]
    for said in states:
        assert (said["state"], said["scores"]) == ({"n": None}, {"mug": None})
        assert (said["episode"], said["trace_id"]) == (0, row["trace_id"])
    steps = [said["step"] for said in states]
    assert steps == sorted({*steps})
    assert {"sensor": [1, 2]} in [said["streams"] for said in states]
    drawn = {"name": "i", "shape": [4, 6, 3], "dtype": "|u1", "stride": 1}
    assert [drawn] in [said["images"] for said in states]
    (log,) = [said for said in one.of("log") if said["run"] == "mine"]
    assert (log["message"], log["fields"]) == ("hello", {"where": "here"})
    (opened,) = [said for said in one.of("run_opened") if said["run"] == "mine"]
    assert (opened["experiment"], opened["config"]) == ("demo", {"lr": 0.1})
    before, last = [said for said in one.of("verdict") if said["run"] == "mine"][-2:]
    assert (last["before"], last["state"]) == (before["state"], "completed")
    assert other.kinds() == ["episode_started", "episode_ended"]
    assert [said for _, said in other.heard][1] == ended
    assert exporter.value("episight_tap_messages_total") == len(one.heard)
    assert exporter.value("episight_tap_dropped_total") == 0


def test_what_is_documented_of_each_kind_is_said(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    listen: Callable[..., Listener],
) -> None:
    exporter = exporter_process("tap.port=0")
    one = listen(exporter.tap)
    connected(one, exporter, run_python)
    code = EXPERIMENT.replace("run_id=", "stoppable=True, run_id=")
    child = run_python.start(code, "mine", "30", env=exporter.env)
    eventually(lambda: "state" in one.kinds("mine"))
    exporter.post("/api/v1/runs/mine/commands", {"command": "stop"})
    eventually(lambda: "command_answered" in one.kinds("mine"))
    child.signal(signal.SIGINT)
    kinds = {}
    for row in rows(section("docs/tap.md", "What is said").prose):
        for kind in words(row[0]):
            kinds[kind] = {one for one in words(row[2]) if re.fullmatch(r"\w+", one)}
    eventually(lambda: {*kinds} == {*one.kinds()})
    # Words of these rows that are values, of others, or left out.
    for kind, others in {
        "source_opened": {"source_list"},
        "episode_ended": {"late", "last_seen"},
        "state": {"null", "name", "shape", "dtype", "stride"},
        "verdict": {"null"},
    }.items():
        kinds[kind] -= others
    for kind, names in kinds.items():
        said = one.of(kind)[-1]
        assert {"kind", "run", "source", "time", *names} <= {*said}, kind


def test_an_episode_that_is_lost_is_said_to_be(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    listen: Callable[..., Listener],
) -> None:
    exporter = exporter_process(
        "tap.port=0", "verdict.lost_seconds=0", "traces.lost_after=0"
    )
    one = listen(exporter.tap)
    connected(one, exporter, run_python)
    child = run_python.start(EXPERIMENT, "mine", "60", env=exporter.env)
    eventually(lambda: "episode_started" in one.kinds("mine"))
    child.kill()
    eventually(lambda: "episode_ended" in one.kinds("mine"), 20)
    assert one.of("episode_ended")[-1]["outcome"] == "lost"
    eventually(lambda: one.of("verdict")[-1]["state"] == "lost")


def test_a_listener_stays_connected_over_a_restart_of_the_exporter(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    listen: Callable[..., Listener],
) -> None:
    exporter = exporter_process(f"tap.port={free_port()}")
    one = listen(exporter.tap)
    connected(one, exporter, run_python)
    exporter.kill()
    exporter.start()
    before = len(one.heard)

    def hears() -> bool:
        run_python(EXPERIMENT, "after", "0", env=exporter.env)
        return "run_closed" in [said["kind"] for _, said in one.heard[before:]]

    eventually(hears)
    # What is in the journal was said before.
    assert {said["run"] for _, said in one.heard[before:]} == {"after"}


def test_the_last_commit_of_an_exporter_that_stops_is_said(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    listen: Callable[..., Listener],
) -> None:
    exporter = exporter_process("tap.port=0")
    one = listen(exporter.tap)
    stuck = listen(exporter.tap, rcvhwm=1)
    connected(one, exporter, run_python)
    run_python(EXPERIMENT, "last", "0", env=exporter.env)
    assert exporter.terminate(deadline=10) == 0
    eventually(lambda: "run_closed" in one.kinds("last"))
    assert stuck.socket.poll(0)


# --- in one process, with what is hard to bring about from outside --------------------


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def tap(state: State) -> Iterator[Tap]:
    found = Tap("127.0.0.1", 0, state=state, rules=Rules(), clock=lambda: NOON)
    found.start()
    with closing(found):
        yield found


def logs(state: State, number: int, text: str = "hello") -> Batch:
    """So many log lines of a run, committed and folded."""
    batch = Batch()
    teller = Teller()
    for count in range(number):
        record = teller.log(f"{text} {count}")
        state.apply(record, "run", NOON)
        batch.entries.append(Entry("run", NOON, wire.encode(record), record))
    return batch


def test_while_nobody_listens_nothing_is_kept(
    tap: Tap, state: State, listen: Callable[..., Listener]
) -> None:
    batch = logs(state, 10)
    tap.committed(batch)
    assert not tap._waiting
    one, other = listen(tap.address), listen(tap.address)
    eventually(lambda: tap._wanted)
    tap.committed(batch)
    eventually(lambda: one.kinds() == ["log"] * 10)
    one.socket.close(0)
    # The other one is still there.
    tap.committed(batch)
    eventually(lambda: other.kinds() == ["log"] * 20)
    other.socket.close(0)
    eventually(lambda: not tap._wanted)
    tap.committed(batch)
    tap.sample("run", b"s" * 16, Newest(sample(1), [], NOON, NOON))
    assert not tap._waiting
    assert tap.messages == 20


def test_who_does_not_read_loses_messages_and_costs_nobody_else_any(
    tap: Tap, state: State, listen: Callable[..., Listener]
) -> None:
    stuck = listen(tap.address, "run/run/log", rcvhwm=1, rcvbuf=4096)
    one = listen(tap.address, "run/run/lo", rcvhwm=0)
    eventually(lambda: len(tap._wanted) == 2)
    batch = logs(state, 500, "x" * 4000)
    for count in range(1, 41):
        tap.committed(batch)
        eventually(lambda count=count: len(one.heard) == 500 * count)  # type: ignore[misc]
    assert tap.messages == 20_000
    assert tap.dropped == 0
    number = 0
    while stuck.socket.poll(500):
        stuck.socket.recv_multipart()
        number += 1
    assert 0 < number < 10_000


def test_what_is_too_much_for_the_tap_is_dropped_and_counted(
    tap: Tap,
    state: State,
    listen: Callable[..., Listener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taps, "MAX_WAITING", 100)
    monkeypatch.setattr(taps, "MAX_WAITING_BYTES", 100_000)
    one = listen(tap.address, "run/run/log")
    eventually(lambda: tap._wanted)
    batch, large = logs(state, 60), logs(state, 20, "x" * 10_000)
    with state.lock:  # it cannot go on
        tap.committed(logs(state, 1))
        eventually(lambda: not tap._waiting)
        for _ in range(3):
            tap.committed(batch)
        tap.committed(large)
        assert tap.dropped == 60 + 60 + 20
    eventually(lambda: len(one.heard) == 61)
    assert tap.messages == 61
    assert tap._number == tap._bytes == 0


def test_of_samples_that_wait_all_that_may_be_large_is_counted() -> None:
    scores = {f"LM_0/object_{number:03}": number / 7 for number in range(500)}
    moment = wire.Moment(NOON, 1, state=b"x" * 3000, scores=scores)
    streams = {"camera": b"x" * 2000}
    shown = sample(1, [1.0] * 100, moments=(moment,), streams=streams)
    seen = feed.Seen.of("run", b"", Newest(shown, [], NOON, NOON))
    held = sum(sys.getsizeof(one) for pair in scores.items() for one in pair)
    assert seen.size == pytest.approx(3000 + 2000 + 800 + held, rel=0.25)


def test_who_leaves_is_noticed_while_there_is_ever_more_to_say(
    tap: Tap,
    state: State,
    listen: Callable[..., Listener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = listen(tap.address)
    eventually(lambda: tap._wanted)
    batch = logs(state, 100)
    item = ((batch.entries, False), 0, 0)
    monkeypatch.setattr(tap, "_take", lambda: item[0])
    tap._waiting.append(item)
    for _ in range(1000):  # not all that there is: it may never end
        assert one.socket.poll(10_000)
        one.socket.recv_multipart()
    one.socket.close(0)
    eventually(lambda: not tap._wanted)


def test_what_cannot_be_said_costs_only_itself(
    tap: Tap, state: State, listen: Callable[..., Listener]
) -> None:
    one = listen(tap.address, "run/run/state")
    eventually(lambda: tap._wanted)
    odd = {"n": 1}
    for _ in range(3000):
        odd = {"n": odd}  # type: ignore[dict-item]
    states = [b"\xc1", b"\x81" * 5000, wire.encode_plain({"fine": {2: float("inf")}})]
    for number, data in enumerate(states):
        moment = wire.Moment(NOON, step=number, state=data)
        made = sample(number, moments=(moment,), streams={"s": b"\xc1"})
        tap.sample("run", b"s" * 16, Newest(made, [b"image"], NOON, NOON))
    eventually(lambda: len(one.heard) == 3)
    said = [one["state"] for _, one in one.heard]
    assert said[0].startswith("... unreadable: ")
    assert said[1].startswith("... unreadable: ")
    assert said[2] == {"fine": {"2": None}}


# --- who may listen -------------------------------------------------------------------


def test_with_keys_only_they_open(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    listen: Callable[..., Listener],
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    assert cli.main(["keys", str(keys), "ann", "eve"]) == 0
    (keys / "allowed" / "eve.key").unlink()
    exporter = exporter_process("tap.port=0", f"security.curve_dir={keys}")
    server = Keyring(keys).public

    def options(name: str) -> dict[str, Any]:
        public, secret = load_certificate(keys / "clients" / f"{name}.key_secret")
        return {
            "curve_publickey": public,
            "curve_secretkey": secret,
            "curve_serverkey": server,
        }

    nobody, eve = listen(exporter.tap), listen(exporter.tap, **options("eve"))
    # As the page says it.
    shutil.copy(keys / "clients" / "ann.key_secret", run_python.directory)
    code = section("docs/tap.md", "From other machines").code("python")
    assert code.count('b"..."') == 1
    code = code.replace('b"..."', repr(server))
    ann = run_python.start(
        f"{code}\ntap.subscribe('run/')\ntap.connect({exporter.tap!r})\n"
        "print(tap.recv_multipart(), flush=True)\n"
    )
    env = {
        **exporter.env,
        "EPISIGHT_SERVER_KEY": server.decode(),
        "EPISIGHT_KEY_FILE": str(keys / "clients" / "ann.key_secret"),
    }

    def hears() -> bool:
        run_python(EXPERIMENT, "probe", "0", env=env)
        return "run/probe/" in ann.output

    eventually(hears)
    assert nobody.heard == []
    assert eve.heard == []


def test_a_port_that_is_taken_is_said_in_one_line(
    exporter_process: Callable[..., Exporter],
) -> None:
    first = exporter_process("tap.port=0")
    port = first.tap.rsplit(":", 1)[1]
    second = exporter_process(f"tap.port={port}", wait=False)
    assert second.launch().wait() == 2
    assert f"port {port} cannot be used" in second.output
    assert "tap.port=" in second.output


def test_without_a_port_there_is_none(
    exporter_process: Callable[..., Exporter],
) -> None:
    exporter = exporter_process()
    assert "tap" not in json.loads(exporter.address_file.read_text())
    assert exporter.samples("episight_tap_messages_total") == []
