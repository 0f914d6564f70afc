"""Grafana's dashboards and provisioning, as far as reading them says.

They are what the code makes, and as Grafana's schema has them; and they keep the rules
of its dashboard-linter. That queries have data is in ``test_e2e_fleet``.
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

from exporter.verdict import STATES
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
from tests.test_docs import documented_metrics

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
    "recps", "dateTimeFromNow", "dateTimeAsLocal", "string",
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
def test_units_are_those_of_what_is_measured(name: str) -> None:
    for panel in panels(dashboards()[name]):
        config = panel["fieldConfig"]["defaults"]
        unit = config["unit"]
        if panel["type"] == "heatmap":
            unit = panel["options"]["yAxis"]["unit"]
        if panel["title"].startswith("Accuracy"):
            assert unit == "percentunit", panel["title"]
        drawn = panel["type"] in ("timeseries", "bargauge")
        if drawn:
            assert (unit == "percentunit") == (config.get("max") == 1), panel["title"]
        for target in panel["targets"] if drawn or panel["type"] == "heatmap" else ():
            expr = target["expr"]
            assert ("_bytes{" in expr) == (unit == "bytes"), panel["title"]
            buckets = re.search(r"\b(\w+)_bucket{", expr)
            if buckets:
                of_time = buckets[1].endswith("_seconds")
                assert unit == ("s" if of_time else "short"), panel["title"]


@each
def test_quantiles_are_called_what_they_are(name: str) -> None:
    for panel in panels(dashboards()[name]):
        for target in panel["targets"]:
            found = re.search(r"histogram_quantile\(([\d.]+),", target.get("expr", ""))
            if found:
                legend = target["legendFormat"]
                named = re.search(r"half$|[\d.]+ %$", legend) or re.search(
                    r"half$|[\d.]+ %$", panel["title"]
                )
                assert named, panel["title"]
                called = "half" if found[1] == "0.5" else f"{float(found[1]):.0%}"
                assert named[0].replace(" ", "") == called


@each
def test_heatmaps_of_episodes_have_marks_that_lead_to_traces(name: str) -> None:
    maps = [one for one in panels(dashboards()[name]) if one["type"] == "heatmap"]
    assert all(one["targets"][0]["exemplar"] for one in maps)
    if name == "run":
        asked = " ".join(one["targets"][0]["expr"] for one in maps)
        for metric in ("episode_duration_seconds", "episode_steps"):
            assert f"experiment_{metric}_bucket" in asked


def test_each_metric_is_on_a_dashboard() -> None:
    asked = " ".join(
        expr for found in dashboards().values() for _, expr in expressions(found)
    )
    shown = set(re.findall(r"\b((?:experiment|episight)_\w+?)(?:_bucket)?{", asked))
    assert set(documented_metrics()) - shown == {"experiment_episode_result_last"}


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
            windows = {"$__rate_interval"}  # of a step
            if function not in counters:
                windows.add("$__range")
            assert window in windows, f"{place}: {expr}"


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


# --- what Grafana makes of it --------------------------------------------------------


@each
def test_variables_of_several_values_are_compared_as_patterns(name: str) -> None:
    found = dashboards()[name]
    several = {one["name"] for one in variables(found) if one.get("multi")}
    for place, expr in expressions(found):
        compared = re.findall(r"(!?=~?)\"([^\"]*\$[^\"]*)\"", expr)
        for how, with_what in compared:
            if several & set(names_in(with_what)):
                assert how in ("=~", "!~"), f"{place}: {expr}"


@each
def test_columns_are_called_as_grafana_calls_the_values(name: str) -> None:
    for panel in panels(dashboards()[name]):
        if panel["type"] != "table" or panel["datasource"]["type"] != "prometheus":
            continue
        refs = [target["refId"] for target in panel["targets"]]
        values = {f"Value #{ref}" for ref in refs} if len(refs) > 1 else {"Value"}
        _, organize = panel["transformations"]
        names, left_out = (
            organize["options"][key] for key in ("renameByName", "excludeByName")
        )
        assert values <= set(names) | set(left_out), panel["title"]
        assert not {one for one in names if one.startswith("Value")} - values
        labels = set(names) - values
        for target in panel["targets"]:
            assert all(label in target["expr"] for label in labels - {"experiment"})
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] == "byName":
                assert override["matcher"]["options"] in names.values()


@each
def test_tables_take_names_for_text_and_have_no_words_in_empty_cells(name: str) -> None:
    for panel in panels(dashboards()[name]):
        if panel["type"] == "table":
            config = panel["fieldConfig"]
            assert config["defaults"]["unit"] == "string"
            assert config["defaults"]["noValue"]
            first = config["overrides"][0]
            assert first["matcher"] == {"id": "byRegexp", "options": ".*"}
            assert first["properties"] == [{"id": "noValue", "value": "–"}]


def test_promtool_takes_each_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (Debian: apt install prometheus)")
    every = [
        {"record": f"r:{number}", "expr": replaced(expr, TIMES)}
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


@each
def test_a_line_of_a_run_leads_to_the_run(name: str) -> None:
    for panel in panels(dashboards()[name]):
        legends = [one.get("legendFormat", "") for one in panel["targets"]]
        if panel["type"] == "timeseries" and all("{{run}}" in one for one in legends):
            there, page = panel["fieldConfig"]["defaults"]["links"]
            assert there["url"].startswith("/d/episight-run?"), panel["title"]
            assert page["url"].startswith("${page}/runs/"), panel["title"]


@pytest.mark.parametrize("name", sorted(WITHOUT_INSTANCE))
def test_what_becomes_of_runs_is_marked(name: str) -> None:
    marks = dashboards()[name]["annotations"]["list"]
    assert [one["name"] for one in marks] == ["Starts", "Ends", "Failures"]
    assert all(one["enable"] for one in marks)


@pytest.mark.parametrize("name", ["fleet", "run"])
def test_verdicts_are_drawn_over_time(name: str) -> None:
    (drawn,) = [
        one for one in panels(dashboards()[name]) if one["type"] == "state-timeline"
    ]
    assert drawn["targets"][0]["expr"].count("experiment_run_state{") == len(STATES)
    (words,) = drawn["fieldConfig"]["defaults"]["mappings"]
    assert {one["text"] for one in words["options"].values()} == set(STATES)
    # Where nothing is wrong there is no red.
    red = {one["text"] for one in words["options"].values() if "red" in one["color"]}
    assert red == {"failed", "lost"}


def test_links_of_alerts_choose_what_the_dashboards_have() -> None:
    by_uid = {one["uid"]: one for one in dashboards().values()}
    asked = 0
    for path in (ROOT / "prometheus" / "rules").glob("*.yml"):
        for url in re.findall(r"dashboard: (http\S+)", path.read_text()):
            uid, _, query = url.split("/d/")[1].partition("?")
            known = {f"var-{one['name']}" for one in variables(by_uid[uid])}
            chosen = set(re.findall(r"var-\w+(?==)", query))
            assert chosen <= known
            asked += len(chosen)
    assert asked > 5


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
            assert ("status = error" in target["query"]) == ("Failed" in panel["title"])
            patterns = re.findall(r"`\$\{\w+(:\w+)?\}`", target["query"])
            assert set(patterns) == {":regex"}, panel["title"]
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
