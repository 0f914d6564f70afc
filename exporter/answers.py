"""How requests are read and answered: arguments, values as JSON, 404 for what is not.

Pure but for the request's own arguments. What a source said may be anything that
msgpack can say, and is made JSON here.
"""

import json
from typing import Any

import flask

from exporter import jsonable
from exporter.reader import Wanted
from exporter.runs import Run
from exporter.state import State

_encoder = json.JSONEncoder(allow_nan=False)


def as_json(value: Any) -> flask.Response:
    """An answer."""
    return flask.Response(json_text(value), mimetype="application/json")


def json_text(value: Any) -> str:
    """A value as JSON; NaN and infinities are null, as JSON.stringify writes them."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError):
        return _encoder.encode(jsonable.plain(value))


def as_number(text: str, name: str, least: int, most: int) -> int:
    """An argument's number, bent to what is possible; 400 for what is none."""
    try:
        number = int(text)
    except ValueError:
        flask.abort(400, f"{name} has to be a number")
    return min(max(number, least), most)


def is_said(text: str | None) -> bool:
    """Whether an argument that is there or not is there."""
    return text not in (None, "", "0", "false")


def wanted_episodes() -> Wanted:
    """Which episodes the request's arguments ask for."""
    args = flask.request.args
    mode, outcome = args.get("mode") or None, args.get("outcome") or None
    return Wanted(mode, outcome, is_said(args.get("failed")))


def known_run(state: State, name: str) -> Run:
    """A run, to be read under the state's lock; 404 where there is none."""
    run = state.runs.get(name)
    if run is None:
        flask.abort(404, f"there is no run {name!r}")
    return run
