"""What the tests share: waiting, other Pythons, and real parts as child processes.

Rules of this module:

- It runs on Python 3.8, with the standard library only, and imports neither package.
- Nothing here sleeps for a fixed time: all waiting is for an event, with a deadline.
- Every process started here is stopped by its owner (see ``conftest.py``), and what it
  wrote is shown when the test fails.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

import pytest

ROOT = Path(__file__).resolve().parent.parent
IN_CI = bool(os.environ.get("CI"))
PATIENCE = 3.0 if IN_CI else 1.0
"""By how much every deadline is longer: a machine of CI may be slow and have much to do
at once, and nobody sits there waiting for a failure."""

NEWEST = "newest"
"""Stands for the newest Python that test.sh found; see :func:`python_for`."""

THIS = ".".join(str(number) for number in sys.version_info[:2])
"""The version of the Python that runs the tests."""
RUNS_EXPORTER = sys.version_info >= (3, 11)
once = pytest.mark.skipif(THIS != "3.11", reason="it takes long: run once, on 3.11")

T = TypeVar("T")


# --- waiting and requiring -----------------------------------------------------------


def eventually(predicate: Callable[[], T], deadline: float = 10.0, what: str = "") -> T:
    """Call ``predicate`` until it is true, and return what it returned.

    An AssertionError or OSError (so: a refused connection) counts as "not yet".

    Raises:
        AssertionError: it was not true within ``deadline`` seconds (in CI, within
            ``PATIENCE`` as many); says what was last.
    """
    deadline *= PATIENCE
    end = time.monotonic() + deadline
    pause = 0.005
    while True:
        last: object
        try:
            value = predicate()
        except (AssertionError, OSError) as error:
            last = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= end:
            waited = what or getattr(predicate, "__name__", "it")
            raise AssertionError(f"{waited}: not within {deadline:g} s; last: {last!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def as_name(value: object) -> str:
    """``value`` as a test's name has it: short, and the same in each process, as the
    workers of pytest-xdist have to agree on the names."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:60]


def require(condition: object, reason: str) -> None:
    """Skip the test with the reason shown; where CI is set, fail it instead."""
    if not condition:
        if IN_CI:
            pytest.fail(f"missing in CI: {reason}", pytrace=False)
        pytest.skip(reason)


def chromium() -> Optional[str]:
    """The browser, if it is installed: without windows it takes a third of the CPU."""
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- Pythons -------------------------------------------------------------------------


