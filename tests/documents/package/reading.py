"""Packages, unpacked, and their pages, read as browsers do: also a reference to a control character is that
character.
"""

import io
import json
import zipfile
from html import unescape
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """The rows of the table's body (None where a cell says that it has no value), and all that a page consists of."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.rows: list[list[str | None]] = []
        self.columns: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.elements: set[str] = set()
        self.heading = self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag not in VOID:
            self._open.append(tag)
        given = dict(attributes)
        self.links += [given["href"] or ""] if "href" in given else []
        match tag:
            case "tr":
                self.ids += [given["id"] or ""] if "id" in given else []
                self.rows.append([])
            case "th":
                self.columns.append("")
            case "td":
                self.rows[-1].append("")
            case "span" if given.get("class") == "null":
                self.rows[-1][-1] = None

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        within = self._open[-1] if self._open else ""
        if within == "h1":
            self.heading += data
        elif within == "th":
            self.columns[-1] += data
        elif "td" in self._open:
            self.rows[-1][-1] = (self.rows[-1][-1] or "") + data

    def handle_entityref(self, name: str) -> None:
        self.handle_data(unescape(f"&{name};"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(chr(int(name[1:], 16) if name[0] in "xX" else int(name)))


def read_page(content: bytes) -> Page:
    page = Page()
    page.feed(content.decode())
    page.close()
    assert not page._open
    page.rows = [row for row in page.rows if row]
    return page


def unpack(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert len(set(archive.namelist())) == len(archive.namelist())
        return {name: archive.read(name) for name in archive.namelist()}


def read_manifest(files: dict[str, bytes]) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(files["datapackage.json"])
    return manifest
