"""``run.sh``: what a newcomer types first. It chooses its own Python."""

import re
import shutil
import signal
import socket
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from tests.support import ROOT, Child, clean_environment, http

Start = Callable[..., Child]
FIRST = 300.0
"""Seconds: the environment may have to be made."""

pytestmark = pytest.mark.timeout(FIRST)


@pytest.fixture
def start(tmp_path: Path, show_log: Callable[[Path], None]) -> Iterator[Start]:
    """Starts run.sh from an empty directory, with ports and a journal of its own."""
    children: List[Child] = []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def begin(*arguments: str, script: Path = ROOT / "run.sh", **env: str) -> Child:
        own = {
            "EPISIGHT_WEB_PORT": "0",
            "EPISIGHT_INGEST_PORT": "0",
            "EPISIGHT_JOURNAL_PATH": str(tmp_path / "data" / "journal.sqlite"),
            "PYTHONPATH": "",
            **env,
        }
        log = tmp_path / f"run_{len(children)}.log"
        child = Child(
            [str(script), *arguments], log, clean_environment(tmp_path, own), elsewhere
        )
        children.append(child)
        show_log(log)
        return child

    yield begin
    for child in children:
        child.end()
    assert list(elsewhere.iterdir()) == [], "it writes nothing where it is started"


def link_of(child: Child) -> str:
    found = re.search(r"The page: +(\S+)\n", child.wait_for(r"The page: .*\n", FIRST))
    assert found
    return found[1]


def page_of(child: Child) -> str:
    return link_of(child).partition("/?token=")[0]


def is_gone(page: str) -> bool:
    try:
        http(page + "/-/ready")
    except OSError:
        return True
    return False


def test_help_shows_how_it_is_used_and_every_experiment(start: Start) -> None:
    child = start("--help")
    assert child.wait() == 0
    assert "[--exit] [--setup] [--help] [experiment] [overrides]" in child.output
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert path.stem in child.output


def test_an_unknown_experiment_is_answered_with_those_there_are(start: Start) -> None:
    child = start("no_such_thing")
    assert child.wait() == 2
    assert 'there is no experiment "no_such_thing"' in child.output
    assert "q_learning" in child.output


def test_an_unknown_option_is_named(start: Start) -> None:
    child = start("--exist", "quick")
    assert child.wait() == 2
    assert "there is no option --exist" in child.output


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--exit", "options come first: ./run.sh --exit quick"),
        ("cart", "is no override"),
    ],
)
def test_what_follows_the_experiment_is_an_override(
    start: Start, argument: str, says: str
) -> None:
    child = start("quick", argument)
    assert child.wait() == 2
    assert says in child.output


def test_a_missing_python_is_named(start: Start, tmp_path: Path) -> None:
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
    child = start(
        "quick",
        script=checkout / "run.sh",
        PATH=str(commands),
        HOME=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
    )
    assert child.wait() == 3
    assert "needs Python 3.11 or newer" in child.output


def test_setup_makes_the_environment_and_starts_nothing(start: Start) -> None:
    child = start("--setup")
    assert child.wait(FIRST) == 0
    assert child.output.strip().endswith("is ready.")


@pytest.mark.parametrize("which", ["EPISIGHT_WEB_PORT", "EPISIGHT_INGEST_PORT"])
def test_a_busy_port_is_named(start: Start, which: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        child = start("--exit", "quick", **{which: port})
        assert child.wait(FIRST) == 4
    assert port in child.output
    assert which in child.output
    assert "Traceback" not in child.output


def test_exit_ends_with_the_experiment(start: Start, tmp_path: Path) -> None:
    child = start("--exit", "quick")
    assert child.wait(FIRST) == 0
    page = page_of(child)
    assert is_gone(page)
    assert page in (tmp_path / "data" / "exporter.log").read_text()


def test_the_page_is_given_with_the_token_that_opens_it(
    start: Start, tmp_path: Path
) -> None:
    child = start("quick")
    page, _, token = link_of(child).partition("/?token=")
    assert token == (tmp_path / "data" / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert http(page + "/api/v1/runs/nobody", "DELETE", headers=headers).status == 404
    child.signal(signal.SIGINT)
    child.wait()
    assert token not in (tmp_path / "data" / "exporter.log").read_text()


def test_a_failing_experiment_gives_its_status(start: Start) -> None:
    child = start("--exit", "quick", "no.such.key=1")
    assert child.wait(FIRST) not in (0, 2, 3, 4)
    assert is_gone(page_of(child))


def test_without_exit_the_page_stays_until_ctrl_c(start: Start) -> None:
    child = start("quick")
    page = page_of(child)
    child.wait_for("The experiment ended with status 0", FIRST)
    runs = http(page + "/api/v1/runs").json()["runs"]
    assert [run["state"] for run in runs] == ["completed"]
    child.signal(signal.SIGINT)
    assert child.wait() == 0
    assert is_gone(page)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_experiment_and_the_exporter(
    start: Start, number: signal.Signals
) -> None:
    child = start()
    page = page_of(child)
    child.signal(number)
    assert child.wait() != 0
    assert is_gone(page)
