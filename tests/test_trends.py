"""How it went lately, as HTML: tiles of modes and of the run's own metrics."""

from __future__ import annotations

from typing import Any

from experiment_hooks import wire
from exporter.live import trends
from exporter.live.tracks import Curve, Seen, Series, Speed
from exporter.live.trends import Lately
from tests.test_view import NOW, Document, a_mode, a_run, all_html, an_episode, said

TIMES = [NOW - 10, NOW - 5, NOW]


def a_series(number: int = 1, kind: str = "gauge", **changes: Any) -> Series:
    values: dict[str, Any] = {
        "number": number,
        "spec": wire.MetricSpec(f"m{number}", kind, "What it is."),
        "labels": (),
        "newest": 3.0,
        "rate": None,
        "changed": NOW,
        "sure": True,
        "curve": Curve(TIMES, [1.0, 2.0, 3.0]),
        **changes,
    }
    return Series(**values)


def a_seen(*series: Series, **changes: Any) -> Seen:
    values: dict[str, Any] = {
        "number": 7,
        "since": NOW - 10,
        "at": NOW,
        "speeds": {"train": Speed(Curve(TIMES, [40.0, 50.0, 51.25]))},
        "series": series,
        "more": 0,
        **changes,
    }
    return Seen(**values)


def metric(series: Series, ended: bool = False) -> str:
    return said(trends.metrics(a_seen(series), ended))


# --- modes ----------------------------------------------------------------------------


def test_a_mode_shows_its_pace_its_outcomes_and_its_results() -> None:
    ended = [
        an_episode(outcome=outcome, success=None)
        for outcome in ["correct", "confused", "error", "lost", "correct"]
    ]
    lately = Lately({"train": {"return": (1.0, 2.5)}}, ended)
    shown = trends.modes(a_run(), lately, a_seen())
    assert [*shown.lists["trends"]] == ["trend-0"]
    text = said(shown)
    for part in (
        "Steps per second 51.2",
        "Success 40 %",
        "of the last 5 episodes",
        "return 2.5",
        "mean 1.75 of 2 episodes",
    ):
        assert part in text
    labels = [attrs.get("aria-label") for _, attrs in Document(all_html(shown)).tags]
    assert (
        "Outcomes of the last 5 episodes: 2 successful, 1 other, 1 lost, 1 failed"
        in labels
    )


def test_each_mode_has_its_own_episodes() -> None:
    modes = {"train": a_mode(), "eval": a_mode()}
    ended = [an_episode(mode="eval", success=True), an_episode(mode="train")]
    shown = trends.modes(a_run(modes=modes), Lately(ended=ended), None)
    assert "Success 100 %" in Document(shown.lists["trends"]["trend-1"]).words
    assert "of the last 1 episode" in Document(shown.lists["trends"]["trend-0"]).words


def test_of_each_mode_a_hundred_episodes_are_shown_though_others_are_newer() -> None:
    modes = {"train": a_mode(), "eval": a_mode()}
    ended = [an_episode(mode="eval", success=True)] * 20
    ended += [an_episode(mode="train", success=True)] * 300
    rows = trends.modes(a_run(modes=modes), Lately(ended=ended), None).lists["trends"]
    assert "of the last 100 episodes" in Document(rows["trend-0"]).words
    assert "of the last 20 episodes" in Document(rows["trend-1"]).words
    assert len(ended) < trends.LOOKED_AT


def test_where_there_is_nothing_to_tell_apart_there_is_no_chart() -> None:
    ended = [an_episode(outcome="ended", success=None)] * 3
    run = a_run(success=())
    assert trends.modes(run, Lately(ended=ended), None).lists["trends"] == {}
    some = [*ended, an_episode(outcome="error", success=None)]
    assert "3 other, 1 failed" in said(trends.modes(run, Lately(ended=some), None))


def test_at_most_six_results_are_drawn() -> None:
    results = {f"result_{number}": (1.0, 2.0) for number in range(9)}
    text = said(trends.modes(a_run(), Lately({"train": results}), None))
    assert "result_5" in text
    assert "result_6" not in text


# --- metrics --------------------------------------------------------------------------


def test_each_kind_of_metric_says_what_it_is_now() -> None:
    assert "m1 3 3 1 now" in metric(a_series())
    assert "12,345" in metric(a_series(kind="counter", newest=12345.0, rate=2.25))
    assert "2.25/s" in metric(a_series(kind="counter", rate=2.25))
    took = a_series(kind="histogram", newest=0.01234567, rate=50.0)
    assert "0.01235" in metric(took)
    assert "mean, 50/s observed" in metric(took)
    assert "nan" in metric(a_series(newest=float("nan")))


def test_an_age_says_whether_it_was_seen() -> None:
    assert "35 s ago" in metric(a_series(changed=NOW - 35))
    assert "> 35 s ago" in metric(a_series(changed=NOW - 35, sure=False))
    assert "> 35 s ago" not in metric(a_series(changed=NOW - 35))


def test_of_a_run_that_has_ended_there_is_no_age_and_no_rate() -> None:
    text = metric(a_series(kind="counter", rate=2.25, changed=NOW - 35), ended=True)
    assert "ago" not in text
    assert "/s" not in text


def test_labels_and_help_are_said() -> None:
    one = a_series(labels=(("side", "left"), ("net", "a")))
    found = Document(all_html(trends.metrics(a_seen(one), False)))
    assert 'side="left", net="a"' in found.words
    titles = [attrs["title"] for _, attrs in found.tags if "title" in attrs]
    assert titles == ['m1{side="left", net="a"}: What it is.']


def test_beyond_two_dozen_they_are_folded_and_beyond_all_they_are_counted() -> None:
    seen = a_seen(*map(a_series, range(60)), more=1234)
    shown = trends.metrics(seen, False)
    assert len(shown.lists["metrics"]) == trends.OPEN_METRICS
    assert len(shown.lists["metrics-folded"]) == 60 - trends.OPEN_METRICS
    assert shown.parts["metrics-more"] == "36 more"
    head = Document(shown.parts["metrics-head"]).words
    assert head == "the last minute; 1,234 more are in /metrics"
    few = trends.metrics(a_seen(a_series()), False)
    assert few.parts["metrics-more"] == ""
    assert "more" not in few.parts["metrics-head"]


def test_without_a_history_there_are_no_metrics() -> None:
    shown = trends.metrics(None, True)
    assert all_html(shown).strip() == ""
    assert shown.lists == {"metrics": {}, "metrics-folded": {}}
