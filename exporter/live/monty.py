"""The page's view of a Monty (tbp.monty): drawn where a run's tag ``kind`` is monty.

It is a view as users have them (see ``custom``), of what Monty's hooks send as state:
is it the right object, which learning module believes what and by how much, what the
sensors see, what is done. Pure: values in, values and HTML out. Each key of a state may
be missing, or be something else than was expected; then its place says so.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from exporter.live import words
from exporter.live.custom import Seen, SeenImage, View

NOTHING = "–"
KNOWN = {"phase", "target", "learning_modules", "sensors", "motor", "goals"}
"""What a state has at least one of, to be a Monty's."""
MAX_MODULES, MAX_SENSORS, MAX_ACTIONS, MAX_FEATURES, MAX_OBJECTS = 32, 32, 3, 16, 3
MAX_NAME = 60
UNSUPERVISED = "new_object"
"""Graphs that were learned without a name are called by this and a number."""
DEPTH = " depth"
"""The name of a sensor and this is the name of its depth image."""

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Named:
    """An object as a learning module calls it.

    Attributes:
        label: its name, and the objects that it stands for where those differ.
        right: whether it is the target; None: not known.
        stands_for: equal where two learning modules mean the same.
    """

    label: str = NOTHING
    right: bool | None = None
    stands_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Module:
    """What one learning module believes; texts are ready to be shown.

    ``terminal`` is empty while it goes on; ``off`` is the angle between the object's
    rotation and the target's, in degrees.
    """

    name: str
    believes: Named
    detected: Named
    terminal: str
    evidence: str
    ahead: str
    possible: str
    hypotheses: str
    off: str
    location: str
    rotation: str


@dataclass(frozen=True)
class Summary:
    """All learning modules in short.

    Attributes:
        believes: what most of them hold for the most likely.
        agree: how many do.
        right: how many hold the target for the most likely; None: not known of any.
        decided: how many hold any.
        total: how many there are.
        terminal: how many have come to which end.
    """

    believes: Named
    agree: int
    right: int | None
    decided: int
    total: int
    terminal: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Sensor:
    """What one sensor says and sees, its colours before its depth.

    ``says``: whether it is there at all in the state, or by its images only.
    """

    name: str
    says: bool
    on_object: bool | None
    location: str
    features: Sequence[tuple[str, str]]
    images: Sequence[tuple[str, SeenImage]]

    @property
    def at(self) -> float | None:
        """Of when its newest image is."""
        times = [one.at for _, one in self.images if one.at is not None]
        return max(times, default=None)


@dataclass(frozen=True)
class Target:
    """What is to be found."""

    name: str | None
    rotation: Numbers = ()
    position: Numbers = ()

    @property
    def pose(self) -> str:
        """Its pose, or nothing."""
        said = []
        if self.rotation:
            said.append(f"turned {degrees(self.rotation)}")
        if self.position:
            said.append(f"at {metres(self.position)}")
        return ", ".join(said)


@dataclass(frozen=True)
class Motor:
    """What is done, by whom, and what else is wanted."""

    actions: Sequence[tuple[str, str]]
    more: int
    agent: str
    position: str
    rotation: str
    goals: str
    confidence: str


class MontyView(View):
    """Replaces what is shown of the moment; the scores' charts stay."""

    def draw(self, seen: Seen) -> dict[str, str]:
        state = _mapping(seen.state)
        if seen.source is None or not KNOWN & state.keys():
            return {}
        wanted = target(state, seen.episode)
        found = modules(_mapping(state.get("learning_modules")), wanted)
        drawn = self.render(
            "monty.html",
            seen=seen,
            phase=_name(state.get("phase")) or NOTHING,
            outcome=outcome(seen.episode, seen.run),
            target=wanted,
            summary=summary(found),
            modules=found[:MAX_MODULES],
            more_modules=len(found) - MAX_MODULES,
            sensors=sensors(_mapping(state.get("sensors")), seen.images),
            motor=motor(_mapping(state.get("motor")), _mapping(state.get("goals"))),
        )
        raw = self.render("monty_state.html", seen=seen)
        return {"where": drawn, "images": Markup(), "state": raw}


# --- what is believed -----------------------------------------------------------------


