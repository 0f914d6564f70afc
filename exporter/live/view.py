"""What a page shows, as HTML: a pure function of plain values and of the time.

No clock, no I/O, no state: values go in and fragments come out, of the templates of the
look that is in use (see ``looks``). All that an experiment said is escaped,
by jinja's autoescape or by ``tree``. A page is made of fragments, each small and with
an id of its own, so that only those that differ need to be sent.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from zlib import crc32

from markupsafe import Markup

from exporter.live import looks, strip, words
from exporter.live.aside import Drawing
from exporter.live.custom import REPLACED
from exporter.live.eta import NO_MODE, progress
from exporter.live.evidence import LARGEST, Belief, Chart, Leader, parted
from exporter.live.looks import Fragments, Look
from exporter.live.strip import Standing
from exporter.live.tracks import Speed
from exporter.verdict import ENDED

Json = dict[str, Any]

TOP_SCORES = 12
RESULT_COLUMNS = 6
OUTCOMES_SHOWN = 8
MODES_SHOWN = 6
HOSTS_SHOWN = 8
COMMAND_SHOWN = 4000


@dataclass(frozen=True)
class Shown:
    """What a page shows now.

    Attributes:
        parts: the inner HTML of elements, by their id.
        lists: of elements that hold rows, by their id: each row's HTML by the row's id,
            in order.
        charts: what is drawn by the page's script, by the id of its element.
    """

    parts: dict[str, Markup] = field(default_factory=dict)
    lists: dict[str, dict[str, Markup]] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)

    def __or__(self, other: "Shown") -> "Shown":
        return Shown(
            self.parts | other.parts,
            self.lists | other.lists,
            self.charts | other.charts,
        )


@dataclass(frozen=True)
class ShownImage:
    """An image's description; ``version`` changes with its bytes.

    ``extent`` are the values between which it was stretched, None where it was not.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stride: int
    at: float
    version: str
    extent: tuple[float, float] | None = None


@dataclass(frozen=True)
class ShownValue:
    """A named value, the one before it (itself, where there was none), and its time."""

    name: str
    value: Any
    before: Any
    at: float


