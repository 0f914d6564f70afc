"""Keys for ingest: who has one is let in, whoever else is told, and harms nobody."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import time
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
import zmq

import experiment_hooks as eh
from experiment_hooks import cli, wire
from experiment_hooks.dial import Dialer, KeysError
from exporter.keys import Keyring
from exporter.keys import KeysError as ServerKeysError
from tests.support import Exporter, Pythons, eventually, http

WORKS = """
import sys
import experiment_hooks as eh

with eh.open_run("works", run_id=sys.argv[1]) as run:
    with run.episode(mode="eval") as ep:
        ep.step()
        ep.finish(outcome="correct")
    run.close(timeout=20)
"""


WANTS_KEYS = "it wants keys|does not talk to us"
"""The exporter hangs up, and may be faster than what it says first is read."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of keys: the exporter's, those of ann and, not allowed, of eve."""
    path = tmp_path / "keys"
    assert cli.main(["keys", str(path), "ann", "eve"]) == 0
    (path / "allowed" / "eve.key").rename(path / "eve.key")
    return path


def key_of(keys: Path, name: str) -> str:
    return str(keys / "clients" / f"{name}.key_secret")


def server_key(keys: Path) -> str:
    return Keyring(keys).public.decode()


def env_of(exporter: Exporter, keys: Path, name: str) -> Dict[str, str]:
    said = {
        "EPISIGHT_SERVER_KEY": server_key(keys),
        "EPISIGHT_KEY_FILE": key_of(keys, name),
    }
    return {**exporter.env, **said}


@pytest.fixture
def exporter(exporter_process: Callable[..., Exporter], keys: Path) -> Exporter:
    return exporter_process(f"security.curve_dir={keys}")


# --- making them ---------------------------------------------------------------------


def test_secrets_are_this_users_alone_and_never_replaced(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = [keys / "server.key_secret", *(keys / "clients").iterdir()]
    assert len(secrets) == 3
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in secrets}
    assert cli.main(["keys", str(keys), "ann"]) == 0
    assert {path: path.read_bytes() for path in secrets} == before
    said = capsys.readouterr().out
    assert f"security.curve_dir={keys}" in said
    assert f"EPISIGHT_SERVER_KEY='{server_key(keys)}'" in said
    for data in before.values():
        secret = data.decode().split('secret-key = "')[1].split('"')[0]
        assert secret not in said


@pytest.mark.parametrize("name", ["../ann", "", "a b"])
def test_a_name_that_is_no_file_s_is_refused(tmp_path: Path, name: str) -> None:
    assert cli.main(["keys", str(tmp_path), name]) == 2
    assert list(tmp_path.iterdir()) == []


# --- with them -----------------------------------------------------------------------


def test_an_experiment_with_a_key_is_seen(
    exporter: Exporter, keys: Path, run_python: Pythons
) -> None:
    run_python(WORKS, "mine", env=env_of(exporter, keys, "ann"))
    eventually(lambda: exporter.run("mine")["state"] == "completed")


def test_the_address_file_brings_the_exporter_s_key_along(
    exporter: Exporter, keys: Path, run_python: Pythons
) -> None:
    env = {
        "EPISIGHT_ENDPOINT": f"file://{exporter.address_file}",
        "EPISIGHT_KEY_FILE": key_of(keys, "ann"),
    }
    run_python(WORKS, "mine", env=env)
    eventually(lambda: exporter.run("mine")["state"] == "completed")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"EPISIGHT_KEY_FILE": "", "EPISIGHT_SERVER_KEY": ""}, WANTS_KEYS),
        ({"EPISIGHT_KEY_FILE": "eve"}, "does not know the key"),
        ({"EPISIGHT_SERVER_KEY": "another"}, "does not talk to us"),
        ({"EPISIGHT_KEY_FILE": ""}, "set EPISIGHT_KEY_FILE"),
        ({"EPISIGHT_KEY_FILE": "/nowhere/ann.key_secret"}, "holds no keys"),
        ({"EPISIGHT_SERVER_KEY": ""}, "set EPISIGHT_SERVER_KEY"),
    ],
    ids=["none", "unknown", "another exporter's", "no own", "no file", "no server's"],
)
def test_without_the_right_key_it_goes_on_unseen_and_says_why(
    exporter: Exporter,
    keys: Path,
    run_python: Pythons,
    changed: Dict[str, str],
    sentence: str,
) -> None:
    env = {**env_of(exporter, keys, "ann"), **changed}
    if env["EPISIGHT_KEY_FILE"] == "eve":
        env["EPISIGHT_KEY_FILE"] = key_of(keys, "eve")
    if env["EPISIGHT_SERVER_KEY"] == "another":
        env["EPISIGHT_SERVER_KEY"] = zmq.curve_keypair()[0].decode()
    ended = run_python(WORKS.replace("20", "5"), "not-mine", env=env)
    said = re.findall(sentence, ended.output)
    assert said, ended.output
    assert len(said) == len(set(said)), ended.output
    assert exporter.runs() == []
    left = list((run_python.directory / "state" / "episight").rglob("*.spool"))
    assert len(left) == 1, "its records wait"


