"""Grafana's dashboards and provisioning, as far as reading them says.

They are what the code makes, and as Grafana's schema has them; and they keep the rules
of its dashboard-linter. That queries have data is in ``test_grafana_queries``.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, Set

import pytest
import yaml
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.build.__main__ import FOLDER, plain, texts
from grafana.build.controls import PAGE
from tests.grafana_in_small import (
    TIMES,
    dashboards,
    expressions,
    names_in,
    panels,
    provisioned,
    replaced,
    variables,
)
from tests.support import ROOT, require

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
    *others, page = found["links"]
    assert page["url"] == "${page}"
    uids = {one["uid"] for one in dashboards().values()}
    led = {one["url"].split("?")[0].split("/")[2] for one in others}
    assert led == uids - {found["uid"]}
    for one in others:
        assert one["keepTime"] is True
        there = dashboards()[one["url"].split("?")[0].split("-")[1]]
        known = {variable["name"]: variable for variable in variables(there)}
        for kept in names_in(one["url"]):
            assert kept in known
            (mine,) = [v for v in variables(found) if v["name"] == kept]
            assert mine["includeAll"] <= known[kept]["includeAll"], kept
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
    (path,) = (ROOT / "grafana" / "provisioning" / "dashboards").glob("*.yml")
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
