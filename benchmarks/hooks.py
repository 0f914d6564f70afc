"""What a hook call costs the experiment: ``python -m benchmarks hooks``.

Run by hand, from the checkout, on each Python: the hooks support 3.8, so does this.

Rules of this measurement:

- Nanoseconds a call on the experiment's own thread: the median over rounds, each of
  many calls; the empty loop's cost is taken off. What is measured alternates within a
  round, so that a busy moment of the machine falls on all of it.
- An exporter is there (``experiment_hooks.testing.Listener``, in a process of its own)
  unless a line says that there is none; ``watched`` is one with a person at the page.
- Peers are measured in the same rounds (:mod:`benchmarks.peers`), as far as they are
  installed: ``pip install -e ".[benchmarks]"``. Their ratio is to our step with a state
  and 20 scores: it counts, fills the duration's histogram, and keeps the newest state.
- ``hello to close`` is a process of its own: from ``open_run`` to the end of ``close``,
  imports not counted.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import experiment_hooks as eh
from benchmarks.lines import STATE, Line, looped, measure
from benchmarks.peers import peer_lines
from benchmarks.table import machine, say, table

SCORES_20 = {f"hypothesis_{n}": n / 20 for n in range(20)}
SCORES_77 = {f"hypothesis_{n}": n / 77 for n in range(77)}
GOALS = {
    "step": (500, 1000),
    "step, state and 20 scores": (500, 1000),
    "a taken step (77 scores)": (100_000, 100_000),
    "counter.inc": (500, 800),
    "gauge.set": (500, 800),
    "histogram.observe": (500, 800),
    "bound child.inc": (500, 800),
    "disabled: step": (100, 100),
    "disabled: counter.inc": (100, 100),
    "disabled: publish_metric": (100, 100),
}
"""Nanoseconds on Python 3.11 and later, and on 3.8."""

# --- what is measured ----------------------------------------------------------------


def our_lines(watching: str) -> Iterator[Line]:
    """The hooks; ``watching`` is the endpoint of an exporter that watches all runs."""
    alone = opened("alone", "tcp://127.0.0.1:9")
    run, taken = opened("benchmark"), opened("taken")
    step = run.episode().step
    yield Line("step", looped("step()", step=step), 20_000)
    both = looped("step(state, scores)", step=step, state=STATE, scores=SCORES_20)
    yield Line("step, state and 20 scores", both, 20_000)
    unheard = alone.episode().step
    yield Line("step, no exporter", looped("step()", step=unheard), 20_000)
    seen = opened("seen", watching).episode().step
    given = {"step": seen, "state": STATE, "scores": SCORES_20}
    yield Line("the same, watched", looped("step(state, scores)", **given), 20_000)
    for name, endpoint in (("", None), (", no exporter", "tcp://127.0.0.1:9")):
        inline = opened(f"inline{name[5:]}", endpoint, thread=False).episode().step
        yield Line(f"step, thread off{name}", looped("step()", step=inline), 5000)
    # What it costs to ask for it is in here too: a fraction of a microsecond.
    flags, looked = taken._recorder.raise_flags, taken.episode().step
    names = {"flags": flags, "step": looked, "state": STATE, "scores": SCORES_77}
    asked = looped("flags(); step(state, scores)", **names)
    yield Line("a taken step (77 scores)", asked, 300)
    wins, rate = run.counter("wins").inc, run.gauge("rate").set
    yield Line("counter.inc", looped("inc()", inc=wins), 20_000)
    yield Line("gauge.set", looped("set(0.5)", set=rate), 20_000)
    observe = run.histogram("seconds").observe
    yield Line("histogram.observe", looped("observe(0.5)", observe=observe), 20_000)
    sides = run.counter("sides", labels=["side"])
    bound = sides.labels(side="left").inc
    yield Line("bound child.inc", looped("inc()", inc=bound), 20_000)
    yield Line("labels(...).inc", looped("m.labels('left').inc()", m=sides), 5000)
    publish = run.publish_metric
    loss = looped("publish('loss', 0.5, epoch=1)", publish=publish)
    yield Line("publish_metric", loss, 2000)
    labelled = looped("publish('loss', 0.5, phase='val')", publish=publish)
    yield Line("publish_metric, a label", labelled, 2000)
    states = looped("publish(state)", publish=run.publish_state, state=STATE)
    yield Line("publish_state", states, 2000)
    entered = looped("with phase('a'): pass", phase=run.episode().phase)
    yield Line("phase (enter and leave)", entered, 500)
    yield Line("episode (open and close)", looped("with e(): pass", e=run.episode), 100)


def opened(name: str, endpoint: Optional[str] = None, **options: Any) -> eh.Run:
    """A run, at another endpoint than the environment's."""
    before = os.environ["EPISIGHT_ENDPOINT"]
    os.environ["EPISIGHT_ENDPOINT"] = endpoint or before
    run = eh.open_run(name, **options)
    os.environ["EPISIGHT_ENDPOINT"] = before
    return run


