"""What a run can be told to do: who takes it, what is answered, and that it is once."""

import threading
from typing import Any, Dict, List, Tuple

import pytest

import experiment_hooks as eh
from experiment_hooks import commands, wire
from experiment_hooks import line as lines
from experiment_hooks.commands import Commands
from experiment_hooks.errors import RunStopped
from experiment_hooks.recorder import Recorder
from experiment_hooks.testing import Listener
from tests.sources import taken_out

STOP = wire.Command("c-1", "stop", "step", "late", "ann")


@pytest.fixture
def source() -> Recorder:
    return Recorder("run", inline=True)  # what is to be done is done in work()


def said(source: Recorder) -> List[Tuple[str, str]]:
    """What was answered since the last call: which command, and how."""
    found = taken_out(source)
    return [
        (one.command, one.state)
        for one in found
        if isinstance(one, wire.CommandAnswered)
    ]


def come(found: Commands, command: wire.Command) -> None:
    """It comes, and then what is to be said of it has been sent."""
    found.came(command)
    found.work()


def raises(source: Recorder, at: str = "step") -> bool:
    try:
        source.boundary(at)
    except RunStopped:
        return True
    return False


# --- the order of it ------------------------------------------------------------------


def test_a_stops_callback_runs_before_anybody_sees_that_it_stops(
    source: Recorder,
) -> None:
    found = Commands(source, stoppable=True)
    before: List[Any] = []
    found.take("stop", lambda command: before.append((said(source), raises(source))))
    come(found, STOP)
    assert before == [([("c-1", "delivered")], False)]
    assert said(source) == [("c-1", "accepted")]
    assert raises(source)
    assert said(source) == [("c-1", "done")]
    assert raises(source), "swallowed, it comes again"
    assert said(source) == [], "and is done once"


def test_another_command_is_accepted_before_its_callback_and_done_by_it(
    source: Recorder,
) -> None:
    found = Commands(source, stoppable=False)
    before: List[Any] = []
    found.take("save", lambda command: before.append(said(source)))
    come(found, wire.Command("c-2", "save"))
    assert before == [[("c-2", "delivered"), ("c-2", "accepted")]]
    assert said(source) == [("c-2", "done")]
    assert not raises(source)


def test_a_stop_whose_callback_fails_stops_nothing(source: Recorder) -> None:
    found = Commands(source, stoppable=True)

    def fail(command: wire.Command) -> None:
        raise OSError("no space left")

    found.take("stop", fail)
    come(found, STOP)
    answers = taken_out(source)
    assert [one.state for one in answers] == ["delivered", "failed"]
    assert answers[1].detail == "OSError: no space left"
    assert not raises(source)


def test_all_stops_that_were_asked_for_are_done_by_the_one_that_is_raised(
    source: Recorder,
) -> None:
    found = Commands(source, stoppable=True)
    come(found, wire.Command("c-1", "stop", "episode"))
    assert not raises(source, "step")
    come(found, wire.Command("c-2", "stop", "now"))
    said(source)
    assert raises(source, "step")
    assert said(source) == [("c-1", "done"), ("c-2", "done")]


def test_a_stop_that_the_run_does_not_come_to_has_failed(source: Recorder) -> None:
    found = Commands(source, stoppable=True)
    come(found, wire.Command("c-1", "stop", "episode"))
    said(source)
    found.close()
    (answer,) = taken_out(source)
    assert (answer.state, answer.detail) == (
        "failed",
        "the run ended before it came to that",
    )


def test_a_command_whose_turn_does_not_come_has_failed(source: Recorder) -> None:
    found = Commands(source, stoppable=False)
    found.take("save", lambda command: found.close())
    for number in (1, 2):
        found.came(wire.Command(f"c-{number}", "save"))
    said(source)
    found.work()
    assert said(source) == [("c-1", "accepted"), ("c-2", "failed"), ("c-1", "done")]


def test_who_is_impatient_has_nothing_saved_twice(source: Recorder) -> None:
    found = Commands(source, stoppable=False)
    saved: List[str] = []
    found.take("stop", lambda command: saved.append(command.id))
    come(found, wire.Command("c-1", "stop", "episode"))
    come(found, wire.Command("c-2", "stop", "step"))
    assert saved == ["c-1"]
    assert raises(source, "step"), "the second says when"
    assert said(source)[-2:] == [("c-1", "done"), ("c-2", "done")]


# --- once -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stop", "save", "unknown"])
def test_what_comes_again_is_answered_again_and_not_done_again(
    name: str, source: Recorder
) -> None:
    found = Commands(source, stoppable=False)
    called: List[str] = []
    for known in ("stop", "save"):
        found.take(known, lambda command: called.append(command.name))
    command = wire.Command("c-1", name)
    come(found, command)
    if name == "stop":
        assert raises(source)
    last = said(source)[-1]
    times = len(called)
    for _ in range(3):
        come(found, command)
    assert said(source) == [last] * 3
    assert len(called) == times


def test_what_it_remembers_is_bounded(source: Recorder) -> None:
    found = Commands(source, stoppable=False)
    called: List[str] = []
    found.take("save", lambda command: called.append(command.id))
    for number in range(3 * commands.MAX_REMEMBERED):
        come(found, wire.Command(f"c-{number}", "save"))
    assert len(found._answers) == commands.MAX_REMEMBERED
    come(found, wire.Command(f"c-{number}", "save"))
    assert len(called) == 3 * commands.MAX_REMEMBERED


def test_a_forked_child_knows_nothing_of_its_parents_commands(
    source: Recorder,
) -> None:
    found = Commands(source, stoppable=True)
    come(found, STOP)
    source.mute()
    found.forked()
    assert not raises(source)
    come(found, STOP)
    assert raises(source)


