"""Records on disk: where a source puts what nobody took, and who delivers it.

One folder an endpoint, shared by all sources that know it, on this machine or, where
the folder lies on a file server, on several. A file belongs to whoever its name says:

    <source>-<number>.open                 the source that writes it
    <source>-<number>.spool                nobody: whoever renames it first
    <source>-<number>.<claim>.claimed      the one that delivers it

Renaming is the only lock, so it holds on NFS too. Who owns a file touches it now and
then; one that was not touched for :data:`LEASE` seconds, by the clock of the disk that
it lies on, belongs to nobody again. Taking a file from an owner that still lives does
no harm: the exporter recognises every record again, and a writer looks, after each
write, whether the file still is its own, and else writes the same into another.

Called by the one thread that pumps a line. Raises ``OSError`` where the disk does.
"""

import contextlib
import hashlib
import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from experiment_hooks import spoolfile, wire
from experiment_hooks.dial import is_loopback

logger = logging.getLogger("experiment_hooks")

MOST_BYTES = 256 * 1024 * 1024
"""What one source may have on disk."""
SEGMENT_BYTES = 1024 * 1024
"""So much is in a file, and read and sent by whoever delivers it, at a time."""
MOST_IN_FOLDER = 4 * 1024 * 1024 * 1024
MOST_SECONDS = 30 * 86400.0
"""How much and how long a folder keeps what nobody ever asks for."""
COUNT_SECONDS = 0.1
"""How long the records of what goes are counted."""
LEASE = 60.0
TOUCH = 15.0
RANKS = ("log", "start", "end", "essential")
"""What is given up first comes first; the last is never given up."""

Ranges = Tuple[Tuple[int, int], ...]
_SET_ASIDE = ".corrupt"
_NAME = re.compile(r"[0-9a-f]{32}-[0-9]+\.(?:open|spool|[0-9a-f]{16}\.claimed)")
_ANY_NAME = re.compile(rf"{_NAME.pattern}|[0-9a-f]{{32}}-[0-9]+\{_SET_ASIDE}")


class SpoolError(OSError):
    """The folder cannot be used; the message says why."""


@dataclass
class _Segment:
    """One file that this source writes or has written, and what is in it."""

    path: str
    rank: str
    size: int = 0
    count: int = 0


@dataclass(frozen=True)
class Claim:
    """A file that is ours to deliver, and what could be read of it."""

    path: str
    contents: spoolfile.Contents
    own: bool


class Swept(NamedTuple):
    """What a folder keeps no longer; ``records`` are at least so many."""

    files: int
    records: int


