"""Scenes: what is taken from state, presents and journal, and how often."""

import re
import time
from typing import Any, Dict, List, Optional, Set

import pytest

from experiment_hooks import wire
from exporter.inbox import Newest
from exporter.live import view
from exporter.live.aside import Drawing
from exporter.live.listing import ListScene, Query
from exporter.live.looks import Look
from exporter.live.recent import Recent
from exporter.live.scene import LOG_LINES, Parts, RunScene
from exporter.orders import Orders
from exporter.present import Presents
from exporter.reader import Row
from exporter.state import State
from exporter.verdict import Rules
from tests.test_view import said

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
T = 1_000_000.0


class World:
    """A state that is told records and samples by hand."""

    def __init__(self) -> None:
        self.state = State()
        self.presents = Presents()
        self.rows: List[Row] = []
        self.read = 0
        self.seqs: Dict[bytes, int] = {}
        self.recent = Recent(self.state, Rules(), lambda: T)
        reader: Any = self
        self.orders = Orders(self.state, Rules())
        self.parts = Parts(
            self.state, self.presents, reader, Rules(), "", self.recent, self.orders
        )

    def newest_episodes(self, run: str, limit: int) -> List[Row]:
        self.read += 1
        return self.rows[::-1][:limit]

    def seen(self, run: str) -> Set[str]:
        return set()

    def newest_last_seen(self, run: str) -> None:
        return None

    def record(
        self, kind: Any, source: bytes = A, at: float = T, run: str = "r", **said: Any
    ) -> None:
        seq = self.seqs[source] = self.seqs.get(source, 0) + 1
        record = kind(run=run, source=source, seq=seq, time=at, **said)
        self.state.apply(record, run, at)
        if isinstance(record, wire.EpisodeEnded):
            self.rows.append(Row(seq, run, at, False, record.outcome, record))

    def open(self, source: bytes = A, at: float = T, run: str = "r") -> None:
        role = "owner" if source == A else "child"
        host = source[:1].decode()
        self.record(wire.SourceOpened, source, at, run, host=host, pid=1, role=role)
        if source == A:
            self.record(wire.RunOpened, source, at, run, experiment="exp")

    def start(self, source: bytes, number: int, at: float = T, **said: Any) -> None:
        self.record(
            wire.EpisodeStarted, source, at, number=number, mode="train", **said
        )
        shown = wire.OpenEpisode(number=number, mode="train", started=at, last=at)
        sample = wire.Sample(number=int(at) + number, sent=at, open=(shown,))
        self.state.apply_sample(source, sample, at)

    def see(
        self,
        source: bytes,
        value: Any,
        at: float = T,
        episode: Optional[int] = None,
        **more: Any,
    ) -> None:
        state = wire.encode_plain(value)
        moment = wire.Moment(time=at, episode=episode, step=3, state=state, **more)
        sample = wire.Sample(number=1, sent=at, moments=(moment,))
        self.presents.take("r", source, Newest(sample, [b"\1\2"], at, at))


@pytest.fixture
def world() -> World:
    made = World()
    made.open()
    return made


def look(scene: RunScene, at: float = T) -> view.Shown:
    scene._pace._again = 0.0  # tests have no time to wait for it
    return scene.look(at)


def test_a_run_that_is_not_known_says_so_and_comes_back(world: World) -> None:
    scene = RunScene("later", None, world.parts)
    assert "does not know this run" in said(look(scene))
    world.open(run="later", source=C)
    assert "does not know" not in said(look(scene))


