"""How a link, a variable or an annotation looks: what leads elsewhere, or chooses."""

from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as d

PAGE = "http://127.0.0.1:8000"
"""Where the live page is, unless somebody says otherwise."""

PROMETHEUS = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
TEMPO = d.DataSourceRef(type_val="tempo", uid="${traces}")


# --- links ---------------------------------------------------------------------------


def link(title: str, url: str, *, blank: bool = False) -> Any:
    """A link to somewhere; variables in the address are Grafana's."""
    made = dashboard.DashboardLink(title).type(d.DashboardLinkType.LINK).url(url)
    return made.icon("external link").target_blank(blank)


def live_page(run: str, title: str = "Live page of the run", path: str = "") -> Any:
    """A link to a run's live page; ``run`` says whose, in Grafana's words."""
    return link(title, f"${{page}}/runs/{run}{path}", blank=True)


def dashboard_of(run: str, uid: str = "episight-run", title: str = "This run") -> Any:
    """A link to a dashboard that shows one run, over the same time."""
    kept = "${datasource:queryparam}&${job:queryparam}&${page:queryparam}"
    return link(title, f"/d/{uid}?var-run={run}&{kept}&${{__url_time_range}}")


def run_links(run: str) -> list[Any]:
    """Where a run leads to."""
    return [dashboard_of(run), live_page(run)]


OTHERS = {
    "episight-fleet": "Fleet",
    "episight-run": "Run",
    "episight-episodes": "Episodes",
    "episight-monty": "Monty",
    "episight-exporter": "Exporter",
}
_OF_CHOSEN_RUNS = ("episight-run", "episight-monty")
"""Dashboards that do not show all runs: there "all" is no choice, nor handed over."""


def dashboard_links(here: str) -> list[Any]:
    """The links above a dashboard: to the others, and to the live page.

    What is chosen is kept where it means something there: the fleet is all runs.
    """
    others = [
        link(title, f"/d/{uid}?{'&'.join(_kept(here, uid))}").keep_time(True)
        for uid, title in OTHERS.items()
        if uid != here
    ]
    return [*others, link("Live page", "${page}", blank=True)]


def _kept(here: str, there: str) -> list[str]:
    names = ["datasource", "job", "page"]
    if "episight-exporter" not in (here, there):
        names.append("experiment")
    if here in _OF_CHOSEN_RUNS and there in (*_OF_CHOSEN_RUNS, "episight-episodes"):
        names.append("run")
    return [f"${{{name}:queryparam}}" for name in names]


# --- variables -----------------------------------------------------------------------


def source_variable(name: str, kind: str, label: str, text: str) -> Any:
    """Which data source is asked; Grafana's default one first, if it is of the kind."""
    made = dashboard.DatasourceVariable(name).type(kind).label(label).description(text)
    first = d.VariableOption(text="default", value="default")
    return made.current(first).allow_custom_value(False)


def choice(
    name: str,
    label: str,
    query: str,
    text: str,
    *,
    regex: str = "",
    everything: str = "",
    each: bool = False,
    sort: d.VariableSort = d.VariableSort.ALPHABETICAL_ASC,
) -> Any:
    """Several of what Prometheus knows.

    ``everything`` matches all there are; or else, with ``each``, all are taken one by
    one, for a panel that is repeated: where there are none, it matches none.
    """
    made = dashboard.QueryVariable(name).label(label).description(text).multi(True)
    made.datasource(PROMETHEUS).definition(query).sort(sort)
    made.query({"query": query, "refId": f"{name}-variable"})
    made.refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
    if regex:
        made.regex(regex)
    if everything:
        made.all_value(everything)
    if everything or each:
        made.include_all(True)
        made.current(d.VariableOption(text="All", value="$__all", selected=True))
    return made


def word(name: str, label: str, value: str, text: str) -> Any:
    """What people may write themselves."""
    option = d.VariableOption(text=value, value=value, selected=True)
    made = dashboard.TextBoxVariable(name).label(label).description(text)
    return made.default_value(value).current(option).options([option])


# --- annotations ---------------------------------------------------------------------


def annotation(name: str, expr: str, colour: str, title: str, text: str) -> Any:
    """Marks at the times that are the values of a query, in milliseconds."""
    made = dashboard.AnnotationQuery().name(name).datasource(PROMETHEUS)
    made.expr(expr).icon_color(colour).enable(True).hide(False)
    return made.title_format(title).text_format(text).use_value_for_time(True)
