"""What is served over HTTP: metrics, health, the API, and the live page's routes.

Flask, in the exporter's own process; each request has a thread of ``server``, was let
in by ``access``, reads snapshots, and changes nothing but through the writer or ingest.
Everything an experiment said is data here: it is escaped by JSON or by the templates,
never trusted.
"""

import gzip
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flask
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import (
    generate_latest as openmetrics_text,
)
from werkzeug.exceptions import HTTPException

from experiment_hooks import wire
from exporter import api_episodes, exposition, views
from exporter._version import version
from exporter.access import Access
from exporter.answers import as_json as _json
from exporter.answers import known_run
from exporter.ingest import Ingest
from exporter.losses import Losses
from exporter.metrics import RunMetrics
from exporter.reader import Reader
from exporter.runs import Run
from exporter.state import State
from exporter.verdict import STOP_ID, Rules, deletable, verdict
from exporter.writer import Writer

MAX_BODY = 64 * 1024
COMMAND_KEPT = 100


@dataclass(frozen=True)
class Served:
    """What the web's routes read and call."""

    state: State
    rules: Rules
    reader: Reader
    metrics: RunMetrics
    losses: Losses
    registry: CollectorRegistry
    ingest: Ingest
    writer: Writer
    clock: Callable[[], float]
    restored: threading.Event = field(default_factory=threading.Event)
    """Set when the journal has been read: what is served before would be too little."""


def create_app(served: Served, access: Access) -> flask.Flask:
    """The WSGI application, without the live page's routes."""
    app = flask.Flask("exporter.live")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    access.guard(app)
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.before_request
    def not_yet() -> None:
        if not served.restored.is_set() and flask.request.path != "/-/healthy":
            flask.abort(503, "not ready: the journal is being read")

    _add_health(app, served)
    given = Given()
    _add_api(app, served, given)
    api_episodes.add(app, served.state, served.reader)
    _add_commands(app, served, given)
    app.register_error_handler(HTTPException, _failed)
    return app


def _failed(error: HTTPException) -> flask.Response:
    """An error in the words of who asked: JSON for the API, else text."""
    response = flask.make_response(error.get_response())
    text = error.description or error.name
    if flask.request.path.startswith("/api/"):
        response.data, response.mimetype = (
            json.dumps({"error": text}),
            "application/json",
        )
    else:
        response.data, response.mimetype = f"{text}\n", "text/plain"
    return response


# --- metrics and health ---------------------------------------------------------------


def _add_health(app: flask.Flask, served: Served) -> None:
    @app.get("/metrics")
    def metrics() -> flask.Response:
        accept = flask.request.headers.get("Accept", "")
        openmetrics, content_type = exposition.negotiate(accept)
        # In this order: the exporter's own say how many series the runs have.
        pieces = served.metrics.pieces(openmetrics)
        pieces.append(own_metrics(served.registry, openmetrics))
        body = b"".join(pieces)
        zipped = flask.request.accept_encodings.quality("gzip") > 0
        if zipped:
            # Of 10 MB it makes 1 in 30 ms, without the interpreter's lock; the levels
            # above 1 take twice that to save another tenth.
            body = gzip.compress(body, compresslevel=1, mtime=0)
        answer = flask.Response(body, content_type=content_type)
        if zipped:
            answer.content_encoding = "gzip"
        answer.vary.update(("Accept", "Accept-Encoding"))
        return answer

    @app.get("/-/healthy")
    def healthy() -> tuple[str, int]:
        return "ok\n", 200

    @app.get("/-/ready")
    def ready() -> tuple[str, int]:
        if not served.writer.is_alive() or not served.ingest.healthy:
            return "a part has ended: see the log\n", 503
        if not served.writer.healthy:
            return f"{served.writer.trouble}\n", 503
        return "ready\n", 200


def own_metrics(registry: CollectorRegistry, openmetrics: bool) -> bytes:
    """The exporter's own metrics; with the end marker in OpenMetrics."""
    if openmetrics:
        text: bytes = openmetrics_text(registry)  # type: ignore[no-untyped-call]
        return text
    return generate_latest(registry)


# --- the API --------------------------------------------------------------------------


