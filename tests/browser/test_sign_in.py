"""Signing in to the page: at a certified OpenID Connect provider, and at the application.

`make browser` installs the provider, npm's oidc-provider, and the Node.js that runs it.
"""

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import jwt
import pytest
from selenium.webdriver.common.by import By

from devstack.ports import keep_port
from service.access.tokens import create_token
from service.settings import from_env
from tests.browser.conftest import TOKEN_TTL_SECONDS, Site, Tab, open_tab, start_api
from tests.browser.test_page import OVERFLOW, PALE_TEXTS, SMALL_TARGETS
from tests.support.provider import CLIENT_ID, open_provider, provider_environ

TOKEN_SECONDS = 3_600
EXPIRED = {"exp": 1_000}
SIGN_IN = "#sign-in button"
CLAIM = "https://app.example.org/user_id"


class Provider(NamedTuple):
    """`page` and `other` are ports whose pages it knows."""

    issuer: str
    page: int
    other: int


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    folder = tmp_path_factory.mktemp("provider")
    page, other = (keep_port(folder / f"{name}.port") for name in ("page", "other"))
    pages = [f"http://127.0.0.1:{page}", f"http://127.0.0.1:{other}"]
    async with open_provider(folder, pages=pages, token_seconds=TOKEN_SECONDS) as issuer:
        yield Provider(issuer, page, other)


@pytest.fixture(scope="module")
def issuer(provider: Provider) -> str:
    return provider.issuer


@pytest.fixture(scope="module")
async def page(site: Site, provider: Provider) -> Site:
    """The API with the provider."""
    await start_api(site.world, provider.page, **settings_for(provider.issuer, provider.page))
    return Site(site.world, f"http://127.0.0.1:{provider.page}")


def settings_for(issuer: str, page: int, **more: str) -> dict[str, str]:
    return {
        "CARRYOUT_PUBLIC_URL": f"http://127.0.0.1:{page}",
        **provider_environ(issuer),
        "CARRYOUT_OIDC_ISSUER": issuer,
        "CARRYOUT_OIDC_CLIENT_ID": CLIENT_ID,
        **more,
    }


@pytest.fixture
def tab(page: Site, tmp_path: Path) -> Iterator[Tab]:
    with open_tab(page, tmp_path) as opened:
        yield opened
        assert complaints(opened) == []


def complaints(tab: Tab) -> list[str]:
    """Those of our page: the provider's own pages ask for fonts of another host, and have no icon."""
    others = ("fonts.googleapis.com", "/favicon.ico")
    return [complaint for complaint in tab.complaints() if not any(other in complaint for other in others)]


async def sign_in(tab: Tab, page: Site, *, records: int = 1) -> UUID:
    user_id = await page.world.create_user(records=records)
    tab.open()
    press(tab, SIGN_IN)
    at_provider(tab, user_id)
    return user_id


def press(tab: Tab, selector: str) -> None:
    tab.until(lambda: tab.is_shown(selector))
    tab.find(selector).click()


def at_provider(tab: Tab, user_id: UUID) -> None:
    log_in(tab, user_id)
    tab.until(lambda: tab.is_shown("#ask"))


def log_in(tab: Tab, user_id: UUID) -> None:
    """On the provider's own pages: a login, then a consent."""
    tab.until(lambda: tab.is_shown("input[name=login]"))
    tab.find("input[name=login]").send_keys(str(user_id))
    tab.find("input[name=password]").send_keys("x")
    tab.find("button[type=submit]").click()
    tab.until(lambda: "Authorize" in tab.text("h1"))
    tab.find("button[type=submit]").click()


def stored(tab: Tab, name: str) -> str:
    text: str = tab.driver.execute_script("return sessionStorage.getItem(arguments[0])", f"carryout.{name}")
    return text


def store(tab: Tab, name: str, value: str) -> None:
    tab.driver.execute_script("sessionStorage.setItem(arguments[0], arguments[1])", f"carryout.{name}", value)


