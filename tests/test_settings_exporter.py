"""The exporter's settings: one table, the same in the file, the code and the design."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from exporter.settings import OUR_VIEWS, Settings, SettingsError, ViewSettings
from tests.support import ROOT, clean_environment, free_port

CONF = ROOT / "conf"

# The keys of the design's contract that this exporter has.
PROMISED = """
    web.host web.port ingest.host ingest.port run.grace_seconds journal.path
    journal.retention_days metrics.max_series metrics.max_series_per_run
    metrics.grace_seconds verdict.lost_seconds verdict.promise_floor_seconds
    tap.port traces.endpoint live.trace_url security.insecure security.token_file
""".split()


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def composed(*overrides: str) -> Settings:
    """The settings that Hydra composes of our file and these overrides."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("exporter", overrides=list(overrides))
    return Settings.of(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def in_code() -> dict[str, Any]:
    return dict(flat(dataclasses.asdict(Settings())))


def in_file() -> list[str]:
    config = OmegaConf.load(CONF / "exporter.yaml")
    keys = OmegaConf.to_container(config, resolve=False)
    assert isinstance(keys, dict)
    return [
        key
        for key, _ in flat({str(k): v for k, v in keys.items()})
        if not key.startswith(("hydra.", "defaults"))
    ]


def test_hydra_shows_all_settings_as_they_are_resolved() -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("exporter")
    values = OmegaConf.to_container(config, resolve=True)
    OmegaConf.resolve(config)  # as `--cfg job --resolve` does
    assert OmegaConf.to_container(config) == values


def test_every_key_of_the_file_is_a_setting_and_the_other_way_round() -> None:
    assert sorted(in_file()) == sorted(in_code())


def test_every_promised_key_is_a_setting() -> None:
    assert set(PROMISED) <= set(in_code())


def test_the_file_says_what_the_code_has_by_default() -> None:
    found = dict(flat(dataclasses.asdict(composed())))
    expected = in_code()
    # Where a user's state belongs, and not beside where it was started.
    assert found == expected


OTHERS = {
    "web.public_url": "https://elsewhere",
    "notify.webhook_url": "https://elsewhere",
    "notify.states": "lost",
}


def other(key: str, value: Any) -> str:
    """Another value of the same kind than the default."""
    if key in OTHERS:
        return OTHERS[key]
    if isinstance(value, bool):
        return "true"
    return "7" if value is None or isinstance(value, (int, float)) else "elsewhere"


VIEWS = "{arm: {match: 'reach*', templates: /t, _target_: mine.Arm, links: 2}}"


def test_views_of_ones_own_come_by_the_command_line_and_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = (("links", 2),)
    expected = (ViewSettings("arm", "reach*", "/t", "mine.Arm", options), *OUR_VIEWS)
    assert composed(f"live.views={VIEWS}").live.views == expected
    monkeypatch.setenv("EPISIGHT_LIVE_VIEWS", VIEWS)
    assert composed().live.views == expected
    other = composed("live.views={all: {templates: /u}}").live.views
    assert other == (ViewSettings("all", "*", "/u"), *OUR_VIEWS)


def test_a_view_of_ours_is_replaced_or_switched_off_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [one.name for one in OUR_VIEWS] == ["monty"]
    replaced = composed("live.views={monty: {match: m*, templates: /t}}").live.views
    assert replaced == (ViewSettings("monty", "m*", "/t"),)
    assert composed("live.views={monty: null}").live.views == ()
    monkeypatch.setenv("EPISIGHT_LIVE_VIEWS", "{monty: null}")
    assert composed().live.views == ()


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("reach", "give live.views.arm.match"),
        ({"match": "a*"}, "live.views.arm changes nothing"),
        ({"templates": "/t", "matches": "a"}, "unknown setting live.views.arm.matches"),
        ({"_target_": "Arm"}, "give module.Class"),
        ({"_target_": "a b.Arm"}, "give module.Class"),
    ],
)
def test_a_view_that_cannot_be_is_told(view: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        Settings.of({"live": {"views": {"arm": view}}})


@pytest.mark.parametrize("key", sorted(in_code().keys() - {"live.views"}))
def test_each_can_be_set_by_the_command_line_and_by_an_environment_variable(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = other(key, in_code()[key])
    insecure = "security.insecure=true"
    found = dict(flat(dataclasses.asdict(composed(f"{key}={text}", insecure))))[key]
    shown = ",".join(found) if isinstance(found, tuple) else str(found)
    assert shown.lower().removesuffix(".0") == text
    monkeypatch.setenv("EPISIGHT_" + key.upper().replace(".", "_"), text)
    assert dict(flat(dataclasses.asdict(composed(insecure))))[key] == (
        True if key == "security.insecure" else found
    )
    monkeypatch.setenv("EPISIGHT_SECURITY_INSECURE", "true")
    assert dict(flat(dataclasses.asdict(composed())))[key] == found


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.evil.org", ""]
)
@pytest.mark.parametrize("group", ["web", "ingest"])
def test_beyond_loopback_it_listens_only_if_told_that_this_is_insecure(
    group: str, host: str
) -> None:
    with pytest.raises(SettingsError, match=r"without authentication: .*127\.0\.0\.1"):
        Settings.of({group: {"host": host}})
    Settings.of({group: {"host": host}, "security": {"insecure": True}})


def test_beyond_loopback_pages_are_served_to_those_who_have_the_token() -> None:
    security = {"token_reading": True}
    with pytest.raises(SettingsError, match=r"security\.token_reading=true"):
        Settings.of({"web": {"host": "0.0.0.0"}})
    Settings.of({"web": {"host": "0.0.0.0"}, "security": security})
    with pytest.raises(SettingsError, match=r"security\.curve_dir"):
        Settings.of({"ingest": {"host": "0.0.0.0"}, "security": security})


@pytest.mark.parametrize("given", ["a, B.example,,::1", ["a", " b.example", "::1"]])
def test_names_are_a_list_or_a_text_with_commas(given: object) -> None:
    found = Settings.of({"security": {"allowed_hosts": given}})
    assert found.security.allowed_hosts == ("a", "b.example", "::1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_it_listens_as_it_is(host: str) -> None:
    assert Settings.of({"web": {"host": host}}).web.host == host


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"wbe": {}}, "unknown setting 'wbe'"),
    ({"web": {"prot": 1}}, "unknown setting web.prot"),
    ({"web": {"port": "http"}}, "web.port='http' is no int"),
    ({"web": {"port": -1}}, "web.port=-1 is no int"),
    ({"web": {"port": None}}, "web.port=None is no int"),
    ({"web": {"port": 65536}}, "web.port=65536 is no port: 0 to 65535"),
    ({"ingest": {"port": 123456}}, "ingest.port=123456 is no port: 0 to 65535"),
    ({"tap": {"port": 65536}}, "tap.port=65536 is no port: 0 to 65535"),
    ({"tap": {"port": "on"}}, "tap.port='on' is no int"),
    ({"tap": {"port": -1}}, "tap.port=-1 is no int"),
    ({"notify": {"states": "failed,sad"}}, "notify.states: 'sad' is none of completed"),
    ({"web": 8000}, "web=8000: give web.<key>=... instead"),
    ({"web": "host"}, "web='host': give web.<key>=... instead"),
    ({"run": {"grace_seconds": "soon"}}, "run.grace_seconds='soon' is no float"),
    ({"run": {"grace_seconds": float("nan")}}, "run.grace_seconds=nan is no float"),
    ({"security": {"insecure": "perhaps"}}, "security.insecure='perhaps' is no bool"),
    ({"metrics": {"max_series": [1]}}, "metrics.max_series=[1] is no int"),
    ({"web": {"max_connections": 3}}, "web.max_connections=3 is too few: at least 4"),
    (
        {"security": {"allowed_hosts": 5}},
        "security.allowed_hosts=5 is no list of names",
    ),
    ({"security": {"allowed_hosts": "http://a"}}, "'http://a' is no name of a host"),
    (
        {"security": {"allowed_hosts": "a:80"}},
        "'a:80' is no name of a host; give names",
    ),
    ({"security": {"allowed_hosts": "*"}}, "'*' is no name of a host"),
]


