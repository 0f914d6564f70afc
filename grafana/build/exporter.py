"""The dashboard of the exporter itself: is it well, does it lose anything."""

from typing import Any

from grafana_foundation_sdk.models import dashboard as d

from grafana.build import common
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
    whole,
    words,
)
from grafana.build.promql import EXPORTER, increase, last, of, rate

_NAME = "{{instance}}"


def dashboard(page: str) -> d.Dashboard:
    """The dashboard; ``page`` is where the live page is."""
    return whole(
        "episight-exporter",
        "Episight / Exporter",
        "The exporter's own health: what comes in, what is lost, how far it lags, and "
        "what it has room for.",
        variables=[
            common.prometheus(),
            common.job(),
            choice(
                "instance",
                "Exporter",
                'label_values(episight_build_info{job=~"$job"}, instance)',
                "The exporters, by their addresses.",
                everything=".+",
            ),
            common.page(page),
        ],
        annotations=[],
        rows=[
            Row("Is it well", _health()),
            Row("What comes in", _incoming()),
            Row("What is lost", _losses()),
            Row("Lag", _lag()),
            Row("Room", _room()),
            Row("Traces, tap, notifications", _onwards()),
        ],
    )


def _of(name: str, *more: str) -> str:
    return of(name, EXPORTER, *more)


def _max(series: str) -> str:
    return f"max by (instance) ({series})"


def _by(label: str, name: str) -> Query:
    """A counter by a label; 0 where an exporter is there and has counted none."""
    counted = rate(f"instance, {label}", _of(name))
    zero = f"0 * {_max(_of('episight_build_info'))}"
    none = f'label_replace({zero}, "{label}", "none", "", "")'
    legend = f"{_NAME} {{{{{label}}}}}"
    return Query(f"{counted} or on (instance) {none}", legend)


def _health() -> list[Any]:
    good = ((None, "red"), (1, "green"))
    some: dict[str, Any] = {"width": 4, "height": 4}
    return [
        number(
            "Up",
            "Whether the last scrape went well.",
            Query(f"min by (instance) ({_of('up')})", _NAME),
            limits=good,
            mappings=[words({"0": "down", "1": "up"})],
            **some,
        ),
        number(
            "Journal can be written",
            "Where it cannot, the disk refuses: what comes is held in memory, and "
            "tried again.",
            Query(f"min by (instance) ({_of('episight_journal_healthy')})", _NAME),
            limits=good,
            mappings=[words({"0": "no", "1": "yes"})],
            **some,
        ),
        number(
            "Processes connected",
            "Processes of experiments that are there.",
            Query(_max(_of("episight_sources", 'state="live"')), _NAME),
            **some,
        ),
        number(
            "Runs known",
            "In memory and in the journal, ended ones too.",
            Query(_max(_of("episight_runs")), _NAME),
            **some,
        ),
        number(
            "Browsers",
            "Browsers that look at a page now.",
            Query(_max(_of("episight_browsers")), _NAME),
            **some,
        ),
        rows(
            "Versions",
            "The exporters, and their versions.",
            Column(
                "", f"max by (instance, version) ({last(_of('episight_build_info'))})"
            ),
            keys={"instance": "Exporter", "version": "Version"},
            empty="No exporter",
            **some,
        ),
    ]


def _incoming() -> list[Any]:
    sources = _of("episight_sources")
    return [
        lines(
            "Records per second",
            "What may not be lost: starts and ends, results, log lines.",
            _by("kind", "episight_records_total"),
            unit="recps",
            by_run=False,
        ),
        lines(
            "Samples per second",
            "Totals and heartbeats: the newest wins.",
            _by("kind", "episight_samples_total"),
            unit="mps",
            by_run=False,
        ),
        lines(
            "Moments per second",
            "States, images and streams; more of them while somebody looks.",
            _by("kind", "episight_moments_total"),
            unit="mps",
            by_run=False,
        ),
        lines(
            "Processes",
            "Processes by their state.",
            Query(f"max by (instance, state) ({sources})", f"{_NAME} {{{{state}}}}"),
            by_run=False,
            colours={".* lost$": "red", ".* live$": "green", ".* ended$": "blue"},
        ),
    ]


def _losses() -> list[Any]:
    return [
        lines(
            "Rejected per second",
            "Messages that could not be used, by reason.",
            _by("reason", "episight_rejected_total"),
            unit="cps",
            by_run=False,
        ),
        lines(
            "Dropped by experiments, per second",
            "What experiments dropped themselves, since there was no room for it.",
            _by("reason", "episight_source_dropped_total"),
            unit="cps",
            by_run=False,
        ),
        lines(
            "Records missing",
            "Records that were announced and never came, of processes that are over.",
            Query(_max(_of("episight_records_missing")), _NAME),
            by_run=False,
            limits=((None, "green"), (1, "red")),
        ),
        lines(
            "Records not written, per second",
            "Records that were not acknowledged: they stay with their experiments and "
            "come again.",
            _by("reason", "episight_records_unwritten_total"),
            unit="cps",
            by_run=False,
        ),
        lines(
            "Samples dropped per second",
            "Samples that newer ones made useless: nothing is lost by it.",
            _by("reason", "episight_samples_dropped_total"),
            unit="cps",
            by_run=False,
        ),
        lines(
            "Records again, per second",
            "Records that had come before, and were counted once.",
            Query(rate("instance", _of("episight_records_duplicate_total")), _NAME),
            unit="cps",
            by_run=False,
        ),
    ]


