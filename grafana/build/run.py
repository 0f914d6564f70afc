"""The dashboard of one run, or of a few beside each other."""

from typing import Any

from grafana_foundation_sdk.models import dashboard as d

from grafana.build import common, promql
from grafana.build.controls import choice
from grafana.build.parts import (
    Column,
    Query,
    Row,
    bars,
    heat,
    lines,
    number,
    rows,
    timeline,
    whole,
)
from grafana.build.promql import ADDED, MODE, RUN, increase, mean, of, quantile, rate

BY = "run, mode"
_NAME = "{{run}} {{mode}}"


def dashboard(page: str) -> d.Dashboard:
    """The dashboard; ``page`` is where the live page is."""
    return whole(
        "episight-run",
        "Episight / Run",
        "One run, or several drawn together: how fast, how well, where time goes.",
        variables=[
            common.prometheus(),
            common.job(),
            common.experiment(),
            common.run(),
            common.mode(),
            *_found(),
            common.page(page),
        ],
        annotations=common.annotations(),
        rows=[
            Row("Now", _now()),
            Row("How fast", _speed()),
            Row("How well", _outcomes()),
            Row("Results of episodes", [_result()]),
            Row("How long", _durations()),
            Row("Where time goes", _phases()),
            Row("Metrics of its own", [_counter(), _gauge(), _histogram()]),
            Row("Processes", _processes()),
            Row("About", [_about()], folded=True),
        ],
    )


# --- what is found by itself ---------------------------------------------------------


def _found() -> list[Any]:
    """The names of results and of the experiment's own metrics."""
    results = of("experiment_episode_result_recent_mean")
    counters, histograms = promql.own_counters(), promql.own_histograms()
    return [
        choice(
            "result",
            "Results",
            f"label_values({results}, result)",
            "What episodes are finished with.",
            each=True,
        ),
        choice(
            "counter",
            "Own counters",
            f"label_values({counters}, __name__)",
            "Counters that the experiment itself has declared.",
            regex="/(.+)_total$/",
            each=True,
        ),
        choice(
            "gauge",
            "Own gauges",
            f"query_result({promql.own_gauges()})",
            "Gauges that the experiment itself has declared.",
            regex="/^([^{]+)/",
            each=True,
        ),
        choice(
            "histogram",
            "Own histograms",
            f"label_values({histograms}, __name__)",
            "Histograms that the experiment itself has declared.",
            regex="/(.+)_bucket$/",
            each=True,
        ),
    ]


def _repeated(panel: Any, variable: str) -> Any:
    """One for each value, three in a line; so it takes a line of its own here."""
    return panel.repeat(variable).repeat_direction("h").max_per_row(3)


def _result() -> Any:
    series = of("experiment_episode_result_recent_mean", MODE, 'result=~"$result"')
    panel = lines(
        "Result $result",
        "Mean of this result over the last 100 episodes.",
        Query(f"max by (run, mode, result) ({series})", f"{_NAME} {{{{result}}}}"),
        width=24,
        empty="No episode was finished with results",
    )
    return _repeated(panel, "result")


_UNNAMED = f"experiment, {ADDED}"
"""Labels that are not in a legend which has to name whatever others there are."""


def _counter() -> Any:
    series = f'{{__name__=~"${{counter}}_total",{RUN}}}'
    panel = lines(
        "Counter $counter, per second",
        "A counter of the experiment's own: how much it grows in a second.",
        Query(f"sum without ({_UNNAMED}) (rate({series}[$__rate_interval]))"),
        width=24,
        empty="The run has no counter of its own",
    )
    return _repeated(panel, "counter")


def _gauge() -> Any:
    series = f'{{__name__=~"$gauge",{RUN}}}'
    panel = lines(
        "Gauge $gauge",
        "A gauge of the experiment's own.",
        Query(f"max without ({_UNNAMED}) ({series})"),
        width=24,
        empty="The run has no gauge of its own",
    )
    return _repeated(panel, "gauge")


