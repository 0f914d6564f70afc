"""Fixtures for all tests; the work is done in ``support.py``.

On a Python below 3.11 only the hooks' tests are collected: a file that imports what
needs a newer one, itself or by a module of the tests that it imports, is left out. And
what takes long and says little about the Python that it runs on is run once: partly on
3.11, partly on the newest one where ``test.sh`` has found that, too. The hooks' tests
are for the oldest and the newest: ``TEST_THE_HOOKS_ELSEWHERE`` leaves them out.
"""

import itertools
import os
import re
import signal
from pathlib import Path
from typing import Any, Callable, Generator, Iterator, List, Optional, Set

import hypothesis
import pytest

from tests import support
from tests.run_sh import RunSh
from tests.support import Exporter, Prometheus, Pythons

# --- what is collected ---------------------------------------------------------------

_NEWER = (
    "exporter|experiments|prometheus_client|opentelemetry|grpc|google|hydra|omegaconf"
    "|flask|flask_sock|simple_websocket|werkzeug|PIL|gymnasium|playwright|yaml"
    "|grafana|grafana_foundation_sdk"
)
_IMPORTS_NEWER = re.compile(rf"^(?:from|import) (?:{_NEWER})\b", re.MULTILINE)
_IMPORTS_TESTS = re.compile(r"^(?:from|import) tests\.([\w.]+)", re.MULTILINE)
_ON_3_11 = {
    "monty",  # a folder
    "test_accessible.py",
    "test_e2e_commands.py",
    "test_e2e_disk.py",
    "test_e2e_faults.py",
    "test_e2e_fleet.py",
    "test_e2e_lastseen.py",
    "test_e2e_life.py",
    "test_e2e_network.py",
    "test_e2e_stores.py",
    "test_e2e_traces.py",
    "test_e2e_verdicts.py",
    "test_environment_sh.py",
    "test_existing_stack.py",
    "test_flooded.py",
    "test_grafana.py",
    "test_image.py",
    "test_kubernetes.py",
    "test_live_episodes.py",
    "test_live_moment.py",
    "test_live_monty.py",
    "test_live_views.py",
    "test_monty_sh.py",
    "test_rules.py",
    "test_run_sh.py",
    "test_stack.py",
    "test_wheel.py",
}
_ON_THE_NEWEST = {
    "test_experiments.py",
    "test_keys.py",
    "test_live_commands.py",
    "test_live_page.py",
    "test_live_trends.py",
    "test_notify.py",
    "test_reverse_proxy.py",
    "test_salvage.py",
    "test_settings_exporter.py",
    "test_strangers.py",
    "test_tap.py",
}


