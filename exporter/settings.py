"""The exporter's settings: one frozen value, checked, made from plain mappings.

Hydra stays in ``__main__``; tests and embedders make :class:`Settings` directly.
"""

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LEAST_CONNECTIONS = 4
NOTIFIED = ("completed", "failed", "stopped", "stalled", "lost")
"""States of a run that somebody may want to be told of."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")


class SettingsError(ValueError):
    """A setting cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Web:
    """Where pages, API and metrics are served (port 0 takes a free one), and how many
    requests at a time, browsers that look at a page included. ``public_url`` is where
    people find the pages, where that is elsewhere: behind a reverse proxy.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_connections: int = 512
    public_url: str = ""


@dataclass(frozen=True)
class IngestSettings:
    """Where sources connect; ``address_file`` is told where, once ready."""

    host: str = "127.0.0.1"
    port: int = 5555
    address_file: str = ""


@dataclass(frozen=True)
class TapSettings:
    """Where others may listen to what is learned: nowhere without a port; 0 takes a
    free one.
    """

    host: str = "127.0.0.1"
    port: int | None = None


@dataclass(frozen=True)
class RunSettings:
    """``grace_seconds``: how long an unowned run waits for a further source."""

    grace_seconds: float = 60.0


@dataclass(frozen=True)
class JournalSettings:
    """Where records are kept (by default where the platform keeps state), and for how
    many days after a run's end (0: for good).
    """

    path: str = ""
    retention_days: float = 30.0


@dataclass(frozen=True)
class MetricsSettings:
    """Budgets of series, and how long an ended run's are served."""

    max_series: int = 200_000
    max_series_per_run: int = 2_000
    grace_seconds: float = 900.0


@dataclass(frozen=True)
class VerdictSettings:
    """When a run counts as lost, and the least time that is learned as a promise."""

    lost_seconds: float = 30.0
    promise_floor_seconds: float = 60.0


@dataclass(frozen=True)
class Traces:
    """Where traces go (default: the ``OTEL_*`` variables), after how many seconds a
    lost source's open episodes are closed, and how many episodes may wait to be
    delivered (0: any number).
    """

    endpoint: str = ""
    lost_after: float = 60.0
    max_pending: int = 1_000_000


@dataclass(frozen=True)
class ViewSettings:
    """A view of the user's own, or of ours.

    Attributes:
        name: what it is called.
        match: a glob on an experiment's name, or on its tag ``kind``.
        templates: a folder of templates that come before ours.
        target: a class, as ``module.Class``; see ``exporter.live.custom``.
        options: what it is made with.
    """

    name: str
    match: str = "*"
    templates: str = ""
    target: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, values: Any) -> "ViewSettings":
        """One view; raises SettingsError."""
        if not isinstance(values, Mapping):
            raise SettingsError(f"live.views.{name}: give live.views.{name}.match=...")
        given = dict(values)
        known = [given.pop(key, None) for key in ("match", "templates", "_target_")]
        match, templates, target = ("" if one is None else str(one) for one in known)
        if not templates and not target:
            raise SettingsError(
                f"live.views.{name} changes nothing: name a folder of templates, or a "
                "class by _target_"
            )
        if given and not target:
            raise SettingsError(
                f"unknown setting live.views.{name}.{next(iter(given))}: there are "
                "match, templates and _target_"
            )
        if target and not re.fullmatch(r"\w+(\.\w+)+", target):
            raise SettingsError(
                f"live.views.{name}._target_={target!r} is no class: give module.Class"
            )
        return cls(name, match or "*", templates, target, tuple(given.items()))


OUR_VIEWS = (ViewSettings("monty", "monty", target="exporter.live.monty.MontyView"),)
"""Come after the user's; one of the user's by the same name, or None, replaces one."""


def _views(given: Mapping[str, Any]) -> tuple[ViewSettings, ...]:
    ours = {one.name: one for one in OUR_VIEWS}
    off = {name for name, one in given.items() if one is None and name in ours}
    return (
        *(ViewSettings.of(name, one) for name, one in given.items() if name not in off),
        *(one for name, one in ours.items() if name not in given),
    )


@dataclass(frozen=True)
class Live:
    """The live page: a template of a trace's address, with ``{trace_id}`` in it, and
    views of the user's own and of ours, the first that fits a run draws it.
    """

    trace_url: str = ""
    views: tuple[ViewSettings, ...] = OUR_VIEWS


@dataclass(frozen=True)
class NotifySettings:
    """The webhook that is told when a run gets into one of these states; the address
    may hold a secret, so it is shown nowhere.
    """

    webhook_url: str = field(default="", repr=False)
    states: tuple[str, ...] = NOTIFIED


