"""What a metric may be called, and how two declarations are told to be one."""

import importlib
from typing import Any, Dict, List

import pytest

from experiment_hooks import declare, wire
from experiment_hooks.metrics import MAX_BUCKETS
from tests.support import RUNS_EXPORTER, as_name


def spec(
    name: Any = "reward", kind: str = "gauge", labels: Any = (), **more: Any
) -> wire.MetricSpec:
    if kind == "histogram":
        more.setdefault("buckets", (1.0, 2.0))
    return declare.metric_spec(name, kind, "help", labels, more)


def test_a_gauge_says_all_that_was_declared() -> None:
    assert spec(labels=["side"], merge="sum") == wire.MetricSpec(
        "reward", "gauge", "help", ("side",), "sum"
    )


def test_a_histogram_has_its_bounds_as_floats_without_infinity() -> None:
    found = spec(kind="histogram", buckets=[1, 2, float("inf")])
    assert found.buckets == (1.0, 2.0)


@pytest.mark.parametrize("name", ["a", "_a", "aB_9", "x" * 200])
def test_a_name_of_letters_digits_and_underscores_is_good(name: str) -> None:
    assert spec(name).name == name


BAD_NAMES: List[Any] = [
    "", "9a", "a-b", "a b", "a.b", "a:b", "l\u00e4ufe", "a\n", "x" * 201, 5, None, b"a",
    ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=as_name)
def test_another_name_is_refused_and_it_is_said_what_a_name_has(name: Any) -> None:
    with pytest.raises(declare.RefusedError, match="letters, digits and _"):
        spec(name)


RESERVED = [
    "steps",
    "steps_total",
    "episodes",
    "episodes_total",
    "run_info",
    "run_state",
    "episode_duration_seconds",
    "episode_duration_seconds_bucket",
    "step_duration_seconds_count",
    "episode_steps_sum",
    "phase_seconds",
    "phases_total",
    "episode_result_recent_mean",
]


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
@pytest.mark.parametrize("name", RESERVED)
def test_our_own_names_are_reserved(name: str, kind: str) -> None:
    with pytest.raises(declare.RefusedError, match="reserved"):
        spec(name, kind)


@pytest.mark.skipif(not RUNS_EXPORTER, reason="the exporter needs Python 3.11")
def test_all_names_that_the_exporter_serves_are_reserved() -> None:
    names = importlib.import_module("exporter.names").RUN_FAMILIES
    served = {name[len("experiment_") :] for name in names}
    assert served == declare.RESERVED


@pytest.mark.parametrize("merge", declare.MERGES)
def test_a_gauge_may_be_merged_by(merge: str) -> None:
    assert spec(merge=merge).merge == merge


@pytest.mark.parametrize("merge", ["avg", "", None, ["sum"]])
def test_another_merge_rule_is_refused_and_the_rules_are_named(merge: Any) -> None:
    with pytest.raises(declare.RefusedError, match="per_source"):
        spec(merge=merge)


@pytest.mark.parametrize("labels", [["side"], ("side", "arm"), "side", iter(["side"])])
def test_labels_may_come_as(labels: Any) -> None:
    assert spec(labels=labels).labels[0] == "side"


BAD_LABELS: Dict[str, Any] = {
    "reserved": ["run", "experiment", "le", "quantile", "source", "__name__"],
    "cannot be": ["", "9", "a-b", "l\u00e4uft", 5, None, "x" * 101],
}


@pytest.mark.parametrize(
    ("why", "label"),
    [(why, label) for why, labels in BAD_LABELS.items() for label in labels],
)
def test_another_label_is_refused(why: str, label: Any) -> None:
    with pytest.raises(declare.RefusedError, match=why):
        spec(labels=[label])


def test_a_label_is_not_there_twice() -> None:
    with pytest.raises(declare.RefusedError, match="twice"):
        spec(labels=["a", "a"])


def test_labels_that_are_no_list_are_refused() -> None:
    with pytest.raises(declare.RefusedError, match="list of names"):
        spec(labels=5)


def test_there_are_not_too_many_labels() -> None:
    names = [f"l{number}" for number in range(declare.MAX_LABELS + 1)]
    assert spec(labels=names[:-1])
    with pytest.raises(declare.RefusedError, match="more than"):
        spec(labels=names)


NAN, INF = float("nan"), float("inf")
BAD_BUCKETS: List[Any] = [
    (), (INF,), (1, 1), (2, 1), (NAN,), (1, NAN, 2), (1, INF, 2), (-INF, 1), "ab", 5,
    None, [None], tuple(range(MAX_BUCKETS + 1)),
]  # fmt: skip


@pytest.mark.parametrize("buckets", BAD_BUCKETS, ids=as_name)
def test_bounds_that_are_none_are_refused(buckets: Any) -> None:
    with pytest.raises(declare.RefusedError):
        spec(kind="histogram", buckets=buckets)


def test_a_counter_is_the_same_with_and_without_total() -> None:
    assert spec("wins_total", "counter").name == "wins"
    assert declare.same(spec("wins_total", "counter"), spec("wins", "counter"))


def test_a_gauge_keeps_what_only_a_counter_would_lose() -> None:
    assert spec("wins_total", "gauge").name == "wins_total"


OTHERS = [
    spec("another"),
    spec(kind="counter"),
    spec(labels=["side"]),
    spec(merge="sum"),
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_metrics_that_differ_are_two(other: wire.MetricSpec) -> None:
    assert not declare.same(spec(), other)


def test_metrics_may_differ_in_their_help() -> None:
    assert declare.same(spec(), declare.metric_spec("reward", "gauge", "?", (), {}))


FREE = {
    "loss": "loss",
    "val/loss": "val_loss",
    "top-1 accuracy": "top_1_accuracy",
    "2nd": "_2nd",
    "l\u00e4nge": "l_nge",
}


@pytest.mark.parametrize("name", FREE)
def test_a_published_name_is_made_to_fit(name: str) -> None:
    assert declare.free_spec(name, ("phase",)) == wire.MetricSpec(
        FREE[name], "gauge", labels=("phase",), free=True
    )


@pytest.mark.parametrize("name", ["", None, 5, "steps", "run/info", "x" * 201])
def test_a_published_name_that_cannot_fit_is_refused(name: Any) -> None:
    with pytest.raises(declare.RefusedError):
        declare.free_spec(name, ())


def test_a_published_label_that_cannot_be_is_refused() -> None:
    with pytest.raises(declare.RefusedError, match="reserved"):
        declare.free_spec("loss", ("run",))


def test_help_is_one_text_of_bounded_length() -> None:
    found = declare.metric_spec("a", "gauge", object(), (), {})
    assert found.help == "<builtins.object>"
    long = declare.metric_spec("a", "gauge", "x" * 10_000, (), {})
    assert 400 < len(long.help) <= 500
