"""The page in an operator's name, colours and logo, as all can use it."""

from pathlib import Path

from devstack.ports import keep_port
from tests.branding.test_processes import brand_environ
from tests.browser.conftest import Site, open_tab, start_api
from tests.browser.test_accessibility import barriers
from tests.browser.test_page import FIRST


async def test_in_every_state(site: Site, tmp_path: Path) -> None:
    port = keep_port(tmp_path / "port")
    url = f"http://127.0.0.1:{port}"
    await start_api(site.world, port, **brand_environ(tmp_path), CARRYOUT_PUBLIC_URL=url)
    with open_tab(Site(site.world, url), tmp_path) as tab:
        tab.open()
        tab.until(lambda: tab.is_shown("#sign-in"))
        assert barriers(tab) == []
        tab.sign_in(await site.world.create_user(records=3))
        tab.ask("csv")
        tab.until_text(f"{FIRST} .badge", "Ready")
        assert barriers(tab) == []
        assert tab.driver.execute_script("return document.querySelector('.brand img').naturalWidth") == 2
        tab.open("/nowhere")
        assert barriers(tab) == []
