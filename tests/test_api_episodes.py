"""The API of episodes: filters, one with all that is known, all of them as a file."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, Iterator

import pytest
from werkzeug.test import TestResponse

from experiment_hooks import wire
from exporter import api_episodes
from tests.making import NOON, Teller
from tests.test_web import Bench, checked, indices, open_run, with_episodes

BASE = "/api/v1/runs/run/episodes"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.close()


def table(answer: TestResponse) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/csv"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


# --- filters --------------------------------------------------------------------------


def test_open_ones_are_an_outcome_of_their_own(bench: Bench) -> None:
    with_episodes(bench, 4, opened=3)
    assert indices(bench.get("/run/episodes?outcome=open")) == [4, 5, 6]
    assert indices(bench.get("/run/episodes?outcome=open&mode=train")) == [5]


def test_an_outcome_called_open_is_found_with_them(bench: Bench) -> None:
    teller = with_episodes(bench, 0, opened=2)
    bench.commit(teller, teller.ended(0, outcome="open", index=0))
    found = bench.get("/run/episodes?outcome=open")["episodes"]
    assert [one["outcome"] for one in found] == ["open", None]


def test_those_with_an_error_are_found_and_the_open_ones_are_not(bench: Bench) -> None:
    teller = with_episodes(bench, 3, opened=1)
    error = wire.ErrorInfo("KeyError", "x")
    bench.commit(teller, teller.ended(9, outcome="correct", index=9, error=error))
    assert indices(bench.get("/run/episodes?failed=1")) == [9]
    assert len(indices(bench.get("/run/episodes?failed=0"))) == 5


def test_an_outcome_that_no_episode_had_is_not_even_looked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_episodes(bench, 3)
    asked: list[Any] = []
    monkeypatch.setattr(bench.reader, "episodes", lambda *a, **b: asked.append(a) or [])
    assert bench.get("/run/episodes?outcome=nothing")["episodes"] == []
    assert asked == []


# --- one ------------------------------------------------------------------------------


def test_one_episode_is_its_row_and_all_that_its_record_says(bench: Bench) -> None:
    teller = open_run(bench)
    ended = teller.ended(
        3,
        phases=(wire.PhaseSpan("matching", 0.5, 1.0, 4),),
        sampled=(wire.StepSpan(7, 0.25, 0.125, {"mug": math.nan}),),
        events=(wire.Event("moved", 1.5, {"by": [1, 2]}),),
        omitted={"phases": 2},
    )
    bench.commit(teller, ended)
    (row,) = bench.get("/run/episodes")["episodes"]
    found = bench.get(f"/run/episodes/{row['trace_id']}")
    assert {name: found[name] for name in row} == row
    assert {name: found[name] for name in found if name not in row} == {
        "number": 3,
        "phases": [
            {"name": "matching", "start": 0.5, "duration_seconds": 1.0, "steps": 4}
        ],
        "sampled": [
            {
                "step": 7,
                "start": 0.25,
                "duration_seconds": 0.125,
                "scores": {"mug": None},
            }
        ],
        "events": [{"name": "moved", "at": 1.5, "attributes": {"by": [1, 2]}}],
        "omitted": {"phases": 2},
    }


def test_an_open_one_has_the_same_fields(bench: Bench) -> None:
    teller = with_episodes(bench, 1, opened=1)
    ended, still_open = (
        bench.get(f"/run/episodes/{wire.trace_id('run', teller.id, number)}")
        for number in (0, 1)
    )
    assert still_open["outcome"] is None
    assert ended.keys() <= still_open.keys()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (f"/run/episodes/{'0' * 32}", "there is no such episode"),
        ("/run/episodes/<b>", "there is no such episode"),
        (f"/nobody/episodes/{'0' * 32}", "there is no run 'nobody'"),
        ("/nobody/episodes?all=1", "there is no run 'nobody'"),
    ],
)
def test_what_is_not_there_is_answered_by_404(
    bench: Bench, path: str, sentence: str
) -> None:
    with_episodes(bench, 1)
    assert sentence in bench.get(path, 404)["error"]


# --- all of them ----------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_episodes, "READ_AT_ONCE", 3)
    monkeypatch.setattr(api_episodes, "PIECE", 64)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("ended", [0, 2, 3, 7])
def test_a_file_has_all_of_them_and_the_open_ones_last(
    bench: Bench, ended: int
) -> None:
    with_episodes(bench, ended, opened=2)
    answer = bench.client.get(f"{BASE}?all=1&limit=1")
    assert answer.headers["Content-Disposition"] == (
        'attachment; filename="run-episodes.json"'
    )
    page = checked(answer, 200)
    assert indices(page) == [*range(ended + 2)]
    assert page["next"] is None
    assert page["episodes"] == bench.get("/run/episodes?limit=1000")["episodes"]
    rows = table(bench.client.get(f"{BASE}?all=1&format=csv"))
    assert [row["index"] for row in rows] == [str(n) for n in range(ended + 2)]


@pytest.mark.usefixtures("small_pieces")
def test_a_file_has_all_of_a_filter(bench: Bench) -> None:
    with_episodes(bench, 20, opened=2)
    found = checked(bench.client.get(f"{BASE}?all=1&mode=eval&outcome=confused"), 200)
    assert indices(found) == [0, 6, 12, 18]
    rows = table(bench.client.get(f"{BASE}?all=1&outcome=nothing&format=csv"))
    assert rows == []


@pytest.mark.usefixtures("small_pieces")
def test_what_ends_while_a_file_is_sent_is_in_it_once(bench: Bench) -> None:
    teller = with_episodes(bench, 9, opened=1)
    answer = bench.client.get(f"{BASE}?all=1", buffered=False)
    pieces = answer.iter_encoded()
    begun = next(pieces)
    bench.commit(teller, teller.ended(9, index=9), teller.ended(10, index=10))
    page = json.loads(begun + b"".join(pieces))
    assert indices(page) == [*range(10)]
    answer.close()


def test_a_table_has_what_a_row_says(bench: Bench) -> None:
    teller = open_run(bench)
    bench.commit(
        teller,
        teller.ended(
            0,
            epoch=3,
            seed=7,
            success=True,
            results={"return": 1.5},
            scores={"LM_0/mug": 0.5},
            attributes={"grip": "pinch", "odd": math.inf},
        ),
        teller.ended(
            1, outcome="=1+1", error=wire.ErrorInfo("@Bad", "no"), scores={"b": 2.0}
        ),
    )
    for query in ("format=csv", "format=csv&all=1"):
        first, second = table(bench.client.get(f"{BASE}?{query}"))
        assert (first["epoch"], first["seed"], first["success"]) == ("3", "7", "True")
        assert first["result_return"] == "1.5"
        assert (first["score_LM_0/mug"], first["score_b"]) == ("0.5", "")
        assert json.loads(first["attributes"]) == {"grip": "pinch", "odd": None}
        assert first["error_type"] == ""
        assert (second["outcome"], second["error_type"]) == ("'=1+1", "'@Bad")
        assert (second["result_return"], second["attributes"]) == ("", "")
        assert not any(name.startswith("more_") for name in first)


def test_of_too_many_names_the_rest_is_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_episodes, "MAX_COLUMNS", 2)
    teller = open_run(bench)
    scores = {"a": 1.0, "b": 2.0, "c": 3.0}
    bench.commit(teller, teller.ended(0, scores=scores, results={"r": 1.0}))
    for query in ("format=csv", "format=csv&all=1"):
        (row,) = table(bench.client.get(f"{BASE}?{query}"))
        assert (row["score_a"], row["score_b"]) == ("1.0", "2.0")
        assert json.loads(row["more_scores"]) == {"c": 3.0}
        assert "more_results" not in row


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ('a"b\r\n; x=y', "a-b-x-y"),
        ("../../etc", "etc"),
        ("é中", "run"),
        ("a" * 300, "a" * 100),
    ],
)
def test_a_files_name_is_safe(bench: Bench, run: str, name: str) -> None:
    teller = Teller(5, run)
    bench.commit(teller, teller.opened())
    with bench.app.test_request_context(f"{BASE}?all=1"):
        answer = bench.app.view_functions["episodes"](run)
        answer.close()
    said = answer.headers["Content-Disposition"]
    assert said == f'attachment; filename="{name}-episodes.json"'


def test_few_files_are_sent_at_a_time_and_one_that_is_left_makes_room(
    bench: Bench,
) -> None:
    with_episodes(bench, 3)
    asked = [
        bench.client.get(f"{BASE}?all=1", buffered=False)
        for _ in range(api_episodes.DOWNLOADS)
    ]
    assert "too many files" in bench.get("/run/episodes?all=1", 503)["error"]
    assert indices(bench.get("/run/episodes")) == [0, 1, 2], "pages are another matter"
    asked.pop().close()  # not a byte of it was read
    assert indices(bench.get("/run/episodes?all=1")) == [0, 1, 2]
    for one in asked:
        one.close()


def test_the_server_is_told_that_a_file_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_episodes, "PIECE", 1)
    with_episodes(bench, 5)
    told: list[float] = []

    class Served:
        def goes_on(self) -> None:
            told.append(NOON)

    environ = {"episight.served": Served()}
    answer = bench.client.get(f"{BASE}?all=1", environ_overrides=environ)
    assert indices(json.loads(answer.data)) == [0, 1, 2, 3, 4]
    assert len(told) >= 5
