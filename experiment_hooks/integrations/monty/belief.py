"""What a learning module believes: read from it, never changed.

Duck-typed, so that it holds for the versions of Monty at hand; where a learning module
is of another kind than Monty's evidence-based one, there is less to read. Functions of
a learning module, no state.
"""

from heapq import nlargest
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from experiment_hooks.integrations.monty.say import say_once

NOTHING_YET = "patch_off_object"
"""What Monty gives as the only object's name before there is any hypothesis."""


class Belief(NamedTuple):
    """What one learning module believes now.

    Attributes:
        evidence: of each object with hypotheses, that of its best one.
        most_likely: the object of the most likely hypothesis.
        second: the one after it.
        highest: the evidence for the most likely one.
        margin: how much more that is than for the second.
        hypotheses: how many there are, of all objects.
    """

    evidence: Dict[str, float]
    most_likely: Optional[str]
    second: Optional[str]
    highest: Optional[float]
    margin: Optional[float]
    hypotheses: Optional[int]


NOTHING = Belief({}, None, None, None, None, None)


def of(lm: Any) -> Belief:
    """What ``lm`` believes; empty for what has no evidence.

    Never raises: by the same names one's own learning module may mean something else.
    """
    try:
        return _of(lm)
    except Exception as error:
        kind, why = type(lm).__name__, type(error).__name__
        say_once(f"what a learning module {kind} believes cannot be read: {why}")
        return NOTHING


def _of(lm: Any) -> Belief:
    evidence = _evidence(lm)
    first, second = _two_highest(lm, evidence)
    highest = evidence.get(first) if first is not None else None
    margin = None
    if highest is not None and second is not None:
        margin = highest - evidence[second]
    return Belief(evidence, first, second, highest, margin, _hypotheses(lm))


def _evidence(lm: Any) -> Dict[str, float]:
    spaces = getattr(lm, "_hypotheses", None)
    if isinstance(spaces, dict):  # what Monty's own method reads, too
        return {
            str(name): float(space.evidence.max())
            for name, space in spaces.items()
            if len(space.evidence)
        }
    # Before 0.3x: get_evidence_for_each_graph.
    read = getattr(lm, "evidence_for_each_graph", None) or getattr(
        lm, "get_evidence_for_each_graph", None
    )
    if read is None:
        return {}
    ids, values = read()
    if len(ids) == 1 and ids[0] == NOTHING_YET:
        return {}
    return {str(name): float(value) for name, value in zip(ids, values)}


def _two_highest(
    lm: Any, evidence: Dict[str, float]
) -> Tuple[Optional[str], Optional[str]]:
    first = max(evidence, key=evidence.__getitem__, default=None)
    if first is None or len(evidence) < 2:
        return first, None
    rest = {name: value for name, value in evidence.items() if name != first}
    second = max(rest, key=rest.__getitem__)
    # Of two that are equal Monty's own choice comes first.
    chosen = (getattr(lm, "current_mlh", None) or {}).get("graph_id")
    if chosen == second and evidence[first] == evidence[second]:
        return second, first
    return first, second


def _hypotheses(lm: Any) -> Optional[int]:
    spaces = getattr(lm, "_hypotheses", None)
    if isinstance(spaces, dict):
        return sum(len(space.evidence) for space in spaces.values())
    spaces = getattr(lm, "evidence", None)  # before 0.3x: arrays by object
    if isinstance(spaces, dict):
        return sum(map(len, spaces.values()))
    return None


def objects_of(lm: Any, graph: Optional[str]) -> List[str]:
    """The objects that a graph was learned from; a name of its own says nothing."""
    names = (getattr(lm, "graph_id_to_target", None) or {}).get(graph) or ()
    return sorted(map(str, names))


def possible_matches(lm: Any) -> Optional[int]:
    """How many objects it may still be."""
    read = getattr(lm, "get_possible_matches", None)
    return None if read is None else len(read())


def disagreement(names: Iterable[Optional[str]]) -> Optional[float]:
    """The share of learning modules that do not believe what most believe.

    None where fewer than two believe anything; 0 where they all believe the same.
    """
    believed = [name for name in names if name is not None]
    if len(believed) < 2:
        return None
    most = max(believed.count(name) for name in set(believed))
    return 1.0 - most / len(believed)


def top(
    evidence: Dict[str, float], most: int, target: Optional[str]
) -> Dict[str, float]:
    """The largest ``most`` of them, and the target's wherever it stands."""
    if len(evidence) <= most:
        return evidence
    kept = set(nlargest(most, evidence, key=lambda name: evidence[name]))
    if target in evidence:
        kept.add(target)
    return {name: value for name, value in evidence.items() if name in kept}