@pytest.mark.parametrize(
    ("values", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG]
)
def test_what_cannot_be_is_said_in_a_sentence(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        Settings.of(values)


@pytest.mark.parametrize("key", ["notify.webhook_url", "web.public_url"])
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("hooks.example/s3cret", "it is no address that begins with http:// or"),
        ("ftp://hooks.example/s3cret", "it is no address that begins with http://"),
        ("file:///s3cret", "it is no address that begins with http:// or https://"),
        ("https:///s3cret", "it is no address that begins with http:// or https://"),
        ("https://hooks.example:s3cret/", "it is no address that begins with"),
        ("https://[s3cret/", "it is no address that begins with http:// or https://"),
        ("https://me:s3cret@hooks.example/", "a user or password before the host"),
        ("https://hooks.example/ s3cret", "it has spaces, or other characters"),
        ("https://hooks.example/\ns3cret", "it has spaces, or other characters"),
        ("https://hooks.example/s3crét", "it has spaces, or other characters"),
    ],
)
def test_an_address_that_cannot_be_is_not_shown(
    key: str, url: str, sentence: str
) -> None:
    group, name = key.split(".")
    with pytest.raises(SettingsError, match=re.escape(sentence)) as found:
        Settings.of({group: {name: url}})
    assert str(found.value).startswith(f"{key} cannot be used: ")
    assert "s3cr" not in str(found.value)


