"""Metrics: the promised families with their labels, within their budgets."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from experiment_hooks import wire
from exporter import checks, exposition, names, selfmetrics
from exporter.inbox import Counts
from exporter.metrics import Budget, RunMetrics
from exporter.runs import Tally
from exporter.state import State
from exporter.verdict import STATES, Rules
from exporter.web import own_metrics
from tests.making import NOON, STEPS, Teller, counter, gauge, histogram, sample
from tests.support import MetricSample, parse_metrics, promtool_says

RULES = Rules()
MODE = {"mode"}

# The table of the design's contract: each sample's name, and its labels beside
# ``experiment`` and ``run``.
PROMISED: dict[str, set[str]] = {
    "experiment_run_info": {"user", "git_commit", "python", "job", "lr"},
    "experiment_run_state": {"state"},
    "experiment_run_start_timestamp_seconds": set(),
    "experiment_run_end_timestamp_seconds": set(),
    "experiment_run_last_step_timestamp_seconds": set(),
    "experiment_run_last_heartbeat_timestamp_seconds": set(),
    "experiment_run_progress_promise_seconds": set(),
    "experiment_run_expected_episodes": MODE,
    "experiment_run_expected_steps": MODE,
    "experiment_run_expected_epochs": MODE,
    "experiment_run_sources": {"state"},
    "experiment_run_epoch": MODE,
    "experiment_steps_total": MODE,
    "experiment_episodes_started_total": MODE,
    "experiment_episodes_total": {"mode", "outcome"},
    "experiment_episodes_lost_total": MODE,
    "experiment_episode_successes_total": MODE,
    "experiment_episode_duration_seconds_bucket": {"mode", "le"},
    "experiment_episode_duration_seconds_sum": MODE,
    "experiment_episode_duration_seconds_count": MODE,
    "experiment_episode_steps_bucket": {"mode", "le"},
    "experiment_episode_steps_sum": MODE,
    "experiment_episode_steps_count": MODE,
    "experiment_step_duration_seconds_bucket": {"mode", "le"},
    "experiment_step_duration_seconds_sum": MODE,
    "experiment_step_duration_seconds_count": MODE,
    "experiment_phase_seconds_total": {"mode", "phase"},
    "experiment_phases_total": {"mode", "phase"},
    "experiment_episode_result_last": {"mode", "result"},
    "experiment_episode_result_recent_mean": {"mode", "result"},
    "experiment_hits_total": {"side"},
    "experiment_loss": set(),
    "experiment_wait_seconds_bucket": {"le"},
    "experiment_wait_seconds_sum": set(),
    "experiment_wait_seconds_count": set(),
}
OWN: dict[str, set[str]] = {
    "episight_build_info": {"version"},
    "episight_records_total": {"kind"},
    "episight_samples_total": {"kind"},
    "episight_rejected_total": {"reason"},
    "episight_samples_dropped_total": {"reason"},
    "episight_source_dropped_total": {"reason"},
    "episight_series": set(),
    "episight_series_budget": set(),
    "episight_series_refused_total": {"reason"},
    "episight_sources": {"state"},
    "episight_journal_bytes": set(),
    "episight_journal_commit_seconds_bucket": {"le"},
    "episight_journal_commit_seconds_count": set(),
    "episight_journal_commit_seconds_sum": set(),
    "episight_spans_pending": set(),
    "episight_spans_exported_total": set(),
    "episight_spans_failed_total": {"reason"},
    "episight_tap_messages_total": set(),
    "episight_tap_dropped_total": set(),
    "episight_notifications_total": {"result"},
    "episight_browsers": set(),
}

SPECS = [
    STEPS,
    wire.MetricSpec(
        "step_duration_seconds", "histogram", labels=("mode",), buckets=(0.1, 1.0)
    ),
    wire.MetricSpec("phase_seconds", "counter", labels=("mode", "phase")),
    wire.MetricSpec("phases", "counter", labels=("mode", "phase")),
    counter("hits", "side"),
    gauge("loss"),
    histogram("wait_seconds", 1.0),
]
SERIES = [
    (0, ("eval",)),
    (1, ("eval",)),
    (2, ("eval", "matching")),
    (3, ("eval", "matching")),
    (4, ("left",)),
    (5, ()),
    (6, ()),
]
TOTALS = [30.0, 10, 15, 5, 12.5, 7.5, 3.0, 4.0, 0.5, 1.0, 2, 1, 9.0]


class Bench:
    """A state, its metrics, and a clock."""

    def __init__(self, **budget: Any) -> None:
        self.state = State()
        self.now = NOON + 10
        self.metrics = RunMetrics(
            self.state,
            rules=RULES,
            budget=Budget(**budget),
            clock=lambda: self.now,
            heard=lambda source: None,
        )

    def tell(self, run: str, *records: wire.AnyRecord) -> None:
        for record in records:
            self.state.apply(record, run, record.time)

    def counters(self, run: str, count: int, number: int = 1) -> Teller:
        """A source with so many counters in a run."""
        teller = Teller(number, run)
        schema = teller.schema(
            [counter("hits", "n")], [(0, (str(n),)) for n in range(count)]
        )
        self.tell(run, teller.opened(), teller.run_opened(), schema)
        self.state.apply_sample(teller.id, sample(1, [1.0] * count), NOON)
        return teller

    def text(self, openmetrics: bool = False) -> str:
        found = b"".join(self.metrics.pieces(openmetrics)).decode()
        return f"{found}# EOF\n" if openmetrics else found

    def samples(self, name: str, **labels: str) -> list[MetricSample]:
        return [
            one
            for one in parse_metrics(self.text())
            if one.name == name and labels.items() <= one.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        (found,) = self.samples(name, **labels)
        return found.value


def whole_run(bench: Bench) -> Teller:
    """A run that has everything that the contract speaks of."""
    teller = Teller()
    launch = {
        "user": "ada",
        "git": {"commit": "abc1234"},
        "python": "3.11.2",
        "scheduler": {"SLURM_JOB_ID": "77"},
    }
    expected = {"eval": 20}
    opened = teller.run_opened(
        launch=launch,
        info={"lr": 0.1},
        expected_episodes=expected,
        expected_steps=expected,
        expected_epochs=expected,
        promise=30.0,
    )
    bench.tell("run", teller.opened(), opened, teller.schema(SPECS, SERIES))
    end = teller.ended(success=True, results={"return": 12.5})
    bench.tell("run", teller.started(), end)
    bench.state.apply_sample(teller.id, sample(1, TOTALS, epochs={"eval": 3}), NOON)
    return teller


def ended_run(bench: Bench) -> None:
    teller = whole_run(bench)
    bench.tell("run", teller.run_closed(), teller.closed(TOTALS, epochs={"eval": 3}))


def labels_by_name(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in parse_metrics(text):
        found.setdefault(one.name, set()).update(one.labels)
    return found


# --- what is promised -------------------------------------------------------------


def test_every_promised_metric_is_served_with_its_labels() -> None:
    bench = Bench()
    whole_run(bench)
    found = labels_by_name(bench.text())
    # A run's promise goes with its end, which comes then.
    bench.tell("run", Teller().run_closed())
    found.update(labels_by_name(bench.text()))
    expected = {name: {"experiment", "run"} | more for name, more in PROMISED.items()}
    assert found == expected


def test_the_table_of_names_is_what_is_served() -> None:
    bench = Bench()
    whole_run(bench)
    families = {family.name for family in bench.metrics.families()}
    own = {"experiment_hits", "experiment_loss", "experiment_wait_seconds"}
    assert families - own == set(names.RUN_FAMILIES) - {
        "experiment_run_end_timestamp_seconds"
    }
    assert {
        family.name: (family.type, family.help)
        for family in bench.metrics.families()
        if family.name not in own
    }.items() <= names.RUN_FAMILIES.items()


def test_values_are_what_the_run_said() -> None:
    bench = Bench()
    whole_run(bench)
    said = {
        ("experiment_steps_total", "mode", "eval"): 30,
        ("experiment_episodes_started_total", "mode", "eval"): 1,
        ("experiment_episodes_total", "outcome", "correct"): 1,
        ("experiment_episode_successes_total", "mode", "eval"): 1,
        ("experiment_episode_duration_seconds_sum", "mode", "eval"): 2,
        ("experiment_episode_steps_sum", "mode", "eval"): 10,
        ("experiment_step_duration_seconds_count", "mode", "eval"): 30,
        ("experiment_step_duration_seconds_sum", "mode", "eval"): 12.5,
        ("experiment_phase_seconds_total", "phase", "matching"): 7.5,
        ("experiment_phases_total", "phase", "matching"): 3,
        ("experiment_run_epoch", "mode", "eval"): 3,
        ("experiment_episode_result_last", "result", "return"): 12.5,
        ("experiment_hits_total", "side", "left"): 4,
        ("experiment_loss", "run", "run"): 0.5,
        ("experiment_wait_seconds_sum", "run", "run"): 9,
        ("experiment_run_progress_promise_seconds", "run", "run"): 30,
    }
    for (name, label, value), number in said.items():
        assert bench.value(name, **{label: value}) == number, name
    assert bench.value("experiment_run_start_timestamp_seconds") == NOON


def test_the_state_is_one_of_all_states() -> None:
    bench = Bench()
    ended_run(bench)
    found = {
        one.labels["state"]: one.value for one in bench.samples("experiment_run_state")
    }
    assert found == {state: float(state == "completed") for state in STATES}
    sources = bench.samples("experiment_run_sources")
    assert {one.labels["state"]: one.value for one in sources} == {
        "live": 0,
        "ended": 1,
        "lost": 0,
    }


def test_what_was_never_judged_has_no_successes() -> None:
    bench, teller = Bench(), Teller()
    bench.tell("run", teller.opened(), teller.started(), teller.ended())
    assert bench.samples("experiment_episode_successes_total") == []


def test_successes_are_counted_from_zero_on_where_they_are_declared() -> None:
    bench, teller = Bench(), Teller()
    opened = teller.run_opened(success=("correct",))
    bench.tell("run", teller.opened(), opened, teller.started())
    assert bench.value("experiment_episode_successes_total", mode="eval") == 0


def test_the_mean_of_results_is_over_the_last_hundred() -> None:
    bench, teller = Bench(), Teller()
    ends = [teller.ended(n, results={"return": float(n)}) for n in range(300)]
    bench.tell("run", teller.opened(), *ends)
    assert bench.value("experiment_episode_result_last") == 299.0
    assert bench.value("experiment_episode_result_recent_mean") == 249.5
    odd = teller.ended(300, results={"return": float("inf")})
    bench.tell("run", odd)
    assert bench.value("experiment_episode_result_recent_mean") == float("inf")


def test_info_labels_are_made_to_fit() -> None:
    bench, teller = Bench(), Teller()
    info = {"__a": 1, "b c": "x" * 500, "run": "no", "9": True, "ü": None, "": "e"}
    bench.tell("run", teller.opened(), teller.run_opened(info=info))
    (found,) = bench.samples("experiment_run_info")
    assert found.labels == {
        "experiment": "demo",
        "run": "run",
        "_a": "1",
        "b_c": "x" * 200,
        "_9": "True",
        "_": "e",
    }


def test_an_experiment_that_is_named_late_has_its_name_from_then_on() -> None:
    bench, teller = Bench(), Teller()
    bench.tell("run", teller.opened())
    bench.text()
    bench.tell("run", teller.run_opened("late"))
    assert bench.samples("experiment_run_info", experiment="late")
    assert bench.samples("experiment_run_info", experiment="") == []


# --- their form -------------------------------------------------------------------


@dataclass
class Part:
    """Stands for a part that the exporter's own metrics ask."""

    counts: Any = None
    state: Any = None
    healthy: bool = True
    duplicates: int = 0
    size: int = 4096
    browsers: int = 2
    spans_exported: int = 5
    traces_waiting: int = 3

    def __post_init__(self) -> None:
        self.dropped = dict.fromkeys((*selfmetrics.SAMPLES, *selfmetrics.RECORDS), 0)
        self.commit_times = Tally((0.1, 1.0))
        self.commit_times.add(0.05)
        self.traces_given_up = {"backlog": 0, "deleted": 0}
        self.spans_failed = {"refused": 1}


