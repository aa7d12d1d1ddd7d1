"""The page as a person uses it."""

import asyncio
import hashlib
import signal
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from selenium.webdriver import ActionChains, Keys

from service.database import Connection
from tests import wires
from tests.browser.conftest import Site, Tab

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


async def answer_once(port: int, status: str) -> None:
    """Stand in for a proxy that has nobody behind it, until one request has come."""
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


def downloaded(folder: Path) -> Path | None:
    return next((path for path in folder.iterdir() if path.suffix in {".csv", ".json"}), None)


async def test_from_asking_to_deleting(site: Site, tab: Tab) -> None:
    user_id = await site.world.create_user(records=2_500)
    token = tab.sign_in(user_id)
    assert tab.driver.current_url == f"{site.url}/"  # the token isn't in the address any more
    assert tab.text("#empty") == "None yet. What you ask for appears here."
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

    press(Keys.TAB, site.token(user_id), Keys.TAB, Keys.ENTER)
    tab.until(lambda: focused() == "Your copies")
    back()
    back()
    press(Keys.ARROW_DOWN, Keys.TAB, Keys.ENTER)
    tab.until_text(f"{FIRST} .badge", "Ready")
    assert tab.text(f"{FIRST} h3").startswith("JSON copy, ")
    tab.until(lambda: focused().startswith("JSON copy, "))
    press(Keys.TAB, Keys.TAB)
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


class TestRefusals:
    async def test_no_token(self, tab: Tab) -> None:
        tab.open("/#token=x.y.z")
        tab.until_text("#alert", "This access token isn't valid, or not any more. Please sign in again.")
        assert tab.is_shown("#sign-in")
        assert tab.driver.execute_script("return sessionStorage.length") == 0
        assert "401" in "".join(tab.complaints())

    async def test_a_text_that_no_header_can_carry(self, tab: Tab) -> None:
        tab.open("/#token=ey…Q")
        tab.until_text("#alert", "This access token isn't valid, or not any more. Please sign in again.")
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
        tab.until_text("#alert", "Export too large, please filter data. There are no date-range filters here")
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
        assert tab.driver.execute_script(PALE_TEXTS) == []
        tab.sign_in(await site.world.create_user(records=1))
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")
        tab.find(f"{FIRST} .downloads summary").click()
        tab.until_text(f"{FIRST} .downloads", "Nobody yet.")
        assert tab.driver.execute_script(PALE_TEXTS) == []
        tab.find(f"{FIRST} .remove").click()
        assert tab.driver.execute_script(PALE_TEXTS) == []

    @pytest.mark.parametrize("width", [320, 390])
    async def test_fits_a_phone(self, site: Site, tab: Tab, width: int) -> None:
        tab.emulate_phone(width)
        tab.sign_in(await site.world.create_user(records=1))
        tab.ask()
        tab.until_text(f"{FIRST} .badge", "Ready")
        tab.find(f"{FIRST} .downloads summary").click()
        tab.until_text(f"{FIRST} .downloads", "Nobody yet.")
        tab.find(".curl summary").click()
        assert tab.driver.execute_script(OVERFLOW) == 0
        assert tab.driver.execute_script(SMALL_TARGETS) == []

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
    tab.until_text(f"{FIRST} .downloads", "Nobody yet.")
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
    """What a rolling update does, and what a proxy says meanwhile: the page reconnects by itself."""
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
