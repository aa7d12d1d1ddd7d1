"""Pages in the user's language, and the languages that a request names."""

import time
from pathlib import Path
from uuid import UUID

import httpx
import jwt
import pytest

from languages.choice import LANGUAGES
from service.settings import Settings
from tests.api.conftest import CSV, UNKNOWN_ID, Create
from tests.api.problems import bearer
from tests.conftest import Token
from tests.languages.profiles import create_user_of, with_locales
from tests.support.factories import Connection, create_user

HEADINGS = {"de": "Ihre Daten", "en": "Your data", "fr": "Vos données", "pt": "Os seus dados"}
MISSING = {"de": "Dieser Link führt zu keiner Datei", "en": "This link doesn&#39;t lead to a file"}
VARY = "Accept-Encoding, Accept-Language, Cookie"
BROWSER = {"Accept": "text/html"}


@pytest.mark.parametrize(
    ("path", "headers", "language"),
    [
        ("/", {}, "en"),
        ("/", {"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"}, "de"),
        ("/", {"Accept-Language": "ja, pt-BR;q=0.5"}, "pt"),
        ("/", {"Accept-Language": "tlh"}, "en"),
        ("/", {"Accept-Language": "de", "Cookie": "carryout-language=fr"}, "fr"),
        ("/", {"Accept-Language": "de", "Cookie": "carryout-language=tlh"}, "de"),
        ("/?language=pt", {"Accept-Language": "de", "Cookie": "carryout-language=fr"}, "pt"),
        ("/?language=tlh", {"Accept-Language": "de"}, "de"),
    ],
)
async def test_the_page_speaks(idle_api: httpx.AsyncClient, path: str, headers: dict[str, str], language: str) -> None:
    page = await idle_api.get(path, headers=headers)
    assert page.headers["content-language"] == language
    assert page.headers["vary"] == VARY
    assert f'<html lang="{language}" dir="ltr">' in page.text
    assert f"<h1>{HEADINGS[language]}</h1>" in page.text
    assert f'lang="{language}" selected>' in page.text


async def test_each_language_is_a_page_of_its_own(idle_api: httpx.AsyncClient) -> None:
    pages = [await idle_api.get("/", params={"language": tag}) for tag in LANGUAGES]
    assert {page.status_code for page in pages} == {200}
    assert len({page.headers["etag"] for page in pages}) == len(LANGUAGES)
    again = await idle_api.get("/", headers={"Accept-Language": "de", "If-None-Match": pages[0].headers["etag"]})
    assert (again.status_code, again.headers["vary"], again.headers["content-language"]) == (304, VARY, "de")


@pytest.mark.parametrize(
    ("headers", "language"),
    [
        ({}, "en"),
        ({"Accept-Language": "de"}, "de"),
        ({"Accept-Language": "en", "Cookie": "carryout-language=de"}, "de"),
    ],
)
async def test_error_pages_speak(idle_api: httpx.AsyncClient, headers: dict[str, str], language: str) -> None:
    page = await idle_api.get("/nowhere", headers=BROWSER | headers)
    assert (page.status_code, page.headers["content-language"]) == (404, language)
    assert page.headers["vary"] == "Accept, Accept-Language, Cookie"
    assert f"<h1>{MISSING[language]}</h1>" in page.text


async def test_machines_are_spoken_to_in_english(idle_api: httpx.AsyncClient) -> None:
    problem = await idle_api.get("/nowhere", headers={"Accept-Language": "de"})
    assert problem.json()["title"] == "Not Found"
    assert "content-language" not in problem.headers


class TestWishes:
    @pytest.mark.parametrize(
        ("locale", "headers", "stored"),
        [
            ("fr-CA", {"Accept-Language": "de-CH, en;q=0.1"}, ("fr", "de")),
            ("tlh", {"Accept-Language": "de"}, (None, "de")),
            ({"not": "a text"}, {}, (None, None)),
            (None, {"Accept-Language": "*"}, (None, None)),
        ],
    )
    async def test_are_kept_with_the_export(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
        self,
        api: httpx.AsyncClient,
        settings: Settings,
        database: Connection,
        locale: object,
        headers: dict[str, str],
        stored: tuple[str | None, str | None],
    ) -> None:
        user_id = await create_user(database)
        claims = {"sub": str(user_id), "exp": time.time() + 60, "locale": locale}
        token = jwt.encode(claims, settings.jwt_secret[0])
        made = await api.post("/api/export", json=CSV, headers={**bearer(token), **headers})
        assert made.status_code == 201
        row = await database.fetchrow(
            "SELECT claimed_language, accepted_language FROM carryout.export_jobs WHERE id = $1",
            UUID(made.json()["job_id"]),
        )
        assert row
        assert tuple(row) == stored

    async def test_do_not_make_another_request_of_a_repeated_one(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        key = {"Idempotency-Key": "once"}
        first = await create(user_id, headers={**key, "Accept-Language": "de"})
        again = await create(user_id, headers={**key, "Accept-Language": "fr"})
        assert first.json()["job_id"] == again.json()["job_id"]


class TestKnownLanguage:
    """The page asks for it, because only the service knows the profile."""

    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        return with_locales(settings, tmp_path / "datasets")

    @pytest.mark.parametrize(
        ("claimed", "locale", "headers", "language"),
        [
            ("fr", "pl_PL", {"Accept-Language": "de"}, "fr"),
            (None, "pl_PL", {"Accept-Language": "de"}, "pl"),
            (None, "Ada", {"Accept-Language": "de"}, "de"),
            (None, "Ada", {}, "en"),
        ],
    )
    async def test_is_shown_with_what_is_offered(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
        self,
        api: httpx.AsyncClient,
        settings: Settings,
        database: Connection,
        claimed: str | None,
        locale: str,
        headers: dict[str, str],
        language: str,
    ) -> None:
        claims = {"sub": str(await create_user_of(database, locale)), "exp": time.time() + 60, "locale": claimed}
        token = jwt.encode(claims, settings.jwt_secret[0])
        offer = await api.get("/api/export/sections", headers={**bearer(token), **headers})
        assert offer.json()["language"] == language

    async def test_of_an_unknown_user_is_the_browsers(self, api: httpx.AsyncClient, token: Token) -> None:
        headers = {**bearer(token(UNKNOWN_ID)), "Accept-Language": "nl"}
        assert (await api.get("/api/export/sections", headers=headers)).json()["language"] == "nl"
