"""What is served over HTTP: metrics, health, the API, and the live page's routes.

Flask, in the exporter's own process; each request has a thread of ``server``, was let
in by ``access``, reads snapshots, and changes nothing but through the writer or ingest.
Everything an experiment said is data here: it is escaped by JSON or by the templates,
never trusted.
"""

import json
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
from exporter import api_episodes, exposition, orders, views
from exporter._version import version
from exporter.access import Access
from exporter.answers import as_json, known_run
from exporter.ingest import Ingest
from exporter.losses import Losses
from exporter.metrics import RunMetrics
from exporter.reader import Reader
from exporter.runs import Run
from exporter.settings import is_loopback
from exporter.state import State
from exporter.verdict import Rules, deletable, verdict
from exporter.writer import Writer
from exporter.zipped import zipped

MAX_BODY = 64 * 1024
MAX_ASKER = 200


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
    orders: orders.Orders
    clock: Callable[[], float]
    restored: threading.Event = field(default_factory=threading.Event)
    """Set when the journal has been read: what is served before would be too little."""


def create_app(served: Served, access: Access) -> flask.Flask:
    """The WSGI application, without the live page's routes."""
    app = flask.Flask("exporter.live")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.after_request(zipped)
    access.guard(app)
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.before_request
    def not_yet() -> None:
        if not served.restored.is_set() and flask.request.path != "/-/healthy":
            flask.abort(503, "not ready: the journal is being read")

    _add_health(app, served)
    _add_api(app, served)
    api_episodes.add(app, served.state, served.reader)
    _add_commands(app, served)
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
        answer = flask.Response(b"".join(pieces), content_type=content_type)
        answer.vary.add("Accept")
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


def _add_api(app: flask.Flask, served: Served) -> None:
    @app.get("/api/v1/status")
    def status() -> flask.Response:
        lost = served.losses.found()
        with served.state.lock:
            missing = sum(map(views.missing, served.state.runs.values()))
        return as_json(
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
        return as_json({"runs": found})

    @app.get("/api/v1/runs/<run>")
    def run_detail(run: str) -> flask.Response:
        with served.state.lock:
            found = views.run_detail(_run(served, run), served.clock(), served.rules)
        return as_json(found)

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
        return "", 204


def _run(served: Served, name: str) -> Run:
    return known_run(served.state, name)


# --- commands -------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A command as the body of a request says it."""

    name: str
    when: str
    source: str | None
    reason: str


def _add_commands(app: flask.Flask, served: Served) -> None:
    @app.get("/api/v1/runs/<run>/commands")
    def commands(run: str) -> flask.Response:
        with served.state.lock:
            found = views.commands(
                _run(served, run),
                served.orders.of(run),
                served.clock(),
                served.rules,
            )
        return as_json({"commands": found})

    @app.post("/api/v1/runs/<run>/commands")
    def command(run: str) -> tuple[flask.Response, int]:
        asked = _asked(flask.request.get_json(silent=True))
        with served.state.lock:
            order = _order(_run(served, run), asked, served.clock())
        trouble = served.orders.give(order)
        if trouble:
            flask.abort(503, trouble)
        return as_json({"id": order.id}), 202


def _asked(body: Any) -> Asked:
    """What is asked for; answers 400 where that cannot be."""
    if not isinstance(body, dict) or not isinstance(body.get("command"), str):
        flask.abort(400, 'send JSON: {"command": "stop", "when": "step"}')
    known = ("command", "when", "source", "reason")
    unknown = [name for name in body if name not in known]
    if unknown:
        flask.abort(400, f"{unknown[0]!r} is not known; {', '.join(known)} are")
    when = body.get("when", orders.BOUNDARIES[0])
    if when not in orders.BOUNDARIES:
        flask.abort(400, "when is step, episode or now")
    source, reason = body.get("source"), body.get("reason")
    if not all(one is None or isinstance(one, str) for one in (source, reason)):
        flask.abort(400, "source and reason are texts, or null")
    name = _text(body["command"], wire.MAX_COMMAND_NAME)
    return Asked(name, when, source, _text(reason or "", 500))


def _order(run: Run, asked: Asked, now: float) -> orders.Order:
    """The order, for the sources that are there to take it; answers where none is."""
    live = {one.id.hex(): one for one in orders.live(run)}
    if asked.source is not None and asked.source not in live:
        if any(one.id.hex() == asked.source for one in run.sources.values()):
            flask.abort(409, "that process is not there any more")
        flask.abort(404, f"the run has no source {asked.source[:100]!r}")
    if not live:
        flask.abort(409, "no process of the run is there to take a command")
    those = [*live.values()] if asked.source is None else [live[asked.source]]
    if asked.name != orders.STOP:
        taken = ", ".join(orders.taken(those)) or "none"
        those = [one for one in those if asked.name in one.commands]
        if not those:
            flask.abort(409, f"nobody takes {asked.name!r}; taken are: {taken}")
    return orders.new(
        run,
        asked.name,
        when=asked.when,
        reason=asked.reason,
        by=_asker(),
        source=None if asked.source is None else bytes.fromhex(asked.source),
        sources=(one.id for one in those),
        at=now,
    )


def _asker() -> str:
    """Where the request came from, as far as can be told: no proof of anything.

    A proxy on this machine says for whom it asks.
    """
    request = flask.request
    near = request.remote_addr or ""
    far = request.headers.get("X-Forwarded-For", "")
    if not far or not is_loopback(near):
        return near
    plain = "".join(one if one.isprintable() else "?" for one in far)
    return _text(f"{plain[:MAX_ASKER]} (through {near})", 2 * MAX_ASKER)


def _text(value: str, most: int) -> str:
    # JSON can say half a surrogate pair, the wire cannot.
    return value[:most].encode("utf-8", "replace").decode()
