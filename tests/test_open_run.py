"""``open_run``: what it refuses, whom it joins, and what a run promises its user."""

import asyncio
import gc
import inspect
import logging
import math
import os
import sys
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

import experiment_hooks as eh
from experiment_hooks import run as run_module
from experiment_hooks import sender, wire
from experiment_hooks.disabled import NoRun
from experiment_hooks.metrics import NO_SERIES
from experiment_hooks.no_episode import NO_EPISODE
from experiment_hooks.testing import Listener
from tests.support import Pythons, as_name

OWNER = "ab" * 16


def variables() -> Tuple[Optional[str], Optional[str]]:
    return os.environ.get("EPISIGHT_RUN_ID"), os.environ.get("EPISIGHT_OWNER")


def only(listener: Listener, kind: Any) -> Any:
    (found,) = listener.records(kind)
    return found


# --- what the code says wrongly ------------------------------------------------------

WRONG: List[Tuple[str, Dict[str, Any], str]] = [
    ("no name", {"name": ""}, "name"),
    ("a blank name", {"name": "  "}, "name"),
    ("a name that is none", {"name": 5}, "name"),
    ("a long name", {"name": "x" * 201}, "name"),
    ("two lines of name", {"name": "a\nb"}, "name"),
    ("half a character", {"name": "a\ud800"}, "name"),
    ("a run id with a blank", {"run_id": "a b"}, "letters, digits"),
    ("a run id with a slash", {"run_id": "a/b"}, "letters, digits"),
    ("an empty run id", {"run_id": ""}, "letters, digits"),
    ("a long run id", {"run_id": "x" * 129}, "letters, digits"),
    ("a run id with a line's end", {"run_id": "a\n"}, "letters, digits"),
    ("a run id that is a number", {"run_id": 5}, "letters, digits"),
    ("success is one word", {"success": "correct"}, '{"correct"}'),
    ("success is a number", {"success": 5}, "a set"),
    ("promise is 0", {"promise": 0}, "seconds above 0"),
    ("promise is negative", {"promise": -1.0}, "seconds above 0"),
    ("promise is no number", {"promise": math.nan}, "seconds above 0"),
    ("promise is infinite", {"promise": math.inf}, "seconds above 0"),
    ("promise is a word", {"promise": "soon"}, "seconds above 0"),
    ("promise is a list", {"promise": [30]}, "seconds above 0"),
    ("tags are a list", {"tags": ["a"]}, "tags: give a mapping"),
    ("facts are a word", {"facts": "a"}, "facts: give a mapping"),
    ("info is a number", {"info": 5}, "info: give a mapping"),
    ("episodes are a number", {"expected_episodes": 100}, '{"train": 100}'),
    ("steps are negative", {"expected_steps": {"train": -1}}, "expected_steps"),
    ("steps are infinite", {"expected_steps": {"train": math.inf}}, "expected_steps"),
    ("steps are no number", {"expected_steps": {"train": math.nan}}, "expected_steps"),
    ("steps are too many", {"expected_steps": {"train": 2**64}}, "expected_steps"),
    ("epochs are a word", {"expected_epochs": {"train": "a"}}, "expected_epochs"),
    ("buckets are a list", {"buckets": [1, 2]}, "mapping"),
    ("buckets of nothing", {"buckets": {"steps": [1, 2]}}, "step_duration"),
    ("buckets fall", {"buckets": {"step_duration": [2, 1]}}, "increase"),
    ("buckets are words", {"buckets": {"step_duration": ["a"]}}, "step_duration"),
    ("too many buckets", {"buckets": {"step_duration": range(500)}}, "too many"),
]


@pytest.mark.parametrize(
    ("given", "says"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG]
)
def test_a_wrong_argument_raises_and_says_what_to_change(
    given: Dict[str, Any], says: str
) -> None:
    with pytest.raises(eh.UsageError) as caught:
        eh.open_run(**{"name": "mug", **given})
    assert says in str(caught.value)
    assert isinstance(caught.value, (eh.EpisightError, ValueError))
    assert eh.current_run() is None
    assert variables() == (None, None)


