"""What a run's page says of its commands, taken from the state and from the orders."""

from __future__ import annotations

from typing import Any

import pytest

from experiment_hooks import wire
from exporter import orders
from exporter.live import commands
from exporter.live.scene import RunScene
from exporter.orders import Order
from exporter.views import Json
from tests.test_scene import A, B, C, T, World, look
from tests.test_view import said


@pytest.fixture
def world() -> World:
    made = World()
    made.open()
    return made


def takes(world: World, source: bytes, *names: str, number: int = 1) -> None:
    sample = wire.Sample(number=number, sent=T, commands=names)
    world.state.apply_sample(source, sample, T)


def give(world: World, name: str = "stop", **more: Any) -> Order:
    run = world.state.runs["r"]
    words = {"when": "step", "reason": "", "by": "ann", "source": None, "at": T}
    there = [one.id for one in orders.live(run)]
    order = orders.new(run, name, sources=there, **{**words, **more})
    world.orders.kept(order)
    return order


def text(world: World, place: str, at: float = T) -> str:
    shown = look(RunScene("r", None, world.parts), at)
    part = shown.parts.get(place)
    lines = [part] if part is not None else shown.lists[place].values()
    return said(type(shown)({str(n): line for n, line in enumerate(lines)}))


def test_before_anything_is_known_nothing_is_said_of_commands(world: World) -> None:
    assert text(world, "order") == ""
    takes(world, A)
    assert "takes no commands" in text(world, "order")
    takes(world, A, "save", number=2)
    assert "Command… " in text(world, "order")


def test_a_run_that_has_ended_takes_none(world: World) -> None:
    takes(world, A, "stop")
    assert text(world, "order").count("Stop…") == 2
    world.record(wire.RunClosed, ending="completed")
    assert text(world, "order") == ""


def test_a_run_can_be_deleted_when_all_of_it_has_ended(world: World) -> None:
    world.open(B)
    world.record(wire.SourceClosed, B, ending="completed")
    world.record(wire.RunClosed, ending="completed")
    assert text(world, "removal") == "", "one of its processes goes on"
    world.record(wire.SourceClosed, A, ending="completed")
    assert "Delete this run…" in text(world, "removal")
    assert text(world, "order") == ""


def test_one_process_is_offered_where_there_are_several(world: World) -> None:
    takes(world, A, "stop")
    assert "the whole run" not in text(world, "order")
    world.open(B)
    assert "the whole run a:1" in text(world, "order")


def test_what_was_given_is_shown_at_once_and_how_far_each_source_is(
    world: World,
) -> None:
    world.open(B), world.open(C)
    scene = RunScene("r", None, world.parts)
    assert look(scene).lists["orders"] == {}
    order = give(world, reason="why")
    (row,) = look(scene).lists["orders"].values()
    assert "3 sent" in row
    for source, state in ((A, "done"), (B, "accepted"), (C, "done")):
        said_so = {"command": order.id, "state": state}
        world.record(wire.CommandAnswered, source, T + 0.5, **said_so)
    (row,) = look(scene).lists["orders"].values()
    found = said(type(look(scene))({"row": row}))
    assert "2 done 1 accepted" in found
    assert "by ann: why · whoever starts later is told, too" in found
    assert "done a:1 accepted b:1 done c:1" in found


def test_the_newest_are_listed_first_and_the_rest_is_counted(world: World) -> None:
    for number in range(commands.LISTED + 3):
        give(world, f"c{number}")
    shown = look(RunScene("r", None, world.parts))
    rows = [said(type(shown)({"row": row})) for row in shown.lists["orders"].values()]
    assert len(rows) == commands.LISTED
    assert rows[0].startswith("c12 ")
    assert "and 3 before" in said(type(shown)({"more": shown.parts["orders-more"]}))


def test_of_many_sources_some_are_named_and_all_are_counted(world: World) -> None:
    ids = [bytes([n]) * 16 for n in range(1, commands.SOURCES_FOLDED + 11)]
    for one in ids:
        world.open(one)
    give(world)
    shown = text(world, "orders")
    assert f"{len(ids) + 1} sent" in shown
    assert "and 11 more" in shown


def test_words_of_newer_hooks_are_shown_last() -> None:
    states: Json = {"sent": 1, "half": 2, "done": 3}
    assert commands.far(states) == [("done", 3), ("sent", 1), ("half", 2)]
