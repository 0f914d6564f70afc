"""PromQL as text: selectors, and the expressions that several dashboards share.

Labels that Prometheus adds (``instance``, a pod's name) are aggregated away: a run goes
on where its exporter moves. Ratios have no series where there is nothing to divide by,
rather than NaN; and a zero is made up (``or 0 * ...``) only where nothing is zero.
"""

from exporter.names import RUN_FAMILIES
from exporter.verdict import STATES

_JOB = 'job=~"$job"'
RUNS = f'{_JOB},experiment=~"$experiment"'
RUN = f'{RUNS},run=~"$run"'
MODE = f'{RUN},mode=~"$mode"'
EXPORTER = f'{_JOB},instance=~"$instance"'

ADDED = "job, instance, namespace, pod, container, endpoint"
"""Labels that are Prometheus's, and not the exporter's."""

_OVER = "experiment, run"
_MODES = "experiment, run, mode"


def of(metric: str, within: str = RUN, *more: str) -> str:
    """A metric's series: those of the runs that are chosen, by default."""
    return f"{metric}{{{','.join([within, *more])}}}"


def last(series: str) -> str:
    """As it was last seen in the time range, also of runs that are gone by now."""
    return f"last_over_time({series}[$__range])"


def lately(series: str) -> str:
    """As it was last seen in a step of the panel: a short run is not stepped over."""
    return f"last_over_time({series}[$__rate_interval])"


def last_total(series: str) -> str:
    """The same of counters; they are once there, also where their exporter moved."""
    return f"max without ({ADDED}) ({last(series)})"


def rate(by: str, series: str) -> str:
    """A counter's sum a second."""
    return f"sum by ({by}) (rate({series}[$__rate_interval]))"


def increase(by: str, series: str) -> str:
    """A counter's sum over the steps of the panel."""
    return f"sum by ({by}) (increase({series}[$__rate_interval]))"


def quantile(q: float, by: str, metric: str, within: str = MODE) -> str:
    """A histogram's quantile; nothing where nothing was observed."""
    buckets = rate(f"{by}, le", of(f"{metric}_bucket", within))
    there = rate(by, of(f"{metric}_count", within))
    return f"histogram_quantile({q}, {buckets}) and on ({by}) ({there} > 0)"


def share(parts: str, whole: str) -> str:
    """What each part is of the whole; nothing where that is 0."""
    return f"{parts} / on () group_left () ({whole} > 0)"


def mean(by: str, seconds: str, count: str) -> str:
    """What one of them took on average."""
    return f"{rate(by, seconds)} / ({rate(by, count)} > 0)"


# --- runs ----------------------------------------------------------------------------


def state(within: str = RUN, *, seen: bool = False) -> str:
    """A run's verdict as a number: its place among the states, from 1."""
    wrap = last if seen else lately
    coded = []
    for code, name in enumerate(STATES, 1):
        series = of("experiment_run_state", within, f'state="{name}"')
        coded.append(f"{code} * {wrap(series)}")
    return f"max by ({_OVER}) ({' or '.join(coded)})"


def in_state(states: str, within: str = RUN) -> str:
    """Runs that are in one of these states now; 1 each."""
    series = of("experiment_run_state", within, f'state=~"{states}"')
    return f"max by ({_OVER}) ({series}) == 1"


def count_in_state(states: str, within: str = RUN) -> str:
    """How many runs are in one of these states: 0 where an exporter knows of none."""
    series = of("experiment_run_state", within, f'state=~"{states}"')
    return none_if_there(f"sum(max by ({_OVER}) ({series}))")


def none_if_there(sum_of_all: str) -> str:
    """A sum, and 0 where there is nothing to add up, but an exporter is there."""
    return f"{sum_of_all} or 0 * max({of('episight_build_info', _JOB)})"


def live(series: str) -> str:
    """Of runs that have not ended."""
    ended = of("experiment_run_end_timestamp_seconds")
    return f"{series} unless on ({_OVER}) {ended}"


def since(timestamp: str) -> str:
    """Seconds since a time that is said of each run; of runs that have not ended."""
    newest = f"max by ({_OVER}) ({of(timestamp)})"
    return f"clamp_min(time() - ({live(newest)}), 0)"


def share_of_successes(by: str, within: str = MODE, *, seen: bool = False) -> str:
    """Of all episodes so far, where the run says what a success is."""
    wrap = last_total if seen else str
    good = wrap(of("experiment_episode_successes_total", within))
    ended = wrap(of("experiment_episodes_total", within))
    judged = f"sum by ({_MODES}) ({ended}) and sum by ({_MODES}) ({good})"
    return f"sum by ({by}) ({good}) / (sum by ({by}) ({judged}) > 0)"