def own(bench: Bench, openmetrics: bool = False) -> str:
    """The exporter's own metrics, with something to say in each."""
    counts = Counts()
    counts.records["log"] += 1
    counts.samples["sample"] += 1
    counts.rejected["malformed"] += 1
    counts.dropped["replaced"] += 1
    part: Any = Part(counts)
    bench.metrics.refused["budget"] += 1
    for _, source in bench.state.sources.values():
        source.dropped = {"series": 3}
    tap: Any = SimpleNamespace(messages=7, dropped=1)
    webhook: Any = SimpleNamespace(counts={"sent": 2, "failed": 0})
    parts = selfmetrics.Parts(
        "1.2.3",
        bench.state,
        part,
        part,
        part,
        part,
        bench.metrics,
        part,
        part,
        tap,
        webhook,
    )
    return own_metrics(selfmetrics.registry(parts), openmetrics).decode()


def test_every_metric_of_the_exporters_own_is_served_with_its_labels() -> None:
    bench = Bench()
    whole_run(bench)
    found = labels_by_name(own(bench))
    assert {name: found.get(name) for name in OWN} == OWN
    assert all(name.startswith("episight_") for name in found)


def test_promtool_has_nothing_to_say_against_them() -> None:
    bench = Bench()
    ended_run(bench)
    assert promtool_says(bench.text() + own(bench)) == ""


