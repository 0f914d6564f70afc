"""What was seen last of a failed episode: kept with it, within bounds, and served."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from PIL import Image

from experiment_hooks import wire
from exporter import journal as journal_module
from exporter import lastseen
from exporter.inbox import Newest
from exporter.journal import Batch, Journal, Kept
from exporter.live import view
from exporter.live.recent import Recent
from exporter.live.scene import Parts, RunScene
from exporter.orders import Orders
from exporter.present import Presents
from exporter.reader import Reader
from exporter.salvage import condemn
from tests.making import NOON, Teller
from tests.test_traces import root_of, trace_of
from tests.test_view import Document
from tests.test_web import RULES, Bench, close_run, open_run

ERROR = wire.ErrorInfo("ValueError", "no <b>mug</b>", "Traceback ...")
HOSTILE = "<script>alert(1)</script>"


class Scene(Bench):
    """The API's bench, with what sources look like."""

    def __init__(self, path: Path) -> None:
        self.presents = Presents()
        super().__init__(path)
        self.writer._present_of = self.presents.of

    def see(self, teller: Teller, episode: int | None, **said: Any) -> None:
        """A sample with a moment has come, with an image of one pixel a name."""
        names = said.pop("images", ())
        moment = wire.Moment(
            time=self.now,
            episode=episode,
            step=said.pop("step", 17),
            state=wire.encode_plain(said.pop("state", {"n": 1})),
            scores=said.pop("scores", {}),
            images=tuple(
                wire.Image(name, (1, 1, 3), "|u1", part)
                for part, name in enumerate(names)
            ),
        )
        sample = wire.Sample(number=1, sent=self.now, moments=(moment,))
        parts = [bytes([255, 0, part]) for part in range(len(names))]
        self.presents.take("run", teller.id, Newest(sample, parts, self.now, self.now))

    def start(self, teller: Teller, number: int, **said: Any) -> None:
        self.commit(teller, teller.started(number, **said))

    def fail(self, teller: Teller, number: int, *more: wire.AnyRecord) -> None:
        self.commit(teller, *more, teller.ended(number, outcome="error", error=ERROR))

    def kept(self, teller: Teller, number: int, status: int = 200) -> Any:
        trace = wire.trace_id("run", teller.id, number)
        return self.get(f"/run/episodes/{trace}/last_seen", status)

    def page(self, source: bytes | None = None) -> view.Shown:
        recent, orders = Recent(self.state, RULES), Orders(self.state, RULES)
        reader = self.reader
        parts = Parts(self.state, self.presents, reader, RULES, "", recent, orders)
        return RunScene("run", source, parts).look(self.now)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "journal.sqlite")
    yield made
    made.close()


# --- what is kept -----------------------------------------------------------------


def test_a_failed_episode_keeps_what_was_seen_of_it_last(bench: Scene) -> None:
    teller = open_run(bench)
    bench.commit(teller, teller.log("a"), teller.log("b", fields={"n": 1}))
    bench.start(teller, 3, mode="eval", epoch=1, index=7, target="mug")
    bench.see(teller, 3, state={"x": [1.5]}, scores={"up": 0.5}, images=["eye//1"])
    before = teller.log("c", level="error")
    ended = teller.ended(
        3, epoch=1, index=7, target="mug", outcome="error", error=ERROR
    )
    bench.commit(teller, before, ended)
    found = bench.kept(teller, 3)
    expected = {
        "source": teller.id.hex(),
        "trace_id": wire.trace_id("run", teller.id, 3),
        "mode": "eval",
        "epoch": 1,
        "index": 7,
        "target": "mug",
        "seen": NOON,
        "step": 17,
        "state": {"x": [1.5]},
        "scores": {"up": 0.5},
        "omitted": 0,
    }
    assert {name: found[name] for name in expected} == expected
    assert [line["message"] for line in found["logs"]] == ["a", "b", "c"]
    (image,) = found["images"]
    assert (image["name"], image["shape"]) == ("eye//1", [1, 1, 3])
    (row,) = bench.get("/run/episodes")["episodes"]
    assert row["last_seen"] is True


def test_its_images_are_served_as_png(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0, images=["eye//1"])
    bench.fail(teller, 0)
    trace = wire.trace_id("run", teller.id, 0)
    base = f"/api/v1/runs/run/episodes/{trace}/last_seen"
    answer = bench.client.get(f"{base}/eye%2F%2F1.png")
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.data)).getpixel((0, 0)) == (255, 0, 0)
    assert bench.client.get(f"{base}/other.png").status_code == 404


