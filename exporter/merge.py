"""Totals of many sources become one run's series: pure functions of values.

Counters and histograms are sums over every source that ever was; gauges follow the rule
declared with them. Sums are exact (``math.fsum``, and Shewchuk's partials for what
ended sources leave behind), so the order of folding cannot make a counter one ulp
smaller: what was served never goes down.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import itemgetter
from typing import Any

from experiment_hooks import wire
from exporter import checks

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A series of a run: the metric's name and its label pairs, as they are served: in the
order of their names, without empty values (to Prometheus those are no labels)."""


@dataclass(frozen=True, slots=True)
class Column:
    """Where one series lies in the totals of a source."""

    key: Key
    spec: wire.MetricSpec
    start: int
    stop: int


class Schema:
    """What a source's totals mean: one for all sources that declared the same.

    Attributes:
        metrics: the metrics in the order of their numbers.
        series: the series in the order of their totals.
        columns: those that can be served, with names and places.
        refused: (name, reason) of each series that cannot.
        width: how many totals belong to it.
    """

    __slots__ = (
        "__weakref__", "_blocks", "_steps", "columns", "last_gauges", "metrics",
        "refused", "series", "width",
    )  # fmt: skip

    def __init__(
        self,
        metrics: tuple[wire.MetricSpec, ...] = (),
        series: tuple[wire.SeriesSpec, ...] = (),
    ) -> None:
        self.metrics = metrics
        self.series = series
        columns: dict[Key, Column] = {}
        refused = []
        reasons = [checks.refusal(spec) for spec in metrics]
        at = 0
        for one in series:
            spec, reason = metrics[one.metric], reasons[one.metric]
            key = _key(spec, one.values)
            if reason or key in columns:
                refused.append((spec.name, reason or "twice"))
            else:
                columns[key] = Column(key, spec, at, at + wire.slots(spec))
            at += wire.slots(spec)
        self.columns = tuple(columns.values())
        self._blocks: tuple[Block, ...] | None = None
        self._steps: tuple[int, ...] | None = None
        self.refused = tuple(refused)
        self.width = at
        self.last_gauges = tuple(
            column
            for column in self.columns
            if column.spec.type == "gauge" and column.spec.merge == "last"
        )

    @property
    def blocks(self) -> tuple["Block", ...]:
        """The columns by metric, made when first asked for: schemas grow in steps."""
        if self._blocks is None:
            found: dict[int, list[Column]] = {}
            for column in self.columns:
                found.setdefault(id(column.spec), []).append(column)
            self._blocks = tuple(map(Block, found.values()))
        return self._blocks

    @property
    def steps(self) -> tuple[int, ...]:
        """The places of the steps' totals, one a mode."""
        if self._steps is None:
            self._steps = tuple(c.start for c in self.columns if c.key[0] == "steps")
        return self._steps

    def goes_on_with(self, record: wire.Schema) -> bool:
        """Whether the record's numbers go on where this schema ends."""
        ends = (len(self.metrics), len(self.series))
        return (record.first_metric, record.first_series) == ends

    def grown(self, record: wire.Schema) -> "Schema":
        """The schema with what the record adds.

        Raises:
            ValueError: it contradicts itself.
        """
        metrics = self.metrics + record.metrics
        for one in record.series:
            if not 0 <= one.metric < len(metrics):
                raise ValueError(f"series of an unknown metric {one.metric}")
            if len(one.values) != len(metrics[one.metric].labels):
                raise ValueError("label values do not fit the labels")
        return Schema(metrics, self.series + record.series)


class Block:
    """All columns of one metric in a schema."""

    __slots__ = ("columns", "keys", "pick", "spec", "stop")

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.spec = columns[0].spec
        self.keys = tuple(column.key for column in columns)
        self.stop = max(column.stop for column in columns)
        starts = [column.start for column in columns]
        # One start more, so that it gives a tuple also where there is one column.
        self.pick: Callable[[Any], tuple[float, ...]] = itemgetter(*starts, starts[0])

    def of(self, totals: Sequence[float]) -> Sequence[Any]:
        """What a Line has as its values, out of totals that reach as far."""
        if self.spec.type == "counter":
            return self.pick(totals)[:-1]
        return [totals[column.start : column.stop] for column in self.columns]


