"""The command ``episight replay``, with a listener in the exporter's place."""

import os
import shutil
import threading
from pathlib import Path
from typing import Iterator, List

import pytest

import experiment_hooks as eh
from experiment_hooks import cli, cli_replay
from experiment_hooks.testing import Listener
from tests.support import free_port


@pytest.fixture
def spool_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "spool"
    monkeypatch.setenv("EPISIGHT_SPOOL_DIR", str(path))
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"tcp://127.0.0.1:{free_port()}")
    return path


@pytest.fixture
def left(spool_dir: Path) -> Path:
    """The file of a run that ended while nobody listened."""
    with eh.open_run("left", run_id="left") as run, run.episode() as ep:
        ep.step()
    (path,) = spool_dir.rglob("*.spool")
    return path


@pytest.fixture
def there(spool_dir: Path) -> Iterator[Listener]:
    port = int(os.environ["EPISIGHT_ENDPOINT"].rsplit(":", 1)[1])
    with Listener(port) as listener:
        yield listener


def runs(listener: Listener) -> List[str]:
    return [source.hellos[0].run for source in listener.sources()]


def test_what_was_left_for_this_endpoint_is_delivered(
    left: Path, there: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay"]) == 0
    assert runs(there) == ["left"]
    assert there.sources()[0].closed is not None
    assert not left.exists()
    assert "delivered 1 of 1 files, 7 records" in capsys.readouterr().out
    assert cli.main(["replay"]) == 0
    assert "nothing to deliver" in capsys.readouterr().out


def test_check_says_how_much_waits(
    left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check"]) == 1
    assert f"{left.parent}, 1 files wait" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["file", "folder", "whole spool"])
def test_so_are_files_from_elsewhere(
    left: Path, there: Listener, tmp_path: Path, kind: str
) -> None:
    carried = tmp_path / "carried"
    shutil.copytree(str(left.parent), str(carried / "inner"))
    path = {
        "file": carried / "inner" / left.name,
        "folder": carried / "inner",
        "whole spool": carried,
    }
    assert cli.main(["replay", str(path[kind])]) == 0
    assert runs(there) == ["left"]
    assert left.exists(), "it is another file"
    assert list((carried / "inner").iterdir()) == []


def test_several_files_are_delivered_one_after_another(
    left: Path, there: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    others = []
    for number in range(3):
        other = left.with_name(f"{number:032x}-000001.spool")
        shutil.copy(str(left), str(other))
        others.append(str(other))
    assert cli.main(["replay", *others]) == 0
    assert "delivered 3 of 3 files" in capsys.readouterr().out
    assert there.duplicates == 2 * 7


def test_what_a_living_process_writes_is_left_to_it(
    left: Path, there: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    used = left.with_suffix(".open")
    left.rename(used)
    os.utime(str(used))
    assert cli.main(["replay"]) == 1
    assert "is written by a living process" in capsys.readouterr().out
    assert used.exists()
    assert cli.main(["replay", str(used)]) == 0, "who names it knows better"
    assert runs(there) == ["left"]


def test_a_file_that_was_set_aside_can_be_tried_again(
    left: Path, there: Listener
) -> None:
    aside = left.with_suffix(".corrupt")
    left.rename(aside)
    assert cli.main(["replay"]) == 0
    assert runs(there) == []
    assert cli.main(["replay", str(aside)]) == 0
    assert runs(there) == ["left"]


@pytest.mark.parametrize("name", ["nowhere", "notes.txt"])
def test_a_path_that_is_no_spool_file_is_said_to_be_none(
    spool_dir: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert cli.main(["replay", str(tmp_path / name)]) == 2
    assert "neither a directory nor a spool file" in capsys.readouterr().err


def test_without_an_exporter_all_stays_where_it_is(
    left: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_replay, "PATIENCE", 0.3)
    data = left.read_bytes()
    assert cli.main(["replay"]) == 1
    assert "nobody answers at tcp://127.0.0.1" in capsys.readouterr().err
    assert left.read_bytes() == data


def test_a_refusal_is_told(
    left: Path, there: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    there.refuse("not these, please")
    assert cli.main(["replay"]) == 1
    assert "not these, please" in capsys.readouterr().err
    assert left.exists()


def test_an_exporter_that_comes_in_time_gets_them(left: Path) -> None:
    status: List[int] = []
    replaying = threading.Thread(target=lambda: status.append(cli.main(["replay"])))
    replaying.start()
    with Listener(int(os.environ["EPISIGHT_ENDPOINT"].rsplit(":", 1)[1])) as listener:
        replaying.join(20)
    assert status == [0]
    assert runs(listener) == ["left"]
