"""The environment becomes values, and what is wrong with it is said."""

import dataclasses
import os
from typing import Dict

import pytest

from experiment_hooks.settings import DEFAULT_ENDPOINT, Settings


def read(**environ: str) -> Settings:
    return Settings.from_environment({"HOME": "/home/ann", **environ})


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read() == Settings(spool_dir="/home/ann/.local/state/episight/spool")
    assert read().endpoint == "tcp://127.0.0.1:5555"
    assert read().thread
    assert not read().problems


def test_the_process_environment_is_read_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not Settings.from_environment().disabled
    monkeypatch.setenv("EPISIGHT_DISABLED", "1")
    assert Settings.from_environment().disabled


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().disabled = True  # type: ignore[misc]


FLAGS = {
    "EPISIGHT_DISABLED": "disabled",
    "EPISIGHT_STRICT": "strict",
    "EPISIGHT_PRIVATE": "private",
    "EPISIGHT_SIGTERM": "sigterm",
    "EPISIGHT_THREAD": "thread",
}
YES = ["1", "true", "TRUE", "Yes", "on", " 1 "]
NO = ["0", "false", "No", "OFF", " 0"]


@pytest.mark.parametrize("variable", FLAGS)
@pytest.mark.parametrize("text", YES)
def test_a_flag_is_on(variable: str, text: str) -> None:
    settings = read(**{variable: text})
    assert getattr(settings, FLAGS[variable]) is True
    assert not settings.problems


@pytest.mark.parametrize("variable", FLAGS)
@pytest.mark.parametrize("text", NO)
def test_a_flag_is_off(variable: str, text: str) -> None:
    settings = read(**{variable: text})
    assert getattr(settings, FLAGS[variable]) is False
    assert not settings.problems


@pytest.mark.parametrize("variable", FLAGS)
@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_flag_is_as_if_it_were_not_there(variable: str, text: str) -> None:
    assert read(**{variable: text}) == read()


@pytest.mark.parametrize("variable", FLAGS)
def test_a_flag_that_is_neither_is_told_and_the_default_holds(variable: str) -> None:
    settings = read(**{variable: "maybe"})
    assert getattr(settings, FLAGS[variable]) == getattr(read(), FLAGS[variable])
    (problem,) = settings.problems
    assert variable in problem
    assert "'maybe'" in problem


ENDPOINTS = [
    "tcp://127.0.0.1:5555",
    "tcp://node-17.cluster:1",
    "tcp://[::1]:65535",
    "file:///shared/ann/episight",
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_is_taken_as_it_is(endpoint: str) -> None:
    settings = read(EPISIGHT_ENDPOINT=f" {endpoint}\n")
    assert settings.endpoint == endpoint
    assert not settings.problems


BAD_ENDPOINTS = [
    "127.0.0.1:5555",
    "http://127.0.0.1:5555",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:",
    "tcp://:5555",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:65536",
    "tcp://127.0.0.1:55a5",
    "tcp://127.0.0.1:\u0665",
    "tcp",
]


@pytest.mark.parametrize("endpoint", BAD_ENDPOINTS)
def test_an_endpoint_that_is_none_is_told_and_the_default_holds(endpoint: str) -> None:
    settings = read(EPISIGHT_ENDPOINT=endpoint)
    assert settings.endpoint == DEFAULT_ENDPOINT
    (problem,) = settings.problems
    assert "EPISIGHT_ENDPOINT" in problem
    assert repr(endpoint) in problem
    assert DEFAULT_ENDPOINT in problem


def test_every_problem_is_told() -> None:
    wrong = read(EPISIGHT_ENDPOINT="x", EPISIGHT_THREAD="x", EPISIGHT_STRICT="x")
    assert len(wrong.problems) == 3


def test_the_run_and_its_owner_are_none_where_they_are_empty() -> None:
    given = read(EPISIGHT_RUN_ID="mug-1", EPISIGHT_OWNER="ab")
    assert (given.run_id, given.owner) == ("mug-1", "ab")
    empty = read(EPISIGHT_RUN_ID="", EPISIGHT_OWNER="")
    assert (empty.run_id, empty.owner) == (None, None)


SPOOLS: Dict[str, Dict[str, str]] = {
    "/given": {"EPISIGHT_SPOOL_DIR": "/given", "XDG_STATE_HOME": "/state"},
    "/state/episight/spool": {"XDG_STATE_HOME": "/state"},
    "/home/ann/.local/state/episight/spool": {"XDG_STATE_HOME": ""},
}


@pytest.mark.parametrize("directory", SPOOLS)
def test_the_spool_lies_where_it_is_asked_for(directory: str) -> None:
    assert read(**SPOOLS[directory]).spool_dir == directory


def test_without_a_home_the_spool_lies_in_the_user_s() -> None:
    expected = os.path.expanduser("~/.local/state/episight/spool")
    assert Settings.from_environment({}).spool_dir == expected
