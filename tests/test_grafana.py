"""Grafana's dashboards and provisioning, without a Grafana: four checks.

They are what the code makes; they are as Grafana's schema has them; they keep the rules
of its dashboard-linter; and each query has data in a real Prometheus that has scraped a
real exporter.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import pytest
import yaml
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.build.__main__ import FOLDER, plain, texts
from grafana.build.parts import PAGE
from tests.grafana_in_small import (
    TIMES,
    Json,
    Looking,
    dashboards,
    eventually_full,
    expressions,
    names_in,
    panels,
    replaced,
    variables,
)
from tests.played_fleet import ROLES
from tests.support import (
    ROOT,
    Child,
    Exporter,
    Prometheus,
    clean_environment,
    eventually,
    require,
)

PROVISIONING = ROOT / "grafana" / "provisioning"
NAMES = sorted(dashboards())
each = pytest.mark.parametrize("name", NAMES)

register_default_plugins()


# --- what is committed ---------------------------------------------------------------


def test_the_files_are_what_the_code_makes() -> None:
    made = texts()
    there = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert sorted(there) == sorted(made)
    old = [name for name, text in made.items() if there[name] != text]
    assert old == [], "run: python -m grafana.build"


@each
def test_the_sdk_understands_all_of_it(name: str) -> None:
    committed = dashboards()[name]
    assert plain(Dashboard.from_json(committed)) == committed


def test_an_address_of_the_page_can_be_built_in() -> None:
    made = texts("https://lab.example")
    assert set(made) == set(texts())
    assert not [name for name, text in made.items() if PAGE in text]
    assert all('"https://lab.example"' in text for text in made.values())


# --- the rules of the dashboard-linter -----------------------------------------------

UNITS = {
    "none", "short", "s", "percentunit", "bytes", "degree", "dtdurations", "cps", "mps",
    "recps", "dateTimeFromNow", "dateTimeAsLocal",
}  # fmt: skip
"""Those that are used, out of Grafana's list of units."""

WITHOUT_INSTANCE = {"fleet", "run", "monty", "episodes"}
"""The linter wants a matcher for ``instance``. Runs are not of one: their exporter may
have moved, and its address says nothing about them. They have matchers for ``run``."""


@each
def test_it_can_be_provisioned_as_it_is(name: str) -> None:
    found = dashboards()[name]
    assert found["id"] is None
    assert found["uid"] == f"episight-{name}"
    assert found["title"].startswith("Episight / ")
    assert found["description"]
    assert found["editable"] is False
    assert found["tags"] == ["episight"]
    shown = [*panels(found), *(p for p in found["panels"] if p["type"] == "row")]
    assert len({panel["id"] for panel in shown}) == len(shown)


@each
def test_no_panel_lies_on_another(name: str) -> None:
    taken: Set[Any] = set()
    for panel in dashboards()[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y)
            for x in range(place["w"])
            for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@each
def test_the_data_source_can_be_chosen_and_is_the_same_everywhere(name: str) -> None:
    found = dashboards()[name]
    first = variables(found)[0]
    assert (first["name"], first["type"]) == ("datasource", "datasource")
    chosen = {"prometheus": "${datasource}", "tempo": "${traces}"}
    parts = [*panels(found), *found["annotations"]["list"]]
    parts += [target for panel in panels(found) for target in panel["targets"]]
    parts += [one for one in variables(found) if one["type"] == "query"]
    assert len(parts) > 10
    for part in parts:
        assert part["datasource"]["uid"] == chosen[part["datasource"]["type"]]


@each
def test_variables_of_queries_follow_the_time_range(name: str) -> None:
    for variable in variables(dashboards()[name]):
        assert variable["label"]
        assert variable["description"]
        if variable["type"] == "query":
            assert (variable["refresh"], variable["multi"]) == (2, True)