def test_the_official_parsers_read_both_formats() -> None:
    bench = Bench()
    ended_run(bench)
    text = bench.text() + own(bench)
    found = {family.name for family in text_string_to_metric_families(text)}
    openmetrics = bench.text(openmetrics=True).replace("# EOF\n", "") + own(bench, True)
    families = list(openmetrics_families(openmetrics))
    assert {"experiment_steps", "episight_records"} <= {one.name for one in families}
    assert len(found) == len(families)


def test_the_exemplar_of_a_duration_is_the_trace() -> None:
    bench = Bench()
    teller = whole_run(bench)
    families = openmetrics_families(bench.text(openmetrics=True))
    exemplars = [
        one.exemplar
        for family in families
        for one in family.samples
        if family.name == "experiment_episode_duration_seconds" and one.exemplar
    ]
    trace = wire.trace_id("run", teller.id, 0)
    assert [(one.labels, one.value) for one in exemplars] == [
        ({"trace_id": trace}, 2.0)
    ]


def test_a_scrape_changes_nothing() -> None:
    """Two Prometheus servers see the same."""
    bench = Bench()
    ended_run(bench)
    first = bench.text()
    assert bench.text() == first
    bench.now += 100
    assert bench.text() == first


def test_series_of_an_ended_run_go_after_the_time_of_grace() -> None:
    bench = Bench(grace_seconds=900.0)
    ended_run(bench)
    bench.now = NOON + 900
    assert bench.samples("experiment_run_state")
    bench.now = NOON + 901
    assert bench.text() == ""
    assert bench.metrics._texts == {}, "their texts go too"


