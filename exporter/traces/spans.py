"""An episode as a trace: the root, its phases, its sampled steps.

Pure: a value in, spans out; no clock, no randomness, no thread of its own. Ids follow
from the run, the source and the episode's number, so a trace that is sent twice is
the same trace, and the metric's exemplar and the log line know its id without asking.

It must never raise on what a source sent (see ``values``), and a trace stays under
2,000 spans.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from experiment_hooks import wire
from exporter.traces.values import (
    LAST_NS,
    MAX_NAME_BYTES,
    Value,
    clip,
    named,
    nanoseconds,
    rank,
    scores,
    value_of,
)

MAX_CHILDREN = 1990
"""Phases and steps of a trace: with a root, and a late one, it stays under 2,000."""

MAX_EVENTS = 128  # OTEL_SPAN_EVENT_COUNT_LIMIT's default

SOURCE_LOST = "source_lost"

_ROUNDING = 1e-6  # seconds; start + duration of two phases that end together
_UNSET = Status(StatusCode.UNSET)
_NO_RESOURCE = Resource.get_empty()
_NOT_SPANS = {"events", "results", "attributes", "scores"}

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class EpisodeTrace:
    """What one trace is made of.

    Attributes:
        run: the run's id as the source knew it: all ids derive from it.
        shown_run: the id under which the exporter shows the run.
        experiment: the experiment's name.
        episode: the record of its end; for a lost one, what the exporter knows.
        skew: seconds to add to the source's times to get the exporter's.
        lost: the exporter closed it, because its source is gone.
        late: the real end, which came after the trace was closed as lost.
        host: where the source ran.
        pid: its process id there.
        source_name: what the source called itself.
        previous: the trace id of the run's episode before, to link to.
    """

    run: str
    shown_run: str
    experiment: str
    episode: wire.EpisodeEnded
    skew: float = 0.0
    lost: bool = False
    late: bool = False
    host: str = ""
    pid: int = 0
    source_name: str = ""
    previous: str | None = None

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        return wire.trace_id(self.run, self.episode.source, self.episode.number)

    @property
    def root_id(self) -> str:
        """The root span's id; the late end of a trace closed as lost has its own."""
        return wire.span_id(self.trace_id, "late" if self.late else "episode")


@dataclass(frozen=True)
class _Frame:
    """A span as its children see it; times in Unix nanoseconds."""

    context: SpanContext
    start: int
    end: int


@dataclass(frozen=True)
class _Phase:
    """A phase that stays: its number in the episode, its times, what it lies in."""

    number: int
    span: wire.PhaseSpan
    end: float
    outer: "_Phase | None"


def spans(trace: EpisodeTrace, resource: Resource = _NO_RESOURCE) -> list[ReadableSpan]:
    """All spans of an episode's trace, its root first.

    Args:
        trace: the episode.
        resource: who sends it; the same one for all is cheapest.

    Status is ERROR for an exception or a lost source, and UNSET for all else, a wrong
    answer included. Never OK: that is a person's final word on a span (so says the
    specification), and beside an outcome ``confused`` it would read as praise.
    """
    return _Drawing(trace, resource).all()