def _key(spec: wire.MetricSpec, values: Sequence[str]) -> Key:
    labels = zip(spec.labels, values, strict=True)
    return spec.name, tuple(sorted(pair for pair in labels if pair[1] != ""))


@dataclass(slots=True)
class Line:
    """All merged series of one metric of a run.

    Of a counter or gauge each value is a number, of a ``per_source`` gauge a list of
    (source name, number), of a histogram its counts and then its sum. The keys are the
    same object from one merging to the next, as long as they are the same keys, where
    that costs nothing.
    """

    spec: wire.MetricSpec
    keys: Sequence[Key]
    values: Sequence[Any]


@dataclass(slots=True)
class Contribution:
    """One source's totals, as merging wants them."""

    name: str
    schema: Schema
    totals: tuple[float, ...]
    live: bool


class Base:
    """What ended sources leave behind, exactly; and the gauges that were set last.

    The first declaration of a name in the run holds. What another source declares
    otherwise under that name is not merged, and told as a conflict.
    """

    __slots__ = ("_conflicts", "_exact", "_extremes", "_specs", "last")

    def __init__(self) -> None:
        self._specs: dict[str, wire.MetricSpec] = {}
        # By the metric's name, then by series; a partial sum for each total of it.
        self._exact: dict[str, dict[Key, list[list[float]]]] = {}
        self._extremes: dict[str, dict[Key, float]] = {}
        self._conflicts: set[str] = set()
        self.last: dict[str, dict[Key, float]] = {}

    def declared(self, schema: Schema) -> None:
        """A schema has come or grown: the first declaration of a name holds."""
        for column in schema.columns:
            self._specs.setdefault(column.spec.name, column.spec)

    def _holds(self, spec: wire.MetricSpec) -> bool:
        return same_kind(self._specs.setdefault(spec.name, spec), spec)

    def copy(self) -> "Base":
        """One that stays as it is, to be merged where there is time for it."""
        other = Base()
        other._specs = dict(self._specs)
        other._exact = {
            name: {key: [list(one) for one in slots] for key, slots in sums.items()}
            for name, sums in self._exact.items()
        }
        other._extremes = {name: dict(one) for name, one in self._extremes.items()}
        other._conflicts = set(self._conflicts)
        other.last = {name: dict(one) for name, one in self.last.items()}
        return other

    def fold(self, ended: Contribution) -> None:
        """Add an ended source for good."""
        for column in ended.schema.columns:
            spec, values = column.spec, ended.totals[column.start : column.stop]
            if len(values) < column.stop - column.start:
                break
            if not self._holds(spec):
                self._conflicts.add(spec.name)
            elif spec.type != "gauge":
                sums = self._exact.setdefault(spec.name, {})
                slots = sums.setdefault(column.key, [[] for _ in values])
                for partials, value in zip(slots, values, strict=True):
                    add_exactly(partials, value)
            elif spec.merge in _CHOOSE and values[1]:
                found = self._extremes.setdefault(spec.name, {})
                known = found.get(column.key, values[0])
                found[column.key] = _CHOOSE[spec.merge](known, values[0])

    def arrived(
        self, schema: Schema, new: Sequence[float], old: Sequence[float]
    ) -> None:
        """Newer totals of a source: the gauges set since the old ones are the last."""
        for column in schema.last_gauges:
            if len(new) < column.stop or not new[column.start + 1]:
                continue
            sets = old[column.start + 1] if len(old) >= column.stop else 0.0
            if new[column.start + 1] != sets and self._holds(column.spec):
                known = self.last.setdefault(column.spec.name, {})
                known[column.key] = new[column.start]

    def counted(
        self, name: str, sources: Iterable[Contribution]
    ) -> dict[tuple[tuple[str, str], ...], float]:
        """One counter merged, by its labels: as ``merged`` gives it, for less."""
        spec = self._specs.get(name)
        if spec is None or spec.type != "counter":
            return {}
        known = self._exact.get(name, {})
        parts = {key: list(slots[0]) for key, slots in known.items()}
        for schema, group in _by_schema(sources):
            for column in schema.columns:
                fits = column.key[0] == name and same_kind(spec, column.spec)
                if fits and len(group[0].totals) >= column.stop:
                    values = [one.totals[column.start] for one in group]
                    parts.setdefault(column.key, []).extend(values)
        return {key[1]: exact_sum(values) for key, values in parts.items()}

    def merged(
        self,
        sources: Iterable[Contribution],
        conflicts: set[str] | None = None,
        sets: dict[Key, float] | None = None,
    ) -> list[Line]:
        """All series of the run: the base and the sources not yet folded into it.

        Args:
            sources: those not folded.
            conflicts: is told the names that some source declared otherwise.
            sets: is told how often those sources have set each gauge, all together.
        """
        told = set() if conflicts is None else conflicts
        told |= self._conflicts
        found: dict[str, list[tuple[Block, _Group]]] = {}
        for schema, members in _by_schema(sources):
            group = _Group(members)
            for block in schema.blocks:
                if self._holds(block.spec):
                    found.setdefault(block.spec.name, []).append((block, group))
                    if sets is not None and block.spec.type == "gauge":
                        _count_sets(sets, block, group)
                else:
                    told.add(block.spec.name)
        names = {**self._exact, **self._extremes, **self.last, **found}
        lines = (self._line(name, found.get(name, [])) for name in names)
        return [line for line in lines if line.keys]

    def _line(self, name: str, blocks: "list[tuple[Block, _Group]]") -> Line:
        spec = self._specs[name]
        if spec.type == "gauge":
            return self._gauges(spec, blocks)
        if len(blocks) == 1 and name not in self._exact:
            block, group = blocks[0]
            if group.width >= block.stop:  # the usual case, and the fast one
                return Line(spec, block.keys, block.of(group.sums))
        return self._added_up(spec, blocks)

    def _added_up(
        self, spec: wire.MetricSpec, blocks: "list[tuple[Block, _Group]]"
    ) -> Line:
        known = self._exact.get(spec.name, {})
        parts = {key: [list(one) for one in slots] for key, slots in known.items()}
        for block, group in blocks:
            for column in block.columns:
                if column.stop > group.width:
                    break
                values = group.columns[column.start : column.stop]
                slots = parts.setdefault(column.key, [[] for _ in values])
                for slot, more in zip(slots, values, strict=True):
                    slot.extend(more)
        if spec.type == "counter":
            return Line(
                spec, [*parts], [exact_sum(slots[0]) for slots in parts.values()]
            )
        sums = [[exact_sum(slot) for slot in slots] for slots in parts.values()]
        return Line(spec, [*parts], sums)

    def _gauges(
        self, spec: wire.MetricSpec, blocks: "list[tuple[Block, _Group]]"
    ) -> Line:
        if spec.merge == "last":
            last = self.last.get(spec.name, {})
            return Line(spec, [*last], [*last.values()])
        extremes = self._extremes.get(spec.name, {})
        found: dict[Key, list[tuple[Contribution, float]]] = {k: [] for k in extremes}
        for block, group in blocks:
            for column in block.columns:
                if column.stop <= group.width:
                    _gather(found.setdefault(column.key, []), column, group)
        merged = {
            key: self._gauge(spec, values, extremes.get(key))
            for key, values in found.items()
        }
        served = {key: value for key, value in merged.items() if value is not None}
        return Line(spec, [*served], [*served.values()])

    def _gauge(
        self,
        spec: wire.MetricSpec,
        values: list[tuple[Contribution, float]],
        extreme: float | None,
    ) -> float | list[tuple[str, float]] | None:
        choose = _CHOOSE.get(spec.merge)
        if choose is not None:
            numbers = [value for _, value in values]
            if extreme is not None:
                numbers.append(extreme)
            return reduce(choose, numbers) if numbers else None
        live = [(one.name, value) for one, value in values if one.live]
        if not live:
            return None
        if spec.merge == "per_source":
            # Runs that one process opened one after another share its name.
            return sorted(dict(live).items())
        total = exact_sum([value for _, value in live])
        return total if spec.merge == "sum" else total / len(live)


