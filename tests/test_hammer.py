"""All hooks at once, from several threads, with values that others change meanwhile.

Nothing may crash, raise or be counted wrongly. For a few seconds; in CI for a minute,
on the oldest and the newest Python; and by hand as long as you like:
``EPISIGHT_HAMMER_SECONDS=60 python -m pytest tests/test_hammer.py``.
"""

import array
import collections
import datetime  # noqa: ICN001
import decimal
import enum
import fractions
import itertools
import logging
import math
import os
import pathlib
import random
import sys
import threading
import types
import uuid
from typing import Any, Callable, Dict, Iterator, List

import pytest

import experiment_hooks as eh
from experiment_hooks import wire
from experiment_hooks.testing import Listener

# Read once, here: no test sees our variables (conftest.py).
SECONDS = float(os.environ.get("EPISIGHT_HAMMER_SECONDS") or 3.0)
pytestmark = pytest.mark.timeout(SECONDS * 3 + 90)


class Color(enum.Enum):
    RED = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


class Liar(dict):  # type: ignore[type-arg]
    """A dict whose every method of its own raises."""

    def items(self) -> Any:
        raise RuntimeError("no items")

    keys = values = __iter__ = __getitem__ = items
    __len__ = __repr__ = items


class Raising:
    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)

    def __repr__(self) -> str:
        raise ValueError("no text")

    __str__ = __repr__
    __float__ = __int__ = __len__ = __bool__ = __hash__ = __repr__  # type: ignore[assignment]


class Endless:
    """Always has one more attribute, and one more element."""

    def __getattr__(self, name: str) -> Any:
        return Endless()

    def __iter__(self) -> Iterator[int]:
        return itertools.count()

    def __getitem__(self, key: Any) -> Any:
        return self


class Device:
    """Looks like a tensor on a device; reading it would wait."""

    shape = (3, 4)
    dtype = "float32"
    device = "cuda:0"

    def tolist(self) -> Any:
        raise AssertionError("a tensor was read")

    item = numpy = cpu = __array__ = __iter__ = __float__ = tolist


def circle() -> Any:
    one: List[Any] = [1]
    one.append({"again": one})
    return one


def deep(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = {"down": value}
    return value


def arrays() -> List[Any]:
    try:
        import numpy as np
    except ImportError:
        return []
    with np.errstate(all="ignore"):
        return [
            np.float32(1.5),
            np.int64(-3),
            np.bool_(True),
            np.float16(math.nan),
            np.arange(10),
            np.zeros((3, 3), dtype="complex64"),
            np.random.default_rng(0).random((200, 300)),
            np.full(70, math.inf),
            np.array(["a", "b"]),
            np.array([object()], dtype=object),
            np.zeros(0),
            np.zeros((2, 0, 3)),
            np.array(5),
            np.datetime64("2020-01-01"),
            np.ma.masked_array([1, 2], [True, False]),
            np.zeros(4, dtype=[("x", "i4"), ("y", "f8")]),
        ]


def odd_values() -> List[Any]:
    """One of each kind that a user may give, new ones at each call."""
    return [
        None, True, 0, -1, 2**63, 2**64, -(2**70), 10**5000, 0.0, -0.0, 1e308,
        math.nan, math.inf, -math.inf, 1j, "", "x" * 100_000, "\ud800", "\x00",
        b"", b"\xff" * 1000, bytearray(b"abc"), memoryview(b"abc"), [], [1] * 2000,
        {}, {1: 2, None: 3, (1, 2): 4, "a": {}}, {"k" * 1000: "v"}, (), Point(1, 2),
        set(), {3, 1, 2}, {"b", "a", 1}, frozenset({1}), range(10**9), Color.RED,
        Flags.A | Flags.B, object(), type, Color, len, print, lambda: 1,
        collections.deque([1, 2]), collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]), collections.Counter("abca"),
        collections.ChainMap({"a": 1}, {"b": 2}), types.SimpleNamespace(a=1),
        types.MappingProxyType({"a": 1}), datetime.date(2020, 1, 1),
        datetime.timedelta(seconds=1.5), decimal.Decimal("NaN"),
        fractions.Fraction(1, 3), uuid.UUID(int=5), pathlib.Path("/a/b"),
        array.array("d", [1.5]), ValueError("x"), (n for n in range(3)),
        itertools.count(), iter([1]), Liar(a=1), Raising(), Endless(), Device(),
        circle(), deep(10), deep(60), threading.Lock(), sys, *arrays(),
    ]  # fmt: skip


