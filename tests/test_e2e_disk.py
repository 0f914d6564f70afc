"""End to end: the disk under the journal is full, or has damaged what lay on it."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, Tuple

import pytest

from tests.support import Exporter, Pythons, eventually, free_port, require
from tests.test_e2e_restart import BUSY, COUNTED, Watcher, counted, grown
from tests.test_e2e_sources import WAITING

# Comes when the disk is full, and says what it did when it is told to go home.
NEWCOMER = f"""
import experiment_hooks as eh
{WAITING}
with eh.open_run("newcomer", run_id="newcomer") as run:
    for index in range(20):
        with run.episode(mode="eval", index=index) as ep:
            ep.step()
            ep.finish(outcome="correct")
    print("WORKED", flush=True)
    wait_for("home")
"""
PAGES = [
    "/metrics",
    "/-/healthy",
    "/",
    "/runs/busy",
    "/api/v1/runs",
    "/api/v1/runs/busy",
    "/api/v1/runs/busy/episodes",
    "/api/v1/runs/busy/episodes?format=csv",
]


class SmallDisk:
    """A file system of its own of a few megabytes, that can be filled and freed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    require(
        mounted.returncode == 0,
        f"a small tmpfs cannot be mounted (it needs root): {mounted.stderr.strip()}",
    )
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def did(*outputs: str) -> Tuple[int, int]:
    """Episodes and steps that the processes say they did."""
    found = re.findall(r"DID (\d+) (\d+)", "".join(outputs))
    return sum(int(one) for one, _ in found), sum(int(one) for _, one in found)


def in_all(exporter: Exporter) -> Tuple[float, float]:
    """Episodes and steps of the busy run, as they are counted."""
    episodes, steps = (
        sum(one.value for one in exporter.samples(name, run="busy")) for name in COUNTED
    )
    return episodes, steps


def unwritten(exporter: Exporter) -> float:
    name = "episight_records_unwritten_total"
    return exporter.value(name, reason="journal") or 0.0


def refuses(exporter: Exporter) -> None:
    """It says that the disk is full, and serves all that it has."""

    def not_ready() -> str:
        answer = exporter.get("/-/ready")
        assert answer.status == 503
        assert "the journal cannot be written, nothing is acknowledged: " in answer.text
        return answer.text

    assert "full" in eventually(not_ready, 15)
    assert exporter.value("episight_journal_healthy") == 0
    before = unwritten(exporter)
    eventually(lambda: unwritten(exporter) > before, 15)
    statuses = {path: exporter.get(path).status for path in PAGES}
    assert statuses == dict.fromkeys(PAGES, 200)


def test_a_full_disk_stops_acknowledging_and_nothing_else(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    small_disk: SmallDisk,
    tmp_path: Path,
) -> None:
    journal = small_disk.path / "journal.sqlite"
    exporter = exporter_process(f"journal.path={journal}")
    with Watcher(exporter, "experiment_", "episight_") as watcher:
        busy = run_python.start(BUSY, env=exporter.env)
        grown(exporter, {}, within=15)
        small_disk.fill()
        refuses(exporter)
        newcomer = run_python.start(NEWCOMER, env=exporter.env)
        newcomer.wait_for("WORKED")
        still = counted(exporter)
        small_disk.free()
        eventually(lambda: exporter.get("/-/ready").status == 200, 15)
        assert exporter.value("episight_journal_healthy") == 1
        grown(exporter, still, within=15)
        (tmp_path / "home").touch()
        assert (busy.wait(), newcomer.wait()) == (0, 0)
        eventually(lambda: exporter.run("busy")["state"] == "completed")
        eventually(lambda: exporter.run("newcomer")["state"] == "completed")
    assert watcher.wrong == []
    assert watcher.scrapes > 20
    told = did(busy.output)
    for _ in range(2):
        assert in_all(exporter) == told
        assert len(exporter.episodes("newcomer")) == 20
        for run in ("busy", "newcomer"):
            assert exporter.run(run)["missing"] == 0
        exporter.restart()


def test_one_that_is_killed_while_the_disk_is_full_gets_along_without_room(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    small_disk: SmallDisk,
    tmp_path: Path,
) -> None:
    journal = small_disk.path / "journal.sqlite"
    exporter = exporter_process(f"journal.path={journal}")
    busy = run_python.start(BUSY, env=exporter.env)
    grown(exporter, {}, within=15)
    small_disk.fill()
    refuses(exporter)
    before = counted(exporter)
    exporter.kill()
    exporter.launch()
    eventually(lambda: exporter.get("/-/healthy").status == 200, 15)
    refuses(exporter)
    assert counted(exporter) == before
    small_disk.free()
    grown(exporter, before, within=15)
    (tmp_path / "home").touch()
    assert busy.wait() == 0
    eventually(lambda: exporter.run("busy")["state"] == "completed")
    assert in_all(exporter) == did(busy.output)