def test_an_image_that_is_none_is_not_found(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    moment = wire.Moment(NOON, episode=0, images=(wire.Image("odd", (3, 3), "|u1", 0),))
    sample = wire.Sample(number=1, sent=NOON, moments=(moment,))
    bench.presents.take("run", teller.id, Newest(sample, [b"1"], NOON, NOON))
    bench.fail(teller, 0)
    trace = wire.trace_id("run", teller.id, 0)
    bench.get(f"/run/episodes/{trace}/last_seen/odd.png", 404)


def test_of_an_episode_that_ended_well_nothing_is_kept(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0)
    bench.commit(teller, teller.ended(0))
    bench.kept(teller, 0, 404)
    bench.kept(teller, 1, 404)
    (row,) = bench.get("/run/episodes")["episodes"]
    assert row["last_seen"] is False


def test_of_another_episodes_moment_only_the_log_is_kept(bench: Scene) -> None:
    teller = open_run(bench)
    bench.commit(teller, teller.log("a"))
    bench.start(teller, 0)
    bench.see(teller, 0, images=["eye"])
    bench.fail(teller, 1)
    found = bench.kept(teller, 1)
    assert (found["seen"], found["state"], found["images"]) == (None, None, [])
    assert [line["message"] for line in found["logs"]] == ["a"]


def test_an_image_of_an_earlier_episode_is_not_this_ones(bench: Scene) -> None:
    teller = open_run(bench)
    bench.see(teller, 0, images=["old", "both"])
    bench.see(teller, 1, images=["both"])
    bench.fail(teller, 1)
    assert [one["name"] for one in bench.kept(teller, 1)["images"]] == ["both"]


def test_the_log_is_that_of_its_own_source_and_the_newest_50(bench: Scene) -> None:
    teller = open_run(bench)
    other = Teller(2)
    bench.commit(other, other.opened(role="child", owner=teller.id), other.log("no"))
    bench.commit(teller, *(teller.log(str(number)) for number in range(70)))
    bench.fail(teller, 0)
    logs = bench.kept(teller, 0)["logs"]
    assert [line["message"] for line in logs] == [str(n) for n in range(20, 70)]


def test_a_lost_source_keeps_it_from_the_moment_of_its_loss(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0, state={"last": 1}, images=["eye"])
    bench.gone(teller)
    bench.tick(31)
    assert bench.kept(teller, 0)["state"] == {"last": 1}
    (row,) = bench.get("/run/episodes")["episodes"]
    assert (row["outcome"], row["last_seen"]) == (None, True)
    bench.tick(61)
    assert bench.kept(teller, 0)["state"] == {"last": 1}
    (row,) = bench.get("/run/episodes")["episodes"]
    assert (row["outcome"], row["last_seen"]) == ("lost", True)


def test_a_restart_between_the_loss_and_the_closing_costs_nothing(
    bench: Scene, tmp_path: Path
) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0, state={"last": 1})
    bench.gone(teller)
    bench.tick(31)
    bench.close()
    again = Scene(tmp_path / "journal.sqlite")
    again.now = NOON + 200
    again.tick(1)
    again.tick(61)
    assert again.kept(teller, 0)["state"] == {"last": 1}
    assert again.get("/run/episodes")["episodes"][0]["outcome"] == "lost"
    again.close()


def test_of_a_source_that_returns_nothing_stays(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0)
    bench.gone(teller)
    bench.tick(31)
    bench.kept(teller, 0)
    bench.links[teller.id].gone_since = None
    bench.links[teller.id].heard = bench.now
    bench.tick(1)
    bench.kept(teller, 0, 404)


def test_a_late_end_that_is_well_lets_go_of_it(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0)
    bench.gone(teller)
    bench.tick(31)
    bench.tick(61)
    bench.kept(teller, 0)
    bench.commit(teller, teller.ended(0))
    bench.kept(teller, 0, 404)
    (row,) = bench.get("/run/episodes")["episodes"]
    assert (row["late"], row["last_seen"]) == (True, False)