def disabled_lines() -> Iterator[Line]:
    """The hooks, disabled."""
    os.environ["EPISIGHT_DISABLED"] = "1"
    run = eh.open_run("benchmark")
    del os.environ["EPISIGHT_DISABLED"]
    ep = run.episode()
    given = {"step": ep.step, "state": STATE, "scores": SCORES_20}
    yield Line("disabled: step", looped("step(state, scores)", **given), 20_000)
    yield Line(
        "disabled: counter.inc", looped("inc()", inc=run.counter("w").inc), 20_000
    )
    published = looped("publish('loss', 0.5)", publish=run.publish_metric)
    yield Line("disabled: publish_metric", published, 20_000)
    run.close()


# --- measuring -----------------------------------------------------------------------


SHORT = """
import time
import experiment_hooks as eh
start = time.perf_counter()
with eh.open_run("short") as run:
    with run.episode() as ep:
        ep.step()
        ep.finish("correct")
print((time.perf_counter() - start) * 1e3)
"""


def hello_to_close(endpoint: str, times: int, **environ: str) -> Tuple[float, float]:
    """Median milliseconds from open_run to the end of close; and the worst."""
    env = {**os.environ, "EPISIGHT_ENDPOINT": endpoint, **environ}
    env["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    took = []
    for _ in range(times):
        command = [sys.executable, "-c", SHORT]
        output = subprocess.run(
            command, env=env, check=True, capture_output=True
        ).stdout
        took.append(float(output.split()[0]))
    return statistics.median(took), max(took)


class ListenerProcess:
    """A listener that does not share our interpreter's lock."""

    def __init__(self, watching: bool = False) -> None:
        self._watching = watching

    def __enter__(self) -> str:
        code = (
            "from experiment_hooks.testing import Listener\n"
            "import sys\n"
            "with Listener() as listener:\n"
            f"    listener.watch({self._watching})\n"
            "    print(listener.endpoint, flush=True)\n"
            "    sys.stdin.read()\n"
        )
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()


# --- the tables ----------------------------------------------------------------------


def show(found: Dict[str, float], peers: List[str]) -> None:
    """Ours with their goals; then the peers, as ratios to our step."""
    old = sys.version_info < (3, 11)
    rows = []
    for name, spent in found.items():
        goal = GOALS.get(name, (0, 0))[old]
        verdict = "" if not goal else ("ok" if spent <= goal else "MISS")
        if name not in peers:
            rows.append([name, f"{spent:,.0f}", f"{goal:,}" if goal else "", verdict])
    table(("call", "ns", "goal", ""), rows)
    say()
    step = found["step, state and 20 scores"]
    table(
        ("instead of a step", "ns", "times ours"),
        ([name, f"{found[name]:,.0f}", f"{found[name] / step:,.1f}"] for name in peers),
    )


def main(arguments: Optional[List[str]] = None) -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="What a hook call costs.")
    parser.add_argument("--rounds", type=int, default=31, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    rounds, processes = (1, 1) if options.tiny else (options.rounds, 15)
    logging.basicConfig(level=logging.ERROR)  # not the pages' addresses
    with ExitStack() as stack:
        # For what nobody takes.
        spool = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["EPISIGHT_SPOOL_DIR"] = spool
        endpoint = stack.enter_context(ListenerProcess())
        watching = stack.enter_context(ListenerProcess(watching=True))
        os.environ["EPISIGHT_ENDPOINT"] = endpoint
        ours = [*our_lines(watching), *disabled_lines()]
        others = list(peer_lines(stack))
        say(machine("prometheus_client", "opentelemetry-sdk", "statsd", "tensorboardX",
                    "wandb"))  # fmt: skip
        say(f"medians of {rounds} rounds, nanoseconds on the experiment's own thread")
        say()
        show(measure([*ours, *others], rounds), [line.name for line in others])
        close_all()
        say()
        table(("hello to close", "ms", "at worst", "goal"), lives(endpoint, processes))


def close_all() -> None:
    """Close what was opened for measuring."""
    run = eh.current_run()
    while run is not None:
        run.close(timeout=0.2)
        run = eh.current_run()


def lives(endpoint: str, times: int) -> Iterator[List[str]]:
    """Rows for the whole life of a short process."""
    for name, where, environ, goal in (
        ("a short process", endpoint, {}, 10),
        ("with thread off", endpoint, {"EPISIGHT_THREAD": "0"}, 10),
        ("nobody there", "tcp://127.0.0.1:9", {}, 50),
    ):
        median, worst = hello_to_close(where, times, **environ)
        yield [name, f"{median:.1f}", f"{worst:.1f}", f"{goal}"]


if __name__ == "__main__":
    main()