def target(state: Mapping[str, Any], episode: Mapping[str, Any] | None) -> Target:
    """The state's target, or else the episode's."""
    said = _mapping(state.get("target"))
    name = _name(said.get("object"))
    if name is None and episode is not None:
        name = _name(episode.get("target"))
    return Target(name, _triple(said.get("rotation")), _triple(said.get("position")))


def outcome(episode: Mapping[str, Any] | None, run: Mapping[str, Any]) -> Named:
    """How the episode has ended, and whether that counts as a success."""
    said = _name(episode.get("outcome")) if episode is not None else None
    if said is None:
        return Named()
    good = run.get("success") or ()
    return Named(said, said in good if good else None)


def named(name: Any, objects: Sequence[str], wanted: Target) -> Named:
    """An object's name, beside the objects that its graph was learned from."""
    said = _name(name)
    if said is None:
        return Named()
    others = [one for one in objects if one != said]
    label = said
    if others:
        more = ["…"] if len(others) > MAX_OBJECTS else []
        label = f"{said} ({', '.join([*others[:MAX_OBJECTS], *more])})"
    stands_for = tuple(sorted(objects)) or (said,)
    if wanted.name is None or (not objects and said.startswith(UNSUPERVISED)):
        return Named(label, None, stands_for)
    return Named(label, wanted.name in (said, *objects), stands_for)


def modules(state: Mapping[str, Any], wanted: Target) -> list[Module]:
    """What each learning module believes, in the order in which they came."""
    return [_module(str(name), _mapping(one), wanted) for name, one in state.items()]


def _module(name: str, said: Mapping[str, Any], wanted: Target) -> Module:
    objects = [one for one in map(_name, _sequence(said.get("objects"))) if one]
    believes = named(said.get("most_likely"), objects, wanted)
    same = said.get("detected") == said.get("most_likely")
    second, margin = _name(said.get("second")), _number(said.get("margin"))
    ahead = "" if margin is None else fixed(margin, 2, "+")
    if second is not None:
        ahead = f"{ahead} over {second}" if ahead else f"before {second}"
    rotation = _triple(said.get("rotation"))
    # Of another object than the target it would say nothing.
    off = angle(rotation, wanted.rotation) if believes.right else None
    return Module(
        name=words.cut(name, MAX_NAME),
        believes=believes,
        detected=named(said.get("detected"), objects if same else [], wanted),
        terminal=_name(said.get("terminal_state")) or "",
        evidence=fixed(_number(said.get("evidence")), 2),
        ahead=ahead,
        possible=_of(said.get("possible_matches"), said.get("known_objects")),
        hypotheses=_count(said.get("hypotheses")),
        off=NOTHING if off is None else f"{off:.0f}°",
        location=metres(_triple(said.get("location"))) or NOTHING,
        rotation=degrees(rotation),
    )


def summary(found: Sequence[Module]) -> Summary:
    """The learning modules in short; what most believe is what is believed."""
    beliefs = [one.believes for one in found if one.believes.stands_for]
    counted = Counter(one.stands_for for one in beliefs)
    # Of as many, what came first: it is the same one at each step.
    most, agree = max(counted.items(), key=lambda item: item[1], default=((), 0))
    judged = [one.right for one in beliefs if one.right is not None]
    return Summary(
        next((one for one in beliefs if one.stands_for == most), Named()),
        agree,
        sum(judged) if judged else None,
        len(beliefs),
        len(found),
        Counter(one.terminal for one in found if one.terminal).most_common(),
    )


def angle(one: Numbers, other: Numbers) -> float | None:
    """The angle between two rotations, in degrees.

    Args:
        one: Euler angles in degrees, about the fixed axes x, y, z in this order, as
            Monty writes them (SciPy's ``xyz``).
        other: the same.
    """
    if len(one) != 3 or len(other) != 3:
        return None
    if not all(map(math.isfinite, (*one, *other))):
        return None
    pairs = zip(_quaternion(one), _quaternion(other), strict=True)
    cosine = abs(math.fsum(a * b for a, b in pairs))
    return math.degrees(2.0 * math.acos(min(1.0, cosine)))


def _quaternion(euler: Numbers) -> Numbers:
    halves = [math.radians(one) / 2 for one in euler]
    a, b, c = map(math.cos, halves)
    d, e, f = map(math.sin, halves)
    return (
        a * b * c + d * e * f,
        d * b * c - a * e * f,
        a * e * c + d * b * f,
        a * b * f - d * e * c,
    )


