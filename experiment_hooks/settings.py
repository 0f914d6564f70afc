"""The environment, read once at ``open_run`` into a frozen value.

The only module of the hooks that reads ``os.environ`` for settings; nothing is read at
import. A bad value is the machine's fault: it is named in :attr:`Settings.problems`,
and the default holds.
"""

import os
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"
_YES = {"1", "true", "yes", "on"}
_NO = {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Settings:
    """What the environment says to this process.

    Attributes:
        endpoint: the exporter's ingest address, ``tcp://host:port``, or ``file://`` and
            the path of a file in which the exporter writes it.
        disabled: every hook is a no-op.
        run_id: the run that a parent process or a launcher gave.
        owner: the token of the process that owns that run, if one does.
        spool_dir: where records go that nobody takes; empty: they wait in memory only.
        thread: whether a sender thread may be started.
        strict: whether what the machine lacks is raised as ``SetupError``.
        private: whether launch facts stay unsaid.
        sigterm: whether SIGTERM interrupts the main thread, as Ctrl-C does.
        server_key: the exporter's public key for CURVE, or a file that holds it.
        key_file: the file with our own keys.
        problems: sentences about values that could not be used.
    """

    endpoint: str = DEFAULT_ENDPOINT
    disabled: bool = False
    run_id: Optional[str] = None
    owner: Optional[str] = None
    spool_dir: str = ""
    thread: bool = True
    strict: bool = False
    private: bool = False
    sigterm: bool = False
    server_key: str = ""
    key_file: str = ""
    problems: Tuple[str, ...] = ()

    @classmethod
    def from_environment(
        cls, environ: Optional[Mapping[str, str]] = None
    ) -> "Settings":
        """Read the ``EPISIGHT_*`` variables of ``environ`` (default: the process's)."""
        env = os.environ if environ is None else environ
        problems = []

        def flag(name: str, default: bool) -> bool:
            text = env.get(name)
            if text is None or text.strip() == "":
                return default
            if text.strip().lower() in _YES:
                return True
            if text.strip().lower() not in _NO:
                problems.append(
                    f"{name}={text!r} is neither 1 nor 0; using {default:d}"
                )
                return default
            return False

        endpoint = env.get("EPISIGHT_ENDPOINT", "").strip() or DEFAULT_ENDPOINT
        if not _is_endpoint(endpoint):
            problems.append(
                f"EPISIGHT_ENDPOINT={endpoint!r} is not tcp://host:port or file:///path;"
                f" using {DEFAULT_ENDPOINT}"
            )
            endpoint = DEFAULT_ENDPOINT
        return cls(
            endpoint=endpoint,
            disabled=flag("EPISIGHT_DISABLED", False),
            run_id=env.get("EPISIGHT_RUN_ID") or None,
            owner=env.get("EPISIGHT_OWNER") or None,
            spool_dir=_spool_dir(env),
            thread=flag("EPISIGHT_THREAD", True),
            strict=flag("EPISIGHT_STRICT", False),
            private=flag("EPISIGHT_PRIVATE", False),
            sigterm=flag("EPISIGHT_SIGTERM", False),
            server_key=env.get("EPISIGHT_SERVER_KEY", "").strip(),
            key_file=env.get("EPISIGHT_KEY_FILE", "").strip(),
            problems=tuple(problems),
        )


def _is_endpoint(text: str) -> bool:
    if text.startswith("file://"):
        return True
    host, _, port = text[len("tcp://") :].rpartition(":")
    number = int(port) if port.isdigit() and port.isascii() else 0
    return text.startswith("tcp://") and bool(host) and 0 < number < 65536


def _spool_dir(env: Mapping[str, str]) -> str:
    given = env.get("EPISIGHT_SPOOL_DIR", "").strip()
    if given.lower() in ("off", "none"):
        return ""
    if given:
        return given
    state = env.get("XDG_STATE_HOME") or os.path.join(
        env.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return os.path.join(state, "episight", "spool")
