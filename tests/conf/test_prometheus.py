"""conf/prometheus-alerts.yml and conf/grafana-dashboard.json: what they and docs/metrics.md ask for exists."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from tests.clients.program import program
from wsbridge.admin.metric_table import METRICS
from wsbridge.reasons import Reason

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "conf" / "prometheus-alerts.yml"
DASHBOARD = ROOT / "conf" / "grafana-dashboard.json"
OWN_LABELS = {"job", "instance", "le", "severity"}
"""Labels that Prometheus adds, or that histograms have."""


def known() -> dict[str, set[str]]:
    """Give the labels of each series that a scrape can have."""
    found: dict[str, set[str]] = {"up": set()}
    for metric in METRICS:
        suffixes = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        found |= {metric.name + suffix: set(metric.labels) for suffix in suffixes}
    for family in ProcessCollector(registry=CollectorRegistry()).collect():
        found |= {sample.name: set() for sample in family.samples}
    return found


def alert_expressions() -> Iterator[str]:
    """Give the expressions of the alert rules."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def strings(value: Any, *keys: str) -> Iterator[str]:
    """Give the texts of these keys, wherever they are in a tree."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in keys and isinstance(inner, str):
                yield inner
            else:
                yield from strings(inner, *keys)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, *keys)


def documented_expressions() -> Iterator[str]:
    """Give the blocks of queries of docs/metrics.md."""
    yield from re.findall(
        r"^```promql\n(.*?)^```$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE | re.DOTALL
    )


EXPRESSIONS = {
    "alerts": list(alert_expressions()),
    "dashboard": list(strings(json.loads(DASHBOARD.read_text()), "expr", "definition")),
    "documentation": list(documented_expressions()),
}


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_series_and_labels_exist(place: str) -> None:
    """A metric or a label that is renamed would leave an alert silent and a panel empty."""
    series = known()
    assert len(EXPRESSIONS[place]) >= 6
    for expression in EXPRESSIONS[place]:
        names = re.findall(r"\b(?:wsbridge|process)_\w+|\bup\b", expression)
        assert names, expression
        assert set(names) <= set(series), expression
        labels = {label for name in names for label in series[name]} | OWN_LABELS
        grouped = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
        used = {label.strip() for group in grouped for label in group.split(",")}
        used |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression))
        assert used <= labels, expression


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_reasons_exist(place: str) -> None:
    """Reasons that expressions compare with."""
    for expression in EXPRESSIONS[place]:
        for pattern in re.findall(r'reason(?:=~|!~|!=|=)"([^"$]*)"', expression):
            for one in pattern.split("|"):
                assert any(re.fullmatch(one, reason.value) for reason in Reason), expression


def test_promtool_accepts_the_rules() -> None:
    """Syntax, names of alerts, templates."""
    command = [program("promtool"), "check", "rules", str(ALERTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_come_when_they_should() -> None:
    """The unit tests of the rules: for each there is a time when it is silent, for most one when it is not."""
    command = [program("promtool"), "test", "rules", str(Path(__file__).parent / "prometheus-alerts-test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_documented_queries_are_valid(tmp_path: Path) -> None:
    """Each query of the page and of the dashboard is a rule that promtool accepts."""
    queries = [
        *(query for block in EXPRESSIONS["documentation"] for query in re.split(r"\n(?=\S)", block.strip())),
        *strings(json.loads(DASHBOARD.read_text()), "expr"),
    ]
    rules = [
        {"record": f"test:query_{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    command = [program("promtool"), "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_can_be_imported() -> None:
    """Panels have ids of their own, do not overlap, and ask the data source that is chosen at import."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert names == {"datasource", "job", "instance", "route"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__rate_interval", "__all"}
    assert used <= names
