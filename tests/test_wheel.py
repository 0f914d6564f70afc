"""The wheel: what is in it, what it asks for, and that it works where it is put."""

import email
import json
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path
from typing import List, Set

import pytest

from experiment_hooks._version import __version__
from tests.support import ROOT, Exporter, clean_environment, python_for

pytestmark = pytest.mark.timeout(300)


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(cwd, {"PYTHONPATH": ""}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--wheel-dir", str(directory), str(ROOT), cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> Set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> "Message[str, str]":
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_is_for_any_python_and_has_the_one_version(wheel: Path) -> None:
    assert wheel.name == f"episight-{__version__}-py3-none-any.whl"


def test_it_holds_the_two_packages_and_one_plugin(names: Set[str]) -> None:
    info = f"episight-{__version__}.dist-info"
    top = {name.split("/")[0] for name in names}
    assert top == {"experiment_hooks", "exporter", "hydra_plugins", info}
    plugins = {name for name in names if name.startswith("hydra_plugins/")}
    assert plugins == {"hydra_plugins/episight_searchpath.py"}


@pytest.mark.parametrize("package", ["experiment_hooks", "exporter"])
def test_it_holds_every_file_of_a_package(names: Set[str], package: str) -> None:
    files = (path for path in (ROOT / package).rglob("*") if path.is_file())
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in expected if "__pycache__" not in name} <= names
    assert f"{package}/py.typed" in names


def test_it_holds_the_exporters_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("exporter/conf/exporter.yaml")
    assert packed == (ROOT / "conf" / "exporter.yaml").read_bytes()


def test_an_experiment_needs_pyzmq_and_msgspec_alone(
    metadata: "Message[str, str]",
) -> None:
    assert metadata["Requires-Python"] == ">=3.8"
    assert metadata["License-Expression"] == "MIT"
    needs = [n for n in metadata.get_all("Requires-Dist", []) if "extra ==" not in n]
    assert {re.split(r"[<>=! ;]", need)[0] for need in needs} == {"pyzmq", "msgspec"}


def test_below_python_3_11_the_exporters_extra_is_empty(
    metadata: "Message[str, str]",
) -> None:
    needs: List[str] = metadata.get_all("Requires-Dist", [])
    own = [need for need in needs if "extra == 'exporter'" in need]
    assert own
    assert all("python_version >= '3.11'" in need for need in own)


SEEN = """
import json, sys, sysconfig, os
import experiment_hooks, experiment_hooks.wire, experiment_hooks.sender
places = {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}
files = [getattr(m, "__file__", None) or "" for m in list(sys.modules.values())]
inside = [os.path.relpath(f, p) for f in files for p in places if f.startswith(p)]
print(json.dumps(sorted({path.split(os.sep)[0] for path in inside})))
"""


def test_alone_on_python_3_8_it_brings_and_imports_only_those_two(
    wheel: Path, tmp_path: Path
) -> None:
    python = python_for("3.8", bare=True)
    run(python, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel), cwd=tmp_path)

    listed = json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=tmp_path))
    brought = {found["name"].lower() for found in listed} - {"pip", "setuptools"}
    assert brought == {"episight", "pyzmq", "msgspec"}

    # pyzmq's wheel brings its own libraries beside it.
    imported = set(json.loads(run(python, "-c", SEEN, cwd=tmp_path)))
    assert imported - {"pyzmq.libs"} == {"experiment_hooks", "zmq", "msgspec"}

    command = str(tmp_path / "venv" / "bin" / "episight")
    assert run(command, "--version", cwd=tmp_path) == f"episight {__version__}\n"


def test_the_exporter_works_from_the_wheel_and_writes_nothing_where_it_starts(
    wheel: Path, tmp_path: Path
) -> None:
    place = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    run(*pip, "--target", str(place), str(wheel), cwd=tmp_path)
    exporter = Exporter(tmp_path / "exporter", env={"PYTHONPATH": str(place)})
    code = "import exporter; print(exporter.__file__)"
    try:
        found = subprocess.check_output(
            [sys.executable, "-c", code],
            env=clean_environment(tmp_path, {"PYTHONPATH": str(place)}),
            cwd=tmp_path,
            text=True,
        )
        assert found.startswith(str(place))
        exporter.start()
        assert exporter.get("/").status == 200
        assert exporter.terminate() == 0
    finally:
        exporter.stop()
    assert list(exporter.cwd.iterdir()) == []
