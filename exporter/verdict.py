"""The run's verdict: the one place that decides what a run is doing.

Pure: of a run, of what is known of its sources' connections, and of the time. Metrics,
alerts, page and API all ask here, so they cannot disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from experiment_hooks import wire
from exporter.runs import Run, Source

STATES = (
    "starting",
    "running",
    "stalled",
    "stopping",
    "completed",
    "failed",
    "stopped",
    "lost",
)
ENDED = frozenset({"completed", "failed", "stopped", "lost"})
STOP_ID = "stop-"
"""What the id of a command begins with that asks a run to stop. An answer names only
the command's id, and it has to be understood after a restart too."""
KNOWN_AFTER = 2.5
"""Seconds after which a source's progress is known here: it tells once a second, and
that is committed once a second."""
LEARN_FROM_GAPS = 10
LEARN_TIMES = 10.0


@dataclass(slots=True)
class Link:
    """What ingest knows of one source's connection; times are Unix seconds.

    ``announced`` is the number of the newest record that the source has spoken of.
    """

    heard: float
    gone_since: float | None = None
    announced: int = 0

    def clock_is(self, now: float) -> None:
        """Nothing was heard later than now: the clock may have been set back."""
        if self.heard > now:
            self.heard = now
        if self.gone_since is not None and self.gone_since > now:
            self.gone_since = now


@dataclass(frozen=True)
class Rules:
    """The settings that a verdict depends on, in seconds."""

    lost_seconds: float = 30.0
    promise_floor_seconds: float = 60.0
    grace_seconds: float = 60.0


@dataclass(frozen=True)
class Verdict:
    """What a run is doing, since when if it has ended, and why.

    ``promise`` is the time within which progress is promised now, None where nothing
    was promised or learned.
    """

    state: str
    reason: str = ""
    error: wire.ErrorInfo | None = None
    ended_at: float | None = None
    promise: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the run is over (a lost one may come back)."""
        return self.state in ENDED


def source_lost(link: Link | None, now: float, rules: Rules) -> bool:
    """Whether a source that has not closed is lost: its connection is gone for long.

    A connection that stands is never lost: a C call that holds the interpreter's lock
    silences the heartbeat and keeps the connection.
    """
    if link is None or link.gone_since is None:
        return False
    return now - link.gone_since >= rules.lost_seconds


def verdict(run: Run, now: float, rules: Rules) -> Verdict:
    """The verdict on a run."""
    closed = run.closed
    if closed is not None:
        return Verdict(closed.ending, closed.reason, closed.error, closed.at)
    sources = list(run.sources.values())
    live = [one for one in sources if one.closed is None and one.lost_at is None]
    if not live:
        return _without_sources(run, sources, now, rules)
    limit = promise(live, run, rules)
    if _stopping(run, live):
        return Verdict("stopping", promise=limit)
    if run.progress_at <= run.resumed_at:
        return Verdict("starting", promise=limit)
    # A source that has just come owes nothing for the time before it.
    since = max(run.progress_at, *(one.opened_at for one in live))
    if limit is not None and now - since > limit + KNOWN_AFTER:
        reason = f"no progress for more than {limit:.3g} s"
        return Verdict("stalled", reason, promise=limit)
    return Verdict("running", promise=limit)


def deletable(run: Run, now: float, rules: Rules) -> bool:
    """Whether a run can be forgotten: it has ended, and none of its processes lives."""
    return verdict(run, now, rules).ended and not any(
        one.closed is None and one.lost_at is None for one in run.sources.values()
    )


def promise(live: list[Source], run: Run, rules: Rules) -> float | None:
    """Seconds within which progress is due: of the phase, given, or learned."""
    given = run.opened.promise if run.opened else None
    found: list[float] = []
    for source in live:
        sample = source.sample
        if sample is None:
            if given is None:
                return None
            found.append(given)
        elif sample.promise is not None:
            found.append(sample.promise)
        elif given is not None:
            found.append(given)
        elif sample.gaps < LEARN_FROM_GAPS:
            return None
        else:
            learned = LEARN_TIMES * sample.gap
            found.append(max(rules.promise_floor_seconds, learned))
    # A run moves on while one of its sources does: the most patient promise holds.
    return max(found, default=given)


def _without_sources(
    run: Run, sources: list[Source], now: float, rules: Rules
) -> Verdict:
    lost = [one for one in sources if one.closed is None]
    closings = [one.closed for one in sources if one.closed is not None]
    last = max((closing.at for closing in closings), default=run.started_at)
    owner = run.sources.get(run.owner)
    # A run without owner goes from one process to the next, even if one was lost.
    waits = owner is None and closings and now - last < rules.grace_seconds
    if lost and (owner is None or owner in lost) and not waits:
        at = max(last, *(one.lost_at or now for one in lost))
        return Verdict("lost", f"{lost[0].name} was not heard again", None, at)
    if now - last < rules.grace_seconds:
        return Verdict("running" if run.progress_at else "starting")
    for ending in ("failed", "stopped"):
        for closing in closings:
            if closing.ending == ending:
                return Verdict(ending, closing.reason, closing.error, last)
    return Verdict("completed", ended_at=last)


def _stopping(run: Run, live: list[Source]) -> bool:
    asked = [
        answers
        for command, answers in run.commands.items()
        if command.startswith(STOP_ID) and command not in run.earlier_commands
    ]
    if not asked:
        return False
    there = {one.id for one in live}
    return any(
        answer.state in ("accepted", "done") and source in there
        for answers in asked
        for source, answer in answers.items()
    )


def episodes_to_close(
    source: Source, now: float, lost_after: float
) -> list[wire.EpisodeStarted]:
    """Open episodes of a source that is lost for so long that they are closed."""
    if source.lost_at is None or now - source.lost_at < lost_after:
        return []
    return list(source.started.values())


def links_of(links: Mapping[bytes, Link], source: Source, born: float) -> Link:
    """The source's link; one not heard since the exporter's start went then."""
    return links.get(source.id) or Link(born, born)