class Folder:
    """The spool's folder of one endpoint: finds, claims and gives back files.

    Args:
        path: the directory; it need not be there yet.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._me = os.urandom(8).hex()

    @classmethod
    def of(cls, root: str, endpoint: str) -> "Folder":
        """The folder of an endpoint.

        Args:
            root: the spool's directory, as ``EPISIGHT_SPOOL_DIR`` says it.
            endpoint: as ``EPISIGHT_ENDPOINT`` says it.
        """
        # Homes are shared between machines; what is on one's own loopback is not.
        host = socket.gethostname() if is_loopback(endpoint) else ""
        key = f"{endpoint}\n{host}".encode("utf-8", "surrogateescape")
        name = hashlib.sha256(key).hexdigest()[:16]
        return cls(os.path.join(os.path.expanduser(root), name))

    def make(self) -> None:
        """Make it, for this user only.

        Raises:
            SpoolError: it belongs to somebody else, or others may write into it.
            OSError: it cannot be made.
        """
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        found = os.stat(self.path)
        if hasattr(os, "geteuid") and (
            found.st_uid != os.geteuid() or found.st_mode & 0o022
        ):
            raise SpoolError(
                f"{self.path} belongs to somebody else, or others may write into it:"
                " remove it, or set EPISIGHT_SPOOL_DIR to a directory of your own"
            )

    def names(self) -> List[str]:
        """The files that hold records, in the order in which they were written."""
        try:
            found = os.listdir(self.path)
        except OSError:
            return []
        return sorted(name for name in found if _NAME.fullmatch(name))

    def now(self) -> float:
        """The time by the clock of the disk: what a new file is stamped with."""
        probe = os.path.join(self.path, f"{self._me}.probe")
        try:
            with _created(probe) as file:
                return os.fstat(file).st_mtime
        finally:
            with contextlib.suppress(OSError):
                os.unlink(probe)

    def claim(self, name: str, *, own: bool = False) -> Optional[Claim]:
        """Make a file ours and read it; None where another one was faster."""
        path = os.path.join(self.path, name)
        mine = os.path.join(self.path, f"{_stem(name)}.{self._me}.claimed")
        if path != mine and not _renamed(path, mine):
            return None
        touch(mine)
        with open(mine, "rb") as file:
            data = file.read()
        return Claim(mine, spoolfile.read(data), own)

    def free(self, live: Sequence[str] = ()) -> List[str]:
        """Files that nobody owns: left behind, or not touched for a lease."""
        names = [name for name in self.names() if name not in live]
        left = [name for name in names if name.endswith(".spool")]
        owned = [name for name in names if not name.endswith(".spool")]
        if owned:
            now = self.now()
            left += [name for name in owned if now - self._touched(name, now) > LEASE]
        return left

    def give_back(self, claim: Claim) -> str:
        """Let another one deliver it, under the name that is returned."""
        back = f"{_stem(claim.path)}.spool"
        with contextlib.suppress(OSError):
            os.rename(claim.path, os.path.join(self.path, back))
        return back

    def delivered(self, claim: Claim) -> None:
        """The exporter has all that could be read of it."""
        damaged = claim.contents.damaged
        if not damaged:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(claim.path)
            return
        aside = os.path.join(self.path, _stem(claim.path) + _SET_ASIDE)
        with contextlib.suppress(OSError):
            os.rename(claim.path, aside)
        logger.warning(
            "episight: the spool file %s is damaged: %d records of it are delivered,"
            " %d bytes could not be read; it is set aside, and can be removed",
            aside,
            len(claim.contents.records),
            damaged,
        )

    def sweep(self) -> Swept:
        """Remove what is too old, or too much for a folder, and count what went."""
        files = []
        now = self.now()
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            with contextlib.suppress(OSError):
                found = os.stat(path)
                if now - found.st_mtime > LEASE or name.endswith(".spool"):
                    files.append((found.st_mtime, found.st_size, path))
        files.sort()
        total = sum(size for _, size, _ in files)
        went = records = 0
        until = time.monotonic() + COUNT_SECONDS
        for at, size, path in files:
            if now - at <= MOST_SECONDS and total <= MOST_IN_FOLDER:
                break
            with contextlib.suppress(OSError):
                records += _count(path, until)
                os.unlink(path)
                went += 1
            total -= size
        return Swept(went, records)

    def _touched(self, name: str, otherwise: float) -> float:
        try:
            return os.stat(os.path.join(self.path, name)).st_mtime
        except OSError:  # gone meanwhile: not to be claimed
            return otherwise


class Spool:
    """What one source has on disk.

    Args:
        folder: where to.
        endpoint: for the files' headers.
        source: the source's id.
        gave_up: told what had to go for lack of room: rank, how many, which numbers;
            or what others left here once and nobody took: "old", how many, none.
    """

    def __init__(
        self,
        folder: Folder,
        endpoint: str,
        source: bytes,
        gave_up: Callable[[str, int, Ranges], None],
        *,
        most_bytes: int = MOST_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.folder = folder
        self._endpoint = endpoint
        self._source = source.hex()
        self._gave_up = gave_up
        self._most = most_bytes
        self._segment_bytes = segment_bytes
        self._number = 0
        self._segments: List[_Segment] = []
        self._totals: Optional[_Segment] = None
        self._made = False
        self._touched = 0.0

    @property
    def count(self) -> int:
        """How many records of this source wait on disk."""
        return sum(one.count for one in self._segments)

    def put(
        self, hello: wire.Hello, ranked: Dict[str, List[Tuple[int, bytes]]]
    ) -> None:
        """Write records by their rank: all of a rank, or an error.

        A rank whose records are on disk is emptied, so that after an error what is left
        in ``ranked`` still has to be kept.
        """
        self._make()
        for rank in reversed(RANKS):
            found = ranked.get(rank)
            if found:
                for part in _parts(found, self._segment_bytes):
                    self._append(hello, rank, part)
                found.clear()
        self._make_room()

    def put_totals(self, hello: wire.Hello, head: bytes) -> None:
        """Write the newest totals in the place of those before."""
        self._make()
        data = spoolfile.header(self._endpoint, hello) + spoolfile.sample(head)
        if self._totals is None:
            self._totals = _Segment(self._path(), "totals")
        with _created(self._totals.path + ".new") as file:
            _write(file, data)
        os.replace(self._totals.path + ".new", self._totals.path)

    def keep(self, now: float) -> None:
        """Say, now and then, that these files have an owner; ``now`` is monotonic."""
        if now - self._touched < TOUCH:
            return
        self._touched = now
        for segment in self._all():
            touch(segment.path)

    def drop_totals(self) -> None:
        """Newer ones, or the last ones, are on their way another way."""
        if self._totals is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._totals.path)
            self._totals = None

    def claim(self) -> Optional[Claim]:
        """The oldest file of this source, to deliver it; None when there is none."""
        while self._segments:
            segment = self._segments.pop(0)
            claim = self.folder.claim(os.path.basename(segment.path), own=True)
            if claim is not None:
                return claim
        return None

    def close(self) -> None:
        """What is there belongs to whoever comes next."""
        for segment in self._all():
            with contextlib.suppress(OSError):
                os.rename(segment.path, segment.path[: -len("open")] + "spool")
        self._segments, self._totals = [], None

    @property
    def names(self) -> List[str]:
        """Files that are this source's now."""
        return [os.path.basename(one.path) for one in self._all()]

    def _all(self) -> Iterator[_Segment]:
        yield from self._segments
        if self._totals is not None:
            yield self._totals

    def _make(self) -> None:
        if not self._made:
            self.folder.make()
            swept = self.folder.sweep()
            if swept.files:
                self._gave_up("old", swept.records, ())
                logger.warning(
                    "episight: %d files in %s, with %d records that nobody ever took,"
                    " were too old, or too much: removed",
                    swept.files,
                    self.folder.path,
                    swept.records,
                )
            self._made = True

    def _path(self) -> str:
        self._number += 1
        name = f"{self._source}-{self._number:06d}.open"
        return os.path.join(self.folder.path, name)

    def _append(
        self, hello: wire.Hello, rank: str, found: Sequence[Tuple[int, bytes]]
    ) -> None:
        data = spoolfile.records(found)
        last = [one for one in self._segments if one.rank == rank][-1:]
        for segment in last:
            if segment.size + len(data) > self._segment_bytes:
                continue
            if _appended(segment, data):
                break
            self._segments.remove(segment)
        else:
            segment = _Segment(self._path(), rank)
            data = spoolfile.header(self._endpoint, hello) + data
            with _created(segment.path) as file:
                _write(file, data)
            segment.size = len(data)
            self._segments.append(segment)
        segment.count += len(found)

    def _make_room(self) -> None:
        for rank in RANKS[:-1]:
            for segment in [one for one in self._segments if one.rank == rank]:
                if sum(one.size for one in self._segments) <= self._most:
                    return
                self._segments.remove(segment)
                # Where it is gone, somebody took us for dead, and delivers it.
                with contextlib.suppress(FileNotFoundError):
                    numbers = _numbers(segment.path)
                    os.unlink(segment.path)
                    self._gave_up(rank, segment.count, numbers)


