"""Small charts: numbers in, SVG out."""

from __future__ import annotations

import math
import random
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exporter.live import charts
from exporter.live.charts import HEIGHT, WIDTH, Spark, brief
from exporter.live.tracks import Curve
from tests.test_view import HOSTILE, NOW

NAN, INF = math.nan, math.inf


def over_time(*values: float, zero: bool = False, seconds: float = 60.0) -> Spark:
    times = [NOW - 5.0 * back for back in range(len(values) - 1, -1, -1)]
    return charts.over_time(Curve(times, values), NOW, seconds, "loss", zero=zero)


def places(spark: Spark, kind: str = "line") -> list[list[tuple[float, float]]]:
    """The points of each stretch of a path, in the coordinates of the picture."""
    path = ET.fromstring(spark.svg).find(f"path[@class='{kind}']")
    assert path is not None
    stretches: list[list[tuple[float, float]]] = []
    for letter, text in re.findall(r"([Mlhv])([^Mlhv]*)", path.attrib["d"]):
        numbers = [float(one) for one in re.findall(r"-?\d+", text)]
        if letter == "M":
            stretches.append([(numbers[0], numbers[1])])
        elif letter == "l":
            x, y = stretches[-1][-1]
            stretches[-1].append((x + numbers[0], y + numbers[1]))
    return stretches


def label(svg: str) -> str:
    return ET.fromstring(svg).attrib["aria-label"]


def test_a_line_reaches_from_its_least_to_its_most() -> None:
    spark = over_time(1.0, 5.0, 3.0)
    assert places(spark) == [[(200, HEIGHT), (220, 0), (240, HEIGHT / 2)]]
    assert places(spark, "dot") == [[(240, HEIGHT / 2)]]
    assert (spark.low, spark.high) == (1.0, 5.0)
    assert label(spark.svg) == "loss, the last minute: 3, from 1 to 5"


def test_with_zero_in_it_what_hardly_changes_looks_so() -> None:
    spark = over_time(99.0, 100.0, zero=True)
    assert (spark.low, spark.high) == (0.0, 100.0)
    assert [y for _, y in places(spark)[0]] == [1, 0]
    assert "from 99 to 100" in label(spark.svg)
    below = over_time(-4.0, -2.0, zero=True)
    assert (below.low, below.high) == (-4.0, 0.0)


@pytest.mark.parametrize("value", [0.0, 7.5, -1e300, 5e-324])
def test_what_does_not_change_runs_through_the_middle(value: float) -> None:
    assert [y for _, y in places(over_time(value, value))[0]] == [HEIGHT / 2] * 2


def test_what_is_missing_leaves_a_gap() -> None:
    values = [1.0, 2.0, *[NAN] * 7, 3.0, *[INF] * 7, 4.0, 5.0]
    spark = over_time(*values, seconds=120.0)
    assert [len(stretch) for stretch in places(spark)] == [2, 1, 2]
    assert "h0" in str(spark.svg)  # the one alone is seen, too
    # A single point that is missing is a short way, and the line goes on.
    assert len(places(over_time(1.0, NAN, 3.0))) == 1


@pytest.mark.parametrize("values", [(), (NAN,), (NAN, INF, -INF)])
def test_where_there_is_nothing_that_is_said(values: tuple[float, ...]) -> None:
    spark = over_time(*values)
    assert label(spark.svg) == "loss, the last minute: nothing"
    assert (spark.low, spark.high) == (None, None)


def test_what_is_older_than_the_chart_is_not_in_it() -> None:
    spark = over_time(*[9.0] * 12, *map(float, range(13)))
    assert places(spark)[0][0] == (0, HEIGHT)
    assert spark.high == 12.0


def test_few_episodes_are_dots_and_reach_from_side_to_side() -> None:
    spark = charts.over_episodes([1.0, NAN, 3.0, 2.0], "return")
    assert [x for stretch in places(spark) for x, _ in stretch] == [0, 160, 240]
    assert len(places(spark, "dots")) == 3
    assert "the last 4 episodes: 2, from 1 to 3" in label(spark.svg)
    assert places(charts.over_episodes([2.0], "return")) == [[(WIDTH, HEIGHT / 2)]]
    many = charts.over_episodes([*map(float, range(100))], "return")
    assert 'class="dots"' not in str(many.svg)


def test_a_column_an_episode_and_not_by_colour_alone() -> None:
    svg = charts.ends(["good", "bad", "plain", "good"], "Outcomes: 2 of 4")
    drawn = {path.attrib["class"]: path.attrib["d"] for path in ET.fromstring(svg)}
    assert drawn == {
        "good": "M36.5 0v10M39.5 0v10",
        "plain": "M38.5 10v10",
        "bad": "M37.5 10v10",
    }
    assert label(svg) == "Outcomes: 2 of 4"
    only = ET.fromstring(charts.ends(["plain", "bad"], ""))
    assert [path.attrib["d"] for path in only] == ["M38.5 0v20", "M39.5 0v20"]


def test_the_largest_charts_are_small() -> None:
    rng = random.Random(1)
    wild = [rng.uniform(-1e9, 1e9) for _ in range(120)]
    assert len(over_time(*wild, seconds=600.0).svg) < 1500
    assert len(charts.over_episodes(wild[:100], "a_result").svg) < 1500
    tones = rng.choices(charts.TONES, k=100)
    assert len(charts.ends(tones, "Outcomes of the last 100 episodes")) < 1500


def test_names_are_text() -> None:
    curve = Curve([NOW], [1.0])
    for svg in (
        charts.over_time(curve, NOW, 60.0, HOSTILE).svg,
        charts.over_episodes([1.0], HOSTILE).svg,
        charts.ends(["good"], HOSTILE),
    ):
        root = ET.fromstring(svg)
        assert root.attrib["aria-label"].startswith(HOSTILE)
        assert {one.tag for one in root} == {"path"}
        assert "style" not in str(svg)


@given(some.lists(some.floats(), max_size=20), some.booleans())
def test_no_number_is_too_odd(values: list[float], zero: bool) -> None:
    spark = over_time(*values, zero=zero, seconds=120.0)
    inside = (
        [y for stretch in places(spark) for _, y in stretch]
        if spark.svg.count("line")
        else []
    )
    assert all(0 <= y <= HEIGHT for y in inside)
    ET.fromstring(charts.over_episodes(values, "x").svg)
    assert all(len(brief(value)) <= 9 for value in values)


def test_charts_reach_back_as_far_as_is_known() -> None:
    reach = [charts.span(seconds) for seconds in (0, 60, 61, 299, 301, 601)]
    assert reach == [60, 60, 120, 300, 600, 600]


BRIEF = {
    0.0: "0",
    0.0003: "0.0003",
    3.14159: "3.14",
    1240.4: "1,240",
    999_999.0: "1,000,000",
    1.2e7: "1.2e+07",
    -5e-7: "-5.0e-07",
    NAN: "nan",
    -INF: "-inf",
    -99.96: "-100",
}


@pytest.mark.parametrize(("value", "text"), BRIEF.items())
def test_brief_numbers(value: float, text: str) -> None:
    assert brief(value) == text
