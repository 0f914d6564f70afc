"""``episight keys``: makes the keys with which sources and exporter know each other.

A directory for the exporter (``security.curve_dir``), and for each name a file for
those experiments. A key that is there is never replaced. In a process of its own.
"""

import os
import shutil
import sys
import tempfile
from typing import List, Sequence, Tuple

SERVER = "server"
ALLOWED = "allowed"
CLIENTS = "clients"


def keys(directory: str, names: Sequence[str]) -> int:
    """Make the exporter's keys in ``directory``, and a pair for each of ``names``.

    Returns:
        0 when they are there; 1 if they cannot be made, 2 for a name that is none.
    """
    directory = os.path.abspath(os.path.expanduser(directory))
    for name in names:
        if not name.replace("-", "").replace("_", "").isalnum():
            print(
                f"episight: {name!r} cannot be a file's name: use letters, digits, - _",
                file=sys.stderr,
            )
            return 2
    before = os.umask(0o077)
    try:
        made = _make(directory, names)
    except OSError as error:
        print(f"episight: {directory} cannot be written: {error}", file=sys.stderr)
        return 1
    finally:
        os.umask(before)
    for path in made:
        print(f"made {path}")
    _tell(directory, names)
    return 0


def _make(directory: str, names: Sequence[str]) -> List[str]:
    places = [(directory, directory, SERVER)]
    for name in names:
        secrets, public = (os.path.join(directory, d) for d in (CLIENTS, ALLOWED))
        places.append((secrets, public, name))
    made: List[str] = []
    for secrets, public, name in places:
        os.makedirs(secrets, exist_ok=True)
        os.makedirs(public, exist_ok=True)
        paths = (
            os.path.join(secrets, f"{name}.key_secret"),
            os.path.join(public, f"{name}.key"),
        )
        if not os.path.exists(paths[0]):
            _make_pair(paths, name)
            made += paths
    return made


def _make_pair(paths: Tuple[str, str], name: str) -> None:
    from zmq.auth.certs import create_certificates

    with tempfile.TemporaryDirectory(dir=os.path.dirname(paths[0])) as aside:
        public, secret = create_certificates(aside, name)
        shutil.move(public, paths[1])
        os.rename(secret, paths[0])  # last: without it, nothing has been made


def _tell(directory: str, names: Sequence[str]) -> None:
    from zmq.auth.certs import load_certificate

    public, _ = load_certificate(os.path.join(directory, f"{SERVER}.key"))
    print(f"\nThe exporter:\n\n    python -m exporter security.curve_dir={directory}")
    for name in names:
        secret = os.path.join(directory, CLIENTS, f"{name}.key_secret")
        print(
            f"\nExperiments of {name}, with a copy of that file where they run:\n\n"
            f"    export EPISIGHT_SERVER_KEY='{public.decode()}'\n"
            f"    export EPISIGHT_KEY_FILE={secret}"
        )