def change_grant(tab: Tab, **changes: object) -> None:
    store(tab, "grant", json.dumps(json.loads(stored(tab, "grant")) | changes))


def let_token_end(tab: Tab, user_id: UUID) -> None:
    """As it is an hour later; its renewal isn't due by the page's own clock."""
    store(tab, "token", jwt.encode({"sub": str(user_id)} | EXPIRED, "k" * 32))


def choose_part(tab: Tab) -> None:
    press(tab, "#part summary")
    tab.until(lambda: tab.is_shown("#sections input[value=activity]"))
    tab.find("#sections input[value=activity]").click()
    tab.driver.execute_script("document.getElementById('start').value = '2026-01-31'")


def chosen(tab: Tab) -> list[str]:
    values: list[str] = tab.driver.execute_script(
        "return [...new FormData(document.getElementById('ask')).values()].filter(Boolean)"
    )
    return values


def pending(tab: Tab) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(stored(tab, "sign-in"))
    return value


class TestProvider:
    async def test_from_signing_in_to_signing_out(self, page: Site, tab: Tab, issuer: str) -> None:
        user_id = await sign_in(tab, page)
        assert tab.driver.current_url == f"{page.url}/"  # neither a code nor a token is in the address any more
        tab.until_text(".account", f"Signed in as {user_id}")
        tab.ask("json")
        tab.until_text("#history > li:first-child .badge", "Ready")
        assert tab.driver.execute_script("return localStorage.length + document.cookie.length") == 0
        token = stored(tab, "token")
        assert jwt.decode(token, options={"verify_signature": False})["iss"] == issuer

        tab.find("#sign-out").click()
        tab.until(lambda: "Do you want to sign-out" in tab.text("h1"))
        asked = parse_qs(urlsplit(tab.driver.current_url).query)
        assert (asked["post_logout_redirect_uri"], asked["client_id"]) == ([f"{page.url}/"], ["page"])
        assert asked["id_token_hint"]
        tab.find("button[name=logout]").click()
        tab.until_text("#signed-out", "You are signed out.")
        assert tab.is_shown(SIGN_IN)
        assert tab.driver.execute_script("return sessionStorage.length") == 0
        press(tab, SIGN_IN)
        tab.until(lambda: tab.is_shown("input[name=login]"))  # the provider has forgotten them, too
        assert all(token not in process.log for process in page.world.processes)

    async def test_the_policy_names_the_provider_and_nothing_else(self, page: Site, issuer: str) -> None:
        async with httpx.AsyncClient(base_url=page.url, trust_env=False) as client:
            answer = await client.get("/")
        directives = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert directives.pop("connect-src") == f"'self' {issuer}"
        assert set(directives.values()) == {"'none'", "'self'"}

    async def test_a_token_that_ends_soon_is_renewed(self, page: Site, tab: Tab) -> None:
        await sign_in(tab, page)
        first, grant = stored(tab, "token"), json.loads(stored(tab, "grant"))
        change_grant(tab, endsAt=0)
        tab.ask("csv")
        tab.until_text("#history > li:first-child .badge", "Ready")
        assert stored(tab, "token") != first
        assert json.loads(stored(tab, "grant"))["refreshToken"] != grant["refreshToken"]
        assert json.loads(stored(tab, "grant"))["idToken"]

    async def test_calls_at_once_renew_it_once(self, page: Site, tab: Tab) -> None:
        """A refresh token that is used twice ends the session: this provider takes it for a stolen one."""
        user_id = await sign_in(tab, page)
        tab.ask("csv")
        tab.until_text("#history > li:first-child .badge", "Ready")
        tab.ask("json")
        tab.until_count("#history > li", 2)
        let_token_end(tab, user_id)
        tab.driver.execute_script("document.querySelectorAll('.downloads summary').forEach((each) => each.click())")
        tab.until(lambda: tab.driver.find_element(By.ID, "history").text.count("No downloads yet.") == 2)
        assert not tab.is_shown("#alert")
        assert [text for text in complaints(tab) if "401" not in text] == []

    async def test_a_refused_token_is_renewed(self, page: Site, tab: Tab) -> None:
        user_id = await sign_in(tab, page)
        let_token_end(tab, user_id)
        tab.ask("csv")
        tab.until_text("#history > li:first-child .badge", "Ready")
        assert not tab.is_shown("#alert")
        assert len(complaints(tab)) == 1  # the 401

    async def test_a_session_that_has_ended_keeps_what_was_chosen(self, page: Site, tab: Tab) -> None:
        user_id = await sign_in(tab, page)
        choose_part(tab)
        change_grant(tab, refreshToken="gone")
        let_token_end(tab, user_id)
        tab.ask("ndjson")
        tab.until_text("#alert", "Your session has ended. Sign in again to go on")
        assert len(complaints(tab)) == 2  # of the token and of its renewal
        tab.find(SIGN_IN).click()  # and the provider still knows them
        tab.until(lambda: tab.is_shown("#sections"))  # open, because it isn't the whole
        assert chosen(tab) == ["ndjson", "content", "2026-01-31"]
        assert not tab.is_shown("#alert")
        tab.until_text(".account", str(user_id))

    async def test_without_a_refresh_token(self, page: Site, tab: Tab) -> None:
        user_id = await sign_in(tab, page)
        change_grant(tab, refreshToken=None)
        let_token_end(tab, user_id)
        tab.ask("csv")
        tab.until_text("#alert", "Your session has ended")
        assert len(complaints(tab)) == 1