def test_a_run_that_is_resumed_or_begun_again_is_served_again() -> None:
    bench = Bench(grace_seconds=900.0)
    ended_run(bench)
    bench.now = NOON + 901
    assert bench.text() == bench.text() == ""
    again = Teller(5, at=NOON + 950)
    bench.tell("run", again.opened(), again.run_opened())
    assert bench.value("experiment_run_state", state="starting") == 1
    bench.tell("run", again.run_closed("completed"), again.closed())
    bench.now = NOON + 1800
    assert bench.value("experiment_run_state", state="completed") == 1
    bench.now = NOON + 1900
    assert bench.text() == bench.text() == ""
    bench.state.forget("run")
    assert bench.text() == ""
    assert bench.metrics._over == {}
    ended_run(bench)
    bench.now = NOON + 900
    assert bench.samples("experiment_run_state")


def test_the_budget_that_is_served_is_that_of_all_runs() -> None:
    bench = Bench(max_series=200, max_series_per_run=20)
    (found,) = [
        one for one in parse_metrics(own(bench)) if one.name == "episight_series_budget"
    ]
    assert found.value == 200


# --- budgets ----------------------------------------------------------------------


def served(bench: Bench, run: str) -> int:
    return len(bench.samples("experiment_hits_total", run=run))


def test_a_run_over_its_budget_loses_series_and_its_neighbour_none() -> None:
    bench = Bench(max_series_per_run=60)
    bench.counters("greedy", 500, number=1)
    bench.counters("modest", 20, number=2)
    few = served(bench, "greedy")
    assert 0 < few < 60
    assert served(bench, "modest") == 20
    assert bench.metrics.refused == {"budget": 500 - few}
    assert bench.metrics.offenders == {"greedy": "experiment_hits (budget)"}


def test_series_are_refused_when_all_runs_together_have_too_many() -> None:
    bench = Bench(max_series=100)
    for number in range(1, 4):
        bench.counters(f"run{number}", 40, number)
    bench.text()
    assert bench.metrics.series == 100
    assert served(bench, "run1") == 40
    assert bench.metrics.refused["budget"] > 0
    assert "run1" not in bench.metrics.offenders


def test_what_is_refused_counts_once_however_often_it_is_scraped() -> None:
    bench = Bench(max_series_per_run=60)
    bench.counters("greedy", 100)
    bench.text()
    before = dict(bench.metrics.refused)
    for _ in range(5):
        bench.text()
    assert dict(bench.metrics.refused) == before


