"""What people told runs to do: on record first, then sent; and which of it stands."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest

from experiment_hooks import wire
from exporter import orders
from exporter.orders import MAX_TOLD, Order
from exporter.verdict import STOP_ID, verdict
from tests.making import NOON, Teller
from tests.support import ROOT
from tests.test_writer import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    made.inbox.wake = made.round  # type: ignore[method-assign]
    yield made
    made.close()


def commit(bench: Bench, teller: Teller, *records: wire.AnyRecord) -> None:
    bench.arrive(teller, *records)
    bench.round()


def come(bench: Bench, number: int = 1, role: str = "owner", **said: Any) -> Teller:
    teller = Teller(number, at=bench.now)
    commit(bench, teller, teller.opened(role, **said), teller.run_opened())
    return teller


def give(bench: Bench, name: str = "stop", source: bytes | None = None) -> Order:
    run = bench.state.runs["run"]
    there = [one.id for one in orders.live(run)] if source is None else [source]
    said = {"when": "step", "reason": "", "by": "ann", "at": bench.now}
    order = orders.new(run, name, source=source, sources=there, **said)  # type: ignore[arg-type]
    assert bench.orders.give(order) == ""
    bench.now += 1
    return order


def told(bench: Bench, number: int, role: str = "child", owner: bytes = b"") -> Any:
    """The id of what a source is told that says hello now."""
    source = bytes([number]) * 16
    hello = wire.Hello(wire.PROTOCOL, source, "run", bench.now, role=role, owner=owner)
    found = bench.orders.standing("run", hello)
    return found.id if found else None


def answer(bench: Bench, teller: Teller, order: Order, state: str) -> None:
    said = teller.make(wire.CommandAnswered, command=order.id, state=state)
    commit(bench, teller, said)


def standing(bench: Bench) -> list[str]:
    return [one.id for one, _, stands in bench.orders.of("run") if stands]


def restarted(bench: Bench) -> None:
    """As after a start: all that is known is what the journal has."""
    bench.state.clear()
    bench.writer.restore()


# --- on record, then sent -------------------------------------------------------------


def test_what_is_sent_is_on_disk(bench: Bench) -> None:
    come(bench)
    on_disk: list[int] = []
    send = bench.orders._send

    def look(*told: Any) -> None:
        on_disk.append(len(bench.journal.orders()))
        send(*told)

    bench.orders._send = look
    order = give(bench)
    assert on_disk == [1]
    assert bench.sent == [("run", None, order.command)]
    assert bench.journal.orders() == [order]


def test_a_stop_of_a_run_is_known_by_its_id(bench: Bench) -> None:
    owner, child = come(bench), come(bench, 2, "child")
    assert give(bench).id.startswith(STOP_ID)
    assert give(bench, source=owner.id).id.startswith(STOP_ID)
    assert not give(bench, source=child.id).id.startswith(STOP_ID)
    assert not give(bench, "save").id.startswith(STOP_ID)


def test_nothing_but_a_request_makes_a_command() -> None:
    """One place makes commands, of orders; one makes orders; and the web alone asks."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "exporter").rglob("*.py"):
        for call in re.findall(
            r"\bCommand\(|\borders\.new\(|\.give\(", path.read_text()
        ):
            found.setdefault(call, set()).add(path.name)
    assert found == {
        "Command(": {"orders.py"},
        "orders.new(": {"web.py"},
        ".give(": {"web.py"},
    }


def test_no_end_no_loss_and_no_restart_gives_a_command(bench: Bench) -> None:
    owner, child = come(bench), come(bench, 2, "child")
    commit(bench, child, child.started(), child.ended(), child.closed())
    bench.gone(owner)
    for _ in range(10):
        bench.tick(60)
    restarted(bench)
    bench.tick(60)
    assert (bench.sent, bench.orders.of("run")) == ([], [])
    assert told(bench, 3) is None


# --- what stands ----------------------------------------------------------------------


def test_who_comes_later_is_told_of_a_stop(bench: Bench) -> None:
    owner = come(bench)
    assert told(bench, 2) is None
    stop = give(bench)
    for _ in range(2):
        assert told(bench, 2, owner=owner.id) == stop.id
    ((_, later, stands),) = bench.orders.of("run")
    assert (later, stands) == ([bytes([2]) * 16], True)
    assert bench.orders.standing("other", _hello(3)) is None


def _hello(number: int) -> wire.Hello:
    return wire.Hello(wire.PROTOCOL, bytes([number]) * 16, "run", NOON, role="child")


def test_other_commands_are_for_who_is_there(bench: Bench) -> None:
    owner = come(bench)
    give(bench, "save")
    assert told(bench, 2) is None
    assert told(bench, 1, "owner") is None
    stop = give(bench, source=owner.id)
    assert told(bench, 2) is None, "nor is a stop of one process for another"
    assert told(bench, 1, "owner") == stop.id, "but for that one when it comes back"
    assert standing(bench) == []


def test_the_newest_stop_is_the_one_that_stands(bench: Bench) -> None:
    come(bench)
    give(bench)
    second = give(bench)
    give(bench, "save")
    assert told(bench, 2) == second.id
    assert standing(bench) == [second.id]


@pytest.mark.parametrize(
    ("state", "again"),
    [("delivered", True), ("accepted", True), ("done", False), ("failed", False)],
)
def test_who_comes_back_is_told_again_unless_it_is_done(
    bench: Bench, state: str, again: bool
) -> None:
    owner = come(bench)
    stop = give(bench)
    answer(bench, owner, stop, state)
    for _ in range(2):
        assert told(bench, 1, "owner") == (stop.id if again else None)
        assert told(bench, 2) == stop.id
        restarted(bench)


