"""A fleet at a real exporter: every query has data, and who is in trouble is told of.

Prometheus and Alertmanager are real, and have the configuration and the rules that ship
(``fleet.py``); the runs are real hooks (``played_fleet.py``).
"""

import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

import pytest

from tests.fleet import Fleet, host
from tests.grafana_in_small import (
    TIMES,
    Looking,
    dashboards,
    eventually_full,
    expressions,
    panels,
    provisioned,
    replaced,
)
from tests.played_fleet import ELSEWHERE, PAUSE, RUNS
from tests.support import eventually


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    played = Fleet(tmp_path_factory.mktemp("fleet"))
    yield played
    played.stop()


@pytest.fixture(autouse=True)
def logs(fleet: Fleet, show_log: Callable[[Path], None]) -> None:
    for path in fleet.logs:
        show_log(path)


# --- the dashboards ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("run", {"run": ["healthy"]}),
        ("monty", {"run": ["monty"]}),
        ("fleet", {}),
        ("episodes", {"run": ["healthy"]}),
        ("exporter", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_query_has_data(name: str, chosen: Any, fleet: Fleet) -> None:
    looking = eventually_full(dashboards()[name], fleet.prometheus, 30.0, **chosen)
    assert all(looking.options.values()), looking.options


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("run", {"run": ["plain"]}),
        ("fleet", {"run": ["plain"]}),
        ("episodes", {"run": ["plain"]}),
        ("exporter", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_little_is_said_panels_have_data_or_a_reason(
    name: str, chosen: Any, fleet: Fleet
) -> None:
    if name == "exporter":  # one without traces, tap, notifications
        chosen = {"instance": [host(fleet.unwritable)]}

    def silent() -> List[str]:
        looking = Looking(dashboards()[name], fleet.prometheus, **chosen)
        return [
            panel["title"]
            for panel, values in looking.shown()
            if "noValue" not in panel["fieldConfig"]["defaults"]
            and not any(looking.points(one, values) for one in panel["targets"])
        ]

    eventually(lambda: not silent(), 30.0, "no panel without a word")


def test_what_a_run_does_not_say_is_no_choice(fleet: Fleet) -> None:
    looking = Looking(dashboards()["run"], fleet.prometheus, run=["plain"])
    assert looking.options["result"] == []
    assert looking.options["gauge"] == []


def newest(fleet: Fleet, title: str, run: str, mode: str) -> float:
    """What a panel of one run shows at the end; of several series their mean."""
    found = dashboards()["run"]
    panel = next(one for one in panels(found) if one["title"] == title)
    looking = Looking(found, fleet.prometheus, run=[run], mode=[mode])
    series = looking.points(panel["targets"][0], looking.values)
    assert series, title
    return sum(float(one["values"][-1][1]) for one in series) / len(series)


def test_paces_and_shares_are_those_of_the_run(fleet: Fleet) -> None:
    titles = ("Steps per second", "Episodes per minute", "Phases per minute")
    titles += ("Successes", "Time of a phase")

    def agree() -> bool:
        steps, episodes, phases, successes, time = (
            newest(fleet, title, "healthy", "train") for title in titles
        )
        assert episodes / 60 == pytest.approx(steps / 8, rel=0.3)
        assert phases / 60 == pytest.approx(steps / 8, rel=0.3)
        assert successes == pytest.approx(2 / 3, abs=0.25)
        assert 4 * PAUSE < time < 1.0
        return True

    eventually(agree, 30.0, "eight steps and each phase once an episode")


def test_time_left_is_what_is_expected_at_the_pace_of_now(fleet: Fleet) -> None:
    def agree() -> bool:
        left = newest(fleet, "Time left", "counting", "train")
        pace = newest(fleet, "Steps per second", "counting", "train")
        assert left == pytest.approx(10**6 / pace, rel=0.3)
        return True

    eventually(agree, 30.0, "a million steps at this pace")


def test_the_numbers_at_the_top_are_of_the_runs(fleet: Fleet) -> None:
    found = dashboards()["fleet"]

    def numbers() -> Dict[str, float]:
        looking = Looking(found, fleet.prometheus)
        return {
            panel["title"]: float(series["values"][-1][1])
            for panel in panels(found)
            if panel["type"] == "stat"
            for series in looking.points(panel["targets"][0], looking.values)
        }

    in_the_end = {"Stalled": 1, "Failed": 2, "Lost": 1, "Ended": 2}
    others = len(RUNS) + len(ELSEWHERE) - sum(in_the_end.values())
    expected = {"Running": others, **in_the_end}

    def right() -> bool:
        shown = numbers()
        return shown.pop("Steps per second") > 10 and shown == expected

    eventually(right, 30.0, "so many in each state")


def test_a_run_that_is_over_has_no_time_left_in_any_mode(fleet: Fleet) -> None:
    found = dashboards()["run"]
    left, progress = (
        next(one for one in panels(found) if one["title"] == title)
        for title in ("Time left", "Progress")
    )

    def half_done() -> bool:
        looking = Looking(found, fleet.prometheus, run=["completed"], mode=["eval"])
        assert looking.points(left["targets"][0], looking.values) == []
        (series,) = looking.points(progress["targets"][0], looking.values)
        return float(series["values"][-1][1]) == 0.5

    eventually(half_done, 30.0, "one of two episodes")


def test_progress_is_in_epochs_where_only_these_are_expected(fleet: Fleet) -> None:
    found = dashboards()["run"]
    panel = next(one for one in panels(found) if one["title"] == "Progress")

    def begun() -> bool:
        looking = Looking(found, fleet.prometheus, run=["monty"])
        series = looking.points(panel["targets"][0], looking.values)
        return [0 < float(one["values"][-1][1]) < 0.5 for one in series] == [True]

    eventually(begun, 30.0, "some epochs of many")


def test_a_query_without_data_would_be_noticed(fleet: Fleet) -> None:
    found = dashboards()["run"]
    panel = next(one for one in panels(found) if one["title"] == "Epoch")
    (target,) = panel["targets"]
    target["expr"] = target["expr"].replace("experiment_run_epoch", "no_such_metric")

    def empty() -> List[str]:
        return Looking(found, fleet.prometheus, run=["healthy"]).empty()

    expected = [
        "Epoch: " + replaced(target["expr"], {**TIMES, **ALL, "run": "healthy"})
    ]
    eventually(lambda: empty() == expected, 30.0, "that query alone")


ALL = {"job": ".+", "experiment": ".*", "mode": ".*"}


def test_several_runs_are_drawn_together(fleet: Fleet) -> None:
    runs = ["healthy", "plain", "counting"]
    found = dashboards()["run"]
    panel = next(one for one in panels(found) if one["title"] == "Steps per second")

    def drawn() -> List[str]:
        looking = Looking(found, fleet.prometheus, run=runs)
        series = looking.points(panel["targets"][0], looking.values)
        return sorted({one["metric"]["run"] for one in series})

    eventually(lambda: drawn() == sorted(runs), 30.0, "a line for each")


def test_metrics_of_its_own_are_found_by_themselves(fleet: Fleet) -> None:
    def found() -> Dict[str, List[str]]:
        looking = Looking(dashboards()["run"], fleet.prometheus, run=["healthy"])
        names = ("counter", "gauge", "histogram")
        return {name: looking.options[name] for name in names}

    expected = {
        "counter": ["experiment_grasps"],
        "gauge": ["experiment_objects_count"],
        "histogram": ["experiment_grip_force_newtons"],
    }
    eventually(lambda: found() == expected, 30.0, "those that it has declared")


def test_the_newest_run_is_the_first_choice(fleet: Fleet) -> None:
    def chosen() -> bool:
        looking = Looking(dashboards()["run"], fleet.prometheus)
        started = {
            one.labels["run"]: one.value
            for one in fleet.prometheus.query("experiment_run_start_timestamp_seconds")
        }
        newest = sorted(started, key=lambda run: -started[run])
        assert set(newest) == {*RUNS, *ELSEWHERE}
        assert looking.options["run"] == newest, started
        return True

    eventually(chosen, 30.0, "runs, the newest first")


def test_the_table_says_how_each_run_came_out(fleet: Fleet) -> None:
    (table,) = [one for one in panels(dashboards()["fleet"]) if one["title"] == "Runs"]
    (properties,) = [
        {one["id"]: one["value"] for one in override["properties"]}
        for override in table["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "State"
    ]
    words = properties["mappings"][0]["options"]

    def states() -> Dict[str, str]:
        looking = Looking(dashboards()["fleet"], fleet.prometheus)
        series = looking.points(table["targets"][0], looking.values)
        return {
            one["metric"]["run"]: words[one["values"][-1][1]]["text"] for one in series
        }

    expected = {
        **dict.fromkeys((*RUNS, *ELSEWHERE), "running"),
        "completed": "completed",
        "stopped": "stopped",
        "stalled": "stalled",
        "killed": "lost",
        **dict.fromkeys(("failed", "replayed"), "failed"),
    }
    eventually(lambda: states() == expected, 30.0, "the verdicts")


def test_marks_say_when_runs_started_ended_and_failed(fleet: Fleet) -> None:
    found = dashboards()["fleet"]

    def marked() -> Dict[str, List[str]]:
        looking = Looking(found, fleet.prometheus)
        answer: Dict[str, List[str]] = {}
        for mark in found["annotations"]["list"]:
            series = looking.ask(replaced(mark["expr"], looking.values))
            answer[mark["name"]] = sorted(one["metric"]["run"] for one in series)
            for one in series:  # milliseconds, of this century
                assert 1.7e12 < float(one["values"][-1][1]) < 4e12
        return answer

    expected = {
        "Starts": sorted([*RUNS, *ELSEWHERE]),
        "Ends": ["completed", "stopped"],
        "Failures": ["failed", "killed", "replayed"],
    }
    eventually(lambda: marked() == expected, 30.0, "the marks")


def test_exemplars_have_the_name_that_leads_to_tempo(fleet: Fleet) -> None:
    (place,) = provisioned()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]

    def exemplars() -> List[Any]:
        now = fleet.prometheus.query("time()")[0].value
        query = "experiment_episode_duration_seconds_bucket"
        span = {"start": str(now - 60), "end": str(now)}
        answer = fleet.prometheus.api("query_exemplars", query=query, **span)
        return [one for series in answer for one in series["exemplars"]]

    found = eventually(exemplars, 30.0, "exemplars")
    assert {tuple(one["labels"]) for one in found} == {(place["name"],)}


def test_from_a_trace_one_comes_to_metrics_of_its_run(fleet: Fleet) -> None:
    back = provisioned()["tempo"]["jsonData"]["tracesToMetrics"]
    values = {"experiment.run.id": "healthy", "experiment.mode": "eval"}
    tags = ",".join(f'{one["value"]}="{values[one["key"]]}"' for one in back["tags"])
    assert len(back["queries"]) > 1
    for query in back["queries"]:
        text = query["query"].replace("$$__tags", tags)  # $$ is one $ there
        assert tags in text
        text = re.sub(r"\[\w+\]", "[4s]", text)
        eventually(lambda text=text: fleet.prometheus.query(text), 30.0, text)  # type: ignore[misc]


def test_each_metric_that_is_named_is_served(fleet: Fleet) -> None:
    named = {
        metric
        for found in dashboards().values()
        for _, expr in expressions(found)
        for metric in re.findall(r"\b((?:experiment|episight)_\w+)\{", expr)
    }
    assert len(named) > 40

    def unknown() -> Set[str]:
        page = fleet.exporter.get("/metrics").text
        types = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
        return named - {
            f"{name}{suffix}"
            for name, kind in types
            for suffix in (_OF_HISTOGRAMS if kind == "histogram" else ("",))
        }

    eventually(lambda: unknown() == set(), 30.0, f"all; not yet {unknown()}")


_OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


# --- the alerts ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fleet", "run"])
def test_dashboards_show_what_fires(name: str, fleet: Fleet) -> None:
    found = dashboards()[name]
    (panel,) = [one for one in panels(found) if one["title"] == "Alerts"]
    assert panel["fieldConfig"]["defaults"]["noValue"] == "No alert"

    def fires(*runs: str) -> Set[Tuple[str, str]]:
        chosen = {"run": runs} if runs else {}
        looking = Looking(found, fleet.prometheus, **chosen)
        series = looking.points(panel["targets"][0], looking.values)
        now = fleet.prometheus.query("time()")[0].value
        for one in series:  # since when, in milliseconds
            assert 0 <= now - float(one["values"][-1][1]) / 1000 < 600
            assert one["metric"]["severity"] in ("warning", "critical")
        return {
            (one["metric"]["alertname"], one["metric"].get("run", "")) for one in series
        }

    expected = {("EpisightRunStalled", "stalled")}
    eventually(lambda: fires("stalled", "healthy", "completed") == expected, 60.0)
    if name == "fleet":
        down = ("EpisightExporterDown", "")
        eventually(lambda: fires() >= {*expected, down}, 60.0, "of exporters, too")


OF_RUNS = {
    ("EpisightRunStalled", "stalled"),
    ("EpisightRunLost", "killed"),
    ("EpisightRunFailed", "failed"),
    ("EpisightSourceLost", "parallel"),
    ("EpisightFailureRatioHigh", "failing"),
    ("EpisightThroughputRegressed", "slower"),
    ("EpisightNoProgressTowardsTotal", "endless"),
}
OF_EXPORTERS = {
    ("EpisightExporterDown", "away"),
    ("EpisightExporterLosingData", "troubled"),
    ("EpisightTracesNotDelivered", "troubled"),
    ("EpisightCardinalityNearBudget", "troubled"),
    ("EpisightJournalNotWritable", "unwritable"),
}
TOLD = OF_RUNS | OF_EXPORTERS
NOT_TOLD = {("EpisightRunFinished", "completed")}
"""It fires, and is routed nowhere."""


def test_each_run_in_trouble_is_told_of_and_no_other(fleet: Fleet) -> None:
    names = {
        host(fleet.troubled): "troubled",
        host(fleet.unwritable): "unwritable",
        fleet.away: "away",
    }

    def who(labels: Dict[str, str]) -> Tuple[str, str]:
        instance = labels["instance"]
        return labels["alertname"], labels.get("run", names.get(instance, instance))

    def told() -> Set[Tuple[str, str]]:
        return {who(labels) for labels in fleet.webhook.told}

    def all_told() -> bool:
        assert told() >= TOLD, (TOLD - told(), fleet.prometheus.alerts())
        return True

    eventually(all_told, 60.0, "everything told")
    # What is delivered from a disk was looked at, more than once.
    seen = 'count_over_time(episight:run:seconds_since_end{run="replayed"}[1m]) > 8'
    eventually(lambda: fleet.prometheus.query(seen), 20.0, "the replayed one")
    fired = fleet.prometheus.query('max_over_time(ALERTS{alertstate="firing"}[5m])')
    assert {who(one.labels) for one in fired} == TOLD | NOT_TOLD
    assert told() == TOLD
    for run in ("healthy", "slow_phase", "unjudged", "streaming"):  # as they were
        assert fleet.exporter.run(run)["state"] == "running", run
