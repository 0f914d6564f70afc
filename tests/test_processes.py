"""Forks, children, and the ways in which a process ends."""

import os
import signal
import textwrap
from typing import Any, Callable, Dict, List, Tuple

import pytest

from experiment_hooks import wire
from experiment_hooks.testing import Listener, Source
from tests.support import Child, Finished, Pythons

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

START = """
import atexit, os, signal, sys, threading, time, warnings
import experiment_hooks as eh

# Python 3.12 warns of every fork of a process that has threads.
warnings.simplefilter("ignore", DeprecationWarning)

def child(work):
    "Run work in a forked child that ends as a script does; wait for it."
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
"""


@pytest.fixture
def script(run_python: Pythons, listener: Listener) -> Callable[..., Finished]:
    """Run a script against the listener, to its end."""

    def run(code: str, **options: Any) -> Finished:
        return run_python(indented(code), env=env_of(listener), **options)

    return run


@pytest.fixture
def started(run_python: Pythons, listener: Listener) -> Callable[[str], Child]:
    """Start a script against the listener."""

    def start(code: str) -> Child:
        return run_python.start(indented(code), env=env_of(listener))

    return start


def indented(code: str) -> str:
    return START + textwrap.dedent(code)


def env_of(listener: Listener) -> Dict[str, str]:
    return {"EPISIGHT_ENDPOINT": listener.endpoint}


def by_role(listener: Listener) -> Dict[str, List[Source]]:
    found: Dict[str, List[Source]] = {}
    for source in listener.sources():
        found.setdefault(source.hellos[0].role, []).append(source)
    return found


def totals(listener: Listener, name: str) -> List[float]:
    """The metric's total of each source that has it, the owner's first."""
    found = by_role(listener)
    order = [*found.get("owner", []), *found.get("child", []), *found.get("shared", [])]
    return [
        one.total
        for source in order
        for one in source.series()
        if one.spec.name == name
    ]


def endings(listener: Listener) -> List[Tuple[str, str, str]]:
    """Of each record of a run's end: how, why, and the error's type."""
    return [
        (one.ending, one.reason, one.error.type if one.error else "")
        for one in listener.records(wire.RunClosed)
    ]


# --- fork ----------------------------------------------------------------------------


