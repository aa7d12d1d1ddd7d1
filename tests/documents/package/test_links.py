"""Links between a package's sections: each leads to the row with its key, and keys stay texts."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.package import links
from service.errors import ConfigurationError
from tests.documents.package.reading import Page, read_page, unpack
from tests.documents.package.test_contents import PROFILE
from tests.sql.sources import load
from tests.support.documents import make_package
from tests.support.factories import Connection, create_user

POSTS = "SELECT key, title FROM public.posts WHERE user_id = $1 ORDER BY n"
COMMENTS = """-- link: post to posts.key
SELECT n, post FROM public.comments WHERE user_id = $1 ORDER BY n"""
HOSTILE = (
    "plain",
    '"><script>alert(1)</script>',
    "a&amp;b",
    "a\x02e\x02m\x02l0=b\x02r\x02c",
    "\r\n\x02",
    "#row-1",
    "../../index.html",
    "javascript:alert(1)",
    "",
    "\u202egnp.exe",
)


@pytest.fixture
async def datasets(database: Connection, tmp_path: Path) -> tuple[Dataset, ...]:
    await database.execute(
        """CREATE TABLE public.posts (n int PRIMARY KEY, user_id uuid NOT NULL, key text, title text);
        CREATE TABLE public.comments (n int PRIMARY KEY, user_id uuid NOT NULL, post text)"""
    )
    return await load(database, tmp_path, {"profile.sql": PROFILE, "posts.sql": POSTS, "comments.sql": COMMENTS})


async def make(pool: Pool, datasets: tuple[Dataset, ...], database: Connection, posts: int) -> dict[str, bytes]:
    """Pages with `posts` rows before those with hostile keys, and comments on the latter, on none, and on another
    user's.
    """
    user_id, other_id = await create_user(database), await create_user(database)
    keys = [*(f"post {n}" for n in range(posts)), *HOSTILE]
    await database.executemany(
        "INSERT INTO public.posts VALUES ($1, $2, $3, 'A post')", [(n, user_id, key) for n, key in enumerate(keys)]
    )
    await database.execute(
        "INSERT INTO public.posts VALUES (100000, $1, 'theirs', ''), (100001, $2, NULL, '')", other_id, user_id
    )
    await database.executemany(
        "INSERT INTO public.comments VALUES ($1, $2, $3)",
        [(n, user_id, key) for n, key in enumerate([*HOSTILE, "theirs", "none", None])],
    )
    return unpack(await make_package(pool, datasets, user_id))


def cell_at(files: dict[str, bytes], link: str) -> str | None:
    """The first cell of the row that a link leads to."""
    target = urlsplit(link)
    page: Page = read_page(files[target.path])
    return page.rows[page.ids.index(target.fragment)][0]


@pytest.mark.parametrize("posts", [0, 498, 600])
async def test_each_leads_to_its_row(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection, posts: int
) -> None:
    files = await make(pool, datasets, database, posts)
    page = read_page(files["comments.html"])
    assert [row[1] for row in page.rows] == [*HOSTILE, "theirs", "none", None]
    found = [link for link in page.links if "#" in link]
    assert [cell_at(files, link) for link in found] == list(HOSTILE)
    assert page.elements.isdisjoint({"script", "img"})


async def test_rows_that_nothing_leads_to_have_no_id(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection
) -> None:
    files = await make(pool, datasets, database, 0)
    assert read_page(files["comments.html"]).ids == []
    assert read_page(files["posts.html"]).ids == [f"row-{n}" for n in range(1, len(HOSTILE) + 2)]


async def test_a_section_of_too_many_rows_is_not_led_to(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MOST_ROWS", len(HOSTILE))
    page = read_page((await make(pool, datasets, database, 0))["comments.html"])
    assert [link for link in page.links if "#" in link] == []
    assert [row[1] for row in page.rows] == [*HOSTILE, "theirs", "none", None]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("-- link: post", "must read as"),
        ("-- link: lost to posts.key", "needs a column lost"),
        ("-- link: post to posts.lost", "names no column of another dataset"),
        ("-- link: post to lost.key", "names no column of another dataset"),
        ("-- link: post to posts.key\n-- link: post to posts.title", "two lines `-- link: post to"),
    ],
)
@pytest.mark.usefixtures("datasets")
async def test_a_wrong_line_stops_the_start(database: Connection, tmp_path: Path, line: str, fault: str) -> None:
    comments = COMMENTS.replace("-- link: post to posts.key", line)
    with pytest.raises(ConfigurationError, match=rf"comments\.sql: .*{fault}"):
        await load(database, tmp_path, {"comments.sql": comments})
