"""What a hook call costs the experiment: ``python -m benchmarks.hooks``.

Run by hand, from the checkout, on each Python: the hooks support 3.8, so does this.

Rules of this measurement:

- A table of nanoseconds a call on the experiment's own thread: the median over rounds,
  each of many calls; the empty loop's cost is taken off. What is measured alternates
  within a round, so that a busy moment of the machine falls on all of it.
- An exporter is there (``experiment_hooks.testing.Listener``, in a process of its own)
  unless a line says that there is none.
- Peers are measured in the same rounds: one ``json.dumps`` of a state of 10 fields with
  a PUB send, with a subscriber that reads it; OpenTelemetry's ``counter.add`` and
  prometheus_client where they are installed.
- ``hello to close`` is a process of its own: from ``open_run`` to the end of ``close``,
  imports not counted.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import msgspec
import zmq

import experiment_hooks as eh

STATE = {
    "step": 17, "object": "mug", "position": [0.125, -0.5, 1.75], "reward": 0.25,
    "done": False, "mode": "explore", "distance": 0.015625, "evidence": 12.5,
    "action": "rotate", "temperature": 300.5,
}  # fmt: skip
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


# --- what is measured ----------------------------------------------------------------


def our_lines(run: eh.Run, alone: eh.Run, taken: eh.Run) -> Iterator[Line]:
    """The hooks; ``alone`` is a run without an exporter, ``taken`` one by itself."""
    step = run.episode().step
    yield Line("step", looped("step()", step=step), 20_000)
    both = looped("step(state, scores)", step=step, state=STATE, scores=SCORES_20)
    yield Line("step, state and 20 scores", both, 20_000)
    unheard = alone.episode().step
    yield Line("step, no exporter", looped("step()", step=unheard), 20_000)
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


def peer_lines(context: Any) -> Iterator[Line]:
    """What the same would cost with other means."""
    pub, sub = context.socket(zmq.PUB), context.socket(zmq.SUB)
    port = pub.bind_to_random_port("tcp://127.0.0.1")
    sub.connect(f"tcp://127.0.0.1:{port}")
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    while not sub.poll(10):
        pub.send(b"there?")
    given = {"send": pub.send, "dumps": json.dumps, "state": STATE}
    body = "send(dumps(state).encode(), 1)"
    yield Line("json.dumps + PUB send", looped(body, **given), 500)
    encode = msgspec.msgpack.Encoder().encode
    packed = looped("send(encode(s), 1)", send=pub.send, encode=encode, s=STATE)
    yield Line("msgspec + PUB send", packed, 500)
    yield from prometheus_lines()
    yield from opentelemetry_lines()


def prometheus_lines() -> Iterator[Line]:
    """Nothing where it is not installed."""
    try:
        from prometheus_client import CollectorRegistry, Counter, Histogram
    except ImportError:
        return
    registry = CollectorRegistry()
    wins = Counter("wins", "Help.", registry=registry)
    seconds = Histogram("seconds", "Help.", registry=registry)
    yield Line("prometheus_client inc", looped("inc()", inc=wins.inc), 5000)
    observed = looped("observe(0.5)", observe=seconds.observe)
    yield Line("prometheus_client observe", observed, 5000)


def opentelemetry_lines() -> Iterator[Line]:
    """Nothing where it is not installed."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    except ImportError:
        return
    provider = MeterProvider([InMemoryMetricReader()])
    wins = provider.get_meter("benchmark").create_counter("wins")
    given = {"add": wins.add, "labels": {"mode": "eval"}}
    yield Line("OpenTelemetry counter.add", looped("add(1, labels)", **given), 2000)


# --- measuring -----------------------------------------------------------------------


def measure(lines: List[Line], rounds: int) -> Dict[str, float]:
    """The median nanoseconds of one call of each."""
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

    def __enter__(self) -> str:
        code = (
            "from experiment_hooks.testing import Listener\n"
            "import sys\n"
            "with Listener() as listener:\n"
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


# --- the table -----------------------------------------------------------------------


def machine() -> str:
    """Processor, and versions of all that takes part."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = f"{len(names)} x {names[0].split(':')[1].strip()}" if names else cpu
    versions = [f"Python {platform.python_version()}", f"msgspec {msgspec.__version__}"]
    versions += [f"pyzmq {zmq.__version__}", f"episight {eh.__version__}"]
    return f"{cpu}; {', '.join(versions)}"


def say(line: str = "") -> None:
    """One line of the output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(found: Dict[str, float]) -> None:
    """The lines with their goals, and the ratios that are promised."""
    old = sys.version_info < (3, 11)
    say(f"| {'call':27} | {'ns':>9} | {'goal':>8} |      |")
    say(f"|{'-' * 29}|{'-' * 10}:|{'-' * 9}:|------|")
    for name, spent in found.items():
        goal = GOALS.get(name, (0, 0))[old]
        verdict = "" if not goal else ("ok" if spent <= goal else "MISS")
        say(f"| {name:27} | {spent:9,.0f} | {goal or '':>8} | {verdict:4} |")
    say()
    step = found["step, state and 20 scores"]
    for peer in ("json.dumps + PUB send", "OpenTelemetry counter.add"):
        if peer in found:
            ratio = found[peer] / step
            verdict = "ok" if ratio >= 8 else "MISS"
            say(f"a step is {ratio:.1f} times cheaper than {peer} (goal: 8; {verdict})")


def main(arguments: Optional[List[str]] = None) -> None:
    """Measures, and prints a table."""
    with tempfile.TemporaryDirectory() as spool:
        os.environ["EPISIGHT_SPOOL_DIR"] = spool  # for what nobody takes
        _main(arguments)


def _main(arguments: Optional[List[str]]) -> None:
    parser = argparse.ArgumentParser(description="What a hook call costs.")
    parser.add_argument("--rounds", type=int, default=31, metavar="N")
    options = parser.parse_args(arguments)
    say(machine())
    say(f"medians of {options.rounds} rounds, on the experiment's own thread")
    say()
    context: Any = zmq.Context()
    with ListenerProcess() as endpoint:
        os.environ["EPISIGHT_ENDPOINT"] = endpoint
        alone = opened("alone", "tcp://127.0.0.1:9")
        run, taken = opened("benchmark"), opened("taken")
        lines = [
            *our_lines(run, alone, taken),
            *disabled_lines(),
            *peer_lines(context),
        ]
        show(measure(lines, options.rounds))
        while eh.current_run() is not None:
            eh.current_run().close(timeout=0.2)
        for name, environ in (("", {}), (", thread off", {"EPISIGHT_THREAD": "0"})):
            median, worst = hello_to_close(endpoint, 15, **environ)
            verdict = "ok" if median <= 10 else "MISS"
            say(
                f"hello to close of a short process{name}: {median:.1f} ms, at worst "
                f"{worst:.1f} ms (goal: 10; {verdict})"
            )
    median, worst = hello_to_close("tcp://127.0.0.1:9", 5)
    say(f"the same with nobody there: {median:.0f} ms, at worst {worst:.0f} ms")
    context.destroy(linger=0)


if __name__ == "__main__":
    main()
