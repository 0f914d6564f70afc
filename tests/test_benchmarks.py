"""Each benchmark still runs, on a tiny size. What it measures so says nothing."""

import importlib.util
import re

import pytest

from benchmarks.__main__ import OF_THE_EXPORTER, OF_THE_HOOKS
from tests.support import THIS, Pythons

MAIN = "from benchmarks.__main__ import main; import sys; main(sys.argv[1:])"


@pytest.mark.parametrize("name", [*OF_THE_HOOKS, *OF_THE_EXPORTER])
def test_it_runs_and_fills_its_tables(name: str, run_python: Pythons) -> None:
    if name in OF_THE_EXPORTER and THIS != "3.11":
        pytest.skip("run once, on 3.11")
    if name == "loop" and importlib.util.find_spec("gymnasium") is None:
        pytest.skip("gymnasium is not installed")
    said = run_python(MAIN, name, "--tiny", deadline=85.0).output
    tables = re.findall(r"(?:^\|.*\n)+", said, re.MULTILINE)
    assert tables, said
    for table in tables:
        lines = table.splitlines()
        assert len(lines) > 2, table
        assert len({line.count("|") for line in lines}) == 1, table


def test_a_name_that_is_none_is_told_with_those_that_are(run_python: Pythons) -> None:
    said = run_python(MAIN, "hook", status=2).output
    assert "no benchmark of this Python: hook" in said
    assert "what a hook call costs the experiment" in said