@dataclass(frozen=True)
class Moment:
    """What one source looks like.

    Attributes:
        source: as ``views.source`` says it; None where the run has none (any more).
        episode: as ``views.open_episode`` says it, None outside of one.
        at: Unix seconds of the newest thing seen; None where nothing was.
        values: step state, the run's own state.
        drawn: what the scores were, step by step.
    """

    run: str
    source: Json | None = None
    episode: Json | None = None
    step: int = 0
    at: float | None = None
    values: tuple[ShownValue, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    images: tuple[ShownImage, ...] = ()
    streams: tuple[ShownValue, ...] = ()
    drawn: tuple[Belief, ...] = ()


@dataclass(frozen=True)
class Bar:
    """One stretch of a bar, in percent of its length."""

    start: float
    width: float
    name: str
    number: float
    tone: str = ""
    colour: int | None = None


_run = Fragments("run_parts.html")
_strip = Fragments("strip_parts.html")
_runs = Fragments("runs_parts.html")
_own = Fragments("own_parts.html")


def page(template: str, shown: Shown, **values: Any) -> str:
    """A whole document, its parts as they are now."""
    return looks.page(template, parts=shown.parts, lists=shown.lists, **values)


def own(look: Look, drawing: Drawing) -> Shown:
    """What a view of the user's own has drawn, and what went wrong with it."""
    mistakes = [*look.mistakes]
    if drawing.mistake:
        mistakes.append(drawing.mistake)
    parts, rows = {"view-notices": _own.notices(look.name, mistakes)}, {}
    for name, html in drawing.sections.items():
        if name in REPLACED:
            parts[name] = html
        else:
            number = f"own-{crc32(name.encode('utf-8', 'replace')):08x}"
            rows[number] = _own.section(number, name, html)
    return Shown(parts, {"own": rows})


# --- a run --------------------------------------------------------------------------


def head(run: Json, now: float) -> Shown:
    """What the run is, its verdict, since when, and what went wrong."""
    return Shown(
        {
            "title": _run.title(run),
            "name": _run.name(run),
            "verdict": _run.verdict(run),
            "times": _run.times(run, now),
            "error": _run.error(run["error"]),
            "notices": _run.notices(run),
        }
    )


def last_seen(run: str, seen: Json | None) -> Shown:
    """What was seen last of the episode that failed, as ``views.last_seen`` says it."""
    if seen is None:
        return Shown({"last-seen": Markup()})
    found = beliefs(seen["scores"], ())
    return Shown({"last-seen": _run.last_seen(run, seen, found)})


def gone(run: str) -> Shown:
    """The run is not known (any more): there is nothing that it could be told."""
    nothing = dict.fromkeys(("under-way", "order", "removal"), Markup())
    return Shown({"verdict": _run.gone(run), "title": _run.gone_title(run), **nothing})


def under_way(run: Json, rates: Mapping[str, float]) -> Shown:
    """The modes that go on now: an episode is open, or steps were taken lately."""
    if run["state"] in ENDED:
        return Shown({"under-way": Markup()})
    going = {*run["open_modes"], *(name for name, rate in rates.items() if rate > 0)}
    known = [name for name in run["modes"] if name in going]
    modes = [*known, *sorted(going.difference(known))]
    more = max(0, len(modes) - MODES_SHOWN)
    return Shown({"under-way": _run.under_way(modes[:MODES_SHOWN], more)})


def modes(
    run: Json,
    rates: Mapping[str, float],
    now: float,
    speeds: Mapping[str, Speed] = MappingProxyType({}),
) -> Shown:
    """How far each mode is.

    Args:
        run: as ``views.run_summary`` says it.
        rates: steps per second now, by mode.
        now: Unix seconds.
        speeds: how fast each was in the last ten minutes, where that is known.
    """
    expected = run["expected"]
    known = [*run["modes"]]
    known += [m for kind in expected.values() for m in kind if m not in run["modes"]]
    rows = {}
    for place, name in enumerate(dict.fromkeys(known)):
        mode = run["modes"].get(name) or NO_MODE
        rows[f"mode-{place}"] = _run.mode(
            place=place,
            name=name,
            mode=mode,
            epoch=run["epochs"].get(name),
            epochs=expected["epochs"].get(name),
            progress=progress(run, name, speeds.get(name, Speed()), now),
            rate=rates.get(name),
            outcomes=outcomes(mode, run["success"]),
            ended=run["state"] in ENDED,
        )
    return Shown({"no-modes": _run.no_modes(not rows)}, {"modes": rows})


def outcomes(mode: Json, success: Sequence[str]) -> list[Bar]:
    """How a mode's episodes came out, the successes first, then the most frequent."""
    counted = {**mode["outcomes"]}
    if mode["lost"]:
        counted["lost"] = counted.get("lost", 0) + mode["lost"]
    names = sorted(counted, key=lambda name: (name not in success, -counted[name]))
    whole = sum(counted.values()) or 1
    bars, start, plain = [], 0.0, 0
    for name in names:
        tone = outcome_tone(name, success)
        if not tone:
            plain += 1
            tone = f"plain-{min(plain, 4)}"
        width = 100.0 * counted[name] / whole
        bars.append(Bar(start, width, name, counted[name], tone))
        start += width
    return _folded(bars)


def _folded(bars: list[Bar]) -> list[Bar]:
    if len(bars) <= OUTCOMES_SHOWN:
        return bars
    shown, rest = bars[: OUTCOMES_SHOWN - 1], bars[OUTCOMES_SHOWN - 1 :]
    number = sum(bar.number for bar in rest)
    start = rest[0].start
    name = words.plural(len(rest), "other outcome")
    return [*shown, Bar(start, 100.0 - start, name, number, "plain-4")]


def outcome_tone(name: str, success: Sequence[str]) -> str:
    """The colour of an outcome; empty where it is neither good nor bad."""
    if name in success:
        return "good"
    return {"error": "bad", "lost": "warn"}.get(name, "")


def sources_strip(found: list[Standing], chosen: str, now: float) -> Shown:
    """Where the live sources stand, where there is another than the chosen one."""
    some, more = strip.shown(found, chosen)
    if [one.source for one in found] == [chosen]:
        some = []
    rows = {
        f"strip-{one.source}": _strip.row(one, one.source == chosen, now)
        for one in some
    }
    return Shown({"strip-head": _strip.head(len(found), more)}, {"strip": rows})


def moment(seen: Moment, now: float) -> Shown:
    """What one source looks like now."""
    return Shown(
        {
            "chosen": _run.chosen(seen),
            "where": _run.where(seen, now),
            "state": _run.values(seen.values),
            "scores": _run.scores(beliefs(seen.scores, seen.drawn)),
            "images": _run.images(seen, now),
            "streams": _run.streams(seen.streams, now),
        },
        charts={chart_id(one.whose): one.chart for one in seen.drawn},
    )


@dataclass(frozen=True)
class ShownBelief:
    """Whose scores, the id of their chart's element (empty: none), and their bars."""

    whose: str
    chart: str
    leader: Leader | None
    bars: Sequence[Bar]
    zero: float
    more: int


def chart_id(whose: str) -> str:
    """The id of the element of a chart."""
    return f"chart-{crc32(whose.encode('utf-8', 'replace')):08x}"


def beliefs(values: Mapping[str, float], drawn: Sequence[Belief]) -> list[ShownBelief]:
    """Scores by whose they are, beside what is drawn of them."""
    known = {belief.whose: belief for belief in drawn}
    found: dict[str, dict[str, float]] = {whose: {} for whose in known}
    for name, value in values.items():
        whose, what = parted(name)
        found.setdefault(whose, {})[what] = value
    return [
        ShownBelief(
            whose,
            chart_id(whose) if whose in known else "",
            known[whose].leader if whose in known else None,
            *scores(of_whom, known[whose].colours if whose in known else {}),
        )
        for whose, of_whom in found.items()
    ]


def scores(
    values: Mapping[str, float],
    colours: Mapping[str, int] = MappingProxyType({}),
    most: int = TOP_SCORES,
) -> tuple[list[Bar], float, int]:
    """Bars for the highest scores, where they begin in percent, how many are left out.

    Few keep the order in which they were given, so that they do not jump about; of many
    those come that are drawn in a colour, then the highest. NaN has no bar.
    """
    names = [*values]
    if len(names) > most:
        first = [name for name in colours if name in values][:most]
        rest = [name for name in names if name not in colours]
        rest.sort(key=lambda name: _height(values[name]), reverse=True)
        names = [*first, *rest[: most - len(first)]]
    low, base, high = _extent([values[name] for name in names])
    whole = (high - low) or 1.0
    best = max((_height(values[name]) for name in names), default=None)
    bars = []
    for name in names:
        value = values[name]
        end = min(high, max(low, value)) if value == value else base
        start = 100.0 * (min(base, end) - low) / whole
        tone = "best" if value == value and _height(value) == best else ""
        width = 100.0 * abs(end - base) / whole
        bars.append(Bar(start, width, name, value, tone, colours.get(name)))
    return bars, 100.0 * (base - low) / whole, len(values) - len(names)


def _extent(values: Sequence[float]) -> tuple[float, float, float]:
    """From where to where bars are drawn, and (second) where they begin: at zero.

    Where all are negative they begin below the lowest: then too the longest bar is that
    of the highest score.
    """
    finite = [value for value in values if abs(value) < LARGEST]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    if not finite or max(finite) >= 0:
        return low, 0.0, high
    high = max(finite)
    low -= 0.25 * ((high - low) or -low)
    return low, low, high


def _height(number: float) -> tuple[bool, float]:
    return number == number, number


def episodes(
    run: str, rows: Mapping[int, Json], success: Sequence[str], trace_url: str
) -> Shown:
    """The newest ended episodes, by the number of their row."""
    columns = list(dict.fromkeys(n for row in rows.values() for n in row["results"]))
    columns = columns[:RESULT_COLUMNS]
    targets = any(row["target"] is not None for row in rows.values())
    return Shown(
        {"episodes-head": _run.episodes_head(columns, targets, bool(rows))},
        {
            "episodes": {
                f"episode-{number}": _run.episode(
                    run,
                    number,
                    row,
                    columns,
                    targets,
                    outcome_tone(row["outcome"], success),
                    trace_link(trace_url, row["trace_id"]),
                )
                for number, row in rows.items()
            }
        },
    )


def trace_link(template: str, trace_id: str) -> str:
    """Where a trace is looked at; empty where no trace store is named."""
    return template.replace("{trace_id}", trace_id) if template else ""


def log(
    lines: Mapping[int, Json], trace_url: str, before: Mapping[str, Markup]
) -> Shown:
    """Log lines by their number in the run; ``before`` are rows drawn already."""
    rows = {}
    for number, line in lines.items():
        link = trace_link(trace_url, line["trace_id"])
        drawn = before.get(f"log-{number}")
        rows[f"log-{number}"] = drawn or _run.log_line(number, line, link)
    return Shown({"no-log": _run.no_log(not rows)}, {"log": rows})


def sources(run: Json, found: Sequence[Json], more: int, looked_at: str) -> Shown:
    """The run's processes; ``looked_at`` is the id of the one whose moment is shown."""
    rows = {
        f"source-{one['source']}": _run.source(one, one["source"] == looked_at)
        for one in found
    }
    return Shown({"sources-head": _run.sources_head(run, more)}, {"sources": rows})


def about(run: Json) -> Shown:
    """What the run said of itself when it was opened, and where its sources are."""
    launch = {**run["launch"]}
    command = launch.pop("command", "")
    if isinstance(command, list):
        command = shlex.join(str(one) for one in command)
    if len(run["hosts"]) > 1:
        launch["hosts"] = _hosts(run["hosts"])
    said = words.cut(command, COMMAND_SHOWN)
    return Shown({"about": _run.about(run, launch, said, said == command)})


def _hosts(names: Sequence[str]) -> list[str]:
    if len(names) <= HOSTS_SHOWN:
        return [*names]
    shown = names[: HOSTS_SHOWN - 1]
    return [*shown, f"and {words.count(len(names) - len(shown))} more"]


# --- the list of runs ---------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A connection that was refused: when, who, and what to do about it."""

    at: float
    who: str
    sentence: str


@dataclass(frozen=True)
class Losses:
    """What could not be used, since the exporter's start.

    Attributes:
        rejected: messages, by reason.
        unused: records that came and could not be used, by reason.
        refused: series, by reason.
        offenders: by run, the first of its series that was refused, and why.
        spans: those that no trace store will get, by reason.
        trace_error: what the trace store said last, while it takes none.
    """

    rejected: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    offenders: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, int] = field(default_factory=dict)
    trace_error: str = ""


