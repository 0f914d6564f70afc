"""What a source may say, beyond the types of the wire: pure checks of values.

The wire says of what type a field is; here is said which values can be kept, counted
and shown. What passes cannot make the journal, the state or a page fail; what does not
raises :class:`wire.MalformedError`, whose text says why.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from experiment_hooks import wire
from exporter import names

MAX_INTEGER = 2**63
"""What SQLite can store is below it."""
MAX_BUCKETS = 1000
TYPES = ("counter", "gauge", "histogram")
MERGES = ("last", "sum", "max", "min", "mean", "per_source")

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,199}")
_RESERVED_LABELS = frozenset({"experiment", "run", "le", "quantile", "source"})
_BUILT_IN = {
    "steps": ("counter", ("mode",)),
    "step_duration_seconds": ("histogram", ("mode",)),
    "phase_seconds": ("counter", ("mode", "phase")),
    "phases": ("counter", ("mode", "phase")),
}
"""Reserved names that the hooks themselves use in a schema, and how."""


def is_run_id(text: str) -> bool:
    """Whether it can be a run's id: the rule that the hooks keep too."""
    return _RUN_ID.fullmatch(text) is not None


def check_time(time: float) -> None:
    """Raises MalformedError for a time that is none."""
    if not math.isfinite(time):
        raise wire.MalformedError(f"a time cannot be {time}")


def check_record(record: wire.AnyRecord) -> None:
    """Raises MalformedError for a record that could not be stored or folded."""
    check_time(record.time)
    if record.seq >= MAX_INTEGER:
        raise wire.MalformedError(f"sequence number {record.seq} is too large")
    if isinstance(record, wire.EpisodeEnded):
        _check_number(record.number)
        check_time(record.started)
        check_time(record.duration)
    elif isinstance(record, wire.EpisodeStarted):
        _check_number(record.number)
    elif isinstance(record, wire.SourceClosed):
        check_totals(record.totals)
    elif isinstance(record, wire.RunOpened):
        for bounds in (record.episode_duration_buckets, record.episode_steps_buckets):
            if not rising(bounds):
                raise wire.MalformedError("bounds of buckets have to rise")


def check_sample(sample: wire.Sample) -> None:
    """Raises MalformedError for a sample that could not be folded or shown."""
    check_totals(sample.totals)
    for shown in sample.open:
        _check_number(shown.number)


def check_totals(totals: bytes) -> None:
    """Raises MalformedError for totals that are no doubles."""
    if len(totals) % 8:
        raise wire.MalformedError(f"totals of {len(totals)} bytes are no doubles")


def _check_number(number: int) -> None:
    if not 0 <= number < MAX_INTEGER:
        raise wire.MalformedError(f"an episode's number cannot be {number}")


def rising(bounds: Sequence[float]) -> bool:
    """Whether they can be a histogram's upper bounds, without +Inf."""
    return (
        len(bounds) <= MAX_BUCKETS
        and all(map(math.isfinite, bounds))
        and all(low < high for low, high in pairwise(bounds))
    )


def refusal(spec: wire.MetricSpec) -> str:
    """Why a metric cannot be served, in a word fit for a label; empty if it can."""
    if not _well_formed(spec):
        return "malformed"
    ours = _BUILT_IN.get(spec.name) == (spec.type, spec.labels) and not spec.free
    taken = f"experiment_{spec.name}" in names.RUN_FAMILIES and not ours
    if taken or not _RESERVED_LABELS.isdisjoint(spec.labels):
        return "reserved"
    return ""


def _well_formed(spec: wire.MetricSpec) -> bool:
    return (
        spec.type in TYPES
        and spec.merge in MERGES
        and _NAME.fullmatch(spec.name) is not None
        and not (spec.type == "counter" and spec.name.endswith("_total"))
        and rising(spec.buckets)
        and all(_NAME.fullmatch(label) for label in spec.labels)
        and not any(label.startswith("__") for label in spec.labels)
        and len(set(spec.labels)) == len(spec.labels)
    )
