"""What Grafana does with a dashboard, where it cannot run: variables, and substitution.

Written after Grafana's documentation and the Prometheus data source: variables of
queries become options, several values become a regular expression, ``$__range`` and the
like become times. It draws nothing.
"""

import json
import re
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple, Union

import yaml

from tests.support import ROOT, Prometheus, eventually

FOLDER = ROOT / "grafana" / "dashboards"
TIMES = {"__rate_interval": "4s", "__range": "1m", "__interval": "1s"}
"""Of a Prometheus that scrapes five times a second; four scrapes or more."""

Value = Union[str, Sequence[str]]
Json = Dict[str, Any]

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::(\w+))?\})")
_SPECIAL = re.compile(r"[$^*{}\[\]+?.()|]")


def dashboards() -> Dict[str, Json]:
    """All that are committed, by their file's name without the ending."""
    return {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


def provisioned() -> Dict[str, Json]:
    """The data sources, by their type."""
    found: Dict[str, Json] = {}
    for path in (ROOT / "grafana" / "provisioning" / "datasources").glob("*.yml"):
        for one in yaml.safe_load(path.read_text())["datasources"]:
            found[one["type"]] = one
    return found


def panels(dashboard: Json) -> Iterator[Json]:
    """All panels that show something, those in folded rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or []
        else:
            yield panel


def variables(dashboard: Json) -> List[Json]:
    found: List[Json] = dashboard["templating"]["list"]
    return found


def replaced(text: str, values: Mapping[str, Value]) -> str:
    """The text with its variables' values; those that are not known stay."""

    def value(match: "re.Match[str]") -> str:
        name = match[1] or match[2]
        if name not in values:
            return match[0]
        found = values[name]
        if isinstance(found, str):
            return found
        alternatives = "|".join(map(_escaped, found))
        return alternatives if len(found) == 1 else f"({alternatives})"

    return _VARIABLE.sub(value, text)


def _escaped(value: str) -> str:
    """As the Prometheus data source does: in a string, and a regular expression there.

    It does so whether or not what compares takes one.
    """
    return _SPECIAL.sub(r"\\\\\g<0>", value.replace("\\", r"\\\\"))


def names_in(text: str) -> List[str]:
    """The variables in a text; ``$1`` is a part of an expression, and none."""
    found = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
    return [name for name in found if not name.isdigit()]


def expressions(dashboard: Json) -> Iterator[Tuple[str, str]]:
    """Where it stands, and each PromQL of panels, variables and annotations."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if "expr" in target:
                yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in variables(dashboard):
        if variable["type"] == "query":
            expr, _ = parsed(variable["query"]["query"])
            yield f"variable {variable['name']}", expr
    for mark in dashboard["annotations"]["list"]:
        yield f"annotation {mark['name']}", mark["expr"]


def parsed(query: str) -> Tuple[str, str]:
    """A variable's query: its PromQL, and the label that is asked for, if one is."""
    of_label = re.fullmatch(r"label_values\((.+), (\w+)\)", query, re.DOTALL)
    if of_label:
        return of_label[1], of_label[2]
    result = re.fullmatch(r"query_result\((.+)\)", query, re.DOTALL)
    assert result, f"no query of a variable: {query}"
    return result[1], ""


class Looking:
    """Somebody looks at a dashboard, with values for some of its variables.

    Args:
        dashboard: the whole JSON.
        prometheus: what is asked.
        chosen: values of variables, by their names; the rest is as at the first look.
    """

    def __init__(
        self, dashboard: Json, prometheus: Prometheus, **chosen: Value
    ) -> None:
        self.dashboard = dashboard
        self._prometheus = prometheus
        self.options: Dict[str, List[str]] = {}
        self.values: Dict[str, Value] = dict(TIMES)
        for variable in variables(dashboard):
            name = variable["name"]
            first = self._first(variable)
            self.values[name] = chosen.get(name, first)

    def _first(self, variable: Json) -> Value:
        if variable["type"] == "textbox":
            return str(variable["query"])
        if variable["type"] == "datasource":
            return "uid"
        found = self.options[variable["name"]] = self._found(variable)
        if variable["includeAll"]:
            return variable.get("allValue") or found
        return found[:1]

    def _found(self, variable: Json) -> List[str]:
        expr, label = parsed(replaced(variable["query"]["query"], self.values))
        if label:
            query = {"match[]": expr}
            texts = self._prometheus.api(f"label/{label}/values", **query)
        else:
            texts = [_as_text(one) for one in self._prometheus.query(expr)]
        if variable.get("regex"):
            shape = re.compile(variable["regex"].strip("/"))
            matches = [shape.search(text) for text in texts]
            texts = [match[1] for match in matches if match]
        found = list(dict.fromkeys(texts))
        return found if variable["sort"] == 0 else sorted(found)

    def shown(self) -> Iterator[Tuple[Json, Dict[str, Value]]]:
        """Each panel with the values of its variables; as often as it is repeated."""
        for panel in panels(self.dashboard):
            repeated = panel.get("repeat")
            if repeated is None:
                yield panel, self.values
                continue
            for option in self.values[repeated]:
                yield panel, {**self.values, repeated: [option]}

    def points(self, target: Json, values: Mapping[str, Value]) -> List[Json]:
        """The series of a panel's query; those of numbers that are none left out."""
        return self.ask(replaced(target["expr"], values), target.get("instant", False))

    def ask(self, expr: str, instant: bool = False) -> List[Json]:
        """What Prometheus says: series with at least one finite value."""
        if instant:
            data = self._prometheus.api("query", query=expr)
        else:
            now = float(self._prometheus.api("query", query="time()")["result"][0])
            span = {"start": str(now - 8), "end": str(now), "step": "1"}
            data = self._prometheus.api("query_range", query=expr, **span)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "values": [data["result"]]}]
        found = []
        for series in data["result"]:
            values = series.get("values") or [series["value"]]
            if any(value not in ("NaN", "+Inf", "-Inf") for _, value in values):
                found.append({"metric": series["metric"], "values": values})
        return found

    def empty(self) -> List[str]:
        """Which queries have no data at this moment, but those of alerts."""
        found = []
        for panel, values in self.shown():
            if panel["title"] == "Alerts":
                continue
            for target in panel["targets"]:
                if "expr" in target and not self.points(target, values):
                    title = replaced(panel["title"], values)
                    found.append(f"{title}: {replaced(target['expr'], values)}")
        return found


def _as_text(sample: Any) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}} {sample.value} 0"


def eventually_full(
    dashboard: Json, prometheus: Prometheus, deadline: float, **chosen: Value
) -> Looking:
    """Look until each query has data; fail with those that have none."""

    def full() -> Looking:
        looking = Looking(dashboard, prometheus, **chosen)
        missing = looking.empty()
        assert not missing, "\n".join(missing)
        return looking

    return eventually(full, deadline, dashboard["title"])
