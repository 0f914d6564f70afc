"""What the newest step looks like: functions that are called when it is shown.

The hook says at each step what there is, which costs an assignment; the state, the
scores and the images are made of it only when a step is looked at, on the experiment's
own thread. Nothing is changed, and nothing of Monty's is kept beyond its step.

A step of Monty has emptied the processor's caches before this runs, so each new piece
of code costs several times what a loop would show: hence few calls, and of libraries
none that can be spared.
"""

import math
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from experiment_hooks.integrations.monty import belief
from experiment_hooks.integrations.monty.belief import Belief
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.plain import Made, made

PHASES = {"matching_step": "matching", "exploratory_step": "exploratory"}
MAX_ACTIONS = 10
MAX_FEATURE = 4
"""Of a feature with more elements there is nothing to see in a line of text."""
GAUGES_EVERY = 0.9
"""Seconds: nobody scrapes more often, while steps are looked at ten times a second."""
MAX_GOALS = 256
"""Of more goals (there can be one a pixel) only the number is told."""

MAX_KINDS = 256
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
        self._told: Tuple[Any, Optional[Dict[str, Any]]] = (None, None)
        self._turned: Dict[int, Tuple[Any, Optional[List[float]]]] = {}
        self._pictured = self._counted = float("-inf")
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
        self._told = None, None
        self._turned = {}

    def beliefs(self) -> Dict[str, Belief]:
        """What the learning modules believe at this step; read once a step."""
        if self._beliefs is None:
            lms = self._monty.learning_modules
            self._beliefs = {f"LM_{n}": belief.of(lm) for n, lm in enumerate(lms)}
            now = time.monotonic()
            if now - self._counted >= GAUGES_EVERY:
                self._counted = now
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

    def _target(self, target: Any) -> Optional[Dict[str, Any]]:
        if target is not self._told[0]:  # mostly it is that of the step before
            self._told = target, _target(target)
        return self._told[1]

    def _learning_module(
        self, number: int, lm: Any, beliefs: Dict[str, Belief]
    ) -> Dict[str, Any]:
        read = beliefs[f"LM_{number}"]
        mlh = getattr(lm, "current_mlh", None) if read.most_likely is not None else None
        rotation = mlh.get("rotation") if mlh else None
        turned = self._turned.get(number)
        if turned is None or turned[0] is not rotation:  # exploring leaves it as it is
            turned = self._turned[number] = rotation, _degrees(rotation)
        location = _vector(mlh.get("location")) if mlh else None
        return {**_believed(lm, read), "location": location, "rotation": turned[1]}

    def _state(self) -> Made:
        monty = self._monty
        beliefs = self.beliefs()
        state: Dict[str, Any] = {
            "step": getattr(monty, "episode_steps", None),
            "phase": phase_of(monty),
            "target": self._target(getattr(monty, "primary_target", None)),
            "learning_modules": {
                f"LM_{number}": self._learning_module(number, lm, beliefs)
                for number, lm in enumerate(monty.learning_modules)
            },
            "sensors": _sensors(monty),
            "motor": _motor(monty, self._actions),
            "goals": _goals(getattr(monty, "_goals", None)),
        }
        return made({key: value for key, value in state.items() if value is not None})


def phase_of(monty: Any) -> str:
    """``matching`` or ``exploratory``, or what a model of one's own says."""
    said = getattr(monty, "step_type", None)
    return PHASES.get(str(said), str(said or "step"))


def target_of(monty: Any) -> Optional[str]:
    """The name of the object that is shown, where Monty was told."""
    return target_name(getattr(monty, "primary_target", None))


def _target(target: Any) -> Optional[Dict[str, Any]]:
    if not isinstance(target, Mapping):
        return None
    named = {
        "object": target_name(target),
        "rotation": _vector(target.get("euler_rotation")),
        "position": _vector(target.get("position")),
    }
    return {key: value for key, value in named.items() if value is not None}


def target_name(target: Any) -> Optional[str]:
    """The name of the object in what Monty calls a target."""
    name = target.get("object") if isinstance(target, Mapping) else None
    return _text(name)