def _parts(
    found: Sequence[Tuple[int, bytes]], most: int
) -> Iterator[List[Tuple[int, bytes]]]:
    """The same in parts of so many bytes, or of one record."""
    part: List[Tuple[int, bytes]] = []
    size = 0
    for one in found:
        if part and size + len(one[1]) > most:
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one[1])
    if part:
        yield part


def _numbers(path: str) -> Ranges:
    """Which records are in a file: on disk they are, and not in memory too."""
    with open(path, "rb") as file:
        return wire.ranges(seq for seq, _ in spoolfile.read(file.read()).records)


def _count(path: str, until: float) -> int:
    """How many records of a file nobody has taken, without reading one by one.

    An exit may wait for this: later than ``until`` a file counts as one.
    """
    if not _NAME.fullmatch(os.path.basename(path)):  # set aside: the others were taken
        return 0
    if time.monotonic() > until:
        return 1
    with open(path, "rb") as file:
        return file.read().count(spoolfile.MARK + spoolfile.RECORD)


def is_spool_file(name: str) -> bool:
    """Whether a file of this name holds records, those set aside included."""
    return _ANY_NAME.fullmatch(name) is not None


def _stem(path: str) -> str:
    return os.path.basename(path).split(".", 1)[0]


def touch(path: str) -> None:
    """Say that a file has an owner."""
    with contextlib.suppress(OSError):
        os.utime(path)


@contextlib.contextmanager
def _created(path: str) -> Iterator[int]:
    """A new file for this user only; an older one of that name goes."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
    try:
        yield file
    except BaseException:  # the disk is full: what is half written is of no use
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(file)


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _appended(segment: _Segment, data: bytes) -> bool:
    """Write to the end; whether the file was still ours when it had been written.

    Raises:
        OSError: the disk cannot; the file is as it was.
    """
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
    try:
        file = os.open(segment.path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:  # somebody took us for dead, and delivers it
        return False
    try:
        try:
            _write(file, data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, segment.size)
            raise
        # Renamed meanwhile: its reader may have read it before this was written.
        try:
            found = os.stat(segment.path)
        except FileNotFoundError:
            return False
        mine = os.fstat(file)
        if (found.st_dev, found.st_ino) != (mine.st_dev, mine.st_ino):
            return False
    finally:
        os.close(file)
    segment.size += len(data)
    return True


def _renamed(path: str, target: str) -> bool:
    try:
        os.rename(path, target)
    except FileNotFoundError:
        # On NFS the answer may have been lost, and the second try finds it done: the
        # target's name is nobody else's.
        return os.path.exists(target)
    return True
