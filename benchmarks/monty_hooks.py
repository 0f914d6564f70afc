"""Step hooks that time step hooks; imported in Monty's own process.

Each writes what it measured, in seconds, to a file when Monty closes it.
"""

import io
import json
import time
from collections.abc import Callable
from typing import Any

from experiment_hooks.integrations.monty import StepHook
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.integrations.monty.view import View
from experiment_hooks.wire import decode_plain


class Timed:
    """Times another hook's calls, and between them the rest of Monty's steps."""

    def __init__(self, first: Any, path: str) -> None:
        self._hook = first
        self._path = path
        self._calls: list[float] = []
        self._between: list[float] = []
        self._left = 0.0

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        if self._left:
            self._between.append(began - self._left)
        actions = self._hook(*arguments)
        self._left = time.perf_counter()
        self._calls.append(self._left - began)
        return actions

    def close(self) -> None:
        self._hook.close()
        measured = {"calls": self._calls, "between": self._between}
        beside = getattr(self._hook, "beside", {})
        with open(self._path, "w", encoding="utf-8") as file:
            json.dump({**measured, "beside": beside}, file)


class Ours(StepHook):
    """Ours, with the times of what it does where it is not called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.beside: dict[str, list[float]] = {}
        for name in ("_begin", "_timed", "_finish", "_end"):
            setattr(self._watch, name, self._measured(name))

    def _measured(self, name: str) -> Callable[..., Any]:
        function, times = getattr(self._watch, name), self.beside.setdefault(name, [])

        def measured(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                times.append(time.perf_counter() - began)

        return measured


class Publishing:
    """The usual way: each step as JSON, images as PNG ten times a second, by PUB."""

    def __init__(self) -> None:
        self._view = View(Options(), lambda _: None)
        self._socket: Any = None
        self._pictured = 0.0

    def __call__(
        self, ctx: Any, monty: Any, lms: Any, step: int, seen: Any, actions: Any
    ) -> Any:
        if self._socket is None:
            import zmq

            self._socket = zmq.Context.instance().socket(zmq.PUB)
            self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._view.show(monty, seen, actions)
        state: dict[str, Any] = decode_plain(self._view.state().data)
        self._socket.send_string(json.dumps(state))
        self._socket.send_string(json.dumps(self._view.scores()))
        if time.monotonic() - self._pictured >= 0.1:
            self._pictured = time.monotonic()
            self._send_pictures(seen)
        return actions

    def _send_pictures(self, seen: Any) -> None:
        from PIL import Image

        for sensors in seen.values():
            for sensor in sensors.values():
                written = io.BytesIO()
                Image.fromarray(sensor["rgba"]).save(written, "PNG")
                self._socket.send(written.getvalue())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)


class Nothing:
    """What Monty calls where nobody has a hook."""

    def __call__(self, *arguments: Any) -> Any:
        return arguments[-1]

    def close(self) -> None:
        pass