def test_of_a_deleted_run_nothing_is_left_on_the_page_of_one_that_has_its_id(
    world: World,
) -> None:
    scene = RunScene("r", None, world.parts)
    for source, name in ((A, "first"), (C, "second")):
        world.state.forget("r")
        world.rows.clear()
        world.open(source)
        world.record(wire.LogLine, source, level="info", message=f"the {name} line")
        world.see(source, {"of": f"the {name}"}, episode=0)
        world.record(
            wire.EpisodeEnded, source, number=0, mode="train", started=T, duration=1.0,
            steps=3, outcome=f"the {name} outcome",
        )  # fmt: skip
        shown = look(scene)
        for what in ("line", "outcome"):
            assert f"the {name} {what}" in said(shown)
        assert f'data-source="{source.hex()}"' in shown.parts["where"]
    assert "the first" not in said(shown)
    asked = look(RunScene("r", A, world.parts))
    assert "no such source" in said(asked)
    assert "the first" not in said(asked)


def test_no_page_is_shown_what_was_drawn_aside_for_one_that_is_gone(
    world: World,
) -> None:
    class Aside:
        """Remembers for which pages it was asked."""

        def __init__(self) -> None:
            self.asked: Set[object] = set()

        def ask(self, page: object, seen: Any) -> None:
            self.asked.add(page)

        def newest(self, page: object) -> Drawing:
            return Drawing()

    drawing: Any = Aside()
    one = Look("mine")
    one.aside = drawing
    for _ in range(20):
        look(RunScene("r", None, world.parts, one))  # often where the last one was
    assert len(drawing.asked) == 20


def test_at_first_the_source_with_the_oldest_open_episode_is_shown(
    world: World,
) -> None:
    world.open(B), world.open(C)
    world.start(A, 0, T + 5)
    world.start(C, 0, T + 2)
    world.start(B, 0, T + 3)
    scene = RunScene("r", None, world.parts)
    assert f'data-source="{C.hex()}"' in look(scene, T + 6).parts["where"]


def test_it_stays_the_one_that_is_shown(world: World) -> None:
    world.open(B)
    world.start(B, 0, T + 2)
    scene = RunScene("r", None, world.parts)
    look(scene, T + 3)
    world.start(A, 0, T + 1)
    world.record(wire.SourceClosed, B, T + 4, ending="completed")
    world.see(A, {"a": 1})
    assert f'data-source="{A.hex()}"' not in look(scene, T + 5).parts["where"]


def test_while_nothing_is_seen_the_choice_is_open(world: World) -> None:
    world.open(B)
    scene = RunScene("r", None, world.parts)
    assert "Nothing seen yet" in said(look(scene))
    world.see(B, {"seen": 1})
    assert f'data-source="{B.hex()}"' in look(scene).parts["where"]


def test_the_source_that_is_asked_for_is_shown(world: World) -> None:
    world.open(B)
    world.start(A, 0)
    world.see(B, {"of": "b"})
    scene = RunScene("r", B, world.parts)
    assert "of b" in said(look(scene))
    assert "no such source" in said(look(RunScene("r", C, world.parts)))


def test_a_moment_shows_its_step_and_what_changed(world: World) -> None:
    world.start(A, 4, target="mug", index=9)
    world.see(A, {"x": 1, "y": 1}, episode=4, scores={"up": 0.5})
    scene = RunScene("r", None, world.parts)
    text = said(look(scene))
    for part in ("Step 3", "Episode 9", "mug", "up 0.5"):
        assert part in text
    assert "changed" not in look(scene).parts["state"]
    world.see(A, {"x": 2, "y": 1}, episode=4)
    assert look(scene).parts["state"].count("changed") == 1
    assert look(scene).parts["state"].count("changed") == 1  # until the next moment


def test_modes_are_under_way_while_a_live_source_has_an_episode_of_them(
    world: World,
) -> None:
    scene = RunScene("r", None, world.parts)

    def going(at: float) -> str:
        return said(view.Shown({"": look(scene, at).parts["under-way"]}))

    assert going(T) == ""
    world.open(B)
    world.record(wire.EpisodeStarted, B, number=0, mode="eval")
    assert going(T + 1) == "eval", "as soon as its start is there"
    world.start(A, 0)
    assert going(T + 2).split() == ["eval", "train"]
    world.record(wire.SourceClosed, B, ending="completed")
    assert going(T + 3) == "train"


