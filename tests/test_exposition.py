"""The exposition writes what prometheus_client writes, and everybody can read it."""

import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as their_text
from prometheus_client.openmetrics import exposition as their_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar as TheirExemplar
from prometheus_client.utils import floatToGoString

from benchmarks.writing import Subject
from exporter.exposition import (
    CONTENT_TYPE_OPENMETRICS,
    CONTENT_TYPE_TEXT,
    Buckets,
    Exemplar,
    Family,
    go_float,
    negotiate,
    pieces,
    prefix,
    render,
)
from tests.support import promtool_says

# --- one description of a family, made into ours and theirs --------------------------


@dataclass
class One:
    """A counter's or gauge's series."""

    labels: Tuple[str, ...]
    value: float
    exemplar: Optional[Exemplar] = None


@dataclass
class Many:
    """A histogram's series. ``bounds`` are without +Inf."""

    labels: Tuple[str, ...]
    bounds: Sequence[float]
    counts: Sequence[int]
    total: float
    exemplars: Dict[int, Exemplar] = field(default_factory=dict)


@dataclass
class Described:
    name: str
    type: str
    help: str
    labels: Tuple[str, ...]
    series: Sequence[Union[One, Many]]

    def ours(self) -> Family:
        made = Family(self.name, self.type, self.help)
        for series in self.series:
            labels = zip(self.labels, series.labels)
            if isinstance(series, One):
                line = prefix(self.name, self.type, labels)
                made.add(line, series.value, series.exemplar)
            else:
                buckets = Buckets(self.name, labels, series.bounds)
                counts, exemplars = series.counts, series.exemplars
                made.add_histogram(buckets, counts, series.total, exemplars)
        return made

    def theirs(self) -> Any:
        made = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }[self.type](self.name, self.help, labels=self.labels)
        for series in self.series:
            if isinstance(series, Many):
                buckets = list(_their_buckets(series))
                made.add_metric(series.labels, buckets, series.total)
            elif self.type == "counter":
                exemplar = _their_exemplar(series.exemplar)
                made.add_metric(series.labels, series.value, exemplar=exemplar)
            else:
                made.add_metric(series.labels, series.value)
        return made


def _their_buckets(series: Many) -> Iterator[Tuple[Any, ...]]:
    count = 0
    bounds = [*series.bounds, math.inf]
    for i, (bound, more) in enumerate(zip(bounds, series.counts)):
        count += more
        exemplar = _their_exemplar(series.exemplars.get(i))
        yield floatToGoString(bound), count, exemplar


def _their_exemplar(exemplar: Optional[Exemplar]) -> Optional[TheirExemplar]:
    if exemplar is None:
        return None
    return TheirExemplar(dict(exemplar.labels), exemplar.value, exemplar.timestamp)


class Collected:
    """A custom collector of prometheus_client."""

    def __init__(self, families: Sequence[Described]) -> None:
        self.families = families

    def collect(self) -> Iterator[Any]:
        for family in self.families:
            yield family.theirs()


def assert_same(*families: Described) -> None:
    registry = CollectorRegistry()
    registry.register(Collected(families))  # type: ignore[arg-type]
    ours = [family.ours() for family in families]
    assert render(ours, openmetrics=False) == their_text(registry)
    assert render(ours, openmetrics=True) == their_openmetrics.generate_latest(registry)


# --- anything at all -----------------------------------------------------------------

ODD_NUMBERS = (
    *(0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e300, -1e300, True, 0.1),
    *(999_999.0, 999_999.9999999999, 1e6, 1_000_000.5, 1e7, 1_234_500.0, 1e15),
    *(9_999_999_999_999_998.0, 1e16, 1.5e16, 1e22, 1e-4, 1e-5),
)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(-(10**20), 10**20),
    st.integers(-(10**17), 10**17).map(float),
    st.sampled_from(ODD_NUMBERS),
)
TEXTS = st.text(
    st.one_of(
        st.sampled_from('\\"\n\r\t{}%,=# \x85\u2028üß漢😀'),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: not name.endswith("_total")
)
LABEL_NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: not name.startswith("__") and name != "le"
)