# --- which it takes -------------------------------------------------------------------


def names(source: Recorder) -> Tuple[str, ...]:
    sample, _ = source.sample(1, 1.0)
    return sample.commands


def test_the_samples_say_which_commands_are_taken(source: Recorder) -> None:
    found = Commands(source, stoppable=False)
    assert names(source) == ()
    found.take("save", print)
    assert names(source) == ("save",)
    found.allow_stop()
    found.take("again", print)
    assert names(source) == ("again", "save", "stop")


def test_of_too_many_commands_the_rest_is_not_taken(source: Recorder) -> None:
    found = Commands(source, stoppable=True)
    for number in range(40):
        found.take(f"c{number:02}", print)
    assert len(names(source)) == wire.MAX_COMMANDS
    assert "stop" in names(source)
    assert source.dropped == {"commands": 40 - (wire.MAX_COMMANDS - 1)}


ODD: Dict[str, Any] = {"long": "x" * 500, "number": 5, "surrogate": "\ud800"}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD.keys())
def test_odd_names_can_be_said(name: Any, source: Recorder) -> None:
    found = Commands(source, stoppable=False)
    found.take(name, lambda command: None)
    (told,) = names(source)
    assert len(told) <= wire.MAX_COMMAND_NAME
    wire.encode(source.sample(1, 1.0)[0])
    come(found, wire.Command("c-1", told))
    assert said(source)[-1] == ("c-1", "done")


def test_a_stop_may_come_before_the_run_says_that_it_takes_one(
    source: Recorder,
) -> None:
    """The exporter sends a stop that stands with the welcome."""
    found = Commands(source, stoppable=False)
    come(found, STOP)
    assert said(source) == [("c-1", "delivered")]
    assert not raises(source)
    saved: List[str] = []
    found.take("stop", lambda command: saved.append(command.reason))
    found.work()
    assert saved == ["late"]
    assert said(source) == [("c-1", "accepted")]
    assert raises(source)


def test_such_a_stop_has_failed_when_nothing_takes_it_for_long(
    source: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Commands(source, stoppable=False)
    come(found, STOP)
    names(source)
    assert said(source) == [("c-1", "delivered")]
    monkeypatch.setattr(commands, "EARLY", 0.0)
    names(source)
    assert said(source) == [("c-1", "failed")]
    found.take("stop", print)
    assert not raises(source)


def test_such_a_stop_has_failed_when_the_run_ends(source: Recorder) -> None:
    found = Commands(source, stoppable=False)
    come(found, STOP)
    found.close()
    assert said(source) == [("c-1", "delivered"), ("c-1", "failed")]
    come(found, wire.Command("c-2", "stop"))
    assert said(source) == [], "nothing is told any more"


# --- of a real run --------------------------------------------------------------------


def answers(listener: Listener) -> List[str]:
    return [one.state for one in listener.records(wire.CommandAnswered)]


def test_a_stop_that_is_raised_in_many_threads_is_done_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TICK", 0.05)
    run = eh.open_run("mug", stoppable=True)
    stopped: List[bool] = []

    def work() -> None:
        try:
            while True:
                run.progress()
        except eh.RunStopped:
            stopped.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    listener.wait_for(listener.sample, what="a sample")
    listener.command("stop", "step")
    for one in threads:
        one.join(20)
    run.close()
    assert len(stopped) == 8
    assert answers(listener) == ["delivered", "accepted", "done"]


def test_a_callback_that_hangs_holds_up_neither_the_run_nor_its_end(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TICK", 0.05)
    begun, over = threading.Event(), threading.Event()

    def hang(command: wire.Command) -> None:
        begun.set()
        over.wait(60)

    run = eh.open_run("mug")
    run.on_command("save", hang)
    listener.wait_for(listener.sample, what="a sample")
    listener.command("save")
    assert begun.wait(20)
    try:
        with run.episode() as ep:
            ep.step()
        listener.wait_for(lambda: listener.records(wire.EpisodeEnded))
        before = listener.sample()
        listener.wait_for(lambda: listener.sample() != before, what="a later sample")
        monkeypatch.setattr(commands, "LAST_SECONDS", 0.05)
        run.close()
        assert listener.records(wire.SourceClosed)
    finally:
        over.set()
    assert answers(listener) == ["delivered", "accepted"]


def test_an_exit_lets_a_callback_finish_for_a_moment(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TICK", 0.05)
    monkeypatch.setattr(commands, "LAST_SECONDS", 20.0)
    begun, ending = threading.Event(), threading.Event()

    def save(command: wire.Command) -> None:
        begun.set()
        assert ending.wait(20)

    run = eh.open_run("mug", stoppable=True)
    run.on_command("stop", save)
    run.on_command("save", save)
    listener.wait_for(listener.sample, what="a sample")
    listener.command("save")
    assert begun.wait(20)
    listener.command("stop")
    listener.wait_for(lambda: len(answers(listener)) == 3)
    closing = threading.Thread(target=run.close)
    closing.start()
    listener.wait_for(lambda: len(answers(listener)) == 4)
    assert not listener.records(wire.SourceClosed)
    ending.set()
    closing.join(20)
    assert listener.records(wire.SourceClosed)
    last = listener.records(wire.CommandAnswered)[-2:]
    assert [(one.state, one.detail) for one in last] == [
        ("failed", "the run ended before it came to that"),
        ("done", ""),
    ]


def test_a_run_tells_its_commands_while_it_goes_on(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TICK", 0.05)
    with eh.open_run("mug", stoppable=True) as run:
        run.on_command("checkpoint", print)
        listener.wait_for(
            lambda: (
                (s := listener.sample()) is not None
                and s.commands == ("checkpoint", "stop")
            )
        )
