"""What the hooks do to a real loop: ``python -m benchmarks loop``.

Run by hand, from the checkout, on each Python that has Gymnasium. Rules of this
measurement:

- ``CartPole-v1`` with random actions and no learning: about the fastest loop that
  anybody runs, so the hooks' share is as large as it gets.
- Each step is timed, in a process of its own for each way and round: the median, the
  99.9th percentile and the worst, since the sender's thread shares the interpreter's
  lock, and what a loop loses at times is not seen in its median.
- The ways alternate over the rounds; shown are medians over the rounds. The last column
  is the steps per second, against the bare loop's.
"""

import argparse
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Optional

from benchmarks.hooks import ListenerProcess
from benchmarks.table import machine, say, table

WAYS = {
    "no hooks": "",
    "by hand": "step",
    "by hand, with state": "state",
    "EpisightWrapper": "wrapper",
    "EpisightWrapper, nobody there": "wrapper",
    "EpisightWrapper, watched": "wrapper",
    "EpisightWrapper, disabled": "wrapper",
}


def loop(way: str, steps: int) -> List[float]:
    """The seconds of each step, of one way of watching them."""
    import gymnasium

    env: Any = gymnasium.make("CartPole-v1")
    if way == "wrapper":
        from experiment_hooks.integrations.gymnasium import EpisightWrapper

        env = EpisightWrapper(env)
    run = None
    if way in ("step", "state"):
        import experiment_hooks as eh

        run = eh.open_run("loop")
    env.action_space.seed(1)
    took: List[float] = []
    clock = time.perf_counter
    while len(took) < steps:
        observation, _ = env.reset(seed=len(took))
        episode = run.episode(mode="train") if run is not None else None
        over = False
        before = clock()
        while not over:
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            if way == "step":
                episode.step()  # type: ignore[union-attr]
            elif way == "state":
                episode.step(  # type: ignore[union-attr]
                    {"observation": observation, "reward": reward},
                    {"left": 0.25, "right": 0.75},
                )
            after = clock()
            took.append(after - before)
            before = after
        if episode is not None:
            episode.finish("fell")
            episode.close()
    env.close()
    if run is not None:
        run.close()
    return took


def child(way: str, steps: int, environ: Dict[str, str]) -> Dict[str, float]:
    """One round of one way, in a process of its own: percentiles, in microseconds."""
    code = f"from benchmarks.loop import told; told({way!r}, {steps})"
    root = str(Path(__file__).resolve().parent.parent)
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root, **environ},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    found: Dict[str, float] = json.loads(output)
    return found


def told(way: str, steps: int) -> None:
    """In the child: measures, and prints what it has found."""
    logging.basicConfig(level=logging.ERROR)
    took = loop(way, steps)
    rate = len(took) / sum(took)
    took.sort()
    found = {
        "median": statistics.median(took) * 1e6,
        "p999": took[int(len(took) * 0.999)] * 1e6,
        "worst": took[-1] * 1e6,
        "rate": rate,
    }
    sys.stdout.write(json.dumps(found))


def main(arguments: Optional[List[str]] = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="What the hooks do to a loop.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--steps", type=int, default=200_000, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    rounds, steps = (1, 500) if options.tiny else (options.rounds, options.steps)
    if importlib.util.find_spec("gymnasium") is None:
        say("gymnasium is not installed: there is no loop to measure")
        return
    say(machine("gymnasium"))
    say(f"medians of {rounds} rounds of {steps:,} steps, microseconds a step")
    say()
    found: Dict[str, List[Dict[str, float]]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryDirectory())
        here = stack.enter_context(ListenerProcess())
        watching = stack.enter_context(ListenerProcess(watching=True))
        for _ in range(rounds):
            for name, way in WAYS.items():
                environ = {"EPISIGHT_SPOOL_DIR": spool, "EPISIGHT_ENDPOINT": here}
                if "nobody" in name:
                    environ["EPISIGHT_ENDPOINT"] = "tcp://127.0.0.1:9"
                elif "watched" in name:
                    environ["EPISIGHT_ENDPOINT"] = watching
                elif "disabled" in name:
                    environ["EPISIGHT_DISABLED"] = "1"
                found[name].append(child(way, steps, environ))
    middle = {
        name: {key: statistics.median(one[key] for one in all_) for key in all_[0]}
        for name, all_ in found.items()
    }
    bare = middle["no hooks"]["rate"]
    table(
        ("loop", "median", "p99.9", "worst", "steps/s", "of bare"),
        (
            [
                name,
                f"{one['median']:.2f}",
                f"{one['p999']:.1f}",
                f"{one['worst']:,.0f}",
                f"{one['rate']:,.0f}",
                f"{100 * one['rate'] / bare:.1f} %",
            ]
            for name, one in middle.items()
        ),
    )


if __name__ == "__main__":
    main()
