"""Q-learning that balances poles in a vector environment, watched by one wrapper.

All that concerns Episight here is ``open_run`` and ``EpisightVectorWrapper``: each of
the environments has its own open episode. An episode is a success when it is
``truncated``, that is when the pole still stands at the time limit of 500 steps.
"""

from dataclasses import dataclass

import gymnasium
import numpy as np

import experiment_hooks as eh
from experiment_hooks.integrations.gymnasium import EpisightVectorWrapper
from experiments.linear import Bools, Floats, Ints, Memory, Tiles, Values
from experiments.pictures import Picture, cart

SPANS = (2.4, 3.0, 0.21, 3.0)  # position, velocity, angle, its velocity: +-, m, rad, s


@dataclass(frozen=True)
class CartPole:
    """What is to be learned and how; called, it does so.

    Attributes:
        seed: of everything random.
        environments: stepped together, with one policy.
        episodes: in all environments and epochs together.
        epochs: parts of them that a line is printed for.
        epsilon: share of random actions at the start; falls to 0.
        alpha: step size, over all tilings.
        gamma: what the next step's value counts for.
        batch: transitions learned from at each step of the environments.
        memory: the newest transitions, from which those are drawn.
    """

    seed: int = 0
    environments: int = 8
    episodes: int = 2000
    epochs: int = 20
    epsilon: float = 0.05
    alpha: float = 0.05
    gamma: float = 0.99
    batch: int = 64
    memory: int = 50_000

    def __call__(self) -> float:
        """Learn; return the share of successes in the last epoch."""
        with eh.open_run(
            "cartpole",
            info={"seed": self.seed, "alpha": self.alpha},
            expected_episodes={"train": self.episodes},
            expected_epochs={"train": self.epochs},
            success={"truncated"},
            stoppable=True,
        ) as run:
            return Learner(self, run).learn()


class Learner:
    """The action values, and the transitions they are learned from."""

    def __init__(self, plan: CartPole, run: eh.Run) -> None:
        self.plan, self.run = plan, run
        self.tiles = Tiles(SPANS)
        self.values = Values(self.tiles, 2)
        self.memory = Memory(plan.memory, self.tiles.tilings)
        self.rng = np.random.default_rng(plan.seed)
        self.epsilon = plan.epsilon
        envs = gymnasium.make_vec("CartPole-v1", plan.environments, "sync")
        self.envs = EpisightVectorWrapper(envs, scores=self.scores, images=picture)

    def scores(self, observation: Floats) -> dict[str, float]:
        """The action values, for who looks at an episode."""
        left, right = self.values(self.tiles(observation))
        return {"left": left, "right": right}

    def learn(self) -> float:
        """Go through the epochs, a line each, printed and in the run's log."""
        plan, success = self.plan, 0.0
        now = self.tiles(self.envs.reset(seed=plan.seed)[0])
        ended = np.zeros(plan.environments, np.bool_)
        for epoch in range(plan.epochs):
            self.envs.epoch = epoch
            self.epsilon = plan.epsilon * (1 - epoch / plan.epochs)
            fell = stood = 0
            while fell + stood < plan.episodes // plan.epochs:
                now, terminated, truncated = self._step(now, ended)
                ended = terminated | truncated
                fell += int(terminated.sum())
                stood += int(truncated.sum())
            success = stood / max(fell + stood, 1)
            said = f"epoch {epoch + 1:2} of {plan.epochs}: success {success:4.0%}"
            print(said, flush=True)
            self.run.publish_log("info", said)
        self.envs.close()
        return success

    def _step(self, now: Ints, ended: Bools) -> tuple[Ints, Bools, Bools]:
        """A step of all; those that ended in the one before are reset by it."""
        actions = self.values(now).argmax(axis=0)
        random = self.rng.random(len(actions)) < self.epsilon
        actions[random] = self.rng.integers(2, size=random.sum())
        observations, _, terminated, truncated, _ = self.envs.step(actions)
        then = self.tiles(observations)
        for place in np.flatnonzero(~ended):
            self.memory.add(now[place], actions[place], then[place], terminated[place])
        self._update()
        return then, terminated, truncated

    def _update(self) -> None:
        plan = self.plan
        now, action, then, fell = self.memory.sample(self.rng, plan.batch)
        best = self.values(then).max(axis=0)
        target = np.where(fell, 0.0, 1.0 + plan.gamma * best)
        self.values.learn(now, action, target, plan.alpha)


def picture(observation: Floats) -> dict[str, Picture]:
    """What a pole looks like, for who looks at its episode."""
    return {"cart": cart(observation[0], observation[2])}
