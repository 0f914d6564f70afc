"""``docs/stack.md`` for a stack that is there: its very snippets, tried."""

import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping

import pytest
import yaml
from prometheus_client import start_http_server

import experiment_hooks as eh
from exporter.settings import Settings
from tests.grafana_in_small import Looking, dashboards, provisioned
from tests.stack import manifest, output_of
from tests.support import ROOT, Exporter, Prometheus, eventually, require


def snippets() -> List[Any]:
    text = (ROOT / "docs" / "stack.md").read_text()
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(block) for block in blocks]


def snippet(key: str) -> Iterator[Any]:
    """Those with this key at their top."""
    return (one for one in snippets() if key in one)


@pytest.fixture
def application() -> Iterator[str]:
    """Somebody else's metrics; host and port."""
    server, thread = start_http_server(0, addr="127.0.0.1")
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_three_steps_bring_it_into_a_stack_that_is_there(
    exporter_process: Callable[..., Exporter],
    prometheus_process: Callable[..., Prometheus],
    application: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    others = tmp_path / "others.yml"
    theirs = {"name": "theirs", "rules": [{"record": "app:up", "expr": "up == 1"}]}
    others.write_text(yaml.safe_dump({"groups": [theirs]}))
    job = {"job_name": "app", "static_configs": [{"targets": [application]}]}
    config: Dict[str, Any] = {
        "global": {"scrape_interval": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(others)],
        "scrape_configs": [job],
    }
    prometheus = prometheus_process(config=yaml.safe_dump(config))
    eventually(lambda: prometheus.value('app:up{job="app"}') == 1)

    exporter = exporter_process()
    (ours,) = next(snippet("scrape_configs"))["scrape_configs"]
    (rules,) = snippet("rule_files")
    address = exporter.web.split("//")[1]
    ours.update(scrape_interval="250ms", static_configs=[{"targets": [address]}])
    config["scrape_configs"].append(ours)
    (copied,) = rules["rule_files"]
    copy_of_rules(tmp_path)
    config["rule_files"].append(f"{tmp_path}{copied}")
    file = tmp_path / "prometheus_0" / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    prometheus.process.signal(signal.SIGHUP)
    for name, value in exporter.env.items():
        monkeypatch.setenv(name, value)
    with eh.open_run("e", run_id="mine") as run, run.episode() as ep:
        ep.step()
        eventually(lambda: prometheus.value('experiment_run_state{state="running"}'))
        eventually(lambda: prometheus.value("episight:exporter:up") == 1)
        assert prometheus.value('app:up{job="app"}') == 1
        groups = prometheus.api("rules", type="alert")["groups"]
        there = {rule["name"] for group in groups for rule in group["rules"]}
        assert len(there) == 13
        looking = Looking(dashboards()["fleet"], prometheus)
        assert looking.options["job"] == ["episight"]
        assert looking.options["run"] == ["mine"]


def copy_of_rules(root: Path) -> None:
    """As the second step says, below another root."""
    text = (ROOT / "docs" / "stack.md").read_text()
    (command,) = re.findall(r"`sudo (install .*?)`", text)
    _, _, target = command.partition(" -t ")
    command = command.replace(target, f"{root}{target}", 1)
    subprocess.run(["sh", "-c", command], cwd=ROOT, check=True)


def test_its_first_step_is_four_lines_for_an_exporter_as_it_starts() -> None:
    text = (ROOT / "docs" / "stack.md").read_text()
    (block,) = re.findall(r"^ +scrape_configs:\n( +- job_name.*?)^ +```", text, _LONG)
    assert len(block.splitlines()) == 4
    (job,) = next(snippet("scrape_configs"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{Settings().web.port}"]}]
    shipped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    (ours,) = shipped["scrape_configs"]
    assert job["job_name"] == ours["job_name"]
    # A rate in Grafana is over four scrapes.
    every = provisioned()["prometheus"]["jsonData"]["timeInterval"]
    assert job["scrape_interval"] == shipped["global"]["scrape_interval"] == every


_LONG = re.MULTILINE | re.DOTALL


def existing(tmp_path: Path, found: Mapping[str, Any]) -> None:
    """Have promtool check these in a configuration with another job and other rules."""
    (tmp_path / "others.yml").write_text("groups: []")
    config = {
        "rule_files": ["others.yml", f"{ROOT}/prometheus/rules/*.yml"],
        **found,
        "scrape_configs": [{"job_name": "node"}, *found.get("scrape_configs", [])],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    require(shutil.which("promtool"), "promtool is not installed")
    output_of("promtool", "check", "config", "--syntax-only", file)


def test_prometheus_takes_what_else_the_page_shows(tmp_path: Path) -> None:
    found = [*snippet("scrape_configs"), *snippet("remote_write")][1:]
    assert len(found) == 3
    for one in found:
        existing(tmp_path, one)


def test_the_collector_of_the_page_is_wired() -> None:
    (collector,) = snippet("receivers")
    named = {
        (kind, name)
        for pipeline in collector["service"]["pipelines"].values()
        for kind, names in pipeline.items()
        for name in names
    }
    there = {
        (kind, name) for kind in ("receivers", "exporters") for name in collector[kind]
    }
    assert named == there


def test_what_people_add_to_the_base_is_what_it_has() -> None:
    (own,) = snippet("kind")
    pods = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    (image,) = own["images"]
    assert pods[0]["image"] == f"{image['name']}:{image['newTag']}"
    assert (
        ROOT.parent / own["resources"][0].replace("../episight", ROOT.name)
    ).is_dir()
