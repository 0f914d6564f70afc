"""Behind a real nginx, as docs/reverse_proxy.md configures it, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.support import (
    PATIENCE,
    Child,
    Exporter,
    Pythons,
    eventually,
    free_port,
    http,
    require,
)
from tests.test_docs import section
from tests.test_live_page import opened, same_document, shows, text_of

NAME = "lab.localhost"
"""Stands for the page's lab.example: browsers know that it is this machine."""
SURROUNDINGS = """
daemon off;
pid nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    include {types};
    include episight.conf;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
}}
"""
WATCHED = """
    import time
    import numpy as np
    import experiment_hooks as eh

    with eh.open_run("proxied", run_id="a+b:c@d=1", stoppable=True) as run:
        while True:
            with run.episode(mode="eval") as ep:
                for step in range(100):
                    red = np.full((4, 6, 3), (255, 0, 0), np.uint8)
                    ep.step(state={"n": step}, images={"a//b?": red, "50%": red})
                    time.sleep(0.01)
"""


class Nginx:
    """A real nginx with the configuration of the documentation; ``url`` is outside."""

    def __init__(self, directory: Path, exporter: Exporter) -> None:
        binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        require(binary, "nginx is not installed (Debian: apt install nginx-light)")
        port = free_port()
        directory.mkdir()
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        self_signed(key, certificate)
        text = section("docs/reverse_proxy.md", "nginx").code("nginx")
        for documented, ours in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("server_name lab.example", f"server_name {NAME}"),
            ("/etc/ssl/lab.example.pem", str(certificate)),
            ("/etc/ssl/lab.example.key", str(key)),
            ("http://127.0.0.1:8000/", f"{exporter.web}/"),
        ):
            assert text.count(documented) == 1, documented
            text = text.replace(documented, ours)
        (directory / "episight.conf").write_text(text)
        around = SURROUNDINGS.format(
            user="user root;" if os.getuid() == 0 else "", types="mime.types"
        )
        (directory / "mime.types").write_text("types { text/html html; }")
        (directory / "nginx.conf").write_text(around)
        self.url = f"https://{NAME}:{port}/episight/"
        command = [str(binary), "-p", str(directory), "-c", "nginx.conf"]
        self.process = Child([*command, "-e", "stderr"], directory / "nginx.log")
        eventually(
            lambda: socket.create_connection(("127.0.0.1", port), 1).close() or 1
        )


