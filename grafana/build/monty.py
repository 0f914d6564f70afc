"""The dashboard for a run of Monty."""

from typing import Any

from grafana_foundation_sdk.models import dashboard as d

from grafana.build import common, promql
from grafana.build.controls import choice
from grafana.build.parts import Query, Row, bars, lines, number, whole
from grafana.build.promql import MODE, RUN, of, rate

BY = "run, mode"
_NAME = "{{run}} {{mode}}"
_NOTHING = "No episode has ended"
_LM = 'lm=~"$lm"'

_WELL = ((None, "red"), (0.5, "orange"), (0.8, "green"))
"""Thresholds of an accuracy."""

COLOURS = {
    r".*\bcorrect$": "green",
    r".*\bcorrect_mlh$": "light-green",
    r".*\bconfused$": "red",
    r".*\bconfused_mlh$": "light-red",
    r".*\bno_match$": "purple",
    r".*\btime_out$": "orange",
    r".*\bpose_time_out$": "yellow",
    r".*\bpatch_off_object$": "light-blue",
}
"""Of outcomes, as Monty calls them."""


def dashboard(page: str) -> d.Dashboard:
    """The dashboard; ``page`` is where the live page is."""
    margin = of("experiment_monty_evidence_margin")
    return whole(
        "episight-monty",
        "Episight / Monty",
        "What a Monty recognises, how sure it is, and what takes its time.",
        variables=[
            common.prometheus(),
            common.job(),
            common.experiment(),
            common.run("experiment_monty_model_seconds_total"),
            common.mode(),
            choice(
                "lm",
                "Learning modules",
                f"label_values({margin}, lm)",
                "The learning modules.",
                everything=".*",
            ),
            common.page(page),
        ],
        annotations=common.annotations(),
        rows=[
            Row("Right or wrong", _right()),
            Row("Recognition", _recognition()),
            Row("Evidence", _evidence()),
            Row("Learning modules", _modules()),
            Row("Where time goes", _time()),
            Row("Goals and predictions", _goals(), folded=True),
            Row("Objects", _objects(), folded=True),
        ],
    )


def _recent(result: str) -> str:
    series = of("experiment_episode_result_recent_mean", MODE, f'result="{result}"')
    return f"max by ({BY}) ({series})"


def _result(title: str, text: str, *results: str, **options: Any) -> Any:
    """Means of results over the last 100 episodes."""
    several = len(results) > 1
    queries = [
        Query(_recent(one), f"{_NAME} {one.replace('_', ' ')}" if several else _NAME)
        for one in results
    ]
    text = f"{text} Mean over the last 100 episodes."
    return lines(title, text, *queries, **{"empty": _NOTHING, **options})


def _right() -> list[Any]:
    episodes = of("experiment_episodes_total", MODE)
    none = "It does not recognise: it learns with supervision"
    return [
        number(
            "Accuracy, last 100",
            "Of the last 100 episodes, those that came out correct or correct_mlh.",
            Query(_recent("accuracy"), _NAME),
            unit="percentunit",
            limits=_WELL,
            width=8,
            height=6,
            empty=none,
        ),
        number(
            "Accuracy in all",
            "Of all episodes, those that came out correct or correct_mlh.",
            Query(promql.share_of_successes(BY), _NAME),
            unit="percentunit",
            limits=_WELL,
            width=8,
            height=6,
            empty=none,
        ),
        number(
            "Episodes",
            "Episodes that have ended.",
            Query(f"sum by ({BY}) ({episodes})", _NAME),
            width=8,
            height=6,
            empty=_NOTHING,
        ),
        lines(
            "Accuracy",
            "Of the last 100 episodes, and of all so far.",
            Query(_recent("accuracy"), f"{_NAME} last 100"),
            Query(promql.share_of_successes(BY), f"{_NAME} in all"),
            unit="percentunit",
            top=1,
            empty=none,
        ),
        lines(
            "Outcomes over time",
            "Shares of the episodes that ended lately, of all runs that are shown.",
            common.outcomes(episodes),
            unit="percentunit",
            stacked=True,
            top=1,
            by_run=False,
            colours=COLOURS,
            interval=common.EPISODES,
            empty=_NOTHING,
        ),
        bars(
            "Outcomes so far",
            "Of all episodes of a run's mode, how many came out like this.",
            Query(
                f"sum by ({BY}, outcome) ({episodes}) / on ({BY}) group_left () "
                f"(sum by ({BY}) ({episodes}) > 0)",
                f"{_NAME} {{{{outcome}}}}",
            ),
            colours=COLOURS,
            width=24,
            height=7,
            empty=_NOTHING,
        ),
    ]


def _recognition() -> list[Any]:
    return [
        _result(
            "Rotation error",
            "Degrees by which the pose was off, of the best learning module and where "
            "the object was right.",
            "rotation_error",
            unit="degree",
            empty="No object was recognised",
        ),
        _result(
            "Steps to recognition",
            "Steps after which a learning module came to its terminal state.",
            "steps_to_recognition",
            empty="No learning module has come to a terminal state",
        ),
        _result(
            "Matching and exploratory steps",
            "Monty's steps of each type in an episode.",
            "matching_steps",
            "exploratory_steps",
        ),
        common.steps_of_episodes(_NOTHING),
    ]


