"""What people told runs to do: which commands were given, and which of them stand.

A person's request alone makes an order (:func:`new`, called by the web); nothing that
ends, fails or is late ever does. It is *given* once the writer has it on disk, and only
then sent. A ``stop`` stands: each source of the run that says hello later is told of
it too, until the run's owner starts anew or the run has ended. All other commands are
for who is there.

Owns the orders in memory. The web asks, the writer commits and restores, ingest says
what stands, the page reads: each from its own thread, under one lock that is never held
while the state's is taken. What sources answered is the state's.
"""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from experiment_hooks import wire
from exporter.runs import Run, Source
from exporter.state import State
from exporter.verdict import STOP_ID, Rules, verdict

STOP = "stop"
BOUNDARIES = ("step", "episode", "now")
KEPT = 100
"""So many of a run's orders are known, the newest; and the newest stop."""
MAX_TOLD = 10_000
"""Of so many later sources it is known that a stop was said to them."""
GIVE_SECONDS = 5.0
"""For so long the disk may take."""
SETTLED = frozenset({"done", "failed"})
"""Answers after which a source is told of an order no more."""


class Order(NamedTuple):
    """A command as a person gave it: a row of the journal.

    ``at`` is Unix seconds, ``by`` who asked, as far as is known; ``source`` the one
    that it is for, None: the run. ``sources`` are those that were there and take it, 16
    bytes each. ``until`` is when it stood no longer, None while it may.
    """

    id: str
    run: str
    at: float
    name: str
    when: str
    reason: str
    by: str
    source: bytes | None
    sources: bytes
    until: float | None = None

    @property
    def command(self) -> wire.Command:
        """What the sources are told."""
        return wire.Command(self.id, self.name, self.when, self.reason, self.by)

    @property
    def addressed(self) -> list[bytes]:
        """The sources that were there, and take it."""
        return [self.sources[at : at + 16] for at in range(0, len(self.sources), 16)]

    def stands_for(self, source: bytes) -> bool:
        """Whether this source is told when it comes (back)."""
        for_it = self.source is None or self.source == source
        return self.name == STOP and self.until is None and for_it


def new(
    run: Run,
    name: str,
    *,
    when: str,
    reason: str,
    by: str,
    source: bytes | None,
    sources: Iterable[bytes],
    at: float,
) -> Order:
    """An order that a person asks for.

    The id of a stop says if the run itself is to stop: one source of many may stop, and
    the run goes on.
    """
    stops = name == STOP and source in (None, run.owner)
    id_ = (STOP_ID if stops else "") + secrets.token_hex(8)
    together = b"".join(sources)
    return Order(id_, run.id, at, name, when, reason, by, source, together)


def live(run: Run) -> list[Source]:
    """The sources of a run that can be told anything."""
    return [one for one in run.sources.values() if _is_there(one)]


def _is_there(source: Source) -> bool:
    return source.closed is None and source.lost_at is None


def taken(sources: Iterable[Source]) -> list[str]:
    """The names of the commands that any of these takes, sorted."""
    return sorted({name for one in sources for name in one.commands})


