"""The compose file, and what it starts the exporter with, as far as reading it says."""

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Set
from urllib.parse import unquote

import pytest
import yaml
from omegaconf import OmegaConf

from exporter import tokenfile
from exporter._version import version
from exporter.settings import Settings
from tests.grafana_in_small import provisioned
from tests.stack import DOCKERFILE, compose, manifest, output_of, tool
from tests.support import ROOT, Exporter, http

TEMPO = ROOT / "tempo" / "tempo.yml"


def example(text: str) -> Dict[str, str]:
    """The variables of ``.env.example``, those that are commented out too."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE))


def started(name: str) -> Set[str]:
    """A service and all that it waits for."""
    waits: Mapping[str, Any] = compose()["services"][name].get("depends_on", {})
    return {name}.union(*map(started, waits))


# --- the compose file ----------------------------------------------------------------


def test_the_compose_file_is_one() -> None:
    output_of(
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        ROOT / "docker-compose.yml",
    )


def published(services: Mapping[str, Any]) -> List[str]:
    return [port for one in services.values() for port in one.get("ports", [])]


def test_every_port_is_published_on_loopback() -> None:
    ports = published(compose()["services"])
    assert len(ports) == 5
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_ingest_is_published_on_loopback_whatever_is_said() -> None:
    services = compose(STACK_BIND="0.0.0.0", EPISIGHT_INGEST_PORT="6555")["services"]
    fixed = [port for port in published(services) if not port.startswith("0.0.0.0:")]
    assert fixed == ["127.0.0.1:6555:5555"]


def test_an_experiment_on_the_host_needs_no_setting() -> None:
    assert "127.0.0.1:5555:5555" in published(compose()["services"])


def test_every_image_is_pinned() -> None:
    images = [one["image"] for one in compose()["services"].values()]
    pods = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    images += [one["image"] for one in pods]
    images += re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.M)
    assert len(images) > 10
    assert [one for one in images if not re.search(r":v?\d+\.\d+", one)] == []


def test_our_own_images_have_our_version() -> None:
    images = [one["image"] for one in compose()["services"].values()]
    pods = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    images += [one["image"] for one in pods]
    ours = {one for one in images if one.startswith("episight-")}
    assert ours == {f"episight-exporter:{version}", f"episight-demo:{version}"}


def test_each_image_of_ours_is_built_by_one_service() -> None:
    services = compose()["services"].values()
    built = [one["image"] for one in services if "build" in one]
    assert sorted(built) == sorted({one for one in built if one.startswith("episight")})
    others = [one for one in services if "build" not in one and one["image"] in built]
    assert others
    assert {one["pull_policy"] for one in others} == {"never"}


def mounts() -> List[str]:
    return [
        mount
        for one in compose()["services"].values()
        for mount in one.get("volumes", [])
    ]


def test_what_is_mounted_is_there_for_reading_alone_and_labelled() -> None:
    bound = [mount.split(":") for mount in mounts() if mount.startswith(".")]
    assert len(bound) == 5
    assert [source for source, *_ in bound if not (ROOT / source).exists()] == []
    assert {options for *_, options in bound} == {"ro,z"}


def test_every_volume_is_a_named_one_and_used() -> None:
    used = {mount.split(":")[0] for mount in mounts() if not mount.startswith(".")}
    assert used == set(compose()["volumes"])


def test_files_that_are_named_in_commands_are_mounted() -> None:
    for name, path in (
        ("prometheus", ROOT / "prometheus"),
        ("alertmanager", ROOT / "prometheus" / "alertmanager"),
        ("tempo", ROOT / "tempo"),
    ):
        command = " ".join(compose()["services"][name]["command"])
        named = re.search(rf"config\.file=/etc/{name}/(\S+)", command)
        assert named, command
        assert (path / named[1]).is_file()


def test_addresses_in_the_configurations_are_those_of_services() -> None:
    texts = [
        (ROOT / "prometheus" / "prometheus.yml").read_text(),
        *(one.read_text() for one in (ROOT / "grafana/provisioning").glob("*/*.yml")),
    ]
    asked = re.findall(
        r"(?:http://|targets: \[\")([a-z]+):(\d+)",
        "\n".join(re.sub(r"#.*", "", text) for text in texts),
    )
    assert dict(asked) == {
        "exporter": "8000",
        "alertmanager": "9093",
        "prometheus": "9090",
        "tempo": "3200",
    }
    services = compose()["services"]
    assert set(dict(asked)) <= set(services)


def test_plain_up_is_everything_and_core_is_three_of_it() -> None:
    services = compose()["services"]
    plain = {name for name, one in services.items() if not one.get("profiles")}
    three = {"exporter", "prometheus", "grafana"}
    assert plain == {"setup", "alertmanager", "tempo"} | three
    assert started("core") == {"setup", "core"} | three
    assert started("demo") == {"setup", "exporter", "demo"}


def test_no_container_may_more_than_it_has_to() -> None:
    for name, one in compose()["services"].items():
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert not {"cap_add", "privileged", "user"} & set(one), name
        if one["image"].startswith("episight-"):
            assert (one["read_only"], one["tmpfs"]) == (True, ["/tmp"]), name


def test_each_waits_until_secrets_are_made_and_others_are_well() -> None:
    waits = {
        (name, other, how["condition"])
        for name, one in compose()["services"].items()
        for other, how in one.get("depends_on", {}).items()
    }
    assert waits == {
        ("exporter", "setup", "service_completed_successfully"),
        ("grafana", "setup", "service_completed_successfully"),
        ("prometheus", "exporter", "service_healthy"),
        ("grafana", "prometheus", "service_healthy"),
        ("core", "grafana", "service_healthy"),
        ("demo", "exporter", "service_healthy"),
    }


def test_each_that_has_a_page_is_asked_there_whether_it_is_well() -> None:
    services = compose()["services"]
    for name in ("prometheus", "alertmanager", "grafana"):
        _, _, port = services[name]["ports"][0].rpartition(":")
        command = services[name]["healthcheck"]["test"]
        assert f"http://127.0.0.1:{port}/" in " ".join(command)
    assert "healthcheck" not in services["exporter"]  # its image has one


def test_the_exporter_has_as_long_to_end_as_in_kubernetes() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    given = compose()["services"]["exporter"]["stop_grace_period"]
    assert given == f"{pod['terminationGracePeriodSeconds']}s"


def test_what_makes_the_secrets_ends_and_reaches_nobody() -> None:
    setup = compose()["services"]["setup"]
    assert (setup["restart"], setup["network_mode"]) == ("no", "none")
    assert setup["healthcheck"] == {"disable": True}


def test_grafana_reads_the_password_that_is_made_for_it_and_changes_none() -> None:
    setup, grafana = (compose()["services"][name] for name in ("setup", "grafana"))
    made = setup["environment"]["GRAFANA_PASSWORD_FILE"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == made
    assert f"grafana-secrets:{Path(made).parent}" in setup["volumes"]
    assert f"grafana-secrets:{Path(made).parent}:ro" in grafana["volumes"]


def test_what_each_writes_is_in_its_volume() -> None:
    services = compose()["services"]
    written = {
        "exporter": re.findall(r"JOURNAL_PATH=(\S+)", DOCKERFILE.read_text()),
        "tempo": re.findall(r"path: (/\S+)", TEMPO.read_text()),
    }
    for name in ("prometheus", "alertmanager"):
        command = " ".join(services[name]["command"])
        written[name] = re.findall(r"storage\S*path=(\S+)", command)
    for name, paths in written.items():
        kept = [one.split(":")[1] for one in services[name]["volumes"] if one[0] != "."]
        assert paths, name
        assert [path for path in paths if not path.startswith(tuple(kept))] == [], name


def test_grafana_has_its_files_where_the_page_says() -> None:
    page = (ROOT / "docs" / "grafana.md").read_text()
    said = dict(re.findall(r"^\| `(grafana/\w+)` \| `(/\S+)` \|", page, re.MULTILINE))
    bound = [one.split(":") for one in compose()["services"]["grafana"]["volumes"]]
    there = {one[0][2:]: one[1] for one in bound if one[0].startswith("./")}
    assert there == said


def test_what_is_sent_within_the_stack_arrives() -> None:
    services = compose()["services"]
    tempo = yaml.safe_load(TEMPO.read_text())
    taken = tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    sent = services["exporter"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert sent == taken.replace("0.0.0.0", "http://tempo")
    listens = tempo["server"]["http_listen_port"]
    assert provisioned()["tempo"]["url"] == f"http://tempo:{listens}"
    experiments = services["demo"]["environment"]["EPISIGHT_ENDPOINT"]
    (ingest,) = [one for one in services["exporter"]["ports"] if "5555" in one]
    assert experiments == f"tcp://exporter:{ingest.rpartition(':')[2]}"


def test_links_of_the_live_page_find_traces_in_grafana() -> None:
    link = of_compose()["EPISIGHT_LIVE_TRACE_URL"]
    assert unquote(link).count(f'"{provisioned()["tempo"]["uid"]}"') == 1
    assert link in (ROOT / "docs" / "grafana.md").read_text()


def test_traces_are_kept_for_as_long_as_links_look_back() -> None:
    tempo = yaml.safe_load(TEMPO.read_text())
    (days,) = re.findall(
        r'"now-(\d+)d"', unquote(of_compose()["EPISIGHT_LIVE_TRACE_URL"])
    )
    hours = f"{24 * int(days)}h"
    assert tempo["compactor"]["compaction"]["block_retention"] == hours
    # What comes late is filed under its own time for as long.
    assert tempo["storage"]["trace"]["wal"]["ingestion_time_range_slack"] == hours


def test_nothing_in_it_calls_home() -> None:
    grafana = compose()["services"]["grafana"]["environment"]
    asks = ("ANALYTICS_REPORTING", "NEWS_NEWS_FEED", "SNAPSHOTS_EXTERNAL")
    assert {grafana[f"GF_{name}_ENABLED"] for name in asks} == {"false"}
    checks = {name for name in grafana if name.startswith("GF_ANALYTICS_CHECK_")}
    assert len(checks) == 2
    assert {grafana[name] for name in checks} == {"false"}
    assert (
        yaml.safe_load(TEMPO.read_text())["usage_report"]["reporting_enabled"] is False
    )


def test_exemplars_are_kept() -> None:
    command = compose()["services"]["prometheus"]["command"]
    assert "--enable-feature=exemplar-storage" in command


def test_the_example_of_env_has_every_variable_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    named = example(text)
    asked = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    assert set(named) == set(asked)
    live = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert compose(**live) == compose()


def test_what_the_demo_runs_exists() -> None:
    (command,) = compose()["services"]["demo"]["command"]
    name = command.partition("=")[2]
    assert (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file()


# --- what they start the exporter with -----------------------------------------------


def of_compose() -> Dict[str, str]:
    given: Dict[str, str] = compose()["services"]["exporter"]["environment"]
    return {name: str(value or "") for name, value in given.items()}


def of_kubernetes() -> Dict[str, str]:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"]}


@pytest.mark.parametrize("environment", [of_compose, of_kubernetes])
def test_the_exporter_may_listen_to_its_network(
    environment: Callable[[], Dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    config = OmegaConf.load(ROOT / "conf" / "exporter.yaml")
    values: Any = OmegaConf.to_container(config, resolve=True)
    settings = Settings.of({key: values[key] for key in ("web", "ingest", "security")})
    assert (settings.web.host, settings.ingest.host) == ("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize(
    ("environment", "called"),
    [(of_compose, "exporter:8000"), (of_kubernetes, "episight:8000")],
)
def test_the_exporter_starts_with_it_and_answers_by_its_name(
    exporter_process: Callable[..., Exporter],
    environment: Callable[[], Dict[str, str]],
    called: str,
) -> None:
    given = environment()
    assert {given.pop("EPISIGHT_WEB_HOST"), given.pop("EPISIGHT_INGEST_HOST")} == {
        "0.0.0.0"
    }
    given.pop("EPISIGHT_JOURNAL_PATH", None)
    exporter = exporter_process(
        env={**given, "EPISIGHT_TRACES_ENDPOINT": "none"},
    )
    page = exporter.web + "/metrics"
    assert http(page, headers={"Host": called}).status == 200
    assert http(page, headers={"Host": "elsewhere:8000"}).status == 403


# --- the first start -----------------------------------------------------------------


def first_start(folder: Path) -> str:
    return output_of(
        "env",
        f"EPISIGHT_JOURNAL_PATH={folder}/journal.sqlite",
        f"GRAFANA_PASSWORD_FILE={folder}/grafana-password",
        "PAGE_URL=http://127.0.0.1:8000",
        "GRAFANA_URL=http://127.0.0.1:3000",
        sys.executable,
        ROOT / "deploy" / "first_start.py",
    )


def test_secrets_are_made_and_printed_once(tmp_path: Path) -> None:
    first, second = first_start(tmp_path), first_start(tmp_path)
    token = (tmp_path / "token").read_text().strip()
    password = (tmp_path / "grafana-password").read_text().strip()
    assert f"http://127.0.0.1:8000/?token={token}" in first
    assert f"password: {password}" in first
    assert token != password
    assert min(len(token), len(password)) >= 32
    assert "http://127.0.0.1:8000/\n" in second
    assert token not in second
    assert password not in second
    assert sorted(os.listdir(tmp_path)) == ["grafana-password", "token"]


def test_the_token_is_the_exporters_and_the_password_is_readable_to_grafana(
    tmp_path: Path,
) -> None:
    first_start(tmp_path)
    settings = Settings.of({"journal": {"path": str(tmp_path / "journal.sqlite")}})
    assert tokenfile.find(settings, {}).text == (tmp_path / "token").read_text().strip()
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "grafana-password").stat().st_mode) == 0o444