@st.composite
def exemplars(draw: st.DrawFn) -> Exemplar:
    names = draw(st.lists(LABEL_NAMES, max_size=3, unique=True))
    labels = tuple((name, draw(TEXTS)) for name in names)
    times = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**40)
    return Exemplar(labels, draw(NUMBERS), draw(st.none() | times))


@st.composite
def histogram_series(draw: st.DrawFn, labels: Tuple[str, ...]) -> Many:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    bounds = sorted(draw(st.lists(finite, max_size=6, unique=True)))
    size = len(bounds) + 1
    counts = st.one_of(st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 2**60))
    return Many(
        labels,
        bounds,
        draw(st.lists(counts, min_size=size, max_size=size)),
        draw(NUMBERS),
        draw(st.dictionaries(st.integers(0, size - 1), exemplars(), max_size=2)),
    )


@st.composite
def families(draw: st.DrawFn) -> Described:
    kind = draw(st.sampled_from(["counter", "gauge", "histogram"]))
    names = tuple(draw(st.lists(LABEL_NAMES, max_size=4, unique=True)))
    values = st.tuples(*[TEXTS for _ in names])
    series: List[Union[One, Many]] = []
    for labels in draw(st.lists(values, max_size=3)):
        if kind == "histogram":
            series.append(draw(histogram_series(labels)))
        else:
            maybe = st.none() | exemplars() if kind == "counter" else st.none()
            series.append(One(labels, draw(NUMBERS), draw(maybe)))
    return Described(draw(NAMES), kind, draw(TEXTS), names, series)


@settings(max_examples=300)
@given(st.lists(families(), max_size=3))
def test_any_families_are_written_as_prometheus_client_writes_them(
    described: List[Described],
) -> None:
    assert_same(*described)


@settings(max_examples=1000)
@given(NUMBERS)
def test_any_number_is_written_as_prometheus_client_writes_it(number: float) -> None:
    assert go_float(number) == floatToGoString(number)


# --- what it looks like --------------------------------------------------------------

