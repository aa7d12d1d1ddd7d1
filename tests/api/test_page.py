"""The page, what it loads, and the errors that browsers see."""

import html
import json
import re
from html.parser import HTMLParser
from uuid import UUID

import httpx
import msgspec
import pytest

from service.api.http.pages import PAGE_DIR
from service.api.page import Pages
from service.branding.brand import PLAIN
from service.settings import Settings
from tests.api.conftest import UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.conftest import PUBLIC_URL, Token
from tests.support.factories import Connection, create_user

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# The Accept headers of Firefox, Chromium and Safari when a user opens a link.
BROWSERS = [
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "text/html, application/json;q=0.5",
    "TEXT/HTML;q=0.5",
]
MACHINES = [
    "*/*",
    "",
    "application/json",
    "application/problem+json, text/html;q=0.9",
    "application/json, text/html",
    "text/html;q=0.1, */*",
    "text/html;q=0",
    "text/*",
]
UNKNOWN_LINK = f"/api/export/{UNKNOWN_ID}/download?expires=1795850870&signature={'A' * 43}"


class References(HTMLParser):
    """Every address in a page, and what a strict policy wouldn't let run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("href", "src") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


class BodyAttributes(HTMLParser):
    """The attributes of `<body>`, as browsers read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self.found.append(dict(attrs))