def _histogram() -> Any:
    series = f'{{__name__=~"${{histogram}}_bucket",{RUN}}}'
    panel = heat(
        "Histogram $histogram",
        "A histogram of the experiment's own, of all runs that are shown.",
        increase("le", series),
        unit="short",
        width=24,
        empty="The run has no histogram of its own",
    )
    return _repeated(panel, "histogram")


# --- rows ----------------------------------------------------------------------------


def _now() -> list[Any]:
    text = "The runs that are chosen, as they were last seen in this time range."
    return [
        common.table_of_runs(
            "Runs", text, common.to_run(), common.to_monty(), height=6
        ),
        timeline(
            "Verdict",
            "What each run was doing.",
            Query(promql.state(), "{{run}}"),
            width=9,
            height=5,
        ),
        number(
            "Time left",
            "What is expected and not done, at the pace of the last minutes; where "
            "nothing was done in these, at that since the start.",
            Query(promql.time_left(), _NAME),
            unit="dtdurations",
            decimals=1,
            width=6,
            height=5,
            interval="5m",
            empty="Nothing is expected, or the run is over",
        ),
        common.alerts({"run": "Run", "mode": "Mode"}, width=9),
    ]


def _speed() -> list[Any]:
    steps = of("experiment_steps_total", MODE)
    episodes = of("experiment_episodes_total", MODE)
    return [
        lines(
            "Steps per second",
            "Steps of all processes of a run.",
            Query(rate(BY, steps), _NAME),
            empty="No step in this time",
        ),
        lines(
            "Episodes per minute",
            "Episodes that ended, under whatever outcome.",
            Query(f"60 * {rate(BY, episodes)}", _NAME),
            interval=common.EPISODES,
            empty="No episode has ended",
        ),
        lines(
            "Progress",
            "Episodes, or else steps or epochs, done of those that are expected.",
            Query(promql.progress("experiment, run, mode"), _NAME),
            unit="percentunit",
            top=1,
            empty="The run does not say what is expected",
        ),
        lines(
            "Epoch",
            "The newest epoch, from 0.",
            Query(f"max by ({BY}) ({of('experiment_run_epoch', MODE)})", _NAME),
            empty="Its episodes have no epochs",
        ),
    ]


def _outcomes() -> list[Any]:
    episodes = of("experiment_episodes_total", MODE)
    nothing = "No episode has ended"
    return [
        lines(
            "Successes",
            "Share of the episodes that ended lately, and of all so far: those "
            "whose outcome is a success as the run declared it.",
            Query(promql.recent_share_of_successes(BY), f"{_NAME} lately"),
            Query(promql.share_of_successes(BY), f"{_NAME} in all"),
            unit="percentunit",
            top=1,
            interval=common.EPISODES,
            empty="The run does not say what a success is",
        ),
        lines(
            "Outcomes over time",
            "Shares of the episodes that ended lately, of all runs that are shown.",
            common.outcomes(episodes),
            unit="percentunit",
            stacked=True,
            top=1,
            by_run=False,
            interval=common.EPISODES,
            empty=nothing,
        ),
        bars(
            "Outcomes so far",
            "Of all episodes of a run's mode, how many came out like this.",
            Query(
                f"sum by ({BY}, outcome) ({episodes}) / on ({BY}) group_left () "
                f"(sum by ({BY}) ({episodes}) > 0)",
                f"{_NAME} {{{{outcome}}}}",
            ),
            empty=nothing,
        ),
        lines(
            "Episodes open, lost",
            "Started and not ended; and those that ended with the loss of their "
            "process.",
            Query(_open(), f"{_NAME} open"),
            Query(_lost_episodes(), f"{_NAME} lost"),
            empty="No episode has started",
        ),
    ]


def _open() -> str:
    started = of("experiment_episodes_started_total", MODE)
    ended = of("experiment_episodes_total", MODE)
    lost = of("experiment_episodes_lost_total", MODE)
    begun = f"sum by ({BY}) ({started})"
    over = f"(sum by ({BY}) ({ended}) or 0 * {begun})"
    return f"clamp_min({begun} - {over} - sum by ({BY}) ({lost}), 0)"


def _lost_episodes() -> str:
    return f"sum by ({BY}) ({of('experiment_episodes_lost_total', MODE)})"


