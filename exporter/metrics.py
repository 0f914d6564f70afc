"""The run metrics: which families there are, from the state at one moment.

Owns nothing but the series' texts, kept from scrape to scrape, under a lock of its own.
A scrape changes nothing that can be seen: two Prometheus servers get the same. Series
are refused, not truncated, when a run or the exporter is over its budget; how many and
whose is counted.
"""

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from experiment_hooks import wire
from exporter import exposition, names
from exporter.complaints import Complaints
from exporter.exposition import Buckets, Exemplar, Family, Prefix
from exporter.merge import Key, Line
from exporter.runs import Closing, Mode, Run, Tally
from exporter.state import State
from exporter.verdict import STATES, Rules, Verdict, verdict

Labels = tuple[tuple[str, str], ...]

logger = logging.getLogger("exporter")

INFO_LABELS = ("user", "git_commit", "python", "job")
MAX_INFO = 16
LOOK_SECONDS = 15.0
"""As often as Prometheus usually scrapes."""
"""Labels of the user's own beside them."""


@dataclass(frozen=True)
class Budget:
    """How many series may be served."""

    max_series: int = 200_000
    max_series_per_run: int = 2_000
    grace_seconds: float = 900.0


@dataclass
class _Texts:
    """One run's texts that stay from scrape to scrape."""

    prefixes: dict[tuple[str, Labels], Prefix] = field(default_factory=dict)
    buckets: dict[tuple[str, Labels, tuple[float, ...]], Buckets] = field(
        default_factory=dict
    )
    # Of a metric: the keys as they were merged, and the texts in the same order.
    lines: dict[str, tuple[Sequence[Key], list[Any]]] = field(default_factory=dict)


class _Sheet:
    """The families of one scrape, while they are collected."""

    def __init__(self) -> None:
        self.series = 0
        self.refused: Counter[tuple[str, str]] = Counter()
        self.offenders: dict[str, str] = {}
        self.families: dict[str, Family] = {}
        # A name is one family's, and so are those with the suffixes of its samples.
        self._taken: dict[str, str] = {}
        for name, (kind, help_text) in names.RUN_FAMILIES.items():
            self.add(name, kind, help_text)

    def add(self, name: str, kind: str, help_text: str) -> bool:
        """Add a family; False if a name of its samples is another's already."""
        wanted = [f"{name}{suffix}" for suffix in _SUFFIXES[kind]]
        if any(self._taken.get(one, name) != name for one in wanted):
            return False
        self._taken.update(dict.fromkeys(wanted, name))
        self.families[name] = Family(name, kind, help_text)  # type: ignore[arg-type]
        return True


_SUFFIXES = {
    "gauge": ("",),
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}


