"""What several dashboards have: variables, annotations, and the table of runs."""

from collections.abc import Mapping
from typing import Any

from grafana_foundation_sdk.models import dashboard as d

from grafana.build import promql
from grafana.build.controls import (
    annotation,
    choice,
    dashboard_of,
    live_page,
    source_variable,
    word,
)
from grafana.build.parts import Column, Query, heat, rows, state_words, words
from grafana.build.promql import MODE, RUN, RUNS, increase, last, last_total, of

ROW_RUN = "${__data.fields.Run:percentencode}"
"""The run of a table's row, in the words of Grafana's links."""

BY_RUN = {"experiment": "Experiment", "run": "Run"}


def prometheus() -> Any:
    """Which Prometheus."""
    text = "The Prometheus that scrapes the exporter."
    return source_variable("datasource", "prometheus", "Prometheus", text)


def job() -> Any:
    """Which scrape jobs: what is scraped by two is not to be counted twice."""
    text = "The scrape jobs of the exporters."
    query = "label_values(episight_build_info, job)"
    return choice("job", "Job", query, text, everything=".+")


def experiment() -> Any:
    """Which experiments."""
    series = of("experiment_run_start_timestamp_seconds", 'job=~"$job"')
    query = f"label_values({series}, experiment)"
    text = "The experiments, by their names."
    return choice("experiment", "Experiment", query, text, everything=".*")


def run(among: str = "", *, everything: bool = False) -> Any:
    """Which runs, the newest first; with ``among`` only those that have such series."""
    started = last(of("experiment_run_start_timestamp_seconds", RUNS))
    found = f"max by (run) ({started})"
    if among:
        found += f" and on (run) {last(of(among, RUNS))}"
    query = f"query_result(sort_desc(topk(1000, {found})))"
    return choice(
        "run",
        "Run",
        query,
        "The runs of the time range, the newest first; several are drawn together.",
        regex=r'/run="((?:[^"\\]|\\.)*)"/',
        everything=".*" if everything else "",
        sort=d.VariableSort.DISABLED,
    )


def mode() -> Any:
    """Which modes."""
    query = f"label_values({of('experiment_episodes_started_total')}, mode)"
    text = "The modes of the episodes, such as train and eval."
    return choice("mode", "Mode", query, text, everything=".*")


def page(address: str) -> Any:
    """Where the live page is, for the links to it."""
    text = "The address of the exporter's page, as your browser sees it; for links."
    return word("page", "Live page", address, text)


# --- annotations ---------------------------------------------------------------------


def annotations() -> list[Any]:
    """When runs started, ended well or were stopped, and failed or were lost."""
    start = promql.lately(of("experiment_run_start_timestamp_seconds"))
    return [
        annotation(
            "Starts",
            f"max by (experiment, run) ({start}) * 1000",
            "light-blue",
            "{{run}} started",
            "{{experiment}}",
        ),
        annotation(
            "Ends",
            _ended("completed|stopped"),
            "purple",
            "{{run}} {{state}}",
            "{{experiment}}",
        ),
        annotation(
            "Failures",
            _ended("failed|lost"),
            "red",
            "{{run}} {{state}}",
            "{{experiment}}",
        ),
    ]


def _ended(states: str) -> str:
    """Milliseconds at which runs came into one of these states, with its name."""
    ends = promql.lately(of("experiment_run_end_timestamp_seconds"))
    state = promql.lately(of("experiment_run_state", RUN, f'state=~"{states}"'))
    there = f"max by (experiment, run, state) ({state}) == 1"
    by = "experiment, run"
    return f"max by ({by}) ({ends}) * 1000 * on ({by}) group_right () ({there})"


# --- episodes ------------------------------------------------------------------------

EPISODES = "1m"
"""The least step where episodes are counted: there are few of them."""


def durations_of_episodes(empty: str) -> Any:
    """How long episodes took, as a heatmap; ``empty`` is said where there are none."""
    return heat(
        "Duration of episodes",
        "How many episodes took so long, of all runs that are shown. A mark is an "
        "episode, and leads to its trace.",
        increase("le", of("experiment_episode_duration_seconds_bucket", MODE)),
        unit="s",
        interval=EPISODES,
        empty=empty,
    )


