"""How a panel looks, and what a whole dashboard has: once for all dashboards.

Owns no query. A panel is a builder of the SDK, with its title, its description, its
unit, and a sentence for where it has nothing to show (``empty``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    tempo,
    timeseries,
)
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import heatmap as h
from grafana_foundation_sdk.models import prometheus as p
from grafana_foundation_sdk.models import tempo as t

from exporter.verdict import STATES
from grafana.build.controls import PROMETHEUS, TEMPO, dashboard_links, run_links

STATE_COLOURS = {
    "starting": "light-blue",
    "running": "green",
    "stalled": "orange",
    "stopping": "yellow",
    "completed": "blue",
    "failed": "red",
    "stopped": "purple",
    "lost": "dark-red",
}
CALM = ((None, "green"),)
"""Thresholds of a number that is neither good nor bad."""
NEITHER = ((None, "blue"),)
"""The same of bars beside each other, where green would say which are the good ones."""

Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True)
class Query:
    """One query of a panel, and how its series are called."""

    expr: str
    legend: str = ""
    exemplars: bool = False


# --- queries -------------------------------------------------------------------------


def _targets(queries: Sequence[Query], kind: str = "range") -> list[Any]:
    return [_target(query, _ref(place), kind) for place, query in enumerate(queries)]


def _target(query: Query, ref: str, kind: str) -> Any:
    made = (
        prometheus.Dataquery()
        .datasource(PROMETHEUS)
        .editor_mode(p.QueryEditorMode.CODE)
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .ref_id(ref)
    )
    if kind == "table":
        return made.instant().format(p.PromQueryFormat.TABLE)
    if kind == "instant":
        return made.instant()
    if kind == "heatmap":
        made = made.format(p.PromQueryFormat.HEATMAP)
    return made.range().exemplar(query.exemplars)


# --- panels --------------------------------------------------------------------------


def _framed(
    panel: Any,
    title: str,
    text: str,
    *,
    targets: Sequence[Any],
    empty: str = "",
    width: int = 12,
    height: int = 8,
    interval: str = "",
) -> Any:
    panel.title(title).description(text).datasource(PROMETHEUS)
    panel.targets(list(targets)).span(width).height(height)
    if empty:
        panel.no_value(empty)
    if interval:
        panel.interval(interval)
    return panel


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    stacked: bool = False,
    by_run: bool = True,
    colours: Mapping[str, str] | None = None,
    top: float | None = None,
    limits: Steps = (),
    **frame: Any,
) -> Any:
    """Lines over time.

    Args:
        title: the panel's.
        text: what it shows, and how to read it.
        queries: what is drawn.
        unit: of the values, as Grafana calls it.
        stacked: one on the other.
        by_run: the series have the label ``run``, and so lead to it.
        colours: of series, by a regular expression of their names.
        top: the highest value there can be.
        limits: thresholds that are drawn.
        frame: ``width``, ``height``, ``empty``, ``interval``.
    """
    panel = timeseries.Panel().unit(unit)
    panel.line_width(1).fill_opacity(0).show_points(c.VisibilityMode.AUTO)
    panel.span_nulls(3_600_000 if frame.get("interval") else False)
    panel.legend(_legend()).tooltip(_tooltip())
    if top is not None:
        panel.min(0).max(top)
    if stacked:
        stacking = common.StackingConfig().mode(c.StackingMode.NORMAL).group("A")
        panel.min(0).stacking(stacking).fill_opacity(40)
    if limits:
        panel.thresholds(_thresholds(limits))
        style = c.GraphThresholdsStyleMode.DASHED
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    _coloured(panel, colours or {})
    if by_run:
        panel.data_links(run_links("${__field.labels.run:percentencode}"))
    return _framed(panel, title, text, targets=_targets(queries), **frame)


def number(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    limits: Steps = CALM,
    decimals: int | None = None,
    mappings: Sequence[Any] = (),
    **frame: Any,
) -> Any:
    """One number for each series, as it is at the end of the time range."""
    panel = stat.Panel().unit(unit).thresholds(_thresholds(limits))
    panel.color_mode(c.BigValueColorMode.VALUE).graph_mode(c.BigValueGraphMode.NONE)
    panel.reduce_options(_newest()).text_mode(c.BigValueTextMode.AUTO)
    panel.justify_mode(c.BigValueJustifyMode.AUTO).wide_layout(True)
    panel.orientation(c.VizOrientation.AUTO)
    if decimals is not None:
        panel.decimals(decimals)
    if mappings:
        panel.mappings(list(mappings))
    targets = _targets(queries, "instant")
    return _framed(panel, title, text, targets=targets, **frame)


def bars(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "percentunit",
    top: float | None = 1,
    limits: Steps = NEITHER,
    colours: Mapping[str, str] | None = None,
    **frame: Any,
) -> Any:
    """A bar for each series, as it is at the end of the time range."""
    panel = bargauge.Panel().unit(unit).min(0).thresholds(_thresholds(limits))
    panel.display_mode(c.BarGaugeDisplayMode.BASIC).reduce_options(_newest())
    panel.orientation(c.VizOrientation.HORIZONTAL).show_unfilled(True)
    panel.value_mode(c.BarGaugeValueMode.COLOR).min_viz_height(16).min_viz_width(8)
    panel.max_viz_height(300).sizing(c.BarGaugeSizing.AUTO)
    panel.name_placement(c.BarGaugeNamePlacement.AUTO).legend(_legend(shown=False))
    if top is not None:
        panel.max(top)
    _coloured(panel, colours or {})
    targets = _targets(queries, "instant")
    return _framed(panel, title, text, targets=targets, **frame)


def heat(title: str, text: str, buckets: str, *, unit: str, **frame: Any) -> Any:
    """A histogram over time; its exemplars are marks that lead to their traces."""
    colours = h.HeatmapColorOptions(
        mode=h.HeatmapColorMode.SCHEME,
        scheme="Oranges",
        fill="dark-orange",
        scale=h.HeatmapColorScale.EXPONENTIAL,
        exponent=0.5,
        steps=64,
    )
    panel = heatmap.Panel().calculate(False).color(_ready(colours)).cell_gap(1)
    panel.y_axis(_ready(h.YAxisConfig(unit=unit, axis_placement=c.AxisPlacement.LEFT)))
    panel.filter_values(_ready(h.FilterValueRange(le=1e-9))).show_legend()
    tip = h.HeatmapTooltip(mode=c.TooltipDisplayMode.SINGLE, y_histogram=True)
    panel.tooltip(_ready(tip)).show_value(c.VisibilityMode.NEVER)
    panel.cell_values(_ready(h.CellValues(unit="short"))).unit("short")
    panel.exemplars_color("rgba(0,120,255,0.8)")
    query = Query(buckets, "{{le}}", exemplars=True)
    return _framed(panel, title, text, targets=_targets([query], "heatmap"), **frame)


def timeline(title: str, text: str, query: Query, **frame: Any) -> Any:
    """The verdicts over time, a line for each run."""
    panel = statetimeline.Panel().mappings([state_words()]).unit("none")
    panel.merge_values(True).row_height(0.8).fill_opacity(80).line_width(0)
    panel.show_value(c.VisibilityMode.AUTO).per_page(20)
    panel.align_value(c.TimelineValueAlignment.LEFT)
    panel.legend(_legend(shown=False)).tooltip(_tooltip())
    panel.data_links(run_links("${__field.labels.run:percentencode}"))
    return _framed(panel, title, text, targets=_targets([query]), **frame)


@dataclass(frozen=True)
class Column:
    """A column of a table: its query's value, by whatever the rows are.

    One without a name is not shown: then the labels are all that there is to say.
    """

    name: str
    expr: str
    unit: str = "short"
    more: dict[str, Any] = field(default_factory=dict)


def rows(
    title: str,
    text: str,
    *columns: Column,
    keys: Mapping[str, str],
    links: Mapping[str, Sequence[Any]] | None = None,
    sort: str = "",
    **frame: Any,
) -> Any:
    """A table: ``keys`` are the labels that make a row, and what they are called."""
    panel = _table()
    if sort:
        panel.sort_by([_sorted_by(sort)])
    values = _values(len(columns))
    shown = {value: one for value, one in zip(values, columns, strict=True) if one.name}
    order = [*keys, *shown]
    panel.with_transformation(d.DataTransformerConfig("merge", options={}))
    arranged = {
        "excludeByName": dict.fromkeys({"Time", *values} - set(shown), True),
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": {**keys, **{value: one.name for value, one in shown.items()}},
    }
    panel.with_transformation(d.DataTransformerConfig("organize", options=arranged))
    for one in shown.values():
        more = [d.DynamicConfigValue(name, value) for name, value in one.more.items()]
        unit = d.DynamicConfigValue("unit", one.unit)
        panel.override_by_name(one.name, [unit, *more])
    _linked(panel, links or {})
    queries = [Query(one.expr) for one in columns]
    return _framed(panel, title, text, targets=_targets(queries, "table"), **frame)


def _values(queries: int) -> list[str]:
    """What Grafana calls the values of so many queries: a single one has no letter."""
    if queries == 1:
        return ["Value"]
    return [f"Value #{_ref(place)}" for place in range(queries)]


def traces(
    title: str,
    text: str,
    query: str,
    *,
    columns: Mapping[str, str],
    links: Mapping[str, Sequence[Any]] | None = None,
    **frame: Any,
) -> Any:
    """A table of spans that Tempo finds; the longest first."""
    panel = _table().sort_by([_sorted_by("Duration")])
    arranged = {
        "renameByName": dict(columns),
        "excludeByName": {"Trace Service": True, "Trace Name": True},
        "indexByName": {},
    }
    panel.with_transformation(d.DataTransformerConfig("organize", options=arranged))
    _linked(panel, links or {})
    target = tempo.Dataquery().datasource(TEMPO).query_type("traceql").query(query)
    target.limit(100).spss(100).table_type(t.SearchTableType.SPANS).ref_id("A")
    return _framed(panel, title, text, targets=[target], **frame).datasource(TEMPO)


def _table() -> Any:
    # What is no number of ours is text: a run called 12345678 is not "12.3 Mil".
    panel = table.Panel().unit("string").show_header(True)
    # An empty cell has not the words of an empty table.
    panel.override_by_regexp(".*", [d.DynamicConfigValue("noValue", "–")])
    panel.cell_height(c.TableCellHeight.SM).align(c.FieldTextAlignment.AUTO)
    return panel.cell_options(c.TableAutoCellOptions())


def _linked(panel: Any, links: Mapping[str, Sequence[Any]]) -> None:
    for name, found in links.items():
        built = [link.build() for link in found]
        panel.override_by_name(name, [d.DynamicConfigValue("links", built)])


def _coloured(panel: Any, colours: Mapping[str, str]) -> None:
    for names, colour in colours.items():
        panel.override_by_regexp(names, [_fixed(colour)])


class _Ready:
    """What is built already, where the SDK asks for a builder."""

    def __init__(self, built: Any) -> None:
        self._built = built

    def build(self) -> Any:
        return self._built


def _ready(built: Any) -> Any:
    return _Ready(built)


def _ref(place: int) -> str:
    return chr(ord("A") + place)


def _legend(shown: bool = True) -> Any:
    legend = common.VizLegendOptions().placement(c.LegendPlacement.BOTTOM)
    legend.display_mode(c.LegendDisplayMode.TABLE)
    return legend.show_legend(shown).calcs(["lastNotNull", "mean"] if shown else [])


def _tooltip() -> Any:
    tip = common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI)
    return tip.sort(c.SortOrder.DESCENDING)


def _sorted_by(column: str) -> Any:
    return common.TableSortByFieldState().display_name(column).desc(True)


def _newest() -> Any:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def _thresholds(limits: Steps) -> Any:
    found = [d.Threshold(value=value, color=colour) for value, colour in limits]
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(found)


def _fixed(colour: str) -> d.DynamicConfigValue:
    value = {"mode": "fixed", "fixedColor": colour}
    return d.DynamicConfigValue("color", value)


def state_words() -> Any:
    """The verdict's numbers (``promql.state``) as words, each in its colour."""
    meant = {str(code): name for code, name in enumerate(STATES, 1)}
    return words(meant, STATE_COLOURS)