class TestWaysBack:
    """Answers without a code for this tab lead to a sentence, and a way on."""

    def begin(self, tab: Tab) -> str:
        """A sign-in that is waiting for its answer; its state."""
        tab.open()
        press(tab, SIGN_IN)
        tab.until(lambda: tab.is_shown("input[name=login]"))
        tab.open("/assets/icon.svg")  # the page's origin, without the page
        return str(pending(tab)["state"])

    def expect(self, tab: Tab, sentence: str) -> None:
        tab.until_text("#alert", sentence)
        assert tab.is_shown(SIGN_IN)
        assert urlsplit(tab.driver.current_url).query == ""
        assert not stored(tab, "token")

    async def test_cancelled(self, page: Site, tab: Tab) -> None:
        tab.open()
        press(tab, SIGN_IN)
        tab.until(lambda: tab.is_shown("input[name=login]"))
        tab.driver.find_element(By.PARTIAL_LINK_TEXT, "Cancel").click()
        self.expect(tab, "The sign-in was cancelled.")
        press(tab, SIGN_IN)
        at_provider(tab, await page.world.create_user(records=1))

    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            ("access_denied", "The sign-in was cancelled."),
            ("temporarily_unavailable", "The sign-in service is busy."),
            ("invalid_scope", "The sign-in service refused this sign-in."),
            ("<b>call us", "The sign-in service refused this sign-in."),
        ],
    )
    async def test_an_error(self, tab: Tab, issuer: str, error: str, sentence: str) -> None:
        state = self.begin(tab)
        words = f"error={error}&error_description=Call+0900+now"
        tab.open(f"/?{words}&state={state}&iss={issuer}")
        self.expect(tab, sentence)
        assert "0900" not in tab.text("body")

    async def test_another_state(self, tab: Tab, issuer: str) -> None:
        self.begin(tab)
        tab.open(f"/?code=stolen&state=other&iss={issuer}")
        self.expect(tab, "This sign-in doesn't belong to this tab")

    async def test_another_tab(self, tab: Tab, issuer: str) -> None:
        tab.open(f"/?code=lost&state=lost&iss={issuer}")
        self.expect(tab, "This sign-in was begun in another tab, or is over.")

    async def test_an_error_that_belongs_to_no_sign_in(self, tab: Tab) -> None:
        tab.open("/?error=access_denied&state=x&error_description=Call+0900+now")
        self.expect(tab, "This sign-in was begun in another tab, or is over.")

    @pytest.mark.parametrize("iss", ["", "&iss=https://evil.example"])
    async def test_another_provider(self, tab: Tab, iss: str) -> None:
        """RFC 9207: this provider says that it names itself in its answers."""
        state = self.begin(tab)
        tab.open(f"/?code=x&state={state}{iss}")
        self.expect(tab, "Another service has answered")

    async def test_a_code_that_is_over(self, tab: Tab, issuer: str) -> None:
        state = self.begin(tab)
        tab.open(f"/?code=over&state={state}&iss={issuer}")
        self.expect(tab, "The sign-in took too long, or was used already.")
        assert len(complaints(tab)) == 1

    async def test_tokens_for_another_sign_in(self, page: Site, tab: Tab) -> None:
        await sign_in(tab, page)
        tab.find("#sign-out").click()
        tab.until(lambda: tab.is_shown("button[name=logout]"))
        tab.open()  # the provider still has the session
        press(tab, SIGN_IN)
        tab.until(lambda: tab.is_shown("#ask"))
        tab.driver.execute_script(
            """const set = Storage.prototype.setItem;
            Storage.prototype.setItem = function (name, text) {
              set.call(this, name, name === "carryout.sign-in" ? text.replace(/"nonce":"./, '"nonce":"!') : text);
            };
            sessionStorage.removeItem("carryout.token"); sessionStorage.removeItem("carryout.grant");
            window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));"""
        )
        press(tab, SIGN_IN)
        self.expect(tab, "tokens that aren't for this sign-in")

    async def test_one_that_was_left(self, tab: Tab) -> None:
        tab.open()
        tab.until(lambda: tab.is_shown(SIGN_IN))
        tab.driver.execute_script("document.querySelector('input[value=json]').checked = true")
        press(tab, SIGN_IN)
        tab.until(lambda: tab.is_shown("input[name=login]"))
        tab.open()
        tab.until(lambda: tab.is_shown(SIGN_IN))
        assert tab.driver.execute_script("return document.querySelector('input[value=json]').checked")


