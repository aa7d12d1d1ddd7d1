"""The rows of a package that cells of other sections lead to, as lines `-- link:` say."""

from contextlib import aclosing
from functools import partial

from service.documents.datasets import Dataset
from service.documents.package import pages
from service.documents.streaming import Document

# A larger section isn't linked to: the places of its rows would take too much memory.
MOST_ROWS = 50_000


class Links:
    """The places of rows by their keys, which are HTML, as their cells are."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._datasets = {one.dataset.name: one.dataset for one in document.selected}
        self._places: dict[tuple[str, str], dict[bytes, int]] = {}

    async def find(self) -> None:
        """Read the keys of all sections that links name, but for those with more than MOST_ROWS."""
        wanted = {(link.section, link.key) for dataset in self._datasets.values() for link in dataset.facts.links}
        for position, (name, count) in enumerate(zip(self._datasets, self._document.counts, strict=True)):
            for section, key in sorted(wanted):
                if section == name and count <= MOST_ROWS:
                    self._places[section, key] = await self._read(position, key)

    def lead_to(self, dataset: Dataset) -> bool:
        return any(section == dataset.name for section, _ in self._places)

    def lead_from(self, dataset: Dataset) -> pages.Lead:
        return partial(self._lead, dataset)

    def _lead(self, dataset: Dataset, place: int, key: bytes) -> bytes:
        """A key of no row, such as another user's, stays as it is."""
        link = dataset.facts.links[place]
        row = self._places.get((link.section, link.key), {}).get(key)
        if row is None:
            return key
        path = pages.page_path(self._datasets[link.section], pages.page_of(row))
        return pages.ROW_LINK % (path.encode(), row, key)

    async def _read(self, position: int, key: str) -> dict[bytes, int]:
        places: dict[bytes, int] = {}
        number = 0
        async with aclosing(self._document.rows(partial(pages.column_text, name=key), position)) as batches:
            async for rows in batches:
                for cell in pages.cells_of(rows):
                    number += 1
                    places.setdefault(cell, number)
        return places
