"""``episight replay``: deliver what experiments left on disk.

The next experiment of the machine does it too; this is for when there is none, or for
files that were carried here from elsewhere. In a process of its own.
"""

import os
import sys
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import zmq

from experiment_hooks.delivery import Delivery
from experiment_hooks.dial import Dialer
from experiment_hooks.settings import Settings
from experiment_hooks.spool import LEASE, Folder, is_spool_file

PATIENCE = 15.0
"""Seconds without any progress after which it is given up."""


class Found(NamedTuple):
    """What there is to deliver: names by directory, and what is in use now."""

    names: Dict[str, List[str]]
    used: List[str]


def replay(paths: Sequence[str], environ: Mapping[str, str]) -> int:
    """Deliver spool files to the exporter of ``EPISIGHT_ENDPOINT``.

    Args:
        paths: files, or directories of files; none: what was left for this endpoint.
        environ: the ``EPISIGHT_*`` variables.

    Returns:
        0 if all of it is delivered, 1 if something is left, 2 for a path that is wrong.
    """
    settings = Settings.from_environment(environ)
    for problem in settings.problems:
        print(f"episight: {problem}", file=sys.stderr)
    folder = Folder.of(settings.spool_dir, settings.endpoint)
    try:
        found = _find(paths or [folder.path], must_exist=bool(paths))
    except ValueError as error:
        print(f"episight: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a directory that cannot be written, for instance
        print(f"episight: {error}", file=sys.stderr)
        return 1
    for path in found.used:
        print(f"left: {path} is written by a living process, or was {LEASE:g} s ago")
    if not found.names:
        print(f"nothing to deliver in {', '.join(paths or [folder.path])}")
        return 1 if found.used else 0
    dialer = Dialer(settings.endpoint, settings.server_key, settings.key_file)
    try:
        whole = _deliver(found.names, dialer)
    except ValueError as error:
        print(f"episight: {error}", file=sys.stderr)
        return 1
    return 0 if whole and not found.used else 1


def _find(paths: Sequence[str], must_exist: bool) -> Found:
    """The spool files of these paths.

    Raises:
        ValueError: a path is neither a spool file nor a directory.
    """
    found = Found({}, [])
    for path in paths:
        directory, name = os.path.split(os.path.abspath(path))
        if os.path.isdir(path):
            for inner, _, _ in os.walk(path):
                _look_into(inner, found)
        elif os.path.isfile(path) and is_spool_file(name):
            found.names.setdefault(directory, []).append(name)
        elif must_exist:
            raise ValueError(
                f"{path} is neither a directory nor a spool file: those are called"
                " <32 hexadecimal digits>-<number>.spool (or .open, .corrupt)"
            )
    return found


def _look_into(directory: str, found: Found) -> None:
    folder = Folder(directory)
    names = folder.names()
    if names:
        free = folder.free()
        found.used.extend(
            os.path.join(directory, name) for name in names if name not in free
        )
        if free:
            found.names[directory] = sorted(free)


def _deliver(names: Dict[str, List[str]], dialer: Dialer) -> bool:
    """Whether all of it has been delivered.

    Raises:
        ValueError: the endpoint or the keys cannot be used.
    """
    place = dialer.find()
    if place is None:
        raise ValueError(f"{dialer.endpoint} does not say where the exporter is")
    address = place.address
    dialer.check()
    files = records = 0
    with zmq.Context() as context:

        def connect() -> Any:
            sock = dialer.socket(context, place)
            sock.connect(address)
            return sock

        for directory, wanted in names.items():
            delivery = Delivery(Folder(directory), connect, foreign=False, names=wanted)
            try:
                moved = _carry(delivery)
            finally:
                delivery.close()
            files, records = files + delivery.files, records + delivery.records
            if delivery.refusal or not moved:
                why = delivery.refusal or f"nobody answers at {address}"
                print(f"episight: {directory}: {why}", file=sys.stderr)
    whole = sum(map(len, names.values()))
    print(f"delivered {files} of {whole} files, {records} records, to {address}")
    return files == whole


def _carry(delivery: Delivery) -> bool:
    """Pump until all is delivered; False where nothing moves any more."""
    moved, since = (-1, -1), time.monotonic()
    while delivery.busy and time.monotonic() - since < PATIENCE:
        delivery.pump()
        if (delivery.files, delivery.records) != moved:
            moved, since = (delivery.files, delivery.records), time.monotonic()
        if delivery.socket is not None:
            delivery.socket.poll(50)
    return not delivery.busy