def test_one_that_is_allowed_later_is_seen_from_then_on(
    exporter: Exporter, keys: Path, run_python: Pythons
) -> None:
    waits = WORKS.replace("    run.close", "    while not run.url: pass\n    run.close")
    child = run_python.start(waits, "eves", env=env_of(exporter, keys, "eve"))
    eventually(
        lambda: (exporter.value("episight_rejected_total", reason="keys") or 0) > 0
    )
    (public,) = re.findall(r'public-key = "(.*)"', (keys / "eve.key").read_text())
    assert f"of the public key {public}): is not allowed" in exporter.log.read_text()
    shutil.copy(str(keys / "eve.key"), str(keys / "allowed" / "eve.key"))
    assert child.wait(30) == 0
    eventually(lambda: exporter.run("eves")["state"] == "completed")


def test_a_source_is_not_spoken_for_by_another_key(
    exporter: Exporter, keys: Path
) -> None:
    shutil.copy(str(keys / "eve.key"), str(keys / "allowed" / "eve.key"))
    said = wire.Hello(
        protocol=wire.PROTOCOL, source=b"s" * 16, run="anns", sent=time.time()
    )
    answers = []
    with zmq.Context() as context:
        for name in ("ann", "eve", "ann"):
            dialer = Dialer(exporter.ingest, server_key(keys), key_of(keys, name))
            place = dialer.find()
            assert place is not None
            with dialer.socket(context, place) as sock:
                sock.setsockopt(zmq.IMMEDIATE, 0)
                sock.connect(place.address)
                sock.send(wire.encode(said))
                assert sock.poll(10_000)
                answers.append(wire.decode_from_exporter(sock.recv()))
    assert isinstance(answers[0], wire.Welcome)
    assert isinstance(answers[1], wire.Refused)
    assert "another key" in answers[1].sentence
    assert isinstance(answers[2], wire.Welcome)