GOOD: List[Dict[str, Any]] = [
    {"name": "L\u00e4ufer \u2192 \u6771\u4eac \U0001f600"},
    {"run_id": "a.b_c:d@e+f=g-9"},
    {"promise": 30},
    {"promise": True},
    {"success": ("correct", 5)},
    {"success": {"correct"}},
    {"success": iter(["correct"])},
    {"success": ()},
    {"tags": {}, "facts": None, "info": {1: 2}},
    {"expected_episodes": {"train": 100.0, 5: 3}},
    {"buckets": {"step_duration": [1, 2], "episode_steps": (5,)}},
    {"buckets": {}},
    {"config": object(), "resume": 1, "stoppable": "yes", "thread": 1},
]


@pytest.mark.parametrize("given", GOOD, ids=as_name)
def test_a_good_argument_is_taken(given: Dict[str, Any], listener: Listener) -> None:
    eh.open_run(**{"name": "mug", **given}).close()
    assert len(listener.records(wire.RunOpened)) == 1


def test_numbers_of_numpy_are_numbers(listener: Listener) -> None:
    numpy = pytest.importorskip("numpy")
    with eh.open_run(
        "mug",
        promise=numpy.float32(30),
        expected_steps={"train": numpy.int64(5)},
        buckets={"episode_steps": numpy.array([1, 2])},
    ) as run, run.episode(epoch=numpy.int8(3), seed=numpy.uint64(7)):
        pass
    opened = only(listener, wire.RunOpened)
    assert (opened.promise, opened.expected_steps) == (30.0, {"train": 5})
    assert opened.episode_steps_buckets == (1.0, 2.0)
    started = only(listener, wire.EpisodeStarted)
    assert (started.epoch, started.seed) == (3, 7)


# --- what the run says of itself -----------------------------------------------------


def test_what_was_said_at_its_opening_arrives(listener: Listener) -> None:
    with eh.open_run(
        "mug",
        run_id="mug-1",
        resume=True,
        config={"lr": 0.5, "password": "s3cret"},
        tags={"team": "a", "api_key": "s3cret"},
        facts={"gpus": 2},
        info={"lr": 0.5},
        expected_episodes={"train": 100},
        expected_epochs={"train": 3},
        success=["correct", "correct"],
        promise=30.0,
        buckets={"episode_duration": [1, 2]},
    ) as run:
        assert (run.id, run.name) == ("mug-1", "mug")
        listener.wait_for(lambda: run.url, what="its page")
    opened = only(listener, wire.RunOpened)
    assert opened.run == "mug-1"
    assert (opened.experiment, opened.resume) == ("mug", True)
    assert opened.config["lr"] == 0.5
    assert opened.tags["team"] == "a"
    assert (opened.facts, opened.info) == ({"gpus": 2}, {"lr": 0.5})
    assert opened.expected_episodes == {"train": 100}
    assert opened.success == ("correct",)
    assert opened.promise == 30.0
    assert opened.episode_duration_buckets == (1.0, 2.0)
    assert opened.episode_steps_buckets == wire.EPISODE_STEPS_BUCKETS
    assert opened.launch["pid"] == os.getpid()
    assert b"s3cret" not in wire.encode(opened)
    source = only(listener, wire.SourceOpened)
    assert (source.pid, source.role, source.thread) == (os.getpid(), "owner", True)
    assert (source.python, source.version) == (
        ".".join(map(str, sys.version_info[:3])),
        eh.__version__,
    )


