"""The user's own metrics: counters, gauges and histograms that any thread may use.

They are used as prometheus_client's are. Each holds the totals of this source, is
changed under its source's one lock (an unlocked ``+=`` loses increments when threads
meet), and costs no message: the sender reads the totals when a sample is due. Nothing
here raises but :class:`RunStopped`, from what stands in the lock's place when a stop is
due at once: what cannot be counted is counted as dropped.
"""

import math
import time
from bisect import bisect_left
from contextlib import ContextDecorator
from types import TracebackType
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

from experiment_hooks import plain, wire
from experiment_hooks.errors import RunStopped

DEFAULT_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""prometheus_client's own."""

MAX_BUCKETS = 100
MAX_LABEL_VALUE = 200

Drop = Callable[[str, str], None]
"""Counts a drop under a reason and logs the detail once."""

_INF = math.inf


class Series:
    """One series of one metric: what is common to all types.

    Also stands for an unlabelled metric, hence :meth:`labels`. The type-wrong methods
    (``set`` on a counter) are there so that a slip costs a log line, not the run.
    """

    __slots__ = ("_drop", "_lock", "name")

    def __init__(self, name: str, lock: Any, drop: Drop) -> None:
        self.name = name
        self._lock = lock
        self._drop = drop

    def labels(self, *values: object, **named: object) -> "Series":
        """An unlabelled metric has no labels: refused and counted."""
        if not values and not named:
            return self
        self._refuse("labels", "was declared without labels")
        return NO_SERIES

    def inc(self, amount: float = 1.0) -> None:
        """Add to the value."""
        self._refuse("usage", "cannot be used with inc()")

    def dec(self, amount: float = 1.0) -> None:
        """Take from the value."""
        self._refuse("usage", "cannot be used with dec()")

    def set(self, value: float) -> None:
        """Set the value."""
        self._refuse("usage", "cannot be used with set()")

    def set_to_current_time(self) -> None:
        """Set the value to the present Unix time in seconds."""
        self._refuse("usage", "cannot be used with set_to_current_time()")

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._refuse("usage", "cannot be used with observe()")

    def time(self) -> "Timer":
        """Time a block or, as a decorator, a function; in seconds."""
        return Timer(self)

    def read(self) -> List[float]:
        """The totals, as :class:`wire.Sample` lays them out; the lock is held."""
        return []

    # Not for users: what a source has told of its totals is never taken back.
    def _reset(self) -> None:
        """Back to nothing, in a forked child; the lock is held."""

    def _use_lock(self, lock: Any) -> None:
        """Change the lock: in a forked child, or for one that raises."""
        self._lock = lock

    def _refuse(self, reason: str, detail: str) -> None:
        self._drop(reason, f"metric {self.name!r} {detail}")


class Counter(Series):
    """A total that only grows."""

    __slots__ = ("_value",)

    def __init__(self, name: str, lock: Any, drop: Drop) -> None:
        super().__init__(name, lock, drop)
        self._value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount`` (finite, not negative)."""
        try:
            value = float(amount)
            if 0.0 <= value < _INF:
                with self._lock:
                    self._value += value
                return
        except RunStopped:
            raise
        except Exception:
            pass
        self._refuse("value", f"cannot grow by {_shown(amount)}")

    def read(self) -> List[float]:
        return [self._value]

    def _reset(self) -> None:
        self._value = 0.0


class Gauge(Series):
    """A value that goes up and down; NaN and infinities stay themselves."""

    __slots__ = ("_sets", "_value")

    def __init__(self, name: str, lock: Any, drop: Drop) -> None:
        super().__init__(name, lock, drop)
        self._value = 0.0
        self._sets = 0

    def set(self, value: float) -> None:
        """Set the value."""
        try:
            number = float(value)
        except Exception:
            self._refuse("value", f"cannot be set to {_shown(value)}")
            return
        with self._lock:
            self._value = number
            self._sets += 1

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``."""
        try:
            number = float(amount)
        except Exception:
            self._refuse("value", f"cannot grow by {_shown(amount)}")
            return
        with self._lock:
            self._value += number
            self._sets += 1

    def dec(self, amount: float = 1.0) -> None:
        """Take ``amount`` away."""
        try:
            number = -float(amount)
        except Exception:
            self._refuse("value", f"cannot shrink by {_shown(amount)}")
            return
        self.inc(number)

    def set_to_current_time(self) -> None:
        """Set the value to the present Unix time in seconds."""
        self.set(time.time())

    def read(self) -> List[float]:
        return [self._value, float(self._sets)]

    def _reset(self) -> None:
        self._value, self._sets = 0.0, 0


