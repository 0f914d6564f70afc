"""Fixtures for tests with a real Monty; the work is done in ``running.py``."""

from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.monty.running import DEADLINE, Monty, Run, monty_python


def pytest_collection_modifyitems(items: "list[pytest.Item]") -> None:
    """These have more time than others, unless they say how much."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(2 * DEADLINE))


@pytest.fixture
def monty(tmp_path: Path, show_log: Callable[[Path], None]) -> Iterator[Monty]:
    """``monty("quick", "+episight=monty", env=exporter.env)`` runs one to its end;
    ``monty.start(...)`` returns at once."""
    starts = Monty(monty_python(), tmp_path, show_log)
    yield starts
    starts.stop()


@pytest.fixture(scope="session")
def once_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monty]:
    """A Monty for what several tests look at and none changes."""
    starts = Monty(monty_python(), tmp_path_factory.mktemp("monty"), lambda _: None)
    yield starts
    starts.stop()


@pytest.fixture(scope="session")
def plain_quick(once_for_all: Monty) -> Run:
    """``quick`` without Episight, ended: what no other run may differ from."""
    return once_for_all("quick")
