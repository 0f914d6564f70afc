"""``episight run``: anybody's command, with an exporter started where none answers.

The exporter is only ever a child process, on whatever Python has it. What is said here
goes to standard error: standard output belongs to the command. And whatever is wrong
with the exporter, the command runs: it is the experiment.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional
from urllib.parse import unquote, urlparse

from experiment_hooks.cli_check import Answer, ask, dialer_of, host_and_port
from experiment_hooks.cli_token import link
from experiment_hooks.settings import Settings

READY_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAMES = ("python3", *(f"python3.{minor}" for minor in range(15, 10, -1)), "python")
_FORWARDED = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


def run_command(command: List[str], keep: bool, environ: Mapping[str, str]) -> int:
    """Run ``command`` where an exporter listens, and return its exit status."""
    settings = Settings.from_environment(environ)
    env = dict(environ)
    if settings.disabled:
        _say("EPISIGHT_DISABLED is set: the command runs unwatched")
        return follow(command, env)
    dialer = dialer_of(settings)
    place = dialer.find()
    address = place.address if place else None
    answer = Answer(False) if place is None else ask(dialer, place, settings.run_id)
    if address is not None and answer.connects:
        _say(_described(address, answer))
        env["EPISIGHT_ENDPOINT"] = settings.endpoint
        return follow(command, env)
    try:
        exporter = _start_exporter(settings, environ)
    except CannotStartError as reason:
        where = address or settings.endpoint
        _say(f"nothing listens at {where}, and {reason}; the command runs all the same")
        return follow(command, env)
    try:
        # A job's output is often a file that others can read: no token goes there.
        page = link(exporter.web, environ) if sys.stderr.isatty() else exporter.web
        _say(f"the page is {page} (the exporter's log: {exporter.log})")
        env["EPISIGHT_ENDPOINT"] = exporter.ingest
        return follow(command, env)
    finally:
        if keep:
            pid = exporter.process.pid
            _say(f"the exporter stays, on {exporter.web}; to stop it: kill {pid}")
        else:
            exporter.stop()


def _described(address: str, answer: Answer) -> str:
    if answer.welcome is not None:
        page = f", its page is {answer.page}" if answer.page else ""
        return f"an exporter answers at {address}{page}"
    if answer.refused is not None:
        return f"the exporter at {address} refuses: {answer.refused.sentence}"
    return f"what listens at {address} is no exporter: {answer.detail}"


def follow(command: List[str], env: Mapping[str, str]) -> int:
    """Run a command, hand on the signals that come, and return its exit status.

    As a shell has it: 128 + N for one that signal N ended, 127 for an unknown one.
    """
    child: Optional[subprocess.Popen[bytes]] = None
    early: List[int] = []

    def forward(number: int, _frame: object) -> None:
        if child is None:
            early.append(number)
        elif not _sent_by_terminal(number):
            child.send_signal(number)

    # What is ignored (by nohup, say) stays ignored, here and in the child.
    wanted = [n for n in _FORWARDED if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in wanted}
    try:
        child = subprocess.Popen(command, env=dict(env))
        for number in early:
            child.send_signal(number)
        status = child.wait()
    except OSError as error:
        _say(f"cannot run {command[0]}: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _sent_by_terminal(number: int) -> bool:
    """Whether the child has it already: Ctrl-C reaches all in the foreground."""
    if number not in (signal.SIGINT, getattr(signal, "SIGQUIT", None)):
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# --- an exporter of one's own --------------------------------------------------------


class CannotStartError(Exception):
    """No exporter can be started here; the message ends a sentence."""


class _Started(NamedTuple):
    """An exporter that this process started and that is ready."""

    process: "subprocess.Popen[bytes]"
    web: str
    ingest: str
    log: str

    def stop(self) -> None:
        """End it: it writes down all that it was told before it goes."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _start_exporter(settings: Settings, environ: Mapping[str, str]) -> _Started:
    overrides = _overrides(settings.endpoint)
    python = exporter_python(environ)
    if python is None:
        raise CannotStartError(
            "no Python 3.11 or newer with the exporter was found to start one "
            "(pip install 'episight[exporter]')"
        )
    log = os.path.join(os.path.dirname(settings.spool_dir), "exporter.log")
    try:
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="episight-") as directory:
            own = os.path.join(directory, "address.json")
            address_file = overrides.setdefault("ingest.address_file", own)
            # The page's port may be taken by anything: then any other will do.
            for more in ({}, {"web.port": "0"}):
                command = [python, "-P", "-m", "exporter"]
                command += [
                    f"{key}={_quoted(value)}"
                    for key, value in {**overrides, **more}.items()
                ]
                started = _started(command, environ, address_file, log)
                if started is not None:
                    return started
    except OSError as error:
        raise CannotStartError(f"none could be started: {error}") from None
    raise CannotStartError(
        f"the one started here ended at once: {_last_line(log)} ({log})"
    )


