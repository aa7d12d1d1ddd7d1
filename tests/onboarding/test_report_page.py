"""`carryout check --html`: the page for the person who answers for the data."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.onboarding.conftest import Application, committed
from tests.support import processes

VOID = {"meta", "link", "br", "img", "hr", "input"}
CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """The text of the page by heading, and its elements; fails if an element isn't closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.sections: dict[str, str] = {"": ""}
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._heading = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag in {"h1", "h2", "h3"}:
            self._heading = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        if self._open and self._open[-1] in {"h1", "h2", "h3"}:
            self._heading = data.strip()
        self.sections[self._heading] = self.sections.get(self._heading, "") + data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


async def make(application: Application, path: Path) -> tuple[int, Page]:
    await application.initialize()
    status, _, err = await processes.run(
        {}, "check", application.url, "--datasets", application.directory, "--html", path
    )
    assert err == ""
    return status, Page(path.read_text())


@committed("shop")
async def test_says_what_leaves_what_stays_and_why(application: Application, tmp_path: Path) -> None:
    status, page = await make(application, tmp_path / "report.html")
    assert status == 1
    assert "public.shop_orderitem.gift_text" in page.sections["Open"]
    order = page.sections["public.shop_order"]
    assert "public.shop_order.customer_id = public.auth_user.id (a foreign key)" in order
    assert "Decided in shop_order.sql" in order.replace("\n", " ")
    rows = {row[0].split()[0]: row[1:] for row in page.rows if len(row) == 3}
    assert rows["status"] == ["leaves", ""]
    assert rows["access_token"] == ["stays", "a secret, by its name"]
    assert rows["gift_text"] == ["undecided", "may be about another person"]
    assert "it holds secrets, by its name" in page.sections["public.authtoken_token"]
    assert "public.shop_product" in page.sections["Tables that are not personal"]


@committed("shop")
async def test_each_table_and_column_is_on_the_page_once(application: Application, tmp_path: Path) -> None:
    _, page = await make(application, tmp_path / "report.html")
    rows = await application.connection.fetch(
        "SELECT table_name AS table, column_name AS column FROM information_schema.columns"
        " WHERE table_schema = 'public'"
    )
    for table in {row["table"] for row in rows}:
        shown = [heading for heading in page.sections if heading == f"public.{table}"]
        assert len(shown) + sum(row[0] == f"public.{table}" for row in page.rows) == 1
    for row in rows:
        section = page.sections.get(f"public.{row['table']}")
        assert section is None or row["column"] in section


@committed("shop")
async def test_names_and_comments_of_the_schema_are_text_only(application: Application, tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script><img src=x onerror="alert(1)">\u202e&amp;'
    await application.connection.execute(f"""
        CREATE TABLE "{hostile.replace('"', '""')}" (
            id bigint PRIMARY KEY, user_id integer REFERENCES auth_user, "</style><b>{{{{ 7007 * 7007 }}}}" text
        );
        COMMENT ON TABLE shop_order IS '{hostile}';
        COMMENT ON TABLE shop_product IS '</main>{hostile}';
    """)
    _, page = await make(application, tmp_path / "report.html")
    assert page.tags.isdisjoint({"script", "img", "b"})
    assert not [name for name in page.attributes if name.startswith("on")]
    assert '<script>alert(1)</script><img src=x onerror="alert(1)">\\u202e&amp;' in page.sections["public.shop_order"]
    assert "49098049" not in "".join(page.sections.values())
    assert "\u202e" not in "".join(page.sections.values())


@committed("shop")
async def test_the_page_fetches_nothing(application: Application, tmp_path: Path) -> None:
    _, page = await make(application, tmp_path / "report.html")
    assert page.tags.isdisjoint({"link", "script", "img", "iframe", "form", "object"})
    assert all(target.startswith("#") for target in page.attributes["href"])
    assert page.attributes["href"] <= {f"#{name}" for name in page.attributes["id"]}
    text = (tmp_path / "report.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'; style-src 'unsafe-inline'" in text


@committed("shop")
async def test_a_page_of_complete_decisions_says_so(application: Application, tmp_path: Path) -> None:
    await make(application, tmp_path / "open.html")
    for name, column in (
        ("profile", "is_superuser"),
        ("shop_orderitem", "gift_text"),
        ("shop_profile", "risk_score"),
        ("shop_profile", "staff_note"),
    ):
        application.replace(f"{name}.sql", "SELECT\n", f"-- deny {column}: decided\nSELECT\n")
    status, page = await make(application, tmp_path / "report.html")
    assert status == 0
    assert "Nothing is open" in page.sections
    assert not [row for row in page.rows if row[1] == "undecided"]


@committed("shop")
async def test_a_page_that_cannot_be_written_is_one_sentence(application: Application, tmp_path: Path) -> None:
    await application.initialize()
    path = tmp_path / "none" / "report.html"
    status, _, err = await processes.run(
        {}, "check", application.url, "--datasets", application.directory, "--html", path
    )
    assert (status, err) == (2, f"carryout: --html: {path} can't be written: No such file or directory\n")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@committed("shop")
@pytest.mark.parametrize("width", [360, 1280])
async def test_a_browser_shows_it_without_scrolling_sideways(
    application: Application, tmp_path: Path, width: int
) -> None:
    await make(application, tmp_path / "report.html")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="page" style="width:{width}px;height:600px" src="report.html"></iframe><script>'
        "page.onload = () => { const root = page.contentDocument.documentElement;"
        " document.title = String(root.scrollWidth <= root.clientWidth) }</script>"
    )
    assert CHROMIUM
    ended = await processes.start(
        {"HOME": str(tmp_path)},
        *("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"),
        f"--user-data-dir={tmp_path / 'profile'}",
        frame.as_uri(),
        program=[CHROMIUM],
    )
    out, _ = await ended.communicate()
    assert b"<title>true</title>" in out