def test_a_forked_child_counts_for_itself_and_not_for_its_parent(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """Metric objects may be shared over the fork."""
    script(
        """
        with eh.open_run("mug") as run:
            wins = run.counter("wins")
            sides = run.counter("sides", labels=["side"])
            left = sides.labels(side="left")
            rate = run.gauge("rate")
            seconds = run.histogram("seconds", buckets=[1, 2])
            wins.inc(100)
            left.inc(100)
            rate.set(100)
            seconds.observe(1.5)
            with run.episode() as ep:
                for _ in range(10):
                    ep.step()

            def work():
                wins.inc(1)
                left.inc(2)
                sides.labels(side="right").inc(3)
                seconds.observe(5)
                with run.episode() as ep:
                    for _ in range(7):
                        ep.step()

            child(work)
            child(work)
            wins.inc(100)
        """
    )
    roles = by_role(listener)
    assert {role: len(found) for role, found in roles.items()} == {
        "owner": 1, "child": 2,
    }  # fmt: skip
    owner = roles["owner"][0].id
    assert all(one.hellos[0].owner == owner for one in roles["child"])
    assert len({one.hellos[0].pid for one in listener.sources()}) == 3
    assert totals(listener, "wins") == [200.0, 1.0, 1.0]
    assert listener.total("sides", side="left") == 104
    assert listener.total("sides", side="right") == 6
    assert totals(listener, "steps") == [10.0, 7.0, 7.0]
    assert totals(listener, "seconds") == [1.0, 1.0, 1.0]
    rates = sorted(one.values for one in listener.series("rate"))
    assert rates == [(0.0, 0.0), (0.0, 0.0), (100.0, 1.0)], "never set in a child"
    assert sorted(one.steps for one in listener.episodes()) == [7, 7, 10]
    assert len({(one.source, one.number) for one in listener.episodes()}) == 3
    assert len(listener.records(wire.SourceClosed)) == 3
    assert endings(listener) == [("completed", "", "")], "the owner's end is the run's"


def test_a_child_that_never_uses_the_hooks_is_no_source(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        with eh.open_run("mug") as run:
            wins = run.counter("wins")
            with run.episode() as ep:
                ep.step()
                child(lambda: None)          # through atexit, in open blocks
                if os.fork() == 0:
                    os._exit(0)
                with ep.phase("inside"):
                    run._recorder.raise_flags()
                    pid = os.fork()
                    if pid == 0:
                        sys.exit(0)          # leaves the phase, the episode and the run
                    os.waitpid(pid, 0)
            wins.inc()
        """
    )
    assert len(listener.sources()) == 1
    assert endings(listener) == [("completed", "", "")]
    assert [one.steps for one in listener.episodes()] == [1]


def test_the_parent_s_open_episode_is_not_the_child_s(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        with eh.open_run("mug") as run:
            ep = run.episode()
            ep.step()

            def work():
                for _ in range(5):
                    ep.step(state={"n": 1})
                with ep.phase("a"):
                    ep.event("x")
                ep.close()
                run.publish_log("info", "from the child")

            child(work)
            ep.step()
            ep.finish("correct")
            ep.close()
        """
    )
    (episode,) = listener.episodes()
    assert (episode.steps, episode.outcome) == (2, "correct")
    assert listener.total("steps") == 2
    (line,) = listener.records(wire.LogLine)
    assert line.source == by_role(listener)["child"][0].id


def test_a_child_s_children_are_the_owner_s_too(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        with eh.open_run("mug") as run:
            wins = run.counter("wins")

            def grandchild():
                wins.inc(100)

            def used():
                wins.inc(10)
                child(grandchild)

            def unused():
                child(grandchild)

            child(used)
            child(unused)
            wins.inc()
        """
    )
    roles = by_role(listener)
    assert sorted(totals(listener, "wins")) == [1.0, 10.0, 100.0, 100.0]
    assert {one.hellos[0].owner for one in roles["child"]} == {roles["owner"][0].id}
    assert len(roles["child"]) == 3


def test_a_forked_child_may_open_the_run_itself(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """Whether or not it has used the one that it inherited."""
    script(
        """
        with eh.open_run("mug") as run:
            wins = run.counter("wins")

            def work(use):
                if use:
                    wins.inc()
                with eh.open_run("mug") as joined:
                    assert joined.id == run.id
                    joined.counter("wins").inc(10)
                assert os.environ["EPISIGHT_RUN_ID"] == run.id

            child(lambda: work(False))
            child(lambda: work(True))
        assert "EPISIGHT_RUN_ID" not in os.environ
        """
    )
    roles = by_role(listener)
    assert sorted(roles) == ["child", "owner"], "nobody made a run of its own"
    assert len({one.hellos[0].run for one in listener.sources()}) == 1
    assert listener.total("wins") == 21
    assert endings(listener) == [("completed", "", "")]


def test_a_run_closed_by_a_child_is_closed_for_that_child_only(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        run = eh.open_run("mug")
        wins = run.counter("wins")

        def work():
            run.close()
            wins.inc(1000)       # after the end: nobody counts it
            run.publish_log("info", "late")

        child(work)
        wins.inc()
        run.close()
        """
    )
    assert totals(listener, "wins") == [1.0]
    assert len(listener.sources()) == 1


def test_forks_while_other_threads_use_the_hooks_do_not_hang(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """Neither with an open run nor with metrics of one that is closed."""
    script(
        """
        run, old = eh.open_run("mug"), eh.open_run("old")
        wins, kept = run.counter("wins"), old.counter("kept")
        sides = run.counter("sides", labels=["side"])
        old.close()
        done = threading.Event()

        def hammer():
            while not done.is_set():
                wins.inc()
                kept.inc()
                sides.labels("left").inc()
                run.publish_log("info", "x")
                run.publish_metric("loss", 1)
                time.sleep(0)

        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()

        def work():
            signal.alarm(50)     # instead of hanging for ever
            wins.inc(0)
            kept.inc()
            sides.labels("left").inc(0)
            run.publish_log("info", "from a child")
            run.close(30.0)      # the machine is busy
            os._exit(0)          # a forked thread has no script to come to the end of

        def forks():
            for _ in range(10):
                child(work)

        forking = threading.Thread(target=forks)
        forking.start()
        forks()
        forking.join()
        done.set()
        for thread in threads:
            thread.join()
        run.close()
        print("fine")
        """,
        deadline=80,
    )
    lines = [one.message for one in listener.records(wire.LogLine)]
    assert lines.count("from a child") == 20


@pytest.mark.parametrize("which", ["run", "old"])
def test_a_fork_waits_for_a_lock_that_another_thread_holds(
    which: str, script: Callable[..., Finished]
) -> None:
    """Else it would be held in the child for ever; of a closed run, too."""
    script(
        f"""
        run, old = eh.open_run("mug"), eh.open_run("old")
        counters = [run.counter("wins"), old.counter("wins")]
        old.close()
        held = threading.Event()

        def hold():
            with {which}.lock:
                held.set()
                time.sleep(0.3)

        holding = threading.Thread(target=hold)
        holding.start()
        held.wait()

        def work():
            signal.alarm(10)     # instead of hanging for ever
            [wins.inc() for wins in counters]

        child(work)
        holding.join()
        run.close()
        """
    )


def test_a_fork_without_sender_threads(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        with eh.open_run("mug", thread=False) as run:
            wins = run.counter("wins")
            wins.inc()

            def work():
                with run.episode() as ep:
                    ep.step()
                wins.inc(10)

            child(work)
        """
    )
    assert sorted(totals(listener, "wins")) == [1.0, 10.0]
    assert listener.total("steps") == 1


def test_a_fork_complains_of_nothing(run_python: Pythons, listener: Listener) -> None:
    """All warnings are shown: also that a socket is not closed."""
    code = """
        with eh.open_run("mug") as run:
            wins = run.counter("wins")
            child(wins.inc)
            child(lambda: None)
        """
    env = {**env_of(listener), "PYTHONWARNINGS": "always"}
    said = run_python(indented(code), env=env).output.splitlines()
    (page,) = said
    assert page.startswith("episight: http")


# --- multiprocessing -----------------------------------------------------------------

WORKERS = """
    import multiprocessing as mp

    def work(number):
        run = eh.current_run() or eh.open_run("mug")
        with run.episode(index=number) as ep:
            for _ in range(number):
                ep.step()
        run.counter("wins").inc(number)
        return os.getpid()

    if __name__ == "__main__":
        context = mp.get_context(METHOD)
        with eh.open_run("mug") as run:
            HOW
        print("done")
"""
HOW = {
    "Process": """
            workers = [context.Process(target=work, args=(n,)) for n in (1, 2, 3)]
            [one.start() for one in workers]
            [one.join() for one in workers]
            assert {one.exitcode for one in workers} == {0}
    """,
    "Pool": """
            pool = context.Pool(2)
            pool.map(work, [1, 2, 3])
            pool.close()
            pool.join()
    """,
    "Pool(maxtasksperchild=1)": """
            pool = context.Pool(2, maxtasksperchild=1)
            pool.map(work, [1, 2, 3], chunksize=1)
            pool.close()
            pool.join()
    """,
    "daemon processes": """
            workers = [context.Process(target=work, args=(n,), daemon=True)
                       for n in (1, 2, 3)]
            [one.start() for one in workers]
            [one.join() for one in workers]
            assert {one.exitcode for one in workers} == {0}
    """,
    "executor": """
            from concurrent.futures import ProcessPoolExecutor as Executor
            with Executor(2, mp_context=context) as executor:
                list(executor.map(work, [1, 2, 3]))
    """,
}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("how", HOW)
def test_children_join_the_run_and_all_their_totals_arrive(
    how: str, method: str, script: Callable[..., Finished], listener: Listener
) -> None:
    code = WORKERS.replace("METHOD", repr(method)).replace("HOW", HOW[how].strip())
    script(code)
    roles = by_role(listener)
    assert set(roles) == {"owner", "child"}
    children = roles["child"]
    assert 1 <= len(children) <= 3
    assert {one.hellos[0].run for one in children} == {roles["owner"][0].hellos[0].run}
    assert {one.hellos[0].owner for one in children} == {roles["owner"][0].id}
    assert listener.total("wins") == 6
    assert listener.total("steps") == 6
    assert sorted(one.steps for one in listener.episodes()) == [1, 2, 3]
    assert all(one.closed is not None for one in listener.sources())
    names = {one.records[1].name for one in children}  # type: ignore[union-attr]
    assert "MainProcess" not in names
    assert endings(listener) == [("completed", "", "")]


def test_a_program_that_is_started_joins_the_run(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        import subprocess
        code = "import experiment_hooks as eh\\n" \\
            "with eh.open_run('other') as run: run.counter('wins').inc(5)"
        with eh.open_run("mug") as run:
            subprocess.run([sys.executable, "-c", code], check=True)
        subprocess.run([sys.executable, "-c", code], check=True)
        """
    )
    roles = by_role(listener)
    assert len(roles["child"]) == 1
    assert len(roles["owner"]) == 2, "after the run's end it is one of its own"
    assert roles["child"][0].hellos[0].run == roles["owner"][0].hellos[0].run
    assert listener.total("wins") == 10


# --- how a process ends --------------------------------------------------------------

ENDS: Dict[str, Tuple[str, int, Tuple[str, str, str]]] = {
    "it comes to its end": ("", 0, ("completed", "", "")),
    "sys.exit()": ("sys.exit()", 0, ("completed", "", "")),
    "an exception": ("raise ValueError('no mug')", 1, ("failed", "", "ValueError")),
    "Ctrl-C": (
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(20)",
        -2,
        ("stopped", "user", ""),
    ),
    "a stop": ("raise eh.RunStopped('late')", 1, ("stopped", "user", "")),
    "an exception in a thread": (
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
        0,
        ("completed", "", ""),
    ),
    "an exception that was handled": (
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass",
        0,
        ("completed", "", ""),
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_without_a_block_the_process_s_end_is_the_run_s(
    end: str, script: Callable[..., Finished], listener: Listener
) -> None:
    code, status, ending = ENDS[end]
    script(
        "run = eh.open_run('mug')\nrun.counter('wins').inc()\n"
        f"ep = run.episode()\nep.step()\n{code}\n",
        status=status,
    )
    assert endings(listener) == [ending]
    (episode,) = listener.episodes()
    open_at_the_end = {"completed": "ended", "failed": "error", "stopped": "stopped"}
    assert episode.outcome == open_at_the_end[ending[0]]
    (source,) = listener.sources()
    assert source.closed is not None
    assert source.closed.ending == ending[0]
    assert (listener.total("wins"), listener.total("steps")) == (1, 1)


def test_without_a_block_an_exit_with_a_status_is_taken_for_a_good_one(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """The interpreter tells nobody of it. With a block it is known: see below."""
    script("run = eh.open_run('mug')\nsys.exit(3)", status=3)
    assert endings(listener) == [("completed", "", "")]


IN_BLOCK: Dict[str, Tuple[str, int, Tuple[str, str, str]]] = {
    "its end": ("pass", 0, ("completed", "", "")),
    "sys.exit(3)": ("sys.exit(3)", 3, ("failed", "", "SystemExit")),
    "an exception": ("raise ValueError('no mug')", 1, ("failed", "", "ValueError")),
    "Ctrl-C": (
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(20)",
        -2,
        ("stopped", "user", ""),
    ),
}


@pytest.mark.parametrize("end", IN_BLOCK)
def test_a_block_s_end_is_the_run_s(
    end: str, script: Callable[..., Finished], listener: Listener
) -> None:
    code, status, ending = IN_BLOCK[end]
    script(f"with eh.open_run('mug') as run:\n    {code}", status=status)
    assert endings(listener) == [ending]


def test_the_error_says_where_it_came_from(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        run = eh.open_run("mug")
        def fall():
            raise ValueError("no mug")
        fall()
        """,
        status=1,
    )
    (closed,) = listener.records(wire.RunClosed)
    assert closed.error.message == "no mug"
    assert "in fall" in closed.error.traceback


KILLS: Dict[str, str] = {
    "os._exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)",
    "a crash": "os.abort()",
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_process_that_is_killed_leaves_its_run_open(
    kill: str, script: Callable[..., Finished], listener: Listener
) -> None:
    """The exporter will find it lost; nobody says anything that is not so."""
    script(
        f"""
        run = eh.open_run("mug")
        ep = run.episode()
        ep.step()
        line = run._line
        while not line.idle:
            time.sleep(0.01)
        {KILLS[kill]}
        """,
        status=None,
    )
    (source,) = listener.sources()
    assert source.closed is None
    assert listener.records(wire.RunClosed) == []
    assert len(listener.records(wire.EpisodeStarted)) == 1
    assert listener.episodes() == []


def test_a_run_that_ends_at_exit_does_so_after_the_user_s_own_exit_calls(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """Those registered later come first, so that they can still tell something."""
    script(
        """
        run = eh.open_run("mug")
        atexit.register(run.publish_log, "info", "at exit")
        """
    )
    assert [one.message for one in listener.records(wire.LogLine)] == ["at exit"]


def test_an_interrupted_process_leaves_in_bounded_time(
    started: Callable[[str], Child], listener: Listener
) -> None:
    child = started(
        """
        with eh.open_run("mug") as run, run.episode() as ep:
            while True:
                ep.step()
        """
    )
    listener.wait_for(listener.sample, what="its first sample")
    child.signal(signal.SIGINT)
    assert child.wait(20) != 0
    assert endings(listener) == [("stopped", "user", "")]
    (episode,) = listener.episodes()
    assert episode.outcome == "stopped"
    assert listener.total("steps") == episode.steps


def test_importing_the_hooks_installs_nothing(script: Callable[..., Finished]) -> None:
    """Handlers for fork and exit come with the first run."""
    script(
        """
        from experiment_hooks import process
        assert not process._installed
        assert threading.active_count() == 1
        assert "EPISIGHT_RUN_ID" not in os.environ
        """
    )


def test_excepthook_is_nobody_s_but_the_user_s(
    script: Callable[..., Finished], listener: Listener
) -> None:
    found = script(
        """
        sys.excepthook = lambda *error: print("mine")
        before = sys.excepthook
        run = eh.open_run("mug")
        assert sys.excepthook is before
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        raise ValueError
        """,
        status=1,
    )
    assert "mine" in found.output.splitlines(), "in any order with the run's page"
    assert "Traceback" not in found.output
    assert endings(listener) == [("failed", "", "ValueError")]


FORKED_WHILE_SOMETHING_IS_SAID = """
    import io, os, sys, threading, time

    writing = threading.Event()

    class Slow(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if b"/runs/" in bytes(data):
                writing.set()
                time.sleep(0.5)
            return len(data)

    sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow()), line_buffering=True)
    if sys.argv[1] == "log":
        import logging
        logging.basicConfig(level=logging.INFO)

    import experiment_hooks as eh

    with eh.open_run("forks") as run:
        assert writing.wait(20)
        child = os.fork()
        if child == 0:
            sys.stderr.flush()  # as multiprocessing does
            os._exit(0)
        end = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, 9)
                print("HANGS", flush=True)
            time.sleep(0.01)
    print("ENDED", flush=True)
"""


@pytest.mark.parametrize("how", ["stderr", "log"])
def test_a_child_forked_while_the_page_is_told_ends(
    how: str, listener: Listener, run_python: Pythons
) -> None:
    env = {"EPISIGHT_ENDPOINT": listener.endpoint, "PYTHONWARNINGS": "ignore"}
    said = run_python(FORKED_WHILE_SOMETHING_IS_SAID, how, env=env)
    assert said.output.split() == ["ENDED"]
