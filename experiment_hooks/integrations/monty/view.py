"""What the newest step looks like: functions that are called when it is shown.

The hook says at each step what there is, which costs an assignment; the state, the
scores and the images are made of it only when a step is looked at, on the experiment's
own thread. Nothing is changed, and nothing of Monty's is kept beyond its step.
"""

import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from experiment_hooks.integrations.monty import belief
from experiment_hooks.integrations.monty.belief import Belief
from experiment_hooks.integrations.monty.options import Options

PHASES = {"matching_step": "matching", "exploratory_step": "exploratory"}
MAX_ACTIONS = 10
MAX_FEATURE = 4
"""Of a feature with more elements there is nothing to see in a line of text."""
MAX_GOALS = 256
"""Of more goals (there can be one a pixel) only the number is told."""

_action_names: Dict[type, str] = {}

Seen = Callable[[Dict[str, Belief]], None]


class View:
    """The newest step of one experiment.

    Args:
        options: how many objects are shown, and how many images a second.
        seen: called with what the learning modules believe, when that was read.
    """

    def __init__(self, options: Options, seen: Seen) -> None:
        self._options = options
        self._seen = seen
        self._monty: Any = None
        self._observations: Any = None
        self._actions: Any = None
        self._beliefs: Optional[Dict[str, Belief]] = None
        self._pictured = float("-inf")
        # One object each, for good: they are handed over at every step.
        self.state = self._state
        self.scores = self._scores
        self.images = self._images if options.images else None

    def show(self, monty: Any, observations: Any, actions: Any) -> None:
        """This is the newest step."""
        self._monty, self._observations = monty, observations
        self._actions = actions
        self._beliefs = None

    def forget(self) -> None:
        """Nothing of an experiment is kept that has ended."""
        self._monty = self._observations = self._actions = self._beliefs = None

    def beliefs(self) -> Dict[str, Belief]:
        """What the learning modules believe at this step; read once a step."""
        if self._beliefs is None:
            lms = self._monty.learning_modules
            self._beliefs = {f"LM_{n}": belief.of(lm) for n, lm in enumerate(lms)}
            self._seen(self._beliefs)
        return self._beliefs

    def _scores(self) -> Dict[str, float]:
        target = target_of(self._monty)
        return {
            f"{lm}/{name}": value
            for lm, read in self.beliefs().items()
            for name, value in belief.top(
                read.evidence, self._options.top_k, target
            ).items()
        }

    def _images(self) -> Optional[Dict[str, Any]]:
        now = time.monotonic()
        if now - self._pictured < 0.9 / self._options.image_rate:
            return None
        self._pictured = now
        found = {}
        for sensors in self._observations.values():
            for sensor, seen in sensors.items():
                if "rgba" in seen:
                    found[str(sensor)] = seen["rgba"]
                if "depth" in seen:
                    found[f"{sensor} depth"] = seen["depth"]
        return found

    def _state(self) -> Dict[str, Any]:
        monty = self._monty
        beliefs = self.beliefs()
        state: Dict[str, Any] = {
            "step": getattr(monty, "episode_steps", None),
            "phase": phase_of(monty),
            "target": _target(getattr(monty, "primary_target", None)),
            "learning_modules": {
                f"LM_{number}": _learning_module(lm, beliefs[f"LM_{number}"])
                for number, lm in enumerate(monty.learning_modules)
            },
            "sensors": _sensors(monty),
            "motor": _motor(monty, self._actions),
            "goals": _goals(getattr(monty, "_goals", None)),
        }
        return {key: value for key, value in state.items() if value is not None}


def phase_of(monty: Any) -> str:
    """``matching`` or ``exploratory``, or what a model of one's own says."""
    said = getattr(monty, "step_type", None)
    return PHASES.get(str(said), str(said or "step"))


def target_of(monty: Any) -> Optional[str]:
    """The name of the object that is shown, where Monty was told."""
    target = getattr(monty, "primary_target", None)
    name = target.get("object") if isinstance(target, Mapping) else None
    return None if name is None else str(name)