def threads() -> List[str]:
    return [one.name for one in threading.enumerate() if one.name == "episight-sender"]


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_without_its_thread_a_run_has_none_and_says_so(
    how: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some native simulators do not tolerate another thread."""
    if how == "environment":
        monkeypatch.setenv("EPISIGHT_THREAD", "0")
    with eh.open_run("mug", thread=False if how == "argument" else None):
        assert threads() == []
    assert only(listener, wire.SourceOpened).thread is False
    hello: Any = listener.heard(wire.Hello)[0].message
    assert hello.thread is False
    with eh.open_run("mug", thread=True):
        assert threads() == ["episight-sender"]
    assert threads() == []


def test_private_runs_do_not_say_how_they_were_launched(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_PRIVATE", "1")
    eh.open_run("mug").close()
    assert only(listener, wire.RunOpened).launch == {}
    source = only(listener, wire.SourceOpened)
    assert (source.host, source.pid) == ("", 0)
    hello: Any = listener.heard(wire.Hello)[0].message
    assert (hello.host, hello.pid) == ("", 0)


def test_a_configuration_that_is_too_large_does_not_cost_the_run_its_name(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {f"key {n}": "\U0001f600" * 200 for n in range(10_000)}
    monkeypatch.setattr(sys, "argv", ["x" * 1024] * 256)
    run = eh.open_run("mug", config=wide, tags=wide, facts=wide, promise=5.0)
    run.close()
    opened = only(listener, wire.RunOpened)
    assert (opened.experiment, opened.promise) == ("mug", 5.0)


def test_a_made_id_is_readable_and_unlike_any_other(listener: Listener) -> None:
    ids = []
    for _ in range(3):
        run = eh.open_run("My experiment!")
        ids.append(run.id)
        run.close()
    assert len(set(ids)) == 3
    assert all(one.lower().startswith("my-experiment") for one in ids)


def test_the_run_s_page_is_logged_once(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "experiment_hooks")
    with eh.open_run("mug") as run:
        listener.wait_for(lambda: run.url)
        listener.restart()
        listener.wait_for(lambda: len(listener.heard(wire.Hello)) > 1)
    assert [line for line in caplog.messages if "/runs/" in line] == [
        f"episight: {run.url}"
    ]


# --- whom it joins -------------------------------------------------------------------

JOINS: List[Tuple[str, Dict[str, str], Optional[str], Tuple[str, str, str]]] = [
    ("nothing is set", {}, "mine", ("mine", "owner", "")),
    ("both are set", {"RUN_ID": "r", "OWNER": OWNER}, None, ("r", "child", OWNER)),
    (
        "the same id is asked for",
        {"RUN_ID": "r", "OWNER": OWNER},
        "r",
        ("r", "child", OWNER),
    ),
    (
        "another id is asked for",
        {"RUN_ID": "r", "OWNER": OWNER},
        "mine",
        ("mine", "owner", ""),
    ),
    ("the id alone is set", {"RUN_ID": "r"}, None, ("r", "shared", "")),
    ("the owner is no id", {"RUN_ID": "r", "OWNER": "x"}, None, ("r", "shared", "")),
    (
        "the owner is too short",
        {"RUN_ID": "r", "OWNER": "abcd"},
        None,
        ("r", "shared", ""),
    ),
    ("the owner alone is set", {"OWNER": OWNER}, "mine", ("mine", "owner", "")),
    ("the id is none", {"RUN_ID": "a b", "OWNER": OWNER}, "m", ("m", "owner", "")),
]


@pytest.mark.parametrize(
    ("environ", "asked", "expected"),
    [one[1:] for one in JOINS],
    ids=[one[0] for one in JOINS],
)
def test_a_run_is_joined_by_the_environment(
    environ: Dict[str, str],
    asked: Optional[str],
    expected: Tuple[str, str, str],
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"EPISIGHT_{name}", value)
    before = variables()
    with eh.open_run("mug", run_id=asked):
        pass
    opened = only(listener, wire.SourceOpened)
    assert (opened.run, opened.role, opened.owner.hex()) == expected
    hello = listener.heard(wire.Hello)[0].message
    assert (hello.run, hello.role, hello.owner.hex()) == expected  # type: ignore[union-attr]
    owned = expected[1] == "owner"
    assert len(listener.records(wire.RunClosed)) == owned, (
        "the owner's end is the run's"
    )
    assert variables() == before


def test_an_id_that_is_none_is_told(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("EPISIGHT_RUN_ID", "a b")
    eh.open_run("mug").close()
    assert "'a b' is no run id" in caplog.text


def test_the_variables_are_set_while_the_run_is_open(listener: Listener) -> None:
    assert variables() == (None, None)
    with eh.open_run("mug") as run:
        assert variables() == (run.id, run.token)
        assert bytes.fromhex(run.token) == listener_source(listener, run)
    assert variables() == (None, None)


def test_records_are_gathered_and_a_close_does_not_wait_for_that(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "GATHERED", 300.0)
    with eh.open_run("mug") as run:
        listener.wait_for(lambda: listener.records("run_opened"))
        before = len(listener.heard(wire.Records))
        for _ in range(20):
            with run.episode():
                pass
    assert len(listener.episodes()) == 20
    assert len(listener.heard(wire.Records)) - before <= 2


def listener_source(listener: Listener, run: eh.Run) -> bytes:
    found = listener.wait_for(
        lambda: [one.id for one in listener.sources() if one.hellos[0].run == run.id]
    )
    return found[0]


def test_what_was_set_before_is_restored(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_RUN_ID", "outer")
    with eh.open_run("mug", run_id="mine"):
        assert variables()[0] == "mine"
    assert variables() == ("outer", None)


def test_a_child_leaves_the_variables_as_they_are(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its own children are the owner's, too."""
    monkeypatch.setenv("EPISIGHT_RUN_ID", "r")
    monkeypatch.setenv("EPISIGHT_OWNER", OWNER)
    with eh.open_run("mug"):
        assert variables() == ("r", OWNER)
    assert variables() == ("r", OWNER)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_several_runs_may_be_open_and_close_in_any_order(
    order: Tuple[int, ...], listener: Listener
) -> None:
    runs = [eh.open_run(f"mug{n}") for n in range(3)]
    assert eh.current_run() is runs[2]
    assert {run._introduction.identity.role for run in runs} == {"owner"}
    for number, run in enumerate(runs):
        run.counter("wins").inc(number + 1)
    left = list(runs)
    for number in order:
        runs[number].close()
        left.remove(runs[number])
        newest = left[-1] if left else None
        assert eh.current_run() is newest
        expected = (newest.id, newest.token) if newest else (None, None)
        assert variables() == expected
    assert len(listener.sources()) == 3
    closed = [record.run for record in listener.records(wire.RunClosed)]
    assert closed == [runs[n].id for n in order]
    totals = {one.source: one.total for one in listener.series("wins")}
    assert sorted(totals.values()) == [1.0, 2.0, 3.0]


# --- notebooks -----------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


@pytest.mark.usefixtures("notebook")
def test_a_cell_run_again_ends_the_run_that_it_opened_before(
    listener: Listener,
) -> None:
    first = eh.open_run("mug")
    second = eh.open_run("mug")
    assert first.closed
    assert eh.current_run() is second
    closed = only(listener, wire.RunClosed)
    assert (closed.run, closed.ending, closed.reason) == (first.id, "stopped", "user")
    second.close()
    assert variables() == (None, None)


@pytest.mark.usefixtures("notebook")
def test_a_cell_does_not_end_other_runs_and_none_of_a_with_block(
    listener: Listener,
) -> None:
    other = eh.open_run("bowl")
    with eh.open_run("mug") as entered:
        again = eh.open_run("mug")
        assert not other.closed
        assert not entered.closed
        again.close()
    other.close()


def test_outside_a_notebook_a_run_of_the_same_name_is_another(
    listener: Listener,
) -> None:
    first, second = eh.open_run("mug"), eh.open_run("mug")
    assert not first.closed
    second.close()
    first.close()


# --- how it ends ---------------------------------------------------------------------

ENDINGS: List[Tuple[Any, str, str]] = [
    (None, "completed", ""),
    (ValueError("no mug"), "failed", "ValueError"),
    (KeyboardInterrupt(), "stopped", ""),
    (eh.RunStopped("late", "ann"), "stopped", ""),
    (SystemExit(), "completed", ""),
    (SystemExit(0), "completed", ""),
    (SystemExit(3), "failed", "SystemExit"),
    (SystemExit("sorry"), "failed", "SystemExit"),
    (GeneratorExit(), "completed", ""),
    (asyncio.CancelledError(), "failed", "CancelledError"),
]


@pytest.mark.parametrize(
    ("error", "ending", "kind"), ENDINGS, ids=[as_name(one[0]) for one in ENDINGS]
)
def test_a_block_s_end_is_the_run_s(
    error: Any, ending: str, kind: str, listener: Listener
) -> None:
    run = eh.open_run("mug")
    if error is None:
        with run:
            pass
    else:
        with pytest.raises(type(error)) as caught, run:
            raise error
        assert caught.value is error
    assert run.closed
    closed, source = only(listener, wire.RunClosed), only(listener, wire.SourceClosed)
    assert (closed.ending, source.ending) == (ending, ending)
    assert closed.reason == ("user" if ending == "stopped" else "")
    assert (closed.error.type.rpartition(".")[2] if closed.error else "") == kind
    assert closed.error == source.error


def test_closing_says_completed_and_only_once(listener: Listener) -> None:
    with eh.open_run("mug") as run:
        run.close()
        run.close()
        assert run.closed
        assert eh.current_run() is None
    run.end("failed")
    assert only(listener, wire.RunClosed).ending == "completed"


def test_open_episodes_end_before_the_run_does(listener: Listener) -> None:
    run = eh.open_run("mug")
    run.episode().finish("correct")
    with pytest.raises(ValueError, match="no mug"), run, run.episode():
        raise ValueError("no mug")
    assert [one.outcome for one in listener.episodes()] == ["error", "correct"]
    kinds = [type(record) for record in listener.records()]
    assert kinds[-1] is wire.SourceClosed
    assert kinds.index(wire.RunClosed) > kinds.index(wire.EpisodeEnded)


def test_after_its_end_every_call_is_harmless(listener: Listener) -> None:
    run = eh.open_run("mug")
    wins = run.counter("wins")
    run.close()
    count = len(listener.records())
    wins.inc()
    with run.episode() as ep:
        ep.step()
    assert ep is NO_EPISODE
    run.publish_log("info", "late")
    run.publish_metric("late", 1)
    run.publish_data("late", 1)
    run.publish_state(1)
    run.progress()
    run.gauge("late2").set(1)
    run.on_command("stop", print)
    assert run.dropped["closed"] == 1
    assert len(listener.records()) == count
    assert variables() == (None, None)


# --- what the machine lacks ----------------------------------------------------------


def broken(*args: Any) -> Any:
    raise OSError(24, "Too many open files")


def test_what_the_machine_lacks_is_a_warning_and_the_experiment_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_module, "Line", broken)
    with eh.open_run("mug") as run:
        with run.episode() as ep:
            ep.step()
        run.counter("wins").inc()
    assert "Too many open files" in caplog.text
    assert "unwatched" in caplog.text
    assert run.closed
    assert variables() == (None, None)


