"""What the chart's alerts and its dashboard ask Prometheus for, and whether a reading of /metrics has it."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

CHART = Path(__file__).parents[3] / "charts" / "pipelines"
# Written into each series by whoever scrapes it, as is the metric `up`.
TARGET = {"namespace", "job", "pod", "instance"}
SCRAPERS = {"up"}
# What Helm and Grafana put in where PromQL wants a duration or a number; inside of quotes a name stands for itself.
FILLED = {"$__rate_interval": "5m", "$hours": "26"}


@dataclass
class Asked:
    """One selector of a query: its metric, each label it relies on, the values it looks for and those it leaves out."""

    metric: str
    labels: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    matches: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Query:
    """One expression, and where it stands."""

    where: str
    text: str

    @property
    def parsed(self) -> promql.Expr:
        """Its syntax tree. Raises ValueError where it is no PromQL."""
        text = self.text
        for name, value in FILLED.items():
            text = text.replace(name, value)
        return promql.parse(text)

    @property
    def asked(self) -> list[Asked]:
        """Its selectors. A label that is grouped by, or joined on, must be one of every selector below."""
        found: dict[int, Asked] = {}
        order = iter(range(10**6))

        def below(expression: promql.Expr, labels: Sequence[str]) -> None:
            if isinstance(expression, promql.MatrixSelector):
                below(expression.vector_selector, labels)
            elif isinstance(expression, promql.VectorSelector):
                matchers = expression.matchers.matchers
                one = Asked(expression.name, {*labels, *(each.name for each in matchers)})
                for each in matchers:
                    one.matches.add(f"{each.name}={each.value}" if each.op == promql.MatchOp.Equal else each.name)
                    wanted = each.op in (promql.MatchOp.Equal, promql.MatchOp.Re)
                    values = [] if each.value.startswith("$") else each.value.split("|")
                    (one.values if wanted else one.left_out)[each.name] = values
                found[next(order)] = one
            elif isinstance(expression, promql.AggregateExpr):
                grouped = expression.modifier.labels if expression.modifier else []
                below(expression.expr, [*labels, *grouped])
            elif isinstance(expression, promql.BinaryExpr):
                matching = expression.modifier.matching if expression.modifier else None
                joined = matching.labels if matching else []
                below(expression.lhs, [*labels, *joined])
                # what is joined on, of an `unless` or `and`, is all that the right side needs to have in common
                below(expression.rhs, joined if matching else labels)
            elif isinstance(expression, promql.Call):
                for argument in expression.args:
                    below(argument, labels)
            elif isinstance(expression, promql.ParenExpr | promql.SubqueryExpr | promql.UnaryExpr):
                below(expression.expr, labels)
            elif not isinstance(expression, promql.NumberLiteral | promql.StringLiteral):
                raise TypeError(f"{type(expression).__name__} in {self.where}")

        below(self.parsed, [])
        return list(found.values())

    def missing(self, reading: "Reading") -> list[str]:
        """What it asks for and the reading lacks."""
        return [
            f"{self.where}: {lack}"
            for one in self.asked
            if one.metric not in SCRAPERS
            for lack in reading.lacks(one, known={"reason"})
        ]


class Reading:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self._labels: dict[str, list[dict[str, str]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._labels[sample.name].append(sample.labels)

    def lacks(self, asked: Asked, *, known: set[str]) -> Iterator[str]:
        """The metric, labels of it and their values that are not here; values of `known` labels are not looked at."""
        if asked.metric not in self._labels:
            yield f"there is no {asked.metric}"
            return
        for label in sorted(asked.labels - TARGET):
            here = {series.get(label) for series in self._labels[asked.metric]}
            if None in here:
                yield f"{asked.metric} has no label {label}"
            elif label not in known:
                yield from (
                    f"{asked.metric} has no {label}={value}"
                    for value in asked.values.get(label, [])
                    if value not in here
                )


def alerts() -> list[Query]:
    """Each alert's expression."""
    return [Query(path.stem, yaml.safe_load(path.read_text())["expr"]) for path in sorted(CHART.glob("alerts/*.yaml"))]


def dashboard() -> list[Query]:
    """Each panel's expressions, and what the dashboard's own variables are filled from."""
    board = json.loads((CHART / "dashboards/pipelines.json").read_text())
    panels = [
        Query(f"{panel['title']} {target['refId']}", target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]
    return panels + [
        Query(f"${one['name']}", re.sub(r"^label_values\((.*), (\w+)\)$", r"count by (\2) (\1)", one["query"]["query"]))
        for one in board["templating"]["list"]
        if one["type"] == "query"
    ]
