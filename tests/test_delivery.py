"""Records that nobody took: to disk, and from there to whoever listens later."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List
from unittest.mock import patch

import pytest

import experiment_hooks as eh
from experiment_hooks import delivery, overflow, sender, spool, spoolfile, wire
from experiment_hooks import line as lines
from experiment_hooks.spool import Folder
from experiment_hooks.testing import Listener, Source
from tests.support import Pythons, eventually, free_port


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does at once what otherwise takes seconds."""
    monkeypatch.setattr(lines, "TICK", 0.02)
    monkeypatch.setattr(lines, "HELLO_AGAIN", 0.1)
    monkeypatch.setattr(delivery, "HELLO_AGAIN", 0.1)
    monkeypatch.setattr(delivery, "LOOK", 0.05)
    monkeypatch.setattr(overflow, "AFTER", 0.1)


@pytest.fixture
def spool_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "spool"
    monkeypatch.setenv("EPISIGHT_SPOOL_DIR", str(path))
    return path


@pytest.fixture
def port(spool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nobody listens there, yet; what is left for it lies in ``spool_dir``."""
    found = free_port()
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"tcp://127.0.0.1:{found}")
    return found


@pytest.fixture(params=[True, False], ids=["thread", "inline"])
def thread(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def files(spool_dir: Path) -> List[Path]:
    return sorted(path for path in spool_dir.rglob("*") if path.is_file())


def on_disk(spool_dir: Path) -> List[spoolfile.Contents]:
    found = []
    for path in files(spool_dir):
        try:
            found.append(spoolfile.read(path.read_bytes()))
        except FileNotFoundError:  # renamed a moment ago
            continue
    return found


def totals_of(head: bytes) -> bytes:
    sample = wire.decode_from_source(head)
    assert isinstance(sample, wire.Sample)
    return sample.totals


def records_on_disk(spool_dir: Path) -> int:
    return sum(len(one.records) for one in on_disk(spool_dir))


def left_behind(name: str = "left", episodes: int = 5) -> eh.Run:
    """A run that ends while nobody listens; it leaves all at its end, in one file."""
    with patch.object(overflow, "AFTER", 60.0):
        run = eh.open_run(name, run_id=name)
        for _ in range(episodes):
            with run.episode() as ep:
                ep.step()
        run.close()
    return run


def whole(source: Source) -> bool:
    """Whether every record that was announced has come."""
    return source.closed is not None and len(source.records) == source.closed.seq


def of(listener: Listener, run: eh.Run) -> Iterator[Source]:
    return (one for one in listener.sources() if one.hellos[0].run == run.id)


# --- at the end ----------------------------------------------------------------------


def test_what_is_unsent_at_the_end_is_on_disk(
    port: int, spool_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = left_behind()
    (contents,) = on_disk(spool_dir)
    assert contents.hello is not None
    assert contents.hello.run == run.id
    seqs = [seq for seq, _ in contents.records]
    assert seqs == list(range(1, len(seqs) + 1))
    last = wire.decode_record(contents.records[-1][1])
    assert isinstance(last, wire.SourceClosed)
    assert str(spool_dir) in caplog.text, "it is said where they are kept"
    assert "lost" not in caplog.text
    (path,) = files(spool_dir)
    assert path.suffix == ".spool"


def test_the_next_source_delivers_it_with_the_times_of_then(
    port: int, spool_dir: Path
) -> None:
    before = time.time()
    first = left_behind()
    after = time.time()
    with Listener(port) as listener:
        with eh.open_run("second"):
            listener.wait_for(lambda: any(map(whole, of(listener, first))))
            eventually(lambda: files(spool_dir) == [])
        (source,) = of(listener, first)
    assert all(before <= one.time <= after for one in source.records.values())
    assert [hello.replay for hello in source.hellos] == [True]
    assert len(listener.episodes()) == 5
    assert listener.duplicates == 0
    assert listener.complaints == []


def test_a_source_without_a_thread_does_not_work_for_others(
    port: int, spool_dir: Path
) -> None:
    left_behind()
    with Listener(port) as listener, eh.open_run("second", thread=False) as run:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            run.progress()
        assert [one.hellos[0].run for one in listener.sources()] == [run.id]
    assert len(files(spool_dir)) == 1


def test_an_exporter_that_does_not_acknowledge_the_end_costs_nothing(
    port: int, spool_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Listener(port) as listener:
        run = eh.open_run("mug")
        listener.wait_for(listener.sources)
        listener.withhold()
        with run.episode() as ep:
            ep.step()
        run.close(timeout=0.1)
    assert records_on_disk(spool_dir) >= 2
    assert "did not acknowledge" in caplog.text
    assert str(spool_dir) in caplog.text


def test_who_wants_no_spool_has_none(
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("EPISIGHT_SPOOL_DIR", "off")
    monkeypatch.chdir(tmp_path)
    left_behind()
    assert files(tmp_path) == []
    assert re.search(r"the last \d+ records .* what they say is lost", caplog.text)


# --- while nobody answers ------------------------------------------------------------


def test_what_waits_for_long_goes_to_disk_and_comes_from_there(
    port: int, spool_dir: Path, thread: bool
) -> None:
    run = eh.open_run("mug", thread=thread)
    outbox = run._recorder._outbox

    def worked() -> bool:
        with run.episode() as ep:
            ep.step()
        return len(on_disk(spool_dir)) > 1 and outbox.held < 2000

    eventually(worked)
    with Listener(port) as listener:
        source = listener.wait_for(lambda: run.progress() or listener.sources())[0]

        def delivered() -> bool:
            run.progress()
            return files(spool_dir) == []

        eventually(delivered)
        run.close()
    assert whole(source)
    assert {hello.replay for hello in source.hellos} == {False, True}
    assert listener.total("steps") == len(listener.episodes())
    assert listener.complaints == []


def test_totals_so_far_lie_on_disk_in_case_it_is_killed(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "TOTALS", 0.05)
    run = eh.open_run("mug")
    hits = run.counter("hits")

    def told() -> bool:
        hits.inc()
        samples = [one.sample for one in on_disk(spool_dir) if one.sample]
        found = [wire.decode_from_source(one) for one in samples]
        return any(isinstance(one, wire.Sample) and one.number > 2 for one in found)

    eventually(told)
    # A newer one is written beside it, and then takes its place.
    eventually(lambda: len([one for one in on_disk(spool_dir) if one.sample]) == 1)
    run.close()  # the last record has the final ones
    assert not any(one.sample for one in on_disk(spool_dir))


def test_memory_that_is_half_full_goes_to_disk_at_once(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "AFTER", 3600.0)
    monkeypatch.setattr(overflow, "CROWDED", 0.02)
    run = eh.open_run("mug")
    outbox = run._recorder._outbox
    outbox._most = run._recorder._max_bytes = 200_000
    for number in range(5000):
        run.publish_log("info", str(number))
        if outbox.held > 120_000:
            eventually(lambda: outbox.held < 120_000)
    assert not run.dropped
    with Listener(port) as listener:
        source = listener.wait_for(listener.sources)[0]
        run.close(timeout=20)
    assert whole(source)
    said = [int(one.message) for one in listener.records(wire.LogLine)]
    assert sorted(said) == list(range(5000))


def test_what_the_spool_has_no_room_for_is_counted_and_told(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MOST_BYTES", 0)
    run = eh.open_run("mug")
    assert run._line is not None
    assert run._line._overflow is not None
    run._line._overflow.spool._most = 0

    def gone() -> bool:
        run.publish_log("info", "x")
        with run.episode() as ep:
            ep.step()
        dropped = run.dropped
        return "spool_log_lines" in dropped and "spool_episodes" in dropped

    eventually(gone)
    with Listener(port) as listener:
        source = listener.wait_for(listener.sources)[0]
        listener.wait_for(lambda: listener.records(wire.GivenUp))
        run.close()
    ranges = [pair for one in listener.records(wire.GivenUp) for pair in one.ranges]
    lost = {n for first, last in ranges for n in range(first, last + 1)}
    assert lost
    assert source.closed is not None
    assert lost | set(source.records) == set(range(1, source.closed.seq + 1))
    assert not lost & set(source.records)
    told = source.closed.dropped
    assert told["spool_log_lines"] + told["spool_episodes"] == len(lost)


def test_a_directory_that_cannot_be_used_costs_one_warning(
    port: int,
    spool_dir: Path,
    caplog: pytest.LogCaptureFixture,
    thread: bool,
) -> None:
    spool_dir.write_text("a file, not a directory")
    run = eh.open_run("mug", thread=thread)

    def complained() -> bool:
        run.publish_log("info", "x")
        return run.dropped.get("spool", 0) > 1

    eventually(complained)
    with Listener(port) as listener:
        listener.wait_for(lambda: run.progress() or listener.sources())
        run.close(timeout=20)
    assert whole(listener.sources()[0]), "they waited in memory"
    assert caplog.text.count("cannot be written") == 1


def test_where_it_is_asked_for_that_is_an_error(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_STRICT", "1")
    spool_dir.mkdir()
    folder = Folder.of(str(spool_dir), os.environ["EPISIGHT_ENDPOINT"])
    os.makedirs(folder.path)
    os.chmod(folder.path, 0o777)
    with pytest.raises(eh.SetupError, match="EPISIGHT_SPOOL_DIR"):
        eh.open_run("mug")
    assert eh.current_run() is None


# --- on the way ----------------------------------------------------------------------


def test_an_exporter_that_goes_and_comes_again_gets_each_record_once(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "WINDOW_RECORDS", 3)
    monkeypatch.setattr(delivery, "ACK_TIMEOUT", 0.2)
    first = left_behind(episodes=50)
    with Listener(port) as listener, eh.open_run("second"):

        def whole_now() -> bool:
            return any(map(whole, of(listener, first)))

        for _ in range(5):
            seen = len(listener.records())
            listener.wait_for(lambda n=seen: len(listener.records()) > n or whole_now())
            listener.restart()
        listener.wait_for(whole_now)
        eventually(lambda: files(spool_dir) == [])
    assert len(listener.episodes()) == 50
    assert listener.complaints == []


def test_an_acknowledgement_that_comes_late_is_not_the_next_file_s(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sources count from 1: taken for another's, it would cost that one's."""
    monkeypatch.setattr(delivery, "ACK_TIMEOUT", 0.1)
    runs = [left_behind(f"left-{n}") for n in range(3)]
    with Listener(port) as listener:
        listener.withhold()
        with eh.open_run("next") as run:
            # Sent again and again, each is acknowledged several times in the end.
            listener.wait_for(lambda: listener.duplicates > 20)
            listener.release()
            eventually(lambda: files(spool_dir) == [])
            assert run.url
        for one in runs:
            assert any(map(whole, of(listener, one))), one.id


def test_a_file_that_the_exporter_refuses_stays(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind()
    kept = files(spool_dir)
    with Listener(port) as listener:
        run = eh.open_run("next")
        listener.wait_for(lambda: run.url)
        listener.refuse()
        run.close(timeout=0.2)
        listener.accept()
    assert kept[0] in files(spool_dir)


def test_totals_of_a_source_that_is_not_known_are_left_for_later(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter acknowledges them only when it knows whose they are."""
    monkeypatch.setattr(delivery, "ACK_TIMEOUT", 0.02)
    folder = Folder.of(str(spool_dir), os.environ["EPISIGHT_ENDPOINT"])
    source = bytes(range(16))
    hello = wire.Hello(protocol=wire.PROTOCOL, source=source, run="r", sent=1.0)
    mine = spool.Spool(folder, "", source, lambda *given: None)
    mine.put_totals(hello, wire.encode(wire.Sample(number=1, sent=1.0)))
    mine.close()
    with Listener(port) as listener, eh.open_run("next"):
        listener.withhold(records=False)
        tries = listener.wait_for(
            lambda: (
                len(
                    [
                        one
                        for one in listener.heard(wire.Sample)
                        if one.message.sent == 1
                    ]
                )
                >= delivery.SAMPLE_TRIES
            )
        )
        assert tries
        eventually(lambda: folder.names()[0].endswith(".spool"))
        listener.release()
    assert len(files(spool_dir)) == 1


def test_a_damaged_file_gives_what_is_whole_and_is_set_aside(
    port: int, spool_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = left_behind()
    (path,) = files(spool_dir)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 10] = bytes(10)
    path.write_bytes(data)
    with Listener(port) as listener, eh.open_run("next"):
        listener.wait_for(
            lambda: any(one.closed is not None for one in of(listener, first))
        )
        eventually(lambda: [one.suffix for one in files(spool_dir)] == [".corrupt"])
    (source,) = of(listener, first)
    assert source.closed is not None
    assert source.closed.seq - len(source.records) in (1, 2)
    assert "could not be read" in caplog.text


def test_a_file_of_which_nothing_can_be_read_is_set_aside(
    port: int, spool_dir: Path
) -> None:
    left_behind()
    (path,) = files(spool_dir)
    path.write_bytes(b"\0" * 1000)
    with Listener(port) as listener, eh.open_run("next"):
        eventually(lambda: [one.suffix for one in files(spool_dir)] == [".corrupt"])
        assert len(listener.sources()) == 1


def test_a_file_that_cannot_be_removed_silences_nobody(
    port: int,
    spool_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(self: Any, claim: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Folder, "delivered", fails)
    left_behind()
    with Listener(port) as listener:
        run = eh.open_run("next")
        listener.wait_for(lambda: "Read-only" in caplog.text)
        seen = len(listener.heard(wire.Sample))
        listener.wait_for(lambda: len(listener.heard(wire.Sample)) > seen + 3)
        listener.withhold()
        with run.episode() as ep:
            ep.step()
        run.close(timeout=0.1)
    assert caplog.text.count("Read-only") == 1
    left = [one.hello.run for one in on_disk(spool_dir) if one.hello]
    assert run.id in left, "its own records are on disk all the same"


def test_a_line_that_fails_at_the_end_keeps_the_records(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch, thread: bool
) -> None:
    run = eh.open_run("mug", thread=thread)
    assert run._line is not None

    def fails(timeout: float) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(run._line, "pump", fails)
    run.close()
    assert records_on_disk(spool_dir) >= 3


def test_a_second_ctrl_c_does_not_cost_the_records(
    port: int, spool_dir: Path, run_python: Pythons
) -> None:
    with Listener(port) as listener:
        listener.withhold()
        child = run_python.start(
            """
            import experiment_hooks as eh

            with eh.open_run("impatient", run_id="impatient") as run:
                while not run.url:
                    pass
                print("HERE", flush=True)
                while True:
                    pass
            """,
            env={
                "EPISIGHT_ENDPOINT": os.environ["EPISIGHT_ENDPOINT"],
                "EPISIGHT_SPOOL_DIR": str(spool_dir),
            },
        )
        child.wait_for("HERE")
        child.signal(signal.SIGINT)
        closing = wire.SourceClosed
        listener.wait_for(lambda: listener.records(closing))  # it waits for its end
        child.signal(signal.SIGINT)
        assert child.wait() != 0
    seqs = {seq for one in on_disk(spool_dir) for seq, _ in one.records}
    assert seqs == set(listener.sources()[0].records)


def test_totals_come_with_the_schema_that_they_need(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "TOTALS", 0.1)  # the first may not know it
    run = eh.open_run("mug")
    run.counter("hits").inc()

    def told() -> List[bytes]:
        heads = [one.sample for one in on_disk(spool_dir) if one.sample]
        return [head for head in heads if totals_of(head)]

    eventually(told)
    kinds = {
        type(wire.decode_record(data))
        for one in on_disk(spool_dir)
        for _, data in one.records
    }
    assert wire.Schema in kinds
    run.close()


def test_an_exporter_that_moved_is_found_by_its_file(
    spool_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "address.json"
    monkeypatch.setenv("EPISIGHT_ENDPOINT", f"file://{address}")
    with Listener() as first:
        address.write_text(json.dumps({"ingest": first.endpoint}))
        run = eh.open_run("mug")
        first.wait_for(lambda: run.url)
    with Listener() as second:
        address.write_text(json.dumps({"ingest": second.endpoint}))
        second.wait_for(second.sources)
        run.close()
    assert any(one.closed is not None for one in second.sources())


def test_a_file_of_a_newer_version_is_left_alone(
    port: int,
    spool_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(spoolfile, "VERSION", spoolfile.VERSION + 1)
    left_behind()
    monkeypatch.setattr(spoolfile, "VERSION", spoolfile.VERSION - 1)
    kept = files(spool_dir)
    with Listener(port) as listener, eh.open_run("next"):
        listener.wait_for(lambda: "newer episight" in caplog.text)
        eventually(lambda: files(spool_dir) == kept)
        assert len(listener.sources()) == 1


def test_a_killed_source_s_files_are_delivered_when_they_seem_dead(
    port: int,
    spool_dir: Path,
    run_python: Pythons,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = {
        "EPISIGHT_ENDPOINT": os.environ["EPISIGHT_ENDPOINT"],
        "EPISIGHT_SPOOL_DIR": str(spool_dir),
    }
    child = run_python.start(
        """
        import experiment_hooks as eh
        from experiment_hooks import line as lines, overflow

        lines.TICK, overflow.AFTER = 0.02, 0.1
        run = eh.open_run("killed", run_id="killed")
        while True:
            with run.episode() as ep:
                ep.step()
        """,
        env=env,
    )

    def wrote() -> bool:
        found = on_disk(spool_dir)
        return records_on_disk(spool_dir) > 20 and any(one.sample for one in found)

    eventually(wrote, 30)
    child.kill()
    there = records_on_disk(spool_dir)
    with Listener(port) as listener, eh.open_run("next"):
        listener.wait_for(listener.sources)
        assert len(listener.sources()) == 1, "it may live"
        monkeypatch.setattr(spool, "LEASE", 0.0)
        eventually(lambda: files(spool_dir) == [], 30)
        (source,) = [one for one in listener.sources() if one.hellos[0].run == "killed"]
        assert len(source.records) == there
        assert source.sample is not None, "its totals so far"


def test_a_forked_child_has_files_of_its_own(
    port: int, spool_dir: Path, run_python: Pythons
) -> None:
    run_python(
        """
        import os
        import experiment_hooks as eh
        from experiment_hooks import line as lines, overflow

        lines.TICK, overflow.AFTER = 0.02, 0.05
        run = eh.open_run("forks", run_id="forks")
        line = run._line
        while not line._overflow.spool.count:
            run.publish_log("info", "parent")
        if os.fork() == 0:
            with run.episode() as ep:
                ep.step()
            run.close()
            os._exit(0)
        assert os.wait()[1] == 0
        run.close()
        """,
        env={
            "EPISIGHT_ENDPOINT": os.environ["EPISIGHT_ENDPOINT"],
            "EPISIGHT_SPOOL_DIR": str(spool_dir),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",
        },
    )
    with Listener(port) as listener, eh.open_run("next"):
        eventually(lambda: files(spool_dir) == [])
        forks = [one for one in listener.sources() if one.hellos[0].run == "forks"]
        assert len(forks) == 2
        assert all(map(whole, forks))


SLOW_DISK = """
    import os, time
    import experiment_hooks as eh

    at_once, took = os.fsync, float({takes!r})

    def slowly(file):
        time.sleep(took)
        at_once(file)

    os.fsync = slowly
    run = eh.open_run("slow", run_id="slow")
    for number in range(20_000):
        run.publish_log("info", "x" * 200)
    start = time.monotonic()
    run.close()
    print("TOOK", time.monotonic() - start)
    """


@pytest.mark.parametrize(
    ("takes", "whole_on_disk"), [(0.2, True), (20.0, False)], ids=["slow", "hangs"]
)
def test_an_exit_waits_for_a_slow_disk_but_not_for_ever(
    spool_dir: Path, run_python: Pythons, takes: float, whole_on_disk: bool
) -> None:
    """Five megabytes are left, and nobody listens."""
    env = {
        "EPISIGHT_ENDPOINT": f"tcp://127.0.0.1:{free_port()}",
        "EPISIGHT_SPOOL_DIR": str(spool_dir),
    }
    said = run_python(SLOW_DISK.format(takes=takes), env=env).output
    took = float(re.findall(r"TOOK (.*)", said)[0])
    assert took < sender.UNANSWERED_EXIT + 0.3 + sender.SAVING_EXIT + 2.0
    assert (records_on_disk(spool_dir) > 20_000) == whole_on_disk
    assert ("some may be lost" not in said) == whole_on_disk


def test_what_waits_long_goes_to_disk_before_the_end(
    port: int, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "SILENT", 0.1)
    monkeypatch.setattr(lines, "TICK", 0.02)
    with eh.open_run("much") as run:
        eventually(
            lambda: (
                [run.publish_log("info", "x" * 5000) for _ in range(50)]
                and records_on_disk(spool_dir) > 200
            )
        )
        eventually(lambda: run._recorder.held < overflow.MUCH)
        little = run._recorder.held
        run.publish_log("info", "one more")
        assert run._recorder.held > little


# --- what it costs -------------------------------------------------------------------


def test_a_run_that_somebody_hears_writes_nothing(
    port: int, spool_dir: Path, thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "AFTER", 1.0)  # a busy machine answers late
    with Listener(port) as listener:
        run = eh.open_run("mug", thread=thread)
        end = time.monotonic() + 1.3
        while time.monotonic() < end or not listener.sources():
            run.progress()
        run.close()
    assert not spool_dir.exists()


@pytest.fixture
def no_thread_writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], List[Any]]:
    """Which threads have written to the spool."""
    import threading

    found: List[Any] = []
    put = spool.Spool.put

    def noted(self: Any, *given: Any) -> Any:
        found.append(threading.current_thread().name)
        return put(self, *given)

    monkeypatch.setattr(spool.Spool, "put", noted)
    return lambda: found


def test_the_experiment_s_thread_never_writes(
    port: int, spool_dir: Path, no_thread_writes: Callable[[], List[Any]]
) -> None:
    run = eh.open_run("mug")

    def worked() -> List[Any]:
        with run.episode() as ep:
            ep.step()
        return no_thread_writes()

    eventually(worked)
    run.close()
    assert set(no_thread_writes()) == {"episight-sender"}
