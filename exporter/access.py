"""Who may do what over HTTP, and what browsers are told to forbid.

Asked before each request, on that request's thread; nothing here changes. In order:

1. Health is for everybody.
2. The ``Host`` has to be a name of this exporter: a foreign page can have its own name
   lead here (DNS rebinding), and would then be served as if it were one of ours.
   Whoever brings the token itself is no such page, and may use any name.
3. A websocket, and whatever changes anything, is for our pages and for programs: an
   ``Origin`` that is there has to be the ``Host``.
4. What changes anything needs the token; so does reading, if the settings say so. The
   token comes as ``Authorization: Bearer``, or as the cookie that ``?token=`` in a
   page's address is exchanged for; the cookie changes nothing without an ``Origin``.

The token is never logged, never part of an answer, and compared in constant time.
"""

import hashlib
import hmac
import ipaddress
import re
import socket
from urllib.parse import quote, urlencode

import flask
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized
from werkzeug.wrappers import Response

from exporter import checks
from exporter._version import version
from exporter.live import view
from exporter.settings import Settings, is_loopback

OPEN = frozenset({"/-/healthy", "/-/ready"})
PAGES = frozenset({"page_runs", "page_run", "page_episodes", "page_episode"})
"""Endpoints that people open; the others are for programs and for the pages."""
UNASKED = frozenset({"static", "login", "login_page"})
"""Endpoints that are there before anybody has shown the token."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_SOURCE = re.compile(r"[0-9a-f]{32}")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Of files that come with us the server says otherwise.
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
}


class Access:
    """The rules, for one token and one set of names.

    Args:
        token: what opens.
        token_reading: whether reading needs it too.
        hosts: names that the exporter goes by, besides those of loopback.
        addresses: whether it goes by any IP address too; no name leads to a foreign
            page by one.
    """

    def __init__(
        self,
        token: str,
        *,
        token_reading: bool = False,
        hosts: frozenset[str] = frozenset(),
        addresses: bool = False,
    ) -> None:
        self._token = token.encode()
        self._token_reading = token_reading
        self._hosts = hosts
        self._addresses = addresses
        # A browser sends its cookies to every port of a host: so they are not the token
        # itself, and two exporters do not overwrite each other's.
        made = hmac.new(self._token, b"episight cookie", hashlib.sha256).hexdigest()
        self._cookie_name = f"episight-{made[:8]}"
        self._cookie = made[8:].encode()

    @classmethod
    def of(cls, settings: Settings, token: str) -> "Access":
        """The rules that the settings say."""
        host, security = settings.web.host, settings.security
        return cls(
            token,
            token_reading=security.token_reading,
            hosts=own_names(host) | frozenset(security.allowed_hosts),
            addresses=not is_loopback(host),
        )

    def guard(self, app: flask.Flask) -> None:
        """Let an application be asked by these rules, before all others."""
        app.before_request(self._check)
        app.after_request(_secured)
        app.post("/login", endpoint="login")(self._login)
        app.get("/login", endpoint="login_page")(_login_page)

    # --- the rules -------------------------------------------------------------------

    def _check(self) -> Response | None:
        request = flask.request
        if request.path in OPEN:
            return None
        host = request.environ.get("HTTP_HOST", "")
        bearer = self._is_token(_bearer())
        if not bearer and not self._goes_by(host):
            flask.abort(403, _no_such_name(host))
        changes = request.method not in _READS
        origin = request.headers.get("Origin")
        if (changes or _is_upgrade()) and not _is_same(origin, host):
            flask.abort(403, "this is for pages of this exporter only (Origin)")
        if request.endpoint in PAGES and "token" in request.args:
            return self._exchange()
        if request.endpoint in UNASKED or not (changes or self._token_reading):
            return None
        by_cookie = self._has_cookie() and not (changes and origin is None)
        return None if bearer or by_cookie else _asked()

    def _goes_by(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = found[1].strip("[]").lower() if found else ""
        return (
            is_loopback(name)
            or name in self._hosts
            or (self._addresses and _is_address(name))
        )

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._token)

    def _has_cookie(self) -> bool:
        text = flask.request.cookies.get(self._cookie_name, "")
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._cookie)

    # --- token for cookie ------------------------------------------------------------

    def _exchange(self) -> Response:
        """The page's address without the token in it, and the cookie instead."""
        args = flask.request.args.to_dict(flat=False)
        if not self._is_token(args.pop("token")[-1]):
            return _login_page(wrong=True)
        last = quote(flask.request.path.rpartition("/")[2], safe="")
        query = urlencode(args, doseq=True)
        return self._let_in(f"./{last}{'?' if query else ''}{query}")

    def _login(self) -> Response:
        if not self._is_token(flask.request.form.get("token", "").strip()):
            return _login_page(wrong=True)
        return self._let_in(_page_of(*_whence()))

    def _let_in(self, to: str) -> Response:
        answer = flask.redirect(to, 303)
        # A proxy that speaks TLS says so; who lies keeps the cookie from itself.
        secure = flask.request.headers.get("X-Forwarded-Proto") == "https"
        answer.set_cookie(
            self._cookie_name,
            self._cookie.decode(),
            httponly=True,
            samesite="Strict",
            secure=secure,
        )
        return answer


