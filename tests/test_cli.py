"""The command ``episight``: run and check."""

import contextlib
import os
import pty
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
import zmq

from experiment_hooks import _version, cli, cli_check, cli_run, cli_token, wire
from experiment_hooks.dial import Dialer
from tests.support import (
    RUNS_EXPORTER,
    Child,
    Exporter,
    clean_environment,
    eventually,
    free_port,
    python_for,
)

Environment = Dict[str, str]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An address where nobody is, and a Python with the exporter first on PATH."""
    python = sys.executable if RUNS_EXPORTER else python_for("3.11")
    return clean_environment(
        tmp_path,
        {
            "EPISIGHT_ENDPOINT": f"tcp://127.0.0.1:{free_port()}",
            "EPISIGHT_WEB_PORT": "0",
            "EPISIGHT_JOURNAL_PATH": str(tmp_path / "journal.sqlite"),
            "PATH": os.path.dirname(python) + os.pathsep + os.environ["PATH"],
        },
    )


class Command:
    """``episight`` as a process of its own, standard output and error apart."""

    def __init__(self, directory: Path, environment: Environment) -> None:
        self.environment = environment
        self._directory = directory
        self._children: List[Child] = []

    def start(self, *arguments: str) -> Child:
        number = len(self._children)
        words = [sys.executable, "-m", "experiment_hooks.cli", *arguments]
        self.errors = self._directory / f"errors_{number}"
        line = " ".join(shlex.quote(word) for word in words)
        child = Child(
            ["sh", "-c", f"exec {line} 2>{shlex.quote(str(self.errors))}"],
            self._directory / f"output_{number}",
            self.environment,
            self._directory,
        )
        self._children.append(child)
        return child

    def __call__(self, *arguments: str) -> Tuple[int, str, str]:
        """Its status, what it wrote to standard output, and to standard error."""
        child = self.start(*arguments)
        status = child.wait(60)
        return status, child.output, self.errors.read_text()

    def stop(self) -> None:
        for child in self._children:
            child.end()


@pytest.fixture
def episight(tmp_path: Path, environment: Environment) -> Iterator[Command]:
    command = Command(tmp_path, environment)
    yield command
    command.stop()


@pytest.fixture
def answering() -> Iterator[Callable[[Optional[wire.FromExporter]], str]]:
    """A peer that answers every hello with the given message, or with nothing."""
    context = zmq.Context()
    stop = threading.Event()
    threads: List[threading.Thread] = []

    def answer(router: Any, message: Optional[wire.FromExporter]) -> None:
        with router:
            while not stop.is_set():
                if router.poll(20):
                    identity, _ = router.recv_multipart()
                    if message is not None:
                        router.send_multipart([identity, wire.encode(message)])

    def start(message: Optional[wire.FromExporter]) -> str:
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        threads.append(threading.Thread(target=answer, args=(router, message)))
        threads[-1].start()
        return f"tcp://127.0.0.1:{port}"

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)
    context.term()


def ask(endpoint: str, **options: Any) -> cli_check.Answer:
    dialer = Dialer(endpoint)
    place = dialer.find()
    assert place is not None
    return cli_check.ask(dialer, place, **options)


def _listens(endpoint: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(cli_check.host_and_port(endpoint)) == 0


# --- the command line ----------------------------------------------------------------


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"episight {_version.__version__}\n"


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    for name in ("run", "check", "token"):
        assert f"    {name} " in shown


@pytest.mark.parametrize("arguments", [["run"], ["run", "--"], ["run", "--keep"]])
def test_run_without_a_command_says_what_it_wants(
    arguments: List[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "episight run -- python" in capsys.readouterr().err


# --- check ---------------------------------------------------------------------------


def test_check_says_that_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    assert cli_check.check({"EPISIGHT_ENDPOINT": endpoint}) == 1
    shown = capsys.readouterr().out
    assert f"nothing listens at {endpoint}" in shown
    assert zmq.__version__ in shown
    assert f"protocol {wire.PROTOCOL}" in shown


def test_check_says_that_the_hooks_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_check.check({"EPISIGHT_DISABLED": "1"}) == 1
    assert "EPISIGHT_DISABLED is set" in capsys.readouterr().out


def test_check_says_that_the_address_file_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = f"file://{tmp_path}/episight"
    assert cli_check.check({"EPISIGHT_ENDPOINT": endpoint}) == 1
    assert f"{endpoint} does not say where" in capsys.readouterr().out


def test_check_shows_values_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environ = {"EPISIGHT_THREAD": "perhaps", "EPISIGHT_DISABLED": "1"}
    assert cli_check.check(environ) == 1
    assert "EPISIGHT_THREAD='perhaps'" in capsys.readouterr().out


def test_check_repeats_the_sentence_of_a_refusal(
    answering: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = answering(wire.Refused("protocol", "install episight 7 here"))
    assert cli_check.check({"EPISIGHT_ENDPOINT": endpoint}) == 1
    assert "would not be seen: install episight 7 here" in capsys.readouterr().out


def test_check_is_content_with_a_welcome(
    answering: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    welcome = wire.Welcome(wire.PROTOCOL, time.time(), "9.9", "", "http://page/")
    assert cli_check.check({"EPISIGHT_ENDPOINT": answering(welcome)}) == 0
    shown = capsys.readouterr().out
    assert "9.9, welcomes" in shown
    assert "http://page/" in shown
    assert "would be seen" in shown


def test_a_clock_that_differs_is_noticed(answering: Callable[..., str]) -> None:
    welcome = wire.Welcome(wire.PROTOCOL, time.time() + 100.0)
    assert 90.0 < ask(answering(welcome)).skew < 110.0


def test_a_peer_that_does_not_answer_is_no_exporter(
    answering: Callable[..., str],
) -> None:
    answer = ask(answering(None), timeout=0.2)
    assert answer.connects
    assert answer.welcome is None
    assert "no answer to hello" in answer.detail


def test_an_address_without_a_port_is_said_to_be_none() -> None:
    answer = ask("tcp://127.0.0.1")
    assert not answer.connects
    assert "is not tcp://host:port" in answer.detail


def test_check_finds_a_real_exporter(
    exporter_process: Callable[..., Exporter], capsys: pytest.CaptureFixture[str]
) -> None:
    exporter = exporter_process()
    for endpoint in (exporter.ingest, f"file://{exporter.address_file}"):
        assert cli_check.check({"EPISIGHT_ENDPOINT": endpoint}) == 0
        shown = capsys.readouterr().out
        assert "would be seen" in shown
        assert f"page        {exporter.web}\n" in shown
    assert exporter.runs() == [], "a question opens no run"
    assert list(exporter.samples("episight_rejected_total")) == []


def test_check_says_that_the_given_run_id_is_refused(
    exporter_process: Callable[..., Exporter], capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"EPISIGHT_ENDPOINT": exporter_process().ingest, "EPISIGHT_RUN_ID": "?"}
    assert cli_check.check(environ) == 1
    assert "'?'" in capsys.readouterr().out


# --- token ---------------------------------------------------------------------------


def test_token_prints_that_of_the_exporter_of_this_environment(
    episight: Command, exporter_process: Callable[..., Exporter]
) -> None:
    exporter = exporter_process()
    episight.environment["EPISIGHT_JOURNAL_PATH"] = str(exporter.journal)
    assert episight("token") == (0, exporter.token + "\n", "")


def test_token_says_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    assert cli_token.token(environ) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"there is no token in {tmp_path}/episight/token" in shown.err
    assert cli_token.link("http://here:1", environ) == "http://here:1"


# --- run -----------------------------------------------------------------------------


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch, environment: Environment) -> Environment:
    """There is no exporter, and none can be started."""
    monkeypatch.setattr(cli_run, "exporter_python", lambda environ: None)
    return environment


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_run_returns_the_commands_status(
    unwatched: Environment, script: str, status: int
) -> None:
    assert cli_run.run_command(["sh", "-c", script], False, unwatched) == status


def test_run_says_that_a_command_is_not_there(
    unwatched: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_run.run_command(["no-such-command"], False, unwatched) == 127
    assert "cannot run no-such-command" in capsys.readouterr().err


def test_run_says_that_a_file_is_no_command(
    unwatched: Environment, tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_text("text")
    file.chmod(stat.S_IRUSR)
    assert cli_run.run_command([str(file)], False, unwatched) == 126


def test_without_a_python_for_the_exporter_the_command_runs_all_the_same(
    unwatched: Environment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert cli_run.run_command(["touch", str(made)], False, unwatched) == 0
    assert made.exists()
    said = capfd.readouterr().err
    assert "no Python 3.11 or newer with the exporter was found" in said
    assert said.count("\n") == 1


def test_for_another_machine_no_exporter_is_started(
    environment: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    # An address for documentation, where nobody ever is; a proxy might refuse at once.
    environment["EPISIGHT_ENDPOINT"] = "tcp://192.0.2.1:5555"
    assert cli_run.run_command(["true"], False, environment) == 0
    assert "192.0.2.1:5555" in capfd.readouterr().err


def test_with_the_hooks_off_no_exporter_is_started(
    environment: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    environment["EPISIGHT_DISABLED"] = "1"
    assert cli_run.run_command(["true"], False, environment) == 0
    assert "unwatched" in capfd.readouterr().err


def test_signals_are_handed_on(episight: Command) -> None:
    episight.environment["EPISIGHT_DISABLED"] = "1"
    code = (
        "import signal, sys; print('up', flush=True);"
        "sys.exit(5 if signal.sigwait([signal.SIGTERM]) else 0)"
    )
    block = "import signal; signal.pthread_sigmask(0, [signal.SIGTERM]);"
    child = episight.start("run", "--", sys.executable, "-c", block + code)
    child.wait_for("up")
    child.signal(signal.SIGTERM)
    assert child.wait() == 5


def test_run_uses_an_exporter_that_is_there(
    episight: Command, exporter_process: Callable[..., Exporter]
) -> None:
    exporter = exporter_process()
    episight.environment["EPISIGHT_ENDPOINT"] = exporter.ingest
    status, output, errors = episight(
        "run", "--", "sh", "-c", "echo $EPISIGHT_ENDPOINT"
    )
    assert (status, output) == (0, exporter.ingest + "\n")
    assert f"an exporter answers at {exporter.ingest}" in errors
    assert exporter.process.status is None, "it was not ours to stop"


def test_run_starts_an_exporter_and_stops_it_afterwards(episight: Command) -> None:
    check = [sys.executable, "-m", "experiment_hooks.cli", "check"]
    status, output, errors = episight("run", "--", *check)
    assert status == 0, output + errors
    assert "would be seen" in output
    assert re.search(r"the page is http://127\.0\.0\.1:\d+", errors)
    assert not _listens(episight.environment["EPISIGHT_ENDPOINT"])


def test_run_says_the_token_to_a_terminal_and_into_no_file(episight: Command) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "experiment_hooks.cli", "run", "--", "true"]
    options = {"stdin": subprocess.DEVNULL, "env": episight.environment}
    try:
        with subprocess.Popen(command, stderr=theirs, **options) as started:
            os.close(theirs)
            said = b""
            with contextlib.suppress(OSError):  # the terminal's end
                while data := os.read(ours, 4096):
                    said += data
    finally:
        os.close(ours)
    assert started.returncode == 0
    token = cli_token.find(episight.environment)
    assert f"/?token={token} " in said.decode()
    _, output, errors = episight("run", "--", "true")
    assert "the page is http://" in errors
    assert str(token) not in output + errors


def test_a_started_exporter_may_be_kept(episight: Command) -> None:
    endpoint = episight.environment["EPISIGHT_ENDPOINT"]
    status, _, errors = episight("run", "--keep", "true")
    said = re.search(r"to stop it: kill (\d+)", errors)
    assert said, errors
    try:
        assert status == 0
        assert ask(endpoint).welcome is not None
    finally:
        os.kill(int(said[1]), signal.SIGTERM)
    eventually(lambda: not _listens(endpoint), 20)


def test_a_busy_web_port_does_not_matter(episight: Command) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        episight.environment["EPISIGHT_WEB_PORT"] = str(port)
        check = [sys.executable, "-m", "experiment_hooks.cli", "check"]
        status, output, errors = episight("run", "--", *check)
    assert status == 0, output + errors
    assert f":{port} " not in errors


def test_an_exporter_that_cannot_start_is_explained(episight: Command) -> None:
    journal = Path(episight.environment["EPISIGHT_JOURNAL_PATH"])
    journal.mkdir()  # a directory is no journal
    status, output, errors = episight("run", "--", "echo", "it runs")
    assert (status, output) == (0, "it runs\n")
    assert "ended at once" in errors
    assert "the command runs all the same" in errors


def test_an_address_file_is_written_where_experiments_look_for_it(
    episight: Command, tmp_path: Path
) -> None:
    episight.environment["EPISIGHT_ENDPOINT"] = f"file://{tmp_path}/address"
    check = [sys.executable, "-m", "experiment_hooks.cli", "check"]
    status, output, errors = episight("run", "--", *check)
    assert status == 0, output + errors
