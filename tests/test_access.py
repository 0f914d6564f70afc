"""Who may do what over HTTP: names, origins, the token, and what browsers are told."""

from __future__ import annotations

import re
from typing import Any

import flask
import pytest
from markupsafe import Markup
from werkzeug.test import TestResponse

from exporter import access as access_module
from exporter.access import Access, own_names
from exporter.settings import Settings
from tests.support import ROOT

TOKEN = "the-token-of-these-tests"
HERE = "http://localhost"


def application(**options: Any) -> flask.Flask:
    """What is guarded: a page, something to read, something that changes things."""
    app = flask.Flask("exporter.live")
    Access(TOKEN, **options).guard(app)
    app.get("/", endpoint="page_runs")(lambda: "runs")
    app.get("/runs/<run>", endpoint="page_run")(lambda run: f"run {run}")
    app.get("/runs/<run>/episodes", endpoint="page_episodes")(lambda run: "episodes")
    app.get("/runs/<run>/episodes/<trace_id>", endpoint="page_episode")(
        lambda run, trace_id: "episode"
    )
    app.get("/read", endpoint="read")(lambda: "read")
    app.get("/metrics", endpoint="metrics")(lambda: "metrics")
    app.get("/-/ready", endpoint="ready")(lambda: "ready")
    app.post("/change", endpoint="change")(lambda: ("changed", 202))
    app.delete("/change", endpoint="delete")(lambda: ("", 204))
    return app


class Visitor:
    """A client of the application, at first without token and cookie."""

    def __init__(self, **options: Any) -> None:
        self.client = application(**options).test_client()

    def __call__(
        self, path: str = "/read", method: str = "GET", **headers: str
    ) -> TestResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open(path, method=method, headers=sent, buffered=True)

    def status(self, path: str = "/read", method: str = "GET", **headers: str) -> int:
        return self(path, method, **headers).status_code

    def log_in(self) -> Visitor:
        assert self(f"/?token={TOKEN}").status_code == 303
        return self


@pytest.fixture
def reader() -> Visitor:
    """A visitor where everybody may read."""
    return Visitor()


@pytest.fixture
def outsider() -> Visitor:
    """A visitor where reading needs the token too."""
    return Visitor(token_reading=True)


BEARER = {"Authorization": f"Bearer {TOKEN}"}

# --- the token ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_what_changes_anything_needs_the_token(reader: Visitor, method: str) -> None:
    answer = reader("/change", method)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "episight token" in answer.text
    assert reader.status("/change", method, **BEARER) in (202, 204)


WRONG = ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN]
WRONG += [f"Basic {TOKEN}", f"Bearer {TOKEN} {TOKEN}", "Bearer \xe9", "Bearer None"]


@pytest.mark.parametrize("given", WRONG)
def test_only_the_whole_token_is_the_token(reader: Visitor, given: str) -> None:
    assert reader.status("/change", "POST", Authorization=given) == 401
    assert reader.status("/read", Authorization=given) == 200


def test_the_word_bearer_may_be_written_in_any_way(reader: Visitor) -> None:
    assert reader.status("/change", "POST", Authorization=f"bearer  {TOKEN}") == 202


def test_in_an_address_the_token_is_for_pages_only(reader: Visitor) -> None:
    assert reader.status(f"/change?token={TOKEN}", "POST") == 401
    answer = reader(f"/read?token={TOKEN}")
    assert "Set-Cookie" not in answer.headers


def test_reading_is_free_unless_the_settings_say_otherwise(
    reader: Visitor, outsider: Visitor
) -> None:
    for path in ("/", "/read", "/metrics", "/runs/a"):
        assert reader.status(path) == 200
        assert outsider.status(path) == 401
        assert outsider.status(path, **BEARER) == 200
    assert outsider.status("/nowhere") == 401, "not even what there is"


def test_health_and_the_files_of_the_pages_are_for_everybody(outsider: Visitor) -> None:
    assert outsider.status("/-/ready") == 200
    assert outsider.status("/-/ready", Host="10.9.8.7:8000") == 200
    assert outsider.status("/static/live.js") == 200


# --- the cookie -----------------------------------------------------------------------


def test_a_pages_address_with_the_token_is_exchanged_for_a_cookie(
    outsider: Visitor,
) -> None:
    answer = outsider(f"/runs/a%20b?q=1&token={TOKEN}&source=c%26d")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "./a%20b?q=1&source=c%26d"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    cookie = answer.headers["Set-Cookie"]
    assert re.fullmatch(
        r"episight-\w{8}=\w{56}; HttpOnly; Path=/; SameSite=Strict", cookie
    )
    assert TOKEN not in f"{answer.headers}{answer.text}"
    assert outsider.status("/read") == 200