def _evidence() -> list[Any]:
    def by_module(title: str, text: str, metric: str) -> Any:
        series = of(metric, RUN, _LM)
        query = Query(f"max by (run, lm) ({series})", "{{run}} {{lm}}")
        return lines(title, text, query, empty="No step was looked at yet")

    return [
        by_module(
            "Evidence margin",
            "By how much the most likely object is ahead of the second, by learning "
            "module. Near 0 it is undecided.",
            "experiment_monty_evidence_margin",
        ),
        by_module(
            "Highest evidence",
            "Evidence for the most likely hypothesis, by learning module.",
            "experiment_monty_highest_evidence",
        ),
        by_module(
            "Hypotheses",
            "Hypotheses of all objects that a learning module has.",
            "experiment_monty_hypotheses",
        ),
        _result(
            "At the end of episodes",
            "Evidence margin of the learning modules, and objects that were still "
            "possible.",
            "evidence_margin",
            "possible_matches",
        ),
    ]


def _modules() -> list[Any]:
    series = of("experiment_monty_lm_episodes_total", MODE, _LM)
    right = of(
        "experiment_monty_lm_episodes_total",
        MODE,
        _LM,
        'performance=~"correct|correct_mlh"',
    )
    by = "run, mode, lm"
    none = "It does not recognise: it learns with supervision"
    apart = of("experiment_monty_lm_disagreement")
    return [
        lines(
            "Accuracy by learning module",
            "Of all episodes, those in which a learning module was right by itself.",
            Query(
                f"(sum by ({by}) ({right}) or 0 * sum by ({by}) ({series})) "
                f"/ sum by ({by}) ({series})",
                f"{_NAME} {{{{lm}}}}",
            ),
            unit="percentunit",
            top=1,
            empty=none,
        ),
        lines(
            "Disagreement",
            "Share of learning modules that do not believe what most do: at this "
            "moment, and at the end of episodes (mean over the last 100).",
            Query(f"max by (run) ({apart})", "{{run}} now"),
            Query(_recent("disagreement"), f"{_NAME} at the end"),
            unit="percentunit",
            top=1,
            empty="It has one learning module, or none believes anything yet",
        ),
        bars(
            "Performance of learning modules",
            "Of all episodes, how many came out like this for each learning module.",
            Query(
                f"sum by ({by}, performance) ({series}) / on ({by}) group_left () "
                f"sum by ({by}) ({series})",
                f"{_NAME} {{{{lm}}}} {{{{performance}}}}",
            ),
            colours=COLOURS,
            width=24,
            empty=none,
        ),
    ]


def _time() -> list[Any]:
    model = of("experiment_monty_model_seconds_total", MODE)
    around = of("experiment_monty_environment_seconds_total", MODE)
    steps = of("experiment_steps_total", MODE)
    phases = of("experiment_phase_seconds_total", MODE, 'phase=~"matching|exploratory"')
    both = " + ".join(f"sum(rate({s}[$__rate_interval]))" for s in (model, around))
    return [
        lines(
            "Model and environment",
            "Shares of the time in the model's steps and between them, which is the "
            "simulator's, mostly; of all runs that are shown.",
            Query(promql.share(rate("mode", model), both), "{{mode}} model"),
            Query(promql.share(rate("mode", around), both), "{{mode}} environment"),
            unit="percentunit",
            stacked=True,
            top=1,
            by_run=False,
            empty="No step in this time",
        ),
        lines(
            "Time of a step",
            "Mean time of a step of the model, and of the environment between two.",
            Query(promql.mean(BY, model, steps), f"{_NAME} model"),
            Query(promql.mean(BY, around, steps), f"{_NAME} environment"),
            unit="s",
            empty="No step in this time",
        ),
        lines(
            "Matching and exploratory time",
            "Seconds a second in each phase.",
            Query(rate(f"{BY}, phase", phases), f"{_NAME} {{{{phase}}}}"),
            stacked=True,
            interval=common.EPISODES,
            empty="No phase has ended in this time",
        ),
        lines(
            "Steps per second",
            "Monty's steps, of all processes of a run.",
            Query(rate(BY, steps), _NAME),
            empty="No step in this time",
        ),
    ]


def _goals() -> list[Any]:
    return [
        _result(
            "Goals",
            "Goals that learning modules attempted in an episode, and achieved.",
            "goals_attempted",
            "goals_achieved",
            empty="No learning module sets goals",
        ),
        _result(
            "Prediction error",
            "How far sensations were from what was predicted.",
            "prediction_error",
            empty="This Monty does not tell its prediction error",
        ),
    ]


def _objects() -> list[Any]:
    series = of("experiment_monty_object_episodes_total", MODE)
    right = of(
        "experiment_monty_object_episodes_total",
        MODE,
        'outcome=~"correct|correct_mlh"',
    )
    by = "run, mode, object"
    return [
        bars(
            "Accuracy by object",
            "Of an object's episodes, those that came out right.",
            Query(
                f"(sum by ({by}) ({right}) or 0 * sum by ({by}) ({series})) "
                f"/ sum by ({by}) ({series})",
                f"{_NAME} {{{{object}}}}",
            ),
            limits=_WELL,
            empty="Objects are told apart with the option episight.objects",
        ),
        bars(
            "Episodes by object",
            "Episodes of each object, by how they came out.",
            Query(
                f"sum by ({by}, outcome) ({series})",
                f"{_NAME} {{{{object}}}} {{{{outcome}}}}",
            ),
            unit="short",
            top=None,
            colours=COLOURS,
            empty="Objects are told apart with the option episight.objects",
        ),
    ]
