"""States as Monty's hooks send them, without a Monty; ``python -m`` plays a run."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, Dict, Optional, Tuple

import numpy as np

OBJECTS = ["mug", "bowl", "banana", "spoon", "golf_ball", "dice", "cup", "hammer"]
FACTS = {
    "monty": {
        "version": "0.55.0",
        "experiment": "MontyObjectRecognitionExperiment",
        "learning_modules": {"learning_module_0": "EvidenceGraphLM"},
        "match_criterion": "all",
        "do_train": False,
        "do_eval": True,
        "seed": 42,
        "limits": {"max_eval_steps": 50},
    }
}


def module(
    step: int, number: int, target: str, unsupervised: bool = False
) -> Tuple[Dict[str, Any], Dict[str, float]]:
    """What a learning module says, and its scores by object."""
    scores = {
        name: 1.2 * step * (0.75 if name == target else 0.6)
        + 2 * math.sin(7 * number + 3 * len(name) + step / 4)
        for name in OBJECTS
    }
    first, second = sorted(scores, key=lambda name: -scores[name])[:2]
    done = step >= 24 and number != 3
    named = {name: f"new_object{n}" for n, name in enumerate(OBJECTS)}
    shown = named if unsupervised else {name: name for name in OBJECTS}
    said = {
        "most_likely": shown[first] if step else None,
        "objects": [first],
        "evidence": scores[first],
        "second": shown[second],
        "margin": scores[first] - scores[second],
        "possible_matches": max(1, 8 - step // 3),
        "hypotheses": 12400 // (step + 1),
        "known_objects": len(OBJECTS),
        "terminal_state": "match" if done else None,
        "detected": shown[first] if done else None,
        "location": [0.01 * step, 1.5, -0.003],
        "rotation": [4.0 * number, 45.0 + 30.0 / (step + 1), 0.0],
    }
    return said, {shown[name]: score for name, score in scores.items()}


def sensor(step: int, number: int) -> Dict[str, Any]:
    """What a sensor says; off the object it feels nothing."""
    if (step + number) % 9 == 0:
        return {"on_object": False, "location": [-377.575, -353.17, 0.0]}
    return {
        "on_object": True,
        "location": [0.01 * math.sin(step / 5), 1.5, -0.002 * number],
        "features": {
            "hsv": [0.12, 0.8, 0.5 + 0.01 * step],
            "principal_curvatures_log": [math.sin(step), -0.2],
            "object_coverage": 1.0,
            "pose_fully_defined": True,
        },
    }


def images(step: int, number: int, name: str) -> Dict[str, Any]:
    """A sensor's colours and depth: a ball that moves."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius = 0.9 if name.startswith("patch") else 0.5
    far = (x - 0.4 * math.sin(step / 7 + number)) ** 2 + y**2
    on = far < radius**2
    light = np.sqrt(np.clip(radius**2 - far, 0, 1)) / radius
    colour = np.full((64, 64, 4), 255, np.uint8)
    colour[..., :3] = np.where(on, light * 255, 40)[..., None]
    colour[..., number % 3] //= 2
    depth = np.where(on, 0.45 - 0.2 * light, 1.0).astype(np.float32)
    return {name: colour, name + " depth": depth}


def moment(
    step: int,
    modules: int = 1,
    target: Optional[str] = "mug",
    unsupervised: bool = False,
) -> Dict[str, Any]:
    """What ``episode.step`` is called with."""
    names = ["patch"] if modules == 1 else [f"patch_{n}" for n in range(modules)]
    names.append("view_finder")
    scores, learning = {}, {}
    for number in range(modules):
        said, found = module(step, number, target or "mug", unsupervised)
        learning[f"LM_{number}"] = said
        scores.update({f"LM_{number}/{name}": one for name, one in found.items()})
    pictures: Dict[str, Any] = {}
    for number, name in enumerate(names):
        pictures.update(images(step, number, name))
    state = {
        "step": step,
        "phase": "matching" if step % 4 else "exploratory",
        "target": {
            "object": target,
            "rotation": [0.0, 45.0, 0.0],
            "position": [0.0, 1.5, 0.0],
        },
        "learning_modules": learning,
        "sensors": {name: sensor(step, number) for number, name in enumerate(names)},
        "motor": {
            "actions": [
                {
                    "name": ["look_up", "turn_left", "move_tangentially"][step % 3],
                    "agent_id": "agent_id_0",
                    "rotation_degrees": 4.2 + step,
                }
            ],
            "agent": {
                "id": "agent_id_0",
                "position": [0.0, 1.5, 0.2 + 0.001 * step],
                "rotation": [1.0, 0.0, 0.01 * step, 0.0],
            },
        },
        "goals": {"count": 4096 if step % 2 else 0, "highest_confidence": 0.8},
    }
    return {"state": state, "scores": scores, "images": pictures}


def play(run_id: str, modules: int, pause: float = 0.05) -> None:
    """A run that recognises one object after another, until it is stopped."""
    import experiment_hooks as eh

    with eh.open_run(
        run_id,
        run_id=run_id,
        tags={"kind": "monty"},
        facts=FACTS,
        success={"correct", "correct_mlh"},
    ) as run:
        for index in range(100_000):
            target = OBJECTS[index % len(OBJECTS)]
            with run.episode(mode="eval", epoch=0, index=index, target=target) as ep:
                for step in range(30):
                    ep.step(**moment(step, modules, target, index % 2 == 1))
                    time.sleep(pause)
                ep.finish(outcome="correct")


if __name__ == "__main__":
    play(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
