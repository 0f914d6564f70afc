"""The hooks where processes are odd: signals, event loops, the interpreter's end.

Forks, pools and daemon processes are in ``test_processes.py``, threads and odd values
in ``test_hammer.py``.
"""

import sys
import textwrap
from typing import Callable

import pytest

from experiment_hooks import wire
from experiment_hooks.testing import Listener
from tests.support import Finished, Pythons


@pytest.fixture
def script(run_python: Pythons, listener: Listener) -> Callable[..., Finished]:
    """Run a script against the listener, to its end."""

    def run(code: str, **env: str) -> Finished:
        env = {"EPISIGHT_ENDPOINT": listener.endpoint, **env}
        return run_python(textwrap.dedent(code), env=env)

    return run


# --- signals -------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_ours_takes_signals(run_python: Pythons) -> None:
    """A main thread that waits for a lock is woken only by its own."""
    ended = run_python("""
        import os, pathlib, signal, time
        import experiment_hooks as eh

        def blocked(task):
            status = (task / "status").read_text()
            mask = int(status.partition("SigBlk:")[2].split()[0], 16)
            ours = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
            return all(mask >> number - 1 & 1 for number in ours)

        with eh.open_run("quiet"):
            tasks = {t.name: t for t in pathlib.Path("/proc/self/task").iterdir()}
            main = tasks.pop(str(os.getpid()))
            assert not blocked(main)
            assert len(tasks) >= 2, tasks  # our sender, and ZeroMQ's own
            deadline = time.monotonic() + 10  # the thread's first statement
            while not all(map(blocked, tasks.values())):
                assert time.monotonic() < deadline, "a thread takes signals"
    """)
    assert ended.status == 0, ended.output


# The handler uses all that the loop uses, at any moment of it; the timer is random.
SIGNALS = """
    import faulthandler, random, signal, sys, time
    import experiment_hooks as eh

    faulthandler.dump_traceback_later(70, exit=True)  # instead of hanging for ever
    came = 0

    def handler(number, frame):
        global came
        came += 1
        own.inc()
        wins.inc()
        sides.labels(side="left").inc()
        seconds.observe(1.5)
        run.publish_metric("loss", came)
        run.publish_state({"came": came})
        run.progress()
        if came % 20 == 0:
            run.publish_log("info", "in the handler", came=came)
            with run.episode(mode="eval") as ep:
                with ep.phase("matching"):
                    ep.step(state={"came": came})
                ep.event("x")
                ep.finish(outcome="correct")
        again()

    def again():
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.001))

    run = eh.open_run("mug")
    own, wins = run.counter("own"), run.counter("wins")
    sides = run.counter("sides", labels=["side"])
    seconds = run.histogram("seconds", buckets=[1, 2])
    signal.signal(signal.SIGALRM, handler)
    again()
    done, end = 0, time.monotonic() + 3
    while time.monotonic() < end:
        done += 1
        with run.episode(mode="eval") as ep:
            for step in range(50):
                ep.step(state={"step": step}, scores={"mug": 0.5})
                wins.inc()
                sides.labels(side="left").inc()
                seconds.observe(0.5)
            with ep.phase("matching"):
                ep.event("x", n=1)
            run.publish_metric("loss", done)
            ep.finish(outcome="correct", results={"return": 1.0})
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    closing = time.monotonic()
    run.close(60.0)
    assert time.monotonic() - closing < 30, "it waits for what is not there"
    print("CAME", came, "DONE", done, "DROPPED", run.dropped)
"""


