"""``EPISIGHT_SIGTERM=1``: SIGTERM interrupts, and the process still dies of it."""

import os
import sys
import textwrap
from typing import Callable, List, Tuple

import pytest

from experiment_hooks import wire
from experiment_hooks.testing import Listener
from tests.support import Finished, Pythons

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

DEAD_OF_IT = -15

START = """
import atexit, logging, math, os, signal, sys, threading, time, warnings
import experiment_hooks as eh

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
logging.basicConfig(format="%(message)s")
DEFAULT = signal.SIG_DFL

def handler():
    return signal.getsignal(signal.SIGTERM)

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)

def blocked():
    return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""


@pytest.fixture
def script(run_python: Pythons, listener: Listener) -> Callable[..., Finished]:
    """Run a script, with the variable set unless it is told otherwise, to its end."""

    def run(code: str, sigterm: str = "1", status: int = DEAD_OF_IT) -> Finished:
        env = {"EPISIGHT_ENDPOINT": listener.endpoint, "EPISIGHT_SIGTERM": sigterm}
        return run_python(START + textwrap.dedent(code), env=env, status=status)

    return run


def endings(listener: Listener) -> List[Tuple[str, str]]:
    return [(one.ending, one.reason) for one in listener.records(wire.RunClosed)]


def test_the_run_is_stopped_by_a_signal_and_all_that_is_open_comes_to_its_end(
    script: Callable[..., Finished], listener: Listener
) -> None:
    found = script(
        """
        atexit.register(print, "AT EXIT")
        try:
            with eh.open_run("mug") as run, run.episode() as ep:
                ep.step()
                terminate()
        finally:
            print("FINALLY")  # waits in a buffer: it is not on a terminal
        """
    )
    assert endings(listener) == [("stopped", "signal")]
    (episode,) = listener.episodes()
    assert (episode.outcome, episode.steps) == ("stopped", 1)
    assert {"FINALLY", "AT EXIT"} <= set(found.output.splitlines())
    assert found.output.rstrip().endswith("Terminated: SIGTERM\nAT EXIT")


def test_without_a_block_the_run_is_stopped_too(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script("run = eh.open_run('mug')\nterminate()")
    assert endings(listener) == [("stopped", "signal")]


def test_who_takes_it_for_ctrl_c_decides_how_the_process_ends(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        try:
            with eh.open_run("mug"):
                terminate()
        except KeyboardInterrupt:
            print("saved")
        """,
        status=0,
    )
    assert endings(listener) == [("stopped", "signal")]


def test_a_signal_that_comes_twice_at_once_interrupts_once(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """As ``timeout`` sends it: to the process, and to its group."""
    found = script(
        """
        with eh.open_run("mug"):
            try:
                terminate()
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                print("TO ITS END")
        """
    )
    assert "TO ITS END" in found.output
    assert endings(listener) == [("stopped", "signal")]


UNTOUCHED = {
    "the variable is not set": ("", "", ""),
    "the hooks are disabled": ("os.environ['EPISIGHT_DISABLED'] = '1'", "1", ""),
    "it has another handler": (
        "signal.signal(signal.SIGTERM, lambda number, frame: None)",
        "1",
        "SIGTERM has another handler",
    ),
    "it is ignored": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "1",
        "SIGTERM has another handler",
    ),
}


@pytest.mark.parametrize("why", UNTOUCHED)
def test_the_signal_is_left_alone_where(
    why: str, script: Callable[..., Finished]
) -> None:
    first, sigterm, said = UNTOUCHED[why]
    found = script(
        f"""
        {first}
        before = handler()
        with eh.open_run("mug"):
            assert handler() is before
        assert handler() is before
        """,
        sigterm=sigterm,
        status=0,
    )
    assert ("EPISIGHT_SIGTERM=1 has no effect: " in found.output) == bool(said)
    assert said in found.output


def test_a_run_that_another_thread_opens_leaves_it_alone_and_says_so(
    script: Callable[..., Finished],
) -> None:
    found = script(
        """
        def work():
            with eh.open_run("mug"):
                assert handler() == DEFAULT

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
        status=0,
    )
    assert "not opened by the main thread" in found.output
    assert "Traceback" not in found.output


def test_the_default_is_back_when_the_last_run_has_closed(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        first, second = eh.open_run("first"), eh.open_run("second")
        assert handler() != DEFAULT
        first.close()
        assert handler() != DEFAULT
        second.close()
        assert handler() == DEFAULT
        with eh.open_run("third"):
            assert handler() != DEFAULT
        try:
            terminate()
        finally:
            print("NEVER")
        """
    )
    assert endings(listener) == [("completed", "")] * 3