@each
def test_each_panel_says_what_it_shows_in_which_unit(name: str) -> None:
    titles = []
    for panel in panels(dashboards()[name]):
        titles.append(panel["title"])
        assert titles[-1]
        assert panel["description"].endswith("."), titles[-1]
        defaults = panel["fieldConfig"]["defaults"]
        used = [defaults["unit"]]
        if panel["type"] == "heatmap":
            used.append(panel["options"]["yAxis"]["unit"])
        for override in panel["fieldConfig"]["overrides"]:
            changed = {one["id"]: one["value"] for one in override["properties"]}
            used.append(changed.get("unit", "none"))
        assert set(used) <= UNITS, panel["title"]
    assert len(set(titles)) == len(titles)


@each
def test_each_series_in_a_legend_has_a_name(name: str) -> None:
    for panel in panels(dashboards()[name]):
        for target in panel["targets"]:
            if panel["type"] == "table":
                continue
            legend = target["legendFormat"]
            assert legend != "__auto" or panel.get("repeat"), panel["title"]
            for label in re.findall(r"{{(\w+)}}", legend):
                assert label in target["expr"] or label == "le", panel["title"]


@each
def test_rates_are_over_the_interval_that_grafana_finds(name: str) -> None:
    for place, expr in expressions(dashboards()[name]):
        for function, window in re.findall(r"(\w+) ?\([^()]*\[([^\]]+)\]", expr):
            counters = {"rate", "increase", "irate", "delta"}
            wanted = "$__rate_interval" if function in counters else "$__range"
            assert window == wanted, f"{place}: {expr}"


@each
def test_each_selector_says_of_which_exporter_and_which_runs(name: str) -> None:
    for place, expr in expressions(dashboards()[name]):
        if place in ("variable job",):
            continue
        matchers = re.findall(r"\{([^{}]*=[^{}]*)\}", re.sub(r"\$\{\w+\}", "x", expr))
        assert matchers, f"{place}: {expr}"
        for one in matchers:
            assert 'job=~"$job"' in one, f"{place}: {expr}"
            if name == "exporter" and place != "variable instance":
                assert 'instance=~"$instance"' in one, f"{place}: {expr}"
            of_runs = name in WITHOUT_INSTANCE and place not in _BEFORE_RUNS
            if of_runs and one != 'job=~"$job"':
                assert 'run=~"$run"' in one, f"{place}: {expr}"


_BEFORE_RUNS = ("variable experiment", "variable run")


@each
def test_variables_are_there_and_come_in_the_order_of_their_use(name: str) -> None:
    found = dashboards()[name]
    known = set(TIMES)
    for variable in variables(found):
        assert set(names_in(json.dumps(variable.get("query", "")))) <= known
        known.add(variable["name"])
    for _, expr in expressions(found):
        assert set(names_in(expr)) <= known, expr
    used = set(names_in(json.dumps(found["panels"]))) | set(
        names_in(str(found["links"]))
    )
    used |= {name for v in variables(found) for name in names_in(str(v.get("query")))}
    assert known - set(TIMES) - used == set()
    assert {one for one in used - known if not one.startswith("__")} == set()