class _Group:
    """Sources whose totals mean the same and are as long: summed by column."""

    __slots__ = ("_columns", "_sums", "members", "width")

    def __init__(self, members: list[Contribution]) -> None:
        self.members = members
        self.width = len(members[0].totals)
        self._columns: list[tuple[float, ...]] | None = None
        self._sums: Sequence[float] | None = None

    @property
    def columns(self) -> list[tuple[float, ...]]:
        """The totals of all of them, by place."""
        if self._columns is None:
            totals = (one.totals for one in self.members)
            self._columns = list(zip(*totals, strict=True))
        return self._columns

    @property
    def sums(self) -> Sequence[float]:
        """The exact sum of each column."""
        if self._sums is None:
            alone = len(self.members) == 1
            self._sums = self.members[0].totals if alone else self._added_up()
        return self._sums

    def _added_up(self) -> list[float]:
        try:
            return [math.fsum(column) for column in self.columns]
        except (ValueError, OverflowError):
            return [exact_sum(column) for column in self.columns]


def _largest(one: float, other: float) -> float:
    # NaN counts as nothing: max() and min() would go by the order of the sources.
    return other if one != one or other > one else one


def _smallest(one: float, other: float) -> float:
    return other if one != one or other < one else one


_CHOOSE = {"max": _largest, "min": _smallest}


