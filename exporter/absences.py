"""Sources that are gone: which are lost, which are back, and which are forgotten.

The writer's thread asks once a second, before its commit. What is decided goes into the
batch, so that it is on disk before it is true of anybody; only what a source has
announced is noted at once. Never says a source is lost whose connection stands, or that
closes in this very batch.
"""

import time
from collections.abc import Callable

from experiment_hooks import wire
from exporter.journal import Batch, Entry
from exporter.runs import Run, Source
from exporter.state import State
from exporter.verdict import Link, Rules, episodes_to_close, links_of, source_lost

TIDY = 60.0
"""Seconds between two looks for what nobody will ask for any more."""
FORGET_AFTER = 60.0
"""Seconds for which something is kept of a source that may never say more."""
LOST_ERROR = wire.ErrorInfo(
    "source_lost", "the process was not heard again before the episode ended"
)


class Absences:
    """What becomes of sources that are gone; the writer's thread only.

    Args:
        state: whose sources they are.
        links: ingest's view of the sources' connections.
        forget_links: tells ingest whose links are not asked for any more.
        rules: of the verdict.
        lost_after: seconds after a source's loss when its episodes are closed.
        born: when the exporter started, Unix seconds; a source that was not heard
            since went then.
    """

    def __init__(
        self,
        *,
        state: State,
        links: dict[bytes, Link],
        forget_links: Callable[[list[bytes]], None],
        rules: Rules,
        lost_after: float,
        born: float,
    ) -> None:
        # Sources of which somebody delivers what they left: when he did last, and how
        # many records they had announced.
        self.replayed: dict[bytes, tuple[float, int]] = {}
        self._state = state
        self._links = links
        self._forget_links = forget_links
        self._rules = rules
        self._lost_after = lost_after
        self._born = born
        self._next_tidy = 0.0  # monotonic

    def judge(self, batch: Batch, now: float) -> None:
        """Which sources are lost, which are back, and whose episodes are closed."""
        closing = set(batch.closed)
        ending = {
            (entry.record.source, entry.record.number)
            for entry in batch.entries
            if isinstance(entry.record, wire.EpisodeEnded)
        }
        for run, source in self._state.open_sources():
            if source.id in closing:
                continue
            if source.id in self.replayed and source.id not in self._links:
                self._judge_replayed(batch, run, source, now, ending)
                continue
            link = links_of(self._links, source, self._born)
            if link.announced > source.announced:
                with self._state.lock:
                    source.announced = link.announced
            if not source_lost(link, now, self._rules):
                if source.lost_at is not None and source.id in self._links:
                    batch.returned.append(source.id)
                continue
            if source.lost_at is None:
                batch.lost.append((source.id, now, source.announced))
            for started in episodes_to_close(source, now, self._lost_after):
                if (source.id, started.number) not in ending:
                    batch.lost_episodes.append(_lost_episode(run, source, started, now))

    def _judge_replayed(
        self,
        batch: Batch,
        run: Run,
        source: Source,
        now: float,
        ending: set[tuple[bytes, int]],
    ) -> None:
        """What it left on a disk is delivered: it is over since it was last heard of.

        Its open episodes are closed when nothing more has come for a while.
        """
        delivered_at, announced = self.replayed[source.id]
        if source.lost_at is None or announced > source.announced:
            at = source.last_at if source.lost_at is None else source.lost_at
            batch.lost.append((source.id, at, max(source.announced, announced)))
        elif now - delivered_at >= self._lost_after:
            for started in source.started.values():
                if (source.id, started.number) not in ending:
                    batch.lost_episodes.append(_lost_episode(run, source, started, now))

    def tidy(self, now: float) -> None:
        """Forget the connections of sources that nobody will ask for."""
        if time.monotonic() < self._next_tidy:
            return
        self._next_tidy = time.monotonic() + TIDY
        sources = self._state.sources

        def gone(source: bytes) -> bool:
            link = self._links.get(source)
            since = link.gone_since if link else 0.0
            return since is not None and now - since > FORGET_AFTER

        with self._state.lock:
            self._state.unplace(gone)
        self.replayed = {
            source: delivered
            for source, delivered in self.replayed.items()
            if now - delivered[0] < FORGET_AFTER
            or (source in sources and sources[source][1].closed is None)
        }
        over = [
            source
            for source in list(self._links)
            if gone(source) and (source not in sources or sources[source][1].folded)
        ]
        if over:
            self._forget_links(over)


def _lost_episode(
    run: Run, source: Source, started: wire.EpisodeStarted, now: float
) -> Entry:
    """The end that the source could not tell: at the last thing known of it."""
    steps, last = 0, started.time
    if source.sample is not None:
        for shown in source.sample.open:
            if shown.number == started.number:
                steps, last = shown.steps, max(last, shown.last)
    record = wire.EpisodeEnded(
        run=started.run,
        source=started.source,
        seq=started.seq,
        time=last,
        number=started.number,
        mode=started.mode,
        started=started.time,
        duration=max(0.0, last - started.time),
        steps=steps,
        outcome="",
        epoch=started.epoch,
        index=started.index,
        target=started.target,
        seed=started.seed,
        error=LOST_ERROR,
    )
    return Entry(run.id, now, wire.encode(record), record)
