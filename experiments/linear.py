"""Linear learning in NumPy: tile coding, action values, a memory of transitions.

Pure arrays; knows nothing of environments or hooks.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Tiles:
    """Tile coding (Sutton and Barto, 2nd edition, 9.5.4).

    Each of the tilings cuts the state space into boxes and is shifted against the
    others, by odd multiples of a fraction of a tile so that they lie evenly.

    Attributes:
        tilings: how many there are, so many tiles are active in each state.
        size: tiles in all.
    """

    def __init__(
        self,
        spans: Sequence[float],
        circles: int = 0,
        tilings: int = 32,
        tiles: int = 6,
    ) -> None:
        """Cut the space from ``-span`` to ``span`` in each dimension.

        Args:
            spans: one for each dimension; what lies outside counts as the edge.
            circles: so many first dimensions are angles: their ends meet.
            tilings: best a power of 2, and at least 4 times the dimensions.
            tiles: in each dimension of a tiling.
        """
        axes = np.arange(len(spans))
        self.tilings = tilings
        self._spans = np.array(spans)
        self._tiles = tiles
        self._shifts = np.outer(np.arange(tilings), 2 * axes + 1) / tilings % 1
        # A shifted tiling needs a tile more to cover the span, unless it is a circle.
        counts = np.where(axes < circles, tiles, tiles + 1)
        self._counts = counts
        self._strides = np.concatenate(([1], np.cumprod(counts)[:-1]))
        self._firsts = np.arange(tilings) * int(np.prod(counts))
        self.size = tilings * int(np.prod(counts))

    def __call__(self, state: Floats) -> Ints:
        """The active tiles of a state, shape (tilings,); of (n, d), (n, tilings)."""
        part = np.clip(state / self._spans, -1.0, 1.0) * 0.5 + 0.5
        boxes = (part[..., None, :] * self._tiles + self._shifts).astype(np.int64)
        found: Ints = self._firsts + boxes % self._counts @ self._strides
        return found


class Values:
    """Action values: for each action, the sum of the active tiles' weights.

    All are 0 at first. ``take`` is several times faster than an index in brackets.
    """

    def __init__(self, tiles: Tiles, actions: int) -> None:
        self._weights = np.zeros((actions, tiles.size))
        self._tilings = tiles.tilings

    def __call__(self, active: Ints) -> Floats:
        """Of states with these active tiles, shape (..., tilings): (actions, ...)."""
        found: Floats = self._weights.take(active, axis=1).sum(axis=-1)
        return found

    def learn(
        self, active: Ints, actions: Ints, targets: Floats, alpha: float
    ) -> Floats:
        """A step of each value towards its target; return how far they were, (n,).

        Args:
            active: tiles, shape (n, tilings).
            actions: one each, shape (n,).
            targets: one each, shape (n,).
            alpha: step size, over all tilings.
        """
        weights = self._weights.reshape(-1)  # a view, of one action after the other
        places = active + actions[:, None] * self._weights.shape[1]
        errors: Floats = targets - weights.take(places).sum(axis=1)
        weights[places] += alpha / self._tilings * errors[:, None]
        return errors


class Memory:
    """The newest transitions: active tiles, action, active tiles after it, the end."""

    def __init__(self, capacity: int, tilings: int) -> None:
        self._now = np.zeros((capacity, tilings), np.int64)
        self._then = np.zeros((capacity, tilings), np.int64)
        self._action = np.zeros(capacity, np.int64)
        self._end = np.zeros(capacity, np.bool_)
        self._added = 0

    def add(self, now: Ints, action: int, then: Ints, end: bool) -> None:
        """Remember one; the oldest is forgotten when the memory is full."""
        place = self._added % len(self._action)
        self._now[place], self._then[place] = now, then
        self._action[place], self._end[place] = action, end
        self._added += 1

    def sample(
        self, rng: np.random.Generator, count: int
    ) -> tuple[Ints, Ints, Ints, Bools]:
        """Draw ``count`` with repetition: now, action, then, end; the first axis."""
        drawn = rng.integers(min(self._added, len(self._action)), size=count)
        return (
            self._now.take(drawn, axis=0),
            self._action.take(drawn),
            self._then.take(drawn, axis=0),
            self._end.take(drawn),
        )
