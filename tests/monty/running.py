"""Runs a real Monty, as ``run.sh`` does, and reads the tables that it writes.

The tests themselves run on Python 3.11 with all that the others use. Monty runs in an
environment of its own (``TEST_PYTHON_MONTY``, else ``.venvs/monty``), in a process that
knows nothing of theirs.
"""

import csv
import os
import shutil
import signal
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional

from tests.support import ROOT, Child, clean_environment, require

# Without a GPU, Mesa draws with as many threads as there are cores, and what they tell
# each other takes a fifth of a run's time on the processor.
DRAWS_ALONE = {"LP_NUM_THREADS": "0"}
START = ROOT / "experiments" / "monty" / "start.sh"
DEADLINE = 240.0
"""Seconds for one run; quick takes some 20 where nothing else goes on."""

Rows = List[Dict[str, str]]


def monty_python() -> str:
    """The Python of the environment with Monty, or skip."""
    made = ROOT / ".venvs" / "monty"
    finished = (made / ".monty").exists()
    python = os.environ.get("TEST_PYTHON_MONTY") or str(made / "bin" / "python")
    require(
        finished if Path(python).parents[1] == made else Path(python).exists(),
        "there is no Monty; `./run.sh --setup monty` makes it ready",
    )
    return python


def named(name: str) -> str:
    """The override that gives a run its name."""
    return f"experiment.config.logging.run_name={name}"


class Run:
    """One real Monty, at work or ended; ``results`` is where it writes."""

    def __init__(self, child: Child, results: Path) -> None:
        self.child = child
        self.results = results

    @property
    def output(self) -> str:
        return self.child.output

    def wait(self, deadline: float = DEADLINE, status: Optional[int] = 0) -> "Run":
        """Wait for its end; fail unless it ended with ``status`` (None: any)."""
        ended = self.child.wait(deadline)
        if status is not None:
            assert ended == status, f"status {ended}, not {status}:\n{self.output}"
        return self

    def signal(self, number: signal.Signals) -> None:
        """To it and all that it started, as a terminal sends Ctrl-C."""
        os.killpg(self.child.pid, number)

    def rows(self, table: str) -> Rows:
        """What it wrote into a table: ``rows("quick/eval_stats.csv")``."""
        with (self.results / table).open(newline="") as file:
            return list(csv.DictReader(file))


class Monty:
    """Starts real Montys, each with a directory of its own below ``directory``.

    ``monty("quick", "+episight=monty", env=exporter.env)`` runs one to its end; the
    modes are those of ``experiments/monty/start.sh``, the overrides Monty's.
    """

    def __init__(
        self, python: str, directory: Path, show_log: Callable[[Path], None]
    ) -> None:
        self.python = python
        self.directory = directory
        self.runs: List[Run] = []
        self._show_log = show_log

    def start(
        self,
        mode: str,
        *overrides: str,
        env: Mapping[str, str] = {},
        pretrained: Optional[Path] = None,
    ) -> Run:
        """Start one and return at once; with what ``pretrained`` holds of another's."""
        home = self.directory / f"monty_{len(self.runs)}"
        results = home / "results"
        results.mkdir(parents=True)
        if pretrained is not None:
            shutil.copytree(str(pretrained), str(results / "pretrain"))
        child = Child(
            [str(START), self.python, str(results), mode, *overrides],
            home / "output.log",
            clean_environment(home, {**DRAWS_ALONE, **env}),
            home,
        )
        self.runs.append(Run(child, results))
        self._show_log(child.log)
        return self.runs[-1]

    def __call__(
        self,
        mode: str,
        *overrides: str,
        env: Mapping[str, str] = {},
        pretrained: Optional[Path] = None,
        deadline: float = DEADLINE,
        status: Optional[int] = 0,
    ) -> Run:
        """Run one to its end; fail unless it ended with ``status`` (None: any)."""
        run = self.start(mode, *overrides, env=env, pretrained=pretrained)
        return run.wait(deadline, status)

    def python_says(self, script: str, *arguments: str) -> str:
        """What a script printed that Monty's Python ran in an empty directory."""
        home = self.directory / f"python_{len(list(self.directory.iterdir()))}"
        home.mkdir()
        below = ("MONTY_LOGS", "MONTY_MODELS", "MONTY_DATA", "WANDB_DIR")
        env = clean_environment(home, {name: str(home) for name in below})
        command = [self.python, "-c", script, *arguments]
        child = Child(command, home / "output.log", env, home)
        return Run(child, home).wait().output

    def stop(self) -> None:
        for run in self.runs:
            run.child.stop()


# --- tables --------------------------------------------------------------------------

TIMES = {"time"}
"""Columns that no two runs have in common."""


def rows_equal(some: Rows, others: Rows) -> bool:
    """True where two tables have the same cells, but for times.

    Raises:
        AssertionError: they differ; it names each cell that does.
    """
    assert len(some) == len(others), f"{len(some)} rows, and {len(others)}"
    differing = [
        f"row {number}, {column}: {one.get(column)!r} and {other.get(column)!r}"
        for number, (one, other) in enumerate(zip(some, others))
        for column in sorted({*one, *other} - TIMES)
        if one.get(column) != other.get(column)
    ]
    assert not differing, "\n".join(differing)
    return True
