"""A run, as the experiment sees it: episodes, metrics, ``publish_*``, its end.

Any thread may call it. It translates the user's words for the recorder, and owns the
source's line and who pumps it. After :func:`open_run` nothing raises here but
:class:`RunStopped`, after a stop, in a run that can be stopped.
"""

import contextlib
import logging
import sys
import threading
import time
from types import TracebackType
from typing import (
    Any,
    Awaitable,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

from experiment_hooks import declare, endings, plain, process, wire
from experiment_hooks.commands import Commands
from experiment_hooks.dial import Dialer
from experiment_hooks.episode import Episode
from experiment_hooks.errors import RunStopped
from experiment_hooks.finished import FINISHED
from experiment_hooks.introduction import Identity, Introduction
from experiment_hooks.line import Line
from experiment_hooks.metrics import DEFAULT_BUCKETS, NO_SERIES, Series
from experiment_hooks.no_episode import NO_EPISODE
from experiment_hooks.recorder import Recorder
from experiment_hooks.saying import saying
from experiment_hooks.sender import Inline, Sender
from experiment_hooks.settings import Settings
from experiment_hooks.spool import Folder, Spool

logger = logging.getLogger("experiment_hooks")

NEVER_LABELS = ("epoch", "step", "episode")
MAX_PUBLISHED = 1000

# A forked child must not let the parent's socket and thread be collected: closing them
# would touch what the parent uses.
_inherited: List[Any] = []


class Run:
    """One process's part in a run; a context manager. Made by :func:`open_run`.

    Its end by ``close`` or the ``with`` block's normal end is ``completed``; by an
    exception ``failed``; by Ctrl-C or a stop ``stopped``. A process that does neither
    is judged by how it exits.

    Attributes:
        id: the run's id as this process knows it. It is the label ``run`` of its
            metrics, unless the exporter had a run of that id already and shows this one
            as ``<id>-2``; ``url`` has the id that is shown.
        name: the experiment's name.
        entered: whether it is used as a context manager.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        settings: Settings,
        opened: Dict[str, Any],
        *,
        stoppable: bool,
        step_bounds: Tuple[float, ...],
    ) -> None:
        self.id = identity.run
        self.name = name
        self.entered = False
        self._settings = settings
        self._url = ""
        self._closed = False
        self._guests: Optional[int] = None  # None: it takes none
        self._guest_stopped = False
        self._closing = threading.RLock()  # a signal handler may close the run, too
        self._metrics: Dict[str, Tuple[wire.MetricSpec, Series]] = {}
        self._published: Dict[Tuple[str, Tuple[str, ...]], Series] = {}
        self._recorder = Recorder(
            identity.run, step_bounds=step_bounds, inline=not settings.thread
        )
        self._introduction = Introduction(self._recorder, identity, settings, opened)
        self._commands = Commands(self._recorder, stoppable)
        success = opened.get("success")
        self._recorder.success = None if success is None else set(success)
        self._line: Optional[Line] = None
        self._sender: Union[Sender, Inline, None] = None

    # --- episodes -----------------------------------------------------------------

    def episode(
        self,
        mode: str = "train",
        epoch: Optional[int] = None,
        index: Optional[int] = None,
        target: Any = None,
        seed: Optional[int] = None,
    ) -> Episode:
        """Open an episode: it starts now, and ends with its block or ``close``.

        Args:
            mode: ``train``, ``eval`` or a word of one's own.
            epoch: counts from 0.
            index: its number within the mode; counted when left out.
            target: what it is about (an object, a task), as text.
            seed: the seed it starts from.

        Raises:
            RunStopped: a stop was asked for that arrives between episodes.
        """
        recorder = self._recorder
        recorder.boundary("episode")
        opened = recorder.guard(self._episode, mode, epoch, index, target, seed)
        return NO_EPISODE if opened is None else opened

    def _episode(
        self, mode: Any, epoch: Any, index: Any, target: Any, seed: Any
    ) -> Optional[Episode]:
        return self._recorder.start_episode(
            plain.text(mode, 100),
            _whole(epoch),
            _whole(index),
            None if target is None else plain.text(target, 200),
            _whole(seed),
        )

    def progress(self) -> None:
        """Say that a loop without episodes has moved on."""
        self._recorder.guard(self._recorder.progress)
        self._recorder.passed("step")

    # --- metrics ------------------------------------------------------------------

    def counter(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Series:
        """A counter, served as ``experiment_<name>_total``.

        The same call gives the same metric. A name that is bad, reserved or used for
        another metric gives one that does nothing; that is logged once and counted.
        """
        return self._metric(name, "counter", help, labels)

    def gauge(
        self,
        name: str,
        help: str = "",
        labels: Sequence[str] = (),
        merge: str = "last",
    ) -> Series:
        """A gauge, served as ``experiment_<name>``.

        Args:
            name: as for :meth:`counter`.
            help: one line.
            labels: names of its labels.
            merge: how the sources' values become one: the ``last`` that was set;
                ``sum``, ``mean`` or ``per_source`` over the live sources; ``max`` or
                ``min`` over the run.
        """
        return self._metric(name, "gauge", help, labels, merge=merge)

    def histogram(
        self,
        name: str,
        help: str = "",
        labels: Sequence[str] = (),
        buckets: Sequence[float] = DEFAULT_BUCKETS,
    ) -> Series:
        """A histogram, served as ``experiment_<name>``, with these upper bounds."""
        return self._metric(name, "histogram", help, labels, buckets=buckets)

    def _metric(self, *declared: Any, **more: Any) -> Series:
        series = self._recorder.guard(self._define, *declared, more)
        self._recorder.boundary("now")
        return NO_SERIES if series is None else series

    def _define(
        self, name: Any, kind: str, help: Any, labels: Any, more: Dict[str, Any]
    ) -> Optional[Series]:
        try:
            spec = declare.metric_spec(name, kind, help, labels, more)
        except declare.RefusedError as error:
            self._recorder.drop("metric_refused", str(error))
            return None
        with self._recorder.lock:
            known = self._metrics.get(spec.name)
            if known is None:
                known = spec, self._recorder.define(spec)
                self._metrics[spec.name] = known
        if declare.same(known[0], spec):
            return known[1]
        was = f"a {known[0].type} with other options"
        self._recorder.drop("metric_refused", f"metric {name} is already {was}")
        return None

    # --- what broadcasters call ---------------------------------------------------

    def publish_metric(self, name: str, value: float, **tags: Any) -> Awaitable[None]:
        """A number by name: a gauge whose labels are the tags.

        ``epoch``, ``step`` and ``episode`` never become labels. The work is done when
        the call returns; what it returns may be awaited or dropped.
        """
        self._recorder.guard(self._publish_metric, name, value, tags)
        self._recorder.passed("now")
        return FINISHED

    def _publish_metric(self, name: Any, value: Any, tags: Dict[str, Any]) -> None:
        if not isinstance(name, str):
            shown = plain.text(name, 50)
            self._recorder.drop("metric_refused", f"{shown} is no metric's name")
            return
        for never in NEVER_LABELS:
            tags.pop(never, None)
        labels = tuple(sorted(tags))
        series = self._published.get((name, labels))
        if series is None:
            series = self._publish_first(name, labels)
        if labels:
            series = series.labels(*[plain.text(tags[label], 200) for label in labels])
        series.set(value)
        self._recorder.progress()

    def _publish_first(self, name: str, labels: Tuple[str, ...]) -> Series:
        with self._recorder.lock:
            series = self._published.get((name, labels))
            if series is not None:
                return series
            if len(self._published) >= MAX_PUBLISHED:
                self._recorder.drop("metric_refused", "too many published metrics")
                return NO_SERIES
            try:
                series = self._recorder.define(declare.free_spec(name, labels))
            except declare.RefusedError as error:
                self._recorder.drop("metric_refused", str(error))
                series = NO_SERIES
            self._published[name, labels] = series
        return series

    def publish_data(self, name: str, value: Any) -> Awaitable[None]:
        """A named data stream's newest value, for who looks at the run's page."""
        self._recorder.guard(self._recorder.stream, name, value)
        self._recorder.passed("now")
        return FINISHED

    def publish_log(self, level: str, message: str, **fields: Any) -> Awaitable[None]:
        """A log line with its fields."""
        self._recorder.guard(self.log, level, message, "", fields, time.time())
        self._recorder.passed("now")
        return FINISHED

    def publish_state(self, state: Any) -> Awaitable[None]:
        """The newest state of the run itself, where there is no episode."""
        self._recorder.guard(self._recorder.state, state)
        self._recorder.passed("now")
        return FINISHED

    def log(
        self, level: Any, message: Any, name: str, fields: Mapping[str, Any], at: float
    ) -> None:
        """Record one log line; ``at`` is Unix seconds. Used by :class:`LogHandler`."""
        shown = plain.plain(dict(fields), nodes=100, size=4096) if fields else {}
        text = plain.text(message, 4096)
        self._recorder.log(plain.text(level, 20).lower(), text, name, shown, at)

    # --- commands -----------------------------------------------------------------

    def on_command(self, name: str, callback: Callable[..., Any]) -> None:
        """Call ``callback(command)`` when somebody gives the command ``name``.

        The run's page shows a button for it. ``stop`` also makes the run stoppable: the
        callback, which may save a checkpoint, runs before the run is seen to stop and
        before :class:`RunStopped` is raised. It runs on a thread for commands, one
        after the other; with ``thread=False`` in a hook call, which waits for it.
        """
        self._recorder.guard(self._commands.take, name, callback)

    def heed_stop(self) -> None:
        """Raise a stop that was asked for, wherever it is to arrive.

        For integrations that have come to a place where nothing is left to be done.

        Raises:
            RunStopped: a stop was asked for, and the run can be stopped.
        """
        stop = self._recorder.stop
        if stop is not None:
            self._recorder.boundary(stop.when)

    # --- what may be asked --------------------------------------------------------

    @property
    def url(self) -> str:
        """The run's page, once an exporter has answered; else empty."""
        return self._url

    @property
    def dropped(self) -> Dict[str, int]:
        """What was dropped so far, by reason."""
        return dict(self._recorder.dropped)

    def drop(self, reason: str, detail: str = "") -> None:
        """Count something dropped; used by handlers and integrations."""
        self._recorder.drop(reason, detail)

    @property
    def closed(self) -> bool:
        """Whether the run has been closed in this process."""
        return self._closed

    @property
    def watched(self) -> bool:
        """Whether somebody looks at the run's page now."""
        return self._recorder.watched

    @property
    def token(self) -> str:
        """What child processes know the owner by: its source id."""
        return self._recorder.source.hex()

    @property
    def owned(self) -> bool:
        """Whether this process is the run's owner: its end is the run's end."""
        return self._introduction.owned

    @property
    def lock(self) -> Any:
        """The recorder's lock; held over a fork."""
        return self._recorder.lock

    # --- guests -------------------------------------------------------------------

    def take_guests(self) -> "Run":
        """From now on ``open_run`` gives this very run to the code of this process.

        For integrations that open a run around code which may open one itself: what
        that says of the run comes first, and its end is not the run's. The integration
        ends the run by :meth:`end`.
        """
        self._guests = 0
        return self

    @property
    def takes_guests(self) -> bool:
        """Whether ``open_run`` in this process joins this run instead."""
        return self._guests is not None

    def add_guest(
        self, name: str, opened: Dict[str, Any], *, stoppable: bool, step_bounds: Any
    ) -> "Run":
        """The code of this process opens the run that is open already."""
        with self._closing:
            self._guests = (self._guests or 0) + 1
        self.name = name
        if stoppable:
            self._commands.allow_stop()
        success = opened.get("success")
        if success is not None:
            self._recorder.success = set(success)
        if step_bounds is not None:
            self._recorder.use_step_bounds(step_bounds)
        self._recorder.guard(self._introduction.describe, opened)
        return self

    def _guest_left(self) -> bool:
        if not self._guests:
            return False
        with self._closing:
            self._guests -= 1
        return True

    # --- lifetime -----------------------------------------------------------------

    def check(self) -> None:
        """Raises an error where the machine lacks what the settings name."""
        self._dialer().check()
        spool = self._spool()
        if spool is not None:
            spool.folder.make()

    def start(self) -> None:
        """Introduce the source, then start what sends; the thread last."""
        self._introduction.say()
        line = self._line = Line(
            self._recorder,
            self._dialer(),
            self._hello,
            self._welcomed,
            self._commands.came,
            self._commands.work,
            self._spool(),
        )
        if self._settings.thread:
            self._recorder.wake = line.wake
            sender = self._sender = Sender(line)
            sender.start()
        else:
            inline = self._sender = Inline(line, self._recorder)
            self._recorder.wake = self._recorder.pump = inline.pump
            self._recorder.inline_due = line.due

    def close(self, timeout: Optional[float] = None) -> None:
        """End the run as completed; closing again does nothing.

        Args:
            timeout: seconds to wait for the exporter's acknowledgement, at most 60. By
                default up to 2 if it was ever reached, up to 1 while a connection is
                being made, and 0.05 where nobody is.
        """
        if self._guest_left():
            return
        known = timeout if isinstance(timeout, (int, float)) else None
        self.end("completed", timeout=known)

    def __enter__(self) -> "Run":
        self.entered = True
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if not self._guest_left():
            self.end(*endings.of_run(error))
        elif isinstance(error, RunStopped):
            self._guest_stopped = True

    def end(
        self,
        ending: str,
        reason: str = "",
        error: Optional[wire.ErrorInfo] = None,
        timeout: Optional[float] = None,
    ) -> None:
        """End the run as ``completed``, ``failed`` or ``stopped``; again: nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._guest_stopped and ending == "completed":
            ending, reason = "stopped", "user"
        process.leave(self)
        try:
            self._recorder.guard(self._commands.close)
            self._recorder.guard(self._say_closed, ending, reason, error)
        except BaseException:  # a second Ctrl-C: what there is goes to disk at least
            self._recorder.guard(self._hang_up, 0.0)
            raise
        self._recorder.guard(self._hang_up, timeout)

    def _say_closed(
        self, ending: str, reason: str, error: Optional[wire.ErrorInfo]
    ) -> None:
        if self._line is None:  # a forked child that never used the run
            return
        # An exception that ends the run ends what is open in it, wherever it came from.
        outcome = {"failed": "error", "stopped": "stopped"}.get(ending, "ended")
        self._recorder.abandon_episodes(outcome, error)
        if self.owned:
            self._recorder.record(
                lambda **base: wire.RunClosed(
                    ending=ending, reason=reason, error=error, **base
                ),
                time.time(),
            )
        self._recorder.close(ending, reason, error)

    def _hang_up(self, timeout: Optional[float]) -> None:
        if self._sender is not None:
            self._sender.close(timeout)
        self._line = self._sender = None
        self._recorder.mute()

    def _dialer(self) -> Dialer:
        said = self._settings
        return Dialer(said.endpoint, said.server_key, said.key_file)

    def _spool(self) -> Optional[Spool]:
        root, endpoint = self._settings.spool_dir, self._settings.endpoint
        if not root:
            return None
        recorder = self._recorder
        return Spool(
            Folder.of(root, endpoint), endpoint, recorder.source, recorder.gave_up
        )

    def _hello(self, sent: float, announced: int) -> wire.Hello:
        return self._introduction.hello(self.name, sent, announced)

    def _welcomed(self, welcome: wire.Welcome) -> None:
        first, self._url = not self._url, welcome.url
        # Not for a child: a pool would say it many times.
        if first and self._introduction.identity.role != "child":
            _say_page(welcome.url)

    # --- fork ---------------------------------------------------------------------

    def forked(self) -> None:
        """In a forked child: a child of the run, from its first call on."""
        self._introduction.forked()
        self._commands.forked()
        _inherited.append((self._line, self._sender))
        self._line = self._sender = None
        self._closing = threading.RLock()
        self._guests = None  # a run that is opened here is a source of its own
        self._recorder.mute()
        self._recorder.forked(self._first_use)

    def _first_use(self) -> None:
        if self._closed:
            return
        try:
            process.belongs_here(self)
            self.start()
        except Exception:
            logger.warning("episight: a forked process is unwatched", exc_info=True)


def _say_page(url: str) -> None:
    """One line, also where nobody has set up logging: they want to know it most."""
    if logger.hasHandlers():
        logger.info("episight: %s", url)
    elif sys.stderr is not None:
        with saying, contextlib.suppress(OSError, ValueError):  # it is closed
            sys.stderr.write(f"episight: {url}\n")
            sys.stderr.flush()


def _whole(value: Any) -> Optional[int]:
    """An integer that fits the wire, or None."""
    try:
        number = int(value)
    except Exception:
        return None
    return number if -(2**63) <= number < 2**63 else None