def _add_api(app: flask.Flask, served: Served, given: "Given") -> None:
    @app.get("/api/v1/status")
    def status() -> flask.Response:
        lost = served.losses.found()
        with served.state.lock:
            missing = sum(map(views.missing, served.state.runs.values()))
        return _json(
            {
                "version": version,
                "trouble": served.writer.trouble,
                "rejected": lost["rejected"],
                "unused": lost["unused"],
                "missing": missing,
                "series": {
                    "served": served.metrics.series,
                    "refused": lost["refused"],
                    "offenders": lost["offenders"],
                },
                "traces": {
                    "pending": served.writer.traces_waiting,
                    "failed": lost["spans"],
                    "error": lost["trace_error"],
                },
            }
        )

    @app.get("/api/v1/runs")
    def runs() -> flask.Response:
        found = views.runs(served.state, served.clock(), served.rules)
        return _json({"runs": found})

    @app.get("/api/v1/runs/<run>")
    def run_detail(run: str) -> flask.Response:
        with served.state.lock:
            found = views.run_detail(_run(served, run), served.clock(), served.rules)
        return _json(found)

    @app.delete("/api/v1/runs/<run>")
    def delete(run: str) -> tuple[str, int]:
        with served.state.lock:
            known = _run(served, run)
            ended = verdict(known, served.clock(), served.rules).ended
            free = deletable(known, served.clock(), served.rules)
        if not ended:
            flask.abort(409, "the run has not ended")
        if not free:
            flask.abort(409, "the run has ended, but some of its processes have not")
        served.writer.delete(run)
        given.forget(run)
        return "", 204


def _run(served: Served, name: str) -> Run:
    return known_run(served.state, name)


# --- commands -------------------------------------------------------------------------


class Given:
    """The commands that were given since the start, by run; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, list[dict[str, Any]]] = {}

    def add(self, run: str, said: dict[str, Any]) -> None:
        """Remember one; the oldest go."""
        with self._lock:
            known = self._found.setdefault(run, [])
            known.append(said)
            del known[:-COMMAND_KEPT]

    def of(self, run: str) -> list[dict[str, Any]]:
        """Copies of a run's commands, oldest first."""
        with self._lock:
            return [dict(one) for one in self._found.get(run, [])]

    def forget(self, run: str) -> None:
        """The run is deleted."""
        with self._lock:
            self._found.pop(run, None)


def _add_commands(app: flask.Flask, served: Served, given: Given) -> None:
    @app.get("/api/v1/runs/<run>/commands")
    def commands(run: str) -> flask.Response:
        with served.state.lock:
            known = _run(served, run).commands
            answers = {command: dict(found) for command, found in known.items()}
        listed = given.of(run)
        for one in listed:
            told = answers.get(one["id"], {})
            one["sources"] = [_answered(source, told) for source in one["sources"]]
        return _json({"commands": listed})

    @app.post("/api/v1/runs/<run>/commands")
    def command(run: str) -> tuple[flask.Response, int]:
        body = flask.request.get_json(silent=True)
        if not isinstance(body, dict) or not isinstance(body.get("command"), str):
            flask.abort(400, 'send JSON: {"command": "stop", "when": "step"}')
        when = body.get("when", "step")
        if when not in ("step", "episode", "now"):
            flask.abort(400, "when is step, episode or now")
        with served.state.lock:
            found = _run(served, run)
            live = [
                one.id
                for one in found.sources.values()
                if one.closed is None and one.lost_at is None
            ]
        if body.get("source"):
            live = [one for one in live if one.hex() == body["source"]]
        if not live:
            flask.abort(409, "no process of the run is there to take a command")
        name = _text(body["command"], 100)
        order = wire.Command(
            id=(STOP_ID if name == "stop" else "") + secrets.token_hex(8),
            name=name,
            when=when,
            reason=_text(body.get("reason") or "", 500),
            by=flask.request.remote_addr or "",
        )
        for source in live:
            served.ingest.command(source, order)
        said = {
            "id": order.id,
            "command": order.name,
            "when": when,
            "reason": order.reason,
            "by": order.by,
            "at": served.clock(),
            "sources": live,
        }
        given.add(run, said)
        return _json({"id": order.id}), 202


def _answered(source: bytes, told: dict[bytes, wire.CommandAnswered]) -> dict[str, str]:
    answer = told.get(source)
    return {
        "source": source.hex(),
        "state": answer.state if answer else "sent",
        "detail": answer.detail if answer else "",
    }


def _text(value: object, most: int) -> str:
    # JSON can say half a surrogate pair, the wire cannot.
    return str(value)[:most].encode("utf-8", "replace").decode()