class Shared:
    """Values that a thread changes all the time, while others give them away."""

    def __init__(self) -> None:
        self.state: Dict[Any, Any] = {"n": 0, "list": [], "inner": {}, "set": set()}
        self.scores: Dict[Any, Any] = {"a": 1.0}
        self.deque: Any = collections.deque(range(50))
        self.bytes = bytearray(b"abc")
        self.handler = eh.LogHandler()
        self.images: Dict[str, Any] = {}
        for number, value in enumerate(arrays()):
            self.images[f"i{number}"] = value

    def change(self, done: threading.Event) -> None:
        odd = odd_values()
        turn = random.Random(1)
        while not done.is_set():
            for _ in range(200):
                number = turn.randrange(100)
                self.state["n"] = number
                self.state[number] = turn.choice(odd)
                self.state["list"].append(number)
                self.state["inner"][str(number)] = self.state["list"]
                self.state["set"].add(number)
                self.scores[str(number)] = turn.choice([1.0, 2, "x", math.nan, None])
                self.deque.append(number)
                self.bytes.extend(b"x")
                if number < 30:
                    self.state.pop(number, None)
                    self.state["inner"].clear()
                    self.state["set"].discard(turn.randrange(100))
                    self.scores.pop(str(turn.randrange(100)), None)
                    del self.state["list"][10:]
                    del self.bytes[100:]
                    self.deque.popleft()
            # Not sleep(0): before Python 3.11 that takes the lock of the interpreter
            # back at once, and the others starve for seconds.
            done.wait(0.001)


class Counts:
    """How often each thing was done, by the thread that did it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.of: Dict[str, int] = collections.defaultdict(int)

    def add(self, counted: Dict[str, int]) -> None:
        with self._lock:
            for what, number in counted.items():
                self.of[what] += number


Work = Callable[[eh.Run, Shared, int, Dict[str, int]], None]


def step_episodes(run: eh.Run, shared: Shared, turn: int, did: Dict[str, int]) -> None:
    odd = odd_values()
    chosen = odd[turn % len(odd)]
    with run.episode(mode=["train", "eval"][turn % 2], target=chosen, seed=turn) as ep:
        for step in range(50):
            given = (shared.state, chosen, shared.deque, shared.bytes)[step % 4]
            ep.step(
                state=given if step % 5 else (lambda: shared.state),
                scores=shared.scores if step % 3 else chosen,
                images=shared.images if step % 7 else chosen,
            )
        with ep.phase("match" if turn % 3 else chosen):
            ep.event("x", value=chosen)
            ep.step()
        ep.finish(
            outcome=["correct", chosen][turn % 2], results=shared.scores, value=chosen
        )
    did["steps"] += 51
    did["episodes"] += 1


def hold_episodes(run: eh.Run, shared: Shared, turn: int, did: Dict[str, int]) -> None:
    opened = [run.episode(mode="held", index=n) for n in range(20)]
    for _ in range(3):
        for ep in opened:
            ep.step(shared.state)
    for ep in opened:
        ep.close()
    did["steps"] += 60
    did["episodes"] += 20


def count(run: eh.Run, shared: Shared, turn: int, did: Dict[str, int]) -> None:
    odd = odd_values()
    wins = run.counter("wins", labels=["side"])
    plain = run.counter("plain")
    for number in range(100):
        wins.labels(side=number % 5).inc()
        plain.inc(2)
        run.histogram("seconds").observe(number)
        run.gauge("rate", merge="sum").set(number)
    did["wins"] += 100
    did["plain"] += 200
    did["seconds"] += 100
    chosen = odd[turn % len(odd)]
    run.gauge("odd").set(chosen)
    run.gauge("odd").inc(chosen)
    run.counter("odder", labels=["a"]).labels(chosen).inc()
    run.counter("odder", labels=["a"]).labels(a=chosen, b=1).inc()
    run.histogram("oddest", buckets=[1]).observe(chosen)


def publish(run: eh.Run, shared: Shared, turn: int, did: Dict[str, int]) -> None:
    odd = odd_values()
    chosen = odd[turn % len(odd)]
    run.publish_metric("loss", turn, epoch=1, step=turn, phase=["a", "b"][turn % 2])
    run.publish_metric("odd", chosen, tag=chosen)
    run.publish_metric(chosen, chosen)
    run.publish_data("sensor", shared.state)
    run.publish_data(chosen, chosen)
    run.publish_state(shared.state if turn % 2 else chosen)
    run.publish_log("info", "hammer", value=chosen, state=shared.scores)
    run.publish_log(chosen, chosen, value=shared.state)
    run.progress()
    run.drop("value", "x")
    did["logs"] += 1


def log(run: eh.Run, shared: Shared, turn: int, did: Dict[str, int]) -> None:
    logger = logging.Logger("hammer")  # noqa: LOG001 (nobody else listens to it)
    logger.addHandler(shared.handler)
    for number in range(20):
        logger.info("%d of %s", number, turn)


WORK: List[Work] = [
    step_episodes,
    step_episodes,
    hold_episodes,
    count,
    count,
    publish,
    log,
]


def worker(
    work: Work,
    run: eh.Run,
    shared: Shared,
    done: threading.Event,
    counts: Counts,
    errors: List[BaseException],
) -> None:
    did: Dict[str, int] = collections.defaultdict(int)
    try:
        for turn in itertools.count():
            if done.is_set():
                break
            work(run, shared, turn, did)
    except BaseException as error:
        errors.append(error)
        done.set()
        raise
    finally:
        counts.add(did)


def meddle(listener: Listener, done: threading.Event) -> None:
    """What an exporter and its users may do meanwhile."""
    turn = random.Random(2)
    while not done.wait(0.05):
        chosen = turn.randrange(6)
        if chosen == 0:
            listener.restart()
        elif chosen == 1:
            listener.withhold()
        elif chosen == 2:
            listener.release()
        elif chosen == 3:
            listener.command("unknown", "now")
        else:
            listener.watch(turn.random() < 0.8)
    listener.release()


class Failures(logging.Handler):
    """Keeps what the hooks say of failures of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if any(word in said for word in ("internal_error", "too_large", "unencodable")):
            self.found.append(said)