def test_check_and_replay_use_the_keys(
    exporter: Exporter,
    keys: Path,
    run_python: Pythons,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in env_of(exporter, keys, "ann").items():
        monkeypatch.setenv(name, value)
    assert cli.main(["check"]) == 0
    monkeypatch.setenv("EPISIGHT_KEY_FILE", key_of(keys, "eve"))
    assert cli.main(["check"]) == 1
    with eh.open_run("left", run_id="left") as run:
        run.close(timeout=0.2)
    monkeypatch.setenv("EPISIGHT_KEY_FILE", key_of(keys, "ann"))
    assert cli.main(["replay"]) == 0
    eventually(lambda: exporter.run("left")["state"] == "completed")
    secrets = [keys / "server.key_secret", *(keys / "clients").iterdir()]
    said = exporter.output + capsys.readouterr().out
    for path in secrets:
        secret = path.read_text().split('secret-key = "')[1].split('"')[0]
        assert secret not in said


# --- what is wrong with them ----------------------------------------------------------


def test_the_exporter_does_not_start_with_keys_that_others_can_read(
    exporter_process: Callable[..., Exporter], keys: Path
) -> None:
    secret = keys / "server.key_secret"
    secret.chmod(0o640)
    child = exporter_process(f"security.curve_dir={keys}", wait=False).launch()
    assert child.wait() == 2
    assert f"chmod 600 {secret}" in child.output


def test_nor_without_any(
    exporter_process: Callable[..., Exporter], tmp_path: Path
) -> None:
    child = exporter_process(f"security.curve_dir={tmp_path}", wait=False).launch()
    assert child.wait() == 2
    assert f"episight keys {tmp_path}" in child.output


def test_a_bad_file_among_the_allowed_costs_only_itself(keys: Path) -> None:
    (keys / "allowed" / "bad.key").write_bytes(b"\xff\xfe")
    ring = Keyring(keys)
    from zmq.auth.certs import load_certificate

    known, _ = load_certificate(keys / "allowed" / "ann.key")
    unknown, _ = load_certificate(keys / "eve.key")
    assert ring.callback("episight", known)
    assert not ring.callback("episight", unknown)
    (keys / "allowed" / "ann.key").unlink()
    assert not ring.callback("episight", known)


def test_a_file_that_is_almost_one_ends_nothing(
    exporter: Exporter, keys: Path, run_python: Pythons
) -> None:
    (keys / "allowed" / "almost.key").write_text("public-key: abc\n")
    run_python(WORKS, "mine", env=env_of(exporter, keys, "ann"))
    eventually(lambda: exporter.run("mine")["state"] == "completed")
    assert exporter.get("/-/ready").status == 200
    assert exporter.terminate() == 0


def test_who_is_turned_away_after_a_restart_comes_back_when_he_may(
    exporter: Exporter, keys: Path, run_python: Pythons
) -> None:
    code = """
import pathlib
import experiment_hooks as eh

with eh.open_run("waits", run_id="waits") as run:
    while not pathlib.Path("home").exists():
        with run.episode(mode="eval") as ep:
            ep.step()
    run.close(timeout=20)
"""
    child = run_python.start(code, env=env_of(exporter, keys, "ann"))

    def counted() -> float:
        return exporter.value("experiment_episodes_total", run="waits") or 0.0

    eventually(counted, 15)
    allowed = keys / "allowed" / "ann.key"
    allowed.rename(keys / "ann.key")
    exporter.restart()
    eventually(lambda: exporter.value("episight_rejected_total", reason="keys") or 0)
    before = counted()
    (keys / "ann.key").rename(allowed)
    eventually(lambda: counted() > before, 15)
    (run_python.directory / "home").touch()
    assert child.wait() == 0
    assert "does not know the key" in child.output


def test_keys_that_are_only_on_one_side_may_be_put_right(
    exporter: Exporter, keys: Path, run_python: Pythons, exporter_process: Any
) -> None:
    waits = WORKS.replace("    run.close", "    while not run.url: pass\n    run.close")
    child = run_python.start(waits, "plain", env=exporter.env)
    child.wait_for(WANTS_KEYS)
    port = exporter.ingest.rsplit(":", 1)[1]
    assert exporter.terminate() == 0
    plain = exporter_process(f"ingest.port={port}")
    assert child.wait(30) == 0
    eventually(lambda: plain.run("plain")["state"] == "completed")


def test_a_folder_without_a_pair_is_no_keyring(keys: Path) -> None:
    shutil.copy(str(keys / "server.key"), str(keys / "server.key_secret"))
    with pytest.raises(ServerKeysError, match="no pair"):
        Keyring(keys)


def test_where_it_is_asked_for_a_missing_key_is_an_error(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_STRICT", "1")
    monkeypatch.setenv("EPISIGHT_KEY_FILE", str(keys / "none"))
    with pytest.raises(eh.SetupError, match="EPISIGHT_SERVER_KEY"):
        eh.open_run("mug")
    monkeypatch.setenv("EPISIGHT_SERVER_KEY", server_key(keys))
    with pytest.raises(eh.SetupError, match="episight keys"):
        eh.open_run("mug")


def test_the_public_key_may_be_in_a_file(keys: Path) -> None:
    ring = Keyring(keys)
    assert ring.public.decode() not in repr(ring)
    dialer = Dialer("tcp://x:1", str(keys / "server.key"), key_of(keys, "ann"))
    dialer.check()
    with pytest.raises(KeysError, match="key_secret"):
        Dialer("tcp://x:1", str(keys / "server.key"), str(keys / "eve.key")).check()


# --- strangers -----------------------------------------------------------------------


def test_wrong_clients_in_numbers_change_nothing_for_the_others(
    exporter: Exporter, keys: Path, run_python: Pythons
) -> None:
    """A port scan's worth: no keys, wrong keys, HTTP, noise, silence."""
    host, port = exporter.ingest[len("tcp://") :].split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(100)]
    noisy = []
    for number in range(100):
        sock = socket.create_connection((host, int(port)))
        sock.sendall((b"GET / HTTP/1.1\r\n\r\n", os.urandom(64))[number % 2])
        noisy.append(sock)
    with zmq.Context() as context:
        strangers = []
        for number in range(60):
            sock = context.socket(zmq.DEALER)
            sock.linger = 0
            if number % 2:
                sock.curve_serverkey = server_key(keys).encode()
                sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
            sock.connect(exporter.ingest)
            sock.send(b"hello")
            strangers.append(sock)
        run_python(WORKS, "mine", env=env_of(exporter, keys, "ann"))
        eventually(lambda: exporter.run("mine")["state"] == "completed")
        for reason in ("keys", "handshake"):
            eventually(
                lambda r=reason: (
                    (exporter.value("episight_rejected_total", reason=r) or 0) >= 20
                )
            )
        for sock in strangers:
            sock.close()
    for sock in silent + noisy:
        sock.close()
    assert [run["run"] for run in exporter.runs()] == ["mine"]
    assert http(exporter.web + "/-/ready").status == 200
    assert len(exporter.output) < 20_000, "and it is logged in bounds"