class _Drawing:
    """The spans of one trace in the making."""

    def __init__(self, trace: EpisodeTrace, resource: Resource) -> None:
        self._trace = trace
        self._episode = trace.episode
        self._trace_id = trace.trace_id
        self._resource = resource
        version = resource.attributes.get("service.version")
        self._scope = InstrumentationScope("episight", str(version or "") or None)
        start = _start(trace)
        end = start + nanoseconds(trace.episode.duration, 0, LAST_NS - start)
        self._root = _Frame(self._context(trace.root_id), start, end)

    def all(self) -> list[ReadableSpan]:
        phases = _thinned(list(enumerate(self._episode.phases)), MAX_CHILDREN)
        steps = _thinned(_distinct(self._episode.sampled), MAX_CHILDREN - len(phases))
        tree = _nested(phases)
        frames: dict[int, _Frame] = {}
        children = [self._phase(phase, frames) for phase in tree]
        starts = [rank(phase.span.start) for phase in tree]
        children += [self._step(step, tree, starts, frames) for step in steps]
        said = len(self._episode.phases) + len(self._episode.sampled)
        return [self._root_span(said - len(phases) - len(steps)), *children]

    def _root_span(self, omitted: int) -> ReadableSpan:
        attributes, dropped = _root_attributes(self._trace, omitted)
        bounded: Mapping[str, Any] = attributes
        if dropped:  # OTLP has a place for this number, and it alone is read from here
            bounded = counted = BoundedAttributes(attributes=attributes)
            counted.dropped = dropped
        return self._span(
            "episode",
            self._root,
            None,
            bounded,
            events=self._events(),
            links=_links(self._trace.previous),
            status=_status(self._trace),
        )

    def _phase(self, phase: _Phase, frames: dict[int, _Frame]) -> ReadableSpan:
        parent = frames[phase.outer.number] if phase.outer else self._root
        span = phase.span
        frame = self._frame("phase", phase.number, span.start, span.duration, parent)
        frames[phase.number] = frame
        name = clip(span.name, MAX_NAME_BYTES) or "phase"
        attributes: dict[str, Value] = {
            "experiment.phase": name,
            "experiment.phase.steps": value_of(span.steps),
        }
        return self._span(name, frame, parent, attributes)

    def _step(
        self,
        step: wire.StepSpan,
        tree: Sequence[_Phase],
        starts: Sequence[float],
        frames: Mapping[int, _Frame],
    ) -> ReadableSpan:
        phase = _phase_at(step.start + step.duration / 2, tree, starts)
        parent = frames[phase.number] if phase else self._root
        frame = self._frame("step", step.step, step.start, step.duration, parent)
        attributes: dict[str, Value] = {"episode.step": value_of(step.step)}
        attributes.update(scores(step.scores))
        return self._span("step", frame, parent, attributes)

    def _events(self) -> Sequence[Event]:
        told = [self._event(event) for event in self._episode.events]
        kept: list[Event] | BoundedList[Event] = told
        if len(told) > MAX_EVENTS:  # the newest stay, OTLP is told how many went
            kept = BoundedList.from_seq(MAX_EVENTS, told)
        if self._episode.error is not None:
            kept.append(_exception(self._episode.error, self._root.end))
        return kept

    def _event(self, event: wire.Event) -> Event:
        attributes, _ = named(event.attributes, "")
        name = clip(event.name, MAX_NAME_BYTES) or "event"
        return Event(name, attributes, self._at(event.at, self._root))

    def _at(self, offset: float, within: _Frame) -> int:
        """The time of an offset from the episode's start, inside a span."""
        at = self._root.start + nanoseconds(offset, 0, LAST_NS)
        return min(max(at, within.start), within.end)

    def _frame(
        self, kind: str, number: int, start: float, duration: float, parent: _Frame
    ) -> _Frame:
        # A trace closed as lost may have said the same phase already, as far as it was
        # known then: the late end's children have ids of their own.
        name = f"late {kind}" if self._trace.late else kind
        context = self._context(wire.span_id(self._trace_id, name, number))
        first = self._at(start, parent)
        return _Frame(context, first, max(first, self._at(start + duration, parent)))

    def _context(self, span_id: str) -> SpanContext:
        return _context(self._trace_id, span_id)

    def _span(
        self,
        name: str,
        frame: _Frame,
        parent: _Frame | None,
        attributes: Mapping[str, Any],
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
        status: Status = _UNSET,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context=frame.context,
            parent=parent.context if parent else None,
            resource=self._resource,
            attributes=attributes,
            events=events,
            links=links,
            kind=SpanKind.INTERNAL,
            status=status,
            start_time=frame.start,
            end_time=frame.end,
            instrumentation_scope=self._scope,
        )


# --- the root -------------------------------------------------------------------------


def _root_attributes(trace: EpisodeTrace, omitted: int) -> tuple[dict[str, Value], int]:
    """The root's attributes, and how many of the user's were too many."""
    episode = trace.episode
    results, too_many = named(episode.results, "episode.result.")
    theirs, more = named(episode.attributes, "episode.attribute.")
    attributes = {
        **_who(trace),
        **_what(trace),
        **_omitted(episode, omitted),
        **scores(episode.scores),
        **results,
        **theirs,
    }
    return attributes, too_many + more


def _who(trace: EpisodeTrace) -> dict[str, Value]:
    shown = trace.shown_run or trace.run
    said: dict[str, object] = {
        "experiment.run.id": shown,
        # The id was taken, and the run is shown under another: what ids derive from.
        "experiment.run.asked_id": trace.run if shown != trace.run else None,
        "experiment.name": trace.experiment,
        "experiment.source.id": trace.episode.source.hex(),
        "experiment.source.name": trace.source_name or None,
        "host.name": trace.host or None,
        "process.pid": trace.pid or None,
    }
    return {name: value_of(value) for name, value in said.items() if value is not None}


