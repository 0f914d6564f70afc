"""Commands, from a request to an experiment and back: real processes, real sockets."""

import textwrap
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from tests.support import Exporter, Pythons, eventually, python_for
from tests.test_e2e_faults import all_delivered

WAITING = """
import pathlib, time

def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.01)
"""
LOOP = """
import time
import experiment_hooks as eh
with eh.open_run("loop", run_id="loop", stoppable=True) as run:
    while True:
        with run.episode() as ep:
            for step in range(5):
                ep.step()
                time.sleep(0.002)
            ep.finish("fine")
"""


def give(exporter: Exporter, run: str, **said: Any) -> str:
    answer = exporter.post(f"/api/v1/runs/{run}/commands", said)
    assert answer.status == 202, answer
    found: str = answer.json()["id"]
    return found


def listed(exporter: Exporter, run: str) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = exporter.get(f"/api/v1/runs/{run}/commands").json()[
        "commands"
    ]
    return found


def states(exporter: Exporter, run: str) -> List[str]:
    """How far each source is with the newest command."""
    return sorted(one["state"] for one in listed(exporter, run)[-1]["sources"])


def state_of(exporter: Exporter, run: str) -> str:
    found: str = exporter.run(run)["state"]
    return found


def live(exporter: Exporter, run: str, number: int = 1) -> None:
    eventually(lambda: exporter.run(run)["sources"]["live"] == number)


# --- a stop ---------------------------------------------------------------------------


@pytest.mark.parametrize("python", ["3.8", "3.11"])
@pytest.mark.parametrize("when", ["step", "episode", "now"])
def test_a_stop_is_done_where_it_was_asked_for(
    when: str,
    python: str,
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
) -> None:
    exporter = exporter_process()
    child = run_python.start(LOOP, env=exporter.env, python=python)
    live(exporter, "loop")
    given = give(exporter, "loop", command="stop", when=when, reason="enough")
    assert child.wait() == 1
    assert "experiment_hooks.errors.RunStopped: enough" in child.output
    eventually(lambda: state_of(exporter, "loop") == "stopped")
    (one,) = listed(exporter, "loop")
    assert (one["id"], one["when"], one["reason"]) == (given, when, "enough")
    assert (one["by"], one["standing"]) == ("127.0.0.1", False)
    assert [source["state"] for source in one["sources"]] == ["done"]
    outcomes = {one["outcome"] for one in exporter.episodes("loop")}
    assert outcomes <= ({"fine"} if when == "episode" else {"fine", "stopped"})


def test_what_a_callback_saves_is_there_before_the_run_is_seen_to_stop(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}
def save(command):
    wait_for("go")
    pathlib.Path("saved").write_text(command.reason)

with eh.open_run("saves", run_id="saves") as run:
    run.on_command("stop", save)
    with run.episode() as ep:
        while not pathlib.Path("go on").exists():
            ep.step()
            time.sleep(0.01)
"""
    child = run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.run("saves")["commands"] == ["stop"])
    give(exporter, "saves", command="stop", when="episode", reason="late")
    eventually(lambda: states(exporter, "saves") == ["delivered"])
    assert state_of(exporter, "saves") == "running"
    assert not (tmp_path / "saved").exists()
    (tmp_path / "go").touch()
    eventually(lambda: state_of(exporter, "saves") == "stopping")
    assert (tmp_path / "saved").read_text() == "late"
    (tmp_path / "go on").touch()
    assert child.wait() == 1
    assert states(exporter, "saves") == ["done"]


EXITS = [
    ("nothing is caught", "raise", 1, "stopped"),
    ("it is caught around the run", "pass", 0, "stopped"),
    ("it is caught, and a status chosen", "sys.exit(75)", 75, "stopped"),
]
INSIDE = """
import experiment_hooks as eh
with eh.open_run("loop", run_id="loop", stoppable=True) as run:
    try:
        while True:
            run.progress()
    except eh.RunStopped:
        pass
"""


def test_a_block_that_swallows_the_stop_ends_as_completed(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    child = run_python.start(INSIDE, env=exporter.env)
    live(exporter, "loop")
    give(exporter, "loop", command="stop")
    assert child.wait() == 0, child.output
    eventually(lambda: state_of(exporter, "loop") == "completed")
    assert states(exporter, "loop") == ["done"]


@pytest.mark.parametrize(
    ("after", "status", "state"), [e[1:] for e in EXITS], ids=[e[0] for e in EXITS]
)
def test_how_a_stopped_experiment_exits_is_its_own_choice(
    after: str,
    status: int,
    state: str,
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
) -> None:
    exporter = exporter_process()
    body = textwrap.indent(LOOP, "    ")
    code = f"import sys\ntry:{body}except eh.RunStopped:\n    {after}\n"
    child = run_python.start(code, env=exporter.env)
    live(exporter, "loop")
    give(exporter, "loop", command="stop")
    assert child.wait() == status
    assert ("Traceback" in child.output) == (status == 1)
    eventually(lambda: state_of(exporter, "loop") == state)


# --- a command of one's own -----------------------------------------------------------


def test_a_command_of_ones_own_is_done_by_who_takes_it(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    code = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("own", run_id="own") as run:
    run.on_command("checkpoint", lambda c: pathlib.Path(c.reason).touch())
    run.on_command("fails", lambda c: 1 / 0)
    wait_for("end")
"""
    child = run_python.start(code, env=exporter.env)
    names = ["checkpoint", "fails"]
    eventually(lambda: exporter.run("own")["commands"] == names)
    give(exporter, "own", command="checkpoint", reason="saved here")
    eventually(lambda: states(exporter, "own") == ["done"])
    assert (tmp_path / "saved here").exists()
    give(exporter, "own", command="fails")
    eventually(lambda: states(exporter, "own") == ["failed"])
    (source,) = listed(exporter, "own")[-1]["sources"]
    assert source["detail"] == "ZeroDivisionError: division by zero"
    refused = exporter.post("/api/v1/runs/own/commands", {"command": "rest"})
    assert refused.status == 409
    assert refused.json()["error"] == "nobody takes 'rest'; taken are: " + ", ".join(
        names
    )
    (tmp_path / "end").touch()
    assert child.wait() == 0, child.output
    assert exporter.run("own")["commands"] == []