def test_behind_a_proxy_that_speaks_tls_the_cookie_is_for_tls_only(
    reader: Visitor,
) -> None:
    answer = reader(f"/?token={TOKEN}", X_Forwarded_Proto="https")
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_a_wrong_token_in_an_address_is_said_to_be_wrong(outsider: Visitor) -> None:
    answer = outsider("/?token=guessed")
    assert answer.status_code == 401
    assert "That is not this exporter's token." in answer.text
    assert "guessed" not in answer.text
    assert "Set-Cookie" not in answer.headers
    assert outsider.status("/read") == 401


def test_the_token_may_be_typed_into_the_page_that_asks_for_it(
    outsider: Visitor,
) -> None:
    page = outsider("/runs/a")
    assert page.status_code == 401
    assert 'action="../login"' in page.text
    typed = {"token": "guessed"}
    assert outsider.client.post("/login", data=typed).status_code == 401
    answer = outsider.client.post("/login", data={"token": f" {TOKEN}\n"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "./")
    assert outsider.status("/runs/a") == 200


SOURCE = "0123456789abcdef" * 2
WHENCE = [
    ("a run", {"run": "grasping-7"}, "./runs/grasping-7"),
    ("its source", {"run": "a:b", "source": SOURCE}, f"./runs/a%3Ab?source={SOURCE}"),
    ("no source", {"run": "a", "source": "x&y=//evil"}, "./runs/a"),
    ("nothing", {}, "./"),
    ("an address", {"run": "//evil.example"}, "./"),
    ("another", {"run": "https://evil.example"}, "./"),
    ("a scheme", {"run": "javascript:alert(1)"}, "./"),
    ("backslashes", {"run": "\\\\evil.example"}, "./"),
    ("a way up", {"run": "../../evil"}, "./"),
    ("a line", {"run": "a\r\nSet-Cookie: x=y"}, "./"),
    ("old", {"to": "https://evil.example", "next": "//evil"}, "./"),
]


@pytest.mark.parametrize(
    ("said", "to"), [w[1:] for w in WHENCE], ids=[w[0] for w in WHENCE]
)
def test_after_the_token_one_is_back_where_one_came_from_and_nowhere_else(
    reader: Visitor, said: dict[str, str], to: str
) -> None:
    page = reader.client.get("/login", query_string=said)
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert 'action="login"' in page.text
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    if "run" in said:
        assert Markup(fields["run"]).unescape() == said["run"]
    wrong = reader.client.post("/login", data={**said, "token": "guessed"})
    assert wrong.status_code == 401
    assert re.findall('name="run" value="([^"]*)"', wrong.text) == (
        [fields["run"]] if "run" in said else []
    )
    answer = reader.client.post("/login", data={**said, "token": TOKEN})
    assert (answer.status_code, answer.headers["Location"]) == (303, to)


def test_where_reading_needs_it_too_one_comes_back_to_the_page_that_was_asked_for(
    outsider: Visitor,
) -> None:
    page = outsider(f"/runs/a?source={SOURCE}")
    assert page.status_code == 401
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    assert fields == {"run": "a", "source": SOURCE}
    answer = outsider.client.post("/login", data={**fields, "token": TOKEN})
    assert answer.headers["Location"] == f"./runs/a?source={SOURCE}"


def test_the_cookie_changes_things_for_our_own_pages_only(reader: Visitor) -> None:
    reader.log_in()
    assert reader.status("/change", "POST", Origin=HERE) == 202
    assert reader.status("/change", "POST") == 401, "no page sends none"


def test_the_cookie_of_another_token_is_none(reader: Visitor) -> None:
    answer = Visitor()(f"/?token={TOKEN}")
    name, value = answer.headers["Set-Cookie"].split(";")[0].split("=")
    for wrong in ("", value[:-1], value + "0", "\xe9"):
        reader.client.set_cookie(name, wrong)
        assert reader.status("/change", "POST", Origin=HERE) == 401
    reader.client.set_cookie(name, value)
    assert reader.status("/change", "POST", Origin=HERE) == 202


def test_from_a_foreign_pages_link_the_page_is_asked_for_once_more(
    outsider: Visitor,
) -> None:
    """By our own page: a strict cookie does not come along from a foreign one."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert 'http-equiv="refresh"' in outsider("/runs/a", **foreign).text
    assert 'http-equiv="refresh"' not in outsider("/runs/a").text
    assert 'http-equiv="refresh"' not in outsider("/?token=wrong", **foreign).text


# --- names ----------------------------------------------------------------------------

OURS = [
    "localhost", "localhost:8000", "LocalHost:1", "127.0.0.1", "127.0.0.1:65535",
    "127.8.9.1:80", "[::1]", "[::1]:8000",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil",
    "evil-localhost", "10.0.0.7:8000", "0.0.0.0:8000", "[::2]", "", "a b", "localhost:",
    "localhost:80:80", "localhost,evil", "localhost@evil", "\xe9", "127.0.0.1\\evil",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_it_goes_by_the_names_of_loopback(reader: Visitor, host: str) -> None:
    assert reader.status(Host=host) == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/read", "/metrics", "/static/live.js"])
def test_by_another_name_it_says_which_setting_would_allow_it(
    reader: Visitor, path: str, host: str
) -> None:
    answer = reader(path, Host=host)
    assert answer.status_code == 403
    assert "security.allowed_hosts" in answer.text


def test_who_brings_the_token_may_use_any_name(reader: Visitor) -> None:
    assert reader.status(Host="exporter:8000", **BEARER) == 200
    reader.log_in()
    assert reader.status(Host="exporter:8000") == 403


def test_names_can_be_allowed(reader: Visitor) -> None:
    allowing = Visitor(hosts=frozenset({"exporter"}))
    assert allowing.status(Host="Exporter:8000") == 200
    assert allowing.status(Host="10.0.0.7:8000") == 403
    assert Visitor(addresses=True).status(Host="10.0.0.7:8000") == 200
    assert Visitor(addresses=True).status(Host="[fe80::1]:8000") == 200
    assert Visitor(addresses=True).status(Host="10.0.0.7.evil") == 403


def test_a_machines_own_names_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module.socket, "gethostname", lambda: "Node-7.Lab")
    monkeypatch.setattr(access_module.socket, "getfqdn", lambda: "node-7.lab.example")
    local = {"127.0.0.1", "node-7.lab", "node-7"}
    assert own_names("127.0.0.1") == local
    assert own_names("192.0.2.5") == {
        "192.0.2.5", "node-7.lab", "node-7", "node-7.lab.example",
    }  # fmt: skip


def test_the_settings_say_which_names_and_whether_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def visitor(host: str) -> Visitor:
        security = {"allowed_hosts": "exporter, Other", "insecure": True}
        settings = Settings.of({"web": {"host": host}, "security": security})
        found = Visitor()
        found.client = flask.Flask("exporter.live").test_client()
        app = found.client.application
        Access.of(settings, TOKEN).guard(app)
        app.get("/read")(lambda: "read")
        return found

    for host in ("exporter:1", "other", "localhost"):
        assert visitor("127.0.0.1").status(Host=host) == 200
    assert visitor("127.0.0.1").status(Host="192.0.2.9") == 403
    assert visitor("0.0.0.0").status(Host="192.0.2.9") == 200
    assert visitor("0.0.0.0").status(Host="evil.example") == 403


# --- origins --------------------------------------------------------------------------

ORIGINS = [
    ("http://localhost", True),
    ("https://localhost", True),
    ("HTTP://LOCALHOST", True),
    ("http://localhost:81", False),
    ("http://evil.example", False),
    ("http://localhost.evil.example", False),
    ("http://localhost@evil.example", False),
    ("null", False),
    ("", False),
    ("localhost", False),
    ("file://localhost", False),
    ("chrome-extension://localhost", False),
]


@pytest.mark.parametrize(("origin", "same"), ORIGINS)
def test_changes_and_websockets_are_for_our_own_pages(
    reader: Visitor, origin: str, same: bool
) -> None:
    reader.log_in()
    assert (reader.status("/change", "POST", Origin=origin) == 202) is same
    assert (reader.status("/change", "POST", Origin=origin, **BEARER) == 202) is same
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Origin": origin}
    assert (reader.status("/read", **upgrade) != 403) is same
    assert reader.status("/read", Origin=origin) == 200, "what cannot be read by it"


def test_no_foreign_page_may_log_anybody_in(reader: Visitor) -> None:
    data = {"token": TOKEN}
    foreign = {"Origin": "http://evil.example"}
    assert reader.client.post("/login", data=data, headers=foreign).status_code == 403


def test_no_page_is_told_that_it_may_ask_from_elsewhere(reader: Visitor) -> None:
    foreign = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        headers = reader("/read", method, **foreign).headers
        assert not [name for name, _ in headers if name.startswith("Access-C")]


# --- headers --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/read", "/nowhere", "/static/live.js"])
def test_every_answer_tells_browsers_what_to_forbid(
    outsider: Visitor, path: str
) -> None:
    for given in ({}, BEARER):
        headers = outsider(path, **given).headers
        policy = headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in str(policy)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == (
            "no-cache" if "static" in path else "no-store"
        )


def test_templates_have_no_code_and_no_style_of_their_own() -> None:
    for path in (ROOT / "exporter" / "live" / "templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|\son\w+=|javascript:|<style", text), path
        assert re.findall(r"<script(?! src=)", text) == [], path
