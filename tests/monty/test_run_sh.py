"""A real Monty by ``run.sh``, and how the results of two of them are compared."""

import signal

import pytest

from tests.monty.running import DEADLINE, Run, rows_equal
from tests.run_sh import RunSh, is_gone, page_of
from tests.support import ROOT, eventually, require

TABLES = {"quick/train_stats.csv": 6, "quick/eval_stats.csv": 3}


@pytest.fixture
def run_monty(run_sh: RunSh) -> RunSh:
    """run.sh, where it has no environment to make; ``run_monty("--exit", "monty")``."""
    stamp = ROOT / ".venvs" / "monty" / ".monty"
    require(stamp.exists(), "no Monty of run.sh; `./run.sh --setup monty` makes it")
    return run_sh


def test_cells_that_differ_are_named() -> None:
    one = {"result": "cube", "steps": "4", "time": "0.1"}
    rows_equal([one], [{**one, "time": "0.2"}])
    with pytest.raises(AssertionError, match=r"^row 1, steps: '4' and '5'$"):
        rows_equal([one, one], [one, {**one, "steps": "5"}])
    with pytest.raises(AssertionError, match="row 0, result: 'cube' and None"):
        rows_equal([one], [{"steps": "4"}])
    with pytest.raises(AssertionError, match="1 rows, and 2"):
        rows_equal([one], [one, one])


def test_run_sh_runs_it(run_monty: RunSh) -> None:
    child = run_monty("--exit", "monty", "quick")
    assert child.wait(DEADLINE) == 0
    page = page_of(child)
    assert is_gone(page)
    data = run_monty.directory / "data"
    assert page in (data / "exporter.log").read_text()
    by_run_sh = Run(child, data / "monty")
    for table, episodes in TABLES.items():
        rows = by_run_sh.rows(table)
        assert len(rows) == episodes
        assert all(row["primary_performance"] and row["monty_steps"] for row in rows)


def test_run_sh_shows_why_monty_failed(run_monty: RunSh) -> None:
    child = run_monty("--exit", "monty", "no.such.key=1")
    assert child.wait(DEADLINE) not in (0, 2, 3, 4)
    assert is_gone(page_of(child))
    assert "Could not override 'no.such.key'" in child.output


def test_ctrl_c_ends_monty_and_the_exporter(run_monty: RunSh) -> None:
    child = run_monty("monty")
    page = page_of(child)
    said = run_monty.directory / "data" / "monty" / "output.log"
    eventually(lambda: "Episode ran" in said.read_text(), 60.0, "an episode's end")
    child.signal(signal.SIGINT)
    assert child.wait(DEADLINE) == 130
    assert is_gone(page)
    assert "Done running" not in said.read_text()
