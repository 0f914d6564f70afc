"""The rules and configurations that ship: by their own tools, and against the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import names
from tests.fleet import SHIPPED, alertmanager_command
from tests.stack import output_of, tool
from tests.support import ROOT, Child, clean_environment, eventually, free_port, http
from tests.test_docs import documented_metrics, section, slug

RULES = sorted((SHIPPED / "rules").glob("*.yml"))
TESTS = sorted((SHIPPED / "tests").glob("*.yml"))
DASHBOARDS = {"episight-run", "episight-exporter"}


def groups() -> list[dict[str, Any]]:
    return [
        group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]
    ]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def check(name: str, *arguments: object) -> None:
    output_of(tool(name), *arguments)


def test_the_configurations_are_valid() -> None:
    check("promtool", "check", "config", SHIPPED / "prometheus.yml")
    check("promtool", "check", "rules", *RULES)
    check("amtool", "check-config", SHIPPED / "alertmanager/alertmanager.yml")


def test_the_examples_of_receivers_are_valid(tmp_path: Path) -> None:
    text = (SHIPPED / "alertmanager/alertmanager.yml").read_text()
    before, people, rest = re.split(r"(?<=- name: people\n)|(?=\n# A label)", text)
    told = re.sub(r"^    # ", "    ", people, flags=re.MULTILINE)
    file = tmp_path / "alertmanager.yml"
    file.write_text(before + told + rest)
    (_, receiver) = yaml.safe_load(file.read_text())["receivers"]
    assert {"webhook_configs", "email_configs", "slack_configs"} < set(receiver)
    check("amtool", "check-config", file)


def test_an_alertmanager_that_is_there_takes_what_the_page_shows(
    tmp_path: Path,
) -> None:
    shipped = yaml.safe_load((SHIPPED / "alertmanager/alertmanager.yml").read_text())
    shown = yaml.safe_load(section("docs/alerts.md", "Where they go").code("yaml"))
    assert shown["inhibit_rules"] == shipped["inhibit_rules"]
    (ours,) = shown["route"]["routes"]
    assert ours["group_by"] == shipped["route"]["group_by"]
    assert ours["routes"] == shipped["route"]["routes"]
    theirs = {"receiver": "theirs", "routes": [{"receiver": "lab"}]}
    shown["route"] = {**theirs, "routes": [*theirs["routes"], ours]}
    shown["receivers"] += [{"name": "theirs"}, {"name": "lab"}]
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump(shown))
    check("amtool", "check-config", file)


def test_links_can_lead_elsewhere(tmp_path: Path) -> None:
    prose = section("docs/alerts.md", "To change them").prose
    (command,) = re.findall(r"^    (sed .*\n .*)$", prose, re.MULTILINE)
    copy = tmp_path / "prometheus" / "rules"
    shutil.copytree(SHIPPED / "rules", copy)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    check("promtool", "check", "rules", *copy.glob("*.yml"))
    changed = [path.read_text() for path in copy.glob("*.yml")]
    assert all("https://grafana.lab.example/d/" in text for text in changed)
    assert all("https://wiki.lab.example/alerts#" in text for text in changed)
    assert not any("127.0.0.1" in text or " docs/" in text for text in changed)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_each_alert_fires_when_it_should_and_not_otherwise(path: Any) -> None:
    check("promtool", "test", "rules", path)


def test_each_alert_is_tested_both_ways() -> None:
    fires, does_not = set(), set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                (fires if case.get("exp_alerts") else does_not).add(case["alertname"])
    assert fires == does_not == set(alerts())


def test_each_metric_of_the_rules_exists() -> None:
    known = set(documented_metrics()) | {rule.get("record") for rule in rules()}
    known |= {
        f"{name}_count"
        for name, (kind, _) in names.RUN_FAMILIES.items()
        if kind == "histogram"
    }
    used = {
        name
        for rule in rules()
        for name in re.findall(r"\b(?:experiment_|episight[_:])[\w:]+", rule["expr"])
    }
    assert used - known == set()


def test_each_threshold_stands_at_the_head_and_is_used() -> None:
    texts = [path.read_text() for path in RULES]
    for text in texts:
        head, body = text.split("\n\n  - name:", 1)
        for line in re.findall(r"- \{record.*threshold.*", head):
            name = re.search(r"episight:threshold:\w+", line)
            hold = re.search(r"&(\w+)", line)
            assert name, line
            used = f"({name[0]})" in body or (hold and f"for: *{hold[1]}\n" in body)
            assert used, line
            assert hold is None or f"for: *{hold[1]}\n" in body, line
        assert not re.search(r"for: \d", body)


def test_each_alert_says_what_it_is_and_leads_on() -> None:
    for name, rule in alerts().items():
        said = rule["annotations"]
        links = {"runbook_url", "dashboard"}
        if "run" in said["summary"].lower().split():
            links.add("page")
            page = "http://127.0.0.1:8000/runs/{{ $labels.run | urlquery }}"
            assert said["page"] == page
        assert set(said) == {"summary", "description"} | links
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert section("docs/alerts.md", name).prose.strip()
        assert said["runbook_url"] == f"docs/alerts.md#{slug(name)}"
        found = re.search(r"/d/([\w-]+)", said["dashboard"])
        assert found
        assert found[1] in DASHBOARDS
        if found[1] == "episight-run":
            assert "?var-run={{ $labels.run | urlquery }}&from=" in said["dashboard"]


def test_the_table_of_the_page_is_of_all_alerts() -> None:
    prose = section("docs/alerts.md", "").prose
    found = re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| (\w+) \|", prose, re.MULTILINE)
    expected = [(name, rule["labels"]["severity"]) for name, rule in alerts().items()]
    assert sorted(found) == sorted(expected)


# --- Alertmanager --------------------------------------------------------------------


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """A real one, with what ships; where its alerts are."""
    config = tmp_path / "alertmanager.yml"
    shutil.copy(SHIPPED / "alertmanager/alertmanager.yml", config)
    address = f"127.0.0.1:{free_port()}"
    command = alertmanager_command(config, address)
    child = Child(command, tmp_path / "log", clean_environment(tmp_path), ROOT)
    eventually(lambda: http(f"http://{address}/-/ready").status == 200, 20.0)
    yield f"http://{address}/api/v2/alerts"
    child.stop()


def fire(alertmanager: str, run: str, *names: str, instance: str = "a") -> None:
    labels = {"instance": instance, "experiment": "e", "run": run}
    fired = [
        {
            "labels": {
                **labels,
                "alertname": f"Episight{name}",
                "severity": alerts()[f"Episight{name}"]["labels"]["severity"],
            }
        }
        for name in names
    ]
    head = {"Content-Type": "application/json"}
    sent = http(alertmanager, "POST", json.dumps(fired).encode(), head)
    assert sent.status == 200, sent.text


SLOW = ("ThroughputRegressed", "NoProgressTowardsTotal")
IN_TROUBLE = ("RunStalled", "SourceLost", "FailureRatioHigh", *SLOW)


def test_of_a_run_that_is_lost_or_stalls_nothing_is_said_that_follows(
    alertmanager: str,
) -> None:
    fire(alertmanager, "lost", "RunLost", *IN_TROUBLE)
    fire(alertmanager, "lost", *IN_TROUBLE[1:], instance="b")
    fire(alertmanager, "stalled", *IN_TROUBLE)
    fire(alertmanager, "slow", *SLOW)

    def suppressed() -> set[tuple[str, str, str]]:
        found = json.loads(http(alertmanager).text)
        return {
            (
                one["labels"]["instance"],
                one["labels"]["run"],
                one["labels"]["alertname"],
            )
            for one in found
            if one["status"]["inhibitedBy"]
        }

    expected = {("a", "lost", f"Episight{name}") for name in IN_TROUBLE}
    expected |= {("a", "stalled", f"Episight{name}") for name in SLOW}
    eventually(lambda: suppressed() == expected, 20.0, "those that follow")


def test_there_is_one_message_a_run_and_none_that_it_is_done(alertmanager: str) -> None:
    fire(alertmanager, "one", "RunStalled", "SourceLost")
    fire(alertmanager, "another", "RunFailed")
    fire(alertmanager, "done", "RunFinished")

    def messages() -> list[tuple[str, str, int]]:
        groups = json.loads(http(f"{alertmanager}/groups").text)
        return sorted(
            (one["receiver"]["name"], one["labels"]["run"], len(one["alerts"]))
            for one in groups
        )

    expected = [("nowhere", "done", 1), ("people", "another", 1), ("people", "one", 2)]
    eventually(lambda: messages() == expected, 20.0, "a message for each")


def test_what_inhibits_and_is_inhibited_exists() -> None:
    text = (SHIPPED / "alertmanager/alertmanager.yml").read_text()
    inhibits = yaml.safe_load(text)["inhibit_rules"]
    matchers = [
        matcher
        for rule in inhibits
        for key in ("source_matchers", "target_matchers")
        for matcher in rule[key]
    ]
    wanted = re.findall(r"[A-Z]\w+", " ".join(matchers).replace("Episight", " "))
    assert wanted
    named = [alerts()[f"Episight{name}"] for name in wanted]
    # A label that both lack is equal to Alertmanager: all of them are of a run.
    assert all("{{ $labels.run }}" in one["annotations"]["summary"] for one in named)
    assert {tuple(rule["equal"]) for rule in inhibits} == {
        ("instance", "experiment", "run")
    }
