"""What is true of all runs: how committed records and totals are folded into them.

Owner: the writer thread changes it, under :attr:`State.lock` (only placing, under the
lock too, is ingest's); everybody else reads under that lock, briefly, and keeps no
reference. Folding is a function of values: time is passed in, nothing is read from a
clock, a socket or a disk, so a restart that replays the journal arrives at the same
state.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from experiment_hooks import wire
from exporter.merge import Contribution, Schema
from exporter.ranges import Ranges
from exporter.runs import NO_SCHEMA, SKEW_SHOWN, Closing, Run, Source, Traced

RECENT_RESULTS = 100
ENDINGS = ("completed", "failed", "stopped")
_DESCRIPTION = ("config", "launch", "success", "promise")
"""Of the run as a whole: the first to say anything says it."""
_ADDED_UP = (
    "tags", "facts", "info", "expected_episodes", "expected_steps", "expected_epochs",
)  # fmt: skip
"""By name: all that anybody says is there, and of each name what the first said."""
MAX_DESCRIPTION = 256
MAX_OUTCOMES = 32
MAX_RESULTS = 16
MAX_COMMANDS = 200
"""Commands of a run whose answers are known, the newest."""
_PROGRESS = {"delivered": 1, "accepted": 2, "done": 3, "failed": 3}
"""How far an answer is; answers come in any order, and nothing goes back."""
OTHER = "other"
"""Under which outcomes and results are counted for which there is no room."""


class State:
    """All runs, by their shown id."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.sources: dict[bytes, tuple[Run, Source]] = {}
        # What is looked at each second: those that have not closed, and those that
        # have and are not folded yet. The others may be many.
        self._open: dict[bytes, tuple[Run, Source]] = {}
        self._to_fold: dict[bytes, tuple[Run, Source]] = {}
        # By run, the last turn in its life, the oldest first; see turned_since().
        self._turned: dict[str, int] = {}
        self._turn = 0
        self._placed: dict[bytes, str] = {}
        self._owners: dict[str, bytes] = {}
        # Owners that go on with a run, and such of which somebody delivers what they
        # left: known when they are placed, before a record of them is committed.
        self._resumers: set[bytes] = set()
        self._left_behind: set[bytes] = set()
        # Only as long as some source has it: a schema grows in many small steps.
        self._schemas: WeakValueDictionary[object, Schema] = WeakValueDictionary()
        self.exemplar_clock = 0.0
        self.dropped_before: Counter[str] = Counter()
        """What sources of forgotten runs had dropped, for a total never goes down.
        Less what all had dropped before the exporter's start, where it starts anew."""

    # --- placing --------------------------------------------------------------------

    def place(
        self,
        source: bytes,
        asked: str,
        role: str,
        owner: bytes,
        resume: bool,
        gone: Callable[[bytes], bool] = lambda source: False,
        *,
        replay: bool = False,
    ) -> str:
        """The id of the run to which a source belongs: the asked one, or ``<id>-2``.

        A child goes where its owner is. A second owner gets a run of its own, unless
        the run has ended, or lost its owner, and it resumes it.

        Args:
            source: the source's id.
            asked: the run's id as the source says it.
            role: owner, child or shared.
            owner: the owner's source id, as a child knows it.
            resume: whether an owner goes on with a run that was there.
            gone: whether the connection of a source is gone.
            replay: it is not the source that asks, but who delivers what it left.
        """
        if source in self._placed:
            return self._placed[source]
        name = asked
        if role == "child":
            name = self._placed.get(owner, asked)
        elif role == "owner" and not (replay and self._resumed(asked)):
            number = 1
            while not self._free(name, resume, gone):
                number += 1
                name = f"{asked}-{number}"
            self._owners[name] = source
            if replay:
                self._left_behind.add(source)
            elif resume:
                self._resumers.add(source)
        self._placed[source] = name
        return name

    def _free(self, name: str, resume: bool, gone: Callable[[bytes], bool]) -> bool:
        """Whether an owner may have this id: without owner, or over and resumed."""
        holder = self._owners.get(name)
        if holder is None or (resume and holder in self._left_behind):
            return True
        run = self.runs.get(name)
        if run is None or run.owner != holder:  # placed a moment ago, not yet committed
            return False
        over = run.closed is not None or self._owner_lost(run) or gone(holder)
        return resume and over

    def _resumed(self, name: str) -> bool:
        """Whether a run's owner goes on with an earlier one: what that left is its."""
        if self._owners.get(name) in self._resumers:
            return True
        run = self.runs.get(name)
        return run is not None and run.opened is not None and run.opened.resume

    def _owner_lost(self, run: Run) -> bool:
        owner = run.sources.get(run.owner)
        return owner is None or owner.lost_at is not None or owner.closed is not None

    def unplace(self, gone: Callable[[bytes], bool]) -> None:
        """Forget sources that said hello, went, and never sent a record."""
        waiting = [one for one in self._placed if one not in self.sources and gone(one)]
        for source in waiting:
            name = self._placed.pop(source)
            self._resumers.discard(source)
            self._left_behind.discard(source)
            if self._owners.get(name) == source:
                run = self.runs.get(name)
                if run is not None and run.owner:
                    self._owners[name] = run.owner
                else:
                    del self._owners[name]

    # --- folding records --------------------------------------------------------------

    def apply(self, record: wire.AnyRecord, run_id: str, at: float) -> None:
        """Fold one committed record, seen for the first time.

        Args:
            record: the record.
            run_id: where :meth:`place` put its source.
            at: the record's time by the exporter's clock, Unix seconds.

        Raises:
            ValueError: it contradicts what its source said before.
        """
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = Run(run_id, at)
            self._turns(run)
        self._placed[record.source] = run_id
        source = run.sources.get(record.source) or self._source(run, record, at)
        # Compared, and not by min() and max(): this is done for each record.
        if at > run.last_record_at:
            run.last_record_at = at
        if at < run.started_at:
            run.started_at = at
        if at > source.last_at:
            source.last_at = at
        if at < source.opened_at:
            source.opened_at = at
        skew = at - record.time
        source.skew = skew if abs(skew) > SKEW_SHOWN else 0.0
        source.received.add(record.seq)
        if record.seq > source.announced:
            source.announced = record.seq
        fold = _FOLDS.get(type(record))
        if fold is not None:
            fold(self, run, source, record, at)

    def _source(self, run: Run, record: wire.AnyRecord, at: float) -> Source:
        # Its own introduction may come later: records come in any order.
        blank = wire.SourceOpened(record.run, record.source, 0, record.time, role="")
        found = run.sources[record.source] = Source(blank, at)
        known = (run, found)
        self.sources[record.source] = self._open[record.source] = known
        return found

    def _source_opened(
        self, run: Run, source: Source, record: wire.SourceOpened, at: float
    ) -> None:
        source.opened = record
        self._turns(run)
        if record.role == "owner":
            run.attempts += 1
            before = run.sources.get(run.owner)
            if before is not None and _earlier(source, before):
                return  # of an earlier attempt, delivered late
            if run.owner:  # resumed
                run.closed = None
                run.resumed_at = at
                run.earlier_commands = frozenset(run.commands)
            run.owner = source.id
            self._owners[run.id] = source.id
        elif record.role == "shared" and run.closed is not None and not run.owner:
            run.closed = None  # an unowned run that a further source joins

    def _run_opened(
        self, run: Run, source: Source, record: wire.RunOpened, at: float
    ) -> None:
        owns = source.id == run.owner
        if run.opened is None:
            run.opened = record
        elif owns:
            run.opened = _described(record, run.opened)
        else:
            run.opened = _described(run.opened, record)
        if owns:
            # Bounds can only be changed while nothing is counted under them.
            run.modes = {name: mode for name, mode in run.modes.items() if mode.counts}

    def _run_closed(
        self, run: Run, source: Source, record: wire.RunClosed, at: float
    ) -> None:
        if not run.owner or run.owner == source.id:
            run.closed = _closing(record, at)
            self._turns(run)

    def _source_closed(
        self, run: Run, source: Source, record: wire.SourceClosed, at: float
    ) -> None:
        if record.totals:
            self._take_totals(run, source, wire.unpack_totals(record.totals))
        source.epochs = dict(record.epochs)
        source.has_dropped(record.dropped)
        source.sample = None
        source.lost_at = None
        source.closed = _closing(record, at)
        self._turns(run)
        if self._open.pop(source.id, None) is not None:
            self._to_fold[source.id] = (run, source)

    def _schema(self, run: Run, source: Source, record: wire.Schema, at: float) -> None:
        source.schemas.append(record)
        source.schemas.sort(key=lambda one: (one.first_series, one.first_metric))
        while source.schemas and source.schema.goes_on_with(source.schemas[0]):
            known = source.schema.width
            grown = source.schema.grown(source.schemas.pop(0))
            # One object for all sources that declared the same: merged by column.
            key = (grown.metrics, grown.series)
            source.schema = self._schemas.setdefault(key, grown)
            run.base.declared(source.schema)
            # Totals that came first: what is new of them is known only now.
            run.base.arrived(source.schema, source.totals, source.totals[:known])

    def _episode_started(
        self, run: Run, source: Source, record: wire.EpisodeStarted, at: float
    ) -> None:
        run.progress_at = max(run.progress_at, at)
        run.mode(record.mode).started += 1
        if record.number not in source.ended:
            source.started[record.number] = record

    def _episode_ended(
        self, run: Run, source: Source, record: wire.EpisodeEnded, at: float
    ) -> None:
        if not source.ended.add(record.number):
            raise ValueError(f"episode {record.number} has ended already")
        source.started.pop(record.number, None)
        source.lost_episodes.discard(record.number)
        run.progress_at = max(run.progress_at, at)
        mode = run.mode(record.mode)
        mode.ended_at(at)
        outcome, outcomes = record.outcome, mode.outcomes
        if outcome not in outcomes and len(outcomes) >= MAX_OUTCOMES:
            outcome = OTHER
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        success = run.judged(record)
        if success is not None:
            mode.judged = True
            mode.successes += success
        trace = Traced(record)
        seen = self.exemplar_clock = max(self.exemplar_clock, at)
        mode.durations.add(record.duration, trace, seen)
        mode.steps.add(record.steps, trace, seen)
        for name, value in record.results.items():
            known = mode.results.get(name)
            if known is None:
                full = len(mode.results) >= MAX_RESULTS
                known = mode.results.setdefault(
                    OTHER if full else name, deque(maxlen=RECENT_RESULTS)
                )
            known.append(value)

    def _log(self, run: Run, source: Source, record: wire.LogLine, at: float) -> None:
        run.logs.append(record)
        run.log_count += 1

    def _command_answered(
        self, run: Run, source: Source, record: wire.CommandAnswered, at: float
    ) -> None:
        answers = run.commands.setdefault(record.command, {})
        known = answers.get(source.id)
        if known is None or _further(record) > _further(known):
            answers[source.id] = record
        if len(run.commands) > MAX_COMMANDS:
            del run.commands[next(iter(run.commands))]

    def _given_up(
        self, run: Run, source: Source, record: wire.GivenUp, at: float
    ) -> None:
        # They were announced, and that they never come is known: still missing.
        for _, last in record.ranges:
            source.announced = max(source.announced, last)

    # --- folding samples --------------------------------------------------------------

    def apply_sample(self, source_id: bytes, sample: wire.Sample, at: float) -> bool:
        """Fold a source's newest committed sample; False if there is nothing to it.

        A sample of a closed source, or older than what was applied, is dropped.
        ``at`` is when it came, by the exporter's clock, Unix seconds.
        """
        known = self.sources.get(source_id)
        if known is None:
            return False
        run, source = known
        if source.closed is not None:
            return False
        if source.sample is not None and sample.number <= source.sample.number:
            return False
        self._take_totals(run, source, wire.unpack_totals(sample.totals))
        source.sample, source.sampled_at = sample, at
        source.last_at = max(source.last_at, at)
        run.last_record_at = max(run.last_record_at, at)
        source.announced = max(source.announced, sample.announced)
        source.epochs = dict(sample.epochs)
        source.has_dropped(sample.dropped)
        if sample.progress:
            progress = min(source.shift(sample.progress), at)  # no clock runs ahead
            run.progress_at = max(run.progress_at, progress)
        return True

    def _take_totals(self, run: Run, source: Source, totals: tuple[float, ...]) -> None:
        run.base.arrived(source.schema, totals, source.totals)
        source.totals = totals

    # --- what time brings -------------------------------------------------------------

    def clock_is(self, now: float) -> None:
        """Nothing that lives is of the future: the clock may have been set back."""
        for run in {id(run): run for run, _ in self._open.values()}.values():
            run.clock_is(now)
        for _, source in self._open.values():
            if source.opened_at > now:
                source.opened_at = now

    def source_lost(self, source_id: bytes, at: float, announced: int = 0) -> None:
        """A source is lost, after so many records as far as is known."""
        run, source = self.sources[source_id]
        self._turns(run)
        source.lost_at = at
        source.announced = max(source.announced, announced)

    def source_returned(self, source_id: bytes) -> None:
        """A lost source has been heard again."""
        run, source = self.sources[source_id]
        self._turns(run)
        source.lost_at = None

    def episode_lost(self, source_id: bytes, number: int) -> None:
        """An open episode of a lost source is closed by the exporter."""
        run, source = self.sources[source_id]
        started = source.started.pop(number, None)
        if started is not None and number not in source.lost_episodes:
            source.lost_episodes.add(number)
            run.mode(started.mode).lost += 1

    def fold_ended(self, now: float) -> None:
        """Fold sources that ended long enough ago into their run's base."""
        for run, source in [*self._to_fold.values()]:
            # Unless a part of the schema is still to come.
            whole = len(source.totals) == source.schema.width
            if whole and not source.counts_as_live(now):
                run.base.fold(
                    Contribution(source.name, source.schema, source.totals, False)
                )
                del self._to_fold[source.id]
                source.folded = True
                source.totals = ()
                source.schema = NO_SCHEMA

    def heard_before(self, source_id: bytes, received: Ranges) -> None:
        """Records of a source that came before its run was deleted, and are gone."""
        known = self.sources.get(source_id)
        if known is not None and received.count:
            source = known[1]
            source.received.update(received)
            source.announced = max(source.announced, *(last for _, last in received))

    def clear(self) -> None:
        """Forget everything, to be folded anew."""
        self.runs.clear()
        self.sources.clear()
        self._open.clear()
        self._to_fold.clear()
        self._turned.clear()
        self._placed.clear()
        self._owners.clear()
        self.exemplar_clock = 0.0

    def restored(self) -> None:
        """All that the journal has is folded: what is counted anew starts here."""
        self.dropped_before.clear()
        for _, source in self.sources.values():
            self.dropped_before.subtract(source.dropped)

    def forget(self, run_id: str) -> None:
        """Forget a run and its sources."""
        run = self.runs.pop(run_id, None)
        self._owners.pop(run_id, None)
        self._turned.pop(run_id, None)
        for one in run.sources.values() if run else ():
            self.dropped_before.update(one.dropped)
        for source in run.sources if run else ():
            for known in (self.sources, self._open, self._to_fold):
                known.pop(source, None)
            self._placed.pop(source, None)
            self._resumers.discard(source)
            self._left_behind.discard(source)

    def open_sources(self) -> Iterable[tuple[Run, Source]]:
        """Sources that have not closed."""
        return [*self._open.values()]

    # --- whose life has taken a turn --------------------------------------------------

    def turned_since(self, turn: int) -> tuple[int, list[str]]:
        """Runs of which a process came or went, or whose end was told, after a turn.

        With the newest turn, to ask again with. So who follows the verdicts looks at
        those runs and at such as have not ended, and pays nothing for all the others.
        """
        found = []
        for run, turned in reversed(self._turned.items()):
            if turned <= turn:
                break
            found.append(run)
        return self._turn, found

    def _turns(self, run: Run) -> None:
        self._turn += 1
        self._turned.pop(run.id, None)
        self._turned[run.id] = self._turn


