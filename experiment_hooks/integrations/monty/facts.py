"""What is constant about a Monty experiment, read from its configuration.

The configuration may be as composed (OmegaConf's, with interpolations) or as the
experiment holds it (with objects and classes in it); of both only what is named here is
read, and what cannot be read is left out. No state.
"""

import re
import sys
from typing import Any, Dict, Mapping, Optional

# What run_parallel makes of the run's name in its processes.
_PARALLEL = re.compile(r"-parallel_(?:eval_episode_\d+|train_episode_.+)$")
_COUNTS = ("n_train_epochs", "n_eval_epochs", "seed", "do_train", "do_eval")
_LIMITS = ("max_train_steps", "max_eval_steps", "max_total_steps")
_MOST_VALUES = 50
_LONGEST_NAME = 200


def get(node: Any, path: str) -> Any:
    """A value by its dotted path; None where there is none, or it cannot be read."""
    for key in path.split("."):
        try:
            node = node[key] if hasattr(node, "keys") else getattr(node, key, None)
        except Exception:  # a missing key, or an interpolation that leads nowhere
            return None
    return node


def run_name(config: Any) -> Optional[str]:
    """The run's name; in a process of ``run_parallel`` that of the whole."""
    return label(_PARALLEL.sub("", str(get(config, "logging.run_name") or "")))


def label(name: Any) -> Optional[str]:
    """A text as the name of a run: one line, not too long; None if nothing is left."""
    said = "".join(one if one.isprintable() else " " for one in str(name))
    return " ".join(said.split())[:_LONGEST_NAME] or None


def is_part(config: Any) -> bool:
    """Whether the configuration is that of one of ``run_parallel``'s processes."""
    return bool(_PARALLEL.search(str(get(config, "logging.run_name") or "")))


def facts(config: Any, experiment: Optional[str] = None) -> Dict[str, Any]:
    """What to show on the run's page of the experiment with this configuration.

    Args:
        config: Monty's ``experiment.config``.
        experiment: the class of the experiment.
    """
    monty = get(config, "monty_config")
    found = {
        "version": _version(),
        "experiment": experiment,
        "model": _class(get(monty, "monty_class")),
        "learning_modules": _classes(get(monty, "learning_modules")),
        "sensor_modules": _classes(get(monty, "sensor_modules")),
        "motor_system": _class(get(monty, "motor_system_config")),
        "match_criterion": _class(get(config, "match_criterion")),
        "environment": _class(get(config, "environment.env_init_func")),
        "objects": _objects(config),
        "model_path": str(get(config, "model_name_or_path") or "") or None,
        **{key: get(config, key) for key in _COUNTS},
        "limits": _limits(config),
    }
    return {key: value for key, value in found.items() if value not in (None, {}, [])}


def short_name(target: Any) -> Optional[str]:
    """A class's name without its modules."""
    return str(target).rpartition(".")[2] if target else None


def success_is_told(experiment: Optional[str]) -> bool:
    """Whether this kind of experiment can succeed: supervised pretraining has no word
    for how an episode came out.
    """
    return "SupervisedObjectPretraining" not in (experiment or "")


def expected_episodes(config: Any) -> Dict[str, int]:
    """How many episodes one process will run, by mode, where that is known."""
    found = {}
    for mode in ("train", "eval"):
        epochs = get(config, f"n_{mode}_epochs")
        number = len(names(config, mode))
        if get(config, f"do_{mode}") and number and epochs:
            found[mode] = int(epochs) * number
    return found


def names(config: Any, mode: str) -> list:  # type: ignore[type-arg]
    """The objects (or scenes) of an epoch, in their order."""
    for key in ("object_names", "scenes"):
        given = get(config, f"{mode}_env_interface_args.{key}")
        if hasattr(given, "keys"):  # with others beside the object that is meant
            given = get(given, "targets_list")
        if given is not None:
            return list(given)
    return []


def _objects(config: Any) -> Dict[str, Any]:
    found = {mode: names(config, mode)[:_MOST_VALUES] for mode in ("train", "eval")}
    return {mode: some for mode, some in found.items() if some}


def _limits(config: Any) -> Dict[str, Any]:
    """When an episode is over: a policy's numbers, or those of before 0.5x."""
    found = {key: get(config, key) for key in _LIMITS}
    found.update(_policy(get(config, "recognition_policy")))
    return {key: value for key, value in found.items() if value is not None}


def _policy(policy: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    if not isinstance(policy, Mapping):
        return found
    for key, value in policy.items():
        if key == "policies":
            for one in value:
                found.update(_policy(one))
        elif isinstance(value, (int, float)):
            found[str(key)] = value
        elif isinstance(value, Mapping):
            found.update(_policy(value))
    return found


def _classes(nodes: Any) -> Dict[str, str]:
    if not hasattr(nodes, "items"):
        return {}
    return {str(name): str(_class(nodes[name])) for name in list(nodes)[:_MOST_VALUES]}


def _class(node: Any) -> Optional[str]:
    """The class that a node of the configuration stands for, by its short name."""
    target = get(node, "_target_") if hasattr(node, "keys") else node
    # A node of before 0.5x names the class of a learning module in it.
    for key in ("learning_module_class", "sensor_module_class"):
        target = target or get(node, key)
    if target is None:
        return None
    if isinstance(target, str):
        return short_name(target)
    return getattr(target, "__name__", None) or type(target).__name__


def _version() -> Optional[str]:
    # Not imported for this: it takes seconds, and the experiment has done so.
    version = getattr(sys.modules.get("tbp.monty"), "__version__", None)
    return None if version is None else str(version)