def test_a_bug_in_it_keeps_no_end_from_its_commit(
    bench: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    teller = open_run(bench)
    monkeypatch.setattr(lastseen, "look", lambda *given: 1 / 0)
    bench.fail(teller, 0)
    assert len(bench.get("/run/episodes")["episodes"]) == 1
    assert "what was seen last cannot be kept" in caplog.text


# --- bounds -----------------------------------------------------------------------


def test_images_go_first_then_the_oldest_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    presents, teller = Presents(), Teller()
    image = wire.Image("eye", (1, 100), "|u1", 0)
    moment = wire.Moment(NOON, episode=0, state=b"s" * 100, images=(image,))
    sample = wire.Sample(number=1, sent=NOON, moments=(moment,))
    presents.take("run", teller.id, Newest(sample, [b"i" * 100], NOON, NOON))
    lines = [teller.log(str(number)) for number in range(3)]
    present, size = presents.of(teller.id), len(wire.encode(lines[0]))

    def within(most: int) -> tuple[int, list[str], int]:
        monkeypatch.setattr(lastseen, "MAX_BYTES", most)
        found = lastseen.look(teller.ended(0), present, lines)
        messages = [line.message for line in found.lines()]
        return len(found.pictures), messages, found.omitted

    assert within(200 + 3 * size) == (1, ["0", "1", "2"], 0)
    assert within(199 + 3 * size) == (0, ["0", "1", "2"], 1)
    assert within(100 + 2 * size) == (0, ["1", "2"], 2)
    assert within(0) == (0, [], 4)


def test_a_loop_that_only_fails_keeps_the_newest_of_each_commit(bench: Scene) -> None:
    teller = open_run(bench)
    bench.commit(
        teller, *(teller.ended(n, outcome="error", error=ERROR) for n in range(200))
    )
    bench.kept(teller, 200 - lastseen.MAX_ENDS - 1, 404)
    bench.kept(teller, 200 - lastseen.MAX_ENDS)
    bench.kept(teller, 199)


def test_of_many_open_episodes_of_a_lost_source_the_first_are_kept(
    bench: Scene,
) -> None:
    teller = open_run(bench)
    bench.commit(teller, *(teller.started(number) for number in range(100)))
    bench.see(teller, 0)
    bench.gone(teller)
    bench.tick(31)
    bench.tick(61)
    assert len(bench.reader.seen("run")) == lastseen.MAX_OF_SOURCE
    assert bench.kept(teller, 0)["step"] == 17


def test_one_commit_keeps_no_more_than_its_share(
    bench: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastseen, "MAX_BATCH_BYTES", 3000)
    teller = open_run(bench)
    bench.commit(teller, teller.log("x" * 900))
    bench.commit(
        teller, *(teller.ended(n, outcome="error", error=ERROR) for n in range(20))
    )
    assert 1 < len(bench.reader.seen("run")) < 5


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "j.sqlite", traces=False) as made:
        yield made


def kept(number: int, size: int = 10, run: str = "run") -> Kept:
    return Kept(run, b"s" * 16, f"{number:032x}", b"x" * size)


@pytest.mark.parametrize(("rows", "most"), [(3, 10**9), (10**9, 300)])
def test_the_oldest_go_first(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, rows: int, most: int
) -> None:
    monkeypatch.setattr(journal_module, "MAX_LAST_SEEN", rows)
    monkeypatch.setattr(journal_module, "MAX_LAST_SEEN_BYTES", most)
    for number in range(5):
        journal.commit(Batch(last_seen=[kept(number, 100)]))
    journal.commit(Batch(last_seen=[kept(3, 100)]))  # again: the newest now
    with closing(Reader(journal.path)) as reader:
        assert reader.seen("run") == {f"{number:032x}" for number in (2, 4, 3)}
        found = reader.newest_last_seen("run")
        assert found is not None
        assert found[0] == f"{3:032x}"


def test_a_deleted_run_takes_it_along(journal: Journal) -> None:
    journal.commit(Batch(last_seen=[kept(1), kept(2, run="other")]))
    deletion = journal_module.Deletion("run", NOON, {})
    journal.commit(Batch(deleted=[deletion]))
    with closing(Reader(journal.path)) as reader:
        assert (reader.seen("run"), len(reader.seen("other"))) == (set(), 1)


def test_what_cannot_be_read_is_as_if_it_were_not_there(
    bench: Scene, journal: Journal
) -> None:
    open_run(bench)
    bench.journal.commit(Batch(last_seen=[kept(1)]))
    bench.get(f"/run/episodes/{1:032x}/last_seen", 404)
    assert bench.page().parts["last-seen"] == ""


# --- a damaged journal ------------------------------------------------------------


def test_a_mended_journal_still_has_it(bench: Scene, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0, state={"last": 1})
    bench.fail(teller, 0)
    bench.close()
    condemn(path, "says the test")
    again = Scene(path)
    assert again.kept(teller, 0)["state"] == {"last": 1}
    again.close()


def test_a_journal_from_before_is_mended_and_gets_the_table(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path, traces=False):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE last_seen; PRAGMA user_version=2;")
    condemn(path, "says the test")
    with Journal(path, traces=False) as journal:
        journal.commit(Batch(last_seen=[kept(1)]))