class TestOutage:
    def block(self, tab: Tab, *urls: str) -> None:
        tab.driver.execute_cdp_cmd("Network.enable", {})
        tab.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": list(urls)})

    async def test_a_renewal_may_wait(self, page: Site, tab: Tab, issuer: str) -> None:
        user_id = await sign_in(tab, page)
        let_token_end(tab, user_id)
        self.block(tab, f"{issuer}/*")
        tab.ask("csv")
        tab.until_text("#alert", "The sign-in service can't be reached.")
        assert tab.is_shown("#ask")  # an outage ends no session
        self.block(tab)
        tab.ask("csv")
        tab.until_text("#history > li:first-child .badge", "Ready")
        complaints(tab)  # two 401s, and the blocked request

    async def test_a_sign_out_doesn_t(self, page: Site, tab: Tab, issuer: str) -> None:
        await sign_in(tab, page)
        self.block(tab, f"{issuer}/*")
        tab.find("#sign-out").click()
        tab.until_text("#alert", "You are signed out here. The sign-in service can't be reached")
        assert tab.is_shown(SIGN_IN)
        assert tab.driver.execute_script("return sessionStorage.length") == 0


class TestOtherSettings:
    @pytest.fixture
    async def other(self, site: Site, provider: Provider, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
        more = {name: text.format(issuer=provider.issuer) for name, text in request.param.items()}
        await start_api(site.world, provider.other, **settings_for(provider.issuer, provider.other) | more)
        yield Site(site.world, f"http://127.0.0.1:{provider.other}")
        api = site.world.processes.pop()
        api.signal(signal.SIGTERM)
        await api.ended()

    @pytest.mark.parametrize(
        ("other", "sentence"),
        [
            ({"CARRYOUT_OIDC_ISSUER": "http://127.0.0.1:9"}, "The sign-in service can't be reached."),
            ({"CARRYOUT_OIDC_ISSUER": "{issuer}/"}, "isn't set up for this page (its issuer differs)"),
            ({"CARRYOUT_OIDC_PARAMETERS": "prompt=none,max_age=5"}, "The sign-in service refused this sign-in."),
            ({"CARRYOUT_OIDC_CLIENT_ID": "stranger"}, "invalid_client"),  # as the provider's own page says
        ],
        indirect=["other"],
        ids=["unreachable", "another slash", "parameters", "client"],
    )
    async def test_is_told(self, other: Site, tmp_path: Path, sentence: str) -> None:
        with open_tab(other, tmp_path) as tab:
            tab.open()
            press(tab, SIGN_IN)
            tab.until(lambda: sentence in tab.text("body"))

    @pytest.mark.parametrize("other", [{"CARRYOUT_JWT_AUDIENCE": "other"}], indirect=True)
    async def test_a_token_that_the_service_refuses(self, other: Site, tmp_path: Path) -> None:
        """Each sign-in brings the same token: the page doesn't start one by itself."""
        with open_tab(other, tmp_path) as tab:
            tab.open()
            press(tab, SIGN_IN)
            tab.until(lambda: tab.is_shown("input[name=login]"))
            log_in(tab, await other.world.create_user(records=1))
            tab.until_text("#alert", "This service didn't accept the sign-in.")
            assert tab.is_shown(SIGN_IN)


@pytest.fixture(scope="module")
async def application(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Site, UUID]]:
    """A page that sends people to an application, which sends them back with a token at once; and their id."""
    port = keep_port(tmp_path_factory.mktemp("application") / "port")
    url = f"http://127.0.0.1:{port}"
    user_id = await site.world.create_user(records=1)
    claim = {"CARRYOUT_JWT_USER_CLAIM": CLAIM}
    token = create_token(from_env(site.world.environ | claim), str(user_id), TOKEN_TTL_SECONDS)
    with redirecting(f"{url}/#token={token}") as login:
        environ = {"CARRYOUT_PUBLIC_URL": url, "CARRYOUT_SIGN_IN_URL": login} | claim
        await start_api(site.world, port, **environ)
        yield Site(site.world, url), user_id