def _target(target: Any) -> Optional[Dict[str, Any]]:
    if not isinstance(target, Mapping):
        return None
    named = {
        "object": target.get("object"),
        "rotation": _numbers(target.get("euler_rotation")),
        "position": _numbers(target.get("position")),
    }
    return {key: value for key, value in named.items() if value is not None}


def _learning_module(lm: Any, read: Belief) -> Dict[str, Any]:
    mlh = getattr(lm, "current_mlh", None) or {}
    return {
        "most_likely": read.most_likely,
        "objects": belief.objects_of(lm, read.most_likely),
        "evidence": read.highest,
        "second": read.second,
        "margin": read.margin,
        "possible_matches": belief.possible_matches(lm),
        "hypotheses": read.hypotheses,
        "known_objects": _known(lm),
        "terminal_state": getattr(lm, "terminal_state", None),
        "detected": getattr(lm, "detected_object", None),
        "location": None if read.most_likely is None else _numbers(mlh.get("location")),
        "rotation": None if read.most_likely is None else _euler(mlh.get("rotation")),
    }


def _known(lm: Any) -> Optional[int]:
    read = getattr(lm, "get_all_known_object_ids", None)
    return None if read is None else len(read())


def _euler(rotation: Any) -> Optional[List[float]]:
    # Monty's is the inverse of the object's rotation.
    if rotation is None or not hasattr(rotation, "inv"):
        return None
    return _numbers(rotation.inv().as_euler("xyz", degrees=True))


def _sensors(monty: Any) -> Dict[str, Any]:
    found = {}
    for message in getattr(monty, "sensor_module_outputs", None) or ():
        if message is None:  # a sensor that only looks
            continue
        features = getattr(message, "non_morphological_features", None) or {}
        morphology = getattr(message, "morphological_features", None) or {}
        found[str(getattr(message, "sender_id", "sensor"))] = {
            "on_object": bool(morphology.get("on_object", False)),
            "location": _numbers(getattr(message, "location", None)),
            "features": {name: _feature(value) for name, value in features.items()},
        }
    return found


def _feature(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        short = _numbers(value)
        return value if short is None else short


def _motor(monty: Any, actions: Any) -> Dict[str, Any]:
    motor: Dict[str, Any] = {"actions": [_action(one) for one in actions[:MAX_ACTIONS]]}
    sequence = getattr(monty.motor_system, "action_sequence", None)
    states = sequence[-1][1] if sequence else None
    for name, agent in (states or {}).items():
        motor["agent"] = {
            "id": str(name),
            "position": _numbers(getattr(agent, "position", None)),
            "rotation": _quaternion(getattr(agent, "rotation", None)),
        }
        break
    return motor


def _action(action: Any) -> Dict[str, Any]:
    kind = type(action)
    name = _action_names.get(kind)
    if name is None:  # Monty makes it anew each time, by regular expressions
        name = _action_names[kind] = str(getattr(action, "name", kind.__name__))
    try:
        fields = dict(action)
    except (TypeError, ValueError):  # of another kind than Monty's
        return {"name": name}
    fields.pop("action", None)  # the same name
    return {"name": name, **fields}


def _goals(goals: Any) -> Optional[Dict[str, Any]]:
    if goals is None:
        return None
    found: Dict[str, Any] = {"count": len(goals)}
    if len(goals) <= MAX_GOALS:
        confidence = [goal.confidence for goal in goals if goal.confidence is not None]
        found["highest_confidence"] = max(confidence, default=None)
    return found


def _quaternion(rotation: Any) -> Optional[List[float]]:
    parts: Tuple[Any, ...] = tuple(
        getattr(rotation, part, None) for part in ("w", "x", "y", "z")
    )
    return None if None in parts else [float(part) for part in parts]


def _numbers(values: Any) -> Optional[List[float]]:
    """A short vector as a list; None for what is none."""
    try:
        if not 0 < len(values) <= MAX_FEATURE:
            return None
        return list(map(float, values))
    except (TypeError, ValueError):
        return None