# --- the page ---------------------------------------------------------------------


def failed(bench: Scene) -> Teller:
    teller = open_run(bench)
    bench.start(teller, 0, target=HOSTILE)
    bench.see(
        teller, 0, state={HOSTILE: HOSTILE}, scores={HOSTILE: 0.5}, images=[HOSTILE]
    )
    error = wire.ErrorInfo(HOSTILE, HOSTILE, HOSTILE)
    line = teller.log(HOSTILE, logger=HOSTILE, fields={HOSTILE: HOSTILE})
    end = teller.ended(0, "eval", "error", target=HOSTILE, error=error)
    bench.commit(teller, line, end)
    close_run(bench, teller, ending="failed", error=error)
    return teller


def test_a_failed_runs_page_shows_it(bench: Scene) -> None:
    failed(bench)
    found = Document(bench.page().parts["last-seen"])
    assert found.words.startswith("Last seen eval episode")
    assert "step 17" in found.words
    for heading in ("Images", "Scores", "State", "Its last 1 log line"):
        assert heading in found.words


def test_whatever_was_seen_is_text(bench: Scene) -> None:
    teller = failed(bench)
    page = bench.page()
    rows = [row for found in page.lists.values() for row in found.values()]
    found = Document("\n".join([*page.parts.values(), *rows]))
    assert "script" not in {tag for tag, _ in found.tags}
    assert found.text.count(HOSTILE) >= 8
    sources = [attrs["src"] for tag, attrs in found.tags if tag == "img"]
    trace = wire.trace_id("run", teller.id, 0)
    base = f"./../api/v1/runs/run/episodes/{trace}/last_seen/"
    (source,) = [one for one in sources if one.startswith(base)]
    answer = bench.client.get(source.removeprefix("./.."))
    assert (answer.status_code, answer.mimetype) == (200, "image/png")


def test_a_run_that_goes_on_shows_its_present_only(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0)
    bench.fail(teller, 0)
    assert bench.page().parts["last-seen"] == ""


# --- type, message and traceback --------------------------------------------------

SAID = {"type": "ValueError", "message": "no <b>mug</b>", "traceback": "Traceback ..."}


def test_a_failed_run_source_and_episode_say_why_in_the_api(bench: Scene) -> None:
    teller = open_run(bench)
    bench.fail(teller, 0)
    close_run(bench, teller, ending="failed", reason="it broke", error=ERROR)
    found = bench.get("/run")
    assert found["error"] == SAID
    (source,) = found["source_list"]
    assert (source["ending"], source["error"]) == ("failed", SAID)
    (episode,) = bench.get("/run/episodes")["episodes"]
    assert episode["error"] == SAID


@pytest.mark.parametrize("lost", [False, True])
def test_their_spans_say_why(bench: Scene, lost: bool) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    if lost:
        bench.gone(teller)
        bench.tick(31)
        bench.tick(61)
    else:
        bench.fail(teller, 0)
    (row,) = bench.reader.to_send(10)
    trace = trace_of(row.episode, lost=row.outcome is None)
    ((name, _, said),) = root_of(trace).events
    assert name == "exception"
    assert said["exception.type"] == ("source_lost" if lost else "ValueError")
    assert said["exception.message"]
    assert lost or said["exception.stacktrace"] == "Traceback ..."


def test_they_say_why_on_the_page(bench: Scene) -> None:
    teller = open_run(bench)
    bench.fail(teller, 0)
    close_run(bench, teller, ending="failed", error=ERROR)
    page = bench.page()
    rows = page.lists
    for html in (
        page.parts["error"],
        *rows["sources"].values(),
        *rows["episodes"].values(),
    ):
        text = Document(html).text
        for part in SAID.values():
            assert part in text


def test_a_failed_workers_page_begins_with_its_error(bench: Scene) -> None:
    open_run(bench)
    worker = Teller(2)
    bench.commit(worker, worker.opened(role="child", owner=Teller(1).id))
    bench.commit(worker, worker.closed(ending="failed", error=ERROR))
    assert bench.page().parts["error"] == ""
    assert "ValueError" in bench.page(worker.id).parts["error"]


def test_the_api_is_plain_json(bench: Scene) -> None:
    teller = open_run(bench)
    bench.start(teller, 0)
    bench.see(teller, 0, state={"nan": float("nan")}, scores={"bad": float("inf")})
    bench.fail(teller, 0)
    found = bench.kept(teller, 0)
    assert (found["state"], found["scores"]) == ({"nan": None}, {"bad": None})
    json.dumps(found, allow_nan=False)
