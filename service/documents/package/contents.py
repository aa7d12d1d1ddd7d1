"""A user's data as a package: a ZIP with pages to read, a table a section, all rows for machines, and a manifest.

An archive's entries follow one another, so each part is a pass of its own over the same snapshot, and no part is ever
whole in memory.
"""

import datetime as dt
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import groupby
from types import MappingProxyType

from languages.choice import DEFAULT
from languages.words import find_words, to_translate
from service.backends.attachments import AttachmentError, Fault
from service.branding.brand import PLAIN, Brand
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Dataset
from service.documents.encoding import RowText
from service.documents.ndjson_encoder import NdjsonEncoder
from service.documents.package import pages
from service.documents.package.archive import Archive
from service.documents.package.attachments import Attachment, Attachments, Stores
from service.documents.package.links import Links
from service.documents.package.manifest import PATH, Json, Manifest, MissingFile, describe_table, table_path
from service.documents.selection import section_name, selection_words, title_of
from service.documents.streaming import Document

# Each row is read for the pages, for the tables, and for machines.
PASSES = 3
# No text of a template's variables can hold it, as their `<` is escaped.
PLACE_OF_ROWS = "<!-- rows -->"
INFORMATION = (
    ("purpose", to_translate("Why it is processed")),
    ("kept", to_translate("How long it is kept")),
    ("recipients", to_translate("Who receives it")),
    ("source", to_translate("Where it comes from")),
)
NO_STORES: Stores = MappingProxyType({})
REASONS = {
    Fault.OUTSIDE: to_translate("Its record names a place that isn't one of this account's files."),
    Fault.MISSING: to_translate("The service doesn't have it any more."),
    Fault.CHANGED: to_translate("It was changed while this package was made."),
    Fault.DENIED: to_translate("The service may not read it."),
    Fault.UNREADABLE: to_translate("It could not be read to its end."),
}