# --- what is sensed and done ----------------------------------------------------------


def sensors(state: Mapping[str, Any], images: Mapping[str, SeenImage]) -> list[Sensor]:
    """The sensors in their order, each with its images; then other images."""
    pairs: dict[str, list[tuple[str, SeenImage]]] = {str(name): [] for name in state}
    for name in sorted(images, key=lambda name: (name.endswith(DEPTH), name)):
        pairs.setdefault(name.removesuffix(DEPTH), []).append((name, images[name]))
    found = []
    for name, some in list(pairs.items())[:MAX_SENSORS]:
        said = _mapping(state.get(name))
        on = said.get("on_object")
        features = _mapping(said.get("features")).items()
        found.append(
            Sensor(
                words.cut(name, MAX_NAME),
                bool(said),
                on if isinstance(on, bool) else None,
                metres(_triple(said.get("location"))) or NOTHING,
                [_feature(*one) for one in list(features)[:MAX_FEATURES]],
                some,
            )
        )
    return found


def motor(state: Mapping[str, Any], goals: Mapping[str, Any]) -> Motor:
    """The newest actions, the agent that does them, and the goals that wait."""
    actions = [_mapping(one) for one in _sequence(state.get("actions"))]
    agent = _mapping(state.get("agent"))
    rotation = _numbers(agent.get("rotation"))
    return Motor(
        [_action(one) for one in actions[:MAX_ACTIONS]],
        len(actions) - MAX_ACTIONS,
        _name(agent.get("id")) or NOTHING,
        metres(_triple(agent.get("position"))) or NOTHING,
        " ".join(fixed(one, 2) for one in rotation[:4]) or NOTHING,
        _count(goals.get("count")),
        fixed(_number(goals.get("highest_confidence")), 2),
    )


def _action(said: Mapping[str, Any]) -> tuple[str, str]:
    """What is done, and how: ``look_up``, ``rotation 4.2°``."""
    details = []
    for name, value in list(said.items())[:MAX_FEATURES]:
        if name in ("name", "agent_id") or value is None:
            continue
        if name.endswith("_degrees"):
            text = f"{name.removesuffix('_degrees')} {_value(value)}°"
        else:
            text = f"{name} {_value(value)}"
        details.append(words.cut(text.replace("_", " "), MAX_NAME))
    return _name(said.get("name")) or NOTHING, ", ".join(details)


def _feature(name: Any, value: Any) -> tuple[str, str]:
    return words.cut(name, MAX_NAME), _value(value)


def _value(value: Any) -> str:
    """A number or a few of them; anything else as it says itself, in short."""
    number = _number(value)
    if number is not None:
        return words.real(number, 3)
    numbers = _numbers(value)
    if numbers:
        more = " …" if len(numbers) > 6 else ""
        return " ".join(words.real(one, 3) for one in numbers[:6]) + more
    return words.cut(value, MAX_NAME)


# --- odd values -----------------------------------------------------------------------


def fixed(value: float | None, digits: int, sign: str = "") -> str:
    """With so many digits behind the point, so that it does not jump about."""
    if value is None:
        return NOTHING
    if not abs(value) < 1e6:
        return f"{value:{sign}.3g}"
    # Zero is added for there is a zero with a minus.
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def metres(numbers: Numbers) -> str:
    """A place, to the millimetre."""
    return " ".join(fixed(one, 3) for one in numbers)


def degrees(numbers: Numbers) -> str:
    """Angles, to the degree."""
    return " ".join(f"{fixed(one, 0)}°" for one in numbers)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _name(value: Any) -> str | None:
    return None if value is None or value == "" else words.cut(value, MAX_NAME)


def _number(value: Any) -> float | None:
    if isinstance(value, float) or type(value) is int:
        return float(value)
    return None


def _numbers(value: Any) -> Numbers:
    """All of a list, where all are numbers."""
    found = [one for one in map(_number, _sequence(value)) if one is not None]
    return tuple(found) if len(found) == len(_sequence(value)) else ()


def _triple(value: Any) -> Numbers:
    found = _numbers(value)
    return found if len(found) == 3 else ()


def _count(value: Any) -> str:
    number = _number(value)
    return NOTHING if number is None else words.count(number)


def _of(part: Any, whole: Any) -> str:
    known = _count(whole)
    return _count(part) if known == NOTHING else f"{_count(part)} of {known}"
