"""The pages of episodes as documents: what is in them, where they lead, and nothing
that an experiment said does any harm."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote, urljoin

import flask
import msgspec
import pytest

from experiment_hooks import wire
from exporter import lastseen, reader
from exporter.journal import Batch, Kept
from exporter.live import episodes
from exporter.live.recent import Recent
from exporter.live.scene import Parts
from exporter.orders import Orders
from exporter.present import Presents
from tests.making import NOON, Teller
from tests.test_view import HOSTILE, Document
from tests.test_writer import RULES
from tests.test_writer import Bench as WriterBench

RUN = "/runs/run/episodes"


class Bench(WriterBench):
    """A writer without a thread, and the pages over its state and its journal."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        parts = Parts(
            self.state,
            Presents(),
            self.reader,
            RULES,
            "http://t/{trace_id}?x=1",
            Recent(self.state, RULES),
            Orders(self.state, RULES),
        )
        app = flask.Flask("exporter.live")
        episodes.add(app, parts, lambda: self.now)
        self.client = app.test_client()

    def commit(self, teller: Teller, *records: wire.AnyRecord) -> None:
        self.arrive(teller, *records)
        self.round()

    def get(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def follow(self, html: str, link: str, base: str = RUN) -> str:
        """The page to which a link of a page leads."""
        found = re.search(rf'<a href="([^"]*)"[^>]*>{link}</a>', html)
        assert found, f"no link {link!r}"
        return self.get(urljoin(base, unescape(found[1])))

    def searched(self, html: str) -> tuple[str, int]:
        """The page to which a search comes by itself, and in how many hops."""
        hops = 0
        while found := re.search(
            r'http-equiv="refresh" content="0; url=([^"]*)"', html
        ):
            assert "None so far" in words(html)
            html, hops = self.get(urljoin(RUN, unescape(found[1]))), hops + 1
        return html, hops


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.close()


def open_run(bench: Bench, **said: Any) -> Teller:
    teller = Teller()
    bench.commit(teller, teller.opened(), teller.run_opened(**said))
    return teller


def trace(teller: Teller, number: int) -> str:
    return wire.trace_id(teller.run, teller.id, number)


def words(html: str) -> str:
    return Document(html).words


def listed(html: str) -> list[int]:
    """The indices of the episodes of a page of the list, in order."""
    return [int(n) for n in re.findall(r'<a href="\./episodes/\w{32}">(\d+)</a>', html)]


@pytest.fixture
def many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Teller:
    """Twelve episodes, of which five are on a page."""
    monkeypatch.setattr(episodes, "PAGE", 5)
    teller = open_run(bench, success=["correct"])
    for index in range(12):
        mode = "train" if index % 2 else "eval"
        outcome = "correct" if index % 3 else "confused"
        bench.commit(teller, teller.ended(index, mode, outcome, index=index))
    return teller


# --- the list -------------------------------------------------------------------------


@pytest.mark.usefixtures("many")
def test_one_pages_through_the_list_and_back(bench: Bench) -> None:
    first = bench.get(RUN)
    assert listed(first) == [11, 10, 9, 8, 7]
    assert "Newer" not in first
    second = bench.follow(first, "Older →")
    assert listed(second) == [6, 5, 4, 3, 2]
    third = bench.follow(second, "Older →")
    assert listed(third) == [1, 0]
    assert "Older" not in third
    again = bench.follow(third, "← Newer")
    assert listed(again) == [6, 5, 4, 3, 2]
    assert listed(bench.follow(again, "← Newer")) == [11, 10, 9, 8, 7]
    assert listed(bench.follow(third, "Newest")) == [11, 10, 9, 8, 7]


@pytest.mark.usefixtures("many")
def test_a_page_stays_where_it_is_while_more_episodes_end(bench: Bench) -> None:
    second = bench.follow(bench.get(RUN), "Older →")
    teller = Teller(2)
    bench.commit(teller, teller.opened("child"), teller.ended(0, index=100))
    again = bench.follow(bench.follow(second, "Older →"), "← Newer")
    assert listed(again) == listed(second)
    newer = bench.follow(again, "← Newer")
    assert listed(newer) == [11, 10, 9, 8, 7], "not the newest, but what is next"
    assert listed(bench.follow(newer, "← Newer")) == [100, 11, 10, 9, 8]


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("query", "indices", "count"),
    [
        ("", [11, 10, 9, 8, 7], "12 episodes"),
        ("?outcome=confused", [9, 6, 3, 0], "4 of 12 episodes match"),
        ("?mode=train&outcome=confused", [9, 3], "2 of 12 episodes match"),
        ("?mode=train", [11, 9, 7, 5, 3], "6 of 12 episodes match"),
        ("?outcome=nothing", [], "0 of 12 episodes match"),
        ("?failed=1", [], "12 episodes"),
        ("?before=nonsense&after=-3", [11, 10, 9, 8, 7], "12 episodes"),
        ("?before=1", [], "12 episodes"),
    ],
)
def test_the_list_has_what_is_asked_for(
    bench: Bench, query: str, indices: list[int], count: str
) -> None:
    html = bench.get(RUN + query)
    assert listed(html) == indices
    assert count in words(html)