class TestPage:
    async def test_is_served_under_a_strict_policy(self, idle_api: httpx.AsyncClient) -> None:
        page = await idle_api.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        references = References(page.text)
        assert not references.inline
        for address in references.addresses:
            assert (await idle_api.get(f"/{address}")).status_code == 200, address

    @pytest.mark.parametrize("origins", [{}, {"CARRYOUT_OIDC_ORIGINS": "https://oauth2.example.com"}])
    def test_names_the_provider_in_its_policy(self, common_settings: Settings, origins: dict[str, str]) -> None:
        settings = msgspec.structs.replace(
            common_settings,
            public_url="https://exports.example.com",
            oidc_issuer="https://id.example.com/app",
            oidc_client_id="page",
            oidc_origins=tuple(origins.values()),
        )
        called = " ".join(["connect-src 'self' https://id.example.com", *origins.values()])
        assert Pages(settings, PLAIN).find("en").policy == POLICY.replace("connect-src 'self'", called)

    @pytest.mark.parametrize("odd", ['"', "'", "<", "</script>", "&amp;", "\u2028", "}}"])
    def test_any_setting_reaches_the_scripts(self, common_settings: Settings, odd: str) -> None:
        settings = msgspec.structs.replace(
            common_settings, sign_in_url=f"https://app.example.com/?x={odd}", jwt_user_claim=f"https://x/{odd}"
        )
        (given,) = BodyAttributes(Pages(settings, PLAIN).find("en").fixed.body.decode()).found
        sign_in = json.loads(given["data-sign-in"] or "")
        assert sign_in == {
            "userClaim": settings.jwt_user_claim,
            "oidc": None,
            "url": settings.sign_in_url,
            "parents": [],
        }

    def test_only_its_ancestors_may_frame_it(self, common_settings: Settings) -> None:
        assert Pages(common_settings, PLAIN).find_embedded("en") is None
        ancestors = ("https://app.example.com", "http://localhost:3000")
        pages = Pages(msgspec.structs.replace(common_settings, frame_ancestors=ancestors), PLAIN)
        page = pages.find_embedded("en")
        assert page is not None
        assert page.policy == POLICY.replace("frame-ancestors 'none'", f"frame-ancestors {' '.join(ancestors)}")
        assert not References(page.fixed.body.decode()).inline
        assert pages.find("en").policy == POLICY

    async def test_is_in_no_frame_by_default(self, idle_api: httpx.AsyncClient) -> None:
        read_problem(await idle_api.get("/embedded"), 404)

    async def test_shows_how_to_do_without_it(self, idle_api: httpx.AsyncClient) -> None:
        page = (await idle_api.get("/")).text
        without_script = page.partition("<noscript>")[2].partition("</noscript>")[0]
        assert f"{PUBLIC_URL}/api/export/stream?format=csv" in without_script

    @pytest.mark.parametrize("path", ["/", *(f"/assets/{path.name}" for path in PAGE_DIR.iterdir() if path.is_file())])
    async def test_is_sent_again_only_when_it_changed(self, idle_api: httpx.AsyncClient, path: str) -> None:
        first = await idle_api.get(path)
        assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
        assert first.headers["content-security-policy"] == POLICY
        again = await idle_api.get(path, headers={"If-None-Match": f'W/{first.headers["etag"]}, "other"'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert (await idle_api.get(path, headers={"If-None-Match": '"other"'})).content == first.content

    async def test_gives_out_nothing_else(self, idle_api: httpx.AsyncClient) -> None:
        for name in ("page.html", "templates", "templates/page.html", ""):
            read_problem(await idle_api.get(f"/assets/{name}"), 404)
        for name in ("..%2fdocs.html", "%2e%2e/docs.html"):
            read_problem(await idle_api.get(f"/assets/{name}"), 400)

    async def test_scripts_load_nothing_from_elsewhere(self) -> None:
        for path in PAGE_DIR.glob("*.js"):
            text = path.read_text()
            assert not re.search(r"https?:|innerHTML|eval\(|insertAdjacentHTML|document\.write|localStorage", text), (
                path
            )


class TestErrors:
    @pytest.mark.parametrize("accept", BROWSERS)
    async def test_browsers_see_a_page(self, idle_api: httpx.AsyncClient, accept: str) -> None:
        answer = await idle_api.get(UNKNOWN_LINK, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert answer.headers["vary"] == "Accept, Accept-Language, Cookie"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == POLICY
        assert "<h1>This link doesn't lead to a file</h1>" in html.unescape(answer.text)
        assert answer.headers["x-request-id"] in answer.text
        assert not References(answer.text).inline

    @pytest.mark.parametrize("accept", MACHINES)
    async def test_others_get_a_problem(self, idle_api: httpx.AsyncClient, accept: str) -> None:
        answer = await idle_api.get(UNKNOWN_LINK, headers={"Accept": accept})
        read_problem(answer, 404)
        assert answer.headers["vary"] == "Accept"

    async def test_a_request_that_changes_something_gets_a_problem(self, idle_api: httpx.AsyncClient) -> None:
        read_problem(await idle_api.post("/api/export", headers={"Accept": BROWSERS[0]}), 401)

    @pytest.mark.parametrize("path", ["/nowhere", "/a/b/", "/a%2Fb", "/api/export", UNKNOWN_LINK])
    async def test_the_page_finds_its_way_home(self, idle_api: httpx.AsyncClient, path: str) -> None:
        """Its addresses are relative, so they keep any prefix that a proxy takes off."""
        answer = await idle_api.get(path, headers={"Accept": BROWSERS[0]})
        assert answer.status_code in {400, 401, 404}
        found = {
            httpx.URL(f"https://example.com/prefix{path}").join(to).path for to in References(answer.text).addresses
        }
        assert found == {"/prefix/", "/prefix/assets/icon.svg", "/prefix/assets/page.css"}

    async def test_markup_in_an_address_is_not_run(self, idle_api: httpx.AsyncClient) -> None:
        answer = await idle_api.get("/<script>alert(1)</script>", headers={"Accept": BROWSERS[0]})
        assert answer.status_code == 400
        assert "<h1>This address isn't valid</h1>" in html.unescape(answer.text)
        assert "alert" not in answer.text

    async def test_an_ended_link(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        created = (await create(user_id)).json()
        await api.delete(f"/api/export/{created['job_id']}", headers=bearer(token(user_id)))
        link = created["download_url"].removeprefix(PUBLIC_URL)
        answer = await api.get(link, headers={"Accept": BROWSERS[0]})
        assert answer.status_code == 410
        assert "<h1>This link has ended</h1>" in answer.text
        read_problem(await api.get(link), 410)
        for method in ("GET", "HEAD"):
            headers = (await api.request(method, link, headers={"Accept": BROWSERS[0]})).headers
            assert headers["content-type"] == "text/html; charset=utf-8"


class TestDownloads:
    async def test_only_the_owner_sees_who_downloaded_it(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        created = (await create(user_id)).json()
        path = f"/api/export/{created['job_id']}"
        assert (await api.get(f"{path}/downloads", headers=bearer(token(user_id)))).json() == {
            "downloads": [],
            "next": None,
        }
        link = created["download_url"].removeprefix(PUBLIC_URL)
        await api.get(link, headers={"User-Agent": "friend/1.0"})
        await api.head(link)
        await api.get(f"{path}/download", headers=bearer(token(user_id)) | {"User-Agent": "me/1.0"})
        downloads = (await api.get(f"{path}/downloads", headers=bearer(token(user_id)))).json()["downloads"]
        assert [(download["by"], download["ip"], download["user_agent"]) for download in downloads] == [
            ("owner", "127.0.0.1", "me/1.0"),
            ("link", "127.0.0.1", "friend/1.0"),
        ]
        assert [download["sent_by"] for download in downloads] == ["storage", "storage"]
        assert downloads[0]["downloaded_at"] > downloads[1]["downloaded_at"]
        read_problem(await api.get(f"{path}/downloads"), 401)
        for known_or_not in (path, f"/api/export/{UNKNOWN_ID}"):
            read_problem(await api.get(f"{known_or_not}/downloads", headers=bearer(token(UNKNOWN_ID))), 404)

    async def test_none_is_hidden_behind_many(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        created, others = (await create(user_id)).json(), (await create(user_id)).json()
        for job_id, count in ((created["job_id"], 251), (others["job_id"], 5)):
            await database.execute(
                """INSERT INTO carryout.export_audit (actor_type, action, user_id, job_id, user_agent)
                SELECT 'link', 'export:downloaded', $1, $2, n FROM generate_series(1, $3) AS n""",
                user_id,
                UUID(job_id),
                count,
            )
        seen, sizes, path = [], [], f"/api/export/{created['job_id']}/downloads?limit=100"
        while path:
            page = (await api.get(path, headers=bearer(token(user_id)))).json()
            seen += [int(download["user_agent"]) for download in page["downloads"]]
            sizes.append(len(page["downloads"]))
            path = page["next"]
        assert (seen, sizes) == ([*range(251, 0, -1)], [100, 100, 51])
        first = await api.get(f"/api/export/{created['job_id']}/downloads", headers=bearer(token(user_id)))
        assert len(first.json()["downloads"]) == 20

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=101", "limit=", "after=0", "after=x", "after=null", f"after={2**63}", "after=1.5", "page=2"],
    )
    async def test_wrong_query(self, idle_api: httpx.AsyncClient, token: Token, query: str) -> None:
        path = f"/api/export/{UNKNOWN_ID}/downloads?{query}"
        read_problem(await idle_api.get(path, headers=bearer(token(UNKNOWN_ID))), 400)
