"""Each query of each dashboard, against a real Prometheus that scraped an exporter.

The exporter is real too, and so are the hooks that feed it (``played_fleet``).
"""

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import pytest

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
from tests.played_fleet import ROLES
from tests.support import (
    ROOT,
    Child,
    Exporter,
    Prometheus,
    clean_environment,
    eventually,
    python_for,
)


class Fleet:
    """An exporter, a Prometheus that scrapes it, and runs of each kind."""

    def __init__(self, directory: Path) -> None:
        self.exporter = Exporter(
            directory / "exporter",
            "tap.port=0",
            # Nobody is there; but what is sent somewhere has metrics.
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
                "EPISIGHT_NOTIFY_WEBHOOK_URL": "http://127.0.0.1:9/",
            },
        )
        self._directory = directory
        self._stop = directory / "stop"
        self._children: List[Child] = []
        self.exporter.start()
        self.prometheus = Prometheus(
            directory / "prometheus", [self.exporter.web], interval="200ms"
        )
        self.prometheus.wait_ready()
        for role in ROLES:
            self._play(role.__name__)

    def _play(self, role: str) -> None:
        env = clean_environment(self._directory / role, self.exporter.env)
        command = [
            python_for("3.11"),
            "-m",
            "tests.played_fleet",
            role,
            str(self._stop),
        ]
        log = self._directory / f"{role}.log"
        self._children.append(Child(command, log, env, ROOT))

    def stop(self) -> None:
        self._stop.touch()
        for child in self._children:
            child.wait()
        self.prometheus.stop()
        self.exporter.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    played = Fleet(tmp_path_factory.mktemp("fleet"))
    yield played
    played.stop()


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


def test_a_run_that_says_little_has_panels_with_data_or_a_reason(fleet: Fleet) -> None:
    found = dashboards()["run"]

    def silent() -> List[str]:
        looking = Looking(found, fleet.prometheus, run=["plain"])
        return [
            panel["title"]
            for panel, values in looking.shown()
            if not any(looking.points(target, values) for target in panel["targets"])
            and "noValue" not in panel["fieldConfig"]["defaults"]
        ]

    eventually(lambda: not silent(), 30.0, "no panel without a word")
    looking = Looking(found, fleet.prometheus, run=["plain"])
    assert looking.options["result"] == []
    assert looking.options["gauge"] == []


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
        return len(newest) == len(ROLES) and looking.options["run"] == newest

    eventually(chosen, 30.0, "runs, the newest first")


def test_the_table_says_how_each_run_came_out(fleet: Fleet) -> None:
    (table,) = [one for one in panels(dashboards()["fleet"]) if one["title"] == "Runs"]
    words = table["fieldConfig"]["overrides"][0]["properties"][1]["value"][0]["options"]

    def states() -> Dict[str, str]:
        looking = Looking(dashboards()["fleet"], fleet.prometheus)
        series = looking.points(table["targets"][0], looking.values)
        return {
            one["metric"]["run"]: words[one["values"][-1][1]]["text"] for one in series
        }

    expected = dict.fromkeys(("healthy", "plain", "counting", "monty"), "running")
    expected.update(ended="completed", failed="failed")
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
        "Starts": sorted(role.__name__ for role in ROLES),
        "Ends": ["ended"],
        "Failures": ["failed"],
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
