"""The dashboard of single episodes: from Prometheus, and their traces from Tempo."""

from typing import Any

from grafana_foundation_sdk.models import dashboard as d

from grafana.build import common
from grafana.build.controls import (
    choice,
    dashboard_of,
    live_page,
    source_variable,
    word,
)
from grafana.build.parts import Query, Row, bars, lines, traces, whole
from grafana.build.promql import MODE, of, quantile, rate

_NOTHING = "No episode has ended in this time"
_OUTCOME = 'outcome=~"$outcome"'

# Patterns go into backquotes, where a backslash is one. ``regex`` makes alternatives of
# several, and takes dots for dots.
_RUN = "span.experiment.run.id =~ `${run:regex}`"
_MODE = "span.experiment.mode =~ `${mode:regex}`"
_EXPERIMENT = "span.experiment.name =~ `${experiment:regex}`"
_ROOT = f'name = "episode" && {_EXPERIMENT} && {_RUN} && {_MODE}'
_LONG = "duration >= ${longer_than}"

_COLUMNS = {
    "experiment.run.id": "Run",
    "experiment.mode": "Mode",
    "episode.index": "Episode",
    "episode.outcome": "Outcome",
    "episode.target": "Target",
    "episode.steps": "Steps",
    "error.type": "Error",
    "experiment.phase": "Phase",
    "experiment.phase.steps": "Steps",
}
"""Attributes of spans, and what their columns are called."""

_ABOUT = (
    "span.experiment.run.id, span.experiment.mode, span.episode.index, "
    "span.episode.target, span.episode.outcome, span.episode.steps"
)


def dashboard(page: str) -> d.Dashboard:
    """The dashboard; ``page`` is where the live page is."""
    return whole(
        "episight-episodes",
        "Episight / Episodes",
        "Single episodes: how long they took and how they came out; their traces, "
        "where there is a Tempo.",
        variables=[
            common.prometheus(),
            source_variable(
                "traces", "tempo", "Tempo", "Where the exporter sends its traces."
            ),
            common.job(),
            common.experiment(),
            common.run(everything=True),
            common.mode(),
            choice(
                "outcome",
                "Outcome",
                f"label_values({of('experiment_episodes_total', MODE)}, outcome)",
                "How the episodes came out.",
                everything=".*",
            ),
            word(
                "longer_than",
                "Longer than",
                "0s",
                "Only traces of episodes, and phases, of such a duration: 500ms, 10s.",
            ),
            common.page(page),
        ],
        annotations=common.annotations(),
        rows=[
            Row("All episodes", _all()),
            Row("Their traces (needs Tempo)", _traces()),
        ],
    )


def _all() -> list[Any]:
    episodes = of("experiment_episodes_total", MODE, _OUTCOME)
    duration = "experiment_episode_duration_seconds"
    by = "run, mode"
    return [
        common.durations_of_episodes(_NOTHING),
        lines(
            "The slowest: 99 %",
            "So long took 99 % of a run's episodes at most. A mark is an episode, and "
            "leads to its trace.",
            Query(quantile(0.99, by, duration), "{{run}} {{mode}}", exemplars=True),
            unit="s",
            interval=common.EPISODES,
            empty=_NOTHING,
        ),
        lines(
            "Outcomes per minute",
            "Episodes that ended, by their outcome.",
            Query(f"60 * {rate('outcome', episodes)}", "{{outcome}}"),
            stacked=True,
            by_run=False,
            interval=common.EPISODES,
            empty=_NOTHING,
        ),
        bars(
            "Outcomes so far",
            "Episodes that ended, by their outcome, of all runs that are shown.",
            Query(f"sort_desc(sum by (outcome) ({episodes}))", "{{outcome}}"),
            unit="short",
            top=None,
            empty=_NOTHING,
        ),
        common.table_of_runs(
            "Runs",
            "Where their episodes are, one by one.",
            live_page(common.ROW_RUN, "All episodes, on the live page", "/episodes"),
            common.to_run(),
            height=7,
        ),
    ]


def _traces() -> list[Any]:
    run = "${__value.raw:percentencode}"
    links = {"Run": [dashboard_of(run), live_page(run)]}
    some = "Of the newest 100 that fit, the longest first."
    phases = "span.experiment.phase, span.experiment.phase.steps"
    return [
        traces(
            "Episodes",
            f"Episodes with one of the outcomes that are chosen. {some}",
            f"{{ {_ROOT} && {_LONG} && span.episode.outcome =~ `${{outcome:regex}}` }} "
            f"| select({_ABOUT})",
            columns=_COLUMNS,
            links=links,
            width=24,
            height=10,
            empty="No such episode was traced in this time",
        ),
        traces(
            "Failed episodes",
            "Episodes that ended with an exception or the loss of their process, not "
            f"those whose answer was wrong. {some}",
            f"{{ {_ROOT} && {_LONG} && status = error }} "
            f"| select({_ABOUT}, span.error.type)",
            columns=_COLUMNS,
            links=links,
            width=12,
            height=9,
            empty="No episode has failed in this time",
        ),
        traces(
            "Phases",
            f"The phases of these episodes. {some}",
            f"{{ {_ROOT} }} >> {{ span.experiment.phase != nil && {_LONG} }} "
            f"| select({phases})",
            columns=_COLUMNS,
            width=12,
            height=9,
            empty="No such phase was traced in this time",
        ),
    ]
