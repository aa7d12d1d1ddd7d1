"""The page in a frame of an application on another site, which runs the lines of docs/embedding.md."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from uuid import UUID

import jwt
import pytest
from selenium.webdriver.common.by import By

from devstack.ports import keep_port
from tests.browser.conftest import Site, Tab, open_tab, start_api
from tests.browser.test_accessibility import emulate
from tests.browser.test_page import faults

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "embedding.md"
FIRST = "#history > li:first-child"
# The application: `tokens` are those that it hands over, the last one again and again; without any it stays silent.
APPLICATION = """<!doctype html><html lang="en"><title>An application</title><link rel="icon" href="data:,">
<h1>An application</h1>
<style>iframe {{ width: 100%; height: 44rem }}</style><div id="data"></div>
<script>
  const tokens = {tokens};
  const silence = new Promise(() => {{}});
  const freshToken = () => tokens.length > 1 ? tokens.shift() : tokens[0] ?? silence;
</script>
<script>{lines}</script></html>
"""
HAND_OVER = "frame.contentWindow.postMessage({ type: 'carryout:token', token: arguments[0] }, page)"
EXPIRED = {"exp": 1_000}


def lines_for(page: str) -> str:
    """The documentation's lines, for a page at another address."""
    (block,) = re.findall(r"```js\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)
    return str(block).replace("https://exports.example.com", page)


class Frames(NamedTuple):
    """`allowed` and `stranger` are origins of one application, `site` is the page."""

    site: Site
    allowed: str
    stranger: str


class Application:
    """A server in a thread of its own, because selenium holds ours: one page, under both names of this machine."""

    def __init__(self) -> None:
        self.html = ""
        application = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = application.html.encode() if self.path == "/" else b""
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: it would be the test's output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @contextmanager
    def serving(self) -> Iterator[int]:
        with self.server:
            thread = Thread(target=self.server.serve_forever)
            thread.start()
            yield self.server.server_port
            self.server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    application = Application()
    with application.serving():
        yield application


@pytest.fixture(scope="module")
async def frames(site: Site, application: Application, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    port, other = keep_port(tmp_path_factory.mktemp("embedded") / "port"), application.server.server_port
    url, allowed = f"http://127.0.0.1:{port}", f"http://localhost:{other}"
    await start_api(site.world, port, CARRYOUT_PUBLIC_URL=url, CARRYOUT_FRAME_ANCESTORS=allowed)
    return Frames(Site(site.world, url), allowed, f"http://127.0.0.1:{other}")


@pytest.fixture
def tab(frames: Frames, tmp_path: Path) -> Iterator[Tab]:
    with open_tab(frames.site, tmp_path) as opened:
        yield opened


class Embedding:
    """A person's actions in the application, and in the frame."""

    def __init__(self, tab: Tab, frames: Frames, application: Application) -> None:
        self.tab = tab
        self._frames = frames
        self._application = application

    def open(self, *tokens: str, origin: str = "", lines: str = "") -> None:
        """The application, and then its frame."""
        lines = lines or lines_for(self._frames.site.url)
        self._application.html = APPLICATION.format(tokens=list(tokens), lines=lines)
        self.tab.driver.get(f"{origin or self._frames.allowed}/")
        self.enter()

    def enter(self) -> None:
        self.tab.until_count("#data iframe", 1)
        self.tab.driver.switch_to.frame(self.tab.find("#data iframe"))

    def in_application(self, script: str, *arguments: str) -> None:
        self.tab.driver.switch_to.default_content()
        self.tab.driver.execute_script(script, *arguments)
        self.enter()


@pytest.fixture
def embedding(tab: Tab, frames: Frames, application: Application) -> Embedding:
    return Embedding(tab, frames, application)


def expired(user_id: UUID) -> str:
    return jwt.encode({"sub": str(user_id)} | EXPIRED, "k" * 32)


def faults_in_both_themes(tab: Tab) -> list[str]:
    found: list[str] = []
    for theme in ("light", "dark"):
        emulate(tab, prefers_color_scheme=theme)
        assert tab.driver.execute_script("return matchMedia(arguments[0]).matches", f"(prefers-color-scheme: {theme})")
        found += [f"{theme}: {fault}" for fault in faults(tab)]
    return found


async def test_hands_over_a_session(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id = await frames.site.world.create_user(records=3)
    token = frames.site.token(user_id)
    embedding.open(token)
    tab.until_text("#account", str(user_id))
    for absent in ("#sign-out", "form#sign-in", ".curl"):
        assert not tab.driver.find_elements(By.CSS_SELECTOR, absent)
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Ready")
    assert faults_in_both_themes(tab) == []
    tab.find(f"{FIRST} .download").click()
    tab.until(lambda: any(tab.downloads.glob("*.csv")))
    assert tab.is_shown(FIRST)
    assert tab.driver.execute_script("return sessionStorage.length + localStorage.length + document.cookie.length") == 0
    addresses = [entry["message"] for entry in tab.driver.get_log("performance")]  # type: ignore[no-untyped-call]
    assert not [text for text in addresses if re.search(rf'"(?:url|documentURL)":"[^"]*{re.escape(token)}', text)]
    assert tab.complaints() == []


async def test_a_token_in_its_address_is_not_taken(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    token = frames.site.token(await frames.site.world.create_user(records=1))
    lines = lines_for(frames.site.url).replace("/embedded`", f"/embedded#token={token}`")
    embedding.open(lines=lines)
    tab.until_text("#alert", "The application didn't sign you in.")
    assert not tab.is_shown("#ask")


@pytest.mark.parametrize("path", ["/embedded", "/", "/docs", "/nowhere"])
async def test_pages_that_no_stranger_may_frame(frames: Frames, embedding: Embedding, tab: Tab, path: str) -> None:
    origin = frames.stranger if path == "/embedded" else frames.allowed
    lines = lines_for(frames.site.url).replace("/embedded`", f"{path}`")
    embedding.open("x.y.z", origin=origin, lines=lines)
    tab.until(lambda: any("frame-ancestors" in complaint for complaint in tab.complaints()))
    assert not tab.driver.find_elements(By.CSS_SELECTOR, "main, #reference")


ADD_FRAME = """
const beside = document.createElement("iframe");
beside.src = arguments[0];
document.body.append(beside);
"""
POST_TO_NEIGHBOUR = """
parent.frames[0].postMessage({ type: "carryout:token", token: arguments[0] }, "*");
parent.frames[0].postMessage({ type: "carryout:sign-out" }, "*");
"""


@pytest.mark.parametrize("beside", ["stranger", "allowed"])
async def test_messages_of_other_windows_are_ignored(
    frames: Frames, embedding: Embedding, tab: Tab, application: Application, beside: str
) -> None:
    user_id, other_id = [await frames.site.world.create_user(records=1) for _ in range(2)]
    embedding.open(frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    application.html = "<!doctype html><title>Beside</title>"
    embedding.in_application(ADD_FRAME, f"{getattr(frames, beside)}/")
    tab.driver.switch_to.default_content()
    tab.until_count("iframe", 2)
    tab.driver.switch_to.frame(1)
    tab.until(lambda: tab.driver.title is not None and tab.driver.execute_script("return document.title") == "Beside")
    tab.driver.execute_script(POST_TO_NEIGHBOUR, frames.site.token(other_id))
    tab.driver.switch_to.default_content()
    embedding.enter()
    assert_stays(tab, user_id)


async def test_the_origin_of_a_message_counts(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    """No browser gives the parent's window another origin than the one that may frame the page, so the test does."""
    user_id, other_id = [await frames.site.world.create_user(records=1) for _ in range(2)]
    embedding.open(frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    forge = """
    const data = { type: "carryout:token", token: arguments[1] };
    window.dispatchEvent(new MessageEvent("message", { source: window.parent, origin: arguments[0], data }));
    """
    for origin in (frames.stranger, f"{frames.allowed}.example", "null", "", "http://localhost"):
        tab.driver.execute_script(forge, origin, frames.site.token(other_id))
    assert_stays(tab, user_id)
    tab.driver.execute_script(forge, frames.allowed, frames.site.token(other_id))
    tab.until_text("#account", str(other_id))


def assert_stays(tab: Tab, user_id: UUID) -> None:
    """After all messages that were posted before have come."""
    tab.driver.execute_async_script(
        "const done = arguments[0]; addEventListener('message', ({ data }) => { if (data === 'last') done(); });"
        "postMessage('last', location.origin)"
    )
    assert tab.text("#account") == str(user_id)
    assert tab.is_shown("#ask")


async def test_a_renewal(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id = await frames.site.world.create_user(records=1)
    embedding.open(expired(user_id), frames.site.token(user_id))
    tab.until_text("#empty", "You have no copies yet")
    assert tab.text("#alert") == ""
    embedding.in_application(HAND_OVER, expired(user_id))
    tab.ask("json")
    tab.until_text(f"{FIRST} .badge", "Ready")
    assert tab.text("#account") == str(user_id)


async def test_a_token_that_stays_refused_ends_the_session(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id = await frames.site.world.create_user(records=1)
    embedding.open(expired(user_id))
    tab.until_text("#alert", "Your session has ended.")
    assert not tab.is_shown("#ask")
    assert faults_in_both_themes(tab) == []
    embedding.in_application(HAND_OVER, frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    assert tab.text("#alert") == ""


async def test_a_silent_application(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id = await frames.site.world.create_user(records=1)
    embedding.open()
    tab.until_text("#sign-in", "The application signs you in here.")
    assert faults_in_both_themes(tab) == []
    tab.until_text("#alert", "The application didn't sign you in.")
    assert faults_in_both_themes(tab) == []
    embedding.in_application(HAND_OVER, frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    tab.driver.execute_script("document.querySelector('input[value=json]').click()")
    embedding.in_application(HAND_OVER, expired(user_id))
    tab.find("#ask button").click()
    tab.until_text("#alert", "Your session has ended.")
    embedding.in_application(HAND_OVER, frames.site.token(user_id))
    tab.until(lambda: tab.is_shown("#ask"))
    assert tab.find("input[value=json]").is_selected()


async def test_another_account(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id, other_id = [await frames.site.world.create_user(records=1) for _ in range(2)]
    embedding.open(frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Ready")
    embedding.in_application(HAND_OVER, frames.site.token(other_id))
    tab.until_text("#account", str(other_id))
    tab.until_text("#empty", "You have no copies yet")
    assert not tab.is_shown(FIRST)


async def test_a_sign_out(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id = await frames.site.world.create_user(records=1)
    embedding.open(frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    tab.ask("csv")
    tab.until_text(f"{FIRST} .badge", "Ready")
    tab.find(f"{FIRST} .remove").click()
    tab.until(lambda: tab.is_shown("#confirm"))
    embedding.in_application("signOut()")
    tab.until_text("#signed-out", "You are signed out.")
    assert faults_in_both_themes(tab) == []
    assert not tab.is_shown("#confirm")
    assert not tab.is_shown("#ask")
    assert tab.driver.find_elements(By.CSS_SELECTOR, FIRST) == []
    assert tab.text("#account") == ""


async def test_alone_it_leads_to_the_page(frames: Frames, tab: Tab) -> None:
    tab.open("/embedded")
    tab.until(lambda: tab.is_shown("form#sign-in"))
    assert tab.driver.current_url == f"{frames.site.url}/"


async def test_a_page_restored_by_the_browser_asks_again(frames: Frames, embedding: Embedding, tab: Tab) -> None:
    user_id, other_id = [await frames.site.world.create_user(records=1) for _ in range(2)]
    embedding.open(frames.site.token(user_id))
    tab.until_text("#account", str(user_id))
    embedding.in_application("tokens.splice(0, 1, arguments[0])", frames.site.token(other_id))
    tab.driver.execute_script("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    tab.until_text("#account", str(other_id))
