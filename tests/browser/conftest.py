"""A whole Carryout, and a real browser before it: Debian's chromium and chromium-driver."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from selenium import webdriver
from selenium.common.exceptions import JavascriptException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from devstack.ports import ask, keep_port
from devstack.stack import Stack
from service.access.tokens import create_token
from tests.faults.world import World, open_world

PATIENCE_SECONDS = 60.0
TOKEN_TTL_SECONDS = 600
# Refused by the page's policy, a missing asset, an exception: none of them may happen unless a test expects it.
SEVERE = "SEVERE"


class Site:
    """The service as a browser knows it; its worker is started by tests, so that they see exports wait."""

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.url = url

    def token(self, user_id: UUID) -> str:
        return create_token(self.world.resources.settings, str(user_id), TOKEN_TTL_SECONDS)


class Tab:
    """One tab: the actions of a user, and the text that they see."""

    def __init__(self, driver: webdriver.Chrome, site: Site, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads
        self._site = site

    def open(self, path: str = "/") -> None:
        self.driver.get(self._site.url + path)

    def sign_in(self, user_id: UUID) -> str:
        """By the link that `carryout dev` prints."""
        token = self._site.token(user_id)
        self.open(f"/#token={token}")
        self.until(lambda: self.is_shown("#ask"))
        return token

    def ask(self, format_: str = "csv") -> None:
        self.find(f"input[value={format_}]").click()
        self.find("#ask button").click()

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def is_shown(self, selector: str) -> bool:
        return any(found.is_displayed() for found in self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """The shown text of the first match, empty without a match."""
        found: str = self.driver.execute_script(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        )
        return found

    def until(self, true: Callable[[], bool]) -> None:
        """Also across a navigation: what was found on the page before it is stale, and its scripts end."""
        passing = (StaleElementReferenceException, JavascriptException)
        wait = WebDriverWait(self.driver, PATIENCE_SECONDS, poll_frequency=0.05, ignored_exceptions=passing)
        wait.until(lambda _: true())

    def until_text(self, selector: str, wanted: str) -> None:
        try:
            self.until(lambda: wanted in self.text(selector))
        except TimeoutException as error:
            raise AssertionError(f"{selector} shows {self.text(selector)!r}, not {wanted!r}") from error

    def until_count(self, selector: str, wanted: int) -> None:
        self.until(lambda: len(self.driver.find_elements(By.CSS_SELECTOR, selector)) == wanted)

    def complaints(self) -> list[str]:
        """The errors on the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == SEVERE]  # type: ignore[no-untyped-call]

    def emulate_dark(self) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def emulate_phone(self, width: int) -> None:
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def forbid_scripts(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})


@pytest.fixture(scope="session")
async def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    port = keep_port(folder / "port")
    url = f"http://127.0.0.1:{port}"
    limits = {"CARRYOUT_EXPORTS_PER_HOUR": "3", "CARRYOUT_MAX_EXPORT_RECORDS": "3000"}
    async with open_world(stack, folder, CARRYOUT_PUBLIC_URL=url, **limits) as world:
        world.healing_seconds = PATIENCE_SECONDS
        await start_api(world, port)
        yield Site(world, url)


async def start_api(world: World, port: int, **environ: str) -> None:
    """An API that is ready; `environ` are its own settings."""
    await world.start_api(port, **environ)

    async def ready() -> bool:
        return b" 200 " in await ask(port, b"GET /readyz HTTP/1.0\r\n\r\n")

    await world.until(ready, "the API to be ready")


@pytest.fixture
def tab(site: Site, tmp_path: Path) -> Iterator[Tab]:
    with open_tab(site, tmp_path) as opened:
        yield opened
        assert opened.complaints() == []


@contextmanager
def open_tab(site: Site, downloads: Path) -> Iterator[Tab]:
    with open_browser(downloads) as driver:
        yield Tab(driver, site, downloads)


@contextmanager
def open_browser(downloads: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "lang=en-US", "window-size=1000,1000"):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver") or "chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()
