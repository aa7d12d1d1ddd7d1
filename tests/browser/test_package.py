"""A package that was unpacked into a folder, in a real browser that has no network."""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from selenium import webdriver

from devstack.pictures import draw_picture
from service.backends.attachments import open_attachment_stores
from service.backends.database import Pool
from service.documents.package.contents import package_chunks
from service.settings import from_env
from tests.browser.conftest import open_browser
from tests.browser.test_accessibility import MOTIONS
from tests.browser.test_page import OVERFLOW, violations
from tests.documents.package.test_contents import PROFILE
from tests.languages.pseudo import MIRRORED, speaking
from tests.sql.sources import load
from tests.support.documents import open_package, read_chunks
from tests.support.factories import Connection, create_user
from tests.support.scripted_s3 import open_scripted_store
from tests.test_settings import REQUIRED

PHOTOS = """-- title: Photos
-- about: The pictures that you have uploaded
-- purpose: To show them to you
-- kept: Until you delete them
-- deny checksum: says nothing about you
-- file: key from uploads as name
-- link: album to albums.n
SELECT n, key, name, album, taken_at FROM public.photos WHERE user_id = $1 ORDER BY n"""
ALBUMS = "SELECT n, 'Summer' AS title FROM public.albums WHERE user_id = $1 ORDER BY n"
PAGES = ("index.html", "profile.html", "albums.html", "photos.html", "photos-files.html")
HOSTILE = "<img src=x onerror=alert(1)>.png"
# A folder to keep screenshots in, to be looked at.
SHOTS = os.environ.get("SHOTS")


@pytest.fixture
def language() -> str:
    return "en"


@pytest.fixture
async def folder(
    pool: Pool, database: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, language: str
) -> Path:
    await database.execute(
        "CREATE TABLE public.photos (n int PRIMARY KEY, user_id uuid NOT NULL, key text, name text,"
        " album int DEFAULT 2, taken_at timestamptz DEFAULT '2026-03-01Z');"
        "CREATE TABLE public.albums (n int PRIMARY KEY, user_id uuid NOT NULL)"
    )
    user_id = await create_user(database)
    names = [*(f"holiday {n}.png" for n in range(1, 7)), HOSTILE, "lost.png", "letter.txt"]
    await database.executemany(
        "INSERT INTO public.photos VALUES ($1, $2, $3, $4)",
        [(n, user_id, f"photos/{n}", name) for n, name in enumerate(names, start=1)],
    )
    await database.execute("INSERT INTO public.photos VALUES (100, $1, NULL, NULL)", user_id)
    await database.execute("INSERT INTO public.albums VALUES (1, $1), (2, $1)", user_id)
    sources = tmp_path / "datasets"
    sources.mkdir()
    datasets = await load(database, sources, {"profile.sql": PROFILE, "albums.sql": ALBUMS, "photos.sql": PHOTOS})
    async with open_scripted_store() as s3:
        s3.objects = {f"photos/{n}": draw_picture(n * 30) for n in range(1, 8)} | {"photos/9": b"Dear Ada, " * 20}
        given = {
            "CARRYOUT_FILE_STORES": "uploads=s3://uploads/photos",
            "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL": s3.url,
            "CARRYOUT_FILE_STORE_UPLOADS_ACCESS_KEY_ID": "key",
            "CARRYOUT_FILE_STORE_UPLOADS_SECRET_ACCESS_KEY": "secret",
        }
        async with (
            open_attachment_stores(from_env(REQUIRED | given)) as stores,
            open_package(pool, datasets, user_id) as document,
        ):
            is_mirrored = language == MIRRORED.tag
            with speaking(tmp_path / "locales", monkeypatch, MIRRORED) if is_mirrored else nullcontext():
                content = await read_chunks(package_chunks(document, stores, language=language))
    path = tmp_path / "package.zip"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "package")
    return tmp_path / "package"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver


def requested(driver: webdriver.Chrome) -> set[str]:
    """The schemes of all requests so far."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]  # type: ignore[no-untyped-call]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return {one["request"]["url"].partition(":")[0] for one in sent}


def complaints(driver: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]  # type: ignore[no-untyped-call]


def shoot(driver: webdriver.Chrome, name: str) -> None:
    if SHOTS:
        driver.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


@pytest.mark.parametrize("language", ["en", "de", MIRRORED.tag])
def test_every_page_opens_without_a_network(folder: Path, browser: webdriver.Chrome) -> None:
    """No request leaves and no script fails; axe-core finds nothing; nothing moves or is wider than 320 px."""
    for name, value in (
        ("prefers-color-scheme", "light"),
        ("prefers-color-scheme", "dark"),
        ("forced-colors", "active"),
    ):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": name, "value": value}]})
        for page in PAGES:
            browser.get((folder / page).as_uri())
            shoot(browser, f"{page.removesuffix('.html')}-{value}")
            assert violations(browser) == [], page
            assert browser.execute_script(MOTIONS) == [], page
    phone = {"width": 320, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    for page in PAGES:
        browser.get((folder / page).as_uri())
        shoot(browser, f"{page.removesuffix('.html')}-phone")
        assert browser.execute_script(OVERFLOW) <= 0, page
    assert requested(browser) == {"file"}
    assert complaints(browser) == []


def test_pictures_are_shown(folder: Path, browser: webdriver.Chrome) -> None:
    browser.get((folder / "photos-files.html").as_uri())
    widths = browser.execute_script(
        "for (const picture of document.images) picture.loading = 'eager';"
        "return Promise.all([...document.images].map((picture) => picture.decode().then(() => picture.naturalWidth)))"
    )
    assert widths == [320] * 7
    titles = browser.execute_script("return [...document.images].map((picture) => picture.alt)")
    assert titles[-1] == "_img src_x onerror_alert(1)_.png"


def test_a_record_leads_to_its_file(folder: Path, browser: webdriver.Chrome) -> None:
    browser.get((folder / "photos.html").as_uri())
    browser.execute_script("document.querySelector('#row-9 a[href*=files]').click()")
    assert browser.current_url.endswith("photos-files.html#row-9")
    browser.execute_script("document.querySelector(':target a').click()")
    assert browser.current_url.endswith("files/photos/9-letter.txt")
    assert "Dear Ada" in browser.page_source


def test_a_record_leads_to_the_record_that_it_names(folder: Path, browser: webdriver.Chrome) -> None:
    browser.get((folder / "photos.html").as_uri())
    browser.execute_script("document.querySelector('#row-9 a[href*=albums]').click()")
    assert browser.current_url.endswith("albums.html#row-2")
    assert browser.execute_script("return document.querySelector(':target').innerText").split() == ["2", "Summer"]