def test_it_ends_where_the_runs_owner_starts_anew(bench: Bench) -> None:
    first = come(bench)
    give(bench)
    bench.gone(first)
    bench.tick(60)
    assert told(bench, 2, "owner") is None
    assert told(bench, 3) is None, "the new owner's child, though no record came yet"
    second = come(bench, 2)
    assert standing(bench) == []
    again = give(bench)
    assert told(bench, 4, owner=second.id) == again.id


def test_that_it_has_ended_is_known_after_a_restart(bench: Bench) -> None:
    first = come(bench)
    give(bench)
    bench.gone(first)
    bench.tick(60)
    told(bench, 2, "owner")
    bench.tick()
    assert [one.until for one in bench.journal.orders()] == [NOON + 61]
    restarted(bench)
    assert told(bench, 3) is None


def test_that_its_owner_started_anew_is_known_from_the_records_too(
    bench: Bench,
) -> None:
    first = come(bench)
    give(bench)
    bench.gone(first)
    bench.tick(60)
    come(bench, 2)
    assert [one.until for one in bench.journal.orders()] == [None]
    restarted(bench)
    assert (told(bench, 3), standing(bench)) == (None, [])


def test_it_ends_with_the_run(bench: Bench) -> None:
    owner, _ = come(bench), come(bench, 2, "child")
    stop = give(bench)
    assert told(bench, 3) == stop.id
    commit(bench, owner, owner.run_closed("stopped"), owner.closed())
    assert told(bench, 3) is None
    assert told(bench, 2) is None


def test_a_run_without_owner_goes_from_process_to_process_and_the_stop_with_it(
    bench: Bench,
) -> None:
    first = come(bench, 1, "shared")
    stop = give(bench)
    commit(bench, first, first.closed())
    bench.tick(30)
    assert told(bench, 2, "shared") == stop.id, "within the grace time"
    bench.tick(60)
    assert told(bench, 3, "shared") is None, "that is another use of the same id"
    third = come(bench, 3, "shared")
    assert told(bench, 4, "shared") is None
    bench.tick()
    restarted(bench)
    assert told(bench, 4, "shared") is None
    assert told(bench, third.id[0], "shared") is None


def test_who_was_cut_off_is_told_when_it_comes_back(bench: Bench) -> None:
    owner = come(bench)
    stop = give(bench)
    bench.gone(owner)
    bench.tick(60)
    assert bench.writer.verdicts() == {"run": "lost"}
    assert told(bench, 2, owner=owner.id) == stop.id
    assert told(bench, 1, "owner") == stop.id


def test_a_lost_run_without_owner_is_begun_anew_by_others(bench: Bench) -> None:
    first = come(bench, 1, "shared")
    stop = give(bench)
    bench.gone(first)
    bench.tick(60)
    assert bench.writer.verdicts() == {"run": "lost"}
    assert told(bench, 1, "shared") == stop.id
    assert told(bench, 2, "shared") is None
    assert told(bench, 1, "shared") is None


# --- disks, restarts, bounds ----------------------------------------------------------


def test_that_it_has_ended_is_tried_again_where_the_disk_refuses_it(
    bench: Bench,
) -> None:
    owner = come(bench)
    give(bench)
    commit(bench, owner, owner.run_closed("stopped"), owner.closed())
    told(bench, 2)
    bench.journal.error = sqlite3.OperationalError("disk full")
    bench.tick()
    bench.journal.error = None
    bench.tick()
    assert [one.until for one in bench.journal.orders()] == [NOON + 1]


def test_all_is_as_before_after_a_restart(bench: Bench) -> None:
    owner = come(bench)
    give(bench, "save")
    stop = give(bench)
    answer(bench, owner, stop, "accepted")
    before = bench.orders.of("run")
    restarted(bench)
    assert bench.orders.of("run") == before
    assert bench.state.runs["run"].commands[stop.id][owner.id].state == "accepted"
    assert bench.writer.verdicts() == {"run": "stopping"}


def test_a_deleted_run_leaves_no_command_behind(bench: Bench) -> None:
    owner = come(bench)
    give(bench)
    commit(bench, owner, owner.run_closed(), owner.closed())
    bench.writer.delete("run")
    bench.tick()
    assert (bench.orders.of("run"), bench.journal.orders()) == ([], [])
    come(bench, 2)
    assert told(bench, 3) is None


def test_whom_it_told_is_known_of_so_many(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_TOLD >= 1000
    monkeypatch.setattr(orders, "MAX_TOLD", 3)
    come(bench)
    stop = give(bench)
    assert [told(bench, number) for number in range(2, 10)] == [stop.id] * 8
    ((_, later, _),) = bench.orders.of("run")
    assert len(later) == 3


def test_who_comes_to_a_run_that_lives_costs_no_look_at_all_its_processes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = come(bench)
    stop = give(bench)
    judged: list[str] = []

    def judge(run: Any, *args: Any) -> Any:
        judged.append(run.id)
        return verdict(run, *args)

    monkeypatch.setattr(orders, "verdict", judge)
    assert [told(bench, number) for number in range(2, 10)] == [stop.id] * 8
    assert judged == []
    commit(bench, owner, owner.make(wire.RunClosed, ending="completed"))
    assert (told(bench, 2), judged) == (None, ["run"])


def test_whoever_gives_while_the_writer_is_gone_is_told_in_time(bench: Bench) -> None:
    come(bench)
    bench.inbox.wake = lambda: None  # type: ignore[method-assign]
    run = bench.state.runs["run"]
    said = {"when": "now", "reason": "", "by": "", "at": NOON, "source": None}
    order = orders.new(run, "stop", sources=[], **said)  # type: ignore[arg-type]
    assert "may be given yet" in bench.orders.give(order, 0.01)
