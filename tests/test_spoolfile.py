"""What lies in a spool file, and what is left of it when it was damaged."""

from typing import List, Tuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiment_hooks import spoolfile, wire

SOURCE = bytes(range(16))
HELLO = wire.Hello(
    protocol=wire.PROTOCOL, source=SOURCE, run="r", sent=1.0, announced=3
)


def record(seq: int, message: str = "x") -> Tuple[int, bytes]:
    line = wire.LogLine("r", SOURCE, seq, 1.0, level="info", message=message)
    return seq, wire.encode(line)


RECORDS = [record(1), record(2, "y" * 200), record(3, spoolfile.MARK.hex())]
WHOLE = spoolfile.header("tcp://x:1", HELLO) + spoolfile.records(RECORDS)
SAMPLE = wire.encode(wire.Sample(number=4, sent=2.0))


def seqs(contents: spoolfile.Contents) -> List[int]:
    return [seq for seq, _ in contents.records]


def test_what_was_written_is_read() -> None:
    found = spoolfile.read(WHOLE + spoolfile.sample(SAMPLE))
    assert found.hello == HELLO
    assert found.records == RECORDS
    assert found.sample == SAMPLE
    assert (found.damaged, found.newer) == (0, False)


def test_the_newest_totals_hold() -> None:
    newer = wire.encode(wire.Sample(number=5, sent=3.0))
    found = spoolfile.read(spoolfile.sample(SAMPLE) + spoolfile.sample(newer))
    assert found.sample == newer


def test_the_bytes_are_these() -> None:
    """Files of this version lie on disks: a later one has to read them."""
    assert spoolfile.records([(258, b"ab")]).hex() == (
        "ef45730a520a000000e54b818702010000000000006162"
    )


@given(cut=st.integers(0, len(WHOLE)))
def test_a_file_that_was_cut_anywhere_gives_what_is_whole(cut: int) -> None:
    found = spoolfile.read(WHOLE[:cut])
    assert found.records == RECORDS[: len(found.records)]
    whole = spoolfile.header("tcp://x:1", HELLO) if found.hello else b""
    used = len(whole + spoolfile.records(found.records))
    assert found.damaged == cut - used
    assert used <= cut


@given(at=st.integers(0, len(WHOLE) - 1), change=st.integers(1, 255))
@example(at=0, change=1)
def test_a_byte_that_changed_costs_one_frame(at: int, change: int) -> None:
    data = bytearray(WHOLE)
    data[at] ^= change
    found = spoolfile.read(bytes(data))
    assert len(found.records) >= len(RECORDS) - 1
    assert set(found.records) <= set(RECORDS)
    assert found.damaged
    # Who wrote it is known by its records too.
    assert found.hello
    assert (found.hello.source, found.hello.run) == (SOURCE, "r")


@given(st.binary(max_size=400))
@example(spoolfile.MARK * 3)
@example(spoolfile.MARK + b"R\xff\xff\xff\xff")
def test_any_bytes_can_be_read(data: bytes) -> None:
    found = spoolfile.read(data)
    assert (found.records, found.sample, found.hello) == ([], b"", None)
    assert found.damaged == len(data)


def test_garbage_before_and_between_is_passed_over() -> None:
    middle = spoolfile.records(RECORDS[:1]) + b"garbage" + spoolfile.MARK
    found = spoolfile.read(b"??" + middle + spoolfile.records(RECORDS[1:]))
    assert seqs(found) == [1, 2, 3]
    assert found.damaged == 2 + len(b"garbage") + len(spoolfile.MARK)


def test_a_file_of_a_newer_version_is_known_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spoolfile, "VERSION", spoolfile.VERSION + 1)
    newer = spoolfile.header("tcp://x:1", HELLO)
    monkeypatch.undo()
    assert spoolfile.read(newer).newer
