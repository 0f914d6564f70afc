"""The spool's folder: who owns a file, and what goes when there is no room."""

import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from experiment_hooks import spool, spoolfile, wire
from experiment_hooks.spool import Folder, Spool
from tests.support import require

ENDPOINT = "tcp://127.0.0.1:5555"
SOURCE = bytes(range(16))
HELLO = wire.Hello(protocol=wire.PROTOCOL, source=SOURCE, run="r", sent=1.0)

Gone = List[Tuple[str, int, Any]]


def records(*seqs: int, size: int = 10) -> List[Tuple[int, bytes]]:
    return [(seq, bytes(size)) for seq in seqs]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.of(str(tmp_path / "spool"), ENDPOINT)


@pytest.fixture
def gone() -> Gone:
    return []


@pytest.fixture
def mine(folder: Folder, gone: Gone) -> Spool:
    return Spool(
        folder,
        ENDPOINT,
        SOURCE,
        lambda *given: gone.append(given),
        most_bytes=3000,
        segment_bytes=1000,
    )


def names(folder: Folder) -> List[str]:
    """What becomes of the files, without who they are of."""
    return [name[len(SOURCE.hex()) :] for name in folder.names()]


def seqs_in(folder: Folder) -> List[int]:
    found: List[int] = []
    for name in folder.names():
        data = Path(folder.path, name).read_bytes()
        found += [seq for seq, _ in spoolfile.read(data).records]
    return sorted(found)


def age(folder: Folder, seconds: float) -> None:
    """Let all files look as if nobody had touched them for so long."""
    for name in os.listdir(folder.path):
        path = os.path.join(folder.path, name)
        then = os.stat(path).st_mtime - seconds
        os.utime(path, (then, then))


# --- the folder ----------------------------------------------------------------------


def test_it_is_this_user_s_alone(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(1)})
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    (name,) = folder.names()
    assert stat.S_IMODE(os.stat(os.path.join(folder.path, name)).st_mode) == 0o600


def test_a_folder_that_others_can_write_into_is_not_used(
    mine: Spool, folder: Folder
) -> None:
    os.makedirs(folder.path)
    os.chmod(folder.path, 0o777)
    with pytest.raises(spool.SpoolError, match="EPISIGHT_SPOOL_DIR"):
        mine.put(HELLO, {"essential": records(1)})
    assert folder.names() == []


def test_nothing_is_made_before_something_is_written(
    mine: Spool, folder: Folder
) -> None:
    mine.keep(1e9)
    mine.drop_totals()
    mine.close()
    assert mine.claim() is None
    assert not os.path.exists(folder.path)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("tcp://lab:5555", "tcp://lab:5555", True),
        ("tcp://lab:5555", "tcp://lab:5556", False),
        ("file:///shared/episight", "file:///shared/episight", True),
    ],
)
def test_it_is_keyed_by_the_endpoint(one: str, other: str, same: bool) -> None:
    assert (Folder.of("/s", one).path == Folder.of("/s", other).path) == same


def test_what_is_on_one_s_own_loopback_is_not_another_machine_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Folder.of("/s", ENDPOINT).path, Folder.of("/s", "tcp://lab:5555").path
    monkeypatch.setattr(spool.socket, "gethostname", lambda: "another-machine")
    assert Folder.of("/s", ENDPOINT).path != here[0]
    assert Folder.of("/s", "tcp://lab:5555").path == here[1]


# --- files and their owners ----------------------------------------------------------


def test_a_living_source_s_file_is_its_own(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(1)})
    assert names(folder) == ["-000001.open"]
    assert Folder(folder.path).free() == []


def test_what_is_left_behind_is_anybody_s(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(1)})
    mine.close()
    assert Folder(folder.path).free() == [f"{SOURCE.hex()}-000001.spool"]


def test_so_is_what_nobody_has_touched_for_long(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(1)})
    age(folder, spool.LEASE + 1)
    mine.keep(1e9)  # its owner lives, and says so
    assert folder.free() == []
    age(folder, spool.LEASE + 1)  # and now it was killed
    (name,) = folder.free()
    claim = folder.claim(name)
    assert claim is not None
    assert [seq for seq, _ in claim.contents.records] == [1]


def test_of_many_that_want_a_file_one_gets_it(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(1)})
    mine.close()
    (name,) = folder.free()
    got: List[Any] = []
    together = threading.Barrier(8)

    def claim() -> None:
        other = Folder(folder.path)
        together.wait(10)
        got.append(other.claim(name))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len([one for one in got if one is not None]) == 1