def _what(trace: EpisodeTrace) -> dict[str, Value]:
    episode = trace.episode
    error = SOURCE_LOST if trace.lost else episode.error and episode.error.type
    said: dict[str, object] = {
        "experiment.mode": episode.mode,
        "experiment.epoch": episode.epoch,
        "episode.index": episode.index,
        "episode.number": episode.number,
        "episode.seed": episode.seed,
        "episode.target": episode.target,
        # A lost episode has none: nobody knows how it came out.
        "episode.outcome": None if trace.lost else episode.outcome,
        "episode.success": None if trace.lost else episode.success,
        "episode.steps": episode.steps,
        "episode.late": trace.late or None,
        "episode.reason": SOURCE_LOST if trace.lost else None,
        "error.type": error or None,
    }
    return {name: value_of(value) for name, value in said.items() if value is not None}


def _omitted(episode: wire.EpisodeEnded, here: int) -> dict[str, Value]:
    """What this trace does not show: cut by the source, and cut here."""
    there = episode.omitted
    spans_gone = here + sum(n for what, n in there.items() if what not in _NOT_SPANS)
    counts = {"spans": spans_gone, "events": there.get("events", 0)}
    return {f"episode.omitted_{k}": value_of(n) for k, n in counts.items() if n}


def _status(trace: EpisodeTrace) -> Status:
    if trace.lost:
        return Status(StatusCode.ERROR, SOURCE_LOST)
    error = trace.episode.error
    if error is None:
        return _UNSET
    return Status(StatusCode.ERROR, clip(f"{error.type}: {error.message}", 500))


def _exception(error: wire.ErrorInfo, at: int) -> Event:
    attributes = {
        "exception.type": clip(error.type),
        "exception.message": clip(error.message),
        # The end of a traceback says where it happened.
        "exception.stacktrace": clip(error.traceback, keep_end=True),
        "error.type": clip(error.type),
    }
    return Event("exception", attributes, at)


def _links(previous: str | None) -> Sequence[Link]:
    if not previous:
        return ()
    root = wire.span_id(previous, "episode")
    return (Link(_context(previous, root), {"experiment.link": "previous_episode"}),)


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


# --- what lies in what ----------------------------------------------------------------


def _nested(phases: Iterable[tuple[int, wire.PhaseSpan]]) -> list[_Phase]:
    """Phases by their start, each with the one around it; that one comes before it."""
    found: list[_Phase] = []
    around: list[_Phase] = []
    for number, span in sorted(phases, key=_outermost_first):
        end = span.start + span.duration
        while around and around[-1].end < end - _ROUNDING:
            around.pop()
        phase = _Phase(number, span, end, around[-1] if around else None)
        found.append(phase)
        around.append(phase)
    return found


def _outermost_first(item: tuple[int, wire.PhaseSpan]) -> tuple[float, float, int]:
    # Of two with the same times the inner one ended first, and has the lower number.
    number, span = item
    return (rank(span.start), -rank(span.duration), -number)


def _phase_at(
    moment: float, tree: Sequence[_Phase], starts: Sequence[float]
) -> _Phase | None:
    """The innermost phase at a moment.

    A step is asked for by its middle: it starts where the one before it ended, which
    for a phase's first step is just before the phase.
    """
    place = bisect_right(starts, moment) - 1
    phase = tree[place] if place >= 0 else None
    while phase is not None and phase.end < moment:
        phase = phase.outer
    return phase


def _distinct(steps: Iterable[wire.StepSpan]) -> list[wire.StepSpan]:
    """A step's number makes its span's id, so each number comes once."""
    return list({step.step: step for step in steps}.values())


def _thinned(items: Sequence[_Item], limit: int) -> Sequence[_Item]:
    """At most ``limit`` of them, spread evenly."""
    if len(items) <= limit:
        return items
    return [items[place * len(items) // limit] for place in range(limit)]


def _start(trace: EpisodeTrace) -> int:
    """The episode's start by the exporter's clock, in nanoseconds."""
    skew = trace.skew if math.isfinite(trace.skew) else 0.0
    told = trace.episode.started
    if not math.isfinite(told):
        told = trace.episode.time
    return nanoseconds(told + skew, 0, LAST_NS)