def test_a_run_that_was_forgotten_and_comes_again_is_counted_again() -> None:
    bench = Bench(max_series_per_run=60)
    bench.counters("greedy", 100)
    bench.text()
    before = bench.metrics.refused["budget"]
    bench.state.forget("greedy")
    bench.text()
    assert bench.metrics.offenders == {}
    bench.counters("greedy", 100)
    bench.text()
    assert bench.metrics.refused["budget"] == 2 * before


# --- what does not go together ----------------------------------------------------


def two_runs(first: wire.MetricSpec, second: wire.MetricSpec) -> Bench:
    bench = Bench()
    for number, spec in ((1, first), (2, second)):
        teller = Teller(number, f"run{number}")
        opened = teller.opened(), teller.run_opened(), teller.schema([spec], [(0, ())])
        bench.tell(teller.run, *opened)
        totals = [1.0] * wire.slots(spec)
        bench.state.apply_sample(teller.id, sample(1, totals), NOON)
    return bench


CLASHES = [
    ("a type", counter("x"), gauge("x"), "type_conflict"),
    ("a counter's suffix", counter("x"), gauge("x_total"), "name_conflict"),
    ("a histogram's suffix", histogram("x", 1.0), gauge("x_count"), "name_conflict"),
    ("the other way round", gauge("x_sum"), histogram("x", 1.0), "name_conflict"),
]


@pytest.mark.parametrize(
    ("first", "second", "reason"), [c[1:] for c in CLASHES], ids=[c[0] for c in CLASHES]
)
def test_names_that_clash_are_refused_to_the_second(
    first: wire.MetricSpec,
    second: wire.MetricSpec,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = two_runs(first, second)
    text = bench.text(openmetrics=True)
    assert bench.metrics.refused == {reason: 1}
    offender = f"experiment_{second.name} ({reason})"
    assert bench.metrics.offenders == {"run2": offender}
    assert f"of run 'run2'): not served, the first is {offender}" in caplog.text
    list(openmetrics_families(text))


def test_names_of_our_own_families_are_not_for_others() -> None:
    bench = two_runs(gauge("run_state"), gauge("episodes_total"))
    bench.text()
    assert bench.metrics.refused == {"reserved": 1, "name_conflict": 1}
    assert len(bench.samples("experiment_run_state", run="run1")) == len(STATES)


def test_a_metric_has_only_so_many_labels() -> None:
    labels = tuple(f"label_{n}" for n in range(33))
    spec = wire.MetricSpec("x", "counter", labels=labels)
    assert checks.refusal(spec) == "malformed"
    assert checks.refusal(msgspec.structs.replace(spec, labels=labels[:32])) == ""


def test_sources_of_one_run_that_do_not_agree_are_told() -> None:
    bench = Bench()
    for number, spec in ((1, counter("x")), (2, gauge("x"))):
        teller = Teller(number)
        schema = teller.schema([spec], [(0, ())])
        bench.tell("run", teller.opened("shared"), teller.run_opened(), schema)
        bench.state.apply_sample(teller.id, sample(1, [1.0, 1.0]), NOON)
    assert bench.value("experiment_x_total") == 1.0
    assert bench.metrics.offenders == {"run": "experiment_x (conflict)"}


def test_a_malformed_metric_costs_only_itself() -> None:
    bench = Bench()
    teller = whole_run(bench)
    bad = wire.MetricSpec('x{y="1"} 5\n', "gauge")
    bench.tell("run", teller.schema([bad], [(len(SPECS), ())]))
    totals = [*TOTALS, 1.0, 1.0]
    bench.state.apply_sample(teller.id, sample(2, totals), NOON)
    list(text_string_to_metric_families(bench.text()))
    assert bench.value("experiment_hits_total") == 4.0
    assert bench.metrics.refused == {"malformed": 1}


def test_any_text_can_be_a_labels_value() -> None:
    bench, teller = Bench(), Teller()
    odd = 'a"b\\c\nd\te\x00ü\U0001f600 # {x="1"} 5'
    bench.tell("run", teller.opened(), teller.started(mode=odd), teller.ended(mode=odd))
    for openmetrics, parse in (
        (False, text_string_to_metric_families),
        (True, openmetrics_families),
    ):
        families = parse(bench.text(openmetrics))
        modes = {s.labels.get("mode") for one in families for s in one.samples}
        assert modes == {None, odd}


def test_the_bytes_are_one_copy_of_what_the_exposition_writes() -> None:
    bench = Bench()
    whole_run(bench)
    families = bench.metrics.families()
    body = b"".join(bench.metrics.pieces(False))
    assert body == exposition.render(families, False)