def outcomes(episodes: str) -> Query:
    """How episodes came out lately: shares, of all runs that are shown."""
    all_of_them = f"sum(increase({episodes}[$__rate_interval]))"
    lately = promql.share(increase("outcome", episodes), all_of_them)
    return Query(lately, "{{outcome}}")


def steps_of_episodes(empty: str) -> Any:
    """How many steps episodes had, likewise."""
    return heat(
        "Steps of episodes",
        "How many episodes had so many steps. A mark is an episode, and leads to "
        "its trace.",
        increase("le", of("experiment_episode_steps_bucket", MODE)),
        unit="short",
        interval=EPISODES,
        empty=empty,
    )


# --- the table of runs ---------------------------------------------------------------


def table_of_runs(
    title: str, text: str, *others: Any, within: str = MODE, **frame: Any
) -> Any:
    """A row for each run, as it was last seen in the time range.

    ``others`` are links beside the one to the live page; ``within`` is a selector for
    what is counted by mode.
    """
    by = "experiment, run"

    def newest(name: str) -> str:
        return f"max by ({by}) ({last(of(name))})"

    def total(name: str) -> str:
        return f"sum by ({by}) ({last_total(of(name, within))})"

    verdicts = {
        "mappings": [state_words()],
        "custom.cellOptions": {"type": "color-background", "mode": "basic"},
    }
    bar = {
        "min": 0,
        "max": 1,
        "custom.cellOptions": {"type": "gauge", "mode": "basic"},
        "color": {"mode": "fixed", "fixedColor": "blue"},
    }
    columns = [
        Column("State", promql.state(seen=True), "none", verdicts),
        Column("Progress", promql.progress(by, within, seen=True), "percentunit", bar),
        Column("Steps", total("experiment_steps_total")),
        Column("Episodes", total("experiment_episodes_total")),
        Column(
            "Successes",
            promql.share_of_successes(by, within, seen=True),
            "percentunit",
        ),
        Column("Processes lost", _lost(by)),
        Column(
            "Last progress",
            f"{newest('experiment_run_last_step_timestamp_seconds')} * 1000",
            "dateTimeFromNow",
        ),
        Column(
            "Started",
            f"{newest('experiment_run_start_timestamp_seconds')} * 1000",
            "dateTimeAsLocal",
        ),
    ]
    links = {"Run": [*others, live_page(ROW_RUN)]}
    frame = {"width": 24, "empty": "No run in this time", **frame}
    return rows(
        title, text, *columns, keys=BY_RUN, links=links, sort="Started", **frame
    )


def _lost(by: str) -> str:
    sources = of("experiment_run_sources", RUN, 'state="lost"')
    return f"max by ({by}) ({last(sources)})"


def to_run() -> Any:
    """A link of a table's row to the run's dashboard."""
    return dashboard_of(ROW_RUN)


def to_monty() -> Any:
    """A link of a table's row to the run's dashboard for Monty."""
    return dashboard_of(ROW_RUN, "episight-monty", "This run as a Monty")


# --- alerts --------------------------------------------------------------------------


def alerts(about: Mapping[str, str], **frame: Any) -> Any:
    """A row for each alert that fires; ``about`` are the labels that say of what.

    That a run is done (``severity="info"``) is none here.
    """
    names = 'alertname=~"Episight.+",severity!="info"'
    keys = {"alertname": "Alert", "severity": "Severity", **about}
    by = ", ".join(keys)
    since = of("ALERTS_FOR_STATE", RUN, names)
    firing = of("ALERTS", RUN, names, 'alertstate="firing"')
    meant = {"critical": "red", "warning": "orange"}
    panel = rows(
        "Alerts",
        "What fires now, where Prometheus has the rules that come with Episight; "
        "since: when it was seen first.",
        Column(
            "Since",
            f"max by ({by}) ({since}) * 1000 and on ({by}) max by ({by}) ({firing})",
            "dateTimeFromNow",
        ),
        keys=keys,
        links={"Run": [to_run(), live_page(ROW_RUN)]},
        sort="Since",
        empty="No alert",
        height=5,
        **frame,
    )
    in_colour = [
        d.DynamicConfigValue("mappings", [words({one: one for one in meant}, meant)]),
        d.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
    ]
    return panel.override_by_name("Severity", in_colour)
