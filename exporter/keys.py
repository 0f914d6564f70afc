"""Who may connect to ingest: the exporter's own keys, and those of its sources.

Keys are read from files (see ``episight keys``) and are in no message, no ``repr`` and
no log. The authenticator's thread asks a :class:`Keyring`; who is added to or removed
from its folder is so from the next connection on.
"""

import logging
import stat
import threading
from contextlib import suppress
from pathlib import Path

import zmq
from zmq.auth.certs import load_certificate
from zmq.auth.thread import ThreadAuthenticator

from exporter.complaints import Complaints

logger = logging.getLogger("exporter")

DOMAIN = "episight"
KEY_LENGTH = 40
"""Characters of Z85: 32 bytes."""


class KeysError(ValueError):
    """The keys cannot be used; the message says what to do."""


class Keyring:
    """The keys of one folder: the exporter's own, and those that may connect.

    Args:
        directory: as ``episight keys`` makes it.

    Raises:
        KeysError: the exporter's own keys are not there, are none, or others can read
            them.
    """

    def __init__(self, directory: Path) -> None:
        self._allowed = directory / "allowed"
        self.public, self._secret = _own(directory)
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int], ...] = ()
        self._keys: frozenset[bytes] = frozenset()
        self._complaints = Complaints(logger)

    def guard(self, socket: zmq.Socket[bytes]) -> ThreadAuthenticator:
        """Let only those connect to a socket that has not been bound yet.

        The caller stops what is returned when the socket is closed.
        """
        authenticator = ThreadAuthenticator(socket.context)
        authenticator.start()
        authenticator.configure_curve_callback(DOMAIN, self)
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.public, self._secret
        socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        return authenticator

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether who has this key may connect; named as pyzmq wants it.

        Never raises: that would end the authenticator, and nobody could connect.
        """
        with self._lock:
            try:
                self._read()
            except Exception:
                logger.exception("the keys in %s cannot be read", self._allowed)
            known = key in self._keys
        if not known:
            shown = key.decode("ascii", "replace")
            self._complaints.say("keys", f"the public key {shown}", "is not allowed")
        return known

    def _read(self) -> None:
        times = {}
        for path in sorted(self._allowed.glob("*.key")):
            with suppress(OSError):  # one that goes at this moment
                times[path] = path.stat().st_mtime_ns
        seen = tuple((path.name, time) for path, time in times.items())
        if seen == self._seen:
            return
        found = set()
        for path in times:
            # One bad file is no reason to turn the others away.
            with suppress(OSError, ValueError, IndexError):
                found.add(load_certificate(path)[0])
        self._seen, self._keys = seen, frozenset(found)


def _own(directory: Path) -> tuple[bytes, bytes]:
    path = directory / "server.key_secret"
    try:
        mode = path.stat().st_mode
        public, secret = load_certificate(path)
    except (OSError, ValueError, IndexError) as error:
        raise KeysError(
            f"security.curve_dir={directory} has no server.key_secret that can be read"
            f" ({error}): make it by `episight keys {directory}`"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeysError(f"others can read {path}: chmod 600 {path}")
    if secret is None or len(public) != KEY_LENGTH or len(secret) != KEY_LENGTH:
        raise KeysError(f"{path} holds no pair of keys: remove it, and make another")
    return public, secret