def test_a_new_journal_that_has_no_room_is_said_at_the_start(
    exporter_process: Callable[..., Exporter], small_disk: SmallDisk
) -> None:
    small_disk.fill()
    journal = small_disk.path / "journal.sqlite"
    exporter = exporter_process(f"journal.path={journal}", wait=False)
    assert exporter.launch().wait() == 2
    assert re.search(r"the journal .* cannot be used: .* full", exporter.output)


# --- the spool's disk -----------------------------------------------------------------

# Ends episodes until it is told to go home; says how many, and its longest step.
UNHEARD = f"""
import pathlib, time
import experiment_hooks as eh
{WAITING}
with eh.open_run("unheard", run_id="unheard") as run:
    index, longest = 0, 0.0
    while not pathlib.Path("home").exists():
        with run.episode(mode="eval", index=index) as ep:
            began = time.perf_counter()
            ep.step(state={{"x": 1}})
            longest = max(longest, time.perf_counter() - began)
            ep.finish(outcome="correct")
        index += 1
        time.sleep(0.005)
    run.close(timeout=20)
print("DID", index, longest, flush=True)
"""


def test_a_full_disk_under_the_spool_is_said_once_and_costs_nothing(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    small_disk: SmallDisk,
    tmp_path: Path,
) -> None:
    port = free_port()
    env = {
        "EPISIGHT_ENDPOINT": f"tcp://127.0.0.1:{port}",
        "EPISIGHT_SPOOL_DIR": str(small_disk.path / "spool"),
    }
    small_disk.fill()
    child = run_python.start(UNHEARD, env=env)
    said = child.wait_for("records wait in memory only, since .*cannot be written")
    assert "No space left" in said
    exporter = exporter_process(f"ingest.port={port}")
    eventually(lambda: len(exporter.indices("unheard")) > 100, 20)
    (tmp_path / "home").touch()
    assert child.wait() == 0
    assert child.output.count("records wait in memory only") == 1
    told = re.search(r"DID (\d+) (\S+)", child.output)
    assert told is not None
    eventually(lambda: exporter.run("unheard")["state"] == "completed")
    assert exporter.indices("unheard") == list(range(int(told[1])))
    assert exporter.run("unheard")["missing"] == 0
    assert float(told[2]) < 1.0


# --- damage ---------------------------------------------------------------------------


def spoil(path: Path) -> None:
    """Overwrite some pages where episode 500 is kept."""
    data = path.read_bytes()
    found = re.search(rb"episode_ended.{1,200}index\xcd\x01\xf4", data, re.DOTALL)
    assert found is not None
    with path.open("r+b") as file:
        file.seek(found.start() // 4096 * 4096)
        file.write(b"\xa5" * 3 * 4096)


def wholly(exporter: Exporter, run: str) -> Dict[str, float]:
    found = exporter.run(run)
    episodes = len(exporter.episodes(run, "?limit=1000"))
    return {"episodes": episodes, "missing": found["missing"]}


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_a_damaged_journal_is_set_aside_and_experiments_go_on(
    end: str,
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    tmp_path: Path,
) -> None:
    exporter = exporter_process()
    # Episode 500, which will be spoiled, is not committed together with the first 400.
    code = """
import pathlib, sys, time
import experiment_hooks as eh
with eh.open_run("many", run_id="many") as run:
    for index in range(900):
        while index == 400 and not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.01)
        with run.episode(mode="eval", index=index) as ep:
            ep.finish(outcome="correct")
"""
    go_on = tmp_path / "go on"
    many = run_python.start(code, str(go_on), env=exporter.env)
    eventually(lambda: wholly(exporter, "many")["episodes"] == 400, 30)
    go_on.touch()
    assert many.wait(60) == 0, many.output
    assert wholly(exporter, "many") == {"episodes": 900, "missing": 0}
    busy = run_python.start(BUSY, env=exporter.env)
    grown(exporter, {}, within=15)
    if end == "SIGTERM":
        assert exporter.terminate() == 0
        spoil(exporter.journal)
    else:
        exporter.kill()
        spoil(Path(f"{exporter.journal}-wal"))
    exporter.start()
    assert "was set aside as" in exporter.output
    (aside,) = exporter.directory.glob("journal.sqlite.corrupt-*[0-9]")
    assert aside.stat().st_size > 0
    found = wholly(exporter, "many")
    assert 100 < found["episodes"] < 900
    if end == "SIGTERM":  # what is gone is known; of a -wal's end nobody knows
        assert found["missing"] >= 900 - found["episodes"]
    # Steps may not be: what a source declared may be among what is gone.
    episodes, _ = in_all(exporter)
    eventually(lambda: in_all(exporter)[0] > episodes, 15)
    (tmp_path / "home").touch()
    assert busy.wait() == 0
    eventually(lambda: exporter.run("busy")["state"] == "completed")
    before = exporter.runs()
    exporter.restart()
    assert exporter.runs() == before
    assert exporter.output.count("was set aside as") == 1