@dataclass(frozen=True)
class Security:
    """Who is let in.

    Attributes:
        insecure: listen beyond loopback without authentication.
        curve_dir: the folder of keys with which sources have to connect.
        token_file: a file that holds the token; empty: see ``exporter.tokenfile``.
        token_reading: whether reading needs the token too, and not only commands.
        allowed_hosts: names that the exporter goes by, besides its machine's own.
    """

    insecure: bool = False
    curve_dir: str = ""
    token_file: str = ""
    token_reading: bool = False
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All settings of the exporter."""

    web: Web = field(default_factory=Web)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    tap: TapSettings = field(default_factory=TapSettings)
    run: RunSettings = field(default_factory=RunSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    verdict: VerdictSettings = field(default_factory=VerdictSettings)
    traces: Traces = field(default_factory=Traces)
    live: Live = field(default_factory=Live)
    notify: NotifySettings = field(default_factory=NotifySettings)
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        for name in ("web", "ingest", "tap"):
            port = getattr(self, name).port
            if port is not None and port > 65535:
                raise SettingsError(f"{name}.port={port} is no port: 0 to 65535")
        if self.web.max_connections < LEAST_CONNECTIONS:
            raise SettingsError(
                f"web.max_connections={self.web.max_connections} is too few: at least "
                f"{LEAST_CONNECTIONS}"
            )
        self._check_names()
        self._check_addresses()
        if not self.security.insecure:
            self._check_hosts()

    def _check_names(self) -> None:
        for name in self.security.allowed_hosts:
            if not _NAME.fullmatch(name) or name.count(":") == 1:
                raise SettingsError(
                    f"security.allowed_hosts: {name!r} is no name of a host; give "
                    "names alone, without scheme and port"
                )

    def _check_addresses(self) -> None:
        for state in self.notify.states:
            if state not in NOTIFIED:
                raise SettingsError(
                    f"notify.states: {state!r} is none of {', '.join(NOTIFIED)}"
                )
        for name, url in (
            ("web.public_url", self.web.public_url),
            ("notify.webhook_url", self.notify.webhook_url),
        ):
            wrong = _wrong_with(url) if url else ""
            if wrong:  # what it is may be a secret
                raise SettingsError(f"{name} cannot be used: {wrong}")

    def _check_hosts(self) -> None:
        """Beyond loopback nobody is let in without showing who they are."""
        if not is_loopback(self.web.host) and not self.security.token_reading:
            raise SettingsError(
                f"web.host={self.web.host} would be open to the network without "
                "authentication: use 127.0.0.1 (with an SSH tunnel), or say "
                "security.token_reading=true (reading then needs the token), or "
                "security.insecure=true"
            )
        if self.security.curve_dir:
            return
        hosts = {"ingest": self.ingest.host}
        if self.tap.port is not None:
            hosts["tap"] = self.tap.host
        for name, host in hosts.items():
            if not is_loopback(host):
                raise SettingsError(
                    f"{name}.host={host} would be open to the network without "
                    "authentication: name keys by security.curve_dir (`episight keys` "
                    "makes them), use 127.0.0.1 (with an SSH tunnel), or say "
                    "security.insecure=true"
                )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from nested mappings, as Hydra composes them.

        Raises:
            SettingsError: a key is unknown or a value of the wrong kind.
        """
        made = {}
        groups = {one.name: one.default_factory for one in dataclasses.fields(cls)}
        for group, given in values.items():
            if group not in groups:
                raise SettingsError(f"unknown setting {group!r}")
            found = {} if given is None else given
            if not isinstance(found, Mapping):
                raise SettingsError(
                    f"{group}={found!r}: give {group}.<key>=... instead"
                )
            made[group] = _group(group, groups[group], found)
        return cls(**made)

    @property
    def journal_path(self) -> Path:
        """The journal's file; the environment says where state is kept."""
        if self.journal.path:
            return Path(self.journal.path).expanduser()
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return Path(state).expanduser() / "episight" / "journal.sqlite"


def _wrong_with(url: str) -> str:
    """Why this is no address of a web server; empty if it is one."""
    if re.search(r"[^!-~]", url):
        return "it has spaces, or other characters that no address has"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname
        parts.port  # noqa: B018 (raises where it is no number)
    except ValueError:
        usable = False
    if not usable:
        return "it is no address that begins with http:// or https://"
    if "@" in parts.netloc:
        return "a user or password before the host is not understood"
    return ""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, that no other reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _group(group: str, kind: Any, values: Mapping[str, Any]) -> Any:
    types: dict[str, Any] = {one.name: one.type for one in dataclasses.fields(kind)}
    made = {}
    for name, value in values.items():
        if name not in types:
            raise SettingsError(f"unknown setting {group}.{name}")
        try:
            made[name] = _value(types[name], value)
        except SettingsError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            kind_name = _KINDS.get(types[name]) or types[name].__name__
            raise SettingsError(f"{group}.{name}={value!r} is no {kind_name}") from None
    return kind(**made)


_KINDS: dict[Any, str] = {
    tuple[str, ...]: "list of names",
    tuple[ViewSettings, ...]: "set of views",
    int | None: "int",
}


_TRUTH = {"true": True, "1": True, "false": False, "0": False, "": False}


def _value(kind: Any, value: Any) -> Any:
    if kind is str:
        return "" if value is None else str(value)
    if kind == int | None:
        return None if value in (None, "") else _value(int, value)
    if kind == tuple[str, ...]:
        return _names(value)
    if kind == tuple[ViewSettings, ...]:
        return _views(value or {})
    if kind is bool:
        return _TRUTH[str(value).lower()]
    number = kind(value)
    if not number >= 0:
        raise ValueError(value)
    return number


def _names(value: Any) -> tuple[str, ...]:
    """Names: a list of Hydra's, or a text with commas, as a variable has it."""
    found = (
        (value or "").split(",") if value is None or isinstance(value, str) else value
    )
    return tuple(str(one).strip().lower() for one in found if str(one).strip())
