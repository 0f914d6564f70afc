"""The dashboard of all runs."""

from typing import Any

from grafana_foundation_sdk.models import dashboard as d

from grafana.build import common, promql
from grafana.build.parts import Query, Row, lines, number, timeline, whole
from grafana.build.promql import RUN, of, rate

_NAME = "{{run}}"
_TOP = 20
"""Lines of so many runs can be told apart."""


def dashboard(page: str) -> d.Dashboard:
    """The dashboard; ``page`` is where the live page is."""
    return whole(
        "episight-fleet",
        "Episight / Fleet",
        "All runs: what they are doing, how far they are, and which are in trouble.",
        variables=[
            common.prometheus(),
            common.job(),
            common.experiment(),
            common.run(everything=True),
            common.page(page),
        ],
        annotations=common.annotations(),
        rows=[
            Row("Now", _now()),
            Row("Runs", [_runs(), _timeline()]),
            Row("How fast", _speed()),
            Row("How well", _outcomes()),
            Row("In trouble", _trouble()),
        ],
        since="now-6h",
    )


def _now() -> list[Any]:
    some: dict[str, Any] = {"width": 4, "height": 4, "empty": "No exporter"}

    def count(title: str, text: str, states: str, *limits: Any) -> Any:
        query = Query(promql.count_in_state(states), title)
        return number(title, text, query, limits=limits, **some)

    ended = "An ended run is counted while its series are served, for 15 minutes."
    bad = ((None, "green"), (1, "red"))
    return [
        count(
            "Running",
            "Runs that go on, or have just begun.",
            "starting|running|stopping",
            (None, "green"),
        ),
        count(
            "Stalled",
            "Runs without progress for longer than was promised.",
            "stalled",
            (None, "green"),
            (1, "orange"),
        ),
        count(
            "Failed",
            f"Runs that an exception has ended. {ended}",
            "failed",
            *bad,
        ),
        count(
            "Lost",
            f"Runs of which nobody is there any more. {ended}",
            "lost",
            *bad,
        ),
        count(
            "Ended",
            f"Runs that said that they are done, or were stopped. {ended}",
            "completed|stopped",
            (None, "blue"),
        ),
        number(
            "Steps per second",
            "Of all runs together.",
            Query(promql.none_if_there(_all_steps()), "Steps per second"),
            **some,
        ),
        common.alerts(
            {**common.BY_RUN, "mode": "Mode", "instance": "Exporter"},
            width=24,
        ),
    ]


def _all_steps() -> str:
    return f"sum(rate({of('experiment_steps_total')}[$__rate_interval]))"


def _runs() -> Any:
    return common.table_of_runs(
        "Runs",
        "Each run as it was last seen in this time range; also those whose series are "
        "not served any more.",
        common.to_run(),
        within=RUN,
        height=10,
    )


def _timeline() -> Any:
    return timeline(
        "Verdicts",
        "What each run was doing.",
        Query(promql.state(), _NAME),
        width=24,
        height=9,
        empty="No run in this time",
    )


def _speed() -> list[Any]:
    steps, episodes = of("experiment_steps_total"), of("experiment_episodes_total")
    none = "No run in this time"
    return [
        lines(
            "Steps per second, by experiment",
            "Of all runs of an experiment together.",
            Query(rate("experiment", steps), "{{experiment}}"),
            stacked=True,
            by_run=False,
            empty=none,
        ),
        lines(
            "Steps per second, by run",
            f"The {_TOP} fastest runs.",
            Query(f"topk({_TOP}, {rate('run', steps)})", _NAME),
            empty=none,
        ),
        lines(
            "Episodes per minute, by run",
            f"Episodes that ended, of the {_TOP} runs with the most.",
            Query(f"topk({_TOP}, 60 * {rate('run', episodes)})", _NAME),
            interval=common.EPISODES,
            empty="No episode has ended",
        ),
        lines(
            "Progress",
            "Episodes, or else steps or epochs, done of those that are expected; the "
            f"{_TOP} runs that are furthest.",
            Query(f"topk({_TOP}, {promql.progress('experiment, run', RUN)})", _NAME),
            unit="percentunit",
            top=1,
            empty="No run says what is expected",
        ),
    ]


def _outcomes() -> list[Any]:
    episodes = of("experiment_episodes_total")
    by = "experiment, outcome"
    successes = promql.share_of_successes("experiment, run", RUN)
    return [
        lines(
            "Successes",
            "Share of a run's episodes so far whose outcome is a success, as the run "
            f"declared it; the {_TOP} runs with the smallest.",
            Query(f"bottomk({_TOP}, {successes})", _NAME),
            unit="percentunit",
            top=1,
            empty="No run says what a success is",
        ),
        lines(
            "Outcomes per minute",
            "Episodes that ended, by their outcome.",
            Query(f"60 * {rate(by, episodes)}", "{{experiment}} {{outcome}}"),
            stacked=True,
            by_run=False,
            interval=common.EPISODES,
            empty="No episode has ended",
        ),
    ]


def _trouble() -> list[Any]:
    sources = of("experiment_run_sources", RUN, 'state="lost"')
    lost = of("experiment_episodes_lost_total")
    silent = promql.since("experiment_run_last_step_timestamp_seconds")
    return [
        lines(
            "Runs by state",
            "How many runs were in each state.",
            *(
                Query(promql.count_in_state(state), state)
                for state in ("running", "stalled", "failed", "lost")
            ),
            by_run=False,
            colours={
                "^running$": "green",
                "^stalled$": "orange",
                "^failed$": "red",
                "^lost$": "dark-red",
            },
        ),
        lines(
            "Without progress",
            f"Time since a run that goes on made progress, of the {_TOP} longest.",
            Query(f"topk({_TOP}, {silent})", _NAME),
            unit="s",
            empty="No run goes on",
        ),
        lines(
            "Processes lost",
            f"Processes gone without a word, of the {_TOP} runs with the most.",
            Query(f"topk({_TOP}, max by (run) ({sources}) > 0)", _NAME),
            empty="No process was lost",
        ),
        lines(
            "Episodes lost",
            "Episodes that ended with the loss of their process, of the "
            f"{_TOP} runs with the most.",
            Query(f"topk({_TOP}, sum by (run) ({lost}) > 0)", _NAME),
            empty="No episode was lost",
        ),
    ]