@pytest.mark.usefixtures("many")
def test_filters_offer_what_the_run_had_and_keep_what_was_chosen(bench: Bench) -> None:
    html = bench.get(f"{RUN}?mode=eval&outcome=gone%22%3E")
    assert "correct (4)" in html, "of this mode"
    assert '<option value="eval" selected>eval (6)</option>' in html
    assert '<option value="gone&#34;&gt;" selected>' in html
    assert "open, not ended yet" in html


def test_a_filter_that_finds_little_says_so_and_searches_on(
    bench: Bench, many: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.commit(many, many.ended(50, outcome="rare", index=50))
    for number in range(60, 90):
        bench.commit(many, many.ended(number, outcome="usual", index=number))
    monkeypatch.setattr(reader, "FIRST_LOOK", 8)
    monkeypatch.setattr(reader.time, "monotonic", iter(range(1000)).__next__)
    html, hops = bench.searched(bench.get(f"{RUN}?outcome=rare"))
    assert (listed(html), hops) == ([50], 3)
    html, _ = bench.searched(bench.follow(html, "Older →"))
    assert listed(html) == []
    assert "No more." in words(html)
    html, _ = bench.searched(bench.follow(html, "← Newer"))
    assert listed(html) == [50]


def test_open_episodes_are_listed_when_asked_for(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(
        teller,
        teller.started(0, index=0, target="mug"),
        teller.started(1, index=1),
        teller.ended(1, index=1),
    )
    bench.now = NOON + 75
    html = bench.get(RUN)
    assert listed(html) == [1]
    assert "1 episode, 1 open" in words(html)
    html = bench.follow(html, "1 open")
    assert listed(html) == [0]
    assert "1 not ended yet" in words(html)
    assert "open 0 1 min 15 s so far mug" in words(html)


def test_a_row_has_results_target_top_score_and_trace(bench: Bench) -> None:
    teller = open_run(bench, success=["correct"])
    bench.commit(
        teller,
        teller.ended(
            0,
            epoch=2,
            index=7,
            target="mug",
            results={"return": 12.5},
            scores={"mug": 0.75, "bowl": 0.5, "none": math.nan},
        ),
        teller.ended(1, outcome="error", error=wire.ErrorInfo("KeyError", "x", "Tb")),
    )
    html = bench.get(RUN)
    text = words(html)
    assert "eval 2 / 7 correct 10 2.0 s 12.5 mug mug 0.75" in text
    assert f'href="http://t/{trace(teller, 0)}?x=1"' in html
    assert '<span class="outcome good">correct</span>' in html
    assert '<span class="outcome bad">error</span>' in html
    assert "KeyError x Tb" in text


@pytest.mark.usefixtures("many")
def test_files_are_of_the_same_filter(bench: Bench) -> None:
    html = bench.get(f"{RUN}?outcome=confused&mode=train&before=9")
    base = "../../api/v1/runs/run/episodes?mode=train&amp;outcome=confused&amp;all=1"
    assert f'href="{base}&amp;format=csv" download' in html
    assert f'href="{base}" download' in html


def test_a_run_without_episodes_and_one_that_is_not_known_say_so(bench: Bench) -> None:
    open_run(bench)
    assert "No episode has ended yet." in words(bench.get(RUN))
    for path in ("/runs/nobody/episodes", f"/runs/nobody/episodes/{'0' * 32}"):
        assert "There is no run nobody" in words(bench.get(path, 404))
    html = bench.get(f"{RUN}/{'0' * 32}", 404)
    assert "There is no episode 0000" in words(html)


# --- one ------------------------------------------------------------------------------


def test_an_episode_is_told_from_its_head_to_its_log(bench: Bench) -> None:
    teller = open_run(bench, success=["correct"])
    for number in (0, 2):
        bench.commit(teller, teller.ended(number, index=number))
    ended = teller.ended(
        1,
        epoch=4,
        index=1,
        target="mug",
        seed=99,
        results={"return": 12.5},
        attributes={"grip": "pinch"},
        scores={f"LM_0/o{n:02}": n / 10 for n in range(15)} | {"LM_1/mug": 0.25},
        phases=(wire.PhaseSpan("matching", 0.5, 1.0), wire.PhaseSpan("moving", 0, 0.5)),
        sampled=(wire.StepSpan(3, 0.25, 0.125),),
        events=(wire.Event("saccade", 1.5, {"by": 3}),),
        omitted={"events": 7},
    )
    line = teller.log("it slips", trace=trace(teller, 1))
    bench.commit(teller, line, teller.log("another's", trace=trace(teller, 0)), ended)
    html = bench.get(f"{RUN}/{trace(teller, 1)}")
    text = words(html)
    assert '<span class="badge" data-tone="live">correct</span>' in html
    assert "eval episode 1 epoch 4" in text
    for said in ("Target mug", "Steps 10", "Took 2.0 s", "Seed 99", "return 12.5"):
        assert said in text
    assert "too many or too large were 7 events" in text
    assert re.search(r"matching .* 50 % 1\.0 s 1 × moving .* 25 % 500 ms 1 ×", text)
    assert "25 % of the time was in no phase" in text
    assert re.search(r"LM_0 o14 1.4 .* 3 lower o02 .*LM_1 mug target 0.25", text)
    assert re.search(r"1.5 s saccade by 3", text)
    assert "grip pinch" in text
    assert "it slips" in text
    assert "another's" not in text
    assert f'href="../../../runs/run?source={teller.id.hex()}"' in html
    assert f'href="http://t/{trace(teller, 1)}?x=1"' in html
    base = f"{RUN}/"
    assert "episode 0" in words(bench.follow(html, "← 0", base))
    assert "episode 2" in words(bench.follow(html, "2 →", base))


def test_what_failed_shows_its_error_and_what_was_seen_last(bench: Bench) -> None:
    teller = open_run(bench)
    error = wire.ErrorInfo("ValueError", "it fell", "Traceback: here")
    bench.commit(teller, teller.ended(0, outcome="error", error=error))
    trace_id = trace(teller, 0)
    assert "Last seen" not in bench.get(f"{RUN}/{trace_id}")
    seen = lastseen.look(teller.ended(0), None, [teller.log("the last line")])
    data = msgspec.msgpack.encode(seen)
    bench.journal.commit(Batch(last_seen=[Kept("run", teller.id, trace_id, data)]))
    html = bench.get(f"{RUN}/{trace_id}")
    text = words(html)
    assert re.search(r"ValueError it fell Traceback .*Last seen .*the last line", text)
    assert 'data-tone="bad">error' in html


def test_an_open_episode_is_told_as_far_as_it_is_known(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(teller, teller.started(0, index=0), teller.ended(0, index=0))
    bench.commit(teller, teller.started(1, index=1, target="mug", seed=3))
    shown = wire.OpenEpisode(
        1, "eval", steps=12, started=NOON, last=NOON + 4, phase="matching", index=1
    )
    bench.sampled(teller, 1, open=(shown,))
    bench.tick(10)
    html = bench.get(f"{RUN}/{trace(teller, 1)}")
    text = words(html)
    assert "open eval" not in text
    assert '<span class="badge" data-tone="done">open</span>' in html
    for said in ("Steps 12", "So far 10 s", "Phase matching", "Last step 6 s ago"):
        assert said in text
    assert "Seed 3" in text
    assert "http://t/" not in html, "there is no trace before its end"
    before = bench.follow(html, "← 0", f"{RUN}/")
    assert "episode 1" in words(bench.follow(before, "1 →", f"{RUN}/"))


def test_a_late_end_says_so(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(teller, teller.started(0))
    bench.gone(teller)
    bench.tick(31)
    bench.tick(60)
    html = bench.get(f"{RUN}/{trace(teller, 0)}")
    assert 'data-tone="warn">lost' in html
    assert "source_lost" in words(html)
    bench.commit(teller, teller.ended(0))
    html = bench.get(f"{RUN}/{trace(teller, 0)}")
    assert "its end came late" in words(html)
    assert "late" in words(bench.get(RUN))


def test_whatever_was_said_is_text(bench: Bench) -> None:
    teller = Teller(run=HOSTILE.replace("/", ""))
    bench.commit(teller, teller.opened(), teller.run_opened(experiment=HOSTILE))
    values = {HOSTILE: math.nan, "</svg>": math.inf, f"{HOSTILE}/x": -math.inf}
    bench.commit(
        teller,
        teller.ended(
            0,
            mode=HOSTILE,
            outcome=HOSTILE,
            target=HOSTILE,
            started=1e300,
            duration=math.nan,
            results=values,
            scores=values,
            attributes={HOSTILE: {HOSTILE: [HOSTILE] * 30}},
            phases=(wire.PhaseSpan(HOSTILE, -math.inf, 1e300, -1),) * 3,
            sampled=(wire.StepSpan(-5, math.nan, math.inf, values),),
            events=(wire.Event(HOSTILE, math.nan, {HOSTILE: HOSTILE}),),
            omitted={HOSTILE: -1},
            error=wire.ErrorInfo(HOSTILE, HOSTILE, HOSTILE),
        ),
        teller.log(HOSTILE, level=HOSTILE, trace=trace(teller, 0)),
        teller.started(1, mode=HOSTILE, target=HOSTILE),
    )
    base = f"/runs/{quote(teller.run, safe='')}/episodes"
    pages = [
        base,
        f"{base}?outcome={quote(HOSTILE)}&mode={quote(HOSTILE)}",
        f"{base}?outcome=open",
        f"{base}/{trace(teller, 0)}",
        f"{base}/{trace(teller, 1)}",
    ]
    for path in pages:
        html = bench.get(path)
        found = Document(html)
        assert "<script>alert(1)" in found.text
        scripts = [attrs for tag, attrs in found.tags if tag == "script"]
        assert all("src" in attrs for attrs in scripts)
        assert not any(tag == "img" for tag, _ in found.tags)
        assert not any(
            name.startswith("on") or name == "style"
            for _, attrs in found.tags
            for name in attrs
        )
    missing = bench.get(f"{base}/{quote(HOSTILE.replace('/', ''))}", 404)
    assert not any(tag == "img" for tag, _ in Document(missing).tags)


def test_every_table_scrolls_in_a_box_that_has_a_name(
    bench: Bench, many: Teller
) -> None:
    end = many.ended(
        50,
        phases=(wire.PhaseSpan("p", 0, 1),),
        sampled=(wire.StepSpan(1, 0, 1),),
        events=(wire.Event("e", 1.0),),
    )
    bench.commit(many, end)
    for path, tables in ((RUN, 1), (f"{RUN}/{trace(many, 50)}", 3)):
        html = bench.get(path)
        boxes = [
            attrs
            for _, attrs in Document(html).tags
            if "scroll" in attrs.get("class", "").split()
        ]
        assert html.count("<table") == len(boxes) == tables
        for attrs in boxes:
            assert attrs["tabindex"] == "0"
            assert attrs.get("aria-label") or attrs.get("aria-labelledby")
