"""Strangers stay out: a real exporter, real browsers on evil pages, real Prometheus."""

from __future__ import annotations

import http.server
import json
import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import quote

import pytest

from tests.support import Exporter, Pythons, eventually
from tests.support import http as ask
from tests.test_live_page import PACED, opened, shows, text_of, upgrade

STOP = {"command": "stop", "when": "step"}
COMMANDS = "/api/v1/runs/paced/commands"


# --- somebody else's pages ------------------------------------------------------------


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A page of somebody else's, whatever is asked for."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>elsewhere</title><a id=link>a link</a>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *anything: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of a server with pages of somebody else."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def exporter(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> Exporter:
    """One with a run that could be stopped."""
    made = exporter_process()
    code = PACED.replace('run_id="paced"', 'run_id="paced", stoppable=True')
    run_python.start(code, env=made.env)
    eventually(lambda: made.run("paced")["sources"]["live"])
    return made


def log_in(page: Any, exporter: Exporter) -> None:
    opened(page, f"{exporter.web}/?token={exporter.token}")


FETCH = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return answer.type === "opaque" ? "opaque" : answer.status;
    } catch (error) { return "refused"; }
}"""
SOCKET = """url => new Promise(done => {
    const socket = new WebSocket(url);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
})"""
FORM = """url => {
    const form = document.createElement("form");
    form.method = "post";
    form.enctype = "text/plain";
    form.action = url;
    const input = document.createElement("input");
    input.name = '{"command": "stop", "x": "';
    input.value = '"}';
    form.append(input);
    document.body.append(form);
    form.submit();
}"""


def post_json(page: Any, url: str) -> Any:
    headers = {"Content-Type": "application/json"}
    options = {"method": "POST", "body": json.dumps(STOP), "headers": headers}
    return page.evaluate(FETCH, [url, {**options, "credentials": "include"}])


def test_our_own_page_may_give_commands_once_it_has_the_cookie(
    exporter: Exporter, chromium_page: Any, console_errors: list[str]
) -> None:
    """So that what the other tests find refused would do something."""
    opened(chromium_page, exporter.web)
    assert post_json(chromium_page, COMMANDS) == 401
    console_errors.clear()  # a fetch that is refused is one
    log_in(chromium_page, exporter)
    assert post_json(chromium_page, COMMANDS) == 202
    assert chromium_page.evaluate(SOCKET, f"ws{exporter.web[4:]}/live") == "open"
    eventually(lambda: exporter.run("paced")["state"] == "stopped")
    assert console_errors == []


# A cookie does not know of ports: to the first, it is sent along.
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["near", "far"])
def test_the_page_of_another_site_can_do_nothing(
    host: str, exporter: Exporter, elsewhere: int, chromium_page: Any
) -> None:
    log_in(chromium_page, exporter)
    evil = f"http://{host}:{elsewhere}/"
    url = exporter.web + COMMANDS
    chromium_page.goto(evil)
    assert post_json(chromium_page, url) == "refused"
    for method in ("POST", "DELETE"):
        options = {"method": method, "body": json.dumps(STOP)}
        options["credentials"] = "include"
        assert chromium_page.evaluate(FETCH, [url, options]) == "refused"
    blind = {"method": "POST", "body": json.dumps(STOP), "mode": "no-cors"}
    blind["credentials"] = "include"
    chromium_page.evaluate(FETCH, [url, blind])
    assert chromium_page.evaluate(FETCH, [url, {}]) == "refused", "nor read"
    for path in ("/live", "/runs/paced/live"):
        assert chromium_page.evaluate(SOCKET, f"ws{exporter.web[4:]}{path}") == (
            "refused"
        )
    chromium_page.evaluate(FORM, url)
    shows(chromium_page, "body", "for pages of this exporter only")
    assert exporter.get(COMMANDS).json() == {"commands": []}
    assert exporter.run("paced")["state"] == "running"


def test_no_page_of_another_site_can_frame_ours_or_embed_what_we_serve(
    exporter: Exporter, elsewhere: int, chromium_page: Any
) -> None:
    log_in(chromium_page, exporter)
    chromium_page.goto(f"http://127.0.0.1:{elsewhere}/")
    embedded = """([tag, url]) => new Promise(done => {
        const made = document.createElement(tag);
        made.onload = () => done("loaded");
        made.onerror = () => done("refused");
        made.src = url;
        document.body.append(made);
    })"""
    for tag, path in (("script", "/static/live.js"), ("img", "/static/favicon.svg")):
        found = chromium_page.evaluate(embedded, [tag, exporter.web + path])
        assert found == "refused"
    chromium_page.evaluate(embedded, ["iframe", exporter.web])
    (_, frame) = chromium_page.frames
    assert frame.locator("#runs").count() == 0


def test_a_name_that_is_made_to_lead_here_shows_nothing(
    exporter: Exporter, chromium_page: Any
) -> None:
    port = exporter.web.rsplit(":", 1)[1]
    # To a browser all names below localhost are this machine, as a rebound one is.
    answer = chromium_page.goto(f"http://evil.localhost:{port}/")
    assert answer.status == 403
    said = text_of(chromium_page, "body")
    assert "'evil.localhost" in said
    assert "security.allowed_hosts" in said
    evil = {"Host": "evil.example"}
    for path in ("/metrics", "/api/v1/runs", "/static/live.js", "/runs/paced"):
        assert ask(exporter.web + path, headers=evil).status == 403
        known = {**evil, **exporter.bearer}
        assert ask(exporter.web + path, headers=known).status == 200
    assert ask(exporter.web + "/-/ready", headers={"Host": "10.1.2.3"}).status == 200


# --- the token ------------------------------------------------------------------------


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_gets(
    exporter: Exporter, chromium_page: Any
) -> None:
    log_in(chromium_page, exporter)
    assert chromium_page.url == exporter.web + "/"
    (cookie,) = chromium_page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert cookie["value"] != exporter.token
    assert exporter.token not in chromium_page.content()
    assert chromium_page.evaluate("document.cookie") == ""
    assert exporter.token not in chromium_page.evaluate(
        "JSON.stringify(performance.getEntries().map(one => one.name))"
    )


def test_the_token_is_in_no_log_and_on_no_command_line(
    exporter: Exporter, chromium_page: Any
) -> None:
    log_in(chromium_page, exporter)
    exporter.post(COMMANDS, STOP)
    exporter.get(f"/runs/nobody?token={exporter.token}")
    exporter.get(f"/{exporter.token}")
    host, port = exporter.web.split("//")[1].split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"{exporter.token}\r\n\r\n".encode())
        while connection.recv(4096):
            pass
    process = Path(f"/proc/{exporter.process.pid}")
    assert exporter.token not in (process / "cmdline").read_text()
    assert exporter.token not in exporter.address_file.read_text()
    assert exporter.terminate() == 0
    assert exporter.token not in exporter.output


def test_the_token_outlives_the_exporter(exporter: Exporter) -> None:
    before = exporter.token
    exporter.restart()
    assert exporter.token == before
    assert exporter.delete("/api/v1/runs/nobody").status == 404


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer guessed", "Basic eDp5"])
def test_without_the_token_nothing_changes(
    given: str | None, exporter_process: Callable[..., Exporter]
) -> None:
    exporter = exporter_process()
    headers = {} if given is None else {"Authorization": given}
    for method, path in (("POST", COMMANDS), ("DELETE", "/api/v1/runs/paced")):
        answer = ask(exporter.web + path, method, b"{}", headers)
        assert answer.status == 401
        assert "episight token" in answer.json()["error"]


def test_where_reading_needs_the_token_nothing_is_read_without_it(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    elsewhere: int,
) -> None:
    exporter = exporter_process("security.token_reading=true", "web.host=0.0.0.0")
    port = exporter.web.rsplit(":", 1)[1]
    web = f"http://127.0.0.1:{port}"
    run_python.start(PACED, env=exporter.env)
    for path in ("/", "/metrics", "/api/v1/runs", "/runs/paced", "/nothing"):
        assert ask(web + path).status == 401, path
        assert ask(web + path, headers=exporter.bearer).status != 401, path
    exporter.web = web
    assert b"401" in upgrade(exporter, "/live")
    bearer = f"Authorization: Bearer {exporter.token}"
    assert b"101" in upgrade(exporter, "/live", bearer)

    # A person types it, and stays in; also when coming from another site's link.
    chromium_page.goto(web)
    shows(chromium_page, "h1", "This needs the token")
    chromium_page.get_by_label("Token").fill("guessed")
    chromium_page.get_by_role("button", name="Open").click()
    shows(chromium_page, "main", "That is not this exporter's token")
    chromium_page.get_by_label("Token").fill(exporter.token)
    chromium_page.get_by_role("button", name="Open").click()
    shows(chromium_page, "#runs", "paced")
    shows(chromium_page, "#connection", "connected")
    chromium_page.goto(f"http://localhost:{elsewhere}/")
    chromium_page.evaluate("url => link.href = url", f"{web}/runs/paced")
    chromium_page.locator("#link").click()
    shows(chromium_page, "#verdict", "running")


def test_two_prometheus_with_the_token_scrape_and_one_without_does_not(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    prometheus_process: Callable[..., Any],
) -> None:
    exporter = exporter_process("security.token_reading=true")
    run_python.start(PACED, env=exporter.env)
    token = {"credentials_file": str(exporter.journal.parent / "token")}
    target = {"targets": [exporter.web.split("//")[1]]}

    def config(**more: Any) -> str:
        job = {"job_name": "episight", "static_configs": [target], **more}
        every = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        return json.dumps({"global": every, "scrape_configs": [job]})

    first, second = (
        prometheus_process(config=config(authorization=token)) for _ in range(2)
    )
    stranger = prometheus_process(config=config())
    for one in (first, second):
        eventually(lambda one=one: one.value("experiment_steps_total"), 20)  # type: ignore[misc]
        assert one.value("min_over_time(up[1m])") == 1
    eventually(lambda: stranger.value("up") == 0)


# --- names that bite ------------------------------------------------------------------


def test_a_run_named_script_is_harmless_on_every_page_and_in_every_answer(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: list[str],
) -> None:
    exporter = exporter_process()
    code = """
        import experiment_hooks as eh

        bad = "<script>alert(1)</script><img src=x onerror=alert(2)>"

        class Odd(Exception):
            pass

        Odd.__name__ = Odd.__qualname__ = bad
        run = eh.open_run(
            bad, run_id="bad", config={bad: bad}, tags={bad: bad}, facts={bad: bad},
            info={"lr": bad}, success={bad},
        )
        with run:
            run.counter("hits", help=bad, labels=["side"]).labels(side=bad).inc()
            run.publish_log(bad, bad, **{bad: bad})
            with run.episode(mode=bad, target=bad) as ep:
                ep.step(state={bad: bad}, scores={bad: 1.0})
                ep.event(bad, **{bad: bad})
                ep.finish(outcome=bad, results={bad: 1.0}, **{bad: bad})
            with run.episode(mode=bad, target=bad) as ep:
                raise Odd(bad)
    """
    run_python(code, env=exporter.env, status=1)
    eventually(lambda: exporter.run("bad")["ended"])
    dialogs: list[str] = []
    chromium_page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    bad = quote("<script>alert(1)</script>", safe="")
    source = exporter.run("bad")["source_list"][0]["source"]
    for path in ("/", "/runs/bad", f"/?q={bad}&state={bad}", f"/runs/bad?source={bad}"):
        opened(chromium_page, exporter.web + path)
        assert "<script>alert(1)" in chromium_page.locator("main").inner_text() or (
            "q=" in path
        )
    assert console_errors == [], "not even tried, which the policy would have forbidden"
    for path in (
        "/metrics", "/api/v1/runs", "/api/v1/runs/bad", "/api/v1/runs/bad/episodes",
        "/api/v1/runs/bad/episodes?format=csv", "/api/v1/runs/bad/commands",
        f"/api/v1/runs/{bad}", f"/api/v1/runs/bad/episodes?limit={bad}",
        f"/runs/{bad}", f"/runs/bad/sources/{source}/images/{bad}.png", f"/{bad}",
        f"/?token={bad}", f"/runs/bad/live?x={bad}",
    ):  # fmt: skip
        answer = exporter.get(path)
        kind = answer.headers["Content-Type"].partition(";")[0]
        assert b"<script>alert(1)" not in answer.body or kind != "text/html", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if "csv" not in path:  # that one is saved
            chromium_page.goto(exporter.web + path)
    assert dialogs == []
    assert "Exception on" not in exporter.output
    exporter.get("/metrics", accept="application/openmetrics-text").text.index(
        "<script>alert(1)"
    )


# --- many, and slow -------------------------------------------------------------------


def slow_ones(exporter: Exporter, stack: ExitStack, count: int) -> list[socket.socket]:
    """Clients that have begun to ask, and never end."""
    host, port = exporter.web.split("//")[1].split(":")
    found = []
    for _ in range(count):
        connection = socket.create_connection((host, int(port)), 10)
        stack.enter_context(connection)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        found.append(connection)
    return found


def test_five_hundred_slow_clients_are_not_noticed(
    exporter: Exporter, chromium_page: Any, prometheus_process: Callable[..., Any]
) -> None:
    prometheus = prometheus_process(exporter.web)
    opened(chromium_page, f"{exporter.web}/runs/paced")
    with ExitStack() as stack:
        slow = slow_ones(exporter, stack, 500)
        for _ in range(3):
            for connection in slow:
                connection.sendall(b"x")
            for path in ("/metrics", "/-/ready", "/", "/api/v1/runs", "/runs/paced"):
                assert exporter.get(path, deadline=3.0).status == 200
            before = text_of(chromium_page, "#state")
            eventually(lambda: text_of(chromium_page, "#state") != before, 5)  # noqa: B023
        assert exporter.post(COMMANDS, {"command": "save"}).status == 409
        eventually(lambda: (prometheus.value("count_over_time(up[1m])") or 0) > 4, 20)
        assert prometheus.value("min_over_time(up[1m])") == 1
    assert text_of(chromium_page, "#connection") == "connected"


def test_where_browsers_have_taken_all_connections_prometheus_still_scrapes(
    exporter_process: Callable[..., Exporter],
) -> None:
    exporter = exporter_process("web.max_connections=32")  # 8 are kept
    host, port = exporter.web.split("//")[1].split(":")
    lines = [
        "GET /live HTTP/1.1", f"Host: {host}", "Upgrade: websocket",
        "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
    ]  # fmt: skip
    with ExitStack() as stack:
        for _ in range(24):
            connection = socket.create_connection((host, int(port)), 10)
            stack.enter_context(connection)
            connection.sendall("\r\n".join(lines).encode())
            assert b" 101 " in connection.recv(4096)
        for _ in range(3):
            assert exporter.get("/").status == 503
            assert exporter.get("/metrics").status == 200
            assert exporter.get("/-/ready").status == 200
        slow_ones(exporter, stack, 100)
        assert exporter.get("/metrics").status == 200
    eventually(lambda: exporter.get("/").status == 200)


def test_where_no_more_files_can_be_opened_slow_clients_make_room(
    exporter_process: Callable[..., Exporter],
) -> None:
    exporter = exporter_process()
    assert exporter.get("/").status == 200
    files = len(list(Path(f"/proc/{exporter.process.pid}/fd").iterdir())) + 40
    resource.prlimit(exporter.process.pid, resource.RLIMIT_NOFILE, (files, files))
    with ExitStack() as stack:
        slow_ones(exporter, stack, 100)
        for _ in range(5):
            assert exporter.get("/-/ready").status == 200


def test_a_browser_that_says_too_much_is_let_go(
    exporter_process: Callable[..., Exporter],
) -> None:
    simple_websocket = pytest.importorskip("simple_websocket")
    exporter = exporter_process()
    browser = simple_websocket.Client(f"ws{exporter.web[4:]}/live")

    def flooded() -> bool:
        try:
            browser.send("visible" * 100)
        except (simple_websocket.ConnectionClosed, OSError):
            return True
        return False

    eventually(flooded, 20)
    eventually(lambda: exporter.value("episight_browsers") == 0)