def self_signed(key: Path, certificate: Path) -> None:
    openssl = shutil.which("openssl")
    require(openssl, "openssl is not installed (Debian: apt install openssl)")
    files = ["-keyout", str(key), "-out", str(certificate)]
    wanted = ["-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    made = [str(openssl), "req", "-x509", *wanted, *files]
    subprocess.run(made, check=True, capture_output=True, timeout=30)


@pytest.fixture
def exporter(exporter_process: Callable[..., Exporter]) -> Exporter:
    """One that is set up as the page says."""
    said = section("docs/reverse_proxy.md", "The exporter").prose
    lines = re.findall(r"^    (EPISIGHT_\w+)=(\S+) \\$", said, re.MULTILINE)
    env = {name: value.replace("lab.example", NAME) for name, value in lines}
    assert len(env) == 3
    return exporter_process(env=env)


@pytest.fixture
def nginx(
    tmp_path: Path, exporter: Exporter, show_log: Callable[[Path], None]
) -> Iterator[Nginx]:
    found = Nginx(tmp_path / "nginx", exporter)
    show_log(found.process.log)
    yield found
    found.process.end()


@pytest.fixture
def page(chromium: Any) -> Any:
    """A page of a browser that takes a certificate of our own making."""
    found = chromium.new_context(ignore_https_errors=True).new_page()
    found.set_default_timeout(10_000 * PATIENCE)
    return found


@pytest.fixture
def complaints(page: Any) -> list[str]:
    """What went wrong in the page: errors, and answers that are none."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "response",
        lambda answer: answer.status >= 400 and found.append(answer.url),
    )
    # What a page that is left had still asked for is aborted, by the browser itself.
    page.on(
        "requestfailed",
        lambda asked: "ABORTED" in asked.failure or found.append(asked.url),
    )
    return found


def test_a_person_logs_in_and_sees_runs_live_below_a_prefix(
    exporter: Exporter,
    nginx: Nginx,
    run_python: Pythons,
    page: Any,
    complaints: list[str],
) -> None:
    run_python.start(WATCHED, env=exporter.env)
    eventually(lambda: run_of(exporter))
    page.goto(nginx.url.rstrip("/"))  # without the slash one is led there
    page.locator("input[name=token]").fill("certainly not this one")
    page.get_by_role("button", name="Open", exact=True).click()
    shows(page, "body", "not this exporter's token")
    page.locator("input[name=token]").fill(exporter.token)
    page.get_by_role("button", name="Open", exact=True).click()
    shows(page, "#runs", "proxied")
    assert page.url == nginx.url
    complaints.clear()  # 401 was the answer to a wrong token, and to none

    opened(page, nginx.url)
    shows(page, "#runs", "running")
    (cookie,) = page.context.cookies()
    assert (cookie["path"], cookie["secure"]) == ("/episight/", True)
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.locator("#runs a.to").click()
    shows(page, "#connection", "connected")
    assert page.url.startswith(f"{nginx.url}runs/")
    page.evaluate("window.sameDocument = true")
    before = text_of(page, "#state")
    eventually(lambda: text_of(page, "#state") != before)
    images = page.locator("#images img")
    eventually(lambda: images.count() == 2)
    for number in range(2):
        image = images.nth(number)
        eventually(lambda image=image: image.evaluate("i => i.naturalWidth") == 6)  # type: ignore[misc]
    assert same_document(page)
    page.get_by_role("link", name="All episodes").click()
    page.locator("table.episodes tbody a").first.click()
    shows(page, "main", "eval episode")
    page.locator("a.crumb", has_text="a+b:c@d=1").click()
    shows(page, "#connection", "connected")
    page.locator("a.brand").click()
    shows(page, "#runs", "running")
    assert page.url == nginx.url
    styled = "getComputedStyle(document.body).margin !== '8px'"
    eventually(lambda: page.evaluate(styled), what="the style sheet")
    assert complaints == []


def test_a_token_in_the_address_is_exchanged_below_the_prefix(
    exporter: Exporter, nginx: Nginx, page: Any, complaints: list[str]
) -> None:
    opened(page, f"{nginx.url}?token={exporter.token}&state=failed")
    assert page.url == f"{nginx.url}?state=failed"
    assert complaints == []


def test_commands_come_through_and_the_experiment_prints_the_public_address(
    exporter: Exporter, nginx: Nginx, run_python: Pythons, page: Any
) -> None:
    child = run_python.start(WATCHED, env=exporter.env)
    eventually(lambda: run_of(exporter))
    assert f"https://{NAME}/episight/runs/a+b:c@d=1" in child.output
    opened(page, f"{nginx.url}?token={exporter.token}")
    said = page.evaluate(
        """async () => (await fetch("./api/v1/runs/a+b:c@d=1/commands", {
            method: "POST",
            headers: {
                "Content-Type": "application/json", "X-Forwarded-For": "10.6.6.6",
            },
            body: '{"command": "stop"}',
        })).status"""
    )
    assert said == 202
    commands = f"{exporter.web}/api/v1/runs/a+b:c@d=1/commands"
    (given,) = http(commands, headers=exporter.bearer).json()["commands"]
    assert given["by"] == "127.0.0.1 (through 127.0.0.1)", "the proxy's word, not his"
    eventually(lambda: run_of(exporter)["state"] == "stopped")


def test_prometheus_may_scrape_through_it_with_the_token(
    exporter: Exporter, nginx: Nginx
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = nginx.url.replace(NAME, "127.0.0.1") + "metrics"
    asked = urllib.request.Request(url, headers=exporter.bearer)
    with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
        assert b"episight_build_info" in answer.read()


def run_of(exporter: Exporter) -> Any:
    """The one run, as somebody with the token sees it; None until it is there."""
    answer = http(f"{exporter.web}/api/v1/runs", headers=exporter.bearer).json()
    return next(iter(answer["runs"]), None)
