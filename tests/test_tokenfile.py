"""The token: given, or made once; and what ``episight token`` finds is the same one."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from experiment_hooks import cli_token
from exporter import tokenfile
from exporter.settings import Settings
from exporter.tokenfile import TokenError, find

GIVEN = "0123456789abcdef"


def settings(directory: Path, token_file: object = "") -> Settings:
    return Settings.of(
        {
            "journal": {"path": str(directory / "journal.sqlite")},
            "security": {"token_file": str(token_file)},
        }
    )


def test_one_is_made_for_its_owner_only_and_kept(tmp_path: Path) -> None:
    first = find(settings(tmp_path), {})
    path = tmp_path / "token"
    assert first.place == str(path)
    assert first.text == path.read_text().strip()
    assert len(first.text) >= 43, "256 bits"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["token"], "nothing else is left"
    assert find(settings(tmp_path), {}) == first
    assert find(settings(tmp_path / "other"), {}).text != first.text


def test_many_that_start_at_once_agree_on_one(tmp_path: Path) -> None:
    found: list[str] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        found.append(find(settings(tmp_path), {}).text)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_file_system_without_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*anything: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(tokenfile.os, "link", refuse)
    made = find(settings(tmp_path), {})
    assert os.listdir(tmp_path) == ["token"]
    assert find(settings(tmp_path), {}) == made


def test_a_given_one_holds_and_none_is_made(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(GIVEN + "\n")
    found = find(settings(tmp_path, file), {})
    assert (found.text, found.place) == (GIVEN, str(file))
    environ = {"EPISIGHT_TOKEN": f" {GIVEN[::-1]}\n"}
    found = find(settings(tmp_path, file), environ)
    assert (found.text, found.place) == (GIVEN[::-1], "EPISIGHT_TOKEN")
    assert os.listdir(tmp_path) == ["secret"]


def test_it_is_not_shown_by_accident(tmp_path: Path) -> None:
    assert GIVEN not in repr(find(settings(tmp_path), {"EPISIGHT_TOKEN": GIVEN}))


@pytest.mark.parametrize("text", ["short", "with a space in it", "ünïcödé-ünïcödé-ü"])
def test_one_that_cannot_be_used_is_refused_without_being_said(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(TokenError, match="EPISIGHT_TOKEN holds no token") as refused:
        find(settings(tmp_path), {"EPISIGHT_TOKEN": text})
    assert text not in str(refused.value)
    (tmp_path / "token").write_text(text)
    with pytest.raises(TokenError, match="/token holds no token: 16 to 512"):
        find(settings(tmp_path), {})


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"security\.token_file=.*nowhere cannot be"):
        find(settings(tmp_path, tmp_path / "nowhere"), {})
    with pytest.raises(TokenError, match="cannot be used"):
        find(settings(tmp_path, tmp_path), {})


def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = find(settings(tmp_path), {})
    assert caplog.text == ""
    (tmp_path / "token").chmod(0o644)
    assert find(settings(tmp_path), {}) == made
    assert "chmod 600" in caplog.text
    assert made.text not in caplog.text


PLACES = [
    ("given", {"EPISIGHT_TOKEN": GIVEN}),
    ("beside the default journal", {}),
    ("beside a journal", {"EPISIGHT_JOURNAL_PATH": "{}/there/journal.sqlite"}),
    ("at home", {"EPISIGHT_JOURNAL_PATH": "~/journal.sqlite"}),
    ("in a file", {"EPISIGHT_SECURITY_TOKEN_FILE": "{}/secret"}),
    ("in a file at home", {"EPISIGHT_SECURITY_TOKEN_FILE": "~/secret"}),
]


@pytest.mark.parametrize("said", [p[1] for p in PLACES], ids=[p[0] for p in PLACES])
def test_the_command_finds_the_one_that_the_exporter_has(
    said: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "secret").write_text(GIVEN)
    environ = {name: text.format(tmp_path) for name, text in said.items()}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    chosen = Settings.of(
        {
            "journal": {"path": environ.get("EPISIGHT_JOURNAL_PATH")},
            "security": {"token_file": environ.get("EPISIGHT_SECURITY_TOKEN_FILE")},
        }
    )
    found = find(chosen, environ)
    assert cli_token.find(environ) == found.text
    assert found.place in ("EPISIGHT_TOKEN", cli_token.path(environ))
    assert cli_token.token(environ) == 0
    assert capsys.readouterr().out == found.text + "\n"
