"""A Monty in small, where the real one cannot run: its classes' shape, nothing else.

The loop of Monty 0.5x, of before (0.17: no step hook), and a model that believes what
it is told. Real Montys are in ``tests/monty``.
"""

from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence


class Lm:
    """A learning module whose evidence for each object grows by a fixed amount."""

    def __init__(self, growth: Dict[str, float]) -> None:
        self.growth = growth
        self.reset()
        self.graph_id_to_target = {name: {name} for name in growth}
        self.buffer = SimpleNamespace(stats={})

    def reset(self) -> None:
        self.steps = 0
        self.terminal_state: Optional[str] = None
        self.detected_object: Optional[str] = None

    @property
    def current_mlh(self) -> Dict[str, Any]:
        best = max(self.growth, key=lambda name: self.growth[name])
        return {"graph_id": best, "location": [0.0, 1.5, 0.0], "evidence": 1.0}

    def evidence_for_each_graph(self) -> Any:
        if not self.steps:
            return ["patch_off_object"], [0]
        names = list(self.growth)
        return names, [self.growth[name] * self.steps for name in names]

    def get_possible_matches(self) -> List[str]:
        return list(self.growth)

    def get_all_known_object_ids(self) -> List[str]:
        return list(self.growth)


class _Model:
    """Matches for some steps, then explores; done when the first one recognises."""

    def __init__(self, lms: Sequence[Lm], matching: int = 3, steps: int = 5) -> None:
        self.learning_modules = list(lms)
        self.motor_system = SimpleNamespace(action_sequence=[])
        self.sensor_module_outputs: List[Any] = []
        self.experiment_mode = "train"
        self.primary_target: Any = None
        self.remembered: List[str] = []
        self._matching, self._steps = matching, steps
        self.reset()

    def reset(self) -> None:
        self.episode_steps = self.matching_steps = self.exploratory_steps = 0
        self.step_type = "matching_step"
        self.is_done = False
        for lm in self.learning_modules:
            lm.reset()

    def set_done(self) -> None:
        self.is_done = True

    def step(self, *_: Any) -> List[str]:
        self.episode_steps += 1
        if self.step_type == "matching_step":
            self.matching_steps += 1
        else:
            self.exploratory_steps += 1
        for lm in self.learning_modules:
            lm.steps += 1
        if self.matching_steps == self._matching:
            self.step_type = "exploratory_step"
            self.learning_modules[0].terminal_state = "match"
        if self.episode_steps == self._steps:
            self.is_done = True
        return [f"action {self.episode_steps}"]

    def remember(self) -> None:
        self.remembered.append(str((self.primary_target or {}).get("object")))


class Model(_Model):
    """As of today."""

    def update_ltm(self) -> None:
        self.remember()


class OlderModel(_Model):
    """Of before 0.3x, when an episode's end had another name."""

    def post_episode(self) -> None:
        self.remember()


class Experiment:
    """Trains on each object once an epoch, as Monty 0.5x does.

    Attributes:
        rows: what its logger has written, an object each.
        taken: the actions that came to the environment.
    """

    fails_at: Optional[int] = None

    def __init__(self, model: Any, hook: Any, objects: Sequence[str] = ()) -> None:
        self.model = model
        self.objects = objects or ["mug", "bowl"]
        self.config: Dict[str, Any] = {
            "do_train": True,
            "n_train_epochs": 2,
            "train_env_interface_args": {"object_names": list(self.objects)},
            "logging": {"run_name": "small"},
            "seed": 3,
        }
        self.rows: List[str] = []
        self.taken: List[Any] = []
        self.saved = 0
        self.epochs = self.episodes = 0
        self._hook = hook

    @property
    def logger_args(self) -> Dict[str, Any]:
        return {
            "train_episodes": self.episodes,
            "train_epochs": self.epochs,
            "episode_seed": 100 + self.episodes,
        }

    def __enter__(self) -> "Experiment":
        self.setup_experiment(self.config)
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def setup_experiment(self, config: Any) -> None:
        pass

    def close(self) -> None:
        self._hook.close()

    def run(self) -> None:
        self.train()

    def train(self) -> None:
        for _ in range(2):
            self.run_epoch()
        self.saved += 1

    def run_epoch(self) -> None:
        for name in self.objects:
            self.model.primary_target = {"object": name}
            self.run_episode()
        self.epochs += 1

    def run_episode(self) -> None:
        self.pre_episode()
        self.run_episode_steps()
        self.post_episode(self.model.episode_steps)

    def pre_episode(self) -> None:
        self.model.reset()

    def run_episode_steps(self) -> None:
        step = 0
        while not self._recognition_complete(step):
            self.run_step(step)
            step += 1

    def _recognition_complete(self, step: int) -> bool:
        return self.model.is_done

    def run_step(self, step: int) -> None:
        if step == self.fails_at:
            raise RuntimeError("the arm is stuck")
        actions = self.model.step("ctx", OBSERVATIONS, "proprioception")
        self.taken += self._hook("ctx", self.model, [], step, OBSERVATIONS, actions)

    def post_episode(self, steps: int) -> None:
        self.rows.append(self.model.primary_target["object"])
        self.model.update_ltm()
        self.episodes += 1


class Older(Experiment):
    """Knows of no step hook, as Monty before 0.39."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(OlderModel([Lm({"mug": 1.0})]), None)
        self.config.update(config or {})
        self.closed = 0

    def run_step(self, step: int) -> None:
        if step == self.fails_at:
            raise RuntimeError("the arm is stuck")
        self.taken += self.model.step(OBSERVATIONS)

    def post_episode(self, steps: int) -> None:
        self.rows.append(self.model.primary_target["object"])
        self.model.post_episode()
        self.episodes += 1

    def close(self) -> None:
        self.closed += 1


OBSERVATIONS: Dict[str, Any] = {"agent": {"patch": {"semantic": []}}}
