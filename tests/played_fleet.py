"""A fleet in small, by real hooks: ``python -m tests.played_fleet ROLE FILE``.

A role goes on until there is a file of that name; two end by themselves.
"""

import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Dict, List

import experiment_hooks as eh
from experiment_hooks.integrations.monty.belief import Belief
from experiment_hooks.integrations.monty.numbers import Numbers
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.integrations.monty.outcome import SUCCESS, outcome_of

PAUSE = 0.004
GoesOn = Callable[[], bool]


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
                ep.finish(outcome, results={"return": random.random(), "effort": 3.0})
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


def ended(goes_on: GoesOn) -> None:
    run = eh.open_run("grasping", run_id="ended", success={"correct"})
    with run, run.episode() as ep:
        _steps(ep, 5)
        ep.finish("correct")


def failed(goes_on: GoesOn) -> None:
    with eh.open_run("grasping", run_id="failed") as run, run.episode() as ep:
        _steps(ep, 5)
        raise SystemExit("the arm is stuck")


def monty(goes_on: GoesOn) -> None:
    """As Monty's step hook tells it, by the code with which that does."""
    with eh.open_run(
        "ycb", run_id="monty", success=SUCCESS, tags={"kind": "monty"}
    ) as run:
        numbers = Numbers(run, Options(objects=2))
        index = 0
        while goes_on():
            target = ["mug", "bowl", "spoon"][index % 3]
            with run.episode(mode="eval", target=target) as ep:
                believed = _monty_steps(ep, numbers)
                model = SimpleNamespace(
                    episode_steps=6, matching_steps=4, exploratory_steps=2
                )
                found = outcome_of(_rows(index), believed, model)
                numbers.ended("eval", target, found)
                ep.finish(found.outcome, results=found.results)
            index += 1


def _steps(ep: eh.Episode, number: int) -> None:
    for step in range(number):
        ep.step(state={"step": step})
        time.sleep(PAUSE)


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


ROLES: List[Callable[[GoesOn], None]] = [
    healthy,
    plain,
    counting,
    ended,
    failed,
    monty,
]


if __name__ == "__main__":
    (play,) = [role for role in ROLES if role.__name__ == sys.argv[1]]
    stop = Path(sys.argv[2])
    play(lambda: not stop.exists())