# --- a stop that stands ---------------------------------------------------------------

FAMILY = f"""
import subprocess, sys
import experiment_hooks as eh
{WAITING}
number = sys.argv[1]
with eh.open_run("family", run_id="family") as run:
    def save(command):
        with open("saved-" + number, "a") as file:
            file.write("x")
    run.on_command("stop", save)
    children = []
    if number == "0":
        for child in ("1", "2"):
            wait_for("start-" + child)
            children.append(subprocess.Popen([sys.executable, __file__, child]))
        wait_for("end")
        for child in children:
            assert child.wait() == 1
    with run.episode() as ep:
        while True:
            ep.step()
            time.sleep(0.01)
"""


def test_who_starts_later_is_stopped_too_also_after_a_kill_of_the_exporter(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    owner = run_python.start(FAMILY, "0", env=exporter.env)
    eventually(lambda: exporter.run("family")["commands"] == ["stop"])
    give(exporter, "family", command="stop", reason="enough")
    eventually(lambda: states(exporter, "family") == ["accepted"])
    (tmp_path / "start-1").touch()
    eventually(lambda: states(exporter, "family") == ["accepted", "done"])
    before = listed(exporter, "family")
    assert before[0]["standing"]
    exporter.kill()
    (tmp_path / "start-2").touch()
    exporter.restart()
    eventually(lambda: states(exporter, "family") == ["accepted", "done", "done"], 20)
    (now,) = listed(exporter, "family")
    counted = {"sources": 0, "states": 0}
    assert {**now, **counted} == {**before[0], **counted}
    assert now["sources"][:2] == before[0]["sources"]
    assert state_of(exporter, "family") == "stopping"
    (tmp_path / "end").touch()
    assert owner.wait() == 1
    eventually(lambda: state_of(exporter, "family") == "stopped")
    assert states(exporter, "family") == ["done", "done", "done"]
    assert not listed(exporter, "family")[0]["standing"]
    # Said twice to the owner, and to the child that met no exporter: done once.
    for number in range(3):
        assert (tmp_path / f"saved-{number}").read_text() == "x"


def test_who_resumes_a_stopped_run_is_not_stopped(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    code = f"""
import sys
import experiment_hooks as eh
{WAITING}
with eh.open_run("again", run_id="again", resume=True, stoppable=True) as run:
    for _ in range(100):
        with run.episode() as ep:
            ep.step()
    wait_for(sys.argv[1])
    run.progress()
"""
    first = run_python.start(code, "first", env=exporter.env)
    live(exporter, "again")
    give(exporter, "again", command="stop")
    eventually(lambda: states(exporter, "again") == ["accepted"])
    first.kill()
    eventually(lambda: exporter.run("again")["sources"]["live"] == 1)
    second = run_python.start(code, "second", env=exporter.env)
    eventually(lambda: exporter.run("again")["attempts"] == 2)
    eventually(lambda: state_of(exporter, "again") == "running")
    exporter.kill()
    exporter.restart()
    eventually(lambda: state_of(exporter, "again") == "running")
    (tmp_path / "second").touch()
    assert second.wait() == 0, second.output
    eventually(lambda: state_of(exporter, "again") == "completed")
    assert states(exporter, "again") == ["accepted"], "as the first attempt left it"


def test_what_the_exporter_was_killed_with_is_on_record_and_said_again(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    """The answer 202 is a promise, though no source may have heard of it."""
    exporter = exporter_process()
    child = run_python.start(LOOP, env=exporter.env, python=python_for("3.11"))
    live(exporter, "loop")
    given = give(exporter, "loop", command="stop", when="episode")
    exporter.kill()
    exporter.restart()
    (one,) = listed(exporter, "loop")
    assert one["id"] == given
    assert child.wait() == 1
    # It may have heard of it in time, and have ended while nobody listened.
    eventually(lambda: all_delivered(exporter, run_python), 30)
    eventually(lambda: states(exporter, "loop") == ["done"], 20)
    eventually(lambda: state_of(exporter, "loop") == "stopped", 20)