def test_the_hosts_of_all_its_sources_are_said_once_each(world: World) -> None:
    scene = RunScene("r", None, world.parts)
    assert "hosts" not in look(scene).parts["about"]
    world.open(B), world.open(C)
    world.record(wire.SourceClosed, C, ending="completed")
    about = said(view.Shown({"": look(scene, T + 1).parts["about"]}))
    assert about == "Launch hosts a, b, c"


def test_what_an_episode_was_is_still_known_when_it_has_ended(world: World) -> None:
    world.start(A, 4, index=9)
    world.see(A, {"x": 1}, episode=4)
    world.record(
        wire.EpisodeEnded, A, T + 1, number=4, mode="train", started=T, duration=1.0,
        steps=3, outcome="ok", index=9,
    )  # fmt: skip
    assert "Episode 9" in said(look(RunScene("r", A, world.parts), T + 2))


def test_a_moment_of_another_run_is_not_shown(world: World) -> None:
    sample = wire.Sample(number=1, sent=T, moments=(wire.Moment(time=T, state=b"\1"),))
    world.presents.take("other", A, Newest(sample, [], T, T))
    assert "Nothing seen yet" in said(look(RunScene("r", A, world.parts)))


def test_a_state_that_cannot_be_read_says_so(world: World) -> None:
    moment = wire.Moment(time=T, state=b"\xc1")
    sample = wire.Sample(number=1, sent=T, moments=(moment,))
    world.presents.take("r", A, Newest(sample, [], T, T))
    assert "unreadable" in said(look(RunScene("r", A, world.parts)))


def test_images_that_are_none_are_left_out(world: World) -> None:
    images = (
        wire.Image("flat", (4,), "|u1", 0),
        wire.Image("good", (1, 2), "|u1", 0),
        wire.Image("nowhere", (1, 2), "|u1", 7),
    )
    world.see(A, {}, episode=0, images=images)
    html = look(RunScene("r", A, world.parts)).parts["images"]
    assert html.count("<img") == 1
    assert "good" in html


def test_only_the_newest_log_lines_are_shown_each_with_its_number(world: World) -> None:
    scene = RunScene("r", None, world.parts)
    for number in range(1500):
        world.record(wire.LogLine, level="info", message=f"line {number}")
        if number in (100, 1400):
            look(scene)
    rows = look(scene).lists["log"]
    assert [*rows] == [f"log-{n}" for n in range(1500 - LOG_LINES, 1500)]
    assert "line 1499" in rows["log-1499"]


def test_the_journal_is_read_only_when_an_episode_has_ended(world: World) -> None:
    scene = RunScene("r", None, world.parts)
    for at in range(5):
        look(scene, T + at)
    before = world.read
    world.record(
        wire.EpisodeEnded, A, T + 9, number=0, mode="train", started=T, duration=1.0,
        steps=3, outcome="splendid",
    )  # fmt: skip
    assert "splendid" in said(look(scene, T + 10))
    look(scene, T + 11)
    assert world.read == before + 2  # once for the table, once for the charts


def test_episodes_that_come_late_stand_where_they_belong(world: World) -> None:
    for number, at in ((0, T + 1), (3, T + 7), (1, T + 3), (2, T + 5)):
        world.record(
            wire.EpisodeEnded, A, at, number=number, mode="train", started=T,
            duration=1.0, steps=3, outcome=f"outcome_{number}",
        )  # fmt: skip
    rows = look(RunScene("r", None, world.parts), T + 9).lists["episodes"]
    found = [re.findall(r"outcome_\d", row)[0] for row in rows.values()]
    assert found == [f"outcome_{number}" for number in (3, 2, 1, 0)]


def test_what_has_not_changed_is_not_drawn_again(world: World) -> None:
    scene = RunScene("r", None, world.parts)
    first, second = look(scene, T), look(scene, T + 0.1)
    assert all(first.parts[name] is second.parts[name] for name in first.parts)
    later = look(scene, T + 3)
    assert later.parts["times"] != first.parts["times"]
    assert later.parts["about"] is first.parts["about"]


