"""The user's own metrics: exact from any thread, and a slip costs only a log line."""

import logging
import math
import threading
from decimal import Decimal
from fractions import Fraction
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from experiment_hooks import catalogue, metrics, wire
from experiment_hooks.metrics import NO_SERIES, Series
from experiment_hooks.recorder import Recorder

NAN, INF = math.nan, math.inf


class Odd:
    """An object that raises whatever is asked of it."""

    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__
    __index__ = __float__
    __eq__ = __lt__ = __bool__ = __hash__ = __float__  # type: ignore[assignment]


@pytest.fixture
def source() -> Recorder:
    return Recorder("run")


def define(source: Recorder, kind: str, **fields: Any) -> Any:
    if kind == "histogram":
        fields.setdefault("buckets", (1.0, 2.0))
    fields.setdefault("name", "reward")
    return source.define(wire.MetricSpec(type=kind, **fields))


def counter(source: Recorder) -> Any:
    return define(source, "counter")


# --- what they count -----------------------------------------------------------------


def test_a_counter_adds_up(source: Recorder) -> None:
    wins = counter(source)
    wins.inc()
    wins.inc(2)
    wins.inc(0.5)
    wins.inc(0)
    assert wins.read() == [3.5]


def test_a_gauge_is_what_was_set_last_and_knows_how_often(source: Recorder) -> None:
    rate = define(source, "gauge")
    assert rate.read() == [0.0, 0.0]
    rate.set(5)
    rate.inc(2)
    rate.dec()
    rate.dec(0.5)
    assert rate.read() == [5.5, 4.0]


def test_a_gauge_may_be_set_to_the_present_time(source: Recorder) -> None:
    at = define(source, "gauge")
    at.set_to_current_time()
    assert at.read()[0] > 1.7e9


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(-INF, 0), (-1, 0), (0.5, 0), (1.0, 0), (1.1, 1), (2, 1), (2.1, 2), (INF, 2)],
)
def test_a_histogram_counts_up_to_and_with_each_bound(
    source: Recorder, value: float, bucket: int
) -> None:
    seconds = define(source, "histogram")
    seconds.observe(value)
    expected = [0, 0, 0]
    expected[bucket] = 1
    assert seconds.read() == [*expected, value]


def test_a_histogram_sums_what_it_observed(source: Recorder) -> None:
    seconds = define(source, "histogram")
    for value in (0.5, 1.5, 1.5, 9):
        seconds.observe(value)
    assert seconds.read() == [1, 2, 1, 12.5]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_gauge_takes_what_is_no_number_as_itself(
    source: Recorder, value: float
) -> None:
    gauge = define(source, "gauge")
    gauge.set(value)
    assert repr(gauge.read()[0]) == repr(value)


def numpy_values() -> List[Any]:
    numpy = pytest.importorskip("numpy")
    return [numpy.float32(2), numpy.int8(2), numpy.array(2.0), numpy.bool_(True)]


def test_numbers_of_other_types_are_numbers(source: Recorder) -> None:
    wins, gauge = counter(source), define(source, "gauge", name="g")
    values = [True, "2", Decimal(2), Fraction(2), *numpy_values()]
    for value in values:
        wins.inc(value)
        gauge.set(value)
        assert gauge.read()[0] == float(value)
    assert wins.read() == [sum(map(float, values))]
    assert not source.dropped


@pytest.mark.parametrize("kind", ["gauge", "histogram"])
def test_a_block_can_be_timed(source: Recorder, kind: str) -> None:
    metric = define(source, kind)
    with metric.time():
        pass
    value, times = metric.read()[-1], metric.read()[0 if kind == "histogram" else 1]
    assert kind == "gauge" or 0 <= value < 1.0
    assert times == 1


def test_a_block_that_raises_is_timed_and_raises_on(source: Recorder) -> None:
    seconds = define(source, "histogram")
    with pytest.raises(KeyError), seconds.time():
        raise KeyError
    assert sum(seconds.read()[:-1]) == 1


def test_a_function_can_be_timed_at_each_call_even_its_own(source: Recorder) -> None:
    seconds = define(source, "histogram")

    @seconds.time()  # type: ignore[untyped-decorator]
    def count(down: int) -> int:
        """Count down."""
        return 0 if not down else 1 + count(down - 1)

    assert count(4) == 4
    assert count.__doc__ == "Count down."
    assert sum(seconds.read()[:-1]) == 5


