"""Alerts, dashboard and autoscaler ask for metrics, labels and values that the code has; each alert has its runbook."""

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from service.api.app import ROUTES
from service.api.http.responses import StreamEnd
from service.backends.attachments import Fault
from service.bookkeeping.outbox import EntryState
from service.errors import ConfigurationError
from service.readiness import SERVERS
from service.settings import from_env
from service.telemetry.metrics import EVENT_OUTCOMES, EXPORT_OUTCOMES, MAIL_OUTCOMES, Metrics
from tests.deploy.manifests import DEPLOY, ROOT, Manifests, container
from tests.deploy.promql import Selector, groupings, selectors
from tests.test_settings import REQUIRED

Rule = dict[str, Any]

PROMETHEUS = DEPLOY / "prometheus"
METRICS = Metrics()
RULES = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SCRAPES = yaml.safe_load((PROMETHEUS / "scrape.yaml").read_text())["scrape_configs"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "carryout.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [target["expr"] for target in TARGETS]
RUNBOOK = ROOT / "docs" / "operations.md"

OF_TARGETS = {"job", "instance", "namespace", "pod"}
VALUES: dict[str, dict[str, set[str]]] = {
    "carryout_exports_total": {"outcome": {outcome for outcome, _ in EXPORT_OUTCOMES}},
    "carryout_attachments_total": {"outcome": {"included", *Fault}},
    "carryout_mails_total": {"outcome": set(MAIL_OUTCOMES)},
    "carryout_events_total": {"outcome": set(EVENT_OUTCOMES)},
    "carryout_streams_total": {"outcome": set(StreamEnd)},
    "carryout_server_reachable": {"server": set(SERVERS)},
    "carryout_pool_connections": {"state": {"idle", "used"}},
}
VALUES_ANYWHERE = {
    "job": {scrape["job_name"] for scrape in SCRAPES},
    "route": {route.path for route in ROUTES},
    "status": {"5.."},  # any of them
}


def _labels_by_name() -> dict[str, set[str]]:
    """Every metric of a process, by the name that Prometheus sees."""
    names = METRICS._registry._names_to_collectors
    labels = {
        name: set(collector._labelnames) if isinstance(collector, MetricWrapperBase) else set[str]()
        for name, collector in names.items()
    }
    return {name: own | ({"le"} if name.endswith("_bucket") else set()) | OF_TARGETS for name, own in labels.items()}


# Told by prometheus_client's ProcessCollector where there is a /proc.
OF_PROCESSES = dict.fromkeys(("process_cpu_seconds_total", "process_resident_memory_bytes"), OF_TARGETS)
LABELS = _labels_by_name() | OF_PROCESSES | {"up": OF_TARGETS} | {name: set() for name in RECORDED}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_what_there_is(expression: str) -> None:
    found = selectors(expression)
    assert found
    for selector in found:
        assert selector.metric in LABELS
        assert selector.labels.keys() <= LABELS[selector.metric]
        for label, values in selector.labels.items():
            assert set(values) <= _values(selector.metric, label)
    grouped = set.union(*(LABELS[selector.metric] for selector in found))
    assert groupings(expression) <= grouped


def _values(metric: str, label: str) -> set[str]:
    return VALUES.get(metric, {}).get(label) or VALUES_ANYWHERE[label]


def test_mails_are_counted_from_zero_in_every_state_they_are_left_in() -> None:
    assert set(MAIL_OUTCOMES) == set(EntryState) - {EntryState.SENDING}


@pytest.mark.parametrize("rule", [rule for rule in ALERTS if re.search(r"increase\(.*> 0$", rule["expr"])])
def test_a_first_time_is_an_increase(rule: Rule) -> None:
    """A series that begins with 1 never increased: its alert would miss the first, and perhaps only, case."""
    (selector,) = selectors(rule["expr"])
    assert _told_from_the_start(selector)


def _told_from_the_start(selector: Selector) -> bool:
    samples = [sample for family in Metrics()._registry.collect() for sample in family.samples]
    return any(
        sample.name == selector.metric
        and sample.value == 0
        and all(sample.labels[label] in values for label, values in selector.labels.items())
        for sample in samples
    )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert: Rule) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_the_runbook_has_a_section_for_each_alert() -> None:
    sections = re.findall(r"^### (Carryout\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]


def test_a_sweep_comes_well_before_its_alert() -> None:
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "CarryoutSweepStopped"]
    with pytest.raises(ConfigurationError, match="CARRYOUT_SWEEP_SECONDS"):
        from_env(REQUIRED | {"CARRYOUT_SWEEP_SECONDS": str(int(rule["expr"].split(" > ")[1]) / 2)})


def test_mails_that_are_never_tried_wait_too() -> None:
    """No rate is above another if both are 0."""
    (rule,) = [rule for rule in ALERTS if rule["alert"] == "CarryoutMailsWait"]
    _, _, attempts = rule["expr"].partition(" and ")
    assert re.fullmatch(r'sum\(rate\(.*"pending".*\)\) >= sum\(rate\(.*"sent".*\)\)', attempts)


def test_recorded_ratios_are_used() -> None:
    used = {selector.metric for expression in EXPRESSIONS for selector in selectors(expression)}
    assert used >= RECORDED


def test_the_autoscaler_asks_for_what_the_adapter_serves(manifests: Manifests) -> None:
    (rule,) = yaml.safe_load((PROMETHEUS / "adapter.yaml").read_text())["externalRules"]
    served = rule["seriesQuery"].partition("{")[0]
    (metric,) = manifests.get("HorizontalPodAutoscaler", "carryout-worker")["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == served
    assert served in LABELS


@pytest.mark.parametrize("scrape", SCRAPES, ids=lambda scrape: scrape["job_name"])
def test_a_scrape_finds_its_pods(manifests: Manifests, scrape: dict[str, Any]) -> None:
    deployment = manifests.get("Deployment", scrape["job_name"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (keep,) = [item for item in scrape["relabel_configs"] if item.get("action") == "keep"]
    name, component, port, _ = keep["regex"].split(";")
    assert labels == {"app.kubernetes.io/name": name, "app.kubernetes.io/component": component}
    assert port in {item["name"] for item in container(deployment)["ports"]}


def test_panels_are_apart() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
