"""``tools/monty.sh``, by run.sh: it makes what Monty needs, or says what is missing.

Everything that run.sh calls here is a stand-in: Pythons as in test_environment_sh.py,
which draw where apt has installed what that needs, and an apt that only says so. So
nothing is downloaded or installed.
"""

import shutil
import subprocess
from pathlib import Path
from typing import List, NamedTuple

import pytest

from tests.support import ROOT
from tests.test_environment_sh import STANDS_FOR_PYTHON

ASKED = """
case "$2" in
*ensurepip*) exit ;;
*mujoco*) [ -e "$HOME/egl" ]; exit ;;
esac
"""
STANDS_FOR_APT = """#!/bin/sh
echo "apt $*"
case "$2" in install) : >"$HOME/egl" ;; esac
"""
COMMANDS = "bash basename cat cksum cp dirname grep head mkdir rm sed tr".split()
MONTY = ["pip --requirement {}/tools/monty.txt", "pip --no-deps tbp.monty==0.55.0"]


class Setup(NamedTuple):
    """How ``run.sh --setup monty`` ended, what it had done, and what it said."""

    status: int
    done: List[str]
    said: str


class Machine:
    """One with a checkout, the Pythons of these versions, and perhaps what draws."""

    def __init__(self, directory: Path) -> None:
        self.home = directory
        self.checkout = directory / "checkout"
        self.checkout.mkdir()
        for name in ("tools", "conf"):
            shutil.copytree(ROOT / name, self.checkout / name)
        for name in ("run.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, self.checkout)
        self.commands = directory / "commands"
        self.commands.mkdir()
        for name in COMMANDS:
            (self.commands / name).symlink_to(shutil.which(name) or name)
        self.can_draw(True)
        self.user(1000)

    def add(self, name: str, script: str) -> None:
        path = self.commands / name
        path.write_text(script)
        path.chmod(0o755)

    def add_python(self, version: str) -> None:
        shebang, rest = STANDS_FOR_PYTHON.replace("VERSION", version).split("\n", 1)
        self.add(f"python{version}", f"{shebang}{ASKED}{rest}")

    def can_draw(self, able: bool) -> None:
        (self.home / "egl").touch()
        if not able:
            (self.home / "egl").unlink()

    def user(self, number: int) -> None:
        self.add("id", f"#!/bin/sh\necho {number}\n")

    def setup(self, pip: int = 0) -> Setup:
        environ = {
            "PATH": str(self.commands),
            "HOME": str(self.home),
            "PIP_STATUS": str(pip),
        }
        ended = subprocess.run(
            [str(self.commands / "bash"), "run.sh", "--setup", "monty"],
            cwd=str(self.checkout),
            env=environ,
            capture_output=True,
            timeout=30,
            check=False,
        )
        done = ended.stdout.decode().replace(str(self.checkout), "{}").splitlines()
        said = ended.stderr.decode()
        return Setup(ended.returncode, done, said + ended.stdout.decode())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    found.add_python("3.11")
    return found


def test_it_is_made_once_with_the_hooks_in_it(machine: Machine) -> None:
    made = machine.setup()
    assert made.status == 0
    ours = ["venv", "pip --editable {}[exporter,experiments]"]
    assert made.done == [*ours, "venv", "pip --editable {}", *MONTY]
    assert made.said.count("/.venvs/monty is ready.") == 1
    assert machine.setup()[:2] == (0, [])


@pytest.mark.parametrize("file", ["monty.txt", "monty.sh"])
def test_where_other_versions_are_asked_for_they_are_installed(
    machine: Machine, file: str
) -> None:
    machine.setup()
    path = machine.checkout / "tools" / file
    text = path.read_text()
    changed = text.replace("==0.55.0", "==0.56.0").replace("numpy\n", "numpy<3\n")
    assert changed != text
    path.write_text(changed)
    monty = [line.replace("0.55", "0.56") for line in MONTY]
    assert machine.setup().done == (monty if file == "monty.sh" else MONTY)
    assert machine.setup().done == []


def test_what_pip_could_not_install_is_tried_again(machine: Machine) -> None:
    failed = machine.setup(pip=1)
    assert failed.status == 3
    machine.setup()
    (machine.checkout / "tools" / "monty.txt").write_text("numpy==0\n")
    assert machine.setup(pip=1).done == MONTY[:1]
    assert machine.setup(pip=1).status == 3
    assert machine.setup()[:2] == (0, MONTY)


def test_without_python_3_11_it_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add_python("3.12")
    ended = machine.setup()
    assert ended.status == 3
    assert "Monty needs Python 3.11 with venv, and none was found" in ended.said
    assert "--no-deps tbp.monty==0.55.0" not in ended.said


@pytest.mark.parametrize("user", [0, 1000])
def test_where_nothing_draws_the_packages_are_named_or_root_has_them_installed(
    machine: Machine, user: int
) -> None:
    machine.add("apt-get", STANDS_FOR_APT)
    machine.user(user)
    machine.can_draw(False)
    ended = machine.setup()
    if user == 0:
        assert ended.status == 0
        assert "apt -qq install -y --no-install-recommends libegl1" in ended.said
    else:
        assert ended.status == 3
        assert "apt install libegl1 libgl1-mesa-dri" in ended.said
        assert "apt -qq" not in ended.said


def test_root_without_apt_is_told_too(machine: Machine) -> None:
    machine.user(0)
    machine.can_draw(False)
    assert machine.setup().status == 3