# A shell starts what runs in its background with SIGINT ignored, and children inherit
# that; here they are interrupted as people interrupt theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CI tries the same examples each time, so that its verdict is about the change; people
# explore: what they find becomes a fix, and an example of its own. How long an example
# takes says more about the machine than about what is tested.
hypothesis.settings.register_profile(
    "ours",
    derandomize=support.IN_CI,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ours")


def _needs_newer(path: Path, seen: Set[Path]) -> bool:
    if path in seen or not path.exists():
        return False
    seen.add(path)
    source = path.read_text(encoding="utf-8")
    if _IMPORTS_NEWER.search(source):
        return True
    modules = _IMPORTS_TESTS.findall(source)
    root = Path(__file__).parent
    return any(
        _needs_newer(root.joinpath(*module.split(".")).with_suffix(".py"), seen)
        for module in modules
    )


def pytest_ignore_collect(collection_path: Path) -> Optional[bool]:
    name = collection_path.name
    if name in _ON_3_11 and support.THIS != "3.11":
        return True
    newest_too = bool(os.environ.get("TEST_PYTHON_NEWEST"))
    if name in _ON_THE_NEWEST and support.THIS == "3.11" and newest_too:
        return True
    if collection_path.suffix != ".py":
        return None
    if support.RUNS_EXPORTER:
        elsewhere = os.environ.get("TEST_THE_HOOKS_ELSEWHERE")
        return True if elsewhere and _is_for_the_hooks(collection_path) else None
    return True if _needs_newer(collection_path, set()) else None


def _is_for_the_hooks(path: Path) -> bool:
    """Whether a file runs on the oldest Python too, and none of it on 3.11 alone."""
    if not path.name.startswith("test_") or path.name in _ON_3_11:
        return False
    source = path.read_text(encoding="utf-8")
    alone = "@once" in source or "run once, on 3.11" in source
    return not alone and not _needs_newer(path, set())


_LONGEST = (
    "test_live_page.py",
    "test_strangers.py",
    "test_e2e_sources.py",
    "test_keys.py",
    "test_benchmarks.py",
    "test_e2e_traces.py",
    "test_notify.py",
    "test_e2e_verdicts.py",
    "test_live_commands.py",
    "test_e2e_faults.py",
    "test_live_trends.py",
    "test_salvage.py",
    "test_experiments.py",
    "test_run_sh.py",
    "test_e2e_life.py",
    "test_accessible.py",
    "test_live_moment.py",
)
"""From some 100 seconds to some 40."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """What takes long begins first, so that no worker is left alone with it; and each
    test's time is as long as its deadlines are (``support.PATIENCE``)."""
    first = [*_LONGEST, *sorted(_ON_3_11 | _ON_THE_NEWEST)]
    order = {name: number for number, name in reversed(list(enumerate(first)))}
    items.sort(key=lambda item: order.get(item.path.name, len(first)))
    for item in items:
        given = item.get_closest_marker("timeout")
        seconds = given.args[0] if given else float(item.config.getini("timeout"))
        patient = pytest.mark.timeout(seconds * support.PATIENCE)
        item.add_marker(patient, append=False)


# --- logs of what failed -------------------------------------------------------------

_logs = pytest.StashKey[List[Path]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        for path in item.stash.get(_logs, []):
            if path.exists():
                text = path.read_text(errors="replace")[-20_000:]
                report.sections.append((str(path), text))
    return report


@pytest.fixture
def show_log(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Call it with a file: what is in it is shown when the test fails."""
    paths: List[Path] = request.node.stash.setdefault(_logs, [])
    return paths.append


# --- the surroundings ----------------------------------------------------------------


_states = itertools.count()


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test sees the user's own settings, and none writes into the user's home."""
    for name in list(os.environ):
        if support.is_the_callers(name):
            monkeypatch.delenv(name)
    # One each: what one test leaves in its spool is not for another test's exporter,
    # which may have got the same port.
    state = tmp_path_factory.getbasetemp() / f"state-{next(_states)}"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """:func:`support.eventually`, for tests that like it as a fixture."""
    return support.eventually


# --- the hooks' other side -----------------------------------------------------------


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A ``testing.Listener`` that the hooks of this process and its children find.

    At the end no run may be open, and the hooks may have said nothing malformed.
    """
    from experiment_hooks import current_run
    from experiment_hooks.testing import Listener

    with Listener() as found:
        monkeypatch.setenv("EPISIGHT_ENDPOINT", found.endpoint)
        yield found
    left = current_run()
    while current_run() is not None:
        current_run().close()  # type: ignore[union-attr]
    assert left is None, "the test left a run open"
    assert found.complaints == []


# --- processes -----------------------------------------------------------------------


@pytest.fixture
def run_python(tmp_path: Path, show_log: Callable[[Path], None]) -> Iterator[Pythons]:
    """``run_python(code, env=..., python="3.8")`` runs it to its end;
    ``run_python.start(...)`` returns at once."""
    pythons = Pythons(tmp_path, show_log)
    yield pythons
    pythons.stop()


@pytest.fixture
def run_sh(tmp_path: Path, show_log: Callable[[Path], None]) -> Iterator[RunSh]:
    """``run_sh("--exit", "quick", PATH=...)`` starts it and returns at once."""
    starts = RunSh(tmp_path, show_log)
    yield starts
    starts.end()
    left = list(starts.elsewhere.iterdir())
    assert left == [], "it writes nothing where it is started"


@pytest.fixture
def exporter_process(
    tmp_path: Path, show_log: Callable[[Path], None]
) -> Iterator[Callable[..., Exporter]]:
    """``exporter_process("run.grace_seconds=1", env=...)``: a real one, ready.

    ``wait=False`` does not start it: call ``launch()`` or ``start()``.
    """
    made: List[Exporter] = []

    def make(*overrides: str, wait: bool = True, **options: Any) -> Exporter:
        directory = tmp_path / f"exporter_{len(made)}"
        exporter = Exporter(directory, *overrides, **options)
        made.append(exporter)
        show_log(exporter.log)
        return exporter.start() if wait else exporter

    yield make
    for exporter in made:
        exporter.stop()


@pytest.fixture
def prometheus_process(
    tmp_path: Path, show_log: Callable[[Path], None]
) -> Iterator[Callable[..., Prometheus]]:
    """``prometheus_process(exporter.web)``: a real one that scrapes it, ready."""
    made: List[Prometheus] = []

    def make(*targets: str, **options: Any) -> Prometheus:
        directory = tmp_path / f"prometheus_{len(made)}"
        prometheus = Prometheus(directory, list(targets), **options)
        made.append(prometheus)
        show_log(prometheus.process.log)
        prometheus.wait_ready()
        return prometheus

    yield make
    for prometheus in made:
        prometheus.stop()


# --- a browser -----------------------------------------------------------------------

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def _browser() -> Iterator[Any]:
    executable = support.chromium()
    support.require(
        executable,
        "Chromium is not installed (Debian: apt install chromium-headless-shell)",
    )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        support.require(False, "playwright is not installed in this environment")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM_FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture
def chromium(_browser: Any) -> Iterator[Any]:
    """A real browser: ``chromium.new_context()`` and so on, each an empty profile.

    It is one for a file, as its start takes longer than most tests do; what a test has
    opened is closed after it.
    """
    yield _browser
    for context in _browser.contexts:
        context.close()


@pytest.fixture
def chromium_page(chromium: Any) -> Any:
    """A page of a real browser; its deadlines are 10 seconds, as elsewhere."""
    page = chromium.new_page()
    page.set_default_timeout(10_000 * support.PATIENCE)
    return page


@pytest.fixture
def console_errors(chromium_page: Any) -> List[str]:
    """What ``chromium_page`` complained about: console errors, exceptions, answers."""
    found: List[str] = []

    def on_console(message: Any) -> None:
        if message.type == "error":
            found.append(message.text)

    chromium_page.on("console", on_console)
    chromium_page.on("pageerror", lambda error: found.append(str(error)))
    return found