# --- labels --------------------------------------------------------------------------


def test_each_set_of_label_values_is_a_series_of_its_own(source: Recorder) -> None:
    wins = define(source, "counter", labels=("side", "arm"))
    wins.labels("left", 1).inc()
    wins.labels(arm="1", side="left").inc()
    wins.labels(side="right", arm=2).inc(5)
    assert wins.labels("left", "1") is wins.labels(side="left", arm=1)
    found = {spec.values: one.read() for spec, one in source._catalogue._series}
    assert found == {("left", "1"): [2.0], ("right", "2"): [5.0]}


def test_a_metric_without_labels_may_be_asked_for_none(source: Recorder) -> None:
    wins = counter(source)
    assert wins.labels() is wins
    assert not source.dropped


WRONG_LABELS: List[Tuple[Tuple[Any, ...], Dict[str, Any]]] = [
    ((), {}),
    (("a",), {}),
    (("a", "b", "c"), {}),
    ((), {"side": "a"}),
    ((), {"side": "a", "arm": "b", "leg": "c"}),
    ((), {"side": "a", "leg": "c"}),
    (("a",), {"arm": "b"}),
    ((Odd(), "b"), {}),
    ((), {"side": Odd(), "arm": "b"}),
]


@pytest.mark.parametrize("wrong", range(len(WRONG_LABELS)))
def test_wrong_labels_give_a_metric_that_does_nothing(
    source: Recorder, wrong: int
) -> None:
    values, named = WRONG_LABELS[wrong]
    wins = define(source, "counter", labels=("side", "arm"))
    assert wins.labels(*values, **named) is NO_SERIES
    assert source.dropped == {"labels": 1}


def test_labels_of_a_metric_without_them_are_refused(source: Recorder) -> None:
    assert counter(source).labels("left") is NO_SERIES
    assert counter(source).labels(side="left") is NO_SERIES
    assert source.dropped == {"labels": 2}


LABEL_VALUES = {
    "x" * 100_000: "a long one is cut",
    "\ud800": "half a character is replaced",
}


@pytest.mark.parametrize("value", LABEL_VALUES, ids=LABEL_VALUES.get)
def test_any_label_value_fits_into_a_record(source: Recorder, value: str) -> None:
    wins = define(source, "counter", labels=("side",))
    wins.labels(value).inc()
    wins.labels(value).inc()
    source.totals()
    (schema,) = [
        record for record in records_of(source) if isinstance(record, wire.Schema)
    ]
    (series,) = schema.series
    assert len(series.values[0]) <= metrics.MAX_LABEL_VALUE
    assert source._catalogue._series[0][1].read() == [2.0]


def records_of(source: Recorder) -> List[Any]:
    taken = source.take_records(10**6, 10**9)
    return [wire.decode_record(data) for _, data in taken]


# --- bounds --------------------------------------------------------------------------