def _bearer() -> str:
    scheme, _, given = flask.request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _is_upgrade() -> bool:
    return "websocket" in flask.request.headers.get("Upgrade", "").lower()


def _is_same(origin: str | None, host: str) -> bool:
    """Whether it comes from a page of this exporter, or from no page at all."""
    if origin is None:
        return True
    scheme, _, where = origin.lower().partition("://")
    return scheme in ("http", "https") and where == host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _no_such_name(host: str) -> str:
    return (
        f"this exporter does not go by the name {host!r}; if it should, add it to "
        "security.allowed_hosts"
    )


# --- who has not shown the token ------------------------------------------------------


def _asked() -> Response:
    """Ask for the token: a person by a page, a program by a sentence."""
    if flask.request.endpoint in PAGES:
        return _login_page()
    sentence = (
        "this needs the token: send 'Authorization: Bearer <token>' "
        "(`episight token` prints it)"
    )
    challenge = WWWAuthenticate("bearer", {"realm": "episight"})
    raise Unauthorized(sentence, www_authenticate=challenge)


def _whence() -> tuple[str, str]:
    """From which run's page somebody comes, and with which source; mostly none."""
    said, request = flask.request.values, flask.request
    run = (request.view_args or {}).get("run") or said.get("run", "")
    return str(run), said.get("source", "")


def _page_of(run: str, source: str) -> str:
    """The address of a run's page, from the root; of all runs where there is no run.

    Made of what can only be a run's id and a source's, so it leads nowhere else.
    """
    if not checks.is_run_id(run):
        return "./"
    known = f"?source={source}" if _SOURCE.fullmatch(source) else ""
    return f"./runs/{quote(run, safe='')}{known}"


def _login_page(wrong: bool = False) -> Response:
    request = flask.request
    run, source = _whence()
    # A strict cookie does not come along from a foreign page's link: once more, from
    # our own page, it does.
    asked = request.endpoint in PAGES
    foreign = asked and request.headers.get("Sec-Fetch-Site") == "cross-site"
    html = view.page(
        "login.html",
        view.Shown(),
        version=version,
        root="../" * (request.path.count("/") - 1),
        socket="",
        wrong=wrong,
        run=run,
        source=source,
        again=foreign and not wrong and request.method == "GET",
    )
    answer = flask.make_response(html, 401 if asked or wrong else 200)
    # Without a referrer a form's Origin would be null.
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer


# --- names and headers ----------------------------------------------------------------


def own_names(host: str) -> frozenset[str]:
    """The names of this machine, and the one that is listened on."""
    full = socket.gethostname() if is_loopback(host) else socket.getfqdn()
    names = {host, full, socket.gethostname()}
    names |= {name.partition(".")[0] for name in names if not _is_address(name)}
    return frozenset(name.lower() for name in names if name)


def _secured(response: flask.Response) -> flask.Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response