def _believed(lm: Any, read: Belief) -> Dict[str, Any]:
    return {
        "most_likely": read.most_likely,
        "objects": belief.objects_of(lm, read.most_likely),
        "evidence": read.highest,
        "second": read.second,
        "margin": read.margin,
        "possible_matches": belief.possible_matches(lm),
        "hypotheses": read.hypotheses,
        "known_objects": _known(lm),
        "terminal_state": _text(getattr(lm, "terminal_state", None)),
        "detected": _text(getattr(lm, "detected_object", None)),
    }


def _known(lm: Any) -> Optional[int]:
    read = getattr(lm, "get_all_known_object_ids", None)
    return None if read is None else len(read())


def _degrees(rotation: Any) -> Optional[List[float]]:
    """An object's rotation about x, y and z; Monty keeps the inverse of it.

    SciPy's ``rotation.inv().as_euler("xyz", degrees=True)``, with one call of SciPy's.
    """
    quaternion = getattr(rotation, "as_quat", None)
    parts = None if quaternion is None else _vector(quaternion())
    if parts is None or len(parts) != 4:
        return None
    # Monty's own class has the scalar first, SciPy's last.
    if type(rotation).__module__.partition(".")[0] == "scipy":
        x, y, z, w = parts
    else:
        w, x, y, z = parts
    x, y, z = -x, -y, -z  # the inverse
    sine = max(-1.0, min(1.0, 2.0 * (w * y - z * x)))
    turns = (
        math.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y)),
        math.asin(sine),
        math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
    )
    return [math.degrees(turn) for turn in turns]


def _sensors(monty: Any) -> Dict[str, Any]:
    found = {}
    for message in getattr(monty, "sensor_module_outputs", None) or ():
        if message is None:  # a sensor that only looks
            continue
        features = getattr(message, "non_morphological_features", None) or {}
        morphology = getattr(message, "morphological_features", None) or {}
        found[str(getattr(message, "sender_id", "sensor"))] = {
            "on_object": bool(morphology.get("on_object", False)),
            "location": _vector(getattr(message, "location", None)),
            "features": {str(name): _value(one) for name, one in features.items()},
        }
    return found


def _motor(monty: Any, actions: Any) -> Dict[str, Any]:
    motor: Dict[str, Any] = {"actions": [_action(one) for one in actions[:MAX_ACTIONS]]}
    system = getattr(monty, "motor_system", None)
    sequence = getattr(system, "action_sequence", None)
    states = sequence[-1][1] if sequence else None
    for name, agent in (states or {}).items():
        rotation = getattr(agent, "rotation", None)
        motor["agent"] = {
            "id": str(name),
            "position": _vector(getattr(agent, "position", None)),
            "rotation": _vector(getattr(rotation, "components", None)),
        }
        break
    return motor


def _action(action: Any) -> Dict[str, Any]:
    kind = type(action)
    name = _action_names.get(kind)
    if name is None:  # Monty makes it anew each time, by regular expressions
        name = str(getattr(action, "name", kind.__name__))
        if len(_action_names) < MAX_KINDS:
            _action_names[kind] = name
    fields = getattr(action, "__dict__", {})
    said = {str(key): _value(value) for key, value in fields.items() if key != "action"}
    return {"name": name, **said}


def _goals(goals: Any) -> Optional[Dict[str, Any]]:
    if goals is None:
        return None
    found: Dict[str, Any] = {"count": len(goals)}
    if len(goals) <= MAX_GOALS:
        confidence = [goal.confidence for goal in goals if goal.confidence is not None]
        found["highest_confidence"] = float(max(confidence)) if confidence else None
    return found


# --- exact builtins: what is made here goes out as it is ------------------------------


def _text(value: Any) -> Optional[str]:
    return None if value is None else str(value)


def _value(value: Any) -> Any:
    """A number, a short vector, a text; of what is none of them only the kind."""
    kind = type(value)
    if value is None or kind is float or kind is bool or kind is str:
        return value
    if isinstance(value, str):
        return str(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        # A quaternion has components, and no length.
        vector = _vector(getattr(value, "components", value))
        return kind.__name__ if vector is None else vector


def _vector(values: Any) -> Optional[List[float]]:
    """A short vector of numbers; None for what is none."""
    try:
        if not 0 < len(values) <= MAX_FEATURE:
            return None
        return list(
            map(float, values.tolist() if hasattr(values, "tolist") else values)
        )
    except (TypeError, ValueError):
        return None
