"""A fleet in small, by real hooks: ``python -m tests.played_fleet ROLE FILE``.

A role goes on until there is a file of that name, if it does not end by itself. Some
are in trouble, and beside each is one that only looks like it.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Dict

import experiment_hooks as eh
from experiment_hooks.integrations.monty.belief import Belief
from experiment_hooks.integrations.monty.numbers import Numbers
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.integrations.monty.outcome import SUCCESS, outcome_of

PAUSE = 0.015
FAST_SECONDS = 8.0
"""How long those are well that get into trouble later."""

GoesOn = Callable[[], bool]


# --- well ----------------------------------------------------------------------------


def healthy(goes_on: GoesOn) -> None:
    """All that a run can have: modes, outcomes, phases, results, metrics of its own."""
    with eh.open_run(
        "grasping",
        run_id="healthy",
        success={"correct"},
        expected_episodes={"train": 100_000, "eval": 1_000},
        promise=30.0,
        info={"lr": 0.1},
    ) as run:
        grasps = run.counter("grasps", help="Grasps tried", labels=["side"])
        objects = run.gauge("objects_count", help="Objects in sight")
        force = run.histogram("grip_force_newtons", buckets=[1.0, 3.0, 10.0])
        index = 0
        while goes_on():
            mode = "eval" if index % 4 == 3 else "train"
            with run.episode(mode=mode, epoch=index // 8, target="mug") as ep:
                for phase in ("reach", "grasp"):
                    with ep.phase(phase):
                        _steps(ep, 4)
                grasps.labels(side="left" if index % 2 else "right").inc()
                objects.set(index % 7)
                force.observe(random.expovariate(0.2))
                outcome = random.choice(["correct", "correct", "dropped"])
                ep.finish(
                    outcome, results={"return": random.random(), "effort.mean": 3}
                )
            index += 1


def plain(goes_on: GoesOn) -> None:
    """As little as a run can say: no outcome, phase, result, expectation."""
    with eh.open_run("walking", run_id="plain") as run:
        while goes_on():
            with run.episode() as ep:
                _steps(ep, 5)


def counting(goes_on: GoesOn) -> None:
    """Steps are expected instead of episodes."""
    with eh.open_run(
        "walking", run_id="counting", expected_steps={"train": 10**6}
    ) as run:
        while goes_on():
            with run.episode() as ep:
                _steps(ep, 5)


def streaming(goes_on: GoesOn) -> None:
    """A loop without episodes, that shows data and counts for itself."""
    with eh.open_run("walking", run_id="streaming") as run:
        frames = run.counter("frames", help="Frames of the camera")
        while goes_on():
            frames.inc()
            run.publish_data("camera", {"frame": [1, 2, 3]})
            run.progress()
            time.sleep(PAUSE)


def slow_phase(goes_on: GoesOn) -> None:
    """Nothing moves, and that was said."""
    run = eh.open_run("e", run_id="slow_phase", promise=1.0)
    with run, run.episode() as ep, ep.phase("planning", promise=300.0):
        ep.step()
        _wait(goes_on)


def unjudged(goes_on: GoesOn) -> None:
    """No outcome is a failure where no success was declared."""
    with eh.open_run("e", run_id="unjudged") as run:
        _episodes(run, "dropped", goes_on)


def completed(goes_on: GoesOn) -> None:
    """Of two episodes that it has promised it has done one."""
    expected = {"eval": 2}
    with eh.open_run(
        "grasping", run_id="completed", success={"correct"}, expected_episodes=expected
    ) as run, run.episode(mode="eval") as ep:
        _steps(ep, 5)
        ep.finish("correct")


def stopped(goes_on: GoesOn) -> None:
    with eh.open_run("e", run_id="stopped"):
        raise KeyboardInterrupt


def monty(goes_on: GoesOn) -> None:
    """As Monty's step hook tells it, by the code with which that does."""
    with eh.open_run(
        "ycb",
        run_id="monty",
        success=SUCCESS,
        tags={"kind": "monty"},
        expected_epochs={"eval": 10_000},
    ) as run:
        numbers = Numbers(run, Options(objects=2))
        index = 0
        while goes_on():
            target = ["mug", "bowl", "spoon"][index % 3]
            with run.episode(mode="eval", epoch=index // 5, target=target) as ep:
                believed = _monty_steps(ep, numbers)
                model = SimpleNamespace(
                    episode_steps=6, matching_steps=4, exploratory_steps=2
                )
                found = outcome_of(_rows(index), believed, model)
                numbers.ended("eval", target, found)
                ep.finish(found.outcome, results=found.results)
            index += 1


# --- in trouble ----------------------------------------------------------------------


def stalled(goes_on: GoesOn) -> None:
    with eh.open_run("e", run_id="stalled", promise=1.0) as run, run.episode() as ep:
        ep.step()
        _wait(goes_on)


def killed(goes_on: GoesOn) -> None:
    """Somebody else kills it."""
    with eh.open_run("e", run_id="killed") as run, run.episode() as ep:
        while goes_on():
            _steps(ep, 1)


def failed(goes_on: GoesOn) -> None:
    with eh.open_run("grasping", run_id="failed") as run, run.episode() as ep:
        _steps(ep, 5)
        raise LookupError("no mug")


def replayed(goes_on: GoesOn) -> None:
    """As ``failed``; its exporter is away, and it is delivered later."""
    with eh.open_run("grasping", run_id="replayed") as run, run.episode() as ep:
        _steps(ep, 5)
        raise LookupError("no mug")


def parallel(goes_on: GoesOn) -> None:
    """One of its processes is killed, and it goes on."""
    with eh.open_run("e", run_id="parallel") as run:
        command = [sys.executable, "-m", "tests.played_fleet", "worker", sys.argv[2]]
        with subprocess.Popen(command) as worker:
            print(f"worker {worker.pid}", flush=True)
            _episodes(run, "ended", goes_on)


def worker(goes_on: GoesOn) -> None:
    with eh.open_run("e") as run, run.episode() as ep:
        while goes_on():
            _steps(ep, 1)


def failing(goes_on: GoesOn) -> None:
    with eh.open_run("e", run_id="failing", success={"correct"}) as run:
        _episodes(run, "dropped", goes_on)


def slower(goes_on: GoesOn) -> None:
    with eh.open_run("e", run_id="slower") as run:
        _episodes(run, "ended", _at_first())
        _episodes(run, "ended", goes_on, 0.6)


def endless(goes_on: GoesOn) -> None:
    """Steps go on, but the episode does not end."""
    with eh.open_run("e", run_id="endless", expected_episodes={"eval": 10**6}) as run:
        _episodes(run, "ended", _at_first())
        with run.episode(mode="eval") as ep:
            while goes_on():
                _steps(ep, 1)


def crowded(goes_on: GoesOn) -> None:
    """More series than its exporter has room for."""
    with eh.open_run("e", run_id="crowded") as run:
        _episodes(run, "ended", goes_on)


def unwritten(goes_on: GoesOn) -> None:
    """Its exporter cannot write."""
    with eh.open_run("e", run_id="unwritten", promise=600.0) as run:
        _episodes(run, "ended", goes_on)


# --- what they do --------------------------------------------------------------------


def _wait(goes_on: GoesOn) -> None:
    while goes_on():
        time.sleep(0.05)


def _at_first() -> GoesOn:
    end = time.monotonic() + FAST_SECONDS
    return lambda: time.monotonic() < end


def _episodes(run: eh.Run, outcome: str, goes_on: GoesOn, pause: float = 0.03) -> None:
    while goes_on():
        with run.episode(mode="eval") as ep:
            _steps(ep, 3, pause)
            ep.finish(outcome)


def _steps(ep: eh.Episode, number: int, pause: float = PAUSE) -> None:
    for step in range(number):
        ep.step(state={"step": step})
        time.sleep(pause)


def _monty_steps(ep: eh.Episode, numbers: Numbers) -> Dict[str, Belief]:
    believed: Dict[str, Belief] = {}
    for phase in ("matching", "exploratory"):
        with ep.phase(phase):
            for step in range(1, 4):
                ep.step(state={"step": step})
                time.sleep(PAUSE)
                numbers.step(0.003, 0.001)
                for lm, first, second in (
                    ("LM_0", "mug", "bowl"),
                    ("LM_1", "bowl", "mug"),
                ):
                    evidence = {first: 2.0 * step, second: 1.0 * step}
                    believed[lm] = Belief(
                        evidence, first, second, 2.0 * step, 1.0 * step, 1000 // step
                    )
                numbers.seen("eval", believed)
    return believed


def _rows(index: int) -> Dict[str, Dict[str, object]]:
    """Of two learning modules, as Monty's ``get_stats_per_lm`` gives them."""
    words = ["correct", "correct_mlh", "confused", "time_out"]
    return {
        f"LM_{lm}": {
            "primary_performance": words[(index + lm) % len(words)],
            "num_steps": 6,
            "num_possible_matches": 1 + index % 3,
            "highest_evidence": 12.5,
            "episode_avg_prediction_error": 0.2,
            "goal_states_attempted": 3,
            "goal_state_achieved": 1,
            "individual_ts_reached_at_step": 4,
            "rotation_error": 1.5 * lm,
        }
        for lm in range(2)
    }


RUNS: Dict[str, Callable[[GoesOn], None]] = {
    role.__name__: role
    for role in (
        healthy,
        plain,
        counting,
        streaming,
        slow_phase,
        unjudged,
        completed,
        stopped,
        monty,
        stalled,
        killed,
        failed,
        replayed,
        parallel,
        failing,
        slower,
        endless,
    )
}
"""The runs of one exporter, by their ids."""

ELSEWHERE: Dict[str, Callable[[GoesOn], None]] = {
    "crowded": crowded,
    "unwritten": unwritten,
}
"""Those of exporters that are in trouble."""


if __name__ == "__main__":
    stop = Path(sys.argv[2])
    play = {**RUNS, **ELSEWHERE, "worker": worker}[sys.argv[1]]
    play(lambda: not stop.exists() and os.getppid() != 1)
