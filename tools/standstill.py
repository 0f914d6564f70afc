"""``python tools/standstill.py COMMAND...``: a command on a machine that stands still.

Runs it, and stops processes of it at random for up to ``STANDSTILL_SECONDS`` (0.6): now
all of them, now two, twice in three seconds or so. Tests that only pass on a machine
that is quick fail so within minutes, and not once a month in CI. Needs Linux; the exit
status is the command's.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LONGEST = float(os.environ.get("STANDSTILL_SECONDS", "0.6"))
SHORTEST = 0.05
BETWEEN = 0.7
"""Seconds between two standstills, on average."""


def processes(root: int) -> list[int]:
    """A process and all that descend from it and can be stopped."""
    children: dict[int, list[int]] = {}
    stoppable = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            pid = int(path.parent.name)
            children.setdefault(int(parent), []).append(pid)
            if state not in "TtZ":  # those that a test has stopped stay so
                stoppable.add(pid)
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return [pid for pid in found if pid in stoppable]


def stand_still(root: int) -> None:
    """Once, for a while."""
    picked = processes(root)
    if random.random() < 0.5:
        picked = random.sample(picked, min(2, len(picked)))
    try:
        _tell(picked, signal.SIGSTOP)
        time.sleep(random.uniform(SHORTEST, LONGEST))
    finally:
        _tell(picked, signal.SIGCONT)


def _tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> int:
    """Until the command ends."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    child = subprocess.Popen(sys.argv[1:])
    times = 0
    while child.poll() is None:
        time.sleep(random.expovariate(1 / BETWEEN))
        stand_still(child.pid)
        times += 1
    print(f"stood still {times} times")
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
