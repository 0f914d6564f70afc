"""What a user may say of how Monty is watched: the node ``episight`` of the config.

Plain values, since the step hook's part of the configuration is pickled on its way to
the processes of ``run_parallel``. What cannot be used is said, and left out: a wrong
word here is no reason for an experiment to end.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Mapping, Optional, Tuple

from experiment_hooks.integrations.monty.facts import label


@dataclass(frozen=True)
class Options:
    """How an experiment is watched.

    Attributes:
        name: the experiment's name; by default Monty's ``logging.run_name``.
        run_id: the run that all processes of one launch belong to, where the callback
            does not say it by the environment.
        endpoint: the exporter's address, before ``EPISIGHT_ENDPOINT``.
        disabled: nothing is watched, and nothing of ours is called.
        promise: seconds within which progress is promised; learned if left out.
        tags: few words to find the run by.
        images: whether the sensors' images are shown to who looks at the page.
        image_rate: images a second at most, of each sensor.
        top_k: for each learning module so many objects' evidence is shown, the largest
            and the target's.
        objects: so many objects have a counter of their own, the rest is ``other``.
        logs: whether Monty's log lines are shown on the page.
        log_rate: log lines a second in the long run.
        telemetry: whether Monty's own telemetry events become events of the episodes.
    """

    name: Optional[str] = None
    run_id: Optional[str] = None
    endpoint: Optional[str] = None
    disabled: bool = False
    promise: Optional[float] = None
    tags: Dict[str, Any] = field(default_factory=dict)
    images: bool = True
    image_rate: float = 10.0
    top_k: int = 20
    objects: int = 0
    logs: bool = True
    log_rate: float = 50.0
    telemetry: bool = True


def read(given: Mapping[str, Any]) -> Tuple[Options, List[str]]:
    """The options in a mapping, and a sentence for each that cannot be used."""
    known = {one.name: one.default for one in fields(Options)}
    said: Dict[str, Any] = {}
    problems: List[str] = []
    for name, value in given.items():
        if name not in known:
            names = ", ".join(sorted(known))
            problems.append(f"there is no option episight.{name}; there are: {names}")
        elif value is not None:
            try:
                said[name] = _as(name, known[name], value)
            except (TypeError, ValueError, OverflowError) as error:
                problems.append(f"episight.{name}={value!r}: {error}; left out")
    return Options(**said), problems


_WORDS = {"true": True, "false": False}


def _as(name: str, default: Any, value: Any) -> Any:
    if name == "tags":
        if not isinstance(value, Mapping):
            raise TypeError("give a mapping, {name: value}")
        return {str(key): one for key, one in value.items()}
    if isinstance(default, bool):
        said = _WORDS.get(str(value).lower())  # a text, if it is from the environment
        if said is None:
            raise TypeError("give true or false")
        return said
    if name in ("top_k", "objects"):
        return _above("a whole number, 0 or more", int(value), 0)
    if name in ("promise", "image_rate", "log_rate"):
        return _above("a number above 0", float(value), 1e-9)
    return label(value) if name == "name" else str(value)


def _above(what: str, number: Any, least: float) -> Any:
    if not least <= number < float("inf"):
        raise ValueError(f"give {what}")
    return number