class _Asked:
    """An order that waits for the disk."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.settled = threading.Event()
        self.trouble = ""


class Orders:
    """All orders, by run.

    Args:
        state: of the runs; only read.
        rules: of the verdict.
        wake: lets the writer look up.
        send: sends a command to some sources of a run, or, for None, to all.
        clock: Unix seconds.
    """

    def __init__(
        self,
        state: State,
        rules: Rules,
        *,
        wake: Callable[[], None] = lambda: None,
        send: Callable[[str, Sequence[bytes] | None, wire.Command], None] = (
            lambda run, sources, command: None
        ),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.changes = 0
        self._state = state
        self._rules = rules
        self._wake = wake
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._given: dict[str, list[Order]] = {}
        self._told: dict[str, dict[bytes, None]] = {}  # by order: who came later
        self._over: list[tuple[float, str]] = []  # to be written: since when, which
        self._asked: deque[_Asked] = deque()
        self._waiting: dict[str, _Asked] = {}  # those that the writer has in its hand

    # --- who gives --------------------------------------------------------------------

    def give(self, order: Order, timeout: float = GIVE_SECONDS) -> str:
        """Have it put on record, and then sent; waits for that.

        Returns:
            Empty, or why it was not given.
        """
        asked = _Asked(order)
        self._asked.append(asked)
        self._wake()
        if asked.settled.wait(timeout):
            return asked.trouble
        return (
            f"the disk has not taken it within {timeout:.0f} s; it may be given yet: "
            "look at the list of commands"
        )

    # --- who reads --------------------------------------------------------------------

    def of(self, run: str) -> list[tuple[Order, list[bytes], bool]]:
        """A run's orders, oldest first: each with who was told later, and if it stands.

        Whether the run has ended meanwhile is for the reader to see.
        """
        with self._lock:
            given = [*self._given.get(run, ())]
            told = {one.id: [*self._told.get(one.id, ())] for one in given}
        newest = _newest_stop(given)
        stands = newest is not None and newest.until is None
        return [(one, told[one.id], stands and one is newest) for one in given]

    # --- the writer -------------------------------------------------------------------

    def asked(self) -> list[Order]:
        """Those that wait for the disk, taken; each is given to one of the next two."""
        found = [self._asked.popleft() for _ in range(len(self._asked))]
        self._waiting.update((one.order.id, one) for one in found)
        return [one.order for one in found]

    def kept(self, order: Order) -> None:
        """It is on disk: from now on it is given. Whoever comes is told, and who is."""
        with self._lock:
            given = self._given.setdefault(order.run, [])
            given.append(order)
            if len(given) > KEPT:
                newest = _newest_stop(given)
                self._forget(one for one in given[:-KEPT] if one is not newest)
                given[:-KEPT] = [one for one in given[:-KEPT] if one is newest]
            self.changes += 1
        everybody = order.name == STOP and order.source is None
        self._send(order.run, None if everybody else order.addressed, order.command)
        self._settle(order, "")

    def refused(
        self, orders: Iterable[Order], over: Iterable[tuple[float, str]]
    ) -> None:
        """The disk did not take these."""
        for order in orders:
            self._settle(order, "the journal cannot be written, so it was not given")
        with self._lock:
            self._over[:0] = over

    def over(self) -> list[tuple[float, str]]:
        """Which stand no longer, and since when: taken, to be committed."""
        with self._lock:
            found, self._over = self._over, []
        return found

    def restore(self, orders: Iterable[Order]) -> None:
        """What the journal has, oldest first, once the state is what it was."""
        with self._lock:
            self._given.clear()
            self._told.clear()
            for order in orders:
                run = self._state.runs.get(order.run)
                if run is None:  # damaged, once
                    continue
                known = self._given.setdefault(order.run, [])
                known.append(_of_this_attempt(order, run))
            self.changes += 1

    def forget(self, run: str) -> None:
        """The run is deleted."""
        with self._lock:
            self._forget(self._given.pop(run, ()))
            self.changes += 1

    # --- ingest -----------------------------------------------------------------------

    def standing(self, run: str, hello: wire.Hello) -> wire.Command | None:
        """What a source of this run is told right after its welcome, if anything."""
        with self._lock:
            given = self._given.get(run, ())
            order = next(
                (one for one in reversed(given) if one.stands_for(hello.source)), None
            )
        if order is None:
            return None
        now = self._clock()
        with self._state.lock:
            known = self._state.runs.get(run)
            if known is None:
                return None
            if self._is_over(known, hello, now):
                self._end(run, now)
                return None
            answer = known.commands.get(order.id, {}).get(hello.source)
        if answer is not None and answer.state in SETTLED:
            return None
        self._note(order, hello.source)
        return order.command

    def _is_over(self, run: Run, hello: wire.Hello, now: float) -> bool:
        """Whether the run has ended, or this is its owner that starts it anew."""
        if run.owner and hello.role == "owner" and hello.source != run.owner:
            return True
        # Known at once where somebody lives, the newest most of all; the verdict looks
        # at all there ever were, and thousands may come at a time.
        newest_first = reversed(run.sources.values())
        if run.closed is None and any(map(_is_there, newest_first)):
            return False
        judged = verdict(run, now, self._rules)
        if judged.state == "lost":  # who was cut off comes back; others begin anew
            return not run.owner and hello.source not in run.sources
        return judged.ended

    def _end(self, run: str, now: float) -> None:
        with self._lock:
            given = self._given.get(run, [])
            for place, one in enumerate(given):
                if one.name == STOP and one.until is None:
                    given[place] = one._replace(until=now)
                    self._over.append((now, one.id))
            self.changes += 1

    def _note(self, order: Order, source: bytes) -> None:
        with self._lock:
            told = self._told.setdefault(order.id, {})
            if source not in told and len(told) < MAX_TOLD:
                told[source] = None
                self.changes += 1

    # --- inside -----------------------------------------------------------------------

    def _settle(self, order: Order, trouble: str) -> None:
        asked = self._waiting.pop(order.id, None)
        if asked is not None:
            asked.trouble = trouble
            asked.settled.set()

    def _forget(self, orders: Iterable[Order]) -> None:
        for one in orders:
            self._told.pop(one.id, None)


def _of_this_attempt(order: Order, run: Run) -> Order:
    """The order, which stands no longer if its run was begun anew since.

    That is known from the records alone: it may not have been written in time.
    """
    owner = run.sources.get(run.owner)
    if owner is None or order.until is not None or owner.opened_at <= order.at:
        return order
    return order._replace(until=owner.opened_at)


def _newest_stop(given: Sequence[Order]) -> Order | None:
    """The newest that asks the whole run to stop."""
    stops = (one for one in reversed(given) if one.name == STOP and one.source is None)
    return next(stops, None)