class RunMetrics:
    """Collects the families of all runs.

    Args:
        state: what is true.
        rules: of the verdict.
        budget: of series.
        clock: Unix seconds.
        heard: Unix seconds at which a source was last heard, by its id; None if never.

    Attributes:
        budget: what was given.
        series: how many were served at the last scrape.
        refused: how many were not, by reason, since the start: each counts once.
        offenders: by run, the first of its series that was refused, and why.
    """

    def __init__(
        self,
        state: State,
        *,
        rules: Rules,
        budget: Budget,
        clock: Callable[[], float],
        heard: Callable[[bytes], float | None],
    ) -> None:
        self.series = 0
        self.refused: Counter[str] = Counter()
        self.offenders: dict[str, str] = {}
        self._state = state
        self._rules = rules
        self.budget = budget
        self._clock = clock
        self._heard = heard
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._looking: threading.Thread | None = None
        self._complaints = Complaints(logger)
        self._texts: dict[tuple[str, str], _Texts] = {}
        # Runs that ended so long ago that they are not served, as they ended: there may
        # be very many, and one that is resumed has not ended, or ends anew.
        self._over: dict[str, Closing] = {}
        # By run and reason: the most that were refused at once, and are counted.
        self._counted: dict[tuple[str, str], int] = {}

    def pieces(self, openmetrics: bool) -> list[bytes]:
        """The families' text, without the end marker; the pieces are to be joined."""
        with self._lock:
            return [*exposition.pieces(self._families(), openmetrics)]

    def families(self) -> list[Family]:
        """All families of the runs that are still served."""
        with self._lock:
            return self._families()

    def look(self, *, wait: bool = True) -> None:
        """Find out what is refused, where nobody has scraped for a while.

        With ``wait=False`` it is found out meanwhile: of thousands of runs it takes
        seconds, for which no page is to wait.
        """
        if self._fresh:
            return
        if wait:
            with self._lock:
                if not self._fresh:  # another one has looked meanwhile
                    self._families()
        elif not (self._looking and self._looking.is_alive()):
            self._looking = threading.Thread(target=self.look, name="look", daemon=True)
            self._looking.start()

    @property
    def _fresh(self) -> bool:
        return 0 <= self._clock() - self._looked < LOOK_SECONDS

    def _families(self) -> list[Family]:
        now = self._looked = self._clock()
        sheet = _Sheet()
        with self._state.lock:
            runs = list(self._state.runs.values())
        texts: dict[tuple[str, str], _Texts] = {}
        for run in runs:
            if run.closed is not None and self._over.get(run.id) is run.closed:
                continue
            with self._state.lock:
                judged = verdict(run, now, self._rules)
                if not self._served(judged, now):
                    if run.closed is not None:
                        self._over[run.id] = run.closed
                else:
                    key = run.id, run.experiment
                    texts[key] = self._texts.get(key) or _Texts()
                    part = _RunSheet(sheet, run, texts[key], self.budget)
                    self._collect(part, run, judged, now)
        self._texts = texts  # those of runs that are gone go
        if len(self._over) > len(runs):
            there = {run.id for run in runs}
            self._over = {
                name: how for name, how in self._over.items() if name in there
            }
        self._count(sheet, {run.id for run in runs})
        return [family for family in sheet.families.values() if family]

    def _count(self, sheet: _Sheet, runs: set[str]) -> None:
        self.series, self.offenders = sheet.series, sheet.offenders
        for key in [key for key in self._counted if key[0] not in runs]:
            del self._counted[key]
        for key, number in sheet.refused.items():
            before = self._counted.get(key, 0)
            if number > before:
                self._counted[key] = number
                self.refused[key[1]] += number - before
                run, reason = key
                detail = f"not served, the first is {sheet.offenders.get(run, '')}"
                self._complaints.say(f"series: {reason}", f"run {run!r}", detail)

    def _served(self, judged: Verdict, now: float) -> bool:
        ended = judged.ended_at
        return ended is None or now - ended <= self.budget.grace_seconds

    def _collect(
        self, sheet: "_RunSheet", run: Run, judged: Verdict, now: float
    ) -> None:
        self._collect_run(sheet, run, judged, now)
        # Counted from zero on where a success is declared: what grew before a series is
        # there is seen by no increase().
        declared = run.opened is not None and run.opened.success is not None
        for name, mode in run.modes.items():
            _collect_mode(sheet, name, mode, declared or mode.judged)
        _collect_totals(sheet, run, now)

    def _collect_run(
        self, sheet: "_RunSheet", run: Run, judged: Verdict, now: float
    ) -> None:
        opened = run.opened
        sheet.point("experiment_run_info", info_labels(run), 1.0)
        for state in STATES:
            sheet.point(
                "experiment_run_state",
                (("state", state),),
                float(state == judged.state),
            )
        sheet.point("experiment_run_start_timestamp_seconds", (), run.started_at)
        if judged.ended_at is not None:
            sheet.point("experiment_run_end_timestamp_seconds", (), judged.ended_at)
        if run.progress_at:
            at = run.progress_at
            sheet.point("experiment_run_last_step_timestamp_seconds", (), at)
        heard = [self._heard(source) for source in run.sources]
        newest = max([run.last_record_at, *(at for at in heard if at is not None)])
        sheet.point("experiment_run_last_heartbeat_timestamp_seconds", (), newest)
        if judged.promise is not None:
            promise = judged.promise
            sheet.point("experiment_run_progress_promise_seconds", (), promise)
        for what in ("episodes", "steps", "epochs"):
            expected = getattr(opened, f"expected_{what}") if opened else {}
            for mode, number in expected.items():
                name = f"experiment_run_expected_{what}"
                sheet.point(name, (("mode", mode),), float(number))
        for state, number in source_states(run).items():
            name = "experiment_run_sources"
            sheet.point(name, (("state", state),), float(number))
        for mode, epoch in run.epochs().items():
            sheet.point("experiment_run_epoch", (("mode", mode),), float(epoch))