def test_what_is_given_back_can_be_claimed_again(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(1)})
    mine.close()
    for _ in range(2):
        claim = folder.claim(folder.free()[0])
        assert claim is not None
        assert folder.free() == []
        folder.give_back(claim)


def test_a_writer_whose_file_was_taken_writes_what_it_wrote_last_again(
    mine: Spool, folder: Folder
) -> None:
    """It seemed dead, and another one has the file: maybe without what comes now."""
    mine.put(HELLO, {"essential": records(1)})
    claim = Folder(folder.path).claim(folder.names()[0])
    assert claim is not None
    mine.put(HELLO, {"essential": records(2)})
    assert seqs_in(folder) == [1, 2]
    mine.put(HELLO, {"essential": records(3)})
    assert len(folder.names()) == 2
    assert seqs_in(folder) == [1, 2, 3]


def test_a_delivered_file_is_gone_and_a_damaged_one_is_set_aside(
    mine: Spool, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    mine.put(HELLO, {"essential": records(1)})
    mine.close()
    claim = folder.claim(folder.free()[0])
    assert claim is not None
    folder.delivered(claim)
    assert os.listdir(folder.path) == []
    assert not caplog.messages

    mine.put(HELLO, {"essential": records(2)})
    mine.close()
    (name,) = folder.free()
    with open(os.path.join(folder.path, name), "ab") as file:
        file.write(b"torn")
    claim = folder.claim(name)
    assert claim is not None
    folder.delivered(claim)
    (aside,) = os.listdir(folder.path)
    assert aside.endswith(".corrupt")
    assert spool.is_spool_file(aside)
    assert folder.free() == []
    assert "4 bytes could not be read" in caplog.text


# --- order and room ------------------------------------------------------------------


def test_a_source_s_records_go_into_few_files(mine: Spool, folder: Folder) -> None:
    for seq in range(1, 21):
        mine.put(HELLO, {"end": records(seq)})
    assert len(folder.names()) == 1
    assert seqs_in(folder) == list(range(1, 21))
    assert mine.count == 20
    for seq in range(21, 41):
        mine.put(HELLO, {"end": records(seq, size=100)})
    assert len(folder.names()) > 1
    for name in folder.names():  # each can be delivered without the others
        contents = spoolfile.read(Path(folder.path, name).read_bytes())
        assert contents.hello == HELLO
        assert not contents.damaged


def test_much_at_once_goes_into_several_files(mine: Spool, folder: Folder) -> None:
    mine.put(HELLO, {"essential": records(*range(1, 21), size=300)})
    sizes = [os.path.getsize(os.path.join(folder.path, n)) for n in folder.names()]
    assert len(sizes) > 4
    assert max(sizes) < 1500
    assert seqs_in(folder) == list(range(1, 21))


def test_log_lines_go_first_then_starts_then_ends_and_the_rest_never(
    mine: Spool, folder: Folder, gone: Gone
) -> None:
    kept: Dict[str, int] = {"log": 10, "start": 20, "end": 30, "essential": 40}
    for rank, seq in kept.items():
        mine.put(HELLO, {rank: records(seq, size=650)})
    assert [rank for rank, _, _ in gone] == ["log"]
    mine.put(HELLO, {"essential": records(41, size=650)})
    mine.put(HELLO, {"essential": records(42, size=650)})
    assert [rank for rank, _, _ in gone] == ["log", "start", "end"]
    mine.put(HELLO, {"essential": records(43, 44, size=650)})
    assert gone == [
        ("log", 1, ((10, 10),)),
        ("start", 1, ((20, 20),)),
        ("end", 1, ((30, 30),)),
    ]
    assert seqs_in(folder) == [40, 41, 42, 43, 44]


def test_of_a_rank_the_oldest_go_first(mine: Spool, folder: Folder, gone: Gone) -> None:
    for seq in range(1, 9):
        mine.put(HELLO, {"end": records(seq, size=600)})
    assert seqs_in(folder)[-1] == 8
    lost = [first for _, _, ranges in gone for first, _ in ranges]
    assert lost == list(range(1, len(lost) + 1))
    assert sorted(lost + seqs_in(folder)) == list(range(1, 9))


def test_what_somebody_else_delivers_is_not_given_up(
    mine: Spool, folder: Folder, gone: Gone
) -> None:
    mine.put(HELLO, {"log": records(1, size=900)})
    assert Folder(folder.path).claim(folder.names()[0]) is not None
    for seq in range(2, 6):
        mine.put(HELLO, {"essential": records(seq, size=900)})
    assert gone == []


def test_newer_totals_take_the_place_of_older_ones(mine: Spool, folder: Folder) -> None:
    for number in (1, 2):
        head = wire.encode(wire.Sample(number=number, sent=1.0))
        mine.put_totals(HELLO, head)
    (name,) = folder.names()
    contents = spoolfile.read(Path(folder.path, name).read_bytes())
    assert wire.decode_from_source(contents.sample) == wire.Sample(number=2, sent=1.0)
    mine.drop_totals()
    assert os.listdir(folder.path) == []


def test_a_rename_whose_answer_was_lost_is_known_to_have_been_done(
    mine: Spool, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: the server did it, its answer got lost, the second try finds nothing.

    No server runs here, so its answer is made.
    """
    mine.put(HELLO, {"essential": records(1, 2)})
    mine.close()
    (name,) = folder.free()
    real = os.rename

    def rename(path: str, target: str) -> None:
        real(path, target)
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        claim = folder.claim(name)
        assert claim is not None
        assert [seq for seq, _ in claim.contents.records] == [1, 2]
        assert Folder(folder.path).claim(name) is None, "another one's second try"
    folder.delivered(claim)
    assert os.listdir(folder.path) == []


def test_what_nobody_asks_for_is_swept_in_the_end(
    mine: Spool, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.put(HELLO, {"essential": records(1)})
    mine.close()
    age(folder, spool.MOST_SECONDS + 1)
    mine.put(HELLO, {"essential": records(2)})
    assert folder.sweep() == (1, 1)
    assert seqs_in(folder) == [2]
    monkeypatch.setattr(spool, "MOST_IN_FOLDER", 10)
    assert folder.sweep() == (0, 0), "its owner lives"
    mine.close()
    assert folder.sweep() == (1, 1)
    assert seqs_in(folder) == []


def test_what_is_swept_is_counted_by_who_sweeps(
    folder: Folder, gone: Gone, mine: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Spool(folder, ENDPOINT, bytes(16), lambda *_: None)
    dead.put(HELLO, {"essential": records(1, 2), "log": records(3)})
    dead.close()
    Path(folder.path, f"{'a' * 32}-1.corrupt").write_bytes(
        spoolfile.records([(9, b"")])
    )
    age(folder, spool.MOST_SECONDS + 1)
    mine.put(HELLO, {"essential": records(1)})
    assert gone == [("old", 3, ())], "of the damaged one, all that could be was taken"
    assert "3 files in" in caplog.text
    assert "with 3 records" in caplog.text
    mine.put(HELLO, {"essential": records(2)})
    assert len(gone) == 1


def test_an_exit_does_not_wait_until_all_of_it_is_counted(
    folder: Folder, mine: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "COUNT_SECONDS", -1.0)
    mine.put(HELLO, {"essential": records(1, 2), "log": records(3)})
    mine.close()
    age(folder, spool.MOST_SECONDS + 1)
    assert folder.sweep() == (2, 2)
    assert names(folder) == []


# --- a disk that cannot ---------------------------------------------------------------


def test_a_full_disk_leaves_files_whole_and_says_so(gone: Gone, tmp_path: Path) -> None:
    """On a real one, of 64 KiB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "none", str(mounted)]
    require(os.geteuid() == 0 and _run(mount), "mounting a tmpfs needs root")
    try:
        folder = Folder.of(str(mounted), ENDPOINT)
        mine = Spool(folder, ENDPOINT, SOURCE, lambda *given: gone.append(given))
        mine.put(HELLO, {"end": records(1, size=1000)})
        waiting = {"log": records(2), "end": records(3, size=100_000)}
        with pytest.raises(OSError, match="No space"):
            mine.put(HELLO, waiting)
        assert waiting == {"log": records(2), "end": records(3, size=100_000)}
        assert seqs_in(folder) == [1]
        mine.put(HELLO, {"end": records(4)})
        assert seqs_in(folder) == [1, 4]
        for name in folder.names():
            data = Path(folder.path, name).read_bytes()
            assert not spoolfile.read(data).damaged
    finally:
        _run(["umount", str(mounted)])


def _run(command: List[str]) -> bool:
    return subprocess.run(command, check=False, timeout=30).returncode == 0
