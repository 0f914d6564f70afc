"""What the tests stand on: a child of theirs behaves the same for every caller."""

from pathlib import Path

import pytest

from tests.support import Exporter, Pythons, clean_environment

# What people, and CI, have set.
CALLERS = {
    "PYTHONSTARTUP": "/nowhere/startup.py",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "error",
    "EPISIGHT_ENDPOINT": "tcp://127.0.0.1:1",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
}


@pytest.fixture(autouse=True)
def caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CALLERS.items():
        monkeypatch.setenv(name, value)


def test_a_child_writes_a_line_as_one_whatever_its_caller_has_set(
    run_python: Pythons,
) -> None:
    said = run_python("import sys; print(sys.stdout.write_through, sys.warnoptions)")
    assert said.output == "False []\n"


def test_no_child_is_given_what_its_caller_has_set(
    run_python: Pythons, tmp_path: Path
) -> None:
    said = run_python("import os; print(sorted(os.environ))").output
    assert [name for name in CALLERS if repr(name) in said] == []
    exporter = Exporter(tmp_path / "exporter")
    for env in (exporter._env, clean_environment(tmp_path)):
        assert not env.keys() & CALLERS.keys()
    assert clean_environment(tmp_path, {"OTEL_X": "given"})["OTEL_X"] == "given"


def test_who_does_not_end_says_where_it_hangs(run_python: Pythons) -> None:
    with pytest.raises(AssertionError) as failure:
        run_python(
            """
            import os, threading

            def in_the_parent():
                os.waitpid(child, 0)

            def in_the_child():
                threading.Event().wait()

            child = os.fork()
            (in_the_parent if child else in_the_child)()
            """,
            deadline=2.0,
        )
    for place in ("in_the_parent", "in_the_child"):
        assert f" in {place}\n" in str(failure.value)
