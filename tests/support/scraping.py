"""Reading what a scrape answers."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    def __init__(self, text: str) -> None:
        self._samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """0 for what has not happened yet."""
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (named, _), value in self._samples.items() if named == name)

    def label_values(self, label: str) -> set[str]:
        """All values of this label."""
        return {value for _, labels in self._samples for key, value in labels if key == label}


async def scrape(client: httpx.AsyncClient) -> Scrape:
    response = await client.get("/metrics")
    assert response.status_code == 200, response.text
    return Scrape(response.text)
