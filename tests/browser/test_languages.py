"""The page in the user's language: its choice, and whether its boxes hold longer and mirrored texts.

A picture of each state lies in the test's folder.
"""

import asyncio
import datetime as dt
import re
from base64 import b64decode
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
import pytest
from selenium.webdriver.support.ui import Select

from languages.choice import LANGUAGES, Language
from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import DeskRequest, ExportRequest
from service.export_spec import ExportSpec
from service.exports import cancellation
from service.exports.attempts import FAILED_MESSAGE
from service.formats import Format
from service.mails.messages import compose
from service.mails.samples import SAMPLES
from service.resources import Resources
from service.settings import Settings
from tests.api.serving import Served
from tests.browser.conftest import Site, Tab, open_browser
from tests.browser.test_accessibility import DESKTOP, PHONE, emulate, fits, resize
from tests.browser.test_page import FIRST, SMALL_TARGETS, insert_failed, token_with, violations
from tests.conftest import Token
from tests.languages.pseudo import LONG, MIRRORED, find_english, speaking
from tests.mails.test_messages import parts
from tests.support.exports import UNLIMITED, start_export
from tests.support.factories import Connection, create_user, create_user_with
from tests.support.mails import ADA, MESSAGE_ID, create_mailer

GERMAN = "Ihre Daten"
SHOWN_TEXT = """
const own = "pre, code, time, select, dd, bdi, q, #account, #sections, .choice b";
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let shown = document.title;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (element.checkVisibility() && !element.closest(own)) shown += walker.currentNode.data;
}
return [shown, ...[...document.querySelectorAll("[aria-label]")].map((element) => element.ariaLabel)].join("\\n");
"""
# A format has one, and so does a section.
NAMES = {"CSV", "JSON", "NDJSON", "XLSX", "ZIP", "activity"}
ASKED = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


class TestChoice:
    async def test_the_switch_is_kept(self, tab: Tab) -> None:
        tab.open()
        assert tab.text("h1") == "Your data"
        Select(tab.find("#language")).select_by_value("de")
        tab.until_text("h1", GERMAN)
        tab.open()
        assert tab.text("h1") == GERMAN
        tab.open("/nowhere")
        assert tab.text("h1") == "Dieser Link führt zu keiner Datei"
        tab.complaints()  # of the status

    async def test_the_switch_keeps_what_was_chosen(self, site: Site, tab: Tab) -> None:
        tab.sign_in(await site.world.create_user(records=2))
        tab.find("input[value=xlsx]").click()
        Select(tab.find("#language")).select_by_value("fr")
        tab.until_text("h1", "Vos données")
        tab.until(lambda: tab.is_shown("#ask"))
        assert tab.find("input[value=xlsx]").is_selected()

    @pytest.mark.parametrize(("locale", "heading"), [("pl_PL", "Państwa dane"), ("tlh", "Your data")])
    async def test_a_token_names_it(self, site: Site, tab: Tab, locale: str, heading: str) -> None:
        user_id = await site.world.create_user(records=2)
        tab.open(f"/#token={token_with(site, user_id, locale=locale)}")
        tab.until_text("h1", heading)
        tab.until_text("#account", str(user_id))
        tab.find("#ask button").click()
        tab.until_count(f"{FIRST}", 1)

    async def test_the_switch_goes_before_the_token(self, site: Site, tab: Tab) -> None:
        tab.open("/?language=it")
        Select(tab.find("#language")).select_by_value("de")
        tab.until_text("h1", GERMAN)
        token = token_with(site, await site.world.create_user(records=2), locale="pl")
        tab.open(f"/#token={token}")
        tab.until(lambda: tab.is_shown("#ask"))
        assert tab.text("h1") == GERMAN
        assert re.search(r"Angemeldet als \S", tab.text(".account").replace("\n", " "))

    async def test_numbers_and_dates_follow(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=2_500)
        tab.open("/?language=de")
        tab.open(f"/?language=de#token={site.token(user_id)}")
        tab.until(lambda: tab.is_shown("#ask"))
        tab.ask("csv")
        tab.until_text(f"{FIRST} .counted", "0 von 2.500 Datensätzen")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, small_export_records=50, max_export_records=100)


@pytest.fixture
async def user_id(resources: Resources, database: Connection) -> UUID:
    """A user with an export in each state."""
    user_id = await create_user_with(database, 40)
    await insert_failed(database, user_id, 9, FAILED_MESSAGE)
    deleted = await start_export(resources, user_id, Format.JSON, queued=False)
    await cancellation.cancel_or_delete(resources, deleted, SYSTEM)
    await start_export(resources, user_id, Format.XLSX, queued=False)
    spec = ExportSpec(user_id, Format.CSV, ("user", "activity"), ASKED)
    request = ExportRequest(spec, SYSTEM, desk=DeskRequest("support", "Your letter", ASKED))
    admitted = await resources.exports.admit(database, request, UNLIMITED, queued=False, estimated_records=5_000)
    assert admitted.export
    return user_id


class Here(Site):
    """The API of this process, which has no world around it."""

    def __init__(self, url: str) -> None:
        self.url = url


class Shown(NamedTuple):
    """One state of the page: words in English, and boxes that don't hold their text, by the window's width."""

    english: set[str]
    faults: list[str]


