"""The strip: where each live source of a run stands, the slowest first.

Copied from the state while its lock is held, rated and put in order without it.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from experiment_hooks import wire
from exporter.merge import Schema
from exporter.runs import Run, name_of, steps_of

MAX_SHOWN = 24
RATE_SECONDS = 10.0
PATIENCE = 2.0
"""Seconds after its newest step from which on time goes on without a source."""


class Standing(NamedTuple):
    """Where a source stands, in its oldest open episode; times by the exporter's clock.

    ``at`` is when it was so, ``total`` the steps so far, of all episodes; ``rate`` in
    steps per second, None while it is not known.
    """

    source: str
    name: str
    at: float
    total: int
    progress: float | None
    mode: str = ""
    step: int | None = None
    target: str | None = None
    rate: float | None = None


class Held(NamedTuple):
    """What is taken of a source under the state's lock; none of it changes."""

    opened: wire.SourceOpened
    sample: wire.Sample | None
    schema: Schema
    totals: tuple[float, ...]
    skew: float
    heard: float


def held(run: Run) -> list[Held]:
    """The live sources of a run; under the state's lock, hence as little as can be."""
    return [
        Held(one.opened, one.sample, one.schema, one.totals, one.skew, one.last_at)
        for one in run.sources.values()
        if one.closed is None and one.lost_at is None
    ]


def standing(one: Held) -> Standing:
    """Where a source stands."""
    sample, skew = one.sample, one.skew
    found = Standing(one.opened.source.hex(), name_of(one.opened), one.heard, 0, None)
    if sample is None:
        return found
    # Its steps are as old as the newest of them (see ``tracks.lags``): with the time of
    # the sample a rate would be wrong until a page has been open for a while.
    waited = max(0.0, sample.sent - sample.progress) if sample.progress else 0.0
    found = found._replace(
        at=sample.sent + skew - min(waited, PATIENCE),
        total=steps_of(one.schema, one.totals),
        progress=sample.progress + skew if sample.progress else None,
    )
    if not sample.open:
        return found
    oldest = min(sample.open, key=lambda shown: shown.started)
    return found._replace(mode=oldest.mode, step=oldest.steps, target=oldest.target)


class Strip:
    """Rates the standings of one run, as they come."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def seen(self, found: Iterable[Standing]) -> list[Standing]:
        """With their rates, the slowest first; those that change little stay put."""
        known, self._seen = self._seen, {}
        rated = []
        for one in found:
            seen = self._seen[one.source] = known.get(one.source) or deque()
            if seen and one.at < seen[-1][0] - RATE_SECONDS:  # its clock was set back
                seen.clear()
            if not seen or one.at > seen[-1][0]:
                seen.append((one.at, one.total))
            while len(seen) > 2 and one.at - seen[1][0] > RATE_SECONDS:
                seen.popleft()
            rated.append(one._replace(rate=_rate(seen)))
        return sorted(rated, key=_order)


def shown(found: list[Standing], chosen: str) -> tuple[list[Standing], int]:
    """Those that are shown, the chosen one among them, and how many are not."""
    first = found[:MAX_SHOWN]
    if len(found) > MAX_SHOWN and all(one.source != chosen for one in first):
        first[-1:] = [one for one in found if one.source == chosen] or first[-1:]
    return first, len(found) - len(first)


def _rate(seen: deque[tuple[float, int]]) -> float | None:
    (first, before), (last, after) = seen[0], seen[-1]
    return (after - before) / (last - first) if last - first >= 1.0 else None


def _order(one: Standing) -> tuple[float, str]:
    """By classes of speed, each half as fast again as the one before, then by name."""
    if one.rate is None:
        return math.inf, one.name
    return (round(2 * math.log2(one.rate)) if one.rate > 0 else -math.inf), one.name
