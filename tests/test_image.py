"""The images, as far as reading the Dockerfile says; what they start is tried."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, List

import pytest

from tests.stack import DOCKERFILE, output_of, tool
from tests.support import (
    ROOT,
    Child,
    Exporter,
    clean_environment,
    eventually,
    free_port,
    require,
)


def test_hadolint_has_nothing_to_say() -> None:
    assert output_of(tool("hadolint"), DOCKERFILE) == ""


def stage(name: str) -> str:
    """What is said in the last stage of an image."""
    found = re.search(rf" AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE.read_text(), _LONG)
    assert found, name
    return found[1]


_LONG = re.MULTILINE | re.DOTALL


@pytest.mark.parametrize("name", ["exporter", "demo"])
def test_nothing_runs_as_root(name: str) -> None:
    *_, user = re.findall(r"^USER (\S+)$", stage(name), re.MULTILINE)
    assert user == "5555:5555"
    assert "--uid 5555 --gid 5555" in stage("base")


def test_what_is_built_by_default_is_the_exporter() -> None:
    *_, last = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert last == "exporter"
    assert 'ENTRYPOINT ["python", "-m", "exporter"]' in stage(last)
    assert "STOPSIGNAL SIGTERM" in stage(last)


def test_the_health_check_says_whether_it_is_well(
    exporter_process: Callable[..., Exporter],
) -> None:
    _, _, asks = stage("exporter").partition("HEALTHCHECK ")
    _, *arguments = json.loads(asks.split("CMD ")[1].split("\n")[0])

    def status(port: int) -> int:
        env = {**os.environ, "EPISIGHT_WEB_PORT": str(port)}
        asked = [sys.executable, *arguments]
        return subprocess.run(
            asked, env=env, stderr=subprocess.DEVNULL, timeout=30, check=False
        ).returncode

    exporter = exporter_process()
    assert status(int(exporter.web.rpartition(":")[2])) == 0
    assert status(free_port()) == 1


def copies() -> List[List[str]]:
    """The words of each line that copies from the checkout; COPY itself is left out."""
    text = DOCKERFILE.read_text()
    return [
        line.split()
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
    ]


def test_what_the_dockerfile_copies_is_sent_to_the_builder() -> None:
    copied = {
        name for *names, _ in copies() for name in names if not name.startswith("--")
    }
    assert "deploy/first_start.py" in copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {name for name in copied if not name.startswith(tuple(sent))} == set()


def test_an_image_is_readable_whatever_the_umask_of_its_checkout_was() -> None:
    _, _, images = DOCKERFILE.read_text().partition(" AS base\n")
    copied = re.findall(r"^COPY (\S+)", images, re.MULTILINE)
    assert len(copied) > 3
    assert [one for one in copied if not one.startswith(("--from=", "--chmod="))] == []


def test_the_demo_hears_sigterm_though_it_is_the_first_process_of_a_container(
    exporter_process: Callable[..., Exporter], tmp_path: Path
) -> None:
    require(shutil.which("unshare") and os.geteuid() == 0, "unshare needs root")
    asked = re.findall(r"(EPISIGHT_SIGTERM)=(\S+)", DOCKERFILE.read_text())
    exporter = exporter_process()
    demo = Child(
        ["unshare", "--pid", "--fork", sys.executable, "-m", "experiments"],
        tmp_path / "demo.log",
        clean_environment(tmp_path, {**exporter.env, **dict(asked)}),
        cwd=tmp_path,
    )
    try:
        (run,) = eventually(exporter.runs, 30)
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text()
        os.kill(int(children), signal.SIGTERM)
        demo.wait()
        assert exporter.run(run["run"])["state"] == "stopped"
    finally:
        demo.stop()
