"""What a source counts: its metrics and their series, in the order it tells them.

Owns what is declared, the built-in totals of steps and phases, and how much of the
schema was told. Takes no lock: whoever calls holds the recorder's, which is also the
one that the series are changed under. A metric call does not come here: it goes to its
series.
"""

from typing import Any, Callable, Dict, Iterable, Iterator, List, Set, Tuple

from experiment_hooks import wire
from experiment_hooks.episode import Episode
from experiment_hooks.metrics import NO_SERIES, Drop, Labelled, Series, make_series
from experiment_hooks.totals import ModeTotals, Taken

MAX_SERIES = 2000
MAX_METRICS = 2000
MAX_TOTALS = 32_000
"""Numbers in all series together: they have to fit into one record, the last."""
MAX_MODES = 16
_CHUNK_METRICS = 50
_CHUNK_SERIES = 500
_CHUNK_CHARACTERS = 64 * 1024

Modes = Dict[str, ModeTotals]


class BuiltIn(Series):
    """A series of our own: read out of the totals of its mode."""

    __slots__ = ("_read", "mode")

    def __init__(self, mode: str, read: Callable[[ModeTotals], List[float]]) -> None:
        super().__init__("", None, lambda reason, detail: None)
        self.mode = mode
        self._read = read

    def of(self, totals: ModeTotals) -> List[float]:
        """The totals of this series."""
        return self._read(totals)


