"""How the API answers: values as JSON, arguments as numbers, what is not there as 404.

Pure but for the request's own arguments. What a source said may be anything that
msgpack can say, and is made JSON here.
"""

import json
import math
from typing import Any

import flask

from exporter.runs import Run
from exporter.state import State


def as_json(value: Any) -> flask.Response:
    """An answer."""
    return flask.Response(json_text(value), mimetype="application/json")


def json_text(value: Any) -> str:
    """A value as JSON; NaN and infinities are null, as JSON.stringify writes them."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """What a source said, as JSON can say it: bytes and times as text, for instance."""
    if isinstance(value, dict):
        return {_name(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _name(key: Any) -> Any:
    fits = key is None or isinstance(key, (bool, int, str))
    return key if fits else str(key)


def as_number(text: str, name: str, least: int, most: int) -> int:
    """An argument's number, bent to what is possible; 400 for what is none."""
    try:
        number = int(text)
    except ValueError:
        flask.abort(400, f"{name} has to be a number")
    return min(max(number, least), most)


def known_run(state: State, name: str) -> Run:
    """A run, to be read under the state's lock; 404 where there is none."""
    run = state.runs.get(name)
    if run is None:
        flask.abort(404, f"there is no run {name!r}")
    return run