def _lag() -> list[Any]:
    commit = "episight_journal_commit_seconds"
    buckets = _of(f"{commit}_bucket")
    heard = of("experiment_run_last_heartbeat_timestamp_seconds", EXPORTER)
    ended = of("experiment_run_end_timestamp_seconds", EXPORTER)
    # A scrape shows what was true when it was made: so the scrape's time, not now.
    silent = (
        f"max by (instance) (timestamp({heard}) - ({heard} unless on (run) {ended}))"
    )
    none = f"0 * {_max(_of('episight_build_info'))}"
    quantiles = [
        Query(
            f"histogram_quantile({q}, {rate('instance, le', buckets)}) >= 0",
            f"{_NAME} {name}",
        )
        for q, name in ((0.5, "half"), (0.99, "99 %"))
    ]
    return [
        lines(
            "Time of a commit",
            "So long takes it until records are on disk; they are acknowledged then.",
            *quantiles,
            unit="s",
            by_run=False,
            empty="Nothing was committed in this time",
        ),
        heat(
            "Commits",
            "How many commits took so long.",
            increase("le", buckets),
            unit="s",
            empty="Nothing was committed in this time",
        ),
        lines(
            "Longest silence of a run",
            "Time since a process of a run that goes on was last heard: some seconds "
            "at most, but where one is lost.",
            Query(f"clamp_min({silent}, 0) or on (instance) {none}", _NAME),
            unit="s",
            by_run=False,
        ),
        lines(
            "Time of a scrape",
            "So long takes Prometheus to read the metrics.",
            Query(_max(_of("scrape_duration_seconds")), _NAME),
            unit="s",
            by_run=False,
        ),
    ]


def _room() -> list[Any]:
    series = _of("episight_series")
    runs = f'{{__name__=~"experiment_.+",{EXPORTER}}}'
    return [
        bars(
            "Series, of the budget",
            "Series of runs that are served, of those that may be: beyond that they "
            "are refused.",
            Query(f"{_max(series)} / {_max(_of('episight_series_budget'))}", _NAME),
            limits=((None, "green"), (0.8, "orange"), (0.95, "red")),
        ),
        lines(
            "Series",
            "Series of runs that are served.",
            Query(_max(series), _NAME),
            by_run=False,
        ),
        lines(
            "Series refused, per second",
            "Series that were not served, by reason. The exporter's page names the "
            "run.",
            _by("reason", "episight_series_refused_total"),
            unit="cps",
            by_run=False,
        ),
        bars(
            "Largest runs",
            "Series of the ten runs that have the most; a run may have 2,000, or what "
            "metrics.max_series_per_run says.",
            Query(f"topk(10, count by (run) ({runs}))", "{{run}}"),
            unit="short",
            top=2000,
            limits=((None, "green"), (1600, "orange"), (1900, "red")),
            empty="No run is served",
        ),
        lines(
            "Size of the journal",
            "On disk; rows of runs that ended long ago go.",
            Query(_max(_of("episight_journal_bytes")), _NAME),
            unit="bytes",
            by_run=False,
        ),
    ]


def _onwards() -> list[Any]:
    untraced = "Traces go nowhere: traces.endpoint is not set"
    return [
        lines(
            "Spans per second",
            "Spans that the trace store took.",
            Query(rate("instance", _of("episight_spans_exported_total")), _NAME),
            unit="cps",
            by_run=False,
            empty=untraced,
        ),
        lines(
            "Spans lost, per second",
            "Spans that the trace store refused or that could not wait, by reason.",
            Query(
                rate("instance, reason", _of("episight_spans_failed_total")),
                f"{_NAME} {{{{reason}}}}",
            ),
            unit="cps",
            by_run=False,
            empty=untraced,
        ),
        lines(
            "Traces that wait",
            "Episodes whose trace was not delivered yet.",
            Query(_max(_of("episight_spans_pending")), _NAME),
            by_run=False,
            empty=untraced,
        ),
        lines(
            "Notifications per second",
            "Notifications by what became of them.",
            Query(
                rate("instance, result", _of("episight_notifications_total")),
                f"{_NAME} {{{{result}}}}",
            ),
            unit="cps",
            by_run=False,
            empty="Nobody is notified: notify.webhook_url is not set",
        ),
        lines(
            "Tap, messages per second",
            "Messages that were said on the tap, and those that were too many for it.",
            Query(
                rate("instance", _of("episight_tap_messages_total")), f"{_NAME} said"
            ),
            Query(
                rate("instance", _of("episight_tap_dropped_total")), f"{_NAME} dropped"
            ),
            unit="mps",
            by_run=False,
            empty="The tap is off: tap.port is not set",
        ),
    ]
