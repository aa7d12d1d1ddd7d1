"""The page as a person uses it."""

import asyncio
import hashlib
import signal
import time
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import asyncpg
import httpx
import jwt
import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys

from service.backends.database import Connection
from tests.browser.conftest import PATIENCE_SECONDS, TOKEN_TTL_SECONDS, Site, Tab
from tests.support import wires
from tests.support.operators import create_key

FIRST = "#history > li:first-child"
# WCAG 2.2, 1.4.3: every element with a text of its own that falls short, and by how much.
PALE_TEXTS = """
const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const isOpaque = (color) => numbers(color)[3] !== 0;
const ground = (element) => {
  const color = getComputedStyle(element).backgroundColor;
  return isOpaque(color) || !element.parentElement ? color : ground(element.parentElement);
};
const ratio = (element) => {
  const [light, dark] = [getComputedStyle(element).color, ground(element)]
    .map((color) => luminance(numbers(color))).sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};
return [...document.body.querySelectorAll("*")]
  .filter((element) => element.checkVisibility() && element.matches(":not(.sr-only)"))
  .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .filter((element) => ratio(element) < 4.5)
  .map((element) => `${element.outerHTML.slice(0, 80)}: ${ratio(element).toFixed(2)}`);
"""
SMALL_TARGETS = """
return [...document.querySelectorAll("button, a.primary, .choice")]
  .filter((element) => element.checkVisibility() && element.getBoundingClientRect().height < 44)
  .map((element) => element.outerHTML);
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


AXE = Path(__file__).parent / "provider" / "node_modules" / "axe-core" / "axe.min.js"
RUN_AXE = """
const done = arguments[0];
const rules = Object.fromEntries(axe.getRules(["experimental"]).map(({ ruleId }) => [ruleId, { enabled: true }]));
const isPseudo = /^q[a-t][a-z]$/.test(document.documentElement.lang); // for private use: axe-core doesn't know them
for (const rule of ["html-lang-valid", "valid-lang"]) rules[rule] = { enabled: !isPseudo };
axe.run({ rules }).then(
  ({ violations }) => done(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`)),
  (error) => done([String(error)]),
);
"""


def faults(tab: Tab) -> list[str]:
    """Pale texts, and all that axe-core finds in the page as it is shown now."""
    return [*tab.driver.execute_script(PALE_TEXTS), *violations(tab.driver)]


def violations(driver: webdriver.Chrome) -> list[str]:
    """All of axe-core's rules are run, also the experimental ones, but for those of level AAA."""
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found: list[str] = driver.execute_async_script(RUN_AXE)
    return found


async def answer_once(port: int, status: str) -> None:
    """Stand in for a proxy without a server behind it, until one request has come."""
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(8_192):  # a browser may connect before it has anything to ask
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            answered.set()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", port):
        await answered.wait()


class HoldingProxy(wires.Proxy):
    """Keeps the requests with `token` back until `go` is set; `asked` says that there is one."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url)
        self.token = token.encode()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    def connect(self, client: asyncio.StreamWriter) -> wires.Connection:
        return _Holding(client, self)


class _Holding(wires.Connection):
    def __init__(self, client: asyncio.StreamWriter, proxy: HoldingProxy) -> None:
        super().__init__(client)
        self._proxy = proxy

    async def ask(self, chunk: bytes) -> bytes:
        if self._proxy.token in chunk:
            self._proxy.asked.set()
            await self._proxy.go.wait()
        return chunk


async def insert_failed(connection: Connection, user_id: UUID, count: int, message: str) -> None:
    """One a day."""
    await connection.execute(
        """INSERT INTO carryout.export_jobs
          (user_id, format, status, queued, estimated_records, created_at, completed_at, error_message)
        SELECT $1, 'csv', 'failed', true, 1, now() - n * interval '1 day', now(), $3
        FROM generate_series(1, $2) AS n""",
        user_id,
        count,
        message,
    )


async def create_large(site: Site) -> UUID:
    """A user with more records than the site allows in one file."""
    user_id = await site.world.create_user(records=1)
    async with site.world.database() as connection:
        await connection.execute(
            "INSERT INTO public.activity (user_id, kind, occurred_at) SELECT $1, 'login', "
            "timestamptz '2023-01-01 00:00Z' + n * interval '3 hours' FROM generate_series(0, 7199) AS n",
            user_id,
        )
    return user_id


def downloaded(folder: Path) -> Path | None:
    return next((path for path in folder.iterdir() if path.suffix in {".csv", ".json"}), None)


async def test_from_asking_to_deleting(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=2_500)
    token = tab.sign_in(user_id)
    assert tab.driver.current_url == f"{site.url}/"  # the token isn't in the address any more
    assert tab.text("#empty") == "You have no copies yet. They will appear here."
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Waiting")
    assert tab.text(f"{FIRST} .counted") == "0 of 2,500 records"
    async with site.world.database() as connection:
        await connection.execute(
            """UPDATE carryout.export_jobs
            SET status = 'processing', attempt = 1, lease_expires_at = now(), records_done = 1000 WHERE user_id = $1""",
            user_id,
        )
    tab.until_text(f"{FIRST} .counted", "1,000 of 2,500 records")
    assert tab.text(f"{FIRST} .badge") == "Being made"
    worker = await site.world.start_worker()
    tab.until_text(f"{FIRST} .badge", "Ready")
    assert tab.text("#status").startswith("Your CSV copy is ready: 2,500 records, ")

    tab.find(f"{FIRST} .download").click()
    tab.until(lambda: downloaded(tab.downloads) is not None)
    file = downloaded(tab.downloads)
    assert file is not None
    assert hashlib.sha256(file.read_bytes()).hexdigest() == tab.text(f"{FIRST} .wide dd")
    tab.find(f"{FIRST} .downloads summary").click()
    tab.until_text(f"{FIRST} .downloads", "With the link")
    assert "127.0.0.1" in tab.text(f"{FIRST} .downloads")
    assert "could be used more than once" in tab.text(f"{FIRST} .downloads")

    link = tab.find(f"{FIRST} .download").get_attribute("href")
    tab.find(f"{FIRST} .remove").click()
    tab.find("#confirm-yes").click()
    tab.until_text(f"{FIRST} .badge", "Ended")
    assert not tab.is_shown(f"{FIRST} .download")
    tab.driver.get(link or "")
    assert tab.text("h1") == "This link has ended"
    assert len(tab.complaints()) == 1  # the 410 itself
    tab.find("a.primary").click()
    tab.until_text(f"{FIRST} .badge", "Ended")
    tab.find("#sign-out").click()
    assert tab.is_shown("#sign-in")
    assert tab.driver.execute_script("return sessionStorage.length + localStorage.length + document.cookie.length") == 0
    assert all(token not in process.log for process in site.world.processes)
    worker.signal(signal.SIGTERM)
    await worker.ended()


async def test_support_has_asked(site: Site, tab: Tab) -> None:
    """The reason is shown as it was written, and runs nothing."""
    user_id = await site.world.create_user(records=10)
    reason = "Your letter <img src=x onerror=alert(1)> & 'call'"
    connection = await asyncpg.connect(site.world.database_url)
    key = await create_key(connection, name=f"support {user_id}")
    await connection.close()
    headers = {"X-API-Key": key}
    async with httpx.AsyncClient(base_url=site.url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS) as desk:
        body = {"user_id": str(user_id), "format": "csv", "reason": reason}
        asked = await desk.post("/api/v1/requests", json=body)
        assert asked.status_code == 202
        worker = await site.world.start_worker()
        tab.sign_in(user_id)
        tab.until_text(f"{FIRST} .badge", "Ready")
        assert tab.text(f"{FIRST} .asked") == f"Asked for by support, because: {reason}"
        assert not tab.driver.find_elements("css selector", f"{FIRST} img")
        assert faults(tab) == []
        await desk.get(f"{asked.headers['location']}/download")
    tab.find(f"{FIRST} .downloads summary").click()
    tab.until_text(f"{FIRST} .downloads", "Support, for you")
    worker.signal(signal.SIGTERM)
    await worker.ended()
    tab.ask("json")
    tab.until_text(f"{FIRST} h3", "JSON copy")
    assert not tab.is_shown(f"{FIRST} .asked")


async def test_deleting_right_after_keeping(site: Site, tab: Tab) -> None:
    """A closed dialog tells so later than it gives the focus back: the one opened meanwhile is another one's."""
    tab.sign_in(await site.world.create_user(records=10))
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Ready")
    tab.driver.execute_script(
        """const remove = document.querySelector(arguments[0]), dialog = document.getElementById("confirm");
        remove.click(); dialog.close("no"); remove.click();""",
        f"{FIRST} .remove",
    )
    tab.find("#confirm-yes").click()
    tab.until_text(f"{FIRST} .badge", "Ended")


async def test_keyboard_alone(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=10)
    tab.open()
    tab.until(lambda: tab.is_shown("#sign-in"))

    def press(*keys: str) -> None:
        ActionChains(tab.driver).send_keys(*keys).perform()

    def back() -> None:
        ActionChains(tab.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()

    def focused() -> str:
        text: str = tab.driver.execute_script("return document.activeElement.innerText")
        return text

    press(Keys.TAB, Keys.TAB, site.token(user_id), Keys.TAB, Keys.ENTER)  # past the choice of a language
    tab.until(lambda: focused() == "Your copies")
    tab.until(lambda: tab.is_shown("#part"))
    back()
    back()
    assert focused() == "Only a part of it"
    back()
    press(Keys.ARROW_DOWN, Keys.TAB, Keys.TAB, Keys.ENTER)
    tab.until_text(f"{FIRST} .badge", "Ready")
    assert tab.text(f"{FIRST} h3").startswith("JSON copy, ")
    tab.until(lambda: focused().startswith("JSON copy, "))
    press(Keys.TAB, Keys.TAB, Keys.TAB)
    assert focused() == "Delete"
    assert tab.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(Keys.ENTER)
    tab.until(lambda: focused() == "Keep it")
    press(Keys.ESCAPE)
    tab.until(lambda: focused() == "Delete")
    press(Keys.ENTER)
    tab.until(lambda: focused() == "Keep it")
    press(Keys.TAB, Keys.ENTER)
    tab.until_text(f"{FIRST} .badge", "Ended")


async def test_a_token_that_a_mail_has_wrapped(site: Site, tab: Tab) -> None:
    token = site.token(await site.world.create_user(records=1))
    tab.open()
    tab.until(lambda: tab.is_shown("#sign-in"))
    tab.find("#token").send_keys(f"Bearer {token[:70]}\n{token[70:]}")
    tab.find("#sign-in button").click()
    tab.until(lambda: tab.is_shown("#empty"))


class TestTwoUsersOfOneTab:
    @pytest.mark.parametrize("valid", [True, False])
    async def test_an_answer_to_the_first_that_comes_late(self, site: Site, tab: Tab, *, valid: bool) -> None:
        first, second = [await site.world.create_user(records=1) for _ in range(2)]
        async with site.world.database() as connection:
            await insert_failed(connection, first, 12, "Hers broke")
            await insert_failed(connection, second, 1, "His broke")
        token = site.token(first) if valid else "x.y.z"

        def change_users() -> None:
            tab.find("#sign-out").click()
            tab.find("#token").send_keys(site.token(second))
            tab.find("#sign-in button").click()
            tab.until_text(f"{FIRST} .note", "His broke")

        def ask_again() -> None:
            tab.ask()
            tab.until_text(f"{FIRST} .badge", "Ready")

        async with HoldingProxy(site.url, token).open() as proxy:
            await asyncio.to_thread(tab.driver.get, f"{proxy.url}/#token={token}")
            await proxy.asked.wait()
            await asyncio.to_thread(change_users)
            proxy.go.set()
            await asyncio.to_thread(ask_again)
            tab.until_count("#history > li", 2)
            assert tab.text("#history > li:last-child .note") == "His broke"
            assert not tab.is_shown("#more, #alert")

    async def test_going_back(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1)
        async with site.world.database() as connection:
            await insert_failed(connection, user_id, 1, "It broke")
        tab.sign_in(user_id)
        tab.until_text(f"{FIRST} .note", "It broke")
        tab.open("/docs")
        tab.open()
        tab.until_text(f"{FIRST} .note", "It broke")
        tab.find("#sign-out").click()
        tab.driver.back()
        tab.driver.back()
        assert tab.driver.current_url == f"{site.url}/"
        tab.until(lambda: tab.is_shown("#sign-in"))
        assert not tab.is_shown("#ask")
        assert tab.text("#history") == ""


def token_with(site: Site, user_id: UUID, **claims: object) -> str:
    claims = {"sub": str(user_id), "exp": int(time.time()) + TOKEN_TTL_SECONDS, **claims}
    return jwt.encode(claims, site.world.resources.settings.jwt_secret[0])


def follow_link(tab: Tab, site: Site, token: str) -> None:
    """Opened in this tab, as a mail's or another page's."""
    tab.driver.execute_script("location.href = arguments[0]", f"{site.url}/#token={token}")


class TestAccount:
    async def test_is_shown(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1)
        tab.sign_in(user_id)
        tab.until(lambda: tab.is_shown("#account"))
        assert tab.text(".account") == f"Signed in as {user_id}"
        tab.find("#sign-out").click()
        assert not tab.is_shown("#account")
        assert tab.text("#account") == ""

    @pytest.mark.parametrize(("verified", "shown"), [(True, "ädä@example.com ({})"), (False, "{}"), ("true", "{}")])
    async def test_shows_an_address_only_if_it_is_verified(
        self, site: Site, tab: Tab, *, verified: object, shown: str
    ) -> None:
        """Users may name themselves like others, and give others' addresses."""
        user_id = await site.world.create_user(records=1)
        token = token_with(site, user_id, email="ädä@example.com", email_verified=verified, name="Ada")
        tab.open(f"/#token={token}")
        tab.until_text("#account", shown.format(user_id))
        assert tab.text("#account") == shown.format(user_id)

    @pytest.mark.parametrize("reopened", [False, True])
    async def test_a_link_to_another_asks_first(self, site: Site, tab: Tab, *, reopened: bool) -> None:
        mine, theirs = [await site.world.create_user(records=1) for _ in range(2)]
        token = tab.sign_in(mine)
        if reopened:  # from elsewhere, so that the page loads anew
            tab.open("/livez")
        follow_link(tab, site, site.token(theirs))
        tab.until(lambda: tab.is_shown("#confirm"))
        asked = tab.text("#confirm")
        assert asked.index(f"You are signed in as {mine}.") < asked.index(f"signs you in as {theirs}.")
        assert tab.driver.current_url == f"{site.url}/"
        tab.find("#confirm-no").click()
        tab.until_text("#account", str(mine))
        assert tab.driver.execute_script("return sessionStorage.getItem('carryout.token')") == token
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")
        async with site.world.database() as connection:
            rows = await connection.fetch(
                "SELECT user_id FROM carryout.export_jobs WHERE user_id = ANY($1)", [mine, theirs]
            )
        assert [row["user_id"] for row in rows] == [mine]

    async def test_changes_when_the_user_agrees(self, site: Site, tab: Tab) -> None:
        mine, theirs = [await site.world.create_user(records=1) for _ in range(2)]
        async with site.world.database() as connection:
            await insert_failed(connection, mine, 1, "Mine broke")
            await insert_failed(connection, theirs, 1, "Theirs broke")
        tab.sign_in(mine)
        tab.until_text(f"{FIRST} .note", "Mine broke")
        follow_link(tab, site, site.token(theirs))
        tab.until(lambda: tab.is_shown("#confirm"))
        tab.find("#confirm-yes").click()
        tab.until_text(f"{FIRST} .note", "Theirs broke")
        assert tab.text("#account") == str(theirs)

    async def test_links_while_it_asks(self, site: Site, tab: Tab) -> None:
        """The answer is to the last question; Escape says no."""
        users = [await site.world.create_user(records=1) for _ in range(3)]
        tab.sign_in(users[0])
        for another in users[1:]:
            follow_link(tab, site, site.token(another))
            tab.until_text("#confirm-text", str(another))
        ActionChains(tab.driver).send_keys(Keys.ESCAPE).perform()
        tab.until(lambda: not tab.is_shown("#confirm"))
        assert tab.text("#account") == str(users[0])
        follow_link(tab, site, site.token(users[1]))
        tab.until_text("#confirm-text", str(users[1]))
        tab.find("#confirm-yes").click()
        tab.until_text("#account", str(users[1]))

    async def test_a_new_token_of_the_same_asks_nothing(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1)
        tab.sign_in(user_id)
        renewed = token_with(site, user_id, jti="renewed")
        follow_link(tab, site, renewed)
        tab.until(lambda: tab.driver.execute_script("return sessionStorage.getItem('carryout.token')") == renewed)
        assert not tab.is_shown("#confirm")

    @pytest.mark.parametrize("same_account", [True, False])
    async def test_a_forged_token_replaces_none(self, site: Site, tab: Tab, *, same_account: bool) -> None:
        mine, other = [await site.world.create_user(records=1) for _ in range(2)]
        token = tab.sign_in(mine)
        head, body, _ = token_with(site, mine if same_account else other, jti="forged").split(".")
        follow_link(tab, site, f"{head}.{body}.{'A' * 43}")
        if not same_account:
            tab.until(lambda: tab.is_shown("#confirm"))
            tab.find("#confirm-yes").click()
        tab.until_text("#alert", "The link's access token isn't valid or has expired.")
        assert tab.driver.execute_script("return sessionStorage.getItem('carryout.token')") == token
        assert tab.text("#account") == str(mine)
        assert "401" in "".join(tab.complaints())
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")

    async def test_a_new_token_replaces_one_that_has_ended(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1)
        tab.sign_in(user_id)
        tab.driver.execute_script("sessionStorage.setItem('carryout.token', arguments[0])", f"{site.token(user_id)}x")
        follow_link(tab, site, token_with(site, user_id, jti="renewed"))
        tab.until(lambda: "401" in "".join(tab.complaints()))
        tab.until_text("#account", str(user_id))
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")

    async def test_a_link_without_a_valid_token_asks_before_it_replaces_one(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1)
        tab.sign_in(user_id)
        follow_link(tab, site, "x.y.z")
        tab.until_text("#confirm-text", "signs you in as an unknown account.")
        tab.find("#confirm-no").click()
        assert tab.text("#account") == str(user_id)

    async def test_a_page_that_opened_it_has_no_hold_on_it(self, site: Site, tab: Tab) -> None:
        """It could change the address of an open page, and with it the token."""
        user_id = await site.world.create_user(records=1)
        link = f"{site.url}/#token={site.token(user_id)}"
        tab.driver.get(f"data:text/html,<button onclick=\"w = window.open('{quote(link)}')\">Open</button>")
        opener = tab.driver.current_window_handle
        tab.find("button").click()
        tab.until(lambda: len(tab.driver.window_handles) == 2)
        (opened,) = set(tab.driver.window_handles) - {opener}
        tab.driver.switch_to.window(opened)
        tab.until_text("#account", str(user_id))
        assert tab.driver.execute_script("return window.opener") is None
        tab.driver.switch_to.window(opener)
        assert tab.driver.execute_script("return w.closed")


class TestRefusals:
    async def test_no_token(self, tab: Tab) -> None:
        tab.open("/#token=x.y.z")
        tab.until_text("#alert", "This access token isn't valid or has expired. Please sign in again.")
        assert tab.is_shown("#sign-in")
        assert tab.driver.execute_script("return sessionStorage.length") == 0
        assert "401" in "".join(tab.complaints())

    async def test_a_text_that_no_header_can_carry(self, tab: Tab) -> None:
        tab.open("/#token=ey…Q")
        tab.until_text("#alert", "This access token isn't valid or has expired. Please sign in again.")
        assert tab.is_shown("#sign-in")
        assert "401" in "".join(tab.complaints())

    async def test_one_in_progress(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1_000)
        tab.sign_in(user_id)
        await site.world.ask(user_id)  # elsewhere, meanwhile
        tab.ask()
        tab.until_text("#alert", "A copy is already being made. Here it is.")
        assert tab.text(f"{FIRST} .badge") == "Waiting"
        tab.find(f"{FIRST} .remove").click()
        tab.find("#confirm-yes").click()
        tab.until_text(f"{FIRST} .badge", "Cancelled")
        assert "409" in "".join(tab.complaints())

    async def test_too_large(self, site: Site, tab: Tab) -> None:
        tab.sign_in(await site.world.create_user(records=3_001))
        tab.ask()
        tab.until_text("#alert", "Export too large, please filter data. Ask for a date range (from and to)")
        assert "422" in "".join(tab.complaints())

    async def test_too_often(self, site: Site, tab: Tab) -> None:
        tab.sign_in(await site.world.create_user(records=1))
        for asked in range(1, 4):
            tab.ask()
            tab.until_count("#history > li", asked)
        tab.ask()
        tab.until_text("#alert", "At most 3 exports an hour. You can ask again at ")
        assert "429" in "".join(tab.complaints())


class TestLooks:
    @pytest.mark.parametrize("dark", [False, True])
    async def test_every_text_has_contrast(self, site: Site, tab: Tab, *, dark: bool) -> None:
        if dark:
            tab.emulate_dark()
        tab.open()
        tab.until(lambda: tab.is_shown("#sign-in"))
        ground = tab.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(19, 22, 21)" if dark else "rgb(246, 246, 243)")
        assert faults(tab) == []
        tab.sign_in(await site.world.create_user(records=1))
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")
        tab.find(f"{FIRST} .downloads summary").click()
        tab.until_text(f"{FIRST} .downloads", "No downloads yet.")
        assert faults(tab) == []
        tab.find(f"{FIRST} .remove").click()
        assert faults(tab) == []
        tab.find("#confirm-no").click()
        follow_link(tab, site, site.token(await site.world.create_user(records=1)))
        tab.until_text("#confirm-title", "Change to another account?")
        assert faults(tab) == []

    @pytest.mark.parametrize("width", [320, 390])
    async def test_fits_a_phone(self, site: Site, tab: Tab, width: int) -> None:
        tab.emulate_phone(width)
        tab.sign_in(await site.world.create_user(records=1))
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")
        tab.find(f"{FIRST} .downloads summary").click()
        tab.until_text(f"{FIRST} .downloads", "No downloads yet.")
        tab.find(".curl summary").click()
        assert tab.driver.execute_script(OVERFLOW) == 0
        assert tab.driver.execute_script(SMALL_TARGETS) == []
        follow_link(
            tab,
            site,
            token_with(
                site, await site.world.create_user(records=1), email="a" * 240 + "@b.example", email_verified=True
            ),
        )
        tab.until_text("#confirm-title", "Change to another account?")
        assert tab.driver.execute_script(SMALL_TARGETS) == []
        tab.find("#confirm-yes").click()
        tab.until_text("#account", "@b.example")
        assert tab.driver.execute_script(OVERFLOW) == 0

    async def test_reads_without_scripts(self, site: Site, tab: Tab) -> None:
        tab.forbid_scripts()
        tab.open()
        shown = tab.find("body").text
        assert "Without JavaScript" in shown
        assert f"{site.url}/api/export/stream?format=csv" in shown
        assert "Sign in" not in shown


async def test_older_copies_come_when_asked_for(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=1)
    async with site.world.database() as connection:
        await insert_failed(connection, user_id, 12, "It broke")
    tab.sign_in(user_id)
    tab.until_count("#history > li", 10)
    assert tab.text(f"{FIRST} .note") == "It broke"
    tab.find("#more").click()
    tab.until_count("#history > li", 12)
    assert not tab.is_shown("#more")


async def test_older_downloads_come_when_asked_for(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=1)
    tab.sign_in(user_id)
    tab.ask()
    tab.until_text(f"{FIRST} .badge", "Ready")
    tab.find(f"{FIRST} .downloads summary").click()
    tab.until_text(f"{FIRST} .downloads", "No downloads yet.")
    assert not tab.is_shown(f"{FIRST} .older")
    async with site.world.database() as connection:
        await connection.execute(
            """INSERT INTO carryout.export_audit (actor_type, action, user_id, job_id, user_agent)
            SELECT 'link', 'export:downloaded', user_id, id, 'Browser ' || n
            FROM carryout.export_jobs, generate_series(1, 45) AS n WHERE user_id = $1""",
            user_id,
        )
    tab.find(f"{FIRST} .downloads summary").click()
    tab.find(f"{FIRST} .downloads summary").click()
    tab.until_count(f"{FIRST} .downloads tbody tr", 20)
    for shown in (40, 45):
        tab.driver.execute_script("for (const _ of [1, 2]) document.querySelector('.older').click()")
        tab.until_count(f"{FIRST} .downloads tbody tr", shown)
    assert tab.text(f"{FIRST} .downloads tbody tr:last-child small") == "Browser 1"
    tab.until(lambda: not tab.is_shown(f"{FIRST} .older"))


async def test_the_stream_of_events_outlasts_the_server_s_end(site: Site, tab: Tab) -> None:
    """The page reconnects by itself after a rolling update, and after a proxy's errors meanwhile."""
    user_id = await site.world.create_user(records=1_000)
    tab.sign_in(user_id)
    tab.ask()
    tab.until_text(f"{FIRST} .badge", "Waiting")
    port = httpx.URL(site.url).port
    assert port is not None
    api = site.world.processes[0]
    api.signal(signal.SIGTERM)
    await api.ended()
    await answer_once(port, "502 Bad Gateway")
    site.world.processes[0] = await site.world.start_api(port)
    async with site.world.database() as connection:
        await connection.execute(
            """UPDATE carryout.export_jobs
            SET status = 'failed', completed_at = now(), error_message = 'It broke' WHERE user_id = $1""",
            user_id,
        )
    tab.until_text(f"{FIRST} .note", "It broke")
    assert not tab.is_shown("#alert")
    assert all("ERR_" in complaint or "502" in complaint for complaint in tab.complaints())


class TestParts:
    """A part of the data, chosen at once or after a refusal; the site's cap is 3,000 records."""

    async def test_ranges_after_a_refusal(self, site: Site, tab: Tab) -> None:
        tab.sign_in(await create_large(site))
        tab.ask("json")
        tab.until_text("#ranges-text", "Your data has more than 3,000 records, too many for one file.")
        (refusal,) = tab.complaints()
        assert "422" in refusal
        assert tab.text("#ranges-list").splitlines() == [
            *("Until the end of 2023", "2,921 records"),
            *("2024", "2,929 records"),
            *("From 2025 on", "1,353 records"),
        ]
        assert tab.driver.switch_to.active_element == tab.find("#ranges-title")
        await site.world.start_worker()
        tab.find("#ranges-list li:nth-child(2) button").click()
        tab.until_text(f"{FIRST} .part", "2024")
        tab.until_text("#ranges-list", "2,929 records, made")
        tab.find("#ranges-all").click()
        tab.until_count("#history .badge.completed", 3)
        tab.until_text("#ranges-list", "1,353 records, made")
        assert tab.text(f"{FIRST} .part") == "From 2025 on"

    async def test_all_ranges_beyond_the_rate(self, site: Site, tab: Tab) -> None:
        """The site allows three copies an hour, which were made half an hour ago; the page's waits are shortened."""
        user_id = await create_large(site)
        await site.world.start_worker()
        tab.sign_in(user_id)
        tab.driver.execute_script(
            "const wait = window.setTimeout; window.setTimeout = (act, ms) => wait(act, Math.min(ms, 500))"
        )
        tab.ask("json")
        tab.until_count("#ranges-list li", 3)
        async with site.world.database() as connection:
            await connection.execute(
                """INSERT INTO carryout.export_jobs
                (user_id, format, queued, estimated_records, status, attempt, created_at, started_at, completed_at,
                 error_message)
                SELECT $1, 'csv', true, 1, 'failed', 1, made.at, made.at, made.at, 'cancelled by user'
                FROM generate_series(1, 3), (SELECT now() - interval '30 minutes' AS at) AS made""",
                user_id,
            )
        tab.find("#ranges-all").click()
        tab.until_text("#ranges-list", "if this page stays open")
        async with site.world.database() as connection:
            await connection.execute(
                "UPDATE carryout.export_jobs SET created_at = created_at - interval '1 hour' WHERE user_id = $1",
                user_id,
            )
        tab.until_count("#history .badge.completed", 3)
        tab.until_text("#ranges-list", "1,353 records, made")
        assert tab.text("#ranges-list").count(", made") == 3
        assert {"422", "429"} == {status for line in tab.complaints() for status in ("422", "429") if status in line}

    async def test_sections_and_dates(self, site: Site, tab: Tab) -> None:
        tab.sign_in(await create_large(site))
        tab.until(lambda: tab.is_shown("#part"))
        tab.find("#part summary").click()
        tab.find("#sections input[value=content]").click()
        tab.driver.execute_script("document.getElementById('start').value = '2024-02-03'")
        tab.driver.execute_script("document.getElementById('last').value = '2024-02-03'")
        tab.ask("csv")
        tab.until_text(f"{FIRST} .part", "February 3, 2024: activity")
        tab.until_text(f"{FIRST} .badge", "Ready")
        assert "9" in tab.text(f"{FIRST} .facts")

    async def test_newer_than_a_copy(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=5)
        tab.sign_in(user_id)
        tab.ask("json")
        tab.until_text(f"{FIRST} .badge", "Ready")
        async with site.world.database() as connection:
            await connection.execute("INSERT INTO public.activity (user_id, kind) VALUES ($1, 'new')", user_id)
        tab.find(f"{FIRST} .newer").click()
        tab.until_count("#history > li", 2)
        tab.until_text(f"{FIRST} .badge", "Ready")
        assert tab.text(f"{FIRST} .part").startswith("New since ")
        assert tab.find(f"{FIRST} .newer").is_displayed()

    async def test_newer_than_a_copy_that_had_an_end(self, site: Site, tab: Tab) -> None:
        tab.sign_in(await create_large(site))
        tab.until(lambda: tab.is_shown("#part"))
        tab.find("#part summary").click()
        tab.driver.execute_script("document.getElementById('last').value = '2025-06-17'")
        tab.driver.execute_script("document.getElementById('start').value = '2025-06-17'")
        tab.ask("json")
        tab.until_text(f"{FIRST} .badge", "Ready")
        tab.find(f"{FIRST} .newer").click()
        tab.until_count("#history > li", 2)
        tab.until_text(f"{FIRST} .part", "New since ")
        tab.until_text(f"{FIRST} .facts", "Records\n9\n")  # the user and the eight rows of June 18
        assert tab.find(f"{FIRST} .newer").is_displayed()

    async def test_newer_than_a_copy_but_too_large(self, site: Site, tab: Tab) -> None:
        user_id = await site.world.create_user(records=1)
        tab.sign_in(user_id)
        tab.ask("json")
        tab.until_text(f"{FIRST} .badge", "Ready")
        async with site.world.database() as connection:
            await connection.execute(
                "INSERT INTO public.activity (user_id, kind, occurred_at) SELECT $1, 'new', "
                "now() + day * interval '1 day' FROM generate_series(1, 2) AS day, generate_series(1, 1600)",
                user_id,
            )
        tab.find(f"{FIRST} .newer").click()
        tab.until_count("#ranges-list li", 2)
        tab.complaints()  # of the refusal
        await site.world.start_worker()
        tab.find("#ranges-list li:nth-child(2) button").click()
        tab.until_text("#ranges-list", "1,601 records, made")
