"""Who a source is, and of which run: what it says of itself before anything else.

Owns its identity, which a fork changes. The first records are made on the thread that
opens the run, or uses it first after a fork; a hello for each connection, by whoever
pumps the line. What is private is not in there.
"""

import multiprocessing.process
import os
import platform
import socket
import time
from dataclasses import dataclass
from typing import Any, Dict, Tuple

from experiment_hooks import plain, wire
from experiment_hooks._version import __version__
from experiment_hooks.recorder import Recorder
from experiment_hooks.settings import Settings

_LARGE = ("config", "launch", "facts", "tags")


@dataclass(frozen=True)
class Identity:
    """Which run, and what this process is in it.

    Attributes:
        run: the run's id.
        role: ``owner``, ``child`` (of ``owner``) or ``shared``.
        owner: the owner's source id, of a child.
    """

    run: str
    role: str
    owner: bytes


class Introduction:
    """How a source introduces itself.

    Args:
        recorder: the source; takes its first records.
        identity: which run, and what this process is in it.
        settings: tells whether there is a thread, and what is private.
        opened: what the code said of the run at its opening.

    Attributes:
        identity: as given; in a forked child its own.
    """

    def __init__(
        self,
        recorder: Recorder,
        identity: Identity,
        settings: Settings,
        opened: Dict[str, Any],
    ) -> None:
        self.identity = identity
        self._recorder = recorder
        self._settings = settings
        self._opened = opened

    @property
    def owned(self) -> bool:
        """Whether this process is the run's owner."""
        return self.identity.role == "owner"

    def forked(self) -> None:
        """In a forked child, before it is a source: it is a child of the run."""
        was = self.identity
        owner = self._recorder.source if self.owned else was.owner
        self.identity = Identity(was.run, "child" if owner else "shared", owner)

    def say(self) -> None:
        """Record who the source is, and what its code said of the run."""
        host, pid = self._where()
        self._recorder.record(
            lambda **base: wire.SourceOpened(
                host=host,
                pid=pid,
                name=plain.text(multiprocessing.process.current_process().name, 200),
                role=self.identity.role,
                owner=self.identity.owner,
                python=platform.python_version(),
                version=__version__,
                thread=self._settings.thread,
                **base,
            ),
            time.time(),
        )
        self.describe(self._opened)

    def describe(self, opened: Dict[str, Any]) -> None:
        """Record what is said of the run, now or by a guest."""
        smaller = {key: opened[key] for key in opened if key not in _LARGE}
        self._recorder.record(
            lambda **base: wire.RunOpened(**opened, **base),
            time.time(),
            smaller=lambda **base: wire.RunOpened(**smaller, **base),
        )

    def hello(self, experiment: str, sent: float, announced: int) -> wire.Hello:
        """What a connection begins with.

        Args:
            experiment: its name.
            sent: Unix seconds.
            announced: the newest sequence number.
        """
        host, pid = self._where()
        return wire.Hello(
            protocol=wire.PROTOCOL,
            source=self._recorder.source,
            run=self.identity.run,
            sent=sent,
            version=__version__,
            host=host,
            pid=pid,
            experiment=experiment,
            thread=self._settings.thread,
            announced=announced,
            role=self.identity.role,
            owner=self.identity.owner,
            resume=bool(self._opened.get("resume")),
        )

    def _where(self) -> Tuple[str, int]:
        """Host and process id; nothing where they are private."""
        return ("", 0) if self._settings.private else (_host(), os.getpid())


def _host() -> str:
    try:
        return plain.text(socket.gethostname(), 200)
    except OSError:
        return ""
