"""Q-learning that swings up an acrobot in time, watched by one wrapper.

Two linked rods hang down, a motor sits in the joint between them, and the tip has to
get above a line (Gymnasium's ``Acrobot-v1``). An episode is a ``success`` if that takes
at most ``deadline`` steps and a ``failure`` otherwise, so success takes a good policy
and not just any. Each epoch is a block of training and a block of evaluation.

The learner is linear: tile coding of the four-dimensional state, Q-learning from
replayed transitions (Sutton and Barto, 2nd edition, 6.5 and 9.5.4; Lin 1992). The same
seed gives the same numbers, whether or not anybody watches.

What concerns Episight is ``open_run``, the line with ``EpisightWrapper``, and what is
told beyond the episodes: their mode and epoch, the two phases, three metrics.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import experiment_hooks as eh
from experiment_hooks.integrations.gymnasium import EpisightWrapper
from experiments.linear import Floats, Memory, Tiles, Values
from experiments.pictures import Picture, rods

ACTIONS = ("left", "none", "right")  # where the motor turns
SPANS = (math.pi, math.pi, 7.0, 14.0)  # two angles and their velocities, +-, per s
GRID = 24  # by so many angles each the values are drawn


class SwingUp(gymnasium.ObservationWrapper):
    """The acrobot seen by its angles and drawn; to be up in time is a success."""

    def __init__(self, deadline: int) -> None:
        super().__init__(gymnasium.make("Acrobot-v1", max_episode_steps=deadline))
        span = np.array(SPANS)
        self.observation_space = gymnasium.spaces.Box(-span, span, dtype=np.float64)

    def observation(self, observation: Floats) -> Floats:
        cos1, sin1, cos2, sin2, velocity1, velocity2 = observation.tolist()
        return np.array(
            [math.atan2(sin1, cos1), math.atan2(sin2, cos2), velocity1, velocity2]
        )

    def step(self, action: int) -> tuple[Floats, Any, bool, bool, dict[str, Any]]:
        state, reward, up, late, info = super().step(action)
        return state, reward, up, late, {**info, "is_success": up}

    def render(self) -> Picture:
        first, second, *_ = self.unwrapped.state
        return rods(first, first + second)


@dataclass(frozen=True)
class QLearning:
    """What is to be learned and how; called, it does so.

    Attributes:
        seed: of everything random.
        episodes: to train on, in all epochs together.
        epochs: blocks of training, each followed by one of evaluation.
        eval_episodes: in each block of evaluation, without exploration.
        deadline: steps within which the tip must be up.
        epsilon: share of random actions at the start; falls to 0.
        alpha: step size at the start, over all tilings; falls to a twentieth.
        stretch: steps of acting between two rounds of learning.
        batches: updates in a round of learning.
        batch: transitions in an update.
        memory: the newest transitions, from which those are drawn.
        show: seconds that a step takes in the first episode of each block of
            evaluation, so that it can be watched.
    """

    seed: int = 0
    episodes: int = 3600
    epochs: int = 36
    eval_episodes: int = 20
    deadline: int = 100
    epsilon: float = 0.05
    alpha: float = 0.2
    stretch: int = 10
    batches: int = 20
    batch: int = 128
    memory: int = 100_000
    show: float = 0.0

    def __call__(self) -> float:
        """Learn; return the share of successes in the last block of evaluation."""
        with eh.open_run(
            "q_learning",
            info={"seed": self.seed, "alpha": self.alpha},
            expected_episodes={
                "train": self.episodes,
                "eval": self.epochs * self.eval_episodes,
            },
            expected_epochs={"train": self.epochs, "eval": self.epochs},
            success={"success"},
            stoppable=True,
        ) as run:
            return Learner(self, run).learn()


class Learner:
    """The action values, the transitions they are learned from, and the two blocks."""

    def __init__(self, plan: QLearning, run: eh.Run) -> None:
        self.plan = plan
        self.run = run
        self.env = EpisightWrapper(
            SwingUp(plan.deadline), scores=self.scores, images=self.pictures
        )
        self.rng = np.random.default_rng(plan.seed)
        self.tiles = Tiles(SPANS, circles=2)
        self.values = Values(self.tiles, len(ACTIONS))
        self.memory = Memory(plan.memory, self.tiles.tilings)
        self.epsilon, self.alpha = plan.epsilon, plan.alpha
        self.now = self.tiles(np.zeros(4))  # the current state's tiles
        self.exploration = run.gauge("epsilon", help="Share of random actions")
        self.td_error = run.gauge(
            "td_error", help="Mean absolute error of the newest update", merge="mean"
        )
        self.replayed = run.counter(
            "replayed_transitions", help="Transitions learned from"
        )

    def scores(self, state: Floats) -> dict[str, float]:
        """The action values, for who looks at an episode."""
        values = self.values(self.tiles(state))
        return dict(zip(ACTIONS, values.tolist(), strict=True))

    def pictures(self, state: Floats) -> dict[str, NDArray[Any]]:
        """The acrobot, and what other angles would be worth at its velocities."""
        angles = np.linspace(-math.pi, math.pi, GRID)
        second, first = np.meshgrid(angles[::-1], angles, indexing="ij")
        velocities = [np.full_like(first, one) for one in state[2:]]
        tiles = self.tiles(np.stack([first, second, *velocities], axis=-1))
        worth = self.values(tiles).max(axis=0)
        return {"frame": self.env.render(), "value": worth}

    def learn(self) -> float:
        """Go through the epochs, a line each, printed and in the run's log."""
        plan, success = self.plan, 0.0
        for epoch in range(plan.epochs):
            left = 1 - epoch / plan.epochs
            self.epsilon, self.alpha = plan.epsilon * left, plan.alpha * (left + 0.05)
            self.exploration.set(self.epsilon)
            training = self._block("train", epoch, plan.episodes // plan.epochs)
            success = self._block("eval", epoch, plan.eval_episodes)
            said = (
                f"seed {plan.seed}, epoch {epoch + 1:2} of {plan.epochs}: success"
                f" {training:4.0%} in training, {success:4.0%} in evaluation"
            )
            print(said, flush=True)
            self.run.publish_log("info", said)
        self.env.close()
        return success

    def _block(self, mode: str, epoch: int, episodes: int) -> float:
        """Some episodes; return the share of successes."""
        self.env.mode, self.env.epoch = mode, epoch
        training = mode == "train"
        # So that no two episodes start alike.
        first = self.plan.seed * 10**7 + (0 if training else 5 * 10**6)
        seeds = range(first + epoch * episodes, first + (epoch + 1) * episodes)
        ups = 0
        for seed in seeds:
            shown = not training and seed == seeds[0]
            ups += self._episode(training, seed, self.plan.show if shown else 0.0)
        return ups / max(episodes, 1)

    def _episode(self, training: bool, seed: int, pause: float) -> bool:
        self.now = self.tiles(self.env.reset(seed=seed)[0])
        up = late = False
        while not (up or late):
            with self.env.episode.phase("act"):
                up, late = self._act(training, pause)
            if training:
                with self.env.episode.phase("learn"):
                    self._learn()
        return up

    def _act(self, training: bool, pause: float) -> tuple[bool, bool]:
        """Some steps; return whether the tip is up, and whether the time is."""
        up = late = False
        for _ in range(self.plan.stretch):
            action = int(self.values(self.now).argmax())
            if training and self.rng.random() < self.epsilon:
                action = int(self.rng.integers(len(ACTIONS)))
            state, _, up, late, _ = self.env.step(action)
            then = self.tiles(state)
            if training:
                self.memory.add(self.now, action, then, up)
            self.now = then
            if pause:
                time.sleep(pause)
            if up or late:
                break
        return up, late

    def _learn(self) -> None:
        """Some updates towards ``-1 + max Q(then)``: each step costs 1 until it is up.

        All values start at 0, which is more than any turns out to be; so what was not
        yet tried looks best, and that is most of the exploration.
        """
        plan = self.plan
        for _ in range(plan.batches):
            now, action, then, up = self.memory.sample(self.rng, plan.batch)
            target = np.where(up, 0.0, self.values(then).max(axis=0) - 1.0)
            error = self.values.learn(now, action, target, self.alpha)
        self.td_error.set(float(np.abs(error).mean()))
        self.replayed.inc(plan.batches * plan.batch)