class Package:
    """The package of an open document, whose counters grow with it."""

    def __init__(  # noqa: PLR0913 (as many as its pages need)
        self,
        document: Document,
        archive: Archive,
        manifest: Manifest,
        attachments: Attachments,
        *,
        language: str,
        brand: Brand,
    ) -> None:
        self._document = document
        self._archive = archive
        self._manifest = manifest
        self._attachments = attachments
        self._links = Links(document)
        self._language = language
        self._brand = brand
        self._datasets = [one.dataset for one in document.selected]
        self._rows_read = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        await self._attachments.find()
        await self._links.find()
        for part in self._rows_parts():
            async with aclosing(part):
                async for piece in part:
                    yield piece
        await self._document.require_whole()
        if len(self._attachments):  # reading them may take hours
            await self._document.end_snapshot()
        for part in self._files_parts():
            async with aclosing(part):
                async for piece in part:
                    yield piece
        yield self._archive.end()

    def _rows_parts(self) -> Iterator[AsyncGenerator[bytes, None]]:
        for position, dataset in enumerate(self._datasets):
            yield self._pages(position)
            facts = describe_table(dataset, self._document.counts[position])
            yield self._entry(table_path(dataset), self._table(position), facts)
        yield self._entry("data/export.ndjson", self._lines())

    def _files_parts(self) -> Iterator[AsyncGenerator[bytes, None]]:
        by_page = groupby(self._attachments, lambda file: (file.position, pages.page_of(file.row)))
        for (position, number), files in by_page:
            yield self._files(position, number, list(files))
        yield self._entry("index.html", _once(self._index()))
        yield self._archive.add(PATH, self._manifest.content())

    async def _entry(
        self, path: str, content: AsyncGenerator[bytes, None], facts: Json | None = None
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(content), aclosing(self._archive.add(path, content)) as added:
            async for piece in added:
                yield piece
        self._manifest.add(self._archive.last, facts or {})

    async def _files(self, position: int, number: int, files: Sequence[Attachment]) -> AsyncGenerator[bytes, None]:
        """The files of the rows of one page, and the page that shows them."""
        dataset = self._datasets[position]
        shown: list[pages.ShownFile] = []
        for file in files:
            async with aclosing(self._file(dataset, file, shown)) as pieces:
                async for piece in pieces:
                    yield piece
        section = pages.page_path(dataset, number)
        page = self._render("files.html", title=title_of(dataset), section=section, files=shown)
        async with aclosing(self._entry(pages.files_path(dataset, number), _once(page))) as entry:
            async for piece in entry:
                yield piece

    async def _file(
        self, dataset: Dataset, file: Attachment, shown: list[pages.ShownFile]
    ) -> AsyncGenerator[bytes, None]:
        """The file's entry, if it can be read; it is added to `shown` and to the manifest in any case."""
        fault = file.fault
        if not fault:
            try:
                async with aclosing(self._content(file)) as content:
                    async for piece in content:
                        yield piece
            except AttachmentError as error:
                fault = error.fault
                self._attachments.note_fault(file, fault, error.detail)
        section = section_name(dataset)
        if fault:
            self._manifest.add_missing(MissingFile(section, file.row, file.title, fault))
            shown.append(pages.ShownFile(file.row, file.title, reason=REASONS[fault]))
        else:
            entry = self._archive.last
            self._document.files.included += 1
            self._manifest.add(entry, {"title": file.title, "section": section, "row": file.row})
            shown.append(pages.ShownFile(file.row, file.title, entry.path, entry.size_bytes))

    async def _content(self, file: Attachment) -> AsyncGenerator[bytes, None]:
        content = await self._attachments.open(file)
        pieces, size_bytes = content.pieces(), content.size_bytes
        deflate = content.is_worth_deflating
        added = self._archive.add(file.path, pieces, deflate=deflate, most_bytes=size_bytes)
        async with aclosing(pieces), aclosing(added):
            async for piece in added:
                yield piece

    async def _rows(self, row_text: RowText, position: int) -> AsyncGenerator[list[bytes], None]:
        async with aclosing(self._document.rows(row_text, position)) as batches:
            async for rows in batches:
                self._rows_read += len(rows)
                self._document.records_done = self._rows_read // PASSES
                yield rows

    async def _pages(self, position: int) -> AsyncGenerator[bytes, None]:
        dataset, count = self._datasets[position], self._document.counts[position]
        async with aclosing(self._rows(pages.row_text, position)) as batches:
            rows = _Rows(batches)
            for number in range(1, pages.page_of(max(count, 1)) + 1):
                page = self._page(dataset, count, number, rows)
                async with aclosing(self._entry(pages.page_path(dataset, number), page)) as entry:
                    async for piece in entry:
                        yield piece
            await rows.end()

    def _render(self, template: str, **facts: object) -> bytes:
        return pages.render(self._language, template, brand=self._brand, **facts)

    async def _page(self, dataset: Dataset, count: int, number: int, rows: "_Rows") -> AsyncGenerator[bytes, None]:
        done = (number - 1) * pages.ROWS_PER_PAGE
        frame = self._render(
            "section.html",
            title=title_of(dataset),
            about=dataset.facts.about,
            columns=[(column.name, dataset.facts.columns.get(column.name, "")) for column in dataset.columns],
            has_files=bool(dataset.facts.files),
            first=done + 1,
            last=min(done + pages.ROWS_PER_PAGE, count),
            count=count,
            page=number,
            pages=pages.page_of(max(count, 1)),
            path=lambda page: pages.page_path(dataset, page),
            rows=PLACE_OF_ROWS,
        )
        head, _, foot = frame.partition(PLACE_OF_ROWS.encode())
        files = pages.files_path(dataset, number).encode()
        lead = self._links.lead_from(dataset)
        is_numbered = dataset.facts.files or self._links.lead_to(dataset)
        yield head
        async for taken in rows.take(pages.ROWS_PER_PAGE):
            if is_numbered:
                yield pages.numbered_rows(taken, lead, first=done + 1, files=files, language=self._language)
            else:
                yield pages.table_rows(taken, lead)
            done += len(taken)
        yield foot

    async def _table(self, position: int) -> AsyncGenerator[bytes, None]:
        encoder = CsvEncoder()
        yield encoder.begin_list(self._datasets[position], self._document.exported_at)
        async with aclosing(self._rows(encoder.row_text, position)) as batches:
            async for rows in batches:
                yield encoder.rows(0, rows, first=False)

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        encoder = NdjsonEncoder(self._document.options)
        profiles = [row async for rows in self._rows(encoder.row_text, 0) for row in rows]
        yield encoder.begin(self._datasets, self._document.exported_at, profiles[0])
        for position in range(1, len(self._datasets)):
            async with aclosing(self._rows(encoder.row_text, position)) as batches:
                async for rows in batches:
                    yield encoder.rows(position, rows, first=False)
        yield encoder.end()

    def _index(self) -> bytes:
        sections = [
            {
                "title": title_of(dataset),
                "about": dataset.facts.about,
                "count": count,
                "page": pages.page_path(dataset, 1),
                "table": table_path(dataset),
                "information": _information(dataset),
            }
            for dataset, count in zip(self._datasets, self._document.counts, strict=True)
        ]
        return self._render(
            "index.html",
            user_id=self._document.spec.user_id,
            filter_words=selection_words(self._document.spec, find_words(self._language)),
            moment=dt.datetime.fromisoformat(self._document.exported_at),
            sections=sections,
            files=self._document.files,
            missing=self._missing(),
            left_out=[
                f"{name if name.startswith('table ') else f'{title_of(dataset)}, {name}'}: {why}"
                for dataset in self._datasets
                for name, why in dataset.facts.left_out.items()
            ],
        )

    def _missing(self) -> list[tuple[str, str, int]]:
        """Sections, why some of their files are missing, and how many."""
        titles = {dataset.name: title_of(dataset) for dataset in self._datasets}
        counts: Counter[tuple[str, str]] = Counter()
        for kind, count in self._document.files.faults.items():
            counts[titles[kind.section], REASONS[kind.fault]] += count
        return [(title, reason, count) for (title, reason), count in counts.items()]


class _Rows:
    """Batches of rows, to be taken by number."""

    def __init__(self, batches: AsyncIterator[list[bytes]]) -> None:
        self._batches = batches
        self._left: list[bytes] = []

    async def take(self, number: int) -> AsyncGenerator[list[bytes], None]:
        """The next `number` rows, or fewer at the end."""
        while number:
            if not self._left:
                self._left = await anext(self._batches, [])
            if not self._left:
                return
            taken, self._left = self._left[:number], self._left[number:]
            number -= len(taken)
            yield taken

    async def end(self) -> None:
        """Read to the end, where the rows are compared with their count."""
        async for _ in self._batches:
            pass


async def package_chunks(
    document: Document,
    stores: Stores = NO_STORES,
    *,
    language: str = DEFAULT,
    brand: Brand = PLAIN,
    max_bytes: int = sys.maxsize,
) -> AsyncGenerator[bytes, None]:
    """The package in chunks, under the same promise as `Document.chunks`: one that ends is whole, but for attachments
    that it says are missing. `max_bytes` is the most that those may have. Its pages speak `language` and show
    `brand`.

    Raises also ExportTooLargeError, and OutageError if one of the stores is down.
    """
    archive = Archive(dt.datetime.fromisoformat(document.exported_at))
    with (
        closing(Manifest(document.exported_at)) as manifest,
        closing(Attachments(document, stores, max_bytes=max_bytes)) as attachments,
    ):
        package = Package(document, archive, manifest, attachments, language=language, brand=brand)
        async with aclosing(document.joined(package.pieces())) as chunks:
            async for chunk in chunks:
                yield chunk


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


def _information(dataset: Dataset) -> list[tuple[str, str]]:
    """The terms of the GDPR's art. 15(1) that the dataset's file says something about, and what it says."""
    return [(term, text) for name, term in INFORMATION if (text := getattr(dataset.facts, name))]