def _durations() -> list[Any]:
    nothing = "No episode has ended in this time"
    duration, steps = "experiment_episode_duration_seconds", "experiment_episode_steps"
    step = "experiment_step_duration_seconds"
    return [
        common.durations_of_episodes(nothing),
        lines(
            "Duration of episodes: half, 95 %",
            "So long took half of the episodes at most, and 95 % of them.",
            Query(quantile(0.5, BY, duration), f"{_NAME} half", exemplars=True),
            Query(quantile(0.95, BY, duration), f"{_NAME} 95 %"),
            unit="s",
            interval=common.EPISODES,
            empty=nothing,
        ),
        common.steps_of_episodes(nothing),
        lines(
            "Steps of episodes: half, 95 %",
            "So many steps had half of the episodes at most, and 95 % of them.",
            Query(quantile(0.5, BY, steps), f"{_NAME} half", exemplars=True),
            Query(quantile(0.95, BY, steps), f"{_NAME} 95 %"),
            interval=common.EPISODES,
            empty=nothing,
        ),
        heat(
            "Duration of steps",
            "How many steps took so long, from one step of an episode to the next.",
            increase("le", of(f"{step}_bucket", MODE)),
            unit="s",
            empty="No step in this time",
        ),
        lines(
            "Duration of steps: half, 95 %",
            "So long took half of the steps at most, and 95 % of them.",
            Query(quantile(0.5, BY, step), f"{_NAME} half"),
            Query(quantile(0.95, BY, step), f"{_NAME} 95 %"),
            unit="s",
            empty="No step in this time",
        ),
    ]


def _phases() -> list[Any]:
    seconds = of("experiment_phase_seconds_total", MODE)
    count = of("experiment_phases_total", MODE)
    by = f"{BY}, phase"
    name = f"{_NAME} {{{{phase}}}}"
    nothing = "Its episodes have no phases"
    return [
        lines(
            "Time in phases",
            "Seconds a second that all processes spend in each phase.",
            Query(rate(by, seconds), name),
            unit="short",
            stacked=True,
            empty=nothing,
        ),
        bars(
            "Time in phases so far",
            "Share of all time that was spent in phases. A phase within another counts "
            "in both.",
            Query(
                f"sum by ({by}) ({seconds}) / on ({BY}) group_left () "
                f"(sum by ({BY}) ({seconds}) > 0)",
                name,
            ),
            empty=nothing,
        ),
        lines(
            "Time of a phase",
            "What one phase takes on average.",
            Query(mean(by, seconds, count), name),
            unit="s",
            interval=common.EPISODES,
            empty=nothing,
        ),
        lines(
            "Phases per minute",
            "How often phases end.",
            Query(f"60 * {rate(by, count)}", name),
            interval=common.EPISODES,
            empty=nothing,
        ),
    ]


def _processes() -> list[Any]:
    sources = of("experiment_run_sources")
    return [
        lines(
            "Processes",
            "Processes of a run by their state.",
            Query(f"max by (run, state) ({sources})", "{{run}} {{state}}"),
            colours={".* lost$": "red", ".* live$": "green", ".* ended$": "blue"},
        ),
        lines(
            "Silence",
            "Time since the run last made progress, and since a process of it was last "
            "heard; and the time within which progress is promised: beyond that the "
            "run is stalled.",
            Query(
                promql.since("experiment_run_last_step_timestamp_seconds"),
                "{{run}} step",
            ),
            Query(
                promql.since("experiment_run_last_heartbeat_timestamp_seconds"),
                "{{run}} heartbeat",
            ),
            Query(
                f"max by (run) ({of('experiment_run_progress_promise_seconds')})",
                "{{run}} promised",
            ),
            unit="s",
            empty="The run is over",
        ),
    ]


def _about() -> Any:
    info = promql.last(of("experiment_run_info"))
    return rows(
        "What is constant",
        "Who launched the run and how, and what it says of itself.",
        Column("", f"max without ({ADDED}) ({info})"),
        keys=common.BY_RUN,
        width=24,
        empty="No run in this time",
    )
