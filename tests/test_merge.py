"""Merging: totals of many sources become one run's series, exactly."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_hooks import wire
from exporter.merge import (
    Base,
    Contribution,
    Key,
    Schema,
    add_exactly,
    exact_sum,
)
from tests.making import STEPS, counter, gauge, histogram

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
POSITIVE = st.floats(0, 1e300, allow_subnormal=True)


def schema(*specs: wire.MetricSpec) -> Schema:
    """One series of each metric; the labels are all ``a``."""
    series = [
        wire.SeriesSpec(number, ("a",) * len(spec.labels))
        for number, spec in enumerate(specs)
    ]
    return Schema(tuple(specs), tuple(series))


def source(
    found: Schema, *totals: float, name: str = "one", live: bool = True
) -> Contribution:
    return Contribution(name, found, tuple(totals), live)


def merged(base: Base, *sources: Contribution) -> dict[str, Any]:
    """Name to what is served: a number, counts and their sum, or pairs."""
    return {key[0]: value for key, value in series(base, *sources).items()}


def series(base: Base, *sources: Contribution) -> dict[Key, Any]:
    """The same by the whole key."""
    return {
        key: list(value) if line.spec.type == "histogram" else value
        for line in base.merged(sources)
        for key, value in zip(line.keys, line.values)
    }


def rounded(values: Sequence[float]) -> float:
    return float(sum(map(Fraction, values)))


# --- sums are exact ---------------------------------------------------------------


@given(st.lists(st.floats(-1e290, 1e290), max_size=30))
def test_partials_add_up_without_rounding(values: list[float]) -> None:
    partials: list[float] = []
    for value in values:
        add_exactly(partials, value)
    assert sum(map(Fraction, partials), Fraction()) == sum(map(Fraction, values))
    assert exact_sum(partials) == rounded(values)


@given(st.lists(POSITIVE, min_size=1, max_size=12))
def test_a_merged_counter_is_the_exact_sum_rounded_once(values: list[float]) -> None:
    one = schema(counter("hits"))
    found = merged(Base(), *(source(one, value) for value in values))
    assert found == {"hits": rounded(values)}


@given(
    st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE), min_size=1, max_size=10),
    st.randoms(use_true_random=False),
)
def test_folding_in_any_order_never_changes_what_is_served(
    totals: list[tuple[float, float, float]], order: random.Random
) -> None:
    both = schema(counter("hits"), histogram("wait", 1.0))
    sources = [source(both, *(one[0], 2.0, 3.0, one[1])) for one in totals]
    base = Base()
    expected = merged(base, *sources)
    waiting = list(sources)
    order.shuffle(waiting)
    while waiting:
        base.fold(waiting.pop())
        assert merged(base, *waiting) == expected


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.floats(0, 1e6), st.booleans()), max_size=30
    )
)
def test_a_counter_never_goes_down(steps: list[tuple[int, float, bool]]) -> None:
    """Sources count, end and are folded in turn: what is served only grows."""
    one, base, last = schema(counter("hits")), Base(), 0.0
    totals = dict.fromkeys(range(5), 0.0)
    for number, more, ends in steps:
        totals[number] += more
        if ends:
            base.fold(source(one, totals[number]))
            totals[number] = 0.0
        now = merged(base, *(source(one, value) for value in totals.values()))["hits"]
        assert now >= last
        last = now


def test_histograms_are_merged_by_bucket() -> None:
    one = schema(histogram("wait", 1.0, 2.0))
    found = merged(Base(), source(one, 1, 2, 3, 4.5), source(one, 10, 0, 0, 5.0))
    assert found == {"wait": [11, 2, 3, 9.5]}


def test_infinite_and_odd_sums_are_served_as_they_are() -> None:
    one = schema(counter("hits"))
    assert merged(Base(), source(one, math.inf), source(one, 1.0)) == {"hits": math.inf}
    found = merged(Base(), source(one, math.inf), source(one, -math.inf))["hits"]
    assert math.isnan(found)
    assert exact_sum([1e308, 1e308, -1e308]) in (1e308, math.inf)
    partials: list[float] = []
    for value in (1.0, math.nan, 2.0):
        add_exactly(partials, value)
    assert math.isnan(exact_sum(partials))


# --- gauges by their rule ---------------------------------------------------------

RULES: list[tuple[str, Any]] = [
    # What is served of live sources at 1, 2, 6, and one that ended long ago at 100.
    ("sum", 9.0),
    ("mean", 3.0),
    ("max", 100.0),
    ("min", 1.0),
    ("per_source", [("a", 1.0), ("b", 2.0), ("c", 6.0)]),
]


@pytest.mark.parametrize(("rule", "expected"), RULES)
def test_a_gauge_is_merged_by_its_rule(rule: str, expected: Any) -> None:
    one, base = schema(gauge("loss", rule)), Base()
    ended = source(one, 100.0, 1.0, name="d", live=False)
    live = [
        source(one, v, 1.0, name=n) for n, v in (("a", 1.0), ("b", 2.0), ("c", 6.0))
    ]
    assert merged(base, ended, *live) == {"loss": expected}
    base.fold(ended)
    assert merged(base, *live) == {"loss": expected}


@pytest.mark.parametrize("rule", ["sum", "mean", "max", "min", "per_source", "last"])
def test_a_gauge_that_nobody_has_set_is_not_served(rule: str) -> None:
    one, base = schema(gauge("loss", rule)), Base()
    base.declared(one)
    base.arrived(one, (5.0, 0.0), ())
    base.fold(source(one, 9.0, 0.0))
    assert merged(base, source(one, 5.0, 0.0)) == {}


@pytest.mark.parametrize("rule", ["sum", "mean", "per_source"])
def test_a_gauge_over_live_sources_goes_with_the_last_of_them(rule: str) -> None:
    one = schema(gauge("loss", rule))
    assert merged(Base(), source(one, 5.0, 1.0, live=False)) == {}


def test_the_last_gauge_is_the_last_that_was_set_and_it_stays() -> None:
    one, base = schema(gauge("loss")), Base()
    base.arrived(one, (1.0, 1.0), ())
    base.arrived(one, (2.0, 1.0), ())
    # The first source says again what it said: not set since.
    base.arrived(one, (1.0, 1.0), (1.0, 1.0))
    assert merged(base) == {"loss": 2.0}
    base.arrived(one, (1.0, 2.0), (1.0, 1.0))
    assert merged(base) == {"loss": 1.0}
    base.fold(source(one, 7.0, 3.0))
    assert merged(base) == {"loss": 1.0}


@pytest.mark.parametrize(("rule", "expected"), [("max", 3.0), ("min", 1.0)])
@pytest.mark.parametrize("order", [(math.nan, 1.0, 3.0), (3.0, math.nan, 1.0)])
def test_nan_is_neither_largest_nor_smallest(
    rule: str, expected: float, order: tuple[float, ...]
) -> None:
    one, base = schema(gauge("loss", rule)), Base()
    base.fold(source(one, order[0], 1.0))
    found = merged(base, *(source(one, value, 1.0) for value in order[1:]))
    assert found == {"loss": expected}


def test_runs_that_one_process_opened_one_after_another_are_one_per_source() -> None:
    """They have one name; a series twice would cost Prometheus the whole scrape."""
    one = schema(gauge("loss", "per_source"))
    found = merged(Base(), source(one, 1.0, 1.0), source(one, 2.0, 1.0))
    assert found == {"loss": [("one", 2.0)]}


# --- declarations that do not agree -----------------------------------------------

CONFLICTS = [
    ("type", counter("x"), gauge("x")),
    ("buckets", histogram("x", 1.0), histogram("x", 2.0)),
    ("rule", gauge("x", "sum"), gauge("x", "mean")),
    ("labels", counter("x", "side"), counter("x", "side", "eye")),
    ("free", gauge("x", "last", "side"), wire.MetricSpec("x", "gauge", free=True)),
]


def totals_of(found: Schema) -> tuple[float, ...]:
    return (1.0,) * found.width


@pytest.mark.parametrize(
    ("first", "second"), [one[1:] for one in CONFLICTS], ids=[c[0] for c in CONFLICTS]
)
def test_the_first_declaration_holds_and_the_other_is_told(
    first: wire.MetricSpec, second: wire.MetricSpec
) -> None:
    for early, late in ((first, second), (second, first)):
        base, one, other = Base(), schema(early), schema(late)
        base.declared(one)
        base.declared(other)
        base.arrived(one, totals_of(one), ())
        sources = [source(other, *totals_of(other)), source(one, *totals_of(one))]
        conflicts: set[str] = set()
        assert [line.spec for line in base.merged(sources, conflicts)] == [early]
        assert conflicts == {"x"}
        found = series(base, *sources)
        # It stays so when the other is folded first, and when nobody is left.
        base.fold(sources[0])
        assert series(base, sources[1]) == found
        base.fold(sources[1])
        conflicts.clear()
        after = base.merged([], conflicts)
        assert [line.spec for line in after] in ([early], [])
        assert conflicts == {"x"}


def test_labels_declared_in_another_order_are_the_same_series() -> None:
    one = Schema((counter("x", "a", "b"),), (wire.SeriesSpec(0, ("1", "2")),))
    other = Schema((counter("x", "b", "a"),), (wire.SeriesSpec(0, ("2", "1")),))
    found = series(Base(), source(one, 1.0), source(other, 2.0))
    assert found == {("x", (("a", "1"), ("b", "2"))): 3.0}


def test_published_metrics_may_have_several_sets_of_labels() -> None:
    plain = wire.MetricSpec("loss", "gauge", free=True)
    phased = wire.MetricSpec("loss", "gauge", labels=("phase",), free=True)
    base, both = (
        Base(),
        Schema((plain, phased), (wire.SeriesSpec(0), wire.SeriesSpec(1, ("val",)))),
    )
    base.arrived(both, (1.0, 1.0, 2.0, 1.0), ())
    assert {key[1]: value for key, value in series(base).items()} == {
        (): 1.0,
        (("phase", "val"),): 2.0,
    }


def test_an_empty_label_is_none_and_no_series_comes_twice() -> None:
    found = Schema(
        (counter("x", "side"),),
        (
            wire.SeriesSpec(0, ("",)),
            wire.SeriesSpec(0, ("l",)),
            wire.SeriesSpec(0, ("",)),
        ),
    )
    assert [column.key[1] for column in found.columns] == [(), (("side", "l"),)]
    assert found.refused == (("x", "twice"),)
    served = series(Base(), source(found, 1.0, 2.0, 4.0))
    assert list(served.values()) == [1.0, 2.0]


BAD = [
    (wire.MetricSpec("no name", "counter"), "malformed"),
    (wire.MetricSpec("", "gauge"), "malformed"),
    (wire.MetricSpec("x_total", "counter"), "malformed"),
    (wire.MetricSpec("x", "summary"), "malformed"),
    (wire.MetricSpec("x", "gauge", merge="median"), "malformed"),
    (wire.MetricSpec("x", "counter", labels=("a b",)), "malformed"),
    (wire.MetricSpec("x", "counter", labels=("__x",)), "malformed"),
    (wire.MetricSpec("x", "counter", labels=("a", "a")), "malformed"),
    (wire.MetricSpec("x", "histogram", buckets=(2.0, 1.0)), "malformed"),
    (wire.MetricSpec("x", "histogram", buckets=(1.0, math.nan)), "malformed"),
    (wire.MetricSpec("x", "histogram", buckets=(1.0, math.inf)), "malformed"),
    (wire.MetricSpec("x", "counter", labels=("run",)), "reserved"),
    (wire.MetricSpec("x", "counter", labels=("le",)), "reserved"),
    (wire.MetricSpec("run_state", "gauge", labels=("state",)), "reserved"),
    (wire.MetricSpec("episodes", "counter", labels=("mode",)), "reserved"),
    (wire.MetricSpec("steps", "counter", labels=("mode", "robot")), "reserved"),
    (wire.MetricSpec("steps", "gauge", labels=("mode",)), "reserved"),
]


@pytest.mark.parametrize(("spec", "reason"), BAD, ids=lambda one: str(one)[:60])
def test_what_cannot_be_served_is_refused_and_its_neighbours_are_served(
    spec: wire.MetricSpec, reason: str
) -> None:
    found = schema(STEPS, spec, counter("hits"))
    assert found.refused == ((spec.name, reason),)
    totals = [0.0] * found.width
    totals[0], totals[-1] = 3.0, 4.0
    assert merged(Base(), source(found, *totals)) == {"steps": 3.0, "hits": 4.0}


def test_totals_shorter_than_their_schema_count_as_far_as_they_go() -> None:
    found = schema(counter("hits"), counter("misses"))
    base = Base()
    assert merged(base, source(found, 3.0)) == {"hits": 3.0}
    base.fold(source(found, 3.0))
    assert merged(base, source(found, 1.0, 2.0)) == {"hits": 4.0, "misses": 2.0}


def test_two_metrics_of_one_name_in_one_source_are_not_mixed_up() -> None:
    """Hooks refuse the second; whoever else speaks the wire may not."""
    specs = counter("x", "a"), gauge("x", "sum", "b")
    both = Schema(specs, (wire.SeriesSpec(0, ("1",)), wire.SeriesSpec(1, ("2",))))
    base = Base()
    base.declared(both)
    conflicts: set[str] = set()
    (line,) = base.merged([source(both, 5.0, 7.0, 1.0)], conflicts)
    assert (line.spec, list(line.values)) == (specs[0], [5.0])
    assert conflicts == {"x"}


def test_keys_stay_the_same_object_while_nothing_is_declared() -> None:
    """What is made of them is kept from scrape to scrape."""
    found, base = schema(counter("hits", "side")), Base()
    (first,) = base.merged([source(found, 1.0)])
    (second,) = base.merged([source(found, 2.0), source(found, 3.0)])
    assert first.keys is second.keys
    assert list(second.values) == [5.0]


# --- one counter alone ------------------------------------------------------------


@given(
    st.lists(st.lists(POSITIVE, min_size=1, max_size=4), max_size=6),
    st.integers(0, 6),
)
def test_one_counter_alone_is_what_merging_all_says(
    totals: list[list[float]], folded: int
) -> None:
    specs = [counter("steps", "mode"), counter("other")]
    places = [(0, ("eval",)), (1, ()), (0, ("train",)), (0, ("sleep",))]
    found = Schema(tuple(specs), tuple(wire.SeriesSpec(*one) for one in places))
    base, sources = Base(), [source(found, *one) for one in totals]
    base.declared(found)
    for ended in sources[:folded]:
        base.fold(ended)
    left = sources[folded:]
    whole = series(base, *left)
    for name in ("steps", "other", "nobody"):
        assert base.counted(name, left) == {
            key[1]: value for key, value in whole.items() if key[0] == name
        }
