"""Q-learning that swings up an acrobot in time, watched through Episight's hooks.

Two linked rods hang down, a motor sits in the joint between them, and the tip has to
get above a line (Gymnasium's ``Acrobot-v1``). An episode is a ``success`` if that takes
at most ``deadline`` steps and a ``timeout`` otherwise, so success takes a good policy
and not just any. Each epoch is a block of training and a block of evaluation.

The learner is linear: tile coding of the four-dimensional state, Q-learning from
replayed transitions (Sutton and Barto, 2nd edition, 6.5 and 9.5.4; Lin 1992). The same
seed gives the same numbers, whether or not anybody watches.

What concerns Episight is ``__call__``, ``_episode``, ``_act`` and ``_learn``.
"""

import math
from dataclasses import asdict, dataclass
from functools import partial

import gymnasium
import numpy as np

import experiment_hooks as eh
from experiments.linear import Floats, Memory, Tiles
from experiments.pictures import Picture, rods

ACTIONS = ("left", "none", "right")  # where the motor turns
SPANS = (math.pi, math.pi, 7.0, 14.0)  # two angles and their velocities, +-, per s


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

    def __call__(self) -> float:
        """Learn; return the share of successes in the last block of evaluation."""
        with eh.open_run(
            "q_learning",
            config=asdict(self),
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
        self.env = gymnasium.make("Acrobot-v1", max_episode_steps=plan.deadline)
        self.rng = np.random.default_rng(plan.seed)
        self.tiles = Tiles(SPANS, circles=2)
        self.weights = np.zeros((self.tiles.size, len(ACTIONS)))
        self.memory = Memory(plan.memory, self.tiles.tilings)
        self.epsilon, self.alpha = plan.epsilon, plan.alpha
        self.now = self.tiles(np.zeros(4))  # the current state's tiles
        self.td_error = run.gauge(
            "td_error", help="Mean absolute error of the newest update", merge="mean"
        )
        self.replayed = run.counter(
            "replayed_transitions", help="Transitions learned from"
        )

    def learn(self) -> float:
        """Go through the epochs, a printed line each."""
        plan, success = self.plan, 0.0
        for epoch in range(plan.epochs):
            left = 1 - epoch / plan.epochs
            self.epsilon, self.alpha = plan.epsilon * left, plan.alpha * (left + 0.05)
            training = self._block("train", epoch, plan.episodes // plan.epochs)
            success = self._block("eval", epoch, plan.eval_episodes)
            print(
                f"seed {plan.seed}, epoch {epoch + 1:2} of {plan.epochs}: success"
                f" {training:4.0%} in training, {success:4.0%} in evaluation",
                flush=True,
            )
        return success

    def _block(self, mode: str, epoch: int, episodes: int) -> float:
        first = epoch * episodes
        outcomes = [self._episode(mode, epoch, first + i) for i in range(episodes)]
        return outcomes.count("success") / max(episodes, 1)

    def _episode(self, mode: str, epoch: int, index: int) -> str:
        training = mode == "train"
        seed = self.plan.seed * 10**7 + index + (0 if training else 5 * 10**6)
        self.now = self.tiles(angles(self.env.reset(seed=seed)[0]))
        with self.run.episode(mode=mode, epoch=epoch, index=index, seed=seed) as ep:
            total, outcome = 0.0, ""
            while not outcome:
                with ep.phase("act"):
                    reward, outcome = self._act(ep, training)
                total += reward
                if training:
                    with ep.phase("learn"):
                        self._learn()
            ep.finish(
                outcome=outcome,
                results={"return": total, "length": ep.steps, "epsilon": self.epsilon},
            )
        return outcome

    def _act(self, ep: eh.Episode, training: bool) -> tuple[float, str]:
        """Some steps; return their reward, and the outcome if the episode is over."""
        total = 0.0
        for _ in range(self.plan.stretch):
            values = self.weights[self.now].sum(axis=0)
            action = int(values.argmax())
            if training and self.rng.random() < self.epsilon:
                action = int(self.rng.integers(len(ACTIONS)))
            observation, reward, up, late, _ = self.env.step(action)
            state = angles(observation)
            then = self.tiles(state)
            if training:
                self.memory.add(self.now, action, then, up)
            self.now = then
            total += float(reward)
            ep.step(
                state={
                    "angles": state,
                    "action": ACTIONS[action],
                    "reward": reward,
                    "return": total,
                    "epsilon": self.epsilon if training else 0.0,
                },
                scores=dict(zip(ACTIONS, values.tolist(), strict=True)),
                # A function: the picture is drawn only when somebody looks.
                images=partial(picture, state),
            )
            if up or late:
                return total, "success" if up else "timeout"
        return total, ""

    def _learn(self) -> None:
        """Some updates towards ``-1 + max Q(then)``: each step costs 1 until it is up.

        All values start at 0, which is more than any turns out to be; so what was not
        yet tried looks best, and that is most of the exploration.
        """
        plan, weights = self.plan, self.weights
        for _ in range(plan.batches):
            now, action, then, up = self.memory.sample(self.rng, plan.batch)
            best = weights[then].sum(axis=1).max(axis=1)
            target = np.where(up, 0.0, best - 1.0)
            error = target - weights[now, action[:, None]].sum(axis=1)
            step = self.alpha / self.tiles.tilings
            weights[now, action[:, None]] += step * error[:, None]
        self.td_error.set(float(np.abs(error).mean()))
        self.replayed.inc(plan.batches * plan.batch)


def angles(observation: Floats) -> Floats:
    """The two angles and their velocities, of an observation of the acrobot."""
    cos1, sin1, cos2, sin2, velocity1, velocity2 = observation.tolist()
    return np.array(
        [math.atan2(sin1, cos1), math.atan2(sin2, cos2), velocity1, velocity2]
    )


def picture(state: Floats) -> dict[str, Picture]:
    """What the acrobot looks like, for the run's page."""
    return {"acrobot": rods(state[0], state[0] + state[1])}
