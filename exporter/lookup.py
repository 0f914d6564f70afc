"""Which episodes: of what a run had, and from a trace's id back to its episode.

Reads state and journal, keeps the last few that were found; any thread may ask. A trace
id is a hash over run, source and number, and nothing keeps one for each episode: so the
hashes of all a run's episodes are made until one fits, the newest first. That takes
0.6 s a million, and is done for one who asks at a time.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from experiment_hooks import wire
from exporter import views
from exporter.reader import LOST, Reader, Row, Wanted
from exporter.runs import Run, Source
from exporter.state import OTHER, State
from exporter.views import Json

OPEN = "open"
"""What episodes that have not ended are asked for by, and shown as."""
REMEMBERED = 4096


def outcomes(run: Run) -> dict[str, dict[str, int]]:
    """How many episodes came out how, by mode; under the state's lock."""
    found = {}
    for name, mode in run.modes.items():
        counted = found[name] = dict(mode.outcomes)
        if mode.lost:
            counted[LOST] = counted.get(LOST, 0) + mode.lost
    return found


def matching(counted: dict[str, dict[str, int]], wanted: Wanted) -> int | None:
    """How many ended episodes are wanted, by their counts; None: they do not tell."""
    if wanted.failed:
        return None
    chosen = [
        of_mode for mode, of_mode in counted.items() if wanted.mode in (None, mode)
    ]
    if wanted.outcome is None:
        return sum(sum(of_mode.values()) for of_mode in chosen)
    if any(OTHER in of_mode for of_mode in chosen):  # may be among those
        return None
    return sum(of_mode.get(wanted.outcome, 0) for of_mode in chosen)


def open_episodes(run: Run, wanted: Wanted) -> list[Json]:
    """The open episodes that are wanted, the oldest first; under the state's lock."""
    if wanted.failed or wanted.outcome not in (None, OPEN):
        return []
    return [
        one for one in views.open_episodes(run) if wanted.mode in (None, one["mode"])
    ]


class Lookup:
    """Finds whole episodes by their trace ids; see the module."""

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader
        self._lock = threading.Lock()  # of what is remembered
        self._hashing = threading.Lock()
        self._known: OrderedDict[tuple[str, str], tuple[bytes, int]] = OrderedDict()

    def remember(self, run: str, rows: Iterable[Row]) -> None:
        """These are shown, and will be asked for."""
        for row in rows:
            record = row.episode
            trace_id = wire.trace_id(record.run, record.source, record.number)
            self._keep((run, trace_id), (record.source, record.number))

    def _keep(self, key: tuple[str, str], found: tuple[bytes, int]) -> None:
        with self._lock:
            self._known[key] = found
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def whole(self, run: str, trace_id: str) -> Json | None:
        """An episode with all that is known of it; None where there is none."""
        trace_id = trace_id.lower()
        found = self.find(run, trace_id)
        if found is None:
            return None
        source_id, number = found
        seen = self._reader.seen(run)
        with self._state.lock:
            known = self._state.runs.get(run)
            source = known.sources.get(source_id) if known else None
            still_open = views.whole_open_episode(source, number) if source else None
        # In this order: what ends meanwhile is found as ended.
        row = self._reader.episode(source_id, number)
        if row is not None:
            return views.whole_episode(row, source, seen)
        if still_open is None:
            return None
        return {**still_open, "last_seen": trace_id in seen}

    def find(self, run: str, trace_id: str) -> tuple[bytes, int] | None:
        """The source of an episode, and its number there."""
        wanted = _digest(trace_id)
        if wanted is None:
            return None
        key = run, trace_id
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        with self._state.lock:
            of_run = self._state.runs.get(run)
            sources = [*of_run.sources.values()] if of_run else []
            sources.sort(key=lambda one: one.opened_at, reverse=True)
            numbered = [(one.asked, one.id, _numbers(one)) for one in sources]
        with self._hashing:
            for asked, source, ranges in numbered:
                number = _hashed(asked, source, ranges, wanted)
                if number is not None:
                    self._keep(key, (source, number))
                    return source, number
        return None


def _digest(trace_id: str) -> bytes | None:
    try:
        found = bytes.fromhex(trace_id)
    except ValueError:
        return None
    return found if len(found) == 16 else None


def _numbers(source: Source) -> list[tuple[int, int]]:
    """The numbers of a source's episodes as ranges."""
    singly = [*source.started, *source.lost_episodes]
    return [*source.ended, *((number, number) for number in singly)]


def _hashed(
    asked: str, source: bytes, ranges: list[tuple[int, int]], wanted: bytes
) -> int | None:
    """The number whose trace id (see ``wire.trace_id``) begins so."""
    text = asked.encode("utf-8", "surrogatepass")
    head = len(text).to_bytes(4, "big") + text + source
    sha256 = hashlib.sha256
    for number in _downwards(ranges):
        if sha256(head + number.to_bytes(8, "big")).digest().startswith(wanted):
            return number
    return None


def _downwards(ranges: list[tuple[int, int]]) -> Iterator[int]:
    for first, last in sorted(ranges, reverse=True):
        yield from range(last, first - 1, -1)
