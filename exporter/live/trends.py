"""How it went lately, in small charts: plain values in, HTML out, as in ``view``.

Two sections of a run's page: what each mode came to over the last minutes and episodes,
and each of the run's own metrics. What is drawn here changes when the recent history
does, which is each five seconds: it is costly to draw and to send, and calm to look at.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from markupsafe import Markup

from exporter.live import charts, words
from exporter.live.charts import Spark, brief
from exporter.live.looks import Fragments
from exporter.live.tracks import Curve, Seen, Series, Speed
from exporter.live.view import Json, Shown, outcome_tone

EPISODES, LOOKED_AT = 100, 500
"""The newest of a mode that are shown, among so many of the run: modes take turns."""
RESULTS = 6
OPEN_METRICS = 24
"""Metrics beyond so many are in a fold."""

_parts = Fragments("charts_parts.html")


@dataclass(frozen=True)
class Tile:
    """One small chart with its numbers, as texts.

    Attributes:
        name: what it shows, with ``labels`` where it is a series.
        value: the newest.
        spark: the chart; what it reaches stands beside it.
        left, right: what stands below it.
        about: its metric's help.
    """

    name: str
    value: str
    spark: Spark
    left: str = ""
    right: str = ""
    about: str = ""
    labels: str = ""


@dataclass(frozen=True)
class Lately:
    """What a run's modes came to: their newest results, and the newest episodes.

    Attributes:
        results: by mode, then by result: of the newest episodes, in their order.
        ended: the run's newest episodes, as ``views.episode`` says them, oldest first.
    """

    results: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    ended: Sequence[Json] = ()


def modes(run: Json, lately: Lately, seen: Seen | None) -> Shown:
    """What each mode came to lately."""
    by_mode: dict[str, list[Json]] = {}
    for row in lately.ended:
        by_mode.setdefault(row["mode"], []).append(row)
    speeds = seen.speeds if seen else {}
    rows = {}
    for place, name in enumerate(run["modes"]):
        tiles = [
            *_steps(speeds.get(name), seen),
            *_outcomes(by_mode.get(name, [])[-EPISODES:], run["success"]),
            *_results(lately.results.get(name, {})),
        ]
        if tiles:
            rows[f"trend-{place}"] = _parts.trend(place, name, tiles)
    return Shown({}, {"trends": rows})


def _steps(speed: Speed | None, seen: Seen | None) -> Iterator[Tile]:
    if seen is not None and speed is not None and len(speed.steps.values) > 1:
        name = "Steps per second"
        spark = _over_time(speed.steps, seen, name, zero=True)
        newest = speed.steps.newest
        value = words.rate(newest) if newest == newest else "–"
        yield Tile(name, value, spark, charts.SPANS[_reach(seen)])


def _outcomes(rows: Sequence[Json], success: Sequence[str]) -> Iterator[Tile]:
    tones = [_tone(row, success) for row in rows]
    if {*tones} <= {"plain"}:
        return  # there is nothing to tell them apart by
    counted = [(tones.count(tone), word) for tone, word in _WORDS.items()]
    said = ", ".join(f"{number} {word}" for number, word in counted if number)
    episodes = words.plural(len(rows), "episode")
    judged = bool(success) or any(row["success"] is not None for row in rows)
    share = words.share(tones.count("good"), len(tones)) if judged else ""
    label = f"Outcomes of the last {episodes}: {said}"
    left = f"of the last {episodes}" if judged else said
    name = "Success" if judged else "Outcomes"
    yield Tile(name, share, Spark(charts.ends(tones, label)), left)


_WORDS = {"good": "successful", "plain": "other", "warn": "lost", "bad": "failed"}


def _tone(row: Json, success: Sequence[str]) -> str:
    return (
        "good" if row["success"] else outcome_tone(row["outcome"], success) or "plain"
    )


def _results(results: Mapping[str, Sequence[float]]) -> Iterator[Tile]:
    for name, values in islice(results.items(), RESULTS):
        if values:
            mean = brief(sum(values) / len(values))
            episodes = words.plural(len(values), "episode")
            spark = charts.over_episodes(values, name)
            left = f"mean {mean} of {episodes}"
            yield Tile(name, _number(values[-1]), spark, left)


def metrics(seen: Seen | None, ended: bool) -> Shown:
    """Each of the run's own metrics, over the last minutes."""
    rows: dict[str, Markup] = {}
    head = folds = Markup()
    if seen is not None:
        for one in seen.series:
            tile = _metric(one, seen, ended)
            rows[f"metric-{one.number}"] = _parts.metric(one.number, tile)
        head = _parts.metrics_head(charts.SPANS[_reach(seen)], seen.more)
        folds = _parts.metrics_more(len(rows) - OPEN_METRICS)
    names = [*rows]
    return Shown(
        {"metrics-head": head, "metrics-more": folds},
        {
            "metrics": {name: rows[name] for name in names[:OPEN_METRICS]},
            "metrics-folded": {name: rows[name] for name in names[OPEN_METRICS:]},
        },
    )


def _metric(one: Series, seen: Seen, ended: bool) -> Tile:
    kind, name = one.spec.type, one.spec.name
    labels = ", ".join(f'{label}="{value}"' for label, value in one.labels)
    called = f"{name}{{{labels}}}" if labels else name
    spark = _over_time(one.curve, seen, called, zero=kind == "counter")
    left = "mean" if kind == "histogram" else ""
    if one.rate is not None and not ended:
        rate = f"{brief(one.rate)}/s"
        left = f"mean, {rate} observed" if kind == "histogram" else rate
    return Tile(
        name,
        _number(one.newest),
        spark,
        left,
        "" if ended else _age(one, seen.at),
        one.spec.help,
        labels,
    )


def _number(value: float) -> str:
    """The newest value: whole numbers as they are, others to four digits."""
    if math.isfinite(value) and value.is_integer() and abs(value) < 1e12:
        return words.count(value)
    return words.real(value, 4)


def _age(one: Series, at: float) -> str:
    """When it changed, as far as was seen: between two points is now."""
    age = at - one.changed
    return words.ago(age) if one.sure else f"> {words.span(age)} ago"


def _reach(seen: Seen) -> float:
    return charts.span(seen.at - seen.since)


def _over_time(curve: Curve, seen: Seen, name: str, *, zero: bool) -> Spark:
    return charts.over_time(curve, seen.at, _reach(seen), name, zero=zero)
