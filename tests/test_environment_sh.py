"""``tools/environment.sh``: an environment that is out of date is brought up to date.

The Pythons here are stand-ins: scripts that say a version, copy themselves for an
environment, and note what pip was asked for. So nothing is downloaded.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, List, Tuple

import pytest

from tests.support import ROOT

STANDS_FOR_PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv") rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo venv ;;
"-m pip") shift 5; echo "pip $*"; exit "${PIP_STATUS:-0}" ;;
*) echo VERSION ;;
esac
"""
CALL = 'ROOT=$PWD; . tools/environment.sh; ensure_environment "$ROOT/.venv" "$1" "$2"'

Ensure = Callable[..., Tuple[int, List[str]]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what says what an environment is made of."""
    found = tmp_path / "checkout"
    shutil.copytree(ROOT / "tools", found / "tools")
    shutil.copy(ROOT / "pyproject.toml", found)
    return found


@pytest.fixture
def ensure(tmp_path: Path) -> Ensure:
    """``ensure(checkout, "3.11", "test,dev")``: its status, and what it had done."""

    def call(
        checkout: Path, version: str, extras: str, pip: int = 0
    ) -> Tuple[int, List[str]]:
        python = tmp_path / f"python{version}"
        python.write_text(STANDS_FOR_PYTHON.replace("VERSION", version))
        python.chmod(0o755)
        done = subprocess.run(
            ["bash", "-c", CALL, "bash", str(python), extras],
            cwd=str(checkout),
            env={"PATH": os.environ["PATH"], "PIP_STATUS": str(pip)},
            stdout=subprocess.PIPE,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout.decode().splitlines()

    return call


def installed(checkout: Path, extras: str) -> str:
    return f"pip --editable {checkout}[{extras}]"


NOTHING: Tuple[int, List[str]] = (0, [])


def test_it_is_made_once(checkout: Path, ensure: Ensure) -> None:
    made = ensure(checkout, "3.11", "exporter,test")
    assert made == (0, ["venv", installed(checkout, "exporter,test")])
    assert ensure(checkout, "3.11", "exporter,test") == NOTHING
    assert ensure(checkout, "3.11", "test") == NOTHING, "it has more than that"


@pytest.mark.parametrize("file", ["pyproject.toml", "tools/environment.sh"])
def test_what_it_was_made_from_has_changed_so_it_is_installed_again(
    checkout: Path, ensure: Ensure, file: str
) -> None:
    ensure(checkout, "3.11", "test")
    with (checkout / file).open("a") as described:
        described.write("# changed\n")
    assert ensure(checkout, "3.11", "test") == (0, [installed(checkout, "test")])
    assert ensure(checkout, "3.11", "test") == NOTHING


def test_a_further_extra_is_added(checkout: Path, ensure: Ensure) -> None:
    ensure(checkout, "3.11", "test")
    again = ensure(checkout, "3.11", "test,dev")
    assert again == (0, [installed(checkout, "test,dev")])


def test_without_extras_it_has_the_hooks_alone(checkout: Path, ensure: Ensure) -> None:
    made = ensure(checkout, "3.11", "")
    assert made == (0, ["venv", f"pip --editable {checkout}"])
    assert ensure(checkout, "3.11", "") == NOTHING
    assert ensure(checkout, "3.11", "test") == (0, [installed(checkout, "test")])


def test_a_checkout_that_was_moved_is_installed_again(
    checkout: Path, ensure: Ensure, tmp_path: Path
) -> None:
    ensure(checkout, "3.11", "test")
    moved = checkout.rename(tmp_path / "moved")
    assert ensure(moved, "3.11", "test") == (0, [installed(moved, "test")])


def test_one_of_another_version_is_made_anew(checkout: Path, ensure: Ensure) -> None:
    ensure(checkout, "3.11", "test")
    again = ensure(checkout, "3.12", "test,dev")
    assert again == (0, ["venv", installed(checkout, "test,dev")])


def test_one_that_pip_could_not_fill_is_tried_again(
    checkout: Path, ensure: Ensure
) -> None:
    ensure(checkout, "3.11", "test")
    failed = ensure(checkout, "3.11", "test,dev", pip=1)
    assert failed == (1, [installed(checkout, "test,dev")])
    assert ensure(checkout, "3.11", "test") == (0, [installed(checkout, "test")])