def _gather(
    found: list[tuple[Contribution, float]], column: Column, group: _Group
) -> None:
    values, sets = group.columns[column.start], group.columns[column.start + 1]
    for one, value, times in zip(group.members, values, sets, strict=True):
        if times:
            found.append((one, value))


def _count_sets(sets: dict[Key, float], block: Block, group: _Group) -> None:
    for column in block.columns:
        if column.stop <= group.width:
            times = group.sums[column.start + 1]
            sets[column.key] = sets.get(column.key, 0.0) + times


def _by_schema(
    sources: Iterable[Contribution],
) -> Iterable[tuple[Schema, list[Contribution]]]:
    groups: dict[tuple[int, int], list[Contribution]] = {}
    for one in sources:
        groups.setdefault((id(one.schema), len(one.totals)), []).append(one)
    return [(group[0].schema, group) for group in groups.values()]


def same_kind(one: wire.MetricSpec, other: wire.MetricSpec) -> bool:
    """Whether two sources' declarations can be merged under one name."""
    return one is other or (
        one.type == other.type
        and one.buckets == other.buckets
        and (one.merge == other.merge or one.type != "gauge")
        and (
            one.labels == other.labels
            or (one.free and other.free)
            or sorted(one.labels) == sorted(other.labels)
        )
    )


def add_exactly(partials: list[float], value: float) -> None:
    """Add to a sum kept as non-overlapping partials, without rounding.

    Source: J. R. Shewchuk, Adaptive Precision Floating-Point Arithmetic (1997).
    """
    if not math.isfinite(value) or not all(map(math.isfinite, partials)):
        partials.append(value)
        return
    kept = 0
    for partial in partials:
        big, small = (
            (value, partial) if abs(value) >= abs(partial) else (partial, value)
        )
        value = big + small
        rest = small - (value - big)
        if rest:
            partials[kept] = rest
            kept += 1
    partials[kept:] = [value]


def exact_sum(values: Sequence[float]) -> float:
    """The sum, rounded once; plain where infinities meet or the sum overflows."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):
        return sum(values)