TRACE = Exemplar((("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),), 12.5, 1.7e9)

EXAMPLE = [
    Described(
        "experiment_episodes",
        "counter",
        'Ended episodes, "by outcome" \\ and\nmode.',
        ("run", "mode", "outcome"),
        [
            One(("lego-1", "eval", "correct"), 3.0, TRACE),
            One(("lego-1", "eval", 'a "quoted"\\\nend 100%'), 1_234_567),
        ],
    ),
    Described(
        "experiment_loss",
        "gauge",
        "The newest loss.",
        ("run",),
        [One(("größe",), math.nan), One(("lego-1",), -0.0)],
    ),
    Described(
        "experiment_episode_duration_seconds",
        "histogram",
        "How long an episode took.",
        ("mode", "run"),
        [
            Many(
                ("eval", "lego-1"),
                (0.1, 10.0, 1e6),
                (0, 2, 999_999, 1),
                25.25,
                {1: TRACE},
            )
        ],
    ),
    Described(
        "experiment_return",
        "histogram",
        "What an episode brought; it may be negative.",
        (),
        [Many((), (-1.0, 0.0), (1, 0, 2), 5.0)],
    ),
]

SAMPLES = """\
experiment_episodes_total{mode="eval",outcome="correct",run="lego-1"} 3.0<trace>
experiment_episodes_total{mode="eval",outcome="a \\"quoted\\"\\\\\\nend 100%",\
run="lego-1"} 1.234567e+06
<gauge>\
experiment_loss{run="größe"} NaN
experiment_loss{run="lego-1"} -0.0
# HELP experiment_episode_duration_seconds How long an episode took.
# TYPE experiment_episode_duration_seconds histogram
experiment_episode_duration_seconds_bucket{le="0.1",mode="eval",run="lego-1"} 0.0
experiment_episode_duration_seconds_bucket{le="10.0",mode="eval",run="lego-1"} \
2.0<trace>
experiment_episode_duration_seconds_bucket{le="1e+06",mode="eval",run="lego-1"} \
1.000001e+06
experiment_episode_duration_seconds_bucket{le="+Inf",mode="eval",run="lego-1"} \
1.000002e+06
experiment_episode_duration_seconds_count{mode="eval",run="lego-1"} 1.000002e+06
experiment_episode_duration_seconds_sum{mode="eval",run="lego-1"} 25.25
# HELP experiment_return What an episode brought; it may be negative.
# TYPE experiment_return histogram
experiment_return_bucket{le="-1.0"} 1.0
experiment_return_bucket{le="0.0"} 1.0
experiment_return_bucket{le="+Inf"} 3.0
"""
GAUGE = "# HELP experiment_loss The newest loss.\n# TYPE experiment_loss gauge\n"
BOTH = SAMPLES.replace("<gauge>", GAUGE)


def test_text_has_total_in_the_header_and_no_exemplars() -> None:
    expected = (
        "# HELP experiment_episodes_total Ended episodes,"
        ' "by outcome" \\\\ and\\nmode.\n'
        "# TYPE experiment_episodes_total counter\n"
    ) + BOTH.replace("<trace>", "")
    body = render([family.ours() for family in EXAMPLE], openmetrics=False)
    assert body.decode() == expected


def test_openmetrics_has_exemplars_and_an_end() -> None:
    trace = ' # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 12.5 1700000000.0'
    expected = (
        "# HELP experiment_episodes Ended episodes,"
        ' \\"by outcome\\" \\\\ and\\nmode.\n'
        "# TYPE experiment_episodes counter\n"
    ) + BOTH.replace("<trace>", trace)
    body = render([family.ours() for family in EXAMPLE], openmetrics=True)
    assert body.decode() == expected + "# EOF\n"


def test_the_example_is_what_prometheus_client_writes() -> None:
    assert_same(*EXAMPLE)


@pytest.mark.parametrize(("openmetrics", "body"), [(False, b""), (True, b"# EOF\n")])
def test_nothing_is_a_body_too(openmetrics: bool, body: bytes) -> None:
    assert render([], openmetrics) == body


@pytest.mark.parametrize("mixed", [False, True])
def test_real_children_are_written_the_same(
    mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_use_created", False)
    subject = Subject(4_000, mixed)
    for openmetrics in (False, True):
        subject.grow()
        body = subject.ours.scrape(openmetrics)
        assert body == subject.theirs.scrape(openmetrics)
        assert body.count(b"\n") > 4_000


# --- what the caller may do ----------------------------------------------------------


def test_what_is_prepared_is_used_again_and_keeps_nothing() -> None:
    line = prefix("steps", "counter", [("run", "a")])
    buckets = Buckets("seconds", [], [1.0])

    def body(value: float, exemplar: Optional[Exemplar]) -> bytes:
        steps = Family("steps", "counter", "")
        steps.add(line, value, exemplar)
        seconds = Family("seconds", "histogram", "")
        exemplars = {0: exemplar} if exemplar else None
        seconds.add_histogram(buckets, [int(value), 1], value, exemplars)
        return render([steps, seconds], True)

    first = body(1.0, None)
    second = body(2.0, TRACE)
    assert b'steps_total{run="a"} 2.0 # {' in second
    assert b'seconds_bucket{le="1.0"} 2.0 # {' in second
    assert b'seconds_bucket{le="+Inf"} 3.0\n' in second
    assert b"seconds_count 3.0\nseconds_sum 2.0\n" in second
    assert body(1.0, None) == first


def test_series_may_be_added_together() -> None:
    family = Family("loss", "gauge", "")
    family.extend([prefix("loss", "gauge", [("run", run)]) for run in "ab"], (0.5, 2))
    body = render([family], openmetrics=False)
    assert body.endswith(b'loss{run="a"} 0.5\nloss{run="b"} 2.0\n')
    with pytest.raises(ValueError, match="2 numbers for 1 series"):
        family.extend([prefix("loss", "gauge", [])], [1.0, 2.0])


def test_a_family_says_whether_it_has_series() -> None:
    family = Family("loss", "gauge", "")
    assert not family
    family.add(prefix("loss", "gauge", []), 1.0)
    assert family


def filled(buckets: Buckets, counts: Sequence[float], total: float) -> str:
    """A histogram's lines, without the header of its family."""
    family = Family("seconds", "histogram", "")
    family.add_histogram(buckets, counts, total)
    return render([family], openmetrics=False).decode().split("histogram\n")[1]


def test_whole_floats_and_ints_are_the_same_counts() -> None:
    buckets = Buckets("seconds", [], [1.0, 2.0])
    assert filled(buckets, [1, 0, 10**6], 5) == filled(buckets, [1.0, 0.0, 1e6], 5.0)


def test_infinity_among_the_bounds_is_not_written_twice() -> None:
    without, with_it = ([1.0], [1.0, math.inf])
    assert filled(Buckets("seconds", [], with_it), [1, 2], 3.0) == filled(
        Buckets("seconds", [], without), [1, 2], 3.0
    )


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_an_odd_count_does_not_break_the_scrape(odd: float) -> None:
    text = filled(Buckets("seconds", [], [1.0, 2.0]), [2, odd, 1], odd)
    assert text.startswith('seconds_bucket{le="1.0"} 2.0\nseconds_bucket{le="2.0"} ')
    assert text.endswith(f"seconds_sum {floatToGoString(odd)}\n")


@given(st.lists(NUMBERS | st.floats(-1e7, 1e7), min_size=1, max_size=6))
@example([2e6, -2e6 + 5])
@example([1e17, -1e17, 0.5])
@example([-2e6, 3e6])
def test_whatever_the_counts_are_what_is_written_are_numbers(
    counts: List[float],
) -> None:
    buckets = Buckets("seconds", [], range(1, len(counts)))
    lines = filled(buckets, counts, 0.0).splitlines()[: len(counts)]
    for line, value in zip(lines, map(float, accumulate(counts))):
        assert repr(float(line.rpartition(" ")[2])) == repr(value)


def test_a_number_of_numpy_is_a_number() -> None:
    numpy = pytest.importorskip("numpy")
    line = prefix("loss", "gauge", [])
    for value in (numpy.float64(0.5), numpy.float32(0.5), numpy.int64(2)):
        family = Family("loss", "gauge", "")
        family.add(line, value)
        body = render([family], openmetrics=False)
        assert body.endswith(f"\nloss {float(value)}\n".encode())


def test_a_gauge_has_no_exemplar() -> None:
    family = Family("loss", "gauge", "")
    family.add(prefix("loss", "gauge", []), 1.0, TRACE)
    body = render([family], openmetrics=True)
    assert body.endswith(b"\nloss 1.0\n# EOF\n")


def test_pieces_are_joined_with_the_body_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    Counter("episight_records", "Records.", registry=registry).inc(2)
    ours = [family.ours() for family in EXAMPLE]
    theirs = their_openmetrics.generate_latest(registry)
    body = b"".join((*pieces(ours, openmetrics=True), theirs)).decode()
    assert body.count("# EOF") == 1
    names = [family.name for family in parse_openmetrics(body)]
    assert names == [family.name for family in EXAMPLE] + ["episight_records"]


# --- what is refused, where it is made -----------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "1x", "a-b", "größe", "a b", "a\n", "rule:name", "a{", "a.b"]
)
def test_a_wrong_name_is_refused(name: str) -> None:
    for kind in ("counter", "gauge", "histogram"):
        with pytest.raises(ValueError, match="name"):
            Family(name, kind, "")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name"):
        prefix(name, "gauge", [])
    with pytest.raises(ValueError, match="name"):
        Buckets(name, [], [1.0])


def test_a_counter_is_named_without_total() -> None:
    with pytest.raises(ValueError, match="_total"):
        Family("steps_total", "counter", "")
    with pytest.raises(ValueError, match="_total"):
        prefix("steps_total", "counter", [])
    assert prefix("steps_total", "gauge", []) == b"\nsteps_total "


@pytest.mark.parametrize(
    "labels",
    [
        [("", "x")],
        [("a-b", "x")],
        [("__name", "x")],
        [("a\n", "x")],
        [("a", "x"), ("a", "y")],
        [("a", "\ud800")],
    ],
)
def test_wrong_labels_are_refused(labels: List[Tuple[str, str]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a surrogate's has other words
        prefix("steps", "counter", labels)
    with pytest.raises(ValueError):  # noqa: PT011
        Buckets("seconds", labels, [1.0])
    with pytest.raises(ValueError):  # noqa: PT011
        Exemplar(tuple(labels), 1.0)


def test_le_is_the_buckets_own_label() -> None:
    with pytest.raises(ValueError, match="le"):
        Buckets("seconds", [("le", "1")], [1.0])
    assert prefix("steps", "gauge", [("le", "1")]) == b'\nsteps{le="1"} '


def test_help_that_is_no_text_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        Family("steps", "counter", "\udcff")


@pytest.mark.parametrize(
    "bounds", [[1.0, 1.0], [2.0, 1.0], [math.nan], [math.inf, 1.0], [1.0, math.nan]]
)
def test_bounds_that_do_not_rise_are_refused(bounds: List[float]) -> None:
    with pytest.raises(ValueError, match="rise"):
        Buckets("seconds", [], bounds)


@pytest.mark.parametrize("counts", [[], [1], [1, 2, 3]])
def test_counts_for_other_buckets_are_refused(counts: List[int]) -> None:
    with pytest.raises(ValueError, match="buckets"):
        filled(Buckets("seconds", [], [1.0]), counts, 0.0)


def test_an_exemplar_of_no_bucket_is_refused() -> None:
    buckets, family = Buckets("seconds", [], [1.0]), Family("seconds", "histogram", "")
    with pytest.raises(IndexError):
        family.add_histogram(buckets, [1, 2], 0.0, {2: TRACE})
    assert not family


def test_an_exemplars_labels_have_128_characters_at_most() -> None:
    # Characters, not bytes.
    assert Exemplar((("trace", "ü" * 123),), 1.0).text.startswith(b" # {")
    with pytest.raises(ValueError, match="128"):
        Exemplar((("trace", "x" * 124),), 1.0)


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_an_exemplars_time_is_a_time(at: float) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        Exemplar((), 1.0, at)


# --- others can read it --------------------------------------------------------------


@st.composite
def readable(draw: st.DrawFn) -> Described:
    """What a reader takes: no series twice, nothing below zero that only grows.

    No exemplars: prometheus_client's own parser cannot read quotes in their labels.
    """
    described = draw(families())
    seen = set()
    series = []
    for one in described.series:
        if one.labels in seen:
            continue
        seen.add(one.labels)
        if isinstance(one, Many):
            one.total = abs(one.total)
            one.exemplars = {}
        elif described.type == "counter":
            one.value, one.exemplar = abs(one.value), None
        series.append(one)
    described.series = series
    return described


def _expected(described: Described) -> List[Tuple[str, Dict[str, str], float]]:
    return [
        (sample.name, sample.labels, float(sample.value))
        for sample in described.theirs().samples
    ]


def _is_the_same(found: Any, expected: Any) -> bool:
    same_number = found[2] == expected[2] or (
        math.isnan(found[2]) and math.isnan(expected[2])
    )
    return bool(found[:2] == expected[:2] and same_number)


def assert_read_back(found: Any, described: Described) -> None:
    samples = [(s.name, s.labels, s.value) for f in found for s in f.samples]
    expected = _expected(described)
    assert len(samples) == len(expected)
    for one, other in zip(samples, expected):
        assert _is_the_same(one, other), (one, other)


@settings(max_examples=200)
@given(readable())
def test_text_is_read_back_as_it_was(described: Described) -> None:
    body = render([described.ours()], openmetrics=False).decode()
    assert_read_back(parse_text(body), described)


@settings(max_examples=200)
@given(readable())
def test_openmetrics_is_read_back_as_it_was(described: Described) -> None:
    # Such counters and sums are written as the library does, but its reader takes none.
    if described.type != "gauge":
        for one in described.series:
            assume(not math.isnan(one.total if isinstance(one, Many) else one.value))
    body = render([described.ours()], openmetrics=True).decode()
    assert_read_back(parse_openmetrics(body), described)


def test_an_exemplar_is_read_back_as_it_was() -> None:
    body = render([family.ours() for family in EXAMPLE], openmetrics=True).decode()
    found = [
        s.exemplar for f in parse_openmetrics(body) for s in f.samples if s.exemplar
    ]
    assert [exemplar.labels for exemplar in found] == [dict(TRACE.labels)] * 2
    assert [exemplar.value for exemplar in found] == [12.5, 12.5]
    assert [float(exemplar.timestamp or 0) for exemplar in found] == [1.7e9, 1.7e9]


def test_promtool_finds_nothing_wrong() -> None:
    families = [family.ours() for family in EXAMPLE]
    assert promtool_says(render(families, openmetrics=False)) == ""


# --- which format --------------------------------------------------------------------

OPENMETRICS = "application/openmetrics-text"
PROTOBUF = (
    "application/vnd.google.protobuf;"
    "proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
# What Prometheus sends: 2.42; then with native histograms turned on; then 3.x.
PROMETHEUS_2 = (
    f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_WITH_PROTOBUF = (
    f"{PROTOBUF},{OPENMETRICS};version=1.0.0;q=0.8,"
    f"{OPENMETRICS};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,"
    f"{OPENMETRICS};version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", False),
        (OPENMETRICS, True),
        (f"{OPENMETRICS}; version=1.0.0; charset=utf-8", True),
        (f'{OPENMETRICS.upper()} ; Version="1.0.0" ; Q=0.5', True),
        (PROMETHEUS_2, True),
        (PROMETHEUS_2_WITH_PROTOBUF, True),
        (PROMETHEUS_3, True),
        # A scrape that asks for text first, as scrape_protocols can say.
        (f"text/plain;version=0.0.4;q=0.6,{OPENMETRICS};version=1.0.0;q=0.5", False),
        # Protobuf is never written.
        (PROTOBUF, False),
        (f"{PROTOBUF};q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", False),
        # Versions that are not written.
        (f"{OPENMETRICS};version=0.0.1", False),
        (f"{OPENMETRICS};version=2.0.0,{OPENMETRICS};version=1.0.0;q=0.1", True),
        (f"{OPENMETRICS};version=2.0.0", False),
        # Weights: equal ones go to OpenMetrics, none is none, wildcards are text.
        (f"text/plain,{OPENMETRICS}", True),
        (f"*/*;q=0.9,{OPENMETRICS};q=0.5", False),
        (f"*/*;q=0.9,text/plain;q=0.1,{OPENMETRICS};q=0.5", True),
        (f"*/*;q=0.9,text/*;q=0.2,{OPENMETRICS};q=0.5", True),
        (f"text/plain;q=0,{OPENMETRICS};q=0.001", True),
        (f"{OPENMETRICS};q=0,text/plain;q=0", False),
        # What cannot be read is not taken, and never an error.
        (f"{OPENMETRICS};q=much", False),
        (f"{OPENMETRICS};q=nan", False),
        (f"{OPENMETRICS};q=2", False),
        (f"{OPENMETRICS};q=-1", False),
        (f"{OPENMETRICS};q=", False),
        (f",;=,;;q,{OPENMETRICS};q", False),
        (f" , ,{OPENMETRICS};;unknown", True),
        ("application/*", False),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, openmetrics: bool) -> None:
    content_type = CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_TEXT
    assert negotiate(accept) == (openmetrics, content_type)


@given(TEXTS)
def test_any_accept_header_has_an_answer(accept: str) -> None:
    assert negotiate(accept) == (False, CONTENT_TYPE_TEXT)


def test_the_content_types_are_those_of_prometheus_client() -> None:
    assert CONTENT_TYPE_TEXT == CONTENT_TYPE_PLAIN_0_0_4
    assert their_openmetrics.CONTENT_TYPE_LATEST == CONTENT_TYPE_OPENMETRICS