@pytest.fixture
def failures() -> Iterator[List[str]]:
    """All else that they complain of is wanted, and would be megabytes."""
    logger, handler = logging.getLogger("experiment_hooks"), Failures()
    logger.addHandler(handler)
    logger.propagate = False
    yield handler.found
    logger.propagate = True
    logger.removeHandler(handler)


def test_nothing_is_raised_and_nothing_is_lost_whatever_comes(
    listener: Listener, failures: List[str]
) -> None:
    listener.watch()
    shared, done, counts = Shared(), threading.Event(), Counts()
    errors: List[BaseException] = []
    run = eh.open_run("hammer")
    run._recorder._outbox._most = 1 << 30  # here all of it has to arrive
    threads = [
        threading.Thread(target=worker, args=(work, run, shared, done, counts, errors))
        for work in WORK
    ]
    threads.append(threading.Thread(target=shared.change, args=(done,)))
    threads.append(threading.Thread(target=meddle, args=(listener, done)))
    for thread in threads:
        thread.start()
    done.wait(SECONDS)
    done.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), f"{thread} hangs"
    listener.release()
    run.close(timeout=60.0)
    assert errors == []
    assert failures == []
    check(run, listener, counts.of)


def check(run: eh.Run, listener: Listener, did: Dict[str, int]) -> None:
    (source,) = listener.sources()
    assert source.closed is not None, "the end has arrived"
    assert sorted(source.records) == list(range(1, max(source.records) + 1))
    gone = listener.records(wire.GivenUp)
    assert gone == []
    assert listener.complaints == []
    assert listener.total("steps") == did["steps"] > 0
    durations = listener.series("step_duration_seconds")
    assert sum(one.total for one in durations) == did["steps"]
    assert len(listener.episodes()) == did["episodes"] > 0
    assert sum(one.steps for one in listener.episodes()) == did["steps"]
    assert listener.total("wins") == did["wins"] > 0
    assert listener.total("plain") == did["plain"]
    assert listener.total("seconds") == did["seconds"]
    lines = [one for one in listener.records(wire.LogLine) if one.message == "hammer"]
    assert len(lines) == did["logs"] > 0
    samples = [one.message for one in listener.heard(wire.Sample)]
    assert any(one.moments for one in samples)  # type: ignore[union-attr]
    print(f"{SECONDS} s: {dict(did)}, {len(samples)} samples, dropped {run.dropped}")