def test_strictly_what_the_machine_lacks_raises_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "Line", broken)
    monkeypatch.setenv("EPISIGHT_STRICT", "1")
    with pytest.raises(eh.SetupError, match="Too many open files"):
        eh.open_run("mug")
    assert eh.current_run() is None
    assert variables() == (None, None)


def test_a_bad_setting_is_a_warning_unless_strictly(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    listener: Listener,
) -> None:
    monkeypatch.setenv("EPISIGHT_PRIVATE", "maybe")
    eh.open_run("mug").close()
    assert "EPISIGHT_PRIVATE='maybe'" in caplog.text
    monkeypatch.setenv("EPISIGHT_STRICT", "1")
    with pytest.raises(eh.SetupError, match="EPISIGHT_PRIVATE"):
        eh.open_run("mug")
    assert eh.current_run() is None


# --- disabled ------------------------------------------------------------------------


@pytest.fixture
def disabled(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> Listener:
    monkeypatch.setenv("EPISIGHT_DISABLED", "1")
    return listener


def test_a_disabled_run_does_nothing_at_all(disabled: Listener) -> None:
    with eh.open_run("mug", run_id="r", stoppable=True) as run:
        assert isinstance(run, NoRun)
        assert eh.current_run() is run
        assert variables() == (None, None)
        with run.episode("eval", epoch=1) as ep, ep.phase("a"):
            ep.step(state=fail, scores=fail, images=fail)
            ep.finish("correct")
        assert run.counter("a b", labels=5) is NO_SERIES
        assert asyncio.run(publish(run)) == [None] * 4
        logging.getLogger("x").addHandler(eh.LogHandler(run))
        logging.getLogger("x").handlers.clear()
    assert run.closed
    assert eh.current_run() is None
    assert disabled.heard() == []


def fail() -> Any:
    raise AssertionError("called for nobody")


async def publish(run: eh.Run) -> List[Any]:
    return [
        await run.publish_metric("loss", 0.5),
        await run.publish_data("sensor", 1),
        await run.publish_log("info", "x"),
        await run.publish_state(1),
    ]


ARGUMENTS: Dict[str, Any] = {
    "name": "x", "value": 1.0, "level": "info", "message": "m", "state": 1,
    "callback": print, "ending": "completed", "reason": "x", "opened": {},
}  # fmt: skip


def test_every_public_method_of_a_run_exists_disabled_and_does_nothing(
    disabled: Listener,
) -> None:
    run = eh.open_run("mug")
    own = {"check", "start", "forked"}  # between the modules, not for users
    for name, member in inspect.getmembers(eh.Run, callable):
        if name.startswith("_") or name in own | {"close", "end"}:
            continue
        assert name in vars(NoRun), f"{name} would do something"
        wanted = [
            one.name
            for one in inspect.signature(member).parameters.values()
            if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        ]
        values = {"mapping": {}, "fields": {}, "at": 1.0, **ARGUMENTS}
        getattr(run, name)(*[values[want] for want in wanted if want != "self"])
    for name, _ in inspect.getmembers(eh.Run, lambda one: isinstance(one, property)):
        getattr(run, name)
    run.forked()
    assert (run.id, run.url, run.dropped, run.watched) == ("", "", {}, False)
    run.close(timeout=5.0)
    assert run.closed
    assert disabled.heard() == []


def test_disabled_a_wrong_argument_still_raises(disabled: Listener) -> None:
    with pytest.raises(eh.UsageError):
        eh.open_run("")


def test_disabled_exceptions_pass(disabled: Listener) -> None:
    with pytest.raises(KeyError), eh.open_run("mug") as run, run.episode():
        raise KeyError


# --- metrics -------------------------------------------------------------------------


def test_the_same_call_gives_the_same_metric(listener: Listener) -> None:
    with eh.open_run("mug") as run:
        assert run.counter("wins", "Help.") is run.counter("wins_total", "Other.")
        sides = run.counter("sides", labels=["side"])
        assert sides is run.counter("sides", labels=("side",))
        sides.labels(side="left").inc(2)
        sides.labels("right").inc()
        run.gauge("rate", merge="sum").set(5)
        run.histogram("seconds", buckets=[1, 2]).observe(1.5)
    assert listener.total("sides") == 3
    assert listener.total("sides", side="left") == 2
    (rate,) = listener.series("rate")
    assert (rate.spec.merge, rate.values) == ("sum", (5.0, 1.0))
    (seconds,) = listener.series("seconds")
    assert seconds.values == (0.0, 1.0, 0.0, 1.5)


CONFLICTS: Dict[str, Callable[[eh.Run], Any]] = {
    "a bad name": lambda run: run.counter("a b"),
    "a reserved name": lambda run: run.gauge("episodes"),
    "a bad label": lambda run: run.gauge("a", labels=["run"]),
    "a bad merge rule": lambda run: run.gauge("a", merge="avg"),
    "bad buckets": lambda run: run.histogram("a", buckets=[]),
    "labels that are none": lambda run: run.gauge("a", labels=5),  # type: ignore[arg-type]
    "another type": lambda run: run.gauge("wins"),
    "other labels": lambda run: run.counter("wins", labels=["side"]),
}


@pytest.mark.parametrize("what", CONFLICTS)
def test_a_metric_that_cannot_be_does_nothing_and_is_told_once(
    what: str, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    with eh.open_run("mug") as run:
        run.counter("wins").inc()
        for _ in range(3):
            metric = CONFLICTS[what](run)
            assert metric is NO_SERIES
            metric.labels(side="left").inc()
        assert run.dropped == {"metric_refused": 3}
        assert len(caplog.messages) == 1
    assert listener.total("wins") == 1


# --- publish -------------------------------------------------------------------------


def test_published_metrics_have_their_tags_as_labels(listener: Listener) -> None:
    with eh.open_run("mug") as run:
        run.publish_metric("loss", 0.5, epoch=1, step=100, episode=3, phase="val")
        run.publish_metric("loss", 0.25, phase="val", epoch=2)
        run.publish_metric("loss", 4.0)
        run.publish_metric("val/acc", 0.75, side=5)
        run.publish_metric(name="named", value=1.0)
    found = {
        (one.spec.name, tuple(one.labels.items())): one.values[0]
        for one in listener.sources()[0].series()
        if one.spec.free
    }
    assert found == {
        ("loss", (("phase", "val"),)): 0.25,
        ("loss", ()): 4.0,
        ("val_acc", (("side", "5"),)): 0.75,
        ("named", ()): 1.0,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("a", "x"), ("a", 10**5000), (None, 1), ([], 1), ("run/info", 1)],
    ids=["no number", "too large", "no name", "a list", "reserved"],
)
def test_what_cannot_be_published_is_counted(
    name: Any, value: Any, listener: Listener
) -> None:
    with eh.open_run("mug") as run:
        run.publish_metric(name, value, phase=object())
        assert sum(run.dropped.values()) == 1
        assert "internal_error" not in run.dropped


def samples(listener: Listener) -> List[Any]:
    return [one.message for one in listener.heard(wire.Sample)]


def test_published_logs_and_states_arrive(listener: Listener) -> None:
    with eh.open_run("mug") as run:
        with run.episode() as ep:
            run.publish_log("WARNING", "careful", attempt=3, odd=object())
        run.publish_state({"n": 1})
        listener.wait_for(lambda: [one for one in samples(listener) if one.moments])
    line = only(listener, wire.LogLine)
    assert (line.level, line.message, line.trace) == ("warning", "careful", ep.trace_id)
    assert line.fields == {"attempt": 3, "odd": "<builtins.object>"}


def test_data_is_published_while_somebody_watches(listener: Listener) -> None:
    listener.watch()
    with eh.open_run("mug") as run:
        listener.wait_for(lambda: run.watched)

        def streamed() -> Any:
            run.publish_data("sensor", [1.5])
            sample = listener.sample()
            return sample and sample.streams

        found = listener.wait_for(streamed)
    assert {name: wire.decode_plain(data) for name, data in found.items()} == {
        "sensor": [1.5]
    }


def test_what_is_published_may_be_awaited_or_not(listener: Listener) -> None:
    async def both(run: eh.Run) -> List[Any]:
        run.publish_metric("plain", 1)
        one = run.publish_metric("kept", 1)
        assert one is run.publish_log("info", "x"), "nothing is allocated"
        gathered = await asyncio.gather(one, one)
        return [*await publish(run), *gathered, await one]

    with eh.open_run("mug") as run:
        assert asyncio.run(both(run)) == [None] * 7
        run.publish_metric("without a loop", 1)
    assert listener.total("loss") == 0.5
    gc.collect()


PUBLISHING = """
    import asyncio, sys
    import experiment_hooks as eh

    async def main(run):
        run.publish_metric("loss", 0.5)
        await run.publish_metric("loss", 0.25)
        run.publish_data("sensor", 1), run.publish_log("info", "x")
        run.publish_state(1)

    with eh.open_run("mug") as run:
        main_result = asyncio.run(main(run))
        run.publish_metric("loss", 0.125)
        run.publish_log("info", "y")
    assert "asyncio" in sys.modules
    print("fine")
"""


def test_with_warnings_as_errors_nothing_is_ever_complained_of(
    listener: Listener, run_python: Pythons
) -> None:
    env = {"EPISIGHT_ENDPOINT": listener.endpoint, "PYTHONWARNINGS": "error"}
    env["PYTHONDEVMODE"] = "1"
    found = run_python(PUBLISHING, env=env)
    page, *others = found.output.splitlines()
    assert page.startswith("episight: http")
    assert others == ["fine"]
    assert listener.series("loss")[0].values == (0.125, 3.0)


# --- progress ------------------------------------------------------------------------


def test_a_loop_without_episodes_is_a_run_too(listener: Listener) -> None:
    with eh.open_run("mug") as run:
        for _ in range(3):
            run.progress()
        listener.wait_for(listener.sample)
        run.progress()
        listener.wait_for(lambda: samples(listener)[-1].gaps == 4)
    assert samples(listener)[0].gaps == 3


ODD: List[Dict[str, Any]] = [
    {"mode": None},
    {"mode": "x" * 100_000},
    {"mode": "\ud800"},
    {"mode": 5},
    {"epoch": "a"},
    {"index": math.nan},
    {"index": 2**70},
    {"seed": "abc"},
    {"seed": 2**64},
    {"seed": [1, 2]},
    {"target": object()},
    {"target": "x" * 100_000},
]


@pytest.mark.parametrize("given", ODD, ids=as_name)
def test_an_episode_with_an_odd_argument_is_counted_all_the_same(
    given: Dict[str, Any], listener: Listener
) -> None:
    with eh.open_run("mug") as run, run.episode(**given) as ep:
        ep.step()
    assert only(listener, wire.EpisodeEnded).steps == 1
    assert listener.total("steps") == 1
