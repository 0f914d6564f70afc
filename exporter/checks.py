"""What a source may say, beyond the types of the wire: pure checks of values.

The wire says of what type a field is; here is said which values can be kept, counted
and shown. What passes cannot make the journal, the state or a page fail; what does not
raises :class:`wire.MalformedError`, whose text says why.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from experiment_hooks import wire
from exporter import names

MAX_INTEGER = 2**63
"""What SQLite can store is below it."""
MAX_BUCKETS = 1000
MAX_NAME = 256
"""Characters of what becomes a label's value or a word on a page; hooks cut at 200."""
MAX_DETAIL = 1000
"""Characters of why a command failed; hooks cut at 500."""
MAX_LABELS = 32
MAX_TIME = 2.0**33
"""Unix seconds: the year 2242."""
MAX_DROP_REASONS = 64
MAX_COMMANDS = 64
"""Of a source that takes commands; the hooks have half as many."""
TYPES = ("counter", "gauge", "histogram")
MERGES = ("last", "sum", "max", "min", "mean", "per_source")

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,199}")
_REASON = re.compile(r"[a-z0-9_]{1,60}")
_RESERVED_LABELS = frozenset({"experiment", "run", "le", "quantile", "source"})
BUILT_IN = {
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
    """Raises MalformedError for a time that is none, or none of these centuries."""
    if not 0 <= time < MAX_TIME:
        raise wire.MalformedError(f"a time cannot be {time}")


def check_head(message: wire.FromSource) -> None:
    """Raises MalformedError for a message of a time or a number that cannot be."""
    check_time(message.sent)
    if not 0 <= message.announced < MAX_INTEGER:
        raise wire.MalformedError(f"announced cannot be {message.announced}")


def check_record(record: wire.AnyRecord) -> None:
    """Raises MalformedError for a record that could not be stored, folded or shown."""
    check_time(record.time)
    if record.seq >= MAX_INTEGER:
        raise wire.MalformedError(f"sequence number {record.seq} is too large")
    check = _CHECKS.get(type(record))
    if check is not None:
        check(record)


def check_sample(sample: wire.Sample) -> None:
    """Raises MalformedError for a sample that could not be folded or shown."""
    check_time(sample.progress)
    check_totals(sample.totals)
    if sample.dropped:
        _check_dropped(sample.dropped)
    _check_names("a mode", sample.epochs)
    if len(sample.commands) > MAX_COMMANDS:
        raise wire.MalformedError(f"{len(sample.commands)} commands are taken")
    _check_names("a command", sample.commands)
    for shown in sample.open:
        _check_number(shown.number)
        _check_names("a mode", (shown.mode,))
        _check_names("a phase", (shown.phase,))
        _check_names("a target", (shown.target or "",))
    for moment in sample.moments:
        _check_names("a mode", (moment.mode,))
        _check_names("a target", (moment.target or "",))


def check_totals(totals: bytes) -> None:
    """Raises MalformedError for totals that are no doubles."""
    if len(totals) % 8:
        raise wire.MalformedError(f"totals of {len(totals)} bytes are no doubles")


def _check_number(number: int) -> None:
    if not 0 <= number < MAX_INTEGER:
        raise wire.MalformedError(f"an episode's number cannot be {number}")


def _check_names(what: str, names_given: Iterable[str]) -> None:
    for name in names_given:
        if len(name) > MAX_NAME:
            raise wire.MalformedError(
                f"{what} of {len(name)} characters; at most {MAX_NAME} are taken"
            )


def _check_dropped(dropped: dict[str, int]) -> None:
    if len(dropped) > MAX_DROP_REASONS:
        raise wire.MalformedError(f"{len(dropped)} reasons for what was dropped")
    for reason, number in dropped.items():
        if not (_REASON.fullmatch(reason) and 0 <= number < MAX_INTEGER):
            raise wire.MalformedError(f"dropped cannot be {reason[:60]!r}: {number}")


def _check_given_up(record: wire.GivenUp) -> None:
    for number in (end for both in record.ranges for end in both):
        if not 0 <= number < MAX_INTEGER:
            raise wire.MalformedError(f"records given up cannot end at {number}")


def _check_source_opened(record: wire.SourceOpened) -> None:
    _check_names("a host", (record.host,))
    _check_names("a process's name", (record.name,))
    _check_names("a version", (record.python, record.version))


def _check_source_closed(record: wire.SourceClosed) -> None:
    check_totals(record.totals)
    _check_dropped(record.dropped)
    _check_names("a mode", record.epochs)


def _check_run_opened(record: wire.RunOpened) -> None:
    for bounds in (record.episode_duration_buckets, record.episode_steps_buckets):
        if not rising(bounds):
            raise wire.MalformedError("bounds of buckets have to rise")
    _check_names("an experiment's name", (record.experiment,))
    _check_names("an outcome", record.success or ())
    for expected in (
        record.expected_episodes,
        record.expected_steps,
        record.expected_epochs,
    ):
        _check_names("a mode", expected)


def _check_schema(record: wire.Schema) -> None:
    for series in record.series:
        _check_names("a label's value", series.values)


def _check_started(record: wire.EpisodeStarted) -> None:
    _check_number(record.number)
    _check_names("a mode", (record.mode,))
    _check_names("a target", (record.target or "",))


def _check_ended(record: wire.EpisodeEnded) -> None:
    _check_number(record.number)
    check_time(record.started)
    check_time(record.duration)
    _check_names("a mode", (record.mode,))
    _check_names("a target", (record.target or "",))
    _check_names("an outcome", (record.outcome,))
    _check_names("a result's name", record.results)
    _check_names("a phase", (span.name for span in record.phases))


def _check_answered(record: wire.CommandAnswered) -> None:
    _check_names("a command's id or state", (record.command, record.state))
    if len(record.detail) > MAX_DETAIL:
        raise wire.MalformedError(f"a detail of {len(record.detail)} characters")


_CHECKS: dict[type, Callable[[Any], None]] = {
    wire.GivenUp: _check_given_up,
    wire.SourceOpened: _check_source_opened,
    wire.SourceClosed: _check_source_closed,
    wire.RunOpened: _check_run_opened,
    wire.Schema: _check_schema,
    wire.EpisodeStarted: _check_started,
    wire.EpisodeEnded: _check_ended,
    wire.CommandAnswered: _check_answered,
}


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
    ours = BUILT_IN.get(spec.name) == (spec.type, spec.labels) and not spec.free
    taken = f"experiment_{spec.name}" in names.RUN_FAMILIES and not ours
    if taken or not _RESERVED_LABELS.isdisjoint(spec.labels):
        return "reserved"
    return ""


def _well_formed(spec: wire.MetricSpec) -> bool:
    return (
        len(spec.labels) <= MAX_LABELS
        and spec.type in TYPES
        and spec.merge in MERGES
        and _NAME.fullmatch(spec.name) is not None
        and not (spec.type == "counter" and spec.name.endswith("_total"))
        and rising(spec.buckets)
        and all(_NAME.fullmatch(label) for label in spec.labels)
        and not any(label.startswith("__") for label in spec.labels)
        and len(set(spec.labels)) == len(spec.labels)
    )