class Catalogue:
    """The metrics and series of one source, and its totals by mode.

    Args:
        step_bounds: bounds of the histogram of step durations, in seconds.
        lock: the recorder's, for the series.
        drop: counts what has no place any more, under its reason.

    Attributes:
        step_bounds: as given, or as changed before the first episode.
    """

    def __init__(self, step_bounds: Tuple[float, ...], lock: Any, drop: Drop) -> None:
        self.step_bounds = step_bounds
        self._lock = lock
        self._drop = drop
        self._metrics: List[wire.MetricSpec] = []
        self._labelled: List[Labelled] = []
        self._series: List[Tuple[wire.SeriesSpec, Series]] = []
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: what is declared stays, nothing was counted or told."""
        self._modes: Modes = {}
        self._builtin: Set[Tuple[str, str]] = set()
        self._described = [0, 0]
        # The series of our own go: a forked child may never use those modes.
        self._series = [pair for pair in self._series if not _is_builtin(pair)]
        for _, series in self._series:
            series._reset()
        own = (self._metrics[spec.metric] for spec, _ in self._series)
        self._width = sum(map(wire.slots, own))

    # --- what stands before a metric call -----------------------------------------

    def use_lock(self, lock: Any) -> None:
        """The recorder has another lock: for the series, those to come too."""
        self._lock = lock
        self.guard(lock)

    def guard(self, door: Any) -> None:
        """The series that there are go through this where they took the lock."""
        for family in self._labelled:
            family._use_lock(door)
        for _, series in self._series:
            series._use_lock(door)

    # --- declared metrics ---------------------------------------------------------

    def define(self, spec: wire.MetricSpec) -> Series:
        """A new metric: with labels one that makes series, without them its one."""
        if len(self._metrics) >= MAX_METRICS:
            self._drop("series", f"over {MAX_METRICS} metrics, at {spec.name!r}")
            return NO_SERIES
        self._metrics.append(spec)
        number = len(self._metrics) - 1
        if not spec.labels:
            return self._add_series(number, ())

        def make(values: Tuple[str, ...]) -> Series:
            with self._lock:  # what stands in its place for the family may hold nothing
                return self._add_series(number, values)

        family = Labelled(spec, self._lock, self._drop, make)
        self._labelled.append(family)
        return family

    def _add_series(self, metric: int, values: Tuple[str, ...]) -> Series:
        spec = self._metrics[metric]
        width = self._width + wire.slots(spec)
        if len(self._series) >= MAX_SERIES or width > MAX_TOTALS:
            self._drop("series", f"over {MAX_SERIES} series, at {spec.name!r}")
            return NO_SERIES
        self._width = width
        series = make_series(spec, self._lock, self._drop)
        self._series.append((wire.SeriesSpec(metric, values), series))
        return series

    # --- modes and phases ---------------------------------------------------------

    def use_step_bounds(self, bounds: Tuple[float, ...]) -> None:
        """Other bounds of the histogram of step durations; too late after a step."""
        if self._modes and bounds != self.step_bounds:
            self._drop("usage", "buckets['step_duration'] come after an episode")
            return
        self.step_bounds = bounds

    def mode(self, name: str) -> str:
        """The mode of this name, or ``other`` when there are too many."""
        if name not in self._modes and len(self._modes) >= MAX_MODES:
            self._drop("modes", f"more than {MAX_MODES} modes; the rest is 'other'")
            name = "other"
        self._totals(name)
        return name

    def add(self, mode: str, taken: Taken, start: float) -> None:
        """An episode has ended: its totals become its mode's."""
        self._totals(mode).add(taken, start)

    def _totals(self, mode: str) -> ModeTotals:
        totals = self._modes.get(mode)
        if totals is None:
            totals = self._modes[mode] = ModeTotals(len(self.step_bounds) + 1)
            self._define_mode(mode)
        return totals

    def _define_mode(self, mode: str) -> None:
        self._build(
            wire.MetricSpec("steps", "counter", labels=("mode",)),
            (mode,),
            lambda totals: [totals.steps],
        )
        self._build(
            wire.MetricSpec(
                "step_duration_seconds",
                "histogram",
                labels=("mode",),
                buckets=self.step_bounds,
            ),
            (mode,),
            lambda totals: [*totals.counts, totals.seconds],
        )

    def _define_phase(self, mode: str, phase: str) -> None:
        if (mode, phase) in self._builtin:
            return
        self._builtin.add((mode, phase))
        labels = ("mode", "phase")
        self._build(
            wire.MetricSpec("phase_seconds", "counter", labels=labels),
            (mode, phase),
            lambda totals: [totals.phases.get(phase, (0.0, 0))[0]],
        )
        self._build(
            wire.MetricSpec("phases", "counter", labels=labels),
            (mode, phase),
            lambda totals: [totals.phases.get(phase, (0.0, 0))[1]],
        )

    def _build(
        self,
        spec: wire.MetricSpec,
        values: Tuple[str, ...],
        read: Callable[[ModeTotals], List[float]],
    ) -> None:
        if spec not in self._metrics:
            self._metrics.append(spec)
        metric = self._metrics.index(spec)
        series = BuiltIn(values[0], read)
        self._width += wire.slots(spec)
        self._series.append((wire.SeriesSpec(metric, values), series))

    # --- what is told -------------------------------------------------------------

    def modes(self, episodes: Iterable[Episode]) -> Modes:
        """The totals of each mode so far, with those of the open episodes."""
        modes = {mode: totals.copy() for mode, totals in self._modes.items()}
        for episode in episodes:
            modes[episode.mode].add(episode.taken, episode.start)
        for mode, totals in modes.items():
            for phase in totals.phases:
                self._define_phase(mode, phase)
        return modes

    def untold(self) -> Iterator[Callable[..., wire.Schema]]:
        """What is new in the schema, to be recorded before totals that need it.

        One part at a time; each is told by the time that the next is asked for.
        """
        while self._described != [len(self._metrics), len(self._series)]:
            first_metric, first_series = self._described
            metrics = tuple(self._metrics[first_metric : first_metric + _CHUNK_METRICS])
            known = first_metric + len(metrics)
            # A series comes with its metric, or after it.
            series = self._chunk(first_series) if known == len(self._metrics) else ()
            yield _schema(first_metric, first_series, metrics, series)
            self._described = [known, first_series + len(series)]

    def _chunk(self, first: int) -> Tuple[wire.SeriesSpec, ...]:
        """Some series from ``first`` on, as many as go well into one record."""
        chunk: List[wire.SeriesSpec] = []
        size = 0
        for spec, _ in self._series[first : first + _CHUNK_SERIES]:
            size += sum(map(len, spec.values))
            if chunk and size > _CHUNK_CHARACTERS:
                break
            chunk.append(spec)
        return tuple(chunk)

    def read(self, modes: Modes) -> List[float]:
        """All totals, in the order of the schema; our own are those of ``modes``."""
        values: List[float] = []
        for _, series in self._series:
            if isinstance(series, BuiltIn):
                values += series.of(modes[series.mode])
            else:
                values += series.read()
        return values


def _is_builtin(pair: Tuple[wire.SeriesSpec, Series]) -> bool:
    return isinstance(pair[1], BuiltIn)


def _schema(
    first_metric: int,
    first_series: int,
    metrics: Tuple[wire.MetricSpec, ...],
    series: Tuple[wire.SeriesSpec, ...],
) -> Callable[..., wire.Schema]:
    return lambda **base: wire.Schema(
        first_metric=first_metric,
        first_series=first_series,
        metrics=metrics,
        series=series,
        **base,
    )
