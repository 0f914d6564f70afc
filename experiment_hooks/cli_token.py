"""``episight token``: prints the exporter's token, for commands and for browsers.

It is found as the exporter finds it (``exporter.tokenfile``): given by the environment,
else in a file beside the journal. Needs to be asked on the exporter's machine, as its
user.
"""

import os
import sys
from typing import Mapping, Optional


def token(environ: Mapping[str, str]) -> int:
    """Print the token; 0, or 1 with a sentence on standard error if there is none."""
    found = find(environ)
    if found is None:
        print(
            f"episight: there is no token in {path(environ)}: an exporter that is "
            "started makes one (EPISIGHT_JOURNAL_PATH says beside which journal)",
            file=sys.stderr,
        )
        return 1
    print(found)
    return 0


def find(environ: Mapping[str, str]) -> Optional[str]:
    """The token of an exporter with this environment; None if there is none yet."""
    given = environ.get("EPISIGHT_TOKEN", "").strip()
    if given:
        return given
    try:
        with open(path(environ), encoding="ascii", errors="replace") as file:
            return file.read().strip() or None
    except OSError:
        return None


def path(environ: Mapping[str, str]) -> str:
    """The file in which it is kept."""
    named = environ.get("EPISIGHT_SECURITY_TOKEN_FILE")
    if named:
        return os.path.expanduser(named)
    journal = environ.get("EPISIGHT_JOURNAL_PATH")
    if not journal:
        state = environ.get("XDG_STATE_HOME") or os.path.join("~", ".local", "state")
        journal = os.path.join(state, "episight", "journal.sqlite")
    return os.path.join(os.path.dirname(os.path.expanduser(journal)), "token")


def link(page: str, environ: Mapping[str, str]) -> str:
    """A page's address as it is given to its owner's browser: with the token."""
    found = find(environ)
    return f"{page}/?token={found}" if found else page