def test_a_description_that_comes_late_is_shown() -> None:
    world = World()
    world.record(wire.SourceOpened, A, host="h", pid=1)
    scene = RunScene("r", None, world.parts)
    assert "said nothing of itself" in said(look(scene))
    world.record(wire.RunOpened, A, experiment="exp", config={"lr": 3})
    assert "lr 3" in said(look(scene))


def test_of_very_many_sources_the_live_and_newest_are_listed(world: World) -> None:
    for number in range(150):
        source = number.to_bytes(16, "big")
        world.open(source, T + number)
        if number < 140:
            world.record(wire.SourceClosed, source, T + number, ending="completed")
    shown = look(RunScene("r", None, world.parts), T + 200)
    assert len(shown.lists["sources"]) == 100
    assert "51 sources more are not listed" in said(shown)
    live = f"source-{(149).to_bytes(16, 'big').hex()}"
    assert next(iter(shown.lists["sources"])) == live


def test_a_costly_copy_is_made_less_often(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    scene = RunScene("r", None, world.parts)
    copied = scene._copied
    copies: List[float] = []

    def slow(*args: Any) -> Any:
        now[0] += 0.5
        copies.append(now[0])
        return copied(*args)

    monkeypatch.setattr(scene, "_copied", slow)
    for tick in range(120):
        now[0] = max(now[0], 1.0 + tick / 10)
        scene.look(T + tick)
    assert len(copies) == 2


# --- the list -------------------------------------------------------------------------


def the_list(world: World, query: Query, at: float = T) -> str:
    refused: List[view.Refused] = []
    scene = ListScene(
        query, lambda: refused, view.Losses, (("Sources", "tcp://h:1"),), world.parts
    )
    return said(scene.look(at))


def test_the_list_is_filtered_by_text_and_state() -> None:
    world = World()
    for name, source in (("alpha", b"1" * 16), ("beta", b"2" * 16)):
        world.record(wire.SourceOpened, source, run=name, host="h", pid=1)
        tags = {"suite": name.upper()}
        world.record(wire.RunOpened, source, run=name, experiment="exp", tags=tags)
    world.record(wire.RunClosed, b"2" * 16, run="beta", ending="completed")
    assert "alpha" in the_list(world, Query())
    assert "beta" in the_list(world, Query())
    for query in (Query("ALPHA"), Query("suite=alp exp"), Query("", "live")):
        assert "alpha" in the_list(world, query)
        assert "beta" not in the_list(world, query)
    for query in (Query("", "ended"), Query("", "completed"), Query("beta", "ended")):
        assert "beta" in the_list(world, query)
        assert "alpha" not in the_list(world, query)
    nothing = the_list(world, Query("gamma"))
    assert "0 of 2 runs match" in nothing
    assert "first" not in nothing


def test_live_runs_come_first_then_the_newest() -> None:
    world = World()
    for number, (name, ended) in enumerate(
        [("old-live", False), ("old-ended", True), ("new-ended", True)]
    ):
        source, at = bytes([number]) * 16, T + number
        world.record(wire.SourceOpened, source, at, name, host="h", pid=1)
        if ended:
            world.record(wire.RunClosed, source, at, name, ending="completed")
    scene = ListScene(Query(), list, view.Losses, (("Sources", ""),), world.parts)
    rows = [*scene.look(T + 9).lists["runs"]]
    assert rows == ["run-old-live", "run-new-ended", "run-old-ended"]


def test_an_empty_list_stays_the_same_until_something_comes() -> None:
    world = World()
    addresses = (("Sources", "tcp://h:1"),)
    scene = ListScene(Query(), list, view.Losses, addresses, world.parts)
    first = scene.look(T)
    assert "tcp://h:1" in said(first)
    assert scene.look(T + 0.5) is first
    world.open()
    scene._pace._again = 0.0
    assert "exp" in said(scene.look(T + 0.6))