class Histogram(Series):
    """Observations counted in buckets, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(
        self, name: str, lock: Any, drop: Drop, bounds: Tuple[float, ...]
    ) -> None:
        super().__init__(name, lock, drop)
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value`` in its bucket (NaN is in none, so it is refused)."""
        try:
            number = float(value)
            if number == number:
                with self._lock:
                    self._counts[bisect_left(self._bounds, number)] += 1
                    self._sum += number
                return
        except RunStopped:
            raise
        except Exception:
            pass
        self._refuse("value", f"cannot observe {_shown(value)}")

    def read(self) -> List[float]:
        return [*self._counts, self._sum]

    def _reset(self) -> None:
        self._counts = [0] * len(self._counts)
        self._sum = 0.0


class NoSeries(Series):
    """Takes every call and does nothing: refused metrics, and disabled hooks."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("", None, lambda reason, detail: None)

    def labels(self, *values: object, **named: object) -> Series:
        return self

    def inc(self, amount: float = 1.0) -> None:
        pass

    def dec(self, amount: float = 1.0) -> None:
        pass

    def set(self, value: float) -> None:
        pass

    def observe(self, value: float) -> None:
        pass

    def set_to_current_time(self) -> None:
        pass


NO_SERIES = NoSeries()


class Labelled(Series):
    """A metric with declared labels; its series are made by :meth:`labels`."""

    __slots__ = ("_children", "_make", "spec")

    def __init__(
        self,
        spec: wire.MetricSpec,
        lock: Any,
        drop: Drop,
        make: Callable[[Tuple[str, ...]], Series],
    ) -> None:
        super().__init__(spec.name, lock, drop)
        self.spec = spec
        self._make = make
        self._children: Dict[Tuple[str, ...], Series] = {}

    def labels(self, *values: object, **named: object) -> Series:
        """The series with these label values; keep it in hot loops.

        Args:
            values: all values in the order of the declared labels, or
            named: all of them by name.
        """
        try:
            if named:
                given = tuple(str(named[label]) for label in self.spec.labels)
                fits = not values and len(named) == len(given)
            else:
                given = tuple(str(value) for value in values)
                fits = len(given) == len(self.spec.labels)
        except Exception:
            fits, given = False, ()
        if not fits:
            self._refuse("labels", f"wants the labels {list(self.spec.labels)}")
            return NO_SERIES
        return self._children.get(given) or self._child(given)

    def _child(self, given: Tuple[str, ...]) -> Series:
        # Only now: what is known already was made to fit when it came first.
        given = tuple(plain.text(value, MAX_LABEL_VALUE) for value in given)
        with self._lock:
            child = self._children.get(given)
            if child is None:
                child = self._make(given)
                if child is not NO_SERIES:
                    self._children[given] = child
            return child

    def _refuse(self, reason: str, detail: str) -> None:
        if reason == "usage":
            detail = f"has labels: use .labels({', '.join(self.spec.labels)})"
        super()._refuse(reason, detail)


def make_series(spec: wire.MetricSpec, lock: Any, drop: Drop) -> Series:
    """A new series of the type that ``spec`` says."""
    if spec.type == "counter":
        return Counter(spec.name, lock, drop)
    if spec.type == "gauge":
        return Gauge(spec.name, lock, drop)
    return Histogram(spec.name, lock, drop, spec.buckets)


def bounds(buckets: Sequence[float]) -> Tuple[float, ...]:
    """Upper bounds as floats, without +Inf.

    Raises:
        ValueError: they do not increase, or there are none or too many.
    """
    values = tuple(float(bound) for bound in buckets)
    if values and values[-1] == _INF:
        values = values[:-1]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("buckets have to be finite (+Inf is always there)")
    if not values or any(b <= a for a, b in zip(values, values[1:])):
        raise ValueError("buckets have to increase, at least one")
    if len(values) > MAX_BUCKETS:
        raise ValueError(f"{len(values)} buckets are too many (at most {MAX_BUCKETS})")
    return values


def _shown(value: object) -> str:
    """A value for a log line, without asking a user's object for its text."""
    return plain.text(value, 60)


class Timer(ContextDecorator):
    """Times a block or a function: a histogram observes it, a gauge is set to it."""

    __slots__ = ("_series", "_start")

    def __init__(self, series: Series) -> None:
        self._series = series
        self._start = 0.0

    def _recreate_cm(self) -> "Timer":
        return Timer(self._series)  # a decorated function may call itself

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        seconds = time.perf_counter() - self._start
        if isinstance(self._series, Gauge):
            self._series.set(seconds)
        else:
            self._series.observe(seconds)


Metric = Union[Series, Labelled]
