"""From a trace id back to its episode: each is found, and none that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from experiment_hooks import wire
from exporter import lookup
from exporter.lookup import Lookup, matching
from exporter.reader import Wanted
from tests.making import NOON, Teller
from tests.test_writer import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.close()


def commit(bench: Bench, teller: Teller, *records: wire.AnyRecord) -> None:
    bench.arrive(teller, *records)
    bench.round()


def a_run(bench: Bench) -> tuple[Teller, Teller]:
    """Two sources with ended, lost and open episodes, with holes and out of order."""
    first, second = Teller(1), Teller(2, at=NOON + 5)
    commit(bench, first, first.opened(), first.run_opened())
    commit(bench, second, second.opened("child", first.id))
    for number in (0, 1, 2, 9, 5):
        commit(bench, first, first.started(number), first.ended(number))
    commit(bench, first, first.started(12, seed=4))
    commit(bench, second, second.started(3), second.started(4), second.ended(4))
    return first, second


def trace(teller: Teller, number: int) -> str:
    return wire.trace_id(teller.run, teller.id, number)


def test_every_episode_is_found_by_its_trace_id(bench: Bench) -> None:
    first, second = a_run(bench)
    found = Lookup(bench.state, bench.reader)
    for teller, number in [(first, n) for n in (0, 1, 2, 5, 9)] + [(second, 4)]:
        whole = found.whole("run", trace(teller, number))
        assert whole is not None
        assert (whole["source"], whole["number"]) == (teller.id.hex(), number)
        assert whole["outcome"] == "correct"
    still_open = found.whole("run", trace(first, 12).upper())
    assert still_open is not None
    assert (still_open["outcome"], still_open["seed"]) == (None, 4)
    assert still_open.keys() >= {"phases", "sampled", "events", "omitted", "last_step"}


@pytest.mark.parametrize(
    "trace_id", ["", "ab", "0" * 32, "x" * 32, "<script>", "٣" * 32, "f" * 64]
)
def test_what_is_no_trace_id_of_the_run_is_not_found(
    bench: Bench, trace_id: str
) -> None:
    first, _ = a_run(bench)
    found = Lookup(bench.state, bench.reader)
    assert found.whole("run", trace_id) is None
    assert found.whole("nobody", trace(first, 0)) is None
    assert found.whole("run", trace(first, 3)) is None


def test_an_episode_of_a_lost_source_is_found_before_and_after_it_is_closed(
    bench: Bench,
) -> None:
    _, second = a_run(bench)
    found = Lookup(bench.state, bench.reader)
    bench.gone(second)
    bench.tick(31)
    before = found.whole("run", trace(second, 3))
    assert before is not None
    assert before["outcome"] is None
    bench.tick(60)
    after = Lookup(bench.state, bench.reader).whole("run", trace(second, 3))
    assert after is not None
    assert after["outcome"] == "lost"


def test_one_that_ends_while_it_is_looked_at_is_found_as_ended(bench: Bench) -> None:
    first, _ = a_run(bench)
    found = Lookup(bench.state, bench.reader)
    whole: Any = found.whole("run", trace(first, 12))
    assert whole["ended"] is None
    commit(bench, first, first.ended(12, outcome="confused"))
    whole = found.whole("run", trace(first, 12))
    assert whole["outcome"] == "confused"


def test_what_was_shown_is_found_without_hashing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = a_run(bench)
    found = Lookup(bench.state, bench.reader)
    found.remember("run", bench.reader.search("run", Wanted(), limit=9).rows)
    monkeypatch.setattr(lookup, "_hashed", lambda *anything: pytest.fail("hashed"))
    assert found.find("run", trace(first, 0)) == (first.id, 0)


def test_only_the_last_few_are_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = a_run(bench)
    monkeypatch.setattr(lookup, "REMEMBERED", 2)
    found = Lookup(bench.state, bench.reader)
    found.remember("run", bench.reader.search("run", Wanted(), limit=9).rows)
    assert len(found._known) == 2
    assert found.find("run", trace(first, 9)) == (first.id, 9)


@given(
    some.text(max_size=8),
    some.binary(min_size=16, max_size=16),
    some.sets(some.integers(0, 2**40), min_size=1, max_size=5),
    some.data(),
)
@settings(max_examples=50)
def test_the_hash_is_the_one_of_the_wire(
    run: str, source: bytes, numbers: set[int], data: Any
) -> None:
    number = data.draw(some.sampled_from(sorted(numbers)))
    wanted = bytes.fromhex(wire.trace_id(run, source, number))
    ranges = [(one, one) for one in numbers]
    assert lookup._hashed(run, source, ranges, wanted) == number


COUNTED = {"eval": {"correct": 3, "lost": 1}, "train": {"correct": 5, "other": 2}}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), 11),
        (Wanted("eval"), 4),
        (Wanted("nobody"), 0),
        (Wanted("eval", "correct"), 3),
        (Wanted("eval", "nothing"), 0),
        (Wanted("train", "correct"), None),
        (Wanted(outcome="correct"), None),
        (Wanted(failed=True), None),
    ],
)
def test_counts_say_how_many_match_unless_some_are_not_told_apart(
    wanted: Wanted, expected: int | None
) -> None:
    assert matching(COUNTED, wanted) == expected
