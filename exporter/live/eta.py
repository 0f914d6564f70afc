"""How far a mode is, and how long it will take: pure functions of plain values.

The rate is that of the last twenty episodes, or of the last minute where those came
faster, and of nothing older than ten minutes, unless so few have ended meanwhile.
Episodes of several processes, or of a vector of environments, may end all at once: they
are not taken for fast ones. Nobody says when a run will be done that does not go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from exporter.live.tracks import Curve, Speed
from exporter.verdict import ENDED

Json = dict[str, Any]

SETTLED = frozenset({"starting", "stalled", "stopping", *ENDED})
"""States in which nobody can say when a run will be done."""
RECENT_EPISODES, RECENT_SECONDS, OLD_SECONDS = 20, 60.0, 600.0
IDLE_GAPS, IDLE_TURNS, IDLE_SECONDS = 10.0, 2.0, 5.0
"""A mode without an end for so many of its usual gaps between episodes, and of its
longest between moments, and seconds, is not being worked on."""

FINE, COARSE = 60.0, 300.0
"""Seconds to which an end is said: of what takes less than an hour, and of the rest."""
MOST_AHEAD = 100 * 86400.0

NO_MODE: Json = {
    "steps": 0, "episodes": 0, "started": 0, "lost": 0, "successes": None,
    "outcomes": {}, "recent_ends": [], "results": {},
}  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """How far a mode is; ``total`` and ``left`` (seconds) are None where not known.

    ``ends`` is when it will be done, Unix seconds; None too where that is soon.
    """

    unit: str
    done: int
    total: int | None
    left: float | None = None
    ends: float | None = None

    @property
    def shown(self) -> int:
        """What the bar shows: more than all is all."""
        return min(self.done, self.total or 0)


@dataclass(frozen=True)
class Pace:
    """How episodes come: seconds for each, and between the moments when some end."""

    gap: float
    turn: float
    longest: float


def progress(run: Json, name: str, speed: Speed, now: float) -> Progress:
    """How far a mode is: in episodes, else steps, else epochs, as the run expects."""
    mode = run["modes"].get(name) or NO_MODE
    episodes, steps, epochs = (
        run["expected"][kind].get(name) for kind in ("episodes", "steps", "epochs")
    )
    if episodes is not None:
        left = _time_left(run, mode, episodes, speed.ended, now)
        return Progress("episode", mode["episodes"], episodes, left, _end(left, now))
    if steps is not None:
        sure = speed.steady and run["state"] not in SETTLED
        left = max(0, steps - mode["steps"]) / speed.steady if sure else None
        return Progress("step", mode["steps"], steps, left, _end(left, now))
    if epochs is not None:
        return Progress("epoch", run["epochs"].get(name, 0), epochs)
    unit = "episode" if mode["episodes"] or mode["started"] else "step"
    return Progress(unit, mode[f"{unit}s"], None)


def _end(left: float | None, now: float) -> float | None:
    """When it will be done, as exactly as that can be said."""
    if left is None or not FINE <= left <= MOST_AHEAD:
        return None
    exact = FINE if left < 3600.0 else COARSE
    return exact * round((now + left) / exact)


def _time_left(
    run: Json, mode: Json, total: int, counted: Curve, now: float
) -> float | None:
    if run["state"] in SETTLED or not mode["episodes"] < total:
        return None
    left = episodes_left(mode, total, counted, now)
    # Of many at once there may be no two moments yet.
    at_once = open_now(mode) > 1 and pace(mode, counted, now) is None
    if mode["episodes"] and (_takes_turns(run) or at_once) and run["attempts"] < 2:
        return max(left or 0.0, _at_its_usual_pace(run, mode, total, now))
    return left


def episodes_left(mode: Json, total: int, counted: Curve, now: float) -> float | None:
    """Seconds until a mode's last episode, at the rate of its newest ends.

    None where there are too few of them, or where none has come for long: then another
    mode has its turn, or something is slower than it was.

    Args:
        mode: as ``views.modes`` says it.
        total: how many episodes it will be.
        counted: how many had ended at times of the last ten minutes.
        now: Unix seconds.
    """
    found = pace(mode, counted, now)
    if found is None or mode["episodes"] >= total:
        return None
    waited: float = max(0.0, now - mode["recent_ends"][-1])
    idle = IDLE_GAPS * found.gap + IDLE_TURNS * found.longest + IDLE_SECONDS
    if waited > idle:
        return None
    left: float = (total - mode["episodes"]) * found.gap
    return max(0.0, left - min(waited, found.turn))


def pace(mode: Json, counted: Curve, now: float) -> Pace | None:
    """How a mode's episodes come; None where that cannot be said (yet)."""
    rises = _rises(counted)
    window = _fast(rises)
    if window is not None:
        (first, before), (last, number) = window[0], window[-1]
        turns = [later - at for (at, _), (later, _) in pairwise(window)]
        span = last - first
        return Pace(span / (number - before), span / len(turns), max(turns))
    known = mode["recent_ends"]
    if len(rises) > 1 and rises[-1][1] - rises[-2][1] >= len(known):
        return None  # they may all be of one moment
    ends = [end for end in known if now - end <= OLD_SECONDS]
    return _slow(ends if len(ends) > 1 else known, open_now(mode))


def open_now(mode: Json) -> int:
    """How many of a mode's episodes are open."""
    return max(1, int(mode["started"] - mode["episodes"] - mode["lost"]))


_Moments = Sequence[tuple[float, float]]
"""Times at which episodes ended, and how many had then."""


def _rises(counted: Curve) -> _Moments:
    """The points at which more had ended than at the one before."""
    found, before = [], float("inf")
    for at, number in zip(counted.times, counted.values, strict=True):
        if number > before:
            found.append((at, number))
        before = number if number == number else before
    return found


def _fast(rises: _Moments) -> _Moments | None:
    """Those of the last twenty episodes and the last minute; None if so few came."""
    if len(rises) < 3:
        return None
    last, number = rises[-1]
    for first in range(len(rises) - 2, -1, -1):
        at, before = rises[first]
        if number - before >= RECENT_EPISODES and last - at >= RECENT_SECONDS:
            return rises[first:]
    return rises if number - rises[0][1] >= RECENT_EPISODES else None


def _slow(ends: Sequence[float], at_once: int) -> Pace | None:
    """The pace of single ends: as many are counted as so many at once have by turns.

    So it does not matter whether those end together, or one after the other.
    """
    number = (len(ends) - 1) // at_once * at_once
    if number < 1 or ends[-1] <= ends[-1 - number]:
        return None
    counted = ends[-1 - number :]
    gap = (counted[-1] - counted[0]) / number
    turns = [later - end for end, later in pairwise(counted)]
    return Pace(gap, gap * at_once, max(turns))


def _takes_turns(run: Json) -> bool:
    """Whether several modes have their turns, as far as is known."""
    return sum(bool(mode["episodes"]) for mode in run["modes"].values()) > 1


def _at_its_usual_pace(run: Json, mode: Json, total: int, now: float) -> float:
    """Seconds until a mode's last episode if it gets on as it did so far."""
    usual: float = (now - run["started"]) / mode["episodes"]
    left: int = total - mode["episodes"]
    return left * usual
