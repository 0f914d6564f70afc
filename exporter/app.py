"""The composition root: makes every part of the exporter and hands it what it needs.

Owns the lifetimes. Start: pages say that it is not ready, the journal is read, then
sources are listened to, then pages are served, and the address file says so. Stop: no
new data, commit what is left, no pages, deliver what can be delivered.
"""

import errno
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import flask

from experiment_hooks import wire
from exporter import tokenfile, traces, web
from exporter._version import version
from exporter.access import Access
from exporter.inbox import Inbox
from exporter.ingest import Ingest
from exporter.journal import Journal
from exporter.keys import Keyring, KeysError
from exporter.live import pages
from exporter.live.hub import Hub
from exporter.live.looks import Looks
from exporter.live.recent import Recent
from exporter.losses import Losses
from exporter.metrics import Budget, RunMetrics
from exporter.notify import Notifier
from exporter.orders import Orders
from exporter.present import Presents
from exporter.reader import Reader, Row
from exporter.selfmetrics import Parts, registry
from exporter.server import Server, listen
from exporter.settings import Settings
from exporter.state import State
from exporter.tap import Tap
from exporter.verdict import Rules
from exporter.writer import Writer

logger = logging.getLogger("exporter")


class StartError(Exception):
    """The exporter cannot start; the message says what to change."""


