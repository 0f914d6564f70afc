"""The live page's routes: documents, images, and the websocket that keeps them right.

Each request runs in a thread of its own, and was let in by ``access``. Nothing here is
trusted: not what experiments said (``view`` escapes it), not that a browser reads what
it is sent, nor that it says no more than a page has to say.
"""

import json
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import flask
from flask_sock import ConnectionClosed, Sock
from wsproto.utilities import ProtocolError

from exporter._version import version
from exporter.ingest import Ingest
from exporter.live import episodes, pictures, view
from exporter.live.hub import GoneError, Hub, Subject
from exporter.live.listing import ListScene, Query
from exporter.live.looks import Look, Looks
from exporter.live.scene import RunScene
from exporter.losses import Losses
from exporter.present import Picture
from exporter.verdict import STATES

logger = logging.getLogger("exporter")

SEND_SECONDS = 10.0
"""A browser that does not take a message within so long is let go."""
SEND_BUFFER = 128 * 1024
"""Bytes under way to a browser at most: what a slow one sees is never much older."""
PING_SECONDS = 20
MAX_HEARD = 1024
"""Bytes of one message of a browser."""
HEARD_AT_ONCE, HEARD_PER_SECOND = 64 * 1024, 1024
"""Bytes of a browser's messages in all: it says no more than whether it is seen."""
MAX_QUERY = 200
PICTURES_KEPT = 32


def add(
    app: flask.Flask,
    hub: Hub,
    *,
    ingest: Ingest,
    losses: Losses,
    addresses: tuple[str, str],
    looks: Looks,
) -> None:
    """Add the routes.

    Args:
        app: gets them.
        hub: serves the browsers.
        ingest: knows the connections that were refused.
        losses: knows what could not be used.
        addresses: where the page is, and where sources connect to.
        looks: how runs are drawn.
    """
    pages = Pages(hub, ingest, losses, addresses, looks)
    app.config["SOCK_SERVER_OPTIONS"] = {
        "ping_interval": PING_SECONDS,
        "max_message_size": MAX_HEARD,
    }
    app.before_request(pages.guard_sockets)
    app.register_error_handler(ProtocolError, _no_websocket)
    app.get("/", endpoint="page_runs")(pages.runs)
    app.get("/runs/<run>", endpoint="page_run")(pages.run)
    episodes.add(app, hub.parts, hub.clock)
    # A name may have slashes in it, and two in a row are not one.
    address = "/runs/<run>/sources/<source>/images/<path:name>.png"
    app.get(address, endpoint="page_image", merge_slashes=False)(pages.image)
    sock = Sock(app)
    sock.route("/live", endpoint="live_runs")(pages.runs_live)
    sock.route("/runs/<run>/live", endpoint="live_run")(pages.run_live)


class Pages:
    """The routes; see :func:`add`."""

    def __init__(
        self,
        hub: Hub,
        ingest: Ingest,
        losses: Losses,
        addresses: tuple[str, str],
        looks: Looks,
    ) -> None:
        self._hub = hub
        self._looks = looks
        self._ingest = ingest
        self._found = losses
        self._addresses = (("Page", addresses[0]), ("Sources", addresses[1]))
        self._pictures = Pictures()

    # --- documents -------------------------------------------------------------------

    def runs(self) -> str:
        """The list of runs."""
        query = self._query()
        shown = self._hub.shown(self._list(query))
        asked = {"q": query.text, "state": query.state}
        said = urlencode({name: text for name, text in asked.items() if text})
        return view.page(
            "runs.html",
            shown,
            version=version,
            root="",
            socket=f"./live?{said}",
            query=query,
        )

    def run(self, run: str) -> str | tuple[str, int]:
        """A run's page."""
        with self._hub.parts.state.lock:
            known = run in self._hub.parts.state.runs
        values: dict[str, Any] = {"version": version, "root": "../", "run": run}
        values["socket"] = f"./{quote(run, safe='')}/live"
        if not known:
            return view.page("missing.html", view.Shown(), **values), 404
        look = self._look(run, fresh=True)
        shown = self._hub.shown(self._run(run, look))
        with look.in_use():
            return view.page("run.html", shown, **values)

    def image(self, run: str, source: str, name: str) -> flask.Response:
        """The newest image of a name that a source of the run has sent."""
        identity = _source(source)
        present = self._hub.parts.presents.of(identity) if identity else None
        if identity is None or present is None or present.run != run:
            flask.abort(404, "nothing was seen of that source")
        if name not in present.pictures:
            flask.abort(404, "there is no such image")
        try:
            body = self._pictures.png(identity, present.pictures[name])
        except pictures.PictureError as error:
            flask.abort(404, str(error))
        headers = {"Cache-Control": "no-store"}
        return flask.Response(body, mimetype="image/png", headers=headers)

    # --- websockets ------------------------------------------------------------------

    def runs_live(self, connection: Any) -> None:
        """Keeps a list of runs right."""
        self._attend(self._list(self._query()), connection)

    def run_live(self, connection: Any, run: str) -> None:
        """Keeps a run's page right."""
        self._attend(self._run(run, self._look(run)), connection)

    def _attend(self, subject: Subject, connection: Any) -> None:
        browser = Connected(connection)
        try:
            # A page that was made by another version reloads itself.
            browser.send(json.dumps({"version": version}))
            self._hub.attend(subject, browser)
        except GoneError:
            pass

    def guard_sockets(self) -> None:
        """Before a websocket is accepted: is there room?"""
        request = flask.request
        if request.url_rule is None or not request.url_rule.websocket:
            return
        if self._hub.full:
            flask.abort(503, "too many browsers")
        environ = request.environ
        # Compressing for each browser anew would cost more than it saves.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        environ["werkzeug.socket"] = Line(
            environ["werkzeug.socket"], environ["episight.served"].stay
        )

    # --- subjects --------------------------------------------------------------------

    def _query(self) -> Query:
        args = flask.request.args
        state = args.get("state", "")
        known = state if state in ("live", "ended", *STATES) else ""
        return Query(args.get("q", "").strip()[:MAX_QUERY], known)

    def _list(self, query: Query) -> Subject:
        return Subject(
            key=query,
            scene=lambda: ListScene(
                query,
                self._refused,
                self._losses,
                self._addresses,
                self._hub.parts,
            ),
        )

    def _run(self, run: str, look: Look) -> Subject:
        source = _source(flask.request.args.get("source", ""))
        return Subject(
            key=(run, source, look),
            scene=lambda: RunScene(run, source, self._hub.parts, look),
            run=run,
        )

    def _look(self, run: str, *, fresh: bool = False) -> Look:
        with self._hub.parts.state.lock:
            known = self._hub.parts.state.runs.get(run)
            name = known.experiment if known else ""
            tags = known.opened.tags if known and known.opened else {}
        return self._looks.of(name, tags.get("kind"), fresh=fresh)

    def _refused(self) -> list[view.Refused]:
        return [
            view.Refused(one.at, one.who, one.sentence)
            for one in list(self._ingest.refusals)
        ]

    def _losses(self) -> view.Losses:
        return view.Losses(**self._found.found(wait=False))