def _works(python: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run(
            [python, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    said = found.stdout.decode().strip()
    return found.returncode == 0 and version in (NEWEST, said)


def _candidates(version: str, bare: bool) -> Iterator[str]:
    if version == THIS:
        yield sys.executable
    named = os.environ.get("TEST_PYTHON_" + version.upper().replace(".", "_"))
    if named:
        yield named
    digits = version.replace(".", "")
    environments = [ROOT / ".venvs" / f"py{digits}"]
    if version == "3.11":
        environments.insert(0, ROOT / ".venv")
    if version == NEWEST:
        environments = sorted((ROOT / ".venvs").glob("py3[0-9][0-9]"), reverse=True)
    for environment in environments:
        yield str(environment / "bin" / "python")
    if bare and version != NEWEST:
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        for installed in sorted(pyenv.glob(f"versions/{version}.*"), reverse=True):
            yield str(installed / "bin" / "python")
        on_path = shutil.which(f"python{version}")
        if on_path:
            yield on_path


def python_for(version: str, bare: bool = False) -> str:
    """An interpreter of ``version`` ("3.8", "3.11" or :data:`NEWEST`), or skip.

    It has what the tests need installed: ``TEST_PYTHON_3_8`` and so on, set by test.sh,
    or the environments that test.sh made. With ``bare`` any interpreter of that version
    will do: one from pyenv or from PATH too.
    """
    for python in _candidates(version, bare):
        if (shutil.which(python) or Path(python).exists()) and _works(python, version):
            return python
    require(False, f"no Python {version} found; ./test.sh makes one ready")
    raise AssertionError("not reached")


# --- child processes -----------------------------------------------------------------


def is_the_callers(name: str) -> bool:
    """Whether that variable is of whoever calls the tests, and no business of theirs.

    Python's own would change how a child behaves: unbuffered, it writes a line in
    pieces, and what its other threads write lands in between.
    """
    kept = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return name.startswith(("EPISIGHT_", "OTEL_", "PYTHON")) and name not in kept


def clean_environment(home: Path, extra: Mapping[str, str] = {}) -> Dict[str, str]:
    """The environment for a child: none of our variables, state below ``home``."""
    env = {
        name: value for name, value in os.environ.items() if not is_the_callers(name)
    }
    env["XDG_STATE_HOME"] = str(home / "state")
    env["PYTHONPATH"] = str(ROOT)
    env["PYTHONFAULTHANDLER"] = "1"  # Child.wait lets them say where they hang
    env.update(extra)
    return env


class Child:
    """A child process in a session of its own, its output in a file.

    ``stop`` ends it and all that it started; stopping twice is fine.
    """

    def __init__(
        self,
        command: List[str],
        log: Path,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[Path] = None,
    ) -> None:
        self.command = command
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=None if cwd is None else str(cwd),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> Optional[int]:
        """None while it runs; -15 for one that SIGTERM ended."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All that it has written so far, standard output and error."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, deadline: float = 30.0) -> int:
        """Wait for its end and return its status."""
        deadline *= PATIENCE
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.abort()
            raise AssertionError(
                f"{self.command} did not end within {deadline:g} s:\n{self.output}"
            ) from None

    def wait_for(self, text: str, deadline: float = 30.0) -> str:
        """Wait until it has written ``text`` (a regular expression); all so far."""

        def written() -> str:
            found = re.search(text, self.output)
            if found is None and self.status is not None:
                raise RuntimeError(f"ended ({self.status}):\n{self.output}")
            return self.output if found else ""

        return eventually(written, deadline, f"{text!r} in the output")

    def abort(self) -> None:
        """End it and all that it started; each Python writes where its threads are.

        faulthandler has to be on in them, as in :func:`clean_environment`. Where there
        is a gdb it tells of C too: a process may hang where Python has no frame left.
        """
        session = self._session()
        gdb = shutil.which("gdb")
        for pid in session if gdb else []:
            command = [str(gdb), "-p", str(pid), "-batch", "-ex", "thread apply all bt"]
            hung = contextlib.suppress(subprocess.TimeoutExpired)
            with hung, self.log.open("a") as log:
                subprocess.run(command, check=False, stdout=log, stderr=log, timeout=20)
        for pid in session:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
            with contextlib.suppress(AssertionError):  # one after the other: one log
                eventually(lambda pid=pid: pid not in self._session(), 5.0)  # type: ignore[misc]

    def _session(self) -> List[int]:
        """The processes of its session that have not ended, oldest first."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if state != "Z" and int(session) == self._process.pid:
                    found.append(int(path.parent.name))
        return sorted(found)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.wait(10)

    def terminate(self, deadline: float = 20.0) -> int:
        """SIGTERM, and return the status with which it ended."""
        if self.status is None:
            self._process.terminate()
        return self.wait(deadline)

    def end(self) -> None:
        """SIGTERM for one that has processes of its own to end; then :meth:`stop`."""
        if self.status is None:
            with contextlib.suppress(AssertionError):
                self.terminate()
        self.stop()

    def stop(self) -> None:
        """End it and its process group, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


class Finished(NamedTuple):
    """A child Python that has ended."""

    status: int
    output: str


class Pythons:
    """Starts pieces of Python in processes of their own.

    ``code`` is a path, or source text, which is dedented. ``python`` is an interpreter,
    or a version for :func:`python_for`; without it, the one that runs the tests.
    """

    def __init__(self, directory: Path, show_log: Callable[[Path], None]) -> None:
        self.directory = directory
        self.children: List[Child] = []
        self._show_log = show_log

    def start(
        self,
        code: Union[str, Path],
        *args: str,
        env: Mapping[str, str] = {},
        python: Optional[str] = None,
    ) -> Child:
        """Start it and return at once; at the test's end it is stopped."""
        number = len(self.children)
        if isinstance(code, str):
            path = self.directory / f"experiment_{number}.py"
            path.write_text(textwrap.dedent(code))
        else:
            path = code
        if python is None:
            python = sys.executable
        elif python == NEWEST or re.fullmatch(r"\d\.\d+", python):
            python = python_for(python)
        child = Child(
            [python, str(path), *args],
            self.directory / f"experiment_{number}.log",
            clean_environment(self.directory, env),
            self.directory,
        )
        self.children.append(child)
        self._show_log(child.log)
        return child

    def __call__(
        self,
        code: Union[str, Path],
        *args: str,
        env: Mapping[str, str] = {},
        python: Optional[str] = None,
        deadline: float = 60.0,
        status: Optional[int] = 0,
    ) -> Finished:
        """Run it to its end; fail unless it ended with ``status`` (None: any)."""
        child = self.start(code, *args, env=env, python=python)
        ended = child.wait(deadline)
        if status is not None:
            assert ended == status, f"status {ended}, not {status}:\n{child.output}"
        return Finished(ended, child.output)

    def stop(self) -> None:
        for child in self.children:
            child.stop()


# --- HTTP ----------------------------------------------------------------------------


class Response(NamedTuple):
    """An HTTP answer, errors included."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http(
    url: str,
    method: str = "GET",
    body: Optional[bytes] = None,
    headers: Mapping[str, str] = {},
    deadline: float = 10.0,
) -> Response:
    """One request without a proxy; an error status is an answer like any other.

    Raises:
        OSError: there was no answer, or not all of it.
    """
    request = urllib.request.Request(url, body, dict(headers), method=method)
    try:
        try:
            answer = _opener.open(request, timeout=deadline * PATIENCE)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return Response(answer.code, dict(answer.headers), answer.read())
    except HTTPException as error:  # it was killed while it answered
        raise ConnectionError(str(error)) from error


class MetricSample(NamedTuple):
    """One line of the Prometheus text format."""

    name: str
    labels: Dict[str, str]
    value: float


_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_LABELS = r'(?:\w+="(?:[^"\\]|\\.)*",?)*'
_LINE = re.compile(rf"^([A-Za-z_:][\w:]*)(?:\{{({_LABELS})\}})?\s+(\S+)")
_ESCAPE = re.compile(r"\\(.)")


def parse_metrics(text: str) -> List[MetricSample]:
    """The samples of a page of metrics; enough for what tests ask of one."""
    found = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)  # what follows is a time, an exemplar
        if match is None:
            raise AssertionError(f"no line of the text format: {line!r}")
        labels = {
            name: _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], value)
            for name, value in _LABEL.findall(match[2] or "")
        }
        found.append(MetricSample(match[1], labels, float(match[3])))
    return found


def promtool_says(metrics: Union[str, bytes]) -> str:
    """What ``promtool check metrics`` has against a page of metrics; "" is nothing."""
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (Debian: apt install prometheus)")
    checked = subprocess.run(
        [str(promtool), "check", "metrics"],
        input=metrics if isinstance(metrics, bytes) else metrics.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        check=False,
    )
    said = checked.stdout.decode()
    assert checked.returncode == 0 or said, "promtool failed and said nothing"
    return said


# --- the exporter --------------------------------------------------------------------


class Exporter:
    """A real ``python -m exporter``, on ports of its own, its journal in a directory.

    It is started in an empty directory, and nothing of the tests' own environment
    reaches it. ``restart`` keeps ports and journal.
    """

    def __init__(
        self,
        directory: Path,
        *overrides: str,
        env: Mapping[str, str] = {},
        python: Optional[str] = None,
        how: Sequence[str] = ("-m", "exporter"),
    ) -> None:
        self._how = how
        self.directory = directory
        self.journal = directory / "journal.sqlite"
        self.address_file = directory / "address.json"
        self.log = directory / "exporter.log"
        self.cwd = directory / "started_here"
        self.cwd.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self._env = clean_environment(directory, env)
        self._overrides = overrides
        self._python = python or python_for(THIS if RUNS_EXPORTER else "3.11")
        self._child: Optional[Child] = None
        self._ports: Tuple[int, int] = (0, 0)
        self.web = ""
        """Where the page and the API are: ``http://127.0.0.1:PORT``."""
        self.ingest = ""
        """Where the hooks connect to: ``tcp://127.0.0.1:PORT``."""
        self.tap = ""
        """Where others listen, if anywhere."""

    # --- its life ---

    def launch(self) -> Child:
        """Start the process without waiting for it."""
        assert self._child is None or self._child.status is not None, "it runs already"
        with contextlib.suppress(FileNotFoundError):
            self.address_file.unlink()
        own = {
            "journal.path": str(self.journal),
            "web.port": str(self._ports[0]),
            "ingest.port": str(self._ports[1]),
            "ingest.address_file": str(self.address_file),
        }
        given = {text.split("=", 1)[0].lstrip("+") for text in self._overrides}
        arguments = [f"{key}={value}" for key, value in own.items() if key not in given]
        command = [self._python, *self._how, *arguments, *self._overrides]
        self._child = Child(command, self.log, self._env, self.cwd)
        return self._child

    def start(self, deadline: float = 30.0) -> "Exporter":
        """Start the process and wait until it is ready."""
        child = self.launch()

        def addresses() -> Any:
            if child.status is not None:
                raise RuntimeError(f"ended ({child.status}):\n{self.output}")
            with contextlib.suppress(FileNotFoundError):
                return json.loads(self.address_file.read_text())

        found = eventually(addresses, deadline, f"the exporter ready\n{self.output}")
        self.web, self.ingest = found["web"].rstrip("/"), found["ingest"]
        self.tap = found.get("tap", "")
        self._ports = (_port(self.web), _port(self.ingest))
        eventually(lambda: self.get("/-/ready").status == 200, deadline, "/-/ready")
        return self

    @property
    def process(self) -> Child:
        assert self._child is not None, "not started"
        return self._child

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()

    def terminate(self, deadline: float = 20.0) -> int:
        """SIGTERM, and return the status with which it ended."""
        return self.process.terminate(deadline)

    def restart(self, deadline: float = 30.0) -> "Exporter":
        """Start it again with the same ports and journal; ends it where it runs."""
        if self.process.status is None:
            self.terminate()
        return self.start(deadline)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    # --- what it is asked ---

    @property
    def env(self) -> Dict[str, str]:
        """The variables with which an experiment finds it."""
        return {"EPISIGHT_ENDPOINT": self.ingest}

    @property
    def token(self) -> str:
        """What it made itself at its start, in a file beside its journal."""
        return (self.journal.parent / "token").read_text().strip()

    @property
    def bearer(self) -> Dict[str, str]:
        """The header of a program that has the token."""
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, accept: str = "", deadline: float = 10.0) -> Response:
        headers = {"Accept": accept} if accept else {}
        return http(self.web + path, headers=headers, deadline=deadline)

    def post(self, path: str, body: object, **headers: str) -> Response:
        sent = {"Content-Type": "application/json", **self.bearer, **headers}
        return http(self.web + path, "POST", json.dumps(body).encode(), sent)

    def delete(self, path: str) -> Response:
        return http(self.web + path, "DELETE", headers=self.bearer)

    def runs(self) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = self.get("/api/v1/runs").json()["runs"]
        return found

    def run(self, run: str) -> Dict[str, Any]:
        """One run of the API; "not yet" for :func:`eventually` where it is unknown."""
        answer = self.get("/api/v1/runs/" + urllib.parse.quote(run, safe=""))
        assert answer.status == 200, answer
        found: Dict[str, Any] = answer.json()
        return found

    def episodes(self, run: str, query: str = "") -> List[Dict[str, Any]]:
        quoted = urllib.parse.quote(run, safe="")
        answer = self.get(f"/api/v1/runs/{quoted}/episodes{query}")
        assert answer.status == 200, answer
        found: List[Dict[str, Any]] = answer.json()["episodes"]
        return found

    def indices(self, run: str) -> List[int]:
        """The index of each episode, of all pages, in the order they are listed."""
        found: List[int] = []
        quoted = urllib.parse.quote(run, safe="")
        path = f"/api/v1/runs/{quoted}/episodes?limit=1000"
        after = ""
        while True:
            answer = self.get(path + after)
            assert answer.status == 200, answer
            page = answer.json()
            found += [one["index"] for one in page["episodes"]]
            if not page["next"]:
                return found
            after = f"&after={page['next']}"

    def samples(self, name: str, **labels: str) -> List[MetricSample]:
        """The samples of that name on /metrics that have these labels."""
        return [
            sample
            for sample in parse_metrics(self.get("/metrics").text)
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> Optional[float]:
        """The value of the one such sample; None: there is none."""
        found = self.samples(name, **labels)
        assert len(found) < 2, f"several series of {name}: {found}"
        return found[0].value if found else None


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


# --- Prometheus ----------------------------------------------------------------------


class Prometheus:
    """A real Prometheus that scrapes given addresses, its data in a directory."""

    def __init__(
        self,
        directory: Path,
        targets: List[str],
        *,
        interval: str = "500ms",
        rules: Sequence[Path] = (),
        config: str = "",
    ) -> None:
        """``targets`` are host:port or addresses; ``config`` is the whole file."""
        binary = shutil.which("prometheus")
        require(binary, "Prometheus is not installed (Debian: apt install prometheus)")
        directory.mkdir(parents=True, exist_ok=True)
        hosts = [target.split("//")[-1].rstrip("/") for target in targets]
        # JSON is YAML, so what a path holds needs no quoting of our own.
        written = config or json.dumps(
            {
                "global": {
                    "scrape_interval": interval,
                    "scrape_timeout": interval,
                    "evaluation_interval": interval,
                },
                "rule_files": [str(path) for path in rules],
                "scrape_configs": [
                    {"job_name": "episight", "static_configs": [{"targets": hosts}]}
                ],
            }
        )
        (directory / "prometheus.yml").write_text(written)
        address = f"127.0.0.1:{free_port()}"
        self.web = f"http://{address}"
        command = [
            str(binary),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
            "--web.enable-lifecycle",
            "--enable-feature=exemplar-storage",
            "--storage.tsdb.retention.time=2h",
        ]
        self.process = Child(command, directory / "prometheus.log", cwd=directory)

    def wait_ready(self, deadline: float = 20.0) -> None:
        def ready() -> bool:
            if self.process.status is not None:
                raise RuntimeError(f"Prometheus ended:\n{self.process.output}")
            return http(self.web + "/-/ready").status == 200

        eventually(ready, deadline, "Prometheus ready")

    def api(self, path: str, **query: str) -> Any:
        """The ``data`` of an answer of /api/v1."""
        url = f"{self.web}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        answer = http(url).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> List[MetricSample]:
        """An instant query; ``name`` is empty where the answer has none."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [MetricSample("", {}, float(data["result"][1]))]
        found = []
        for series in data["result"]:
            labels = dict(series["metric"])
            name = labels.pop("__name__", "")
            found.append(MetricSample(name, labels, float(series["value"][1])))
        return found

    def value(self, expression: str) -> Optional[float]:
        """The value of a query with one answer; None: there is none."""
        found = self.query(expression)
        assert len(found) < 2, f"several series for {expression}: {found}"
        return found[0].value if found else None

    def alerts(self) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = self.api("alerts")["alerts"]
        return found

    def stop(self) -> None:
        self.process.stop()