def _started(
    command: List[str], environ: Mapping[str, str], address_file: str, log: str
) -> Optional[_Started]:
    """Start an exporter and wait until it is ready; None if it ends before."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address_file)
    with open(log, "ab") as output:
        # A session of its own: Ctrl-C is for the command, which still has to be heard.
        process = subprocess.Popen(
            command,
            env=_exporter_environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError):
                with open(address_file, encoding="utf-8") as file:
                    found = json.load(file)
                return _Started(process, found["web"], found["ingest"], log)
            time.sleep(0.02)
    except BaseException:
        process.kill()
        raise
    if process.poll() is not None:
        return None
    process.kill()
    process.wait()
    raise CannotStartError(
        f"the one started here was not ready within {READY_TIMEOUT:g} s"
    )


def _overrides(endpoint: str) -> Dict[str, str]:
    """What makes an exporter listen where the experiments look for one."""
    if endpoint.startswith("file://"):
        path = os.path.expanduser(unquote(urlparse(endpoint).path))
        return {"ingest.port": "0", "ingest.address_file": path}
    try:
        host, port = host_and_port(endpoint)
    except ValueError as error:
        raise CannotStartError(str(error)) from None
    if host not in _LOOPBACK:
        raise CannotStartError("that is another machine, so none is started here")
    return {
        "ingest.port": str(port),
        "ingest.host": "127.0.0.1" if host == "localhost" else host,
    }


def _quoted(value: str) -> str:
    return value if value.isdigit() else "'" + value.replace("'", "\\'") + "'"


def exporter_python(environ: Mapping[str, str]) -> Optional[str]:
    """A Python that has the exporter and what it needs: this one, else one on PATH."""
    if sys.version_info >= (3, 11) and all(
        importlib.util.find_spec(name) for name in ("exporter", "hydra", "flask")
    ):
        return sys.executable
    for python in _other_pythons(environ):
        # -P, new in 3.11: what lies in the working directory is not what is meant.
        command = [python, "-P", "-c", "import exporter, hydra, flask"]
        try:
            found = subprocess.run(
                command,
                env=_exporter_environment(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if found.returncode == 0:
            return python
    return None


def _other_pythons(environ: Mapping[str, str]) -> Iterator[str]:
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    made_by_run_sh = os.path.join(checkout, ".venv", "bin", "python")
    seen = {os.path.abspath(sys.executable)}
    directories = environ.get("PATH", os.defpath).split(os.pathsep)
    named = (shutil.which(name, path=d) for name in _NAMES for d in directories)
    for python in (shutil.which(made_by_run_sh), *named):
        if python is not None and os.path.abspath(python) not in seen:
            seen.add(os.path.abspath(python))
            yield python


def _exporter_environment(environ: Mapping[str, str]) -> Dict[str, str]:
    """The caller's, with this very checkout findable where it is not installed."""
    env = dict(environ)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.basename(here) not in ("site-packages", "dist-packages"):
        rest = env.get("PYTHONPATH")
        env["PYTHONPATH"] = here + (os.pathsep + rest if rest else "")
    return env


def _last_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read()[-4000:].strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _say(text: str) -> None:
    print(f"episight: {text}", file=sys.stderr, flush=True)