class _RunSheet:
    """Adds one run's series, with its labels, within the budgets.

    What cannot be served is refused, and costs the scrape nothing else.
    """

    def __init__(self, sheet: _Sheet, run: Run, texts: _Texts, budget: Budget) -> None:
        self._sheet = sheet
        self._texts = texts
        self._budget = budget
        self._labels: Labels = (("experiment", run.experiment), ("run", run.id))
        self._run = run.id
        self._used = 0

    def point(
        self,
        name: str,
        labels: Labels,
        value: float,
        kind: str = "gauge",
        help_text: str = "",
    ) -> None:
        """Add a gauge's or counter's series."""
        family, _ = self._family(name, kind, help_text, 1, 1)
        if family is not None:
            prefix = self._prefix(name, kind, labels)
            if prefix is not None:
                family.add(prefix, value)

    def histogram(
        self,
        name: str,
        labels: Labels,
        bounds: tuple[float, ...],
        counts: Sequence[float],
        total: float,
        exemplars: Mapping[int, Exemplar] | None = None,
    ) -> None:
        """Add a histogram's series."""
        family, _ = self._family(name, "histogram", "", 1, len(bounds) + 3)
        if family is not None:
            buckets = self._buckets(name, labels, bounds)
            if buckets is not None:
                family.add_histogram(buckets, counts, total, exemplars)

    def line(self, name: str, line: Line) -> None:
        """Add all series of one of the experiment's metrics."""
        spec = line.spec
        cost = len(spec.buckets) + 3 if spec.type == "histogram" else 1
        wanted = len(line.keys)
        family, room = self._family(name, spec.type, spec.help, wanted, cost)
        if family is None:
            return
        texts, values = self._line_texts(name, line), line.values
        if room < wanted or None in texts:
            rows = [
                row for row in zip(texts, values, strict=True) if row[0] is not None
            ]
            texts = [text for text, _ in rows[:room]]
            values = [value for _, value in rows[:room]]
        if spec.type != "histogram":
            family.extend(texts, values)
            return
        for buckets, numbers in zip(texts, values, strict=True):
            family.add_histogram(buckets, numbers[:-1], numbers[-1])

    # --- texts --------------------------------------------------------------------

    def _line_texts(self, name: str, line: Line) -> list[Any]:
        known = self._texts.lines.get(name)
        if known is not None and known[0] is line.keys:
            return known[1]
        spec = line.spec
        made: list[Any] = (
            [self._buckets(name, labels, spec.buckets) for _, labels in line.keys]
            if spec.type == "histogram"
            else [self._prefix(name, spec.type, labels) for _, labels in line.keys]
        )
        self._texts.lines[name] = line.keys, made
        return made

    def _prefix(self, name: str, kind: str, labels: Labels) -> Prefix | None:
        found = self._texts.prefixes.get((name, labels))
        if found is None:
            every = self._labels + labels
            try:
                found = exposition.prefix(name, kind, every)  # type: ignore[arg-type]
            except ValueError:
                self.refuse("malformed", name)
                return None
            self._texts.prefixes[name, labels] = found
        return found

    def _buckets(
        self, name: str, labels: Labels, bounds: tuple[float, ...]
    ) -> Buckets | None:
        found = self._texts.buckets.get((name, labels, bounds))
        if found is None:
            try:
                found = Buckets(name, self._labels + labels, bounds)
            except ValueError:
                self.refuse("malformed", name)
                return None
            self._texts.buckets[name, labels, bounds] = found
        return found

    # --- what there is room for ---------------------------------------------------

    def _family(
        self, name: str, kind: str, help_text: str, wanted: int, cost: int
    ) -> tuple[Family | None, int]:
        """Where there is room for some of the series wanted, and for how many."""
        families = self._sheet.families
        if name not in families:
            text = help_text or f"The experiment's own {kind}."
            if not self._sheet.add(name, kind, text):
                self.refuse("name_conflict", name, wanted)
                return None, 0
        if families[name].type != kind:
            self.refuse("type_conflict", name, wanted)
            return None, 0
        room = self._admit(wanted, cost)
        if room < wanted:
            self.refuse("budget", name, wanted - room)
        return (families[name], room) if room else (None, 0)

    def _admit(self, wanted: int, cost: int) -> int:
        """How many series there is room for, of those that cost so much each."""
        budget = self._budget
        left = min(
            budget.max_series_per_run - self._used,
            budget.max_series - self._sheet.series,
        )
        room = min(wanted, max(0, left // cost))
        self._used += room * cost
        self._sheet.series += room * cost
        return room

    def refuse(self, reason: str, name: str, number: int = 1) -> None:
        """Count something that is not served; the run's first is named."""
        self._sheet.refused[self._run, reason] += number
        self._sheet.offenders.setdefault(self._run, f"{name} ({reason})")


def _collect_mode(sheet: _RunSheet, name: str, mode: Mode, judged: bool) -> None:
    labels: Labels = (("mode", name),)
    counter = "counter"
    sheet.point("experiment_episodes_started", labels, mode.started, counter)
    for outcome, number in mode.outcomes.items():
        with_outcome = (*labels, ("outcome", outcome))
        sheet.point("experiment_episodes", with_outcome, number, counter)
    if judged:
        sheet.point("experiment_episode_successes", labels, mode.successes, counter)
    sheet.point("experiment_episodes_lost", labels, mode.lost, counter)
    for family, tally in (
        ("experiment_episode_duration_seconds", mode.durations),
        ("experiment_episode_steps", mode.steps),
    ):
        sheet.histogram(
            family, labels, tally.bounds, tally.counts, tally.total, _exemplars(tally)
        )
    for result, recent in mode.results.items():
        with_result = (*labels, ("result", result))
        sheet.point("experiment_episode_result_last", with_result, recent[-1])
        mean = (
            math.fsum(recent) / len(recent)
            if all(map(math.isfinite, recent))
            else (sum(recent) / len(recent))
        )
        sheet.point("experiment_episode_result_recent_mean", with_result, mean)


def _exemplars(tally: Tally) -> dict[int, Exemplar]:
    return {
        bucket: Exemplar((("trace_id", trace.id),), value, round(at, 3))
        for bucket, (trace, value, at) in tally.exemplars.items()
    }


def _collect_totals(sheet: _RunSheet, run: Run, now: float) -> None:
    conflicts: set[str] = set()
    sources = run.contributions(now)
    for line in run.base.merged(sources, conflicts):
        name = f"experiment_{line.spec.name}"
        per_source = line.spec.type == "gauge" and line.spec.merge == "per_source"
        sheet.line(name, _by_source(line) if per_source else line)
    for name in sorted(conflicts):
        sheet.refuse("conflict", f"experiment_{name}")
    for schema in {id(one.schema): one.schema for one in sources}.values():
        for name, reason in schema.refused:
            sheet.refuse(reason, f"experiment_{name}"[:200])


def _by_source(line: Line) -> Line:
    """A series for each source that has a value, with its name as a label."""
    found = {
        (name, (*labels, ("source", source))): value
        for (name, labels), values in zip(line.keys, line.values, strict=True)
        for source, value in values
    }
    return Line(line.spec, [*found], [*found.values()])


def source_states(run: Run) -> dict[str, int]:
    """How many sources of a run are live, ended, and lost."""
    found = {"live": 0, "ended": 0, "lost": 0}
    for source in run.sources.values():
        if source.closed is not None:
            found["ended"] += 1
        elif source.lost_at is not None:
            found["lost"] += 1
        else:
            found["live"] += 1
    return found


def info_labels(run: Run) -> Labels:
    """The labels of ``experiment_run_info``: launch facts, and the user's own."""
    opened = run.opened or wire.RunOpened(run.id, b"", 1, 0.0)
    launch = opened.launch
    git = launch.get("git")
    scheduler = launch.get("scheduler")
    found = {
        "user": launch.get("user"),
        "git_commit": git.get("commit") if isinstance(git, dict) else None,
        "python": launch.get("python"),
        "job": _job(scheduler),
    }
    for name, value in islice(opened.info.items(), MAX_INFO):
        label = names.label_name(name)
        if label not in ("experiment", "run"):
            found[label] = value
    return tuple(
        (name, str(value)[:200]) for name, value in found.items() if value is not None
    )


def _job(scheduler: object) -> object:
    if not isinstance(scheduler, dict):
        return None
    return next((v for k, v in scheduler.items() if "JOB" in str(k).upper()), None)