def _further(answer: wire.CommandAnswered) -> int:
    # A word of newer hooks says at least that it was heard.
    return _PROGRESS.get(answer.state, 1)


def _earlier(one: Source, other: Source) -> bool:
    """Whether a source was opened before another, as far as their clocks can tell."""
    same = one.opened.host == other.opened.host
    return one.opened_at < other.opened_at - (0.0 if same else SKEW_SHOWN)


def _described(first: wire.RunOpened, other: wire.RunOpened) -> wire.RunOpened:
    """What the first says of the run, and what only the other says."""
    added = {
        name: getattr(other, name)
        for name in _DESCRIPTION
        if not getattr(first, name) and getattr(other, name)
    }
    for name in _ADDED_UP:
        said = {**getattr(first, name)}
        for key, value in getattr(other, name).items():
            if len(said) < MAX_DESCRIPTION:
                said.setdefault(key, value)
        added[name] = said
    return msgspec.structs.replace(first, **added)


def _closing(record: wire.RunClosed | wire.SourceClosed, at: float) -> Closing:
    # A word of newer hooks means at least that it did not just complete.
    ending = record.ending if record.ending in ENDINGS else "failed"
    return Closing(ending, record.reason, record.error, at)


_FOLDS: dict[type, Callable[[State, Run, Source, Any, float], None]] = {
    wire.SourceOpened: State._source_opened,
    wire.RunOpened: State._run_opened,
    wire.RunClosed: State._run_closed,
    wire.SourceClosed: State._source_closed,
    wire.Schema: State._schema,
    wire.EpisodeStarted: State._episode_started,
    wire.EpisodeEnded: State._episode_ended,
    wire.LogLine: State._log,
    wire.CommandAnswered: State._command_answered,
    wire.GivenUp: State._given_up,
}