@contextmanager
def redirecting(back: str) -> Iterator[str]:
    """A server in a thread of its own, because selenium holds ours: it sends everyone to `back`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", back)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: it would be the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/login"
        server.shutdown()
        serving.join()


async def test_the_application_signs_people_in(application: tuple[Site, UUID], tmp_path: Path) -> None:
    site, user_id = application
    with open_tab(site, tmp_path) as tab:
        tab.open()
        tab.until(lambda: tab.is_shown(SIGN_IN))
        assert not tab.is_shown("#token")
        tab.driver.execute_script("document.querySelector('input[value=json]').checked = true")
        press(tab, SIGN_IN)
        tab.until_text(".account", f"Signed in as {user_id}")  # by the claim that the setting names
        assert tab.find("input[value=json]").is_selected()
        assert tab.driver.current_url == f"{site.url}/"
        tab.find("#sign-out").click()
        tab.until(lambda: tab.is_shown(SIGN_IN))
        assert complaints(tab) == []


@pytest.mark.parametrize("dark", [False, True])
async def test_everyone_can_read_and_press_it(tab: Tab, *, dark: bool) -> None:
    if dark:
        tab.emulate_dark()
    tab.emulate_phone(360)
    tab.open("/?code=lost&state=lost")
    tab.until_text("#alert", "another tab")
    assert tab.driver.execute_script(PALE_TEXTS) == []
    assert tab.driver.execute_script(SMALL_TARGETS) == []
    assert tab.driver.execute_script(OVERFLOW) == 0