def test_promtool_takes_each_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (Debian: apt install prometheus)")
    values = {**TIMES, "max_series": "10"}
    every = [
        {"record": f"r:{number}", "expr": replaced(expr, values)}
        for number, (_, expr) in enumerate(
            pair for found in dashboards().values() for pair in expressions(found)
        )
    ]
    rules = {"groups": [{"name": "all", "rules": every}]}
    (tmp_path / "rules.yml").write_text(json.dumps(rules))
    checked = subprocess.run(
        [str(promtool), "check", "rules", "--lint=none", str(tmp_path / "rules.yml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert f"{len(every)} rules found" in checked.stdout


# --- links ---------------------------------------------------------------------------


def links(part: Any) -> Iterator[str]:
    """All addresses in it."""
    if isinstance(part, dict):
        if "url" in part:
            yield part["url"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from links(one)


@each
def test_each_dashboard_leads_to_the_others_and_to_the_page(name: str) -> None:
    found = dashboards()[name]
    others, page = found["links"]
    assert (others["type"], others["tags"]) == ("dashboards", ["episight"])
    assert (others["includeVars"], others["keepTime"]) == (True, True)
    assert page["url"] == "${page}"
    uids = {one["uid"] for one in dashboards().values()}
    for url in links(found["panels"]):
        if url.startswith("/d/"):
            assert url.split("?")[0].split("/")[2] in uids
        else:
            assert re.match(r"\$\{page\}/runs/\$\{[\w.]+:percentencode\}", url), url


# --- Tempo ---------------------------------------------------------------------------


def attributes_of_spans() -> Dict[str, Any]:
    """All attributes that the exporter's spans may have, with a value of each."""
    from experiment_hooks import wire
    from exporter.traces import EpisodeTrace, spans

    episode = wire.EpisodeEnded(
        "run", b"\1" * 16, 1, 0.0, 0, "eval", 0.0, 1.0, 5, "correct",
        epoch=1, index=3, target="mug", seed=7, success=True,
        phases=(wire.PhaseSpan("reach", 0.0, 0.5, 3),),
        error=wire.ErrorInfo("ValueError", "it broke", ""),
    )  # fmt: skip
    made = spans(EpisodeTrace("run", "run", "grasping", episode))
    return {key: value for span in made for key, value in span.attributes.items()}


def test_traces_are_searched_by_what_spans_have() -> None:
    known = {f"span.{name}" for name in attributes_of_spans()}
    asked = 0
    for panel in panels(dashboards()["episodes"]):
        for target in panel["targets"]:
            if panel["datasource"]["type"] != "tempo":
                continue
            asked += 1
            assert target["queryType"] == "traceql"
            said = set(re.findall(r"\bspan\.[\w.]+", target["query"]))
            assert said
            assert said <= known, panel["title"]
            assert target["query"].count("{") == target["query"].count("}")
    assert asked == 3


def test_without_tempo_all_others_have_nothing_to_miss() -> None:
    for name, found in dashboards().items():
        kinds = {panel["datasource"]["type"] for panel in panels(found)}
        assert kinds == {"prometheus"} or name == "episodes"
    rows = [
        p["title"] for p in dashboards()["episodes"]["panels"] if p["type"] == "row"
    ]
    assert rows == ["All episodes", "Their traces (needs Tempo)"]


# --- provisioning --------------------------------------------------------------------


def provisioned() -> Dict[str, Json]:
    """The data sources, by their type."""
    found = {}
    for path in (PROVISIONING / "datasources").glob("*.yml"):
        for one in yaml.safe_load(path.read_text())["datasources"]:
            found[one["type"]] = one
    return found


def test_exemplars_lead_to_tempo_and_traces_back_to_metrics() -> None:
    prometheus, tempo = provisioned()["prometheus"], provisioned()["tempo"]
    assert (prometheus["uid"], tempo["uid"]) == (
        "episight-prometheus",
        "episight-tempo",
    )
    (exemplars,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplars["datasourceUid"] == tempo["uid"]
    assert exemplars["name"] == "trace_id"
    back = tempo["jsonData"]["tracesToMetrics"]
    assert back["datasourceUid"] == prometheus["uid"]
    known = set(attributes_of_spans())
    assert {tag["key"] for tag in back["tags"]} <= known


def test_the_dashboards_are_provided_from_a_folder() -> None:
    (path,) = (PROVISIONING / "dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_the_page_says_what_there_is() -> None:
    page = (ROOT / "docs" / "grafana.md").read_text()
    for found in dashboards().values():
        assert f"| **{found['title'].split(' / ')[1]}** |" in page
    for source in provisioned().values():
        assert f"`{source['uid']}`" in page
        assert f"`{source['url']}`" in page
    assert "`/var/lib/grafana/dashboards`" in page


# --- against a real Prometheus -------------------------------------------------------


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
        from tests.support import python_for

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