def words(meant: Mapping[str, str], colours: Mapping[str, str] | None = None) -> Any:
    """Values as words, in the words' colours."""
    return d.ValueMap(
        options={
            value: d.ValueMappingResult(
                text=word, color=(colours or {}).get(word), index=place
            )
            for place, (value, word) in enumerate(meant.items())
        }
    )


# --- the whole -----------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row with its panels; one that is folded asks nothing until it is opened."""

    title: str
    panels: Sequence[Any]
    folded: bool = False


def whole(
    uid: str,
    title: str,
    text: str,
    *,
    variables: Sequence[Any],
    annotations: Sequence[Any],
    rows: Sequence[Row],
    since: str = "now-1h",
) -> d.Dashboard:
    """A dashboard of these rows, with the links that all have."""
    made = dashboard.Dashboard(title).uid(uid).description(text).tags(["episight"])
    made.timezone("browser").readonly().refresh("10s").time(since, "now")
    made.tooltip(d.DashboardCursorSync.CROSSHAIR).variables(list(variables))
    made.annotations(list(annotations)).links(dashboard_links(uid))
    for row in rows:
        head = dashboard.Row(row.title)
        if row.folded:
            for panel in row.panels:
                head.with_panel(panel)
        made.with_row(head)
        for panel in [] if row.folded else row.panels:
            made.with_panel(panel)
    built = made.build()
    _number(built.panels or [])
    return built


def _number(panels: Sequence[Any]) -> None:
    """Give each panel an id that says where it stands, so that links to it stay."""
    place = 0
    for panel in panels:
        for one in [panel, *getattr(panel, "panels", [])]:
            place += 1
            one.id_val = place
