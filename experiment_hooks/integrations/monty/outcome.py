"""How an episode came out, in Monty's own words and numbers.

The statistics are those of the CSV files, by Monty's own function, at the moment at
which Monty's logger computes them: so page and files cannot say different things, also
where Monty logs nothing (pretraining). Pure but for that call, which is taken back
where it leaves something in a learning module.
"""

import inspect
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from experiment_hooks.integrations.monty import belief
from experiment_hooks.integrations.monty.belief import Belief

SUCCESS = frozenset({"correct", "correct_mlh"})
UNKNOWN = "ended"
"""The outcome where Monty has no word for it, as in supervised pretraining."""

# Monty's BasicGraphMatchingLogger.performance_options: of several learning modules the
# one whose performance stands last here says how the episode came out.
_WEAKEST_FIRST = (
    "patch_off_object",
    "no_label",
    "pose_time_out",
    "time_out",
    "consistent_child_obj",  # until 0.46
    "confused_mlh",
    "correct_mlh",
    "no_match",
    "confused",
    "correct",
)
# What each learning module's number becomes in the episode's results. Of several
# learning modules the mean is told, but the smallest rotation error.
_RESULTS = {
    "num_steps": "lm_steps",
    "num_possible_matches": "possible_matches",
    "highest_evidence": "highest_evidence",
    "episode_avg_prediction_error": "prediction_error",
    "goal_states_attempted": "goals_attempted",
    "goal_state_achieved": "goals_achieved",
    "individual_ts_reached_at_step": "steps_to_recognition",
}
_KEPT = ("result", "most_likely_object", "TFNP", "possible_match_sources")


class Outcome(NamedTuple):
    """How an episode came out.

    Attributes:
        outcome: Monty's ``primary_performance``; the best learning module's.
        results: numbers, as ``Episode.finish`` takes them.
        attributes: what else is worth keeping, by learning module.
        by_module: each learning module's own performance.
    """

    outcome: str
    results: Dict[str, float]
    attributes: Dict[str, Any]
    by_module: Dict[str, str]


def stats_of(model: Any, target: Any, seed: Any) -> Dict[str, Dict[str, Any]]:
    """The rows of the CSV file, by learning module; empty where Monty has none."""
    if not isinstance(target, Mapping):
        return {}
    from tbp.monty.frameworks.utils.logging_utils import get_stats_per_lm

    marks = [_Mark(lm) for lm in model.learning_modules]
    try:
        arguments = (model, target, seed)
        return dict(get_stats_per_lm(*arguments[: _takes(get_stats_per_lm)]))
    finally:
        for mark in marks:
            mark.take_back()


def outcome_of(
    stats: Mapping[str, Any],
    beliefs: Mapping[str, Belief],
    model: Any,
    succeeds: bool = True,
) -> Outcome:
    """The outcome of an episode.

    Args:
        stats: rows by learning module (``LM_0``), as :func:`stats_of` gives them, or
            those that Monty's loggers hand to their handlers.
        beliefs: what the learning modules believe.
        model: the Monty model, for its counters.
        succeeds: whether this kind of experiment can succeed.
    """
    rows = {lm: row for lm, row in stats.items() if str(lm).startswith("LM_")}
    by_module = {
        lm: str(row["primary_performance"])
        for lm, row in rows.items()
        if row.get("primary_performance") is not None
    }
    outcome = max(by_module.values(), key=_strength, default=UNKNOWN)
    results = {**_counters(model), **_numbers(rows), **_of_beliefs(beliefs)}
    if by_module and succeeds:
        results["accuracy"] = float(outcome in SUCCESS)
    return Outcome(outcome, results, _attributes(rows), by_module)


def _strength(performance: str) -> int:
    if performance not in _WEAKEST_FIRST:
        return -1
    return _WEAKEST_FIRST.index(performance)


def _counters(model: Any) -> Dict[str, float]:
    named = {
        "monty_steps": getattr(model, "episode_steps", None),
        "matching_steps": getattr(model, "matching_steps", None),
        "exploratory_steps": getattr(model, "exploratory_steps", None),
    }
    return {name: float(value) for name, value in named.items() if value is not None}


def _numbers(rows: Mapping[str, Mapping[str, Any]]) -> Dict[str, float]:
    found = {}
    for key, name in _RESULTS.items():
        values = _all(rows, key)
        if values:
            found[name] = sum(values) / len(values)
    errors = _all(rows, "rotation_error")
    if errors:
        found["rotation_error"] = min(errors)
    return found


def _of_beliefs(beliefs: Mapping[str, Belief]) -> Dict[str, float]:
    margins = [read.margin for read in beliefs.values() if read.margin is not None]
    counts = [read.hypotheses for read in beliefs.values() if read.hypotheses]
    apart = belief.disagreement(read.most_likely for read in beliefs.values())
    found: Dict[str, float] = {}
    if margins:
        found["evidence_margin"] = sum(margins) / len(margins)
    if counts:
        found["hypotheses"] = float(sum(counts))
    if apart is not None:
        found["disagreement"] = apart
    return found


def _all(rows: Mapping[str, Mapping[str, Any]], key: str) -> List[float]:
    found = []
    for row in rows.values():
        value = _number(row.get(key))
        if value is not None:
            found.append(value)
    return found


def _number(value: Any) -> Optional[float]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _attributes(rows: Mapping[str, Mapping[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for lm, row in rows.items():
        told = {key: row[key] for key in _KEPT if row.get(key) is not None}
        found[lm] = {"primary_performance": row.get("primary_performance"), **told}
    return found


def _takes(function: Any) -> int:
    """How many arguments: older versions of Monty's function take no seed."""
    return len(inspect.signature(function).parameters)


class _Mark:
    """Takes back the one thing that Monty's function leaves in a learning module."""

    _KEY = "relative_time"

    def __init__(self, lm: Any) -> None:
        stats = getattr(getattr(lm, "buffer", None), "stats", None)
        self._stats = stats if isinstance(stats, dict) else {}
        self._there = self._KEY in self._stats

    def take_back(self) -> None:
        if not self._there:
            self._stats.pop(self._KEY, None)
