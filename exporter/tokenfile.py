"""The token: who has it may give commands, and read what only it opens.

It is given, by the variable ``EPISIGHT_TOKEN`` or by a file that
``security.token_file`` names; else one is made, once, in a file beside the journal that
only its owner can read. ``experiment_hooks.cli_token`` finds it by the same rule. It is
never logged, and never an argument of a command.
"""

import logging
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.settings import Settings

logger = logging.getLogger("exporter")

NAME = "token"
_FORM = re.compile(r"[!-~]{16,512}")
"""What fits into a header, and cannot be guessed."""


class TokenError(Exception):
    """There is no token that can be used; the message says what to change."""


@dataclass(frozen=True)
class Token:
    """The token, and where it is kept, as people are told."""

    text: str = field(repr=False)
    place: str


def find(settings: Settings, environ: Mapping[str, str]) -> Token:
    """The token that holds; one is made where none is given.

    Raises:
        TokenError: the one that is given cannot be used, or none can be made.
    """
    given = environ.get("EPISIGHT_TOKEN", "").strip()
    if given:
        return _checked(given, "EPISIGHT_TOKEN")
    named = settings.security.token_file
    path = Path(named).expanduser() if named else settings.journal_path.parent / NAME
    try:
        if not named:
            make(path)
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        why = f"security.token_file={named}" if named else f"the token file {path}"
        raise TokenError(f"{why} cannot be used: {error.strerror or error}") from error
    if not named and os.name == "posix" and path.stat().st_mode & 0o077:
        logger.warning("the token file %s is open to others: chmod 600 it", path)
    return _checked(text, str(path))


def _checked(text: str, place: str) -> Token:
    if not _FORM.fullmatch(text):
        raise TokenError(
            f"{place} holds no token: 16 to 512 letters, digits and signs without "
            "spaces (`openssl rand -hex 32` makes one)"
        )
    return Token(text, place)


def make(path: Path) -> str | None:
    """Write a new secret into a file, whole and for its owner only.

    Returns:
        The secret; None where the file was there already, and stays as it is.

    Raises:
        OSError: the file cannot be made.
    """
    if path.exists():
        return None
    secret = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".token-")  # 0600
    try:
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:  # another one was faster: its secret holds
        return None
    except OSError:  # not every file system has links
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return secret