@pytest.fixture
async def large_user_id(database: Connection) -> UUID:
    """A user whose data is too large for one export."""
    user_id = await create_user(database)
    await database.execute(
        "INSERT INTO public.activity (user_id, kind, occurred_at) SELECT $1, 'login', "
        "timestamptz '2023-01-01 00:00Z' + n * interval '5 days' FROM generate_series(0, 149) AS n",
        user_id,
    )
    return user_id


@pytest.mark.parametrize("language", [LONG, MIRRORED], ids=["longer", "mirrored"])
async def test_pseudo_languages(  # noqa: PLR0913, PLR0917 (fixtures)
    served: Served,
    user_id: UUID,
    large_user_id: UUID,
    token: Token,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    language: Language,
) -> None:
    """The API runs in this process, which knows the pseudo-language, and the browser's driver in a thread."""
    with speaking(tmp_path / "locales", monkeypatch, language):
        shown = await asyncio.to_thread(walk, served.url, tmp_path, language, token(user_id), token(large_user_id))
    assert {state: one.english - NAMES for state, one in shown.items() if one.english - NAMES} == {}
    assert {state: one.faults for state, one in shown.items() if one.faults} == {}


async def test_german(served: Served, user_id: UUID, large_user_id: UUID, token: Token, tmp_path: Path) -> None:
    german = LANGUAGES["de"]
    shown = await asyncio.to_thread(walk, served.url, tmp_path, german, token(user_id), token(large_user_id))
    assert {state: one.faults for state, one in shown.items() if one.faults} == {}


@pytest.mark.parametrize("language", [LANGUAGES["de"], MIRRORED], ids=["german", "mirrored"])
def test_mails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: Language) -> None:
    """axe-core finds nothing in a mail's HTML, in the main part of a mail program."""
    mail = tmp_path / "mail.html"
    is_pseudo = language is MIRRORED
    with (
        speaking(tmp_path / "locales", monkeypatch, language) if is_pseudo else nullcontext(),
        open_browser(tmp_path) as driver,
    ):
        tab = Tab(driver, Here(""), tmp_path)
        for kind, facts in [(kind, facts) for kind, samples in SAMPLES.items() for facts in samples]:
            sender = create_mailer("smtp://localhost").sender
            composed = compose(
                kind, sender=sender, recipient=ADA, message_id=MESSAGE_ID, facts=facts, language=language.tag
            )
            _, html = parts(composed)
            within = html.replace("<body>", "<body><main>").replace("</body>", "</main></body>")
            mail.write_text(within, encoding="utf-8")
            driver.get(mail.as_uri())
            assert driver.execute_script("return getComputedStyle(document.body).direction") == language.direction
            assert barred(tab) == []


def barred(tab: Tab) -> list[str]:
    """axe-core's findings in both themes."""
    found: list[str] = []
    for theme in ("light", "dark"):
        emulate(tab, prefers_color_scheme=theme)
        found += [f"{theme}: {fault}" for fault in violations(tab.driver)]
    emulate(tab)
    return found


def walk(url: str, folder: Path, language: Language, token: str, large_token: str) -> dict[str, Shown]:
    """Each state of the page, as a person comes to it."""
    shown: dict[str, Shown] = {}
    with open_browser(folder) as driver:
        tab = Tab(driver, Here(url), folder)

        def look(state: str) -> None:
            shown[state] = inspect(tab, folder / f"{language.tag}-{state}")

        tab.open(f"/?language={language.tag}")
        tab.until(lambda: tab.is_shown("#sign-in"))
        assert driver.execute_script("return getComputedStyle(document.body).direction") == language.direction
        tab.find(".curl summary").click()
        look("signed-out")
        tab.open(f"/?language={language.tag}#token={token}")
        tab.until_count("#history .badge.failed", 7)
        tab.find("#part summary").click()
        look("copies")
        tab.driver.execute_script("document.querySelector('.item .badge.completed').closest('.item').id = 'ready'")
        tab.find("#ready .downloads summary").click()
        tab.until(lambda: tab.is_shown("#ready .downloads p"))
        tab.find("#ready .remove").click()
        tab.until(lambda: tab.is_shown("#confirm"))
        look("confirm")
        tab.find("#confirm-no").click()
        tab.open("/nowhere")
        tab.open(f"/?language={language.tag}#token={large_token}")
        tab.until(lambda: tab.is_shown("#confirm"))
        look("another-account")
        tab.find("#confirm-yes").click()
        tab.until(lambda: not tab.is_shown("#confirm") and tab.is_shown("#ask"))
        tab.find("#ask button").click()
        tab.until(lambda: tab.is_shown("#ranges"))
        look("ranges")
        driver.add_cookie({"name": "carryout-language", "value": language.tag})
        tab.open("/nowhere")
        look("error")
    return shown


def inspect(tab: Tab, picture: Path) -> Shown:
    faults = []
    for width in (PHONE, DESKTOP):
        resize(tab, width)
        faults += [f"{width}: {fault}" for fault in [*fits(tab), *tab.driver.execute_script(SMALL_TARGETS)]]
        whole = tab.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        picture.with_name(f"{picture.name}-{width}.png").write_bytes(b64decode(whole["data"]))
    faults += barred(tab)
    return Shown(set(find_english(tab.driver.execute_script(SHOWN_TEXT))), faults)
