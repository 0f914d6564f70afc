"""Starts ``run.sh`` as people do, and reads what it says; the fixture is ``run_sh``."""

import re
from pathlib import Path
from typing import Callable, List

from tests.support import ROOT, Child, clean_environment, http

FIRST = 300.0
"""Seconds: the environment may have to be made."""


class RunSh:
    """Starts it from an empty directory, with ports and a journal of its own."""

    def __init__(self, directory: Path, show_log: Callable[[Path], None]) -> None:
        self.directory = directory
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir()
        self._children: List[Child] = []
        self._show_log = show_log

    def __call__(
        self, *arguments: str, script: Path = ROOT / "run.sh", **env: str
    ) -> Child:
        own = {
            "EPISIGHT_WEB_PORT": "0",
            "EPISIGHT_INGEST_PORT": "0",
            "EPISIGHT_JOURNAL_PATH": str(self.directory / "data" / "journal.sqlite"),
            "PYTHONPATH": "",
            **env,
        }
        child = Child(
            [str(script), *arguments],
            self.directory / f"run_{len(self._children)}.log",
            clean_environment(self.directory, own),
            self.elsewhere,
        )
        self._children.append(child)
        self._show_log(child.log)
        return child

    def end(self) -> None:
        """End all that it started."""
        for child in self._children:
            child.end()


def link_of(child: Child) -> str:
    """The page's address with the token, once it is said."""
    found = re.search(r"The page: +(\S+)\n", child.wait_for(r"The page: .*\n", FIRST))
    assert found
    return found[1]


def page_of(child: Child) -> str:
    """The page's address alone, once it is said."""
    return link_of(child).partition("/?token=")[0]


def is_gone(page: str) -> bool:
    """Whether nobody answers there."""
    try:
        http(page + "/-/ready")
    except OSError:
        return True
    return False
