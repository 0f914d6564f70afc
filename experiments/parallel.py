"""Q-learning from several seeds at once: several processes that are one run.

The parent opens the run and only waits. Each worker opens it too: it finds the run in
the environment that it inherits, and joins.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context

import experiment_hooks as eh
from experiments.q_learning import Learner, QLearning


@dataclass(frozen=True)
class Parallel(QLearning):
    """As ``QLearning``, for the seeds from ``seed`` on.

    Attributes:
        workers: processes, each with a seed and ``episodes`` of its own.
    """

    workers: int = 4

    def __call__(self) -> float:
        """Learn; return the mean of the workers' last success rates."""
        run = eh.open_run(
            "q_learning",
            tags={"workers": self.workers},
            info={"alpha": self.alpha},
            expected_episodes={
                "train": self.workers * self.episodes,
                "eval": self.workers * self.epochs * self.eval_episodes,
            },
            expected_epochs={"train": self.epochs, "eval": self.epochs},
            success={"success"},
        )
        # Spawned, not forked: a worker starts clean, on every platform.
        pool = ProcessPoolExecutor(self.workers, get_context("spawn"))
        with run, pool:
            rates = list(pool.map(_work, self._plans()))
        return sum(rates) / len(rates)

    def _plans(self) -> list[QLearning]:
        shared = {field.name: getattr(self, field.name) for field in fields(QLearning)}
        seeds = range(self.seed, self.seed + self.workers)
        return [QLearning(**{**shared, "seed": seed}) for seed in seeds]


def _work(plan: QLearning) -> float:
    with eh.open_run("q_learning", success={"success"}, stoppable=True) as run:
        return Learner(plan, run).learn()
