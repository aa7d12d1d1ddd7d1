"""The metrics' names keep Prometheus' conventions, and docs/metrics.md lists them as they are."""

import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from service.telemetry.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics -->\n", "<!-- /metrics -->\n"
NAME = re.compile(r"carryout(?:_[a-z]+)+")
LABELS = {
    "method",
    "route",
    "status",
    "kind",
    "format",
    "outcome",
    "queued",
    "step",
    "pool",
    "state",
    "loop",
    "server",
    "version",
    "cause",
}
METRICS = [metric for metric in vars(Metrics()).values() if isinstance(metric, MetricWrapperBase)]


def metrics_table() -> str:
    """The document's table: `python -m tests.telemetry.test_metric_names` prints it."""
    rows = [
        f"| `{_name(metric)}` | {metric._type} | {_labels(metric)} | {metric._documentation} |" for metric in METRICS
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""])


def _name(metric: MetricWrapperBase) -> str:
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


def _labels(metric: MetricWrapperBase) -> str:
    return ", ".join(f"`{label}`" for label in metric._labelnames)


def test_the_document_has_the_table() -> None:
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    table, end, _ = rest.partition(END)
    assert end
    assert table.strip() == metrics_table().strip()


@pytest.mark.parametrize("metric", METRICS, ids=_name)
def test_conventions(metric: MetricWrapperBase) -> None:
    """As https://prometheus.io/docs/practices/naming/ has them."""
    name = _name(metric)
    assert NAME.fullmatch(name)
    assert metric._type in {"counter", "gauge", "histogram"}
    assert metric._type == "counter" or not re.search(r"_(total|count|sum|bucket|info)$", name)
    assert metric._type != "histogram" or name.endswith("_seconds")
    assert not re.search(r"_(ms|millis|milliseconds|minutes|kb|mb|kilobytes)(_|$)", name)
    assert LABELS.issuperset(metric._labelnames)
    assert metric._documentation


if __name__ == "__main__":
    print(metrics_table(), end="")  # noqa: T201 (what it is for)
