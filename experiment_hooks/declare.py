"""Whether a metric, as the code declares it, can be one: pure checks and spellings.

The names of Episight's own metrics are reserved; a counter's ``_total`` belongs to the
exposition, so ``x`` and ``x_total`` are the same counter.
"""

import re
from typing import Any, Dict, Sequence, Tuple

from experiment_hooks import plain, wire
from experiment_hooks.metrics import bounds

MERGES = ("last", "sum", "max", "min", "mean", "per_source")
RESERVED = frozenset(
    """
    run_info run_state run_start_timestamp_seconds run_end_timestamp_seconds
    run_last_step_timestamp_seconds run_last_heartbeat_timestamp_seconds
    run_progress_promise_seconds run_expected_episodes run_expected_steps
    run_expected_epochs run_sources run_epoch steps episodes_started episodes
    episodes_lost episode_successes episode_duration_seconds episode_steps
    step_duration_seconds phase_seconds phases episode_result_last
    episode_result_recent_mean
    """.split()
)
_HISTOGRAMS = ("episode_duration_seconds", "episode_steps", "step_duration_seconds")
_PARTS = frozenset(
    f"{name}_{part}" for name in _HISTOGRAMS for part in ("bucket", "count", "sum")
)
MAX_LABELS = 16
RESERVED_LABELS = frozenset({"experiment", "run", "le", "quantile", "source"})
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class RefusedError(ValueError):
    """The metric cannot be; the text says why, for a log line."""


def metric_spec(
    name: Any, kind: str, help: Any, labels: Any, more: Dict[str, Any]
) -> wire.MetricSpec:
    """The metric that the code declares.

    Args:
        name: letters, digits and ``_``.
        kind: counter, gauge or histogram.
        help: one line.
        labels: label names.
        more: ``merge`` of a gauge, ``buckets`` of a histogram.

    Raises:
        RefusedError: it cannot be declared so.
    """
    try:
        given = (labels,) if isinstance(labels, str) else tuple(labels)
    except TypeError:
        raise RefusedError(f"metric {name}: labels are a list of names") from None
    merge = more.get("merge", "last")
    _check_name(name)
    _check_labels(name, given)
    if merge not in MERGES:
        raise RefusedError(f"metric {name}: merge is one of {', '.join(MERGES)}")
    buckets: Tuple[float, ...] = ()
    if kind == "histogram":
        try:
            buckets = bounds(more["buckets"])
        except (TypeError, ValueError) as error:
            raise RefusedError(f"metric {name}: {error}") from None
    return wire.MetricSpec(
        name=spelled(name, kind),
        type=kind,
        help=plain.text(help, 500),
        labels=given,
        merge=merge,
        buckets=buckets,
    )


def free_spec(name: Any, labels: Tuple[str, ...]) -> wire.MetricSpec:
    """The gauge behind ``publish_metric``: any name is made to fit, if it can be.

    Raises:
        RefusedError: it cannot.
    """
    text = re.sub(r"[^a-zA-Z0-9_]", "_", name) if isinstance(name, str) else ""
    text = f"_{text}" if text[:1].isdigit() else text
    _check_name(text)
    _check_labels(text, labels)
    return wire.MetricSpec(text, "gauge", labels=labels, free=True)


def spelled(name: str, kind: str) -> str:
    """The name without the suffix that the exposition gives to a counter."""
    if kind == "counter" and name.endswith("_total"):
        return name[: -len("_total")]
    return name


def same(one: wire.MetricSpec, other: wire.MetricSpec) -> bool:
    """Whether two declarations mean one metric; their help may differ."""
    return (one.name, one.type, one.labels, one.merge, one.buckets) == (
        other.name, other.type, other.labels, other.merge, other.buckets,
    )  # fmt: skip


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 200:
        raise RefusedError(
            f"metric {plain.text(name, 100)!r}: a name has letters, digits and _, "
            "and starts with a letter"
        )
    if spelled(name, "counter") in RESERVED or name in _PARTS:
        raise RefusedError(f"metric {name}: the name is reserved for Episight's own")


def _check_labels(name: str, labels: Sequence[Any]) -> None:
    if len(labels) > MAX_LABELS:
        raise RefusedError(f"metric {name}: more than {MAX_LABELS} labels")
    for label in labels:
        named = isinstance(label, str) and len(label) <= 100
        if not named or not _NAME.fullmatch(label):
            text = plain.text(label, 50)
            raise RefusedError(f"metric {name}: {text!r} cannot be the name of a label")
        if label in RESERVED_LABELS or label.startswith("__"):
            raise RefusedError(f"metric {name}: the label {label!r} is reserved")
    if len(set(labels)) != len(labels):
        raise RefusedError(f"metric {name}: a label is there twice")
