"""``run.sh``: what a newcomer types first. It chooses its own Python."""

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.run_sh import FIRST, RunSh, is_gone, link_of, page_of
from tests.support import ROOT, eventually, http

pytestmark = pytest.mark.timeout(FIRST)


def test_help_shows_how_it_is_used_and_every_experiment(run_sh: RunSh) -> None:
    child = run_sh("--help")
    assert child.wait() == 0
    assert "[--exit] [--setup] [--help] [experiment] [overrides]" in child.output
    assert "monty [quick|full|parallel] [overrides]" in child.output
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert path.stem in child.output


def test_an_unknown_experiment_is_answered_with_those_there_are(run_sh: RunSh) -> None:
    child = run_sh("no_such_thing")
    assert child.wait() == 2
    assert 'there is no experiment "no_such_thing"' in child.output
    assert "q_learning" in child.output


def test_an_unknown_option_is_named(run_sh: RunSh) -> None:
    child = run_sh("--exist", "quick")
    assert child.wait() == 2
    assert "there is no option --exist" in child.output


def test_an_unknown_mode_of_monty_is_answered_with_those_there_are(
    run_sh: RunSh,
) -> None:
    child = run_sh("monty", "slow")
    assert child.wait() == 2
    assert 'there is no "slow" of monty. There are: quick full parallel' in child.output


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--exit", "options come first: ./run.sh --exit quick"),
        ("cart", "is no override"),
    ],
)
def test_what_follows_the_experiment_is_an_override(
    run_sh: RunSh, argument: str, says: str
) -> None:
    child = run_sh("quick", argument)
    assert child.wait() == 2
    assert says in child.output


def test_a_missing_python_is_named(run_sh: RunSh, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "conf").mkdir(parents=True)
    shutil.copytree(ROOT / "tools", checkout / "tools")
    shutil.copytree(ROOT / "conf" / "experiment", checkout / "conf" / "experiment")
    shutil.copy(ROOT / "run.sh", checkout)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("bash", "basename", "cat", "cksum", "dirname", "grep", "sed", "tr"):
        (commands / name).symlink_to(shutil.which(name) or name)
    child = run_sh(
        "quick",
        script=checkout / "run.sh",
        PATH=str(commands),
        HOME=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
    )
    assert child.wait() == 3
    assert "needs Python 3.11 or newer" in child.output


def test_setup_makes_the_environment_and_starts_nothing(run_sh: RunSh) -> None:
    child = run_sh("--setup")
    assert child.wait(FIRST) == 0
    assert child.output.strip().endswith("is ready.")


@pytest.mark.parametrize("which", ["EPISIGHT_WEB_PORT", "EPISIGHT_INGEST_PORT"])
def test_a_busy_port_is_named(run_sh: RunSh, which: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        child = run_sh("--exit", "quick", **{which: port})
        assert child.wait(FIRST) == 4
    assert port in child.output
    assert which in child.output
    assert "Traceback" not in child.output


def test_exit_ends_with_the_experiment(run_sh: RunSh, tmp_path: Path) -> None:
    child = run_sh("--exit", "quick", "experiment.episodes=40")
    assert child.wait(FIRST) == 0
    page = page_of(child)
    assert is_gone(page)
    assert page in (tmp_path / "data" / "exporter.log").read_text()


def test_the_page_is_given_with_the_token_that_opens_it(
    run_sh: RunSh, tmp_path: Path
) -> None:
    child = run_sh("quick")
    page, _, token = link_of(child).partition("/?token=")
    assert token == (tmp_path / "data" / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert http(page + "/api/v1/runs/nobody", "DELETE", headers=headers).status == 404
    child.signal(signal.SIGINT)
    child.wait()
    assert token not in (tmp_path / "data" / "exporter.log").read_text()


def test_a_failing_experiment_gives_its_status(run_sh: RunSh) -> None:
    child = run_sh("--exit", "quick", "no.such.key=1")
    assert child.wait(FIRST) not in (0, 2, 3, 4)
    assert is_gone(page_of(child))


def test_what_is_only_stopped_has_not_ended(run_sh: RunSh) -> None:
    child = run_sh("--exit", "quick", "experiment.episodes=40")
    page = page_of(child)
    (run,) = eventually(lambda: http(page + "/api/v1/runs").json()["runs"], FIRST)
    found = http(f"{page}/api/v1/runs/{run['run']}").json()
    pid = found["source_list"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")
    os.kill(pid, signal.SIGCONT)
    assert child.wait(FIRST) == 0


def test_without_exit_the_page_stays_until_ctrl_c(run_sh: RunSh) -> None:
    child = run_sh("quick", "experiment.episodes=40")
    page = page_of(child)
    child.wait_for("The experiment ended with status 0", FIRST)
    runs = http(page + "/api/v1/runs").json()["runs"]
    assert [run["state"] for run in runs] == ["completed"]
    child.signal(signal.SIGINT)
    assert child.wait() == 0
    assert is_gone(page)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_experiment_and_the_exporter(
    run_sh: RunSh, number: signal.Signals
) -> None:
    child = run_sh()
    page = page_of(child)
    child.signal(number)
    assert child.wait() != 0
    assert is_gone(page)