@pytest.mark.parametrize("thread", ["1", "0"])
def test_a_signal_handler_may_use_the_hooks_in_the_middle_of_any_call(
    thread: str, script: Callable[..., Finished], listener: Listener
) -> None:
    said = script(SIGNALS, EPISIGHT_THREAD=thread).output
    assert "DROPPED {}" in said
    words = said.split()
    came, done = (int(words[words.index(word) + 1]) for word in ("CAME", "DONE"))
    assert came > 100
    assert done > 10
    print(f"{came} signals in {done} episodes")
    episodes = done + came // 20
    assert len({one.number for one in listener.episodes()}) == episodes
    assert listener.total("own") == came
    steps, observed = 50 * done + came // 20, 50 * done + came
    for name, expected in {
        "steps": steps,
        "step_duration_seconds": steps,
        "phases": episodes,
        "wins": observed,
        "sides": observed,
        "seconds": observed,
    }.items():
        # Before Python 3.10 a signal comes between reading and adding, too: what the
        # handler counts is then lost to what the interrupted call had read.
        lost = expected - listener.total(name)
        assert 0 <= lost <= (0 if sys.version_info >= (3, 10) else came // 10), name
    (source,) = listener.sources()
    assert source.closed is not None
    assert sorted(source.records) == list(range(1, max(source.records) + 1))


def test_a_signal_handler_may_close_the_run_that_is_just_being_closed(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        import faulthandler, random, signal
        import experiment_hooks as eh

        faulthandler.dump_traceback_later(40, exit=True)
        run = eh.open_run("mug")
        with run._closing:  # no lock is in the way, wherever the signal comes
            run.close(1.0)
        for turn in range(150):
            run = eh.open_run("mug")
            signal.signal(signal.SIGALRM, lambda number, frame: run.close(1.0))
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.002))
            run.close(1.0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        """
    )
    assert len(listener.records(wire.RunClosed)) == 151


# --- event loops ---------------------------------------------------------------------


def test_episodes_of_many_tasks_of_one_event_loop_are_each_their_own(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        import asyncio
        import experiment_hooks as eh

        async def play(run, index):
            with run.episode(mode="eval", index=index) as ep:
                for _ in range(index):
                    with ep.phase("waiting"):
                        await asyncio.sleep(0.001)
                    ep.step()
                    await run.publish_metric("loss", index)
                if index == 5:
                    await asyncio.sleep(60)
                ep.finish(outcome="correct")

        async def main():
            with eh.open_run("mug") as run:
                tasks = [asyncio.ensure_future(play(run, n)) for n in range(20)]
                await asyncio.wait(tasks, timeout=1.0)
                tasks[5].cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                assert [one for one in found if one is not None] == [found[5]]

        asyncio.run(main())
        """
    )
    ended = {one.steps: one.outcome for one in listener.episodes()}
    assert ended == {n: "error" if n == 5 else "correct" for n in range(20)}
    assert listener.total("steps") == sum(range(20))


# --- the interpreter's end -----------------------------------------------------------


def test_hooks_that_are_called_while_the_interpreter_ends_hurt_nobody(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """By threads that are in them then, by exit calls, by what is deleted last."""
    said = script(
        """
        import atexit, threading, time

        def late():
            for call in calls:
                call()

        atexit.register(late)  # before ours: comes after it
        import experiment_hooks as eh

        run = eh.open_run("mug")
        wins = run.counter("wins")
        ep = run.episode(mode="eval")
        calls = [ep.step, wins.inc, run.progress, run.close, ep.close,
                 lambda: run.publish_log("info", "late"), run.episode,
                 lambda: run.publish_metric("late", 1), lambda: run.counter("late")]

        class Last:
            def __init__(self, calls):
                self.calls = calls
            def __del__(self):
                for call in self.calls:
                    call()

        def work():
            while True:
                with run.episode(mode="train") as own:
                    own.step(state={"x": 1})
                    wins.inc()
                    run.publish_metric("loss", 1)

        last = Last(calls)
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        end = time.monotonic() + 60
        while not run.url and time.monotonic() < end:
            time.sleep(0.01)
        """
    ).output
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    (closed,) = listener.records(wire.RunClosed)
    assert closed.ending == "completed"


# --- nobody listens ------------------------------------------------------------------

MILLION = """
    import resource, sys, time
    import experiment_hooks as eh

    def peak():
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used // 1024 if sys.platform == "darwin" else used

    def episodes(number):
        for _ in range(number):
            with run.episode(mode="train") as ep:
                for step in range(10_000):
                    ep.step(state={"step": step}, scores={"mug": 0.5})
                ep.finish(outcome="correct")

    with eh.open_run("mug") as run:
        episodes(10)
        time.sleep(1.1)  # the sender has ticked
        before = peak()
        episodes(90)
        print("GREW", peak() - before, "KiB")
"""


@pytest.mark.parametrize("thread", ["1", "0"])
def test_a_million_steps_without_an_exporter_take_no_memory(
    thread: str, run_python: Pythons
) -> None:
    nowhere = {"EPISIGHT_ENDPOINT": "tcp://127.0.0.1:1", "EPISIGHT_THREAD": thread}
    said = run_python(MILLION, env=nowhere).output
    (line,) = [one for one in said.splitlines() if one.startswith("GREW")]
    print(line)
    # A million steps kept would be at least 50 MiB.
    assert int(line.split()[1]) < 2048
