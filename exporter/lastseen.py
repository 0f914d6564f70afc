"""The last thing seen of an episode that failed: what the journal keeps with it.

Called by the writer's thread before each commit, so that it is on disk with the end or
the loss that it explains. Takes what there is (a copy of the present, the log lines of
the state and of the batch) and asks nobody for more. Bounded: what is kept with one
episode, and what one commit keeps. Never keeps a batch from its commit.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import msgspec

from experiment_hooks import wire
from exporter.journal import Batch, Kept
from exporter.present import Picture, Present
from exporter.state import State

logger = logging.getLogger("exporter")

LINES = 50
MAX_BYTES = 2 * 1024 * 1024
"""Of one episode: images go first, then the oldest log lines."""
MAX_ENDS = 20
"""How many ends of one commit are looked at, the newest: some loops only fail."""
MAX_OF_SOURCE = 16
"""How many of a lost source's open episodes, those that started first."""
MAX_ROWS, MAX_BATCH_BYTES = 1000, 64 * 1024 * 1024
"""What one commit keeps in all."""

PresentOf = Callable[[bytes], Present | None]
_Failing = wire.EpisodeEnded | wire.EpisodeStarted
_Item = TypeVar("_Item")


class LastSeen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was seen last of an episode, and of its source's log.

    Attributes:
        number: the episode's, as its source counts them; the next ones describe it.
        at: Unix seconds of the step's arrival; None where none of the episode is known.
        state: plain values, encoded.
        pictures: as they came with steps of this very episode.
        logs: log lines, as they came, oldest first.
        omitted: how many pictures and log lines were too large to be kept.
    """

    source: bytes
    number: int
    mode: str
    epoch: int | None = None
    index: int | None = None
    target: str | None = None
    at: float | None = None
    step: int = 0
    state: bytes = b""
    scores: dict[str, float] = {}
    pictures: tuple[Picture, ...] = ()
    logs: tuple[bytes, ...] = ()
    omitted: int = 0

    def lines(self) -> list[wire.LogLine]:
        """The log lines that can be read (still: another version may have written)."""
        found = []
        for data in self.logs:
            with suppress(wire.WireError):
                line = wire.decode_record(data)
                if isinstance(line, wire.LogLine):
                    found.append(line)
        return found


_decoder = msgspec.msgpack.Decoder(LastSeen)


def decode(data: bytes) -> LastSeen | None:
    """What was kept; None where it cannot be read (any more)."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        return None


def keep(batch: Batch, state: State, present_of: PresentOf) -> None:
    """Add to a batch what is kept with its failed episodes, and what no longer is."""
    batch.unseen.extend(_unseen(batch, state))
    lines, room = _Lines(batch, state), MAX_BATCH_BYTES
    for run, episode in _failing(batch, state, present_of):
        if len(batch.last_seen) >= MAX_ROWS or room <= 0:
            return
        try:
            found = look(episode, present_of(episode.source), lines.of(run, episode))
            data = msgspec.msgpack.encode(found)
        except Exception:  # the end is what counts
            logger.exception("run %r: what was seen last cannot be kept", run)
            continue
        room -= len(data)
        trace = wire.trace_id(episode.run, episode.source, episode.number)
        newer = found.at is not None
        batch.last_seen.append(Kept(run, episode.source, trace, data, newer))


def look(
    episode: _Failing, present: Present | None, lines: list[wire.LogLine]
) -> LastSeen:
    """What is kept with one episode, within its bounds."""
    moment = present.moments.get(True) if present else None
    at, pictures = None, []
    if not present or not moment or moment.episode != episode.number:
        moment = wire.Moment(0.0)  # of another episode, which has its own
    else:
        at = present.seen.get(True, present.received)
        pictures = [p for p in present.pictures.values() if p.episode == episode.number]
    newest = [wire.encode(line) for line in reversed(lines[-LINES:])]
    logs, room = _fitting(newest, len, MAX_BYTES - len(moment.state))
    shown, _ = _fitting(pictures, lambda one: len(one.data), room)
    return LastSeen(
        source=episode.source,
        number=episode.number,
        mode=episode.mode,
        epoch=episode.epoch,
        index=episode.index,
        target=episode.target,
        at=at,
        step=moment.step,
        state=moment.state,
        scores=moment.scores,
        pictures=tuple(shown),
        logs=tuple(reversed(logs)),
        omitted=len(newest) - len(logs) + len(pictures) - len(shown),
    )


def _fitting(
    items: list[_Item], size: Callable[[_Item], int], room: int
) -> tuple[list[_Item], int]:
    """Those that have room, and what is left of it."""
    found = []
    for item in items:
        if size(item) <= room:
            room -= size(item)
            found.append(item)
    return found, room


# --- which, and with which lines ------------------------------------------------------


def _failing(
    batch: Batch, state: State, present_of: PresentOf
) -> Iterator[tuple[str, _Failing]]:
    """Episodes that failed, are closed as lost, or whose source is lost now."""
    yield from _failed(batch)[-MAX_ENDS:]
    of_source: Counter[bytes] = Counter()
    for entry in batch.lost_episodes:
        record = entry.record
        of_source[record.source] += 1
        if of_source[record.source] <= MAX_OF_SOURCE:
            assert isinstance(record, wire.EpisodeEnded)
            yield entry.run, record
    for source_id, _, _ in batch.lost:
        run, source = state.sources[source_id]
        # Else its lines are still there, in the journal, when its episodes are closed.
        if present_of(source_id) is not None:
            for started in list(source.started.values())[:MAX_OF_SOURCE]:
                yield run.id, started


def _failed(batch: Batch) -> list[tuple[str, _Failing]]:
    return [
        (entry.run, entry.record)
        for entry in batch.entries
        if isinstance(entry.record, wire.EpisodeEnded) and entry.record.error
    ]


def _unseen(batch: Batch, state: State) -> Iterator[tuple[str, str]]:
    """Of sources that were lost: episodes that go on, or that ended well after all."""
    for source_id in batch.returned:
        run, source = state.sources[source_id]
        for started in source.started.values():
            yield run.id, wire.trace_id(started.run, source_id, started.number)
    for entry in batch.entries:
        record = entry.record
        if not isinstance(record, wire.EpisodeEnded) or record.error:
            continue
        known = state.sources.get(record.source)
        if known is not None and (
            known[1].lost_at is not None or record.number in known[1].lost_episodes
        ):
            yield entry.run, wire.trace_id(record.run, record.source, record.number)


class _Lines:
    """The newest log lines by source; each run's are looked through once."""

    def __init__(self, batch: Batch, state: State) -> None:
        self._batch = batch
        self._state = state
        self._found: dict[str, dict[bytes, list[wire.LogLine]]] = {}

    def of(self, run: str, episode: _Failing) -> list[wire.LogLine]:
        if run not in self._found:
            found = self._found[run] = {}
            known = self._state.runs.get(run)
            lines = list(known.logs) if known else []
            for entry in self._batch.entries:
                if entry.run == run and isinstance(entry.record, wire.LogLine):
                    lines.append(entry.record)
            for line in lines:
                found.setdefault(line.source, []).append(line)
        return self._found[run].get(episode.source, [])