def test_a_last_run_that_another_thread_closed_leaves_a_process_that_dies_of_it(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        run = eh.open_run("mug")
        thread = threading.Thread(target=run.close)
        thread.start()
        thread.join()
        try:
            terminate()
        finally:
            print("NEVER")
        """
    )
    assert endings(listener) == [("completed", "")]


def test_a_handler_that_the_user_has_put_there_meanwhile_stays(
    script: Callable[..., Finished],
) -> None:
    script(
        """
        def mine(number, frame):
            pass

        with eh.open_run("mug"):
            signal.signal(signal.SIGTERM, mine)
        assert handler() is mine
        """,
        status=0,
    )


CHILDREN = {
    "fork": """
        pid = os.fork()
        if pid == 0:
            run.progress()
            terminate()
        child = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(child) and os.WTERMSIG(child) == signal.SIGTERM
    """,
    "a worker that opens the run": """
        import multiprocessing

        def work():
            with eh.open_run("mug"):
                sys.exit(handler() != DEFAULT)

        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start()
        worker.join()
        assert worker.exitcode == 0
    """,
    "a pool": """
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(math.sqrt, range(4))  # its end is SIGTERM for its workers
    """,
}


@pytest.mark.parametrize("how", CHILDREN)
def test_a_child_has_the_default(
    how: str, script: Callable[..., Finished], listener: Listener
) -> None:
    found = script(f"with eh.open_run('mug') as run:{CHILDREN[how]}", status=0)
    assert "Terminated" not in found.output
    assert endings(listener) == [("completed", "")]


@pytest.mark.parametrize("in_main", [True, False])
def test_a_child_dies_of_a_signal_that_comes_while_it_is_made(
    in_main: bool, script: Callable[..., Finished], listener: Listener
) -> None:
    """A pool may end its workers as soon as it has made them."""
    script(
        f"""
        def at_once():
            os.kill(os.getpid(), signal.SIGTERM)

        def fork():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            children.append(pid)

        children = []
        os.register_at_fork(after_in_child=at_once)
        with eh.open_run("mug"):
            if {in_main}:
                fork()
            else:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join()
            assert os.waitpid(children[0], 0)[1] == signal.SIGTERM
        """,
        status=0,
    )
    assert endings(listener) == [("completed", "")]


@pytest.mark.parametrize("when", ["before", "after_in_parent"])
def test_a_signal_in_the_middle_of_a_fork_interrupts_once_it_is_over(
    when: str, script: Callable[..., Finished], listener: Listener
) -> None:
    found = script(
        f"""
        def at_once():
            os.kill(os.getpid(), signal.SIGTERM)

        os.register_at_fork({when}=at_once)
        with eh.open_run("mug"):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            try:
                time.sleep(20)
            finally:
                assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert found.output.count("Terminated: SIGTERM") == 1
    assert endings(listener) == [("stopped", "signal")]


def test_a_mask_of_the_user_s_is_left_as_it_is(script: Callable[..., Finished]) -> None:
    script(
        """
        with eh.open_run("mug"):
            for blocked in (set(), {signal.SIGTERM, signal.SIGUSR1}):
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                pid = os.fork()
                now = signal.pthread_sigmask(signal.SIG_BLOCK, ())
                if pid == 0:
                    os._exit(now != blocked)
                assert os.waitpid(pid, 0)[1] == 0
                assert now == blocked
        """,
        status=0,
    )


def test_a_second_one_in_the_middle_of_a_fork_is_the_first_one_again(
    script: Callable[..., Finished], listener: Listener
) -> None:
    """It may come while the first is put off, by a thread that is being started."""
    script(
        """
        put_off = []

        class Timer(threading.Timer):
            def start(self):
                put_off.append(self)
                os.kill(os.getpid(), signal.SIGTERM)
                super().start()

        threading.Timer = Timer
        os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))
        with eh.open_run("mug"):
            if os.fork() == 0:
                os._exit(0)
            try:
                time.sleep(20)
            finally:
                assert len(put_off) < 5, "and not again and again"
        """
    )
    assert endings(listener) == [("stopped", "signal")]


def test_a_fork_in_the_middle_of_a_fork_leaves_nothing_blocked(
    script: Callable[..., Finished],
) -> None:
    script(
        """
        forked = []

        def another():
            if not forked:
                forked.append(0)
                forked[0] = os.fork()
                if forked[0] == 0:
                    os._exit(0)

        os.register_at_fork(before=another)
        with eh.open_run("mug"):
            pid = os.fork()
            if pid == 0:
                os._exit(blocked())
            assert [os.waitpid(one, 0)[1] for one in (pid, *forked)] == [0, 0]
            assert not blocked()
        """,
        status=0,
    )


@pytest.mark.parametrize("in_child", [True, False])
def test_ctrl_c_in_the_middle_of_a_fork_leaves_nothing_blocked(
    in_child: bool, script: Callable[..., Finished]
) -> None:
    found = script(
        f"""
        parent = os.getpid()

        def interrupt(frame, event, arg):
            if frame.f_code.co_name == "_unblock" and event == "call":
                if (os.getpid() != parent) == {in_child}:
                    sys.setprofile(None)
                    os.kill(os.getpid(), signal.SIGINT)

        with eh.open_run("mug"):
            sys.setprofile(interrupt)
            pid = os.fork()
            if pid == 0:
                os._exit(blocked() or handler() != DEFAULT)
            assert os.waitpid(pid, 0)[1] == 0
            assert not blocked()
        """,
        status=0,
    )
    assert "KeyboardInterrupt" in found.output, "Python told of it, and dropped it"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older ones do not warn")
def test_a_signal_while_a_fork_is_warned_of_interrupts_once_it_is_over(
    script: Callable[..., Finished], listener: Listener
) -> None:
    script(
        """
        def show(*args, **keywords):
            os.kill(os.getpid(), signal.SIGTERM)

        warnings.simplefilter("always")
        warnings.showwarning = show
        with eh.open_run("mug"):
            if os.fork() == 0:
                os._exit(0)
            time.sleep(20)
        """
    )
    assert endings(listener) == [("stopped", "signal")]