def test_there_are_not_more_series_than_the_bound(
    source: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    wins = define(source, "counter", labels=("n",))
    for number in range(catalogue.MAX_SERIES + 10):
        wins.labels(number).inc()
    assert len(source._catalogue._series) == catalogue.MAX_SERIES
    assert source.dropped == {"series": 10}
    source.tell()
    assert len(caplog.records) == 1, "said once"
    assert wins.labels(catalogue.MAX_SERIES) is NO_SERIES
    assert wins.labels(0) is not NO_SERIES


def test_all_totals_together_fit_into_the_last_record(source: Recorder) -> None:
    buckets = tuple(map(float, range(metrics.MAX_BUCKETS)))
    seconds = define(source, "histogram", labels=("n",), buckets=buckets)
    for number in range(catalogue.MAX_SERIES):
        seconds.labels(number).observe(5)
    assert source.dropped["series"] > 1000
    source.close("completed", "", None)
    last = records_of(source)[-1]
    assert isinstance(last, wire.SourceClosed)
    assert len(wire.unpack_totals(last.totals)) <= catalogue.MAX_TOTALS
    schemas = [one for one in records_of(source) if isinstance(one, wire.Schema)]
    assert all(len(one.series) for one in schemas)


def test_metrics_without_series_are_bounded_too(source: Recorder) -> None:
    for number in range(catalogue.MAX_METRICS + 5):
        define(source, "counter", name=f"m{number}", labels=("n",))
    assert len(source._catalogue._metrics) == catalogue.MAX_METRICS
    assert source.dropped == {"series": 5}


def test_a_large_schema_comes_in_records_that_fit(source: Recorder) -> None:
    """Metrics before their series, and numbers that go on where the last ended."""
    labels = tuple(f"label_{n}" for n in range(16))
    for number in range(300):
        metric = define(
            source, "gauge", name=f"m{number}", help="\u00e9" * 500, labels=labels
        )
        metric.labels(*["\U0001f600" * 200] * 16).set(number)
    source.totals()
    schemas = [one for one in records_of(source) if isinstance(one, wire.Schema)]
    metrics_known = series_known = 0
    for schema in schemas:
        assert (schema.first_metric, schema.first_series) == (
            metrics_known,
            series_known,
        )
        metrics_known += len(schema.metrics)
        series_known += len(schema.series)
        assert all(one.metric < metrics_known for one in schema.series)
    assert (metrics_known, series_known) == (300, 300)
    assert not source.dropped


# --- slips ---------------------------------------------------------------------------

WRONG_VALUES: Dict[str, List[Any]] = {
    "inc": [-1, -0.1, NAN, INF, -INF, "x", "", None, [], Odd(), 10**400, 1j],
    "set": ["x", None, [], Odd(), 10**400, 1j],
    "observe": [NAN, "x", None, [], Odd(), 10**400],
}
KIND_OF = {"inc": "counter", "set": "gauge", "observe": "histogram"}


@pytest.mark.parametrize(
    ("method", "value"),
    [(method, at) for method, all_ in WRONG_VALUES.items() for at in range(len(all_))],
)
def test_a_wrong_value_changes_nothing_and_is_counted(
    source: Recorder, method: str, value: int
) -> None:
    metric = define(source, KIND_OF[method])
    before = metric.read()
    getattr(metric, method)(WRONG_VALUES[method][value])
    assert metric.read() == before
    assert source.dropped == {"value": 1}


@pytest.mark.parametrize("method", ["inc", "dec"])
def test_a_gauge_does_not_grow_by_what_is_no_number(
    source: Recorder, method: str
) -> None:
    gauge = define(source, "gauge")
    for value in (None, "x", Odd(), 10**400):
        getattr(gauge, method)(value)
    assert gauge.read() == [0.0, 0.0]
    assert source.dropped == {"value": 4}


METHODS: Dict[str, Callable[[Any], Any]] = {
    "inc": lambda metric: metric.inc(),
    "dec": lambda metric: metric.dec(),
    "set": lambda metric: metric.set(1),
    "set_to_current_time": lambda metric: metric.set_to_current_time(),
    "observe": lambda metric: metric.observe(1),
}
FITTING = {
    "counter": {"inc"},
    "gauge": {"inc", "dec", "set", "set_to_current_time"},
    "histogram": {"observe"},
}


@pytest.mark.parametrize("kind", FITTING)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_another_type_is_a_log_line_and_not_an_error(
    source: Recorder, kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    metric = define(source, kind)
    METHODS[method](metric)
    METHODS[method](metric)
    if method in FITTING[kind]:
        assert not source.dropped
    else:
        assert source.dropped == {"usage": 2}
        (line,) = caplog.messages
        assert "'reward'" in line
        assert f"{method}()" in line


@pytest.mark.parametrize("kind", FITTING)
@pytest.mark.parametrize("method", METHODS)
def test_a_metric_with_labels_says_that_they_are_needed(
    source: Recorder, kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    METHODS[method](define(source, kind, labels=("side",)))
    assert source.dropped == {"usage": 1}
    assert "use .labels(side)" in caplog.text


def test_a_timer_of_a_counter_is_a_slip_too(source: Recorder) -> None:
    with counter(source).time():
        pass
    assert source.dropped == {"usage": 1}


@pytest.mark.parametrize("method", METHODS)
def test_a_metric_that_was_refused_takes_every_call(method: str) -> None:
    METHODS[method](NO_SERIES)
    METHODS[method](NO_SERIES.labels("a").labels(b="c"))
    with NO_SERIES.time():
        pass
    assert NO_SERIES.read() == []


def test_no_metric_lets_its_totals_be_taken_back() -> None:
    """prometheus_client's reset(), clear() and remove() would make totals go back."""
    for name in ("reset", "clear", "remove"):
        assert not hasattr(metrics.Counter, name)


def test_a_logging_handler_that_raises_does_not_reach_the_experiment(
    source: Recorder,
) -> None:
    class Raising(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("a filter of the user's")

    log = logging.getLogger("experiment_hooks")
    raising = Raising()
    log.addFilter(raising)
    try:
        counter(source).inc(-1)
    finally:
        log.removeFilter(raising)
    assert source.dropped == {"value": 1}


# --- threads -------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work`` in several threads, all starting together."""
    start = threading.Barrier(count)
    errors: List[BaseException] = []

    def body(number: int) -> None:
        start.wait(30)
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    assert errors == []


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_four_threads_count_exactly(source: Recorder) -> None:
    """An unlocked ``+=`` loses a third of them on Python 3.8."""
    wins = counter(source)
    rate = define(source, "gauge", name="rate")
    seconds = define(source, "histogram", name="seconds")
    sides = define(source, "counter", name="sides", labels=("side",))
    each = 5000
    in_threads(4, lambda number: [wins.inc() for _ in range(10 * each)])
    assert wins.read() == [40.0 * each]

    def work(number: int) -> None:
        for step in range(each):
            wins.inc()
            rate.inc(2)
            seconds.observe(step % 3)
            sides.labels(step % 2).inc()

    in_threads(4, work)
    assert wins.read() == [44.0 * each]
    assert rate.read() == [8.0 * each, 4.0 * each]
    assert sum(seconds.read()[:-1]) == 4 * each
    values = {spec.values: one.read() for spec, one in source._catalogue._series[3:]}
    assert values == {("0",): [2.0 * each], ("1",): [2.0 * each]}


@pytest.mark.usefixtures("switching")
def test_totals_read_meanwhile_never_go_back(source: Recorder) -> None:
    wins = counter(source)
    seconds = define(source, "histogram", name="seconds", buckets=(0.5,))
    done = threading.Event()
    seen: List[Tuple[float, ...]] = []

    def work(number: int) -> None:
        if number:
            for _ in range(3000):
                wins.inc()
                seconds.observe(1)
            return
        while not done.is_set() and len(seen) < 10_000:
            seen.append(wire.unpack_totals(source.totals()))
            if seen[-1][0] == 9000:
                done.set()

    in_threads(4, work)
    assert seen == sorted(seen)
    assert all(count == total for _, _, count, total in seen), "count and sum agree"


def test_two_threads_that_make_the_same_series_get_one(source: Recorder) -> None:
    wins = define(source, "counter", labels=("n",))
    made: List[List[Series]] = [[] for _ in range(4)]

    def work(number: int) -> None:
        made[number] += [wins.labels(n) for n in range(200)]

    in_threads(4, work)
    assert made[0] == made[1] == made[2] == made[3]
    assert len(source._catalogue._series) == 200


def test_a_complaint_does_not_wait_for_a_handler_with_the_lock_held(
    source: Recorder,
) -> None:
    """A handler's thread may be recording a line: it would wait for our lock."""
    inside, free = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            inside.set()
            free.wait(20)

    log, handler = logging.getLogger("experiment_hooks"), Slow()
    wins = counter(source)
    log.addHandler(handler)
    complaining = threading.Thread(target=wins.inc, args=(-1,))
    try:
        complaining.start()
        assert inside.wait(20)
        assert source.lock.acquire(timeout=10), "the lock is held while it is logged"
        source.lock.release()
    finally:
        free.set()
        log.removeHandler(handler)
        complaining.join(20)


def test_what_was_complained_of_under_the_lock_is_told_by_the_next_call(
    source: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with source.lock:
        counter(source).inc(-1)
        assert caplog.messages == []
    source.guard(lambda: None)
    assert len(caplog.messages) == 1