def recent_share_of_successes(by: str, within: str = MODE) -> str:
    """Of the episodes that ended lately."""
    good = rate(by, of("experiment_episode_successes_total", within))
    return f"{good} / ({rate(by, of('experiment_episodes_total', within))} > 0)"


def progress(by: str = _OVER, within: str = MODE, *, seen: bool = False) -> str:
    """Done of what is expected, in episodes, or else in steps, or else in epochs."""
    units = (*_COUNTED, "epochs")
    return " or ".join(_progress(unit, by, within, seen) for unit in units)


def time_left(within: str = MODE) -> str:
    """Seconds until a mode is done, at its pace of the last minutes, or else so far."""
    lefts = [_time_left(unit, within) for unit in _COUNTED]
    return live(f"({' or '.join(lefts)})")


_COUNTED = ("episodes", "steps")


def _done(unit: str, within: str, seen: bool = False) -> str:
    """Of a mode of which some are expected; one that has not begun has done none."""
    if unit == "epochs":  # from 0, so those before the newest are done
        epoch = of("experiment_run_epoch", within)
        done = f"max by ({_MODES}) ({last(epoch) if seen else epoch})"
    else:
        wrap = last_total if seen else str
        done = f"sum by ({_MODES}) ({wrap(of(f'experiment_{unit}_total', within))})"
    expected = _expected(unit, within, seen)
    return f"(({done} or 0 * {expected}) and {expected})"


def _expected(unit: str, within: str, seen: bool = False) -> str:
    wrap = last if seen else str
    series = wrap(of(f"experiment_run_expected_{unit}", within))
    return f"max by ({_MODES}) ({series})"


def _progress(unit: str, by: str, within: str, seen: bool) -> str:
    done, expected = _done(unit, within, seen), _expected(unit, within, seen)
    return f"sum by ({by}) ({done}) / sum by ({by}) ({expected})"


def _time_left(unit: str, within: str) -> str:
    done, expected = _done(unit, within), _expected(unit, within)
    lately = rate(_MODES, of(f"experiment_{unit}_total", within))
    started = of("experiment_run_start_timestamp_seconds")
    age = f"(time() - max by ({_OVER}) ({started}))"
    so_far = f"({done} > 0) / on ({_OVER}) group_left () {age}"
    pace = f"({lately} > 0 or {so_far})"
    return f"clamp_min({expected} - {done}, 0) / {pace}"


# --- metrics of the experiment's own -------------------------------------------------

_SAMPLES = {"gauge": ("",), "counter": ("_total",), "histogram": ()}
_OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


def _ours(*kinds: str) -> str:
    """A matcher for names that are none of those that every run has."""
    names = sorted(
        f"{name}{suffix}"
        for name, (kind, _) in RUN_FAMILIES.items()
        for suffix in (_OF_HISTOGRAMS if kind == "histogram" else _SAMPLES[kind])
        if kind in kinds
    )
    short = "|".join(name.removeprefix("experiment_") for name in names)
    return f'__name__!~"experiment_({short})"'


def own_counters() -> str:
    """The samples of counters of the experiment's own."""
    return f'{{__name__=~"experiment_.+_total",{_ours("counter")},{RUN}}}'


def own_histograms() -> str:
    """The buckets of histograms of the experiment's own."""
    return f'{{__name__=~"experiment_.+_bucket",{_ours("histogram")},{RUN}}}'


def own_gauges() -> str:
    """The names of gauges of the experiment's own, as labels of a query's answer.

    A name that ends in ``_count`` or ``_sum`` is a gauge's where there is no histogram
    of the rest of it.
    """
    others = '__name__!~".+_(total|bucket|created)"'
    ours = _ours("gauge", "histogram")
    series = f'{{__name__=~"experiment_.+",{others},{ours},{RUN}}}'
    buckets = _names(f'{{__name__=~"experiment_.+_bucket",{RUN}}}')
    parts = [
        f'label_replace({buckets}, "__name__", "${{1}}{suffix}", '
        '"__name__", "(.+)_bucket")'
        for suffix in ("_count", "_sum")
    ]
    return " unless on (__name__) ".join([_names(series), *parts])


def _names(series: str) -> str:
    return f"group by (__name__) ({last(series)})"