def test_a_webhook_s_address_is_not_shown_with_the_settings() -> None:
    url = "https://hooks.example/s3cret"
    assert "s3cret" not in repr(Settings.of({"notify": {"webhook_url": url}}))


@pytest.mark.parametrize("given", [None, "", "null"])
def test_without_a_port_there_is_no_tap(given: str | None) -> None:
    assert Settings().tap.port is None
    assert composed(f"tap.port={given or 'null'}").tap.port is None
    assert Settings.of({"tap": {"port": given if given != "null" else None}}).tap == (
        Settings().tap
    )
    assert composed("tap.port=0").tap.port == 0


def test_beyond_loopback_the_tap_needs_keys_if_it_is_on() -> None:
    far = {"host": "0.0.0.0"}
    Settings.of({"tap": far})
    with pytest.raises(SettingsError, match=r"tap\.host=0\.0\.0\.0 would be open"):
        Settings.of({"tap": {**far, "port": 0}})
    for security in ({"insecure": True}, {"curve_dir": "keys"}):
        Settings.of({"tap": {**far, "port": 0}, "security": security})


def test_a_group_may_be_left_empty() -> None:
    assert Settings.of({"web": None}) == Settings()


def test_a_home_is_understood() -> None:
    settings = Settings.of({"journal": {"path": "~/j.sqlite"}})
    assert settings.journal_path == Path.home() / "j.sqlite"


# What a person sees at a terminal: one line, and status 2.
STARTS: list[tuple[str, str]] = [
    ("web.host=0.0.0.0", "would be open to the network without authentication"),
    ("web.port=http", "web.port='http' is no int"),
    ("web.prot=8001", "'web.prot'"),
    ("wbe.port=8001", "'wbe.port'"),
    ("+web.prot=8001", "unknown setting web.prot"),
    ("web.port", "'web.port'"),
    ("web.port=[1", "'[1'"),
    ("--config-name=nowhere", "'nowhere'"),
    ("--config-dir=/nowhere", "'/nowhere' not found"),
    ("ingest.port=99999", "ingest.port=99999 is no port"),
    ("tap.port=99999", "tap.port=99999 is no port"),
    ("notify.webhook_url=mattermost", "notify.webhook_url cannot be used: it is no"),
    ("web=5", "web=5: give web.<key>=... instead"),
    ("journal.path=/dev/null/journal", "the journal /dev/null/journal cannot be used"),
    ("security.token_file=/nowhere", "security.token_file=/nowhere cannot be used: No"),
    ("traces.endpoint=nonsense", "traces.endpoint is not a URL"),
    ("traces.endpoint=${nowhere}", "nowhere"),
    ("web.host=192.0.2.1 security.insecure=true", "cannot listen where web.host and"),
    (
        "tap.host=192.0.2.1 tap.port=0 security.insecure=true",
        "cannot listen where tap.host and",
    ),
    (
        "ingest.host=192.0.2.1 security.insecure=true",
        "cannot listen where ingest.host and",
    ),
]


@pytest.mark.parametrize(("overrides", "sentence"), STARTS, ids=[o for o, _ in STARTS])
def test_an_exporter_that_cannot_start_says_why_in_one_line(
    overrides: str, sentence: str, tmp_path: Path
) -> None:
    ports = {"web": free_port(), "ingest": 0}
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "exporter",
            *(
                f"{key}.port={port}"
                for key, port in ports.items()
                if key not in overrides
            ),
            *([] if "journal" in overrides else [f"journal.path={tmp_path}/j.sqlite"]),
            *overrides.split(),
        ],
        env=clean_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("episight: ")
    assert sentence in line


def test_ingest_may_listen_anywhere_with_keys() -> None:
    far = {"ingest": {"host": "0.0.0.0"}, "security": {"curve_dir": "keys"}}
    assert Settings.of(far).ingest.host == "0.0.0.0"
    with pytest.raises(SettingsError, match=r"web\.host"):
        Settings.of({**far, "web": {"host": "0.0.0.0"}})
