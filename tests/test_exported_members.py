"""What ``import experiment_hooks`` gives, and what it costs."""

import importlib
from typing import Any

import pytest

import experiment_hooks
from tests.support import Pythons

EXPORTED = {
    "Episode": "experiment_hooks.episode",
    "EpisightError": "experiment_hooks.errors",
    "LogHandler": "experiment_hooks.logs",
    "Phase": "experiment_hooks.episode",
    "Run": "experiment_hooks.run",
    "RunStopped": "experiment_hooks.errors",
    "Series": "experiment_hooks.metrics",
    "SetupError": "experiment_hooks.errors",
    "UsageError": "experiment_hooks.errors",
    "__version__": "experiment_hooks._version",
    "current_run": "experiment_hooks.process",
    "open_run": "experiment_hooks.opening",
}


def test_these_names_are_promised_and_no_others() -> None:
    assert sorted(experiment_hooks.__all__) == sorted(EXPORTED)
    assert len(set(experiment_hooks.__all__)) == len(experiment_hooks.__all__)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_name_is_that_of_its_module(name: str) -> None:
    module: Any = importlib.import_module(EXPORTED[name])
    found = getattr(experiment_hooks, name)
    assert found is getattr(module, name)
    if name != "__version__":
        assert found.__module__ == EXPORTED[name]
        assert found.__doc__, f"{name} says nothing about itself"


def test_for_users_own_tests_there_is_a_listener() -> None:
    from experiment_hooks.testing import Listener

    assert Listener.__doc__


def test_the_version_is_written_as_versions_are() -> None:
    major, minor, patch = experiment_hooks.__version__.split(".")[:3]
    assert (int(major), int(minor)) >= (0, 0)
    assert patch[0].isdigit()


IMPORTED = """
    import sys
    before = set(sys.modules)
    import experiment_hooks
    for name in sorted(set(sys.modules) - before):
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "site-packages" in file or "dist-packages" in file:
            print(name.split(".")[0])
"""


def test_the_import_brings_pyzmq_and_msgspec_and_nothing_else(
    run_python: Pythons,
) -> None:
    """Nor numpy nor a framework, though they are installed here."""
    found = set(run_python(IMPORTED).output.split())
    # msgspec itself looks whether typing_extensions is there.
    assert found - {"experiment_hooks", "typing_extensions"} == {"zmq", "msgspec"}


def test_the_import_needs_neither_exporter_nor_integrations(
    run_python: Pythons,
) -> None:
    code = """
        import sys
        import experiment_hooks
        ours = [name for name in sys.modules if name.startswith("experiment_hooks.")]
        assert not any("integrations" in name for name in ours), ours
        assert "experiment_hooks.cli" not in sys.modules
        assert "experiment_hooks.testing" not in sys.modules
        assert "exporter" not in sys.modules
        assert "asyncio" not in sys.modules, "it costs more than all the others"
        """
    run_python(code)
