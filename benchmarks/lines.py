"""What a call costs: many of them in a loop, the empty loop taken off."""

import statistics
import time
from typing import Any, Callable, Dict, List, NamedTuple

STATE = {
    "step": 17, "object": "mug", "position": [0.125, -0.5, 1.75], "reward": 0.25,
    "done": False, "mode": "explore", "distance": 0.015625, "evidence": 12.5,
    "action": "rotate", "temperature": 300.5,
}  # fmt: skip
"""Ten fields, as an experiment would show of a step."""

Loop = Callable[[int], None]


class Line(NamedTuple):
    """One thing to measure: a function that does it so many times in a round."""

    name: str
    loop: Loop
    calls: int


def looped(body: str, **names: Any) -> Loop:
    """A function that does ``body`` so many times, without a call of ours around it."""
    lines = "\n        ".join(body.splitlines())
    given = ", ".join(names)
    code = f"def make({given}):\n def loop(n):\n    for _ in range(n):\n        {lines}"
    space: Dict[str, Any] = {}
    exec(f"{code}\n return loop", space)
    found: Loop = space["make"](**names)
    return found


def measure(lines: List[Line], rounds: int) -> Dict[str, float]:
    """The median nanoseconds of one call of each.

    They alternate within a round, so that a busy moment of the machine falls on all.
    """
    empty = looped("pass")
    found: Dict[str, List[float]] = {line.name: [] for line in lines}
    clock = time.perf_counter
    for number in range(rounds + 1):
        for line in lines:
            start = clock()
            empty(line.calls)
            middle = clock()
            line.loop(line.calls)
            end = clock()
            if number:  # the first warms up
                spent = (end - middle) - (middle - start)
                found[line.name].append(spent / line.calls * 1e9)
    return {name: statistics.median(all_) for name, all_ in found.items()}