class App:
    """A running exporter; a context manager.

    Args:
        settings: what to do.
        environ: for the standard ``OTEL_*`` variables.

    Raises:
        StartError: a port is taken, the journal cannot be used, a value is wrong.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._stopped = threading.Event()
        self._keyring = _keyring(settings.security.curve_dir)
        self._tap: Tap | None = None
        self._notifier: Notifier | None = None
        try:
            self._build(environ)
        except BaseException:
            self.close()
            raise

    def _build(self, environ: Mapping[str, str]) -> None:
        settings, stack = self._settings, self._stack
        open_files = raise_open_files()
        endpoint = _endpoint(environ, settings.traces.endpoint)
        journal = Journal(settings.journal_path, traces=endpoint is not None)
        stack.callback(journal.close)
        token = _token(settings, environ)
        state, inbox, presents = State(), Inbox(), Presents()
        rules = Rules(
            settings.verdict.lost_seconds,
            settings.verdict.promise_floor_seconds,
            settings.run.grace_seconds,
        )
        listener = _listening(settings.web.host, settings.web.port)
        stack.callback(listener.close)
        port = listener.getsockname()[1]
        self.web = f"http://{_shown(settings.web.host)}:{port}"
        self.page = settings.web.public_url.rstrip("/") or self.web
        self._tap = self._open_tap(state, rules)
        self._notifier = self._open_notifier(state, rules)
        orders = Orders(
            state,
            rules,
            wake=inbox.wake,
            send=lambda *told: ingest.command(*told),  # noqa: PLW0108 (made below)
        )
        ingest = self._ingest(state, inbox, presents, orders)
        self.ingest = _reachable(ingest.address)
        reader = Reader(settings.journal_path)
        stack.callback(reader.close)
        self._recent = recent = Recent(state, rules)
        stack.callback(recent.close)
        hub = Hub(
            state=state,
            presents=presents,
            reader=reader,
            rules=rules,
            clock=time.time,
            watch=ingest.watch,
            recent=recent,
            trace_url=settings.live.trace_url,
            orders=orders,
        )
        stack.callback(hub.close)
        self._hub = hub
        writer = Writer(
            journal=journal,
            state=state,
            inbox=inbox,
            links=ingest.links,
            acknowledge=ingest.acknowledge,
            acknowledge_sample=ingest.acknowledge_sample,
            on_change=self._changed,
            rules=rules,
            lost_after=settings.traces.lost_after,
            retention=settings.journal.retention_days * 86400,
            max_traces=settings.traces.max_pending if endpoint is not None else 0,
            forget_links=ingest.forget,
            present_of=presents.of,
            on_commit=self._tap.committed if self._tap else lambda batch: None,
            orders=orders,
        )
        self._courier = courier = _courier(endpoint, environ, reader, state, writer)
        metrics = RunMetrics(
            state,
            rules=rules,
            budget=Budget(
                settings.metrics.max_series,
                settings.metrics.max_series_per_run,
                settings.metrics.grace_seconds,
            ),
            clock=time.time,
            heard=lambda source: _heard(ingest, source),
        )
        parts = Parts(
            version,
            state,
            ingest,
            writer,
            journal,
            reader,
            metrics,
            hub,
            courier,
            self._tap,
            self._notifier.webhook if self._notifier else None,
        )
        losses = Losses(ingest, writer, metrics, courier)
        served = web.Served(
            state,
            rules,
            reader,
            metrics,
            losses,
            registry(parts),
            ingest,
            writer,
            orders,
            time.time,
        )
        app = web.create_app(served, Access.of(settings, token.text))
        pages.add(
            app,
            hub,
            ingest=ingest,
            losses=losses,
            addresses=(self.page, self.ingest),
            looks=Looks(settings.live.views, hub.changed),
        )
        # Answers from now on, that it is not ready: reading the journal takes a while,
        # and minutes where it is damaged.
        server = self._serve(app, listener)
        journal.open()
        writer.restore()
        self._start(server, ingest, writer, open_files)
        served.restored.set()
        logger.info("the token for commands: `episight token` (%s)", token.place)

    def _ingest(
        self, state: State, inbox: Inbox, presents: Presents, orders: Orders
    ) -> Ingest:
        def place(hello: wire.Hello) -> str:
            with state.lock:
                return state.place(
                    hello.source,
                    hello.run,
                    hello.role,
                    hello.owner,
                    hello.resume,
                    ingest.is_gone,
                    replay=hello.replay,
                )

        def on_sample(run: str, source: bytes, newest: object) -> None:
            presents.take(run, source, newest)  # type: ignore[arg-type]
            self._hub.changed()
            if self._tap is not None:
                self._tap.sample(run, source, newest)  # type: ignore[arg-type]

        settings = self._settings.ingest
        try:
            ingest = Ingest(
                settings.host,
                settings.port,
                inbox=inbox,
                place=place,
                on_sample=on_sample,
                page=self._page_of,
                version=version,
                keyring=self._keyring,
                standing=orders.standing,
            )
        except OSError as error:
            raise StartError(_taken("ingest.port", settings.port, error)) from error
        self._stack.callback(ingest.close)
        return ingest

    def _page_of(self, run: str) -> str:
        return f"{self.page}/runs/{run}"

    def _open_tap(self, state: State, rules: Rules) -> Tap | None:
        settings = self._settings.tap
        if settings.port is None:
            return None
        try:
            tap = Tap(
                settings.host,
                settings.port,
                state=state,
                rules=rules,
                keyring=self._keyring,
            )
        except OSError as error:
            raise StartError(_taken("tap.port", settings.port, error)) from error
        # After the writer, whose last commit is said too.
        self._stack.callback(tap.close)
        return tap

    def _open_notifier(self, state: State, rules: Rules) -> Notifier | None:
        settings = self._settings.notify
        if not settings.webhook_url:
            return None
        return Notifier(
            state,
            rules,
            url=settings.webhook_url,
            states=settings.states,
            page=self._page_of,
        )

    def _serve(self, app: flask.Flask, listener: socket.socket) -> Server:
        server = Server(app, listener, self._settings.web.max_connections)
        self._stack.callback(server.close)
        server.start()
        return server

    def _start(
        self, server: Server, ingest: Ingest, writer: Writer, open_files: int
    ) -> None:
        stack = self._stack
        writer.start()
        self._recent.start()
        stack.callback(writer.close)
        if self._courier is not None:
            # Closed before the writer, which commits what it has delivered.
            stack.enter_context(self._courier)
        stack.callback(server.close)  # before those two
        if self._tap is not None:
            self._tap.start()
        if self._notifier is not None:
            self._notifier.start()
            stack.callback(self._notifier.close)
        ingest.start()
        # First of all: no new data, and what has come is committed, so that its traces
        # are delivered too.
        stack.callback(writer.flush)
        stack.callback(ingest.stop_receiving)
        self._announce()
        logger.info("page %s, ingest %s", self.page, self.ingest)
        if self._tap is not None:
            logger.info("tap %s", _reachable(self._tap.address))
        if self._notifier is not None:
            logger.info("notifications go to %s", self._notifier.webhook.shown)
        logger.info(
            "%d open files allow about %d sources", open_files, open_files - 100
        )

    def _changed(self) -> None:
        self._hub.changed()
        if self._courier is not None:
            self._courier.notify()

    def _announce(self) -> None:
        path = self._settings.ingest.address_file
        if path:
            said = {"ingest": self.ingest, "web": self.web, "pid": os.getpid()}
            if self._tap is not None:
                said["tap"] = _reachable(self._tap.address)
            if self._keyring is not None:
                said["server_key"] = self._keyring.public.decode()
            write_atomically(Path(path).expanduser(), json.dumps(said))

    def close(self) -> None:
        """Stop everything, commit and deliver what is left; again: nothing."""
        self._stack.close()

    def __enter__(self) -> "App":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _keyring(curve_dir: str) -> Keyring | None:
    """Whose keys may connect to ingest, where a folder of them is named."""
    if not curve_dir:
        return None
    try:
        return Keyring(Path(curve_dir).expanduser())
    except KeysError as error:
        raise StartError(str(error)) from error


def _token(settings: Settings, environ: Mapping[str, str]) -> tokenfile.Token:
    try:
        return tokenfile.find(settings, environ)
    except tokenfile.TokenError as error:
        raise StartError(str(error)) from error


def _endpoint(environ: Mapping[str, str], configured: str) -> traces.Endpoint | None:
    try:
        return traces.Endpoint.from_environment(environ, configured or None)
    except ValueError as error:
        raise StartError(str(error)) from error


def _courier(
    endpoint: traces.Endpoint | None,
    environ: Mapping[str, str],
    reader: Reader,
    state: State,
    writer: Writer,
) -> traces.Courier | None:
    if endpoint is None:
        return None
    try:
        transport = traces.open_transport(endpoint)
        resource = traces.resource(environ, version)
    except ValueError as error:
        raise StartError(str(error)) from error
    outbox = Outbox(reader, state, writer)
    logger.info("traces go to %s", endpoint.shown)
    return traces.Courier(
        transport, resource=resource, pending=outbox.pending, done=outbox.done
    )


class Outbox:
    """The journal's episodes as the courier wants them; called from its thread.

    What was delivered stays pending in the journal until the writer's next commit, so
    it is remembered here and not handed out again.
    """

    def __init__(self, reader: Reader, state: State, writer: Writer) -> None:
        self._reader = reader
        self._state = state
        self._writer = writer
        self._done: set[int] = set()

    def pending(self, limit: int) -> list[tuple[int, traces.EpisodeTrace]]:
        """At most ``limit`` episodes whose traces have not been delivered."""
        rows = self._reader.to_send(limit + len(self._done))
        self._done &= {row.id for row in rows}
        waiting = [row for row in rows if row.id not in self._done][:limit]
        return [(row.id, self._trace(row)) for row in waiting]

    def done(self, keys: list[int]) -> None:
        """These were delivered, or never will be."""
        self._done.update(keys)
        self._writer.traces_sent(keys)

    def _trace(self, row: Row) -> traces.EpisodeTrace:
        record = row.episode
        with self._state.lock:
            known = self._state.sources.get(record.source)
            run = self._state.runs.get(row.run)
            source = known[1] if known else None
            return traces.EpisodeTrace(
                run=record.run,
                shown_run=row.run,
                experiment=run.experiment if run else "",
                episode=record,
                skew=source.skew if source else 0.0,
                lost=row.outcome is None,
                late=row.told_lost,
                host=source.opened.host if source else "",
                pid=source.opened.pid if source else 0,
                source_name=source.name if source else "",
                previous=_previous(record),
            )


def _previous(record: wire.EpisodeEnded) -> str | None:
    if record.number == 0:
        return None
    return wire.trace_id(record.run, record.source, record.number - 1)


def _heard(ingest: Ingest, source: bytes) -> float | None:
    link = ingest.links.get(source)
    return link.heard if link else None


def raise_open_files() -> int:
    """Raise the limit of open files to what is allowed, and return it."""
    try:
        import resource as limits  # not on Windows
    except ImportError:
        return 0
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    if soft < hard:
        try:
            limits.setrlimit(limits.RLIMIT_NOFILE, (hard, hard))
            return hard
        except (OSError, ValueError):
            return soft
    return soft


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name, path)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        raise StartError(_taken("web.port", port, error)) from error


def _taken(key: str, port: int, error: OSError) -> str:
    group = key.split(".", 1)[0]
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        return f"cannot listen where {group}.host and {key} say ({error})"
    return (
        f"port {port} cannot be used ({error}): is another exporter running? "
        f"Choose another with {key}=... (0 takes a free one)"
    )


def _reachable(address: str) -> str:
    """An address to connect to, for the one that is bound."""
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    return f"tcp://{_shown(host.strip('[]'))}:{port}"


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
        try:
            socket.getaddrinfo(host, None)
        except OSError:  # nobody can reach it by that name, not even this machine
            host = "127.0.0.1"
    return f"[{host}]" if ":" in host else host