@dataclass(frozen=True)
class RunList:
    """Runs of the list, those first that live.

    Attributes:
        runs: summaries, as ``views.run_summary`` gives them, with ``success``.
        total: how many runs there are.
        matching: how many of them the filter lets through.
        live: how many of those have not ended.
        addresses: what is listened on: names and addresses, the sources' one last.
    """

    runs: tuple[Json, ...]
    total: int
    matching: int
    live: int
    refused: tuple[Refused, ...]
    addresses: tuple[tuple[str, str], ...]
    losses: Losses = field(default_factory=Losses)


def run_list(seen: RunList, now: float) -> Shown:
    """The list of runs, which connections were refused, and what could not be used."""
    rows = {
        f"run-{run['run']}": _runs.row(
            run, [_brief(run, name, now) for name in run["modes"]], now
        )
        for run in seen.runs
    }
    return Shown(
        {
            "title": _runs.title(seen),
            "counts": _runs.counts(seen),
            "first-run": _runs.first_run(
                seen.total == 0, seen.addresses[-1][1], seen.addresses
            ),
            "refused": _runs.refused(seen.refused, now),
            "losses": _runs.losses(seen.losses),
        },
        {"runs": rows},
    )


def _brief(run: Json, name: str, now: float) -> Json:
    mode = run["modes"][name]
    return {
        "name": name,
        "mode": mode,
        "progress": progress(run, name, Speed(), now),
        "rate": run["rates"].get(name),
        "outcomes": outcomes(mode, run["success"]),
    }
