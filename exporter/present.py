"""The present moment of each source: what is shown, and kept only of what fails.

Written by ingest's thread, read by the live page's and the writer's; bounded in number
and in bytes, the source that has been silent longest goes first. An image stays until
the next one of its name comes.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from experiment_hooks import wire
from exporter.inbox import Newest
from exporter.trail import Glimpse, Trail

MAX_SOURCES = 1000
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Picture:
    """An image as it came: its shape, its bytes, when, and with which episode."""

    image: wire.Image
    data: bytes
    received: float
    episode: int | None = None


@dataclass
class Present:
    """What one source looked like last; times are the exporter's clock.

    ``moments`` has the newest of an episode (True) and of the run itself (False),
    ``seen`` when each came; ``open`` are the episodes that were open then; ``version``
    grows with each change.
    """

    run: str
    received: float = 0.0
    version: int = 0
    open: tuple[wire.OpenEpisode, ...] = ()
    moments: dict[bool, wire.Moment] = field(default_factory=dict)
    seen: dict[bool, float] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    streams: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    trail: Trail = field(default_factory=Trail)

    @property
    def size(self) -> int:
        """Bytes held."""
        return (
            sum(len(moment.state) for moment in self.moments.values())
            + sum(len(picture.data) for picture in self.pictures.values())
            + sum(len(data) for data, _ in self.streams.values())
            + self.trail.size
        )

    def take(self, newest: Newest) -> None:
        """Show a newer sample."""
        sample = newest.sample
        self.version += 1
        self.received = newest.received
        self.open = sample.open
        for moment in sample.moments:
            self.moments[moment.episode is not None] = moment
            self.seen[moment.episode is not None] = newest.received
            self.trail.add(moment)
            for image in moment.images:
                if 0 <= image.part < len(newest.parts):
                    data = newest.parts[image.part]
                    if len(data) <= wire.MAX_IMAGE_BYTES:
                        self.pictures[image.name] = Picture(
                            image, data, newest.received, moment.episode
                        )
        while len(self.pictures) > 16:
            del self.pictures[next(iter(self.pictures))]
        for name, data in sample.streams.items():
            self.streams[name] = (data, newest.received)
        while len(self.streams) > 64:
            del self.streams[next(iter(self.streams))]

    def copy(self) -> "Present":
        """A copy that does not change any more, but for its trail: that is empty."""
        return Present(
            self.run,
            self.received,
            self.version,
            self.open,
            dict(self.moments),
            dict(self.seen),
            dict(self.pictures),
            dict(self.streams),
        )


class Presents:
    """The present of every source that has one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, Present] = OrderedDict()
        self._bytes = 0

    def take(self, run: str, source: bytes, newest: Newest) -> None:
        """A sample with a moment has come."""
        with self._lock:
            present = self._found.setdefault(source, Present(run))
            self._bytes -= present.size
            present.take(newest)
            self._bytes += present.size
            self._found.move_to_end(source)
            while len(self._found) > MAX_SOURCES or self._bytes > MAX_BYTES:
                _, oldest = self._found.popitem(last=False)
                self._bytes -= oldest.size

    def of(self, source: bytes) -> Present | None:
        """A copy of a source's present."""
        with self._lock:
            found = self._found.get(source)
            return found.copy() if found else None

    def glimpses(self, source: bytes) -> tuple[Glimpse, ...]:
        """The scores of the steps that were seen of a source, the oldest first."""
        with self._lock:
            found = self._found.get(source)
            return found.trail.glimpses() if found else ()
