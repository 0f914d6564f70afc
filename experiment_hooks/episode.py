"""One episode: what the experiment's loop calls, at every step.

An episode belongs to the thread that opened it and takes no lock while it steps. It
adds up in place and keeps references to the newest state; when the sender has raised
``due`` it *takes* itself: a consistent copy of its totals, and (for the oldest open
episode of the source) its moment as bytes. No other thread ever reads what the user
gave. Nothing here raises but :class:`RunStopped`.

Assumes: ``recorder`` is the source's; after a fork the child's recorder disowns the
parent's open episodes, which then count for nothing.
"""

import functools
import threading
import time
import types
from bisect import bisect_left
from itertools import islice
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
)

from experiment_hooks import endings, plain, wire
from experiment_hooks.totals import Taken

if TYPE_CHECKING:
    from experiment_hooks.recorder import Recorder

_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)
MAX_PHASE_SPANS = 1000
MAX_STEP_SPANS = 400
MAX_EVENTS = 128
MAX_ATTRIBUTES = 64
MAX_IMAGES = 16


class Episode:
    """An open episode; a context manager whose end ends it.

    Made by :meth:`Run.episode`. Without :meth:`finish` its outcome is ``ended``; by an
    exception it is ``error`` (``stopped`` by Ctrl-C or a stop), which goes on.
    """

    # Attributes that the hot path of step() touches come first.
    __slots__ = (
        "_due", "_last", "steps", "_counts", "_bounds", "_gap", "_state", "_scores",
        "_images", "_asked", "_recorder", "_clock", "_mark", "_phases", "_stack",
        "_spans", "_sampled", "_looked", "_every", "_events", "_omitted", "_outcome",
        "_results", "_final_scores", "_attributes", "_closed", "_trace_id", "taken",
        "thread", "number", "mode", "epoch", "index", "target", "seed", "started",
        "start", "_error",
    )  # fmt: skip

    def __init__(
        self,
        recorder: "Recorder",
        number: int,
        mode: str,
        epoch: Optional[int],
        index: Optional[int],
        target: Optional[str],
        seed: Optional[int],
    ) -> None:
        self._recorder = recorder
        self._clock = time.perf_counter
        self.number = number
        self.mode = mode
        self.epoch = epoch
        self.index = index
        self.target = target
        self.seed = seed
        self.thread = threading.get_ident()
        self.started = time.time()
        self.start = self._last = self._mark = time.perf_counter()
        self.steps = 0
        self._bounds = recorder.step_bounds
        self._counts = [0] * (len(self._bounds) + 1)
        self._gap = 0.0
        self._state: Any = None
        self._scores: Any = None
        self._images: Any = None
        self._phases: Dict[str, Tuple[float, int]] = {}
        self._stack: List[Phase] = []
        self._spans: List[wire.PhaseSpan] = []
        self._sampled: List[wire.StepSpan] = []
        self._looked = 0
        self._every = 1
        self._events: List[wire.Event] = []
        self._omitted: Dict[str, int] = {}
        self._outcome: Optional[str] = None
        self._final_scores: Dict[str, float] = {}
        self._results: Dict[str, float] = {}
        self._attributes: Dict[str, Any] = {}
        self._error: Optional[wire.ErrorInfo] = None
        self._closed = False
        self._trace_id = ""
        self._due = self._asked = True
        self.taken = Taken(
            0, tuple(self._counts), self.start, self.start, 0.0, {}, "", None
        )

    # --- the loop -----------------------------------------------------------------

    def step(
        self,
        state: Any = None,
        scores: Any = None,
        images: Any = None,
    ) -> None:
        """Count one step and keep references to what it looked like.

        Args:
            state: anything; what was given last stays until something is given again.
            scores: a mapping of name to number (evidence, action values, ...).
            images: a mapping of name to an image array (H, W), (H, W, 3 | 4).

        Each may be a function without arguments instead, called on this thread: for
        state and scores once a second, ten times a second while somebody looks at the
        run; for images only then.

        Raises:
            RunStopped: a stop was asked for, and the run can be stopped.
        """
        now = self._clock()
        elapsed = now - self._last
        self._last = now
        self.steps += 1
        self._counts[bisect_left(self._bounds, elapsed)] += 1
        if elapsed > self._gap:
            self._note_gap(now, now - elapsed)
        if state is not None:
            self._state = state
        if scores is not None:
            self._scores = scores
        if images is not None:
            self._images = images
        if self._due:
            self._touch(now, elapsed)

    def phase(self, name: str, promise: Optional[float] = None) -> "Phase":
        """A part of the episode, as a context manager; may be nested.

        Args:
            name: few different ones in a run (32, then ``other``).
            promise: seconds within which progress is promised while in it.
        """
        return Phase(self, name, promise)

    def event(self, name: str, **attributes: Any) -> None:
        """Something worth telling happened: an event in the episode's trace.

        Raises:
            RunStopped: a stop was asked for that arrives at once.
        """
        if self._closed or len(self._events) >= MAX_EVENTS:
            self._omit("events")
            return
        at = self._clock() - self.start
        self._recorder.guard(self._add_event, name, at, attributes)
        self._recorder.boundary("now")

    def finish(
        self,
        outcome: str = "ended",
        results: Optional[Mapping[str, float]] = None,
        **attributes: Any,
    ) -> None:
        """Say how the episode came out; it ends with the ``with`` block or ``close``.

        Args:
            outcome: the user's word, few different ones in a run.
            results: name to number (``return``, ``rotation_error``, ...), 16 a run.
            attributes: anything else worth keeping with the episode.
        """
        if self._closed:
            self._recorder.drop("usage", "finish() of an episode that has ended")
            return
        self._recorder.guard(self._finish, outcome, results, attributes)

    def close(self) -> None:
        """End the episode; closing again does nothing.

        Raises:
            RunStopped: a stop after this episode was asked for.
        """
        if self._end(None):
            self._recorder.boundary("episode")

    def __enter__(self) -> "Episode":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._end(error) and error is None:
            self._recorder.boundary("episode")

    # --- what others may ask ------------------------------------------------------

    @property
    def trace_id(self) -> str:
        """The episode's trace id, 32 hexadecimal digits."""
        if not self._trace_id:
            run, source = self._recorder.run_id, self._recorder.source
            self._trace_id = wire.trace_id(run, source, self.number)
        return self._trace_id

    @property
    def traceparent(self) -> str:
        """The W3C ``traceparent`` of the episode's root span, to hand to others."""
        trace = self.trace_id
        return f"00-{trace}-{wire.span_id(trace, 'episode')}-01"

    @property
    def closed(self) -> bool:
        """Whether the episode has ended."""
        return self._closed

    def wall(self, moment: float) -> float:
        """Unix seconds of a moment of the monotonic clock, within this episode."""
        return self.started + (moment - self.start)

    # --- called by the recorder ---------------------------------------------------

    def raise_due(self) -> None:
        """The sender asks the episode to take itself at its next step."""
        self._asked = self._due = True

    def abandon(self, outcome: str, error: Optional[wire.ErrorInfo]) -> None:
        """The run closes while the episode is open: it ends here, as the run does."""
        if self._outcome is None:
            self._outcome, self._error = outcome, error
        if self.thread != threading.get_ident():
            # What the user gave is only read on the thread that gave it.
            self._state = self._scores = self._images = None
        self._end(None)

    def disown(self) -> None:
        """The process was forked, and the episode is the parent's."""
        self._closed = True
        self._due = True

    # --- inside -------------------------------------------------------------------

    def _note_gap(self, now: float, last_step: float) -> None:
        if self._stack and self._stack[-1].promise is not None:
            return  # it was promised to be long: nothing to learn from
        # A phase's change (_mark) is progress too: the time without any starts there.
        since = now - max(self._mark, last_step)
        if since > self._gap:
            self._gap = since

    def _touch(self, now: float, elapsed: float) -> None:
        """The rare part of a step: the sender has asked, or somebody wants a stop."""
        if self._closed:
            return
        recorder = self._recorder
        if self._wanted():
            recorder.guard(self._take_step, now, elapsed)
        if recorder.stop is not None:  # asked for again at the next step, and the next
            self._due = True
        recorder.boundary("step")

    def _wanted(self) -> bool:
        """Whether to take; asks again at every step where there is no sender thread."""
        inline = self._recorder.inline
        # In this order: what the sender raises meanwhile stays raised.
        asked, self._asked, self._due = self._asked, False, inline
        return self._recorder.inline_due() if inline else asked

    def _take_step(self, now: float, elapsed: float) -> None:
        self._take(now)
        self._sample_step(now, elapsed)
        self._recorder.taken(self, now)

    def _take(self, now: float) -> None:
        phases = self._phases
        phase, promise = "", None
        if self._stack:
            phases = dict(phases)
            for open_phase in self._stack:
                seconds, times = phases.get(open_phase.name, (0.0, 0))
                phases[open_phase.name] = (seconds + now - open_phase.start, times)
            phase, promise = self._stack[-1].name, self._stack[-1].promise
        self.taken = Taken(
            self.steps,
            tuple(self._counts),
            self._last,
            max(self._last, self._mark),
            self._gap,
            dict(phases),
            phase,
            promise,
        )

    def moment(self, now: float, images: bool) -> Tuple[wire.Moment, List[bytes]]:
        """The newest step as bytes; called by this episode's thread only."""
        shapes, parts = self._pictures() if images else ((), [])
        return (
            wire.Moment(
                time=self.wall(now),
                episode=self.number,
                step=self.steps,
                state=self._state_bytes(),
                scores=self._score_values(),
                images=shapes,
                mode=self.mode,
                epoch=self.epoch,
                index=self.index,
                target=self.target,
            ),
            parts,
        )

    def _pictures(self) -> Tuple[Tuple[wire.Image, ...], List[bytes]]:
        """The images' descriptions, and their bytes: in all as many as one may have."""
        given = self._value(self._images)
        if given is None:
            return (), []
        try:
            named = list(islice(given.items(), MAX_IMAGES))
        except Exception:
            self._recorder.drop("value", "images, given to step(), are no mapping")
            return (), []
        most = wire.MAX_IMAGE_BYTES // max(1, len(named))
        shapes: List[wire.Image] = []
        parts: List[bytes] = []
        for name, array in named:
            taken = plain.image(name, self._value(array), len(parts), most)
            if taken is not None:
                shapes.append(taken[0])
                parts.append(taken[1])
        return tuple(shapes), parts

    def _state_bytes(self) -> bytes:
        if self._state is None:
            return b""
        value = self._value(self._state)
        return value.data if type(value) is plain.Made else plain.take(value)

    def _score_values(self) -> Dict[str, float]:
        return {} if self._scores is None else plain.scores(self._value(self._scores))

    def _value(self, given: Any) -> Any:
        """What was given, or what the function returns that was given instead.

        Functions, methods and partials only: a model or a class is callable too, and is
        a value here. A failure of the user's function is theirs to know, and costs no
        more than this value.
        """
        try:
            return given() if isinstance(given, _FUNCTIONS) else given
        except Exception as error:
            kind = type(error).__name__
            name = getattr(given, "__qualname__", "a function")
            self._recorder.drop("value", f"{name}, given to step(), raised {kind}")
            return None

    def _sample_step(self, now: float, elapsed: float) -> None:
        # When the list is full every second one goes, and from then on every second
        # one is kept: the spans stay spread over an episode of any length.
        if len(self._sampled) >= MAX_STEP_SPANS:
            del self._sampled[::2]
            self._every *= 2
        self._looked += 1
        if self._looked % self._every:
            return
        span = wire.StepSpan(self.steps, now - elapsed - self.start, elapsed)
        self._sampled.append(span)

    def _add_event(self, name: str, at: float, attributes: Dict[str, Any]) -> None:
        shown = plain.plain(attributes, nodes=200, size=2048)
        self._events.append(wire.Event(plain.text(name, 200), at, shown))

    def _finish(
        self,
        outcome: str,
        results: Optional[Mapping[str, float]],
        attributes: Dict[str, Any],
    ) -> None:
        self._outcome = plain.text(outcome, 100)
        # Now, not at the end: the model may have moved on by then.
        self._final_scores = self._score_values()
        if results is not None:
            self._results, omitted = plain.numbers(results)
            if omitted:
                self._omitted["results"] = self._omitted.get("results", 0) + omitted
        if attributes:
            shown = plain.plain(attributes)
            self._attributes.update(list(shown.items())[:MAX_ATTRIBUTES])

    def _omit(self, what: str) -> None:
        self._omitted[what] = self._omitted.get(what, 0) + 1

    def _enter_phase(self, phase: "Phase") -> None:
        now = phase.start = self._clock()
        self._note_gap(now, self._last)
        self._mark = now
        phase.first_step = self.steps
        self._stack.append(phase)
        if self._due:
            self._touch_phase(now)

    def _leave_phase(self, phase: "Phase") -> None:
        if phase not in self._stack:  # left twice, or after the episode's end
            return
        now = self._clock()
        self._note_gap(now, self._last)
        self._mark = now
        while self._stack.pop() is not phase:
            pass
        duration = now - phase.start
        seconds, times = self._phases.get(phase.name, (0.0, 0))
        self._phases[phase.name] = (seconds + duration, times + 1)
        if len(self._spans) < MAX_PHASE_SPANS:
            steps = self.steps - phase.first_step
            start = phase.start - self.start
            self._spans.append(wire.PhaseSpan(phase.name, start, duration, steps))
        else:
            self._omit("phases")
        if self._due:
            self._touch_phase(now)

    def _touch_phase(self, now: float) -> None:
        if self._wanted():
            self._take(now)
            self._recorder.taken(self, now)
        if self._recorder.stop is not None:
            self._due = True

    def _end(self, error: Optional[BaseException]) -> bool:
        if self._closed:
            return False
        self._recorder.guard(self._finally, error)
        self._closed = True
        self._state = self._scores = self._images = None
        return True

    def _finally(self, error: Optional[BaseException]) -> None:
        now = self._clock()
        while self._stack:
            self._leave_phase(self._stack[-1])
        self._note_gap(now, self._last)
        self._mark = now
        self._take(now)
        outcome = self._outcome or "ended"
        if error is not None:
            outcome, self._error = endings.of_episode(error)
        self._recorder.episode_ended(self, now, outcome, self._error is not None)

    def ended(
        self,
        base: Dict[str, Any],
        now: float,
        outcome: str,
        success: Optional[bool],
        bare: bool = False,
    ) -> wire.EpisodeEnded:
        """The episode's last record.

        Args:
            base: what all records have, from the recorder.
            now: when it ended, by the episode's clock.
            outcome: how.
            success: whether that is one, where the run said which are.
            bare: without all that can be large, which is counted as omitted.
        """
        fields: Dict[str, Any] = {
            "number": self.number,
            "mode": self.mode,
            "started": self.started,
            "duration": now - self.start,
            "steps": self.steps,
            "outcome": outcome,
            "epoch": self.epoch,
            "index": self.index,
            "target": self.target,
            "seed": self.seed,
            "success": success,
            "results": self._results,
            "attributes": self._attributes,
            "scores": self._final_scores or self._score_values(),
            "phases": tuple(self._spans),
            "sampled": tuple(self._sampled),
            "events": tuple(self._events),
            "omitted": self._omitted,
            "error": self._error,
        }
        if bare:
            large = ("attributes", "scores", "phases", "sampled", "events")
            omitted = {what: len(fields.pop(what)) for what in large}
            for what, count in self._omitted.items():
                omitted[what] = omitted.get(what, 0) + count
            fields["omitted"] = {what: n for what, n in omitted.items() if n}
        return wire.EpisodeEnded(**base, **fields)


class Phase:
    """A part of an episode, while its ``with`` block is open."""

    __slots__ = ("_episode", "first_step", "name", "promise", "start")

    def __init__(self, episode: Episode, name: str, promise: Optional[float]) -> None:
        self._episode = episode
        self.name = episode._recorder.phase_name(name)
        given = isinstance(promise, (int, float)) and 0 < promise < float("inf")
        self.promise = promise if given else None
        self.start = 0.0
        self.first_step = 0

    def __enter__(self) -> "Phase":
        episode = self._episode
        if not episode._closed:
            episode._recorder.guard(episode._enter_phase, self)
            episode._recorder.boundary("now")
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        episode = self._episode
        if not episode._closed:
            episode._recorder.guard(episode._leave_phase, self)