def _no_websocket(error: ProtocolError) -> flask.Response:
    return flask.Response(f"no websocket: {error}\n", 400, mimetype="text/plain")


def _source(text: str) -> bytes | None:
    """A source's id as it stands in an address; None for what is none."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == 16 else None


class Pictures:
    """The newest images as PNG, each encoded once however many look at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[bytes, str], tuple[float, bytes]] = OrderedDict()

    def png(self, source: bytes, picture: Picture) -> bytes:
        """A source's picture, encoded; raises ``PictureError``."""
        key = source, picture.image.name
        with self._lock:
            known = self._made.get(key)
            if known is None or known[0] != picture.received:
                known = picture.received, pictures.png(picture.image, picture.data)
                self._made[key] = known
            self._made.move_to_end(key)
            while len(self._made) > PICTURES_KEPT:
                self._made.popitem(last=False)
        return known[1]


class Connected:
    """The hub's view of one websocket."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def send(self, text: str) -> None:
        """Send a message whole; see ``hub.Browser``."""
        try:
            self._connection.send(text)
        except (ConnectionClosed, OSError) as error:
            self.hang_up()
            raise GoneError(str(error)) from error

    def heard(self) -> list[str]:
        """What the browser has said; see ``hub.Browser``."""
        said: list[str] = []
        try:
            while (text := self._connection.receive(timeout=0)) is not None:
                said.append(str(text))
        except ConnectionClosed as error:
            raise GoneError(str(error)) from error
        return said

    def hang_up(self) -> None:
        """End the connection at once; see ``hub.Browser``."""
        self._connection.sock.shutdown()


class Line:
    """A browser's socket, made fit for two threads and for a browser that is stuck.

    simple_websocket writes from two threads (messages; pings and the answer to a
    close), and takes it that a write takes all. Here one writes at a time, all of it,
    or the socket is done with. ``answered`` is called before anything is sent.
    """

    def __init__(
        self, connection: socket.socket, answered: Callable[[], None] = lambda: None
    ) -> None:
        self._socket = connection
        self._answered = answered
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._heard = 0
        connection.settimeout(SEND_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send(self, data: bytes) -> int:
        """Send all of it within the deadline; raises OSError."""
        self._answered()
        with self._lock:
            try:
                self._socket.sendall(data)
            except OSError:
                self.shutdown()
                raise
        return len(data)

    def recv(self, most: int) -> bytes:
        """What has come; raises OSError, also for more than a page has to say."""
        data = self._socket.recv(most)
        self._heard += len(data)
        seconds = time.monotonic() - self._since
        if self._heard > HEARD_AT_ONCE + HEARD_PER_SECOND * seconds:
            raise OSError("a browser says too much")
        return data

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def shutdown(self) -> None:
        """Nothing is sent or received any more; whoever waits stops waiting."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was over already
            pass

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
